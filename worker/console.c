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

#include "worker/listener.h"
#include "worker/terminal.h"

#define OUTPUT_ROOM  65536u
#define INPUT_CHUNK  1024u
#define INPUT_ROUNDS 64u
#define ESCAPE_KEY   0x1d /* Ctrl-] */
#define DRAIN_MS     1000

struct console {
	unsigned port;
	const struct console_ops *ops;
	void *context;
	struct listener *listener; /* NULL: no socket */
	int in_fd, out_fd;
	int in_flags, out_flags; /* to give back to a description shared with others; -1: it is ours */
	bool in_ended;
	bool terminal; /* in raw mode: keys are looked at before the port gets them */
	bool escape_seen;
	bool failed; /* writing failed, and it was said */

	uv_async_t wake;      /* output came, or input room came */
	uv_poll_t *in_poll, *out_poll; /* NULL: the descriptor is not watched */

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

bool console_is_connected(const struct console *c)
{
	return !c->listener || c->in_fd >= 0;
}

bool console_is_terminal(const struct console *c)
{
	return c->terminal;
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

static size_t output_size(struct console *c)
{
	size_t size;

	pthread_mutex_lock(&c->lock);
	size = c->out_size;
	pthread_mutex_unlock(&c->lock);
	return size;
}

static void disconnect(struct console *c);

/* What cannot be written is lost; the guest goes on. A socket's peer has left, a file system may be full. */
static void output_failed(struct console *c)
{
	if (c->listener)
		disconnect(c);
	else if (!c->failed && errno != EPIPE && errno != EIO)
		log_write(LOG_LEVEL_WARNING, "serial port %u: its output cannot be written and is lost: %s", c->port + 1,
		    strerror(errno));
	c->failed = true;
	drop_output(c);
}

/* Writes what is there now; a guest that goes on filling must not keep the loop here. False when the
 * descriptor takes no more. */
static bool write_output(struct console *c)
{
	size_t left = output_size(c);

	while (left) {
		size_t run = min_u64(left, OUTPUT_ROOM - c->out_head);
		ssize_t n = write(c->out_fd, c->output + c->out_head, run);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return false;
		if (n < 0) {
			output_failed(c);
			return true;
		}
		pthread_mutex_lock(&c->lock);
		c->out_head = (c->out_head + (size_t)n) % OUTPUT_ROOM;
		c->out_size -= (size_t)n;
		pthread_mutex_unlock(&c->lock);
		left -= (size_t)n;
	}
	return true;
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

	if (c->out_fd >= 0 && !write_output(c)) {
		if (c->out_poll)
			uv_poll_start(c->out_poll, UV_WRITABLE, out_ready);
		return;
	}
	if (c->out_fd < 0)
		drop_output(c);
	if (c->out_poll)
		uv_poll_stop(c->out_poll);
	if (output_size(c))
		uv_async_send(&c->wake);
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

static void in_ready(uv_poll_t *handle, int status, int events)
{
	(void)status;
	(void)events;
	pump(handle->data);
}

/* Gives the port what waits. */
static void give_pending(struct console *c)
{
	size_t taken;

	if (!c->pending_size)
		return;
	taken = c->ops->input(c->context, c->port, c->pending, c->pending_size);
	memmove(c->pending, c->pending + taken, c->pending_size - taken);
	c->pending_size -= taken;
}

static void end_input(struct console *c)
{
	if (c->in_poll)
		uv_poll_stop(c->in_poll);
	if (c->listener)
		disconnect(c);
	else
		c->in_ended = true;
}

/* Keys are read also when the port takes none, else nobody could leave a guest that hangs; what was typed
 * beyond the room is dropped then, as by a terminal. Others wait until all was taken. */
static size_t input_wanted(const struct console *c)
{
	if (c->terminal)
		return sizeof(c->pending);
	return c->pending_size ? 0 : sizeof(c->pending);
}

/* One read and what follows from it; false when there is no more to do now. */
static bool pull_some(struct console *c)
{
	uint8_t bytes[INPUT_CHUNK];
	size_t size, wanted;
	ssize_t n;

	give_pending(c);
	wanted = input_wanted(c);
	if (!wanted) {
		/* The port calls console_input_room() when it has room. */
		if (c->in_poll)
			uv_poll_stop(c->in_poll);
		return false;
	}
	n = read(c->in_fd, bytes, wanted);
	if (n < 0 && errno == EINTR)
		return true;
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		if (c->in_poll)
			uv_poll_start(c->in_poll, UV_READABLE, in_ready);
		return false;
	}
	if (n <= 0) {
		end_input(c);
		return false;
	}
	size = c->terminal ? filter_keys(c, bytes, (size_t)n) : (size_t)n;
	size = min_u64(size, sizeof(c->pending) - c->pending_size);
	memcpy(c->pending + c->pending_size, bytes, size);
	c->pending_size += size;
	return true;
}

static void pull_input(struct console *c)
{
	for (unsigned round = 0; c->in_fd >= 0 && !c->in_ended; round++) {
		if (!pull_some(c))
			return;
		/* Others of the loop have their turn too. */
		if (round == INPUT_ROUNDS) {
			uv_async_send(&c->wake);
			return;
		}
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
	/* The guest may wait for room: what the peer did not read is dropped. */
	uv_async_send(&c->wake);
}

/* The peer is gone and only the port keeps us from reading up to its end. */
static bool peer_left(const struct console *c)
{
	struct pollfd p = {.fd = c->in_fd};

	return poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR);
}

static void peer_came(void *context, int fd)
{
	struct console *c = context;

	if (c->in_fd >= 0 && peer_left(c))
		disconnect(c);
	if (c->in_fd >= 0) {
		close(fd); /* one at a time */
		return;
	}
	c->in_fd = fd;
	/* Two watchers cannot share a descriptor. */
	c->out_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	c->in_poll = watch_open(c->wake.loop, c->in_fd, c);
	c->out_poll = c->out_fd < 0 ? NULL : watch_open(c->wake.loop, c->out_fd, c);
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

static int open_file(struct console *c, const char *path, struct error *err)
{
	c->out_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (c->out_fd < 0)
		return error_set(err, errno, "%s: the serial port's file cannot be written: %s", path, strerror(errno));
	return 0;
}

/* --- this terminal ------------------------------------------------------------------------------- */

static bool watchable(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || isatty(fd));
}

/* Watching makes a descriptor non-blocking, which must not reach others who share our terminal or pipe: so
 * a description of our own where one can be opened, else the flags are given back at the end (*flags). A
 * file is not opened anew: its position and O_APPEND are part of what we were given. */
static int own_descriptor(int fd, int mode, int *flags)
{
	char path[32];
	int own = -1;

	*flags = -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (watchable(fd))
		own = open(path, mode | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (own >= 0)
		return own;
	own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (own >= 0)
		*flags = fcntl(own, F_GETFL);
	return own;
}

static int open_stdio(struct console *c, uv_loop_t *loop, struct error *err)
{
	c->in_fd = own_descriptor(STDIN_FILENO, O_RDONLY, &c->in_flags);
	c->out_fd = own_descriptor(STDOUT_FILENO, O_WRONLY, &c->out_flags);
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
	c->terminal = terminal_raw(c->in_fd);
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
	c->in_fd = c->out_fd = c->in_flags = c->out_flags = -1;
	pthread_mutex_init(&c->lock, NULL);
	if (uv_async_init(loop, &c->wake, woken)) {
		pthread_mutex_destroy(&c->lock);
		free(c);
		return error_set(err, EMFILE, "no descriptors left for a console");
	}
	c->wake.data = c;
	switch (serial->kind) {
	case WORKER_SERIAL_NONE:
		break;
	case WORKER_SERIAL_STDIO:
		r = open_stdio(c, loop, err);
		break;
	case WORKER_SERIAL_UNIX:
		r = listener_open(&c->listener, loop, serial->path, peer_came, c, err);
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
	free(c);
}

static void drain(struct console *c)
{
	uint64_t end = uv_hrtime() / 1000000 + DRAIN_MS;

	while (c->out_fd >= 0 && !write_output(c)) {
		struct pollfd p = {c->out_fd, POLLOUT, 0};
		uint64_t now = uv_hrtime() / 1000000;

		if (now >= end)
			return;
		poll(&p, 1, (int)(end - now));
	}
}

static void close_descriptor(int fd, int flags)
{
	if (flags >= 0)
		fcntl(fd, F_SETFL, flags);
	if (fd >= 0)
		close(fd);
}

void console_close(struct console *c)
{
	if (!c)
		return;
	drain(c);
	if (c->terminal)
		terminal_restore();
	watch_close(&c->in_poll);
	watch_close(&c->out_poll);
	listener_close(c->listener);
	close_descriptor(c->in_fd, c->in_flags);
	close_descriptor(c->out_fd, c->out_flags);
	uv_close((uv_handle_t *)&c->wake, wake_closed);
}
