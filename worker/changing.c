/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/changing.h"

#include <errno.h>
#include <string.h>

/* Linux looks every two seconds whether its drives have something to tell. */
#define LOOK_MILLISECONDS 100u
#define LOOKS             100u

struct changing {
	struct vm *vm;
	struct medium_request request;
	struct vm_files files;
	char *path;
	struct changing_ops ops;
	uv_timer_t timer;
	unsigned looks;
};

static void timer_closed(uv_handle_t *handle)
{
	free(handle->data);
}

static void take_down(struct changing *c)
{
	vm_close_files(&c->files);
	free(c->path);
	uv_close((uv_handle_t *)&c->timer, timer_closed);
}

static void look(uv_timer_t *timer)
{
	struct changing *c = timer->data;
	const struct medium_request *request = &c->request;
	struct changing_ops ops = c->ops;
	struct error err = {0};
	bool locked = false;
	int r = vm_medium_is_locked(c->vm, request->controller, request->lun, false, &locked, &err);

	if (!r && locked && ++c->looks < LOOKS)
		return;
	/* One that is still locked is refused, with the reason. */
	if (!r)
		r = vm_change_medium(c->vm, request->controller, request->lun, c->path, &c->files, false, &err);
	take_down(c);
	ops.done(ops.context, r, &err);
}

static int wait_for_guest(struct changing **out, uv_loop_t *loop, struct vm *vm, const struct medium_request *request,
    struct vm_files *files, const struct changing_ops *ops, struct error *err)
{
	struct changing *c = calloc(1, sizeof(*c));

	if (c && request->path)
		c->path = strdup(request->path);
	if (!c || (request->path && !c->path)) {
		free(c);
		return error_set(err, ENOMEM, "no memory to change the medium");
	}
	c->vm = vm;
	c->request = *request;
	c->files = *files;
	files->count = 0;
	if (c->files.count)
		c->files.names[0] = c->path;
	c->ops = *ops;
	c->timer.data = c;
	uv_timer_init(loop, &c->timer);
	uv_timer_start(&c->timer, look, LOOK_MILLISECONDS, LOOK_MILLISECONDS);
	*out = c;
	return 0;
}

int changing_start(struct changing **out, uv_loop_t *loop, struct vm *vm, const struct medium_request *request, struct vm_files *files,
    const struct changing_ops *ops, struct error *err)
{
	bool locked = false;
	int r = vm_medium_is_locked(vm, request->controller, request->lun, !request->force, &locked, err);

	*out = NULL;
	/* One that is paused cannot let go. */
	if (!r && locked && !request->force && !vm->paused)
		r = wait_for_guest(out, loop, vm, request, files, ops, err);
	else if (!r)
		r = vm_change_medium(vm, request->controller, request->lun, request->path, files, request->force, err);
	vm_close_files(files);
	return r;
}

void changing_abandon(struct changing *changing)
{
	if (changing)
		take_down(changing);
}
