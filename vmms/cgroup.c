/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* From Linux Documentation/admin-guide/cgroup-v2.rst. */

int cgroup_open(const char *path, struct error *err)
{
	_cleanup_close_ int directory = -1;
	int fd;

	if (mkdir(path, 0755) && errno != EEXIST)
		return error_set(err, errno, "the control group %s cannot be made: %s", path, strerror(errno));
	directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fd = directory < 0 ? -1 : openat(directory, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	return fd < 0 ? error_set(err, errno, "%s/cgroup.procs: %s", path, strerror(errno)) : fd;
}

int cgroup_put(int group, int pid, struct error *err)
{
	char text[16];
	int size = snprintf(text, sizeof(text), "%d\n", pid);

	if (write(group, text, (size_t)size) != size)
		return error_set(err, errno, "process %d cannot be put into its control group: %s", pid, strerror(errno));
	return 0;
}

/* --- groups that are to go ------------------------------------------------------------------------------ */

struct cgroup_leaving {
	uv_fs_event_t event; /* of cgroup.events, which changes when the last one leaves */
	struct cgroup_leaving **all, *next;
	char *path;
};

static void leaving_closed(uv_handle_t *handle)
{
	struct cgroup_leaving *l = handle->data;

	free(l->path);
	free(l);
}

static void forget(struct cgroup_leaving *l)
{
	struct cgroup_leaving **at = l->all;

	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	uv_close((uv_handle_t *)&l->event, leaving_closed);
}

/* False: somebody is in it. */
static bool removed(const char *path)
{
	if (!rmdir(path) || errno == ENOENT)
		return true;
	if (errno == EBUSY)
		return false;
	log_write(LOG_LEVEL_WARNING, "the control group %s stays: %s", path, strerror(errno));
	return true;
}

static void changed(uv_fs_event_t *event, const char *name, int events, int status)
{
	struct cgroup_leaving *l = event->data;

	(void)name;
	(void)events;
	(void)status;
	if (removed(l->path))
		forget(l);
}

static void wait_for_last(struct cgroup_leaving **all, uv_loop_t *loop, const char *path)
{
	struct cgroup_leaving *l = calloc(1, sizeof(*l));
	_cleanup_free_ char *events = NULL;
	int r;

	if (l)
		l->path = strdup(path);
	if (!l || !l->path || asprintf(&events, "%s/cgroup.events", path) < 0 || uv_fs_event_init(loop, &l->event)) {
		if (l)
			free(l->path);
		free(l);
		return;
	}
	l->event.data = l;
	l->all = all;
	l->next = *all;
	*all = l;
	r = uv_fs_event_start(&l->event, changed, events, 0);
	/* It may have been the last one's end that was missed. */
	if (removed(path)) {
		forget(l);
	} else if (r) {
		log_write(LOG_LEVEL_WARNING, "the control group %s stays until the daemon starts anew: %s", path, uv_strerror(r));
		forget(l);
	}
}

void cgroup_remove(struct cgroup_leaving **all, uv_loop_t *loop, const char *path)
{
	struct cgroup_leaving *l = *all;

	while (l && strcmp(l->path, path) != 0)
		l = l->next;
	if (l)
		forget(l);
	if (!removed(path))
		wait_for_last(all, loop, path);
}

void cgroup_leave_all(struct cgroup_leaving **all)
{
	while (*all)
		forget(*all);
}

/* --- the group that was given to us ---------------------------------------------------------------------- */

/* One at a time: a controller that is not there must not keep the others. */
static void hand_down(int parent)
{
	static const char *const controllers[] = {"+cpu", "+memory", "+io", "+pids"};
	_cleanup_close_ int fd = openat(parent, "cgroup.subtree_control", O_WRONLY | O_CLOEXEC);

	for (size_t i = 0; fd >= 0 && i < ARRAY_SIZE(controllers); i++)
		if (write(fd, controllers[i], strlen(controllers[i])) < 0)
			log_write(LOG_LEVEL_INFO, "machines' control groups have no controller %s: %s", controllers[i] + 1,
				  strerror(errno));
}

static void remove_empty(int parent)
{
	const struct dirent *entry;
	DIR *all = fdopendir(dup(parent));

	while (all && (entry = readdir(all)))
		if (!strncmp(entry->d_name, "vm-", 3))
			unlinkat(parent, entry->d_name, AT_REMOVEDIR);
	if (all)
		closedir(all);
}

int cgroup_prepare(const char *parent, struct error *err)
{
	_cleanup_close_ int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statfs fs;

	if (fd < 0 || fstatfs(fd, &fs))
		return error_set(err, errno, "--cgroup %s: %s", parent, strerror(errno));
	if (fs.f_type != CGROUP2_SUPER_MAGIC)
		return error_set(err, EINVAL, "--cgroup %s: this is no control group of version 2", parent);
	hand_down(fd);
	remove_empty(fd);
	return 0;
}
