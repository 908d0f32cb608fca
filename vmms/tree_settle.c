/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tree_settle.c - what a merge that did not come to its end has left, of a directory of whatever host. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "disk/disk.h"
#include "vmms/files.h"
#include "vmms/tree.h"

static const char *text(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

static bool is_void(int directory, const char *name)
{
	_cleanup_close_ int fd = name_is_inside(name) ? file_open_below(directory, name, NULL) : -1;
	char path[32];

	if (fd < 0)
		return false;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return disk_is_void(path, NULL) == 1;
}

/* A disk of the tree that holds nothing; NULL: there is none. */
static const json_t *find_void(const json_t *tree, int directory)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(tree, "disks"), i, disk)
		if (is_void(directory, text(disk, "path")))
			return disk;
	return NULL;
}

int tree_settle(json_t *tree, json_t *config, const char *directory, json_t *merged, struct error *err)
{
	_cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const json_t *disk;

	if (fd < 0)
		return error_set(err, errno, "%s: %s", directory, strerror(errno));
	while ((disk = find_void(tree, fd))) {
		json_t *entry = json_pack("{s:O, s:O, s:[]}", "path", json_object_get(disk, "path"), "parent", json_object_get(disk, "parent"), "above"), *above;
		size_t i;

		if (!entry || json_array_append_new(merged, entry))
			return error_set(err, ENOMEM, "no memory");
		json_array_foreach(json_object_get(tree, "disks"), i, above)
			if (!strcmp(text(above, "parent"), text(entry, "path")))
				json_array_append(json_object_get(entry, "above"), json_object_get(above, "path"));
		tree_merged(tree, config, text(entry, "path"), text(entry, "parent"));
	}
	return 0;
}

static int reparent(int fd, const char *directory, const char *name, const char *parent, struct error *err)
{
	_cleanup_free_ char *path = vm_config_path(name, directory), *to = vm_config_path(parent, directory);
	_cleanup_close_ int plain = file_open_below(fd, name, err), below = name_is_inside(parent) ? file_open_below(fd, parent, err) : -1;

	if (plain < 0 || (name_is_inside(parent) && below < 0))
		return -err->code;
	if (!path || !to)
		return error_set(err, ENOMEM, "no memory");
	/* Disks that are continued are for reading only. */
	fchmod(plain, 0640);
	return disk_reparent_merged(path, to, err);
}

int tree_settle_disks(const json_t *merged, const char *directory, struct error *err)
{
	_cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *entry, *above;
	size_t i, j;
	int r = fd < 0 ? error_set(err, errno, "%s: %s", directory, strerror(errno)) : 0;

	json_array_foreach(merged, i, entry)
		json_array_foreach(json_object_get(entry, "above"), j, above)
			if (!r)
				r = reparent(fd, directory, json_string_value(above), text(entry, "parent"), err);
	return r;
}

void tree_settle_remove(const json_t *merged, const char *directory)
{
	_cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *entry;
	size_t i;

	json_array_foreach(merged, i, entry)
		if (fd >= 0)
			file_remove_below(fd, text(entry, "path"));
}
