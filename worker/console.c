/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>

#define OUTPUT_ROOM  65536u
#define INPUT_CHUNK  1024u
#define ESCAPE_KEY   0x1d /* Ctrl-] */

struct console {
	unsigned port;
	const struct console_ops *ops;
	void *context;
	char *socket_path; /* ours to unlink */
	int in_fd, out_fd, listen_fd;
	bool in_is_file; /* not pollable: read whenever the port has room */
	bool in_ended;
	bool raw;
	struct termios saved;
	bool escape_seen;

	uv_async_t wake;      /* output came, or input room came */
	uv_poll_t *in_poll, *out_poll, *listen_poll; /* NULL: the descriptor is not watched */

	uint8_t pending[INPUT_CHUNK]; /* read, not yet taken by the port */
	size_t pending_size;

	pthread_mutex_t lock; /* guards what follows */
	uint8_t output[OUTPUT_ROOM];
	size_t out_head, out_size;
	bool refused;
};

static void pump(struct console *c);

static void free_handle(uv_handle_t *handle)
{
	free(handle);
}

/* libuv wants the handle to live until its close callback: so each has memory of its own. */
static uv_poll_t *watch_open(uv_loop_t *loop, int fd, struct console *c)
{
	uv_poll_t *poll = malloc(sizeof(*poll));

	if (poll && uv_poll_init(loop, poll, fd)) {
		free(poll);
		return NULL;
	}
	if (poll)
		poll->data = c;
	return poll;
}

/* Before the descriptor is closed. */
static void watch_close(uv_poll_t **poll)
{
	if (*poll)
		uv_close((uv_handle_t *)*poll, free_handle);
	*poll = NULL;
}

size_t console_output(struct console *c, const uint8_t *bytes, size_t size)
{
	size_t taken;

	pthread_mutex_lock(&c->lock);
	taken = min_u64(size, OUTPUT_ROOM - c->out_size);
	for (size_t i = 0; i < taken; i++)
		c->output[(c->out_head + c->out_size + i) % OUTPUT_ROOM] = bytes[i];
	c->out_size += taken;
	if (taken < size)
		c->refused = true;
	pthread_mutex_unlock(&c->lock);
	uv_async_send(&c->wake);
	return taken;
}

void console_input_room(struct console *c)
{
	uv_async_send(&c->wake);
}

bool console_is_terminal(const struct console *c)
{
	return c->raw;
}

/* --- output ------------------------------------------------------------------------------------ */

/* A port with nobody connected drops its output, as a real line does. */
static void drop_output(struct console *c)
{
	pthread_mutex_lock(&c->lock);
	c->out_head = (c->out_head + c->out_size) % OUTPUT_ROOM;
	c->out_size = 0;
	pthread_mutex_unlock(&c->lock);
}

/* Writes until the buffer is empty (true) or the descriptor takes no more (false). */
static bool write_output(struct console *c)
{
	for (;;) {
		uint8_t *from = c->output + c->out_head;
		size_t run;
		ssize_t n;

		pthread_mutex_lock(&c->lock);
		run = min_u64(c->out_size, OUTPUT_ROOM - c->out_head);
		pthread_mutex_unlock(&c->lock);
		if (!run)
			return true;
		n = write(c->out_fd, from, run);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return false;
		if (n < 0) {
			drop_output(c); /* the reader is gone */
			return true;
		}
		pthread_mutex_lock(&c->lock);
		c->out_head = (c->out_head + (size_t)n) % OUTPUT_ROOM;
		c->out_size -= (size_t)n;
		pthread_mutex_unlock(&c->lock);
	}
}

static void out_ready(uv_poll_t *handle, int status, int events)
{
	(void)status;
	(void)events;
	pump(handle->data);
}

static void push_output(struct console *c)
{
	bool refused;

	if (c->out_fd < 0)
		drop_output(c);
	else if (!write_output(c)) {
		if (c->out_poll)
			uv_poll_start(c->out_poll, UV_WRITABLE, out_ready);
		return;
	}
	if (c->out_poll)
		uv_poll_stop(c->out_poll);
	pthread_mutex_lock(&c->lock);
	refused = c->refused;
	c->refused = false;
	pthread_mutex_unlock(&c->lock);
	if (refused)
		c->ops->output_ready(c->context, c->port);
}

/* --- input ------------------------------------------------------------------------------------- */

/* Takes the escape key and the key after it out of what a person typed. */
static size_t filter_keys(struct console *c, uint8_t *bytes, size_t size)
{
	size_t kept = 0;

	for (size_t i = 0; i < size; i++) {
		bool escape = bytes[i] == ESCAPE_KEY;

		if (c->escape_seen) {
			c->escape_seen = false;
			if (escape)
				bytes[kept++] = ESCAPE_KEY;
			else
				c->ops->key(c->context, (char)bytes[i]);
		} else if (escape) {
			c->escape_seen = true;
		} else {
			bytes[kept++] = bytes[i];
		}
	}
	return kept;
}

static void disconnect(struct console *c);

static void in_ready(uv_poll_t *handle, int status, int events)
{
	(void)status;
	(void)events;
	pump(handle->data);
}

/* Gives the port what waits; true when all was taken. */
static bool give_pending(struct console *c)
{
	size_t taken;

	if (!c->pending_size)
		return true;
	taken = c->ops->input(c->context, c->port, c->pending, c->pending_size);
	memmove(c->pending, c->pending + taken, c->pending_size - taken);
	c->pending_size -= taken;
	return c->pending_size == 0;
}

static void end_input(struct console *c)
{
	if (c->in_poll)
		uv_poll_stop(c->in_poll);
	if (c->listen_fd >= 0)
		disconnect(c);
	else
		c->in_ended = true;
}

static void pull_input(struct console *c)
{
	while (c->in_fd >= 0 && !c->in_ended) {
		ssize_t n;

		if (!give_pending(c)) {
			/* The port calls console_input_room() when it has room. */
			if (c->in_poll)
				uv_poll_stop(c->in_poll);
			return;
		}
		n = read(c->in_fd, c->pending, sizeof(c->pending));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			if (c->in_poll)
				uv_poll_start(c->in_poll, UV_READABLE, in_ready);
			return;
		}
		if (n <= 0) {
			end_input(c);
			return;
		}
		c->pending_size = c->raw ? filter_keys(c, c->pending, (size_t)n) : (size_t)n;
	}
}

static void pump(struct console *c)
{
	push_output(c);
	pull_input(c);
}

static void woken(uv_async_t *handle)
{
	pump(handle->data);
}

/* --- a socket with one peer at a time ------------------------------------------------------------ */

static void disconnect(struct console *c)
{
	if (c->in_fd < 0)
		return;
	watch_close(&c->in_poll);
	watch_close(&c->out_poll);
	close(c->in_fd);
	if (c->out_fd != c->in_fd)
		close(c->out_fd);
	c->in_fd = c->out_fd = -1;
	c->pending_size = 0;
	c->ops->connected(c->context, c->port, false);
}

static void peer_came(uv_poll_t *handle, int status, int events)
{
	struct console *c = handle->data;
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)status;
	(void)events;
	if (fd < 0)
		return;
	if (c->in_fd >= 0) {
		close(fd); /* one at a time */
		return;
	}
	c->in_fd = fd;
	/* Two watchers cannot share a descriptor. */
	c->out_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	c->in_poll = watch_open(handle->loop, c->in_fd, c);
	c->out_poll = c->out_fd < 0 ? NULL : watch_open(handle->loop, c->out_fd, c);
	if (!c->in_poll || !c->out_poll) {
		log_write(LOG_LEVEL_WARNING, "serial port %u: no descriptors left for a connection", c->port + 1);
		watch_close(&c->in_poll);
		watch_close(&c->out_poll);
		close(fd);
		if (c->out_fd >= 0)
			close(c->out_fd);
		c->in_fd = c->out_fd = -1;
		return;
	}
	c->ops->connected(c->context, c->port, true);
	pump(c);
}

int unix_listen(const char *path, struct error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = -1;
	int result;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG, "%s: a socket path has at most %zu bytes", path,
		    sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return error_set(err, EADDRINUSE, "%s: another process listens there: choose another path", path);
	if (errno == ECONNREFUSED)
		unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 4))
		return error_set(err, errno, "%s: cannot listen there: %s", path, strerror(errno));
	result = fd;
	fd = -1;
	return result;
}

static int open_unix(struct console *c, uv_loop_t *loop, const char *path, struct error *err)
{
	int fd = unix_listen(path, err);

	if (fd < 0)
		return fd;
	c->listen_fd = fd;
	c->socket_path = strdup(path);
	c->listen_poll = watch_open(loop, fd, c);
	if (!c->listen_poll)
		return error_set(err, ENOMEM, "%s: cannot be watched", path);
	uv_poll_start(c->listen_poll, UV_READABLE, peer_came);
	return 0;
}

static int open_file(struct console *c, const char *path, struct error *err)
{
	c->out_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (c->out_fd < 0)
		return error_set(err, errno, "%s: the serial port's file cannot be written: %s", path, strerror(errno));
	return 0;
}

/* --- this terminal ------------------------------------------------------------------------------- */

static void raw_mode(struct console *c)
{
	struct termios raw;

	if (!isatty(c->in_fd) || tcgetattr(c->in_fd, &c->saved))
		return;
	raw = c->saved;
	cfmakeraw(&raw);
	c->raw = tcsetattr(c->in_fd, TCSADRAIN, &raw) == 0;
}

/* A fresh open file description, so that O_NONBLOCK does not reach others who share our terminal. */
static int own_description(int fd, int flags)
{
	char path[32];
	int own;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	return own >= 0 ? own : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static bool watchable(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(fd));
}

static int open_stdio(struct console *c, uv_loop_t *loop, struct error *err)
{
	c->in_fd = own_description(STDIN_FILENO, O_RDONLY);
	c->out_fd = own_description(STDOUT_FILENO, O_WRONLY);
	if (c->in_fd >= 0 && watchable(c->in_fd)) {
		c->in_poll = watch_open(loop, c->in_fd, c);
		if (!c->in_poll)
			return error_set(err, EIO, "standard input cannot be watched");
	}
	if (c->out_fd >= 0 && watchable(c->out_fd)) {
		c->out_poll = watch_open(loop, c->out_fd, c);
		if (!c->out_poll)
			return error_set(err, EIO, "standard output cannot be watched");
	}
	raw_mode(c);
	return 0;
}

int console_open(struct console **out, uv_loop_t *loop, unsigned port, const struct worker_serial *serial,
    const struct console_ops *ops, void *context, struct error *err)
{
	struct console *c = calloc(1, sizeof(*c));
	int r = 0;

	if (!c)
		return error_set(err, ENOMEM, "no memory for a console");
	c->port = port;
	c->ops = ops;
	c->context = context;
	c->in_fd = c->out_fd = c->listen_fd = -1;
	pthread_mutex_init(&c->lock, NULL);
	uv_async_init(loop, &c->wake, woken);
	c->wake.data = c;
	switch (serial->kind) {
	case WORKER_SERIAL_NONE:
		break;
	case WORKER_SERIAL_STDIO:
		r = open_stdio(c, loop, err);
		break;
	case WORKER_SERIAL_UNIX:
		r = open_unix(c, loop, serial->path, err);
		break;
	case WORKER_SERIAL_FILE:
		r = open_file(c, serial->path, err);
		break;
	}
	if (r) {
		console_close(c);
		return r;
	}
	uv_async_send(&c->wake);
	*out = c;
	return 0;
}

static void wake_closed(uv_handle_t *handle)
{
	struct console *c = handle->data;

	pthread_mutex_destroy(&c->lock);
	free(c->socket_path);
	free(c);
}

static void drain(struct console *c)
{
	for (int tries = 0; c->out_fd >= 0 && !write_output(c) && tries < 10; tries++) {
		struct pollfd p = {c->out_fd, POLLOUT, 0};

		poll(&p, 1, 100);
	}
}

void console_close(struct console *c)
{
	if (!c)
		return;
	drain(c);
	if (c->raw)
		tcsetattr(c->in_fd, TCSADRAIN, &c->saved);
	watch_close(&c->in_poll);
	watch_close(&c->out_poll);
	watch_close(&c->listen_poll);
	if (c->in_fd >= 0)
		close(c->in_fd);
	if (c->out_fd >= 0 && c->out_fd != c->in_fd)
		close(c->out_fd);
	if (c->listen_fd >= 0)
		close(c->listen_fd);
	if (c->socket_path)
		unlink(c->socket_path);
	uv_close((uv_handle_t *)&c->wake, wake_closed);
}
