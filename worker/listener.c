/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/listener.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "worker/unix_socket.h"

#define PAUSE 100u /* ms */

struct listener {
	uv_poll_t poll;
	uv_timer_t pause;
	unsigned open; /* of the two */
	int fd;
	char *path;
	listener_fn came;
	void *context;
};

static void handle_closed(uv_handle_t *handle)
{
	struct listener *l = handle->data;

	if (--l->open)
		return;
	free(l->path);
	free(l);
}

static void ready(uv_poll_t *handle, int status, int events);

static void pause_over(uv_timer_t *timer)
{
	struct listener *l = timer->data;

	uv_poll_start(&l->poll, UV_READABLE, ready);
}

static void ready(uv_poll_t *handle, int status, int events)
{
	struct listener *l = handle->data;
	int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)status;
	(void)events;
	if (fd >= 0) {
		l->came(l->context, fd);
		return;
	}
	/* He has left again; else there is nothing that would be better at once. */
	if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
		return;
	uv_poll_stop(&l->poll);
	uv_timer_start(&l->pause, pause_over, PAUSE, 0);
}

int listener_open(struct listener **out, uv_loop_t *loop, const char *path, listener_fn came, void *context, struct error *err)
{
	int fd = unix_listen(path, err), r;
	struct listener *l;

	if (fd < 0)
		return fd;
	l = calloc(1, sizeof(*l));
	if (l)
		l->path = strdup(path);
	r = l && l->path ? uv_poll_init(loop, &l->poll, fd) : UV_ENOMEM;
	if (r) {
		close(fd);
		unlink(path);
		if (l)
			free(l->path);
		free(l);
		return error_set(err, -r, "%s: cannot listen there: %s", path, uv_strerror(r));
	}
	uv_timer_init(loop, &l->pause);
	l->poll.data = l->pause.data = l;
	l->open = 2;
	l->fd = fd;
	l->came = came;
	l->context = context;
	uv_poll_start(&l->poll, UV_READABLE, ready);
	*out = l;
	return 0;
}

void listener_close(struct listener *l)
{
	int fd;

	if (!l)
		return;
	unlink(l->path);
	uv_close((uv_handle_t *)&l->poll, handle_closed);
	uv_close((uv_handle_t *)&l->pause, handle_closed);
	/* Who waits to be let in would see his connection reset. */
	while ((fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		unix_drain(fd);
		close(fd);
	}
	close(l->fd);
}
