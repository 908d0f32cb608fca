/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tree_check.c - the checkpoints of a directory that somebody else has made: names that lead elsewhere, rings, other disks. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/disk.h"
#include "vmms/files.h"
#include "vmms/tree.h"

static const char *text(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

/* Of a file beside vm.json. */
static int check_beside(const char *name, struct error *err)
{
	return name_is_inside(name) && !strchr(name, '/')
		   ? 0
		   : error_set(err, EINVAL, "%s is no name of a file beside it", name);
}

/* From each thing the way to what it comes from ends. `from` says what that is: it has the thing's name as key. */
static int check_rings(const json_t *from, struct error *err)
{
	size_t steps, count = json_object_size(from);
	const char *name;
	const json_t *value;

	json_object_foreach((json_t *)from, name, value) {
		const char *at = name;

		for (steps = 0; at && *at; steps++) {
			if (steps > count)
				return error_set(err, ELOOP, "what comes before %s is a ring", name);
			at = json_string_value(json_object_get(from, at));
		}
	}
	return 0;
}

static int check_disks(const json_t *tree, bool in_place, struct error *err)
{
	json_t *from = json_object(), *disk;
	size_t i;
	int r = from ? 0 : error_set(err, ENOMEM, "no memory");

	json_array_foreach(json_object_get(tree, "disks"), i, disk) {
		const char *path = text(disk, "path");

		if (!r)
			r = check_beside(path, err);
		if (!r && json_object_get(from, path))
			r = error_set(err, EINVAL, "disk %s is there twice", path);
		if (!r && json_object_set(from, path, json_object_get(disk, "parent")))
			r = error_set(err, ENOMEM, "no memory");
	}
	json_array_foreach(json_object_get(tree, "disks"), i, disk) {
		const char *parent = text(disk, "parent");

		if (!r && !(in_place && !json_object_get(from, parent)))
			r = check_beside(parent, err);
	}
	if (!r)
		r = check_rings(from, err);
	json_decref(from);
	return r;
}

static int check_checkpoint(const json_t *checkpoint, bool in_place, struct error *err)
{
	json_t *disk;
	size_t i;
	int r = json_object_get(checkpoint, "state") ? check_beside(text(checkpoint, "state"), err) : 0;

	json_array_foreach(json_object_get(json_object_get(checkpoint, "config"), "disks"), i, disk)
		if (!r && !in_place && tree_is_disk(disk))
			r = check_beside(text(disk, "path"), err);
	return r;
}

static int check_checkpoints(const json_t *tree, bool in_place, struct error *err)
{
	json_t *from = json_object(), *checkpoint;
	size_t i;
	int r = from ? 0 : error_set(err, ENOMEM, "no memory");

	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint) {
		const char *id = text(checkpoint, "id");

		if (!r)
			r = check_checkpoint(checkpoint, in_place, err);
		if (!r && json_object_get(from, id))
			r = error_set(err, EINVAL, "checkpoint %s is there twice", id);
		if (!r && json_object_set(from, id, json_object_get(checkpoint, "parent")))
			r = error_set(err, ENOMEM, "no memory");
	}
	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint)
		if (!r && *text(checkpoint, "parent") && !json_object_get(from, text(checkpoint, "parent")))
			r = error_set(err, EINVAL, "there is no checkpoint %s, which another comes from", text(checkpoint, "parent"));
	if (!r && *tree_now(tree) && !json_object_get(from, tree_now(tree)))
		r = error_set(err, EINVAL, "there is no checkpoint %s, which the machine comes from", tree_now(tree));
	if (!r)
		r = check_rings(from, err);
	json_decref(from);
	return r;
}

int tree_check(const json_t *tree, const char *directory, bool in_place, struct error *err)
{
	int r = check_disks(tree, in_place, err);

	if (!r)
		r = check_checkpoints(tree, in_place, err);
	return r ? error_prefix(err, "%s/" TREE_FILE, directory) : 0;
}

static bool same_file(const char *a, const char *b)
{
	struct stat one, other;

	return !stat(a, &one) && !stat(b, &other) && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

static int check_disk(int directory, const char *where, const json_t *entry, struct error *err)
{
	struct disk_open_options reading = {.read_only = true};
	_cleanup_free_ char *path = vm_config_path(text(entry, "path"), where), *parent = vm_config_path(text(entry, "parent"), where);
	_cleanup_close_ int plain = file_open_below(directory, text(entry, "path"), err);
	struct disk *disk;
	int r;

	if (plain < 0)
		return plain;
	r = path && parent ? disk_open(&disk, path, &reading, err) : error_set(err, ENOMEM, "no memory");
	if (r)
		return r == -EBUSY ? 0 : r;
	if (!disk_parent(disk) || !same_file(disk_path(disk_parent(disk)), parent))
		r = error_set(err, ESTALE, "%s does not continue %s, as " TREE_FILE " says, but %s", path, parent,
			      disk_parent(disk) ? disk_path(disk_parent(disk)) : "no other disk");
	disk_close(disk, NULL);
	return r;
}

int tree_check_disks(const json_t *tree, const char *directory, struct error *err)
{
	_cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *disk;
	size_t i;
	int r = fd < 0 ? error_set(err, errno, "%s: %s", directory, strerror(errno)) : 0;

	json_array_foreach(json_object_get(tree, "disks"), i, disk)
		if (!r)
			r = check_disk(fd, directory, disk, err);
	return r;
}
