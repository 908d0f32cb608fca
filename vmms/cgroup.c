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

void cgroup_remove(const char *path)
{
	if (rmdir(path) && errno != ENOENT && errno != EBUSY)
		log_write(LOG_LEVEL_WARNING, "the control group %s stays: %s", path, strerror(errno));
}

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
