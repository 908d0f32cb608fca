/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "worker/listener.h"
#include "worker/unix_socket.h"
#include "worker/worker.h"

#define LINE_MAX_BYTES  65536u
#define CONTROL_VERSION 1
#define MAX_PEERS       16u

struct peer {
	uv_pipe_t pipe;
	struct control *control;
	uv_write_t request; /* of the answer under way */
	char *answer;       /* NULL: none is under way */
	bool last;          /* close when the answer has left */
	struct control_call call; /* of the next line, or of the one whose answer comes later */
	size_t used;
	char line[LINE_MAX_BYTES];
};

struct control {
	uv_loop_t *loop;
	struct listener *listener;
	control_fn handler;
	void *context;
	unsigned peers;
	uint64_t tickets; /* given out */
	struct peer *open[MAX_PEERS];
	bool closing;
};

static void maybe_free(struct control *c)
{
	if (!c->closing || c->peers)
		return;
	free(c);
}

static void drop_descriptors(struct peer *peer)
{
	for (unsigned i = 0; i < peer->call.fd_count; i++)
		if (peer->call.fds[i] >= 0)
			close(peer->call.fds[i]);
	peer->call = (struct control_call){0};
}

static void peer_closed(uv_handle_t *handle)
{
	struct peer *peer = handle->data;
	struct control *c = peer->control;

	for (unsigned i = 0; i < MAX_PEERS; i++)
		if (c->open[i] == peer)
			c->open[i] = NULL;
	free(peer->answer);
	drop_descriptors(peer);
	free(peer);
	c->peers--;
	maybe_free(c);
}

static void close_peer(struct peer *peer)
{
	uv_os_fd_t fd;

	if (uv_is_closing((uv_handle_t *)&peer->pipe))
		return;
	if (!uv_fileno((uv_handle_t *)&peer->pipe, &fd))
		unix_drain(fd);
	uv_close((uv_handle_t *)&peer->pipe, peer_closed);
}

/* Nobody waits for the answer, and what is done nobody would know. One that only sends no more still waits. */
static bool has_gone(const struct peer *peer)
{
	struct pollfd poll_fd = {0};

	return !uv_fileno((const uv_handle_t *)&peer->pipe, &poll_fd.fd) && poll(&poll_fd, 1, 0) > 0 && poll_fd.revents & POLLHUP;
}

json_t *control_text(const char *text)
{
	json_t *string = json_string(text);
	char *ascii;

	if (string)
		return string;
	ascii = strdup(text);
	for (char *c = ascii; c && *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	string = ascii ? json_string(ascii) : NULL;
	free(ascii);
	return string;
}

json_t *control_refuse(int code, const char *text)
{
	const char *name = strerrorname_np(code);

	return json_pack("{s:b,s:o,s:s}", "ok", 0, "error", control_text(text), "code", name ? name : "EIO");
}

static json_t *handle_line(struct control *c, const char *line, size_t size, struct control_call *call)
{
	json_error_t why;
	json_t *request = json_loadb(line, size, JSON_REJECT_DUPLICATES, &why);
	json_t *result;

	if (!json_is_object(request))
		result = control_refuse(EINVAL, "the line is not a JSON object");
	else if (json_integer_value(json_object_get(request, "version")) != CONTROL_VERSION)
		result = control_refuse(EINVAL, "\"version\" must be 1: this worker speaks no other");
	else if (!json_is_string(json_object_get(request, "command")))
		result = control_refuse(EINVAL, "\"command\" is missing");
	else
		result = c->handler(c->context, json_string_value(json_object_get(request, "command")), request, call);
	json_decref(request);
	return result || call->later ? result : control_refuse(ENOMEM, "no memory");
}

static void written(uv_write_t *request, int status);

/* Takes over the reference to `result`. */
static void send_answer(struct peer *peer, json_t *result)
{
	char *text = json_dumps(result, JSON_COMPACT);
	size_t length = text ? strlen(text) : 0;
	uv_buf_t buffer = uv_buf_init(text, (unsigned)length + 1);

	json_decref(result);
	if (!text) {
		close_peer(peer);
		return;
	}
	text[length] = '\n'; /* in place of the terminator: the length is known */
	peer->answer = text;
	peer->request.data = peer;
	uv_read_stop((uv_stream_t *)&peer->pipe);
	if (uv_write(&peer->request, (uv_stream_t *)&peer->pipe, &buffer, 1, written))
		close_peer(peer);
}

static void give_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	struct peer *peer = handle->data;

	(void)suggested;
	*buffer = uv_buf_init(peer->line + peer->used, (unsigned)(LINE_MAX_BYTES - peer->used));
}

static void got_bytes(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer);

/* Answers the first whole line, or reads on for one. */
static void next_line(struct peer *peer)
{
	const char *end = memchr(peer->line, '\n', peer->used);
	size_t size = end ? (size_t)(end - peer->line) + 1 : 0;
	json_t *result;

	if (uv_is_closing((uv_handle_t *)&peer->pipe))
		return;
	if (!end && peer->used == LINE_MAX_BYTES) {
		peer->last = true;
		send_answer(peer, control_refuse(EINVAL, "the line is longer than 64 KiB"));
	} else if (!end) {
		uv_read_start((uv_stream_t *)&peer->pipe, give_room, got_bytes);
	} else if (has_gone(peer)) {
		close_peer(peer);
	} else {
		peer->call.ticket = ++peer->control->tickets;
		result = handle_line(peer->control, peer->line, size, &peer->call);
		memmove(peer->line, peer->line + size, peer->used - size);
		peer->used -= size;
		if (!result) {
			uv_read_stop((uv_stream_t *)&peer->pipe);
			return;
		}
		drop_descriptors(peer);
		send_answer(peer, result);
	}
}

static void written(uv_write_t *request, int status)
{
	struct peer *peer = request->data;

	free(peer->answer);
	peer->answer = NULL;
	if (status || peer->last)
		close_peer(peer);
	else
		next_line(peer);
}

static void carrier_closed(uv_handle_t *handle)
{
	free(handle);
}

/* libuv gives what came with the bytes only as a stream of its own, whatever it is: we keep a duplicate of its
 * descriptor. */
static int take_descriptor(uv_stream_t *from)
{
	uv_pipe_t *carrier = malloc(sizeof(*carrier));
	uv_os_fd_t fd;
	int own = -1;

	if (!carrier || uv_pipe_init(from->loop, carrier, 0)) {
		free(carrier);
		return -1;
	}
	if (uv_accept(from, (uv_stream_t *)carrier) == 0 && uv_fileno((uv_handle_t *)carrier, &fd) == 0)
		own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	uv_close((uv_handle_t *)carrier, carrier_closed);
	return own;
}

/* False: more came than any command takes, or one cannot be had. */
static bool take_descriptors(struct peer *peer)
{
	struct control_call *call = &peer->call;

	while (uv_pipe_pending_count(&peer->pipe)) {
		if (call->fd_count == CONTROL_MAX_FDS)
			return false;
		call->fds[call->fd_count] = take_descriptor((uv_stream_t *)&peer->pipe);
		if (call->fds[call->fd_count] < 0)
			return false;
		call->fd_count++;
	}
	return true;
}

void control_answer(struct control *c, uint64_t ticket, json_t *answer)
{
	for (unsigned i = 0; i < MAX_PEERS; i++) {
		struct peer *peer = c->open[i];

		if (!peer || !peer->call.later || peer->call.ticket != ticket ||
		    uv_is_closing((uv_handle_t *)&peer->pipe))
			continue;
		drop_descriptors(peer);
		send_answer(peer, answer);
		return;
	}
	json_decref(answer);
}

static void got_bytes(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer)
{
	struct peer *peer = stream->data;

	(void)buffer;
	if (n < 0 || !take_descriptors(peer)) {
		close_peer(peer);
		return;
	}
	peer->used += (size_t)n;
	if (n)
		next_line(peer);
}

static void peer_came(void *context, int fd)
{
	struct control *c = context;
	struct peer *peer = calloc(1, sizeof(*peer));

	if (!peer || uv_pipe_init(c->loop, &peer->pipe, 1)) {
		close(fd);
		free(peer);
		return;
	}
	peer->pipe.data = peer;
	peer->control = c;
	c->peers++;
	if (uv_pipe_open(&peer->pipe, fd)) {
		close(fd);
		close_peer(peer);
		return;
	}
	for (unsigned i = 0; i < MAX_PEERS; i++) {
		if (c->open[i])
			continue;
		c->open[i] = peer;
		uv_read_start((uv_stream_t *)&peer->pipe, give_room, got_bytes);
		return;
	}
	close_peer(peer); /* too many at once */
}

int control_open(struct control **out, uv_loop_t *loop, const char *path, control_fn handler, void *context,
    struct error *err)
{
	struct control *c = calloc(1, sizeof(*c));
	int r = c ? 0 : error_set(err, ENOMEM, "%s: no memory for the control socket", path);

	if (!r)
		r = listener_open(&c->listener, loop, path, peer_came, c, err);
	if (r) {
		free(c);
		return r;
	}
	c->loop = loop;
	c->handler = handler;
	c->context = context;
	*out = c;
	return 0;
}

void control_close(struct control *c)
{
	if (!c)
		return;
	for (unsigned i = 0; i < MAX_PEERS; i++)
		if (c->open[i])
			close_peer(c->open[i]);
	listener_close(c->listener);
	c->closing = true;
	maybe_free(c);
}

/* --- the client ---------------------------------------------------------------------------------- */

static int read_line(int fd, char **line, struct error *err)
{
	size_t used = 0, room = 4096;

	*line = malloc(room);
	while (*line) {
		ssize_t n = read(fd, *line + used, room - used - 1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return error_set(err, EPIPE, "the machine ended before it answered");
		used += (size_t)n;
		if ((*line)[used - 1] == '\n') {
			(*line)[used] = '\0';
			return 0;
		}
		if (room - used < 2) {
			char *larger = realloc(*line, room *= 2);

			if (!larger)
				break;
			*line = larger;
		}
	}
	return error_set(err, ENOMEM, "no memory for the answer");
}

/* The worker may run in another directory. */
static int add_path(json_t *request, char *path, struct error *err)
{
	size_t length = strlen(path);
	bool read_only = length > 3 && !strcmp(path + length - 3, ",ro");
	_cleanup_free_ char *resolved = NULL;

	if (read_only)
		path[length - 3] = '\0';
	resolved = realpath(path, NULL);
	if (!resolved)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (json_object_set_new(request, "path", json_string(resolved)))
		return error_set(err, EINVAL, "%s: the name is not UTF-8: rename the file", path);
	json_object_set_new(request, "read_only", json_boolean(read_only));
	return 0;
}

/* `passed`: a descriptor that goes with it, or -1. */
static int send_line(int fd, const char *text, int passed, struct error *err)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr header;
	} control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
	size_t size = strlen(text);

	memcpy(CMSG_DATA(&control.header), &passed, sizeof(passed));
	while (size) {
		struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = size};
		struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t n;

		if (passed >= 0) {
			message.msg_control = &control;
			message.msg_controllen = sizeof(control);
		}
		n = sendmsg(fd, &message, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, errno, "the request could not be sent: %s", strerror(errno));
		text += n;
		size -= (size_t)n;
		passed = -1;
	}
	return 0;
}

static int add_size(json_t *request, const char *text, struct error *err)
{
	char *rest;
	long long size = strtoll(text, &rest, 10);

	if (size <= 0 || *rest)
		return error_set(err, EINVAL, "\"%s\" is no size: give it in bytes", text);
	json_object_set_new(request, "size", json_integer(size));
	return 0;
}

/* "add-disk FILE[,ro]", "remove-disk CONTROLLER:LUN" and "save FILE" take an argument, "resize-disk CONTROLLER:LUN BYTES"
 * two, "change-medium CONTROLLER:LUN [FILE]" one or two, the others none. */
static int build_request(int argc, char *const argv[], json_t **request, struct error *err)
{
	bool add = !strcmp(argv[0], "add-disk"), remove = !strcmp(argv[0], "remove-disk");
	bool resize = !strcmp(argv[0], "resize-disk"), save = !strcmp(argv[0], "save");
	bool medium = !strcmp(argv[0], "change-medium");
	int wanted = resize || (medium && argc > 2) ? 3 : add || remove || save || medium ? 2 : 1;

	if (argc != wanted)
		return error_set(err, EINVAL, "%s takes %s", argv[0],
		    medium ? "one argument or two" : wanted == 3 ? "two arguments" : wanted == 2 ? "one argument" : "no argument");
	*request = json_pack("{s:i,s:s}", "version", CONTROL_VERSION, "command", argv[0]);
	if (add)
		return add_path(*request, argv[1], err);
	if (remove || resize || medium)
		json_object_set_new(*request, "address", json_string(argv[1]));
	if (medium && argc > 2)
		return add_path(*request, argv[2], err);
	if (save)
		json_object_set_new(*request, "fd", json_true());
	if (resize)
		return add_size(*request, argv[2], err);
	return 0;
}

/* Where a machine is saved to: a new file, which only its owner reads. -1: the command has none. */
static int open_saved(char *const argv[], int *fd, struct error *err)
{
	*fd = -1;
	if (strcmp(argv[0], "save") != 0)
		return 0;
	*fd = open(argv[1], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return *fd >= 0 ? 0 : error_set(err, errno, "%s: %s", argv[1], strerror(errno));
}

static void print_tree(FILE *out, const json_t *value, unsigned depth)
{
	const char *key;
	const json_t *child;
	size_t index;

	if (json_is_object(value)) {
		fputc('\n', out);
		json_object_foreach((json_t *)(uintptr_t)value, key, child) {
			fprintf(out, "%*s%s:", (int)depth * 2, "", key);
			print_tree(out, child, depth + 1);
		}
	} else if (json_is_array(value)) {
		fputc('\n', out);
		json_array_foreach((json_t *)(uintptr_t)value, index, child) {
			fprintf(out, "%*s%zu:", (int)depth * 2, "", index);
			print_tree(out, child, depth + 1);
		}
	} else if (json_is_string(value)) {
		fprintf(out, " %s\n", json_string_value(value));
	} else if (json_is_integer(value)) {
		fprintf(out, " %lld\n", (long long)json_integer_value(value));
	} else {
		fprintf(out, " %s\n", json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "none");
	}
}

static int show_answer(const char *line, bool json, FILE *out, struct error *err)
{
	json_t *answer = json_loads(line, 0, NULL);
	int r = 0;

	if (!json_is_object(answer))
		r = error_set(err, EPROTO, "the answer is not understood: %.100s", line);
	else if (!json_is_true(json_object_get(answer, "ok")) && !json_is_string(json_object_get(answer, "error")))
		r = error_set(err, EPROTO, "the answer is not understood: %.100s", line);
	else if (!json_is_true(json_object_get(answer, "ok")))
		r = error_set(err, EINVAL, "%s", json_string_value(json_object_get(answer, "error")));
	else if (json)
		fputs(line, out);
	if (!r && !json) {
		json_object_del(answer, "ok");
		if (json_object_size(answer))
			print_tree(out, answer, 0);
		else
			fputs("done\n", out);
	}
	json_decref(answer);
	return r;
}

int worker_control(const char *path, int argc, char *const argv[], bool json, FILE *out, struct error *err)
{
	_cleanup_close_ int fd = -1;
	_cleanup_close_ int saved = -1;
	_cleanup_free_ char *line = NULL;
	_cleanup_free_ char *text = NULL;
	json_t *request = NULL;
	int r = build_request(argc, argv, &request, err);

	if (!r)
		text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (r)
		return r;
	if (!text)
		return error_set(err, EINVAL, "\"%s\" is no command: it is not UTF-8", argv[0]);
	fd = unix_connect(path, err);
	if (fd < 0)
		return fd;
	r = open_saved(argv, &saved, err);
	if (!r)
		r = send_line(fd, text, saved, err);
	if (!r)
		r = send_line(fd, "\n", -1, err);
	if (!r)
		r = read_line(fd, &line, err);
	if (!r)
		r = show_answer(line, json, out, err);
	if (r && saved >= 0)
		unlink(argv[1]);
	return r;
}
