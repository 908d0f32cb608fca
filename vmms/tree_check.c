/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tree_check.c - the checkpoints of a directory that somebody else has made: names that lead elsewhere, rings, other disks. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/disk.h"
#include "vmms/daemon.h"
#include "vmms/files.h"
#include "vmms/tree.h"

#define CHAIN_MAX 64u /* files of a disk */

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
	size_t steps, count = json_object_size(from), most = count < CHAIN_MAX ? count : CHAIN_MAX;
	const char *name;
	const json_t *value;

	json_object_foreach((json_t *)from, name, value) {
		const char *at = name;

		for (steps = 0; at && *at; steps++) {
			if (steps > most)
				return error_set(err, ELOOP, "what comes before %s is %s", name,
						 most == count ? "a ring" : "a ring, or more than there may be in a chain");
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

/* The disks that the tree names, and whether any continues each. NULL: no memory. */
static json_t *known_disks(const json_t *tree)
{
	json_t *known = json_object(), *disk;
	size_t i;
	int r = known ? 0 : -1;

	json_array_foreach(json_object_get(tree, "disks"), i, disk) {
		if (!r && !json_object_get(known, text(disk, "path")))
			r = json_object_set_new(known, text(disk, "path"), json_false());
		if (!r)
			r = json_object_set_new(known, text(disk, "parent"), json_true());
	}
	if (r) {
		json_decref(known);
		return NULL;
	}
	return known;
}

/* Those of the tree are beside it; of others a directory of its own may be on the way. */
static int check_disk_name(const json_t *known, const char *path, struct error *err)
{
	if (json_object_get(known, path))
		return check_beside(path, err);
	return name_is_inside(path) ? 0 : error_set(err, EINVAL, "%s is no name of a file below it", path);
}

/* Where it lies. What is copied is opened so that it is that. */
static int check_state(const char *name, const char *directory, struct error *err)
{
	_cleanup_free_ char *path = vm_config_path(name, directory);
	struct stat st;
	int r = check_beside(name, err);

	if (!r && !path)
		r = error_set(err, ENOMEM, "no memory");
	if (!r && lstat(path, &st))
		r = error_set(err, errno, "%s: %s", name, strerror(errno));
	return r || S_ISREG(st.st_mode) ? r : error_set(err, EINVAL, "%s is no plain file", name);
}

static int check_checkpoint(const json_t *known, const json_t *checkpoint, const char *directory, bool in_place, struct error *err)
{
	json_t *disk;
	size_t i;
	int r = json_object_get(checkpoint, "state") ? check_state(text(checkpoint, "state"), directory, err) : 0;

	json_array_foreach(json_object_get(json_object_get(checkpoint, "config"), "disks"), i, disk)
		if (!r && !in_place && tree_is_disk(disk))
			r = check_disk_name(known, text(disk, "path"), err);
	return r;
}

/* What is not to be written any more. */
static int check_written(const json_t *tree, const json_t *known, const json_t *config, struct error *err)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(config, "disks"), i, disk) {
		const char *path = text(disk, "path");

		if (tree_is_disk(disk) && (json_is_true(json_object_get(known, path)) || tree_uses(tree, NULL, path)))
			return error_set(err, EINVAL, "disk %s is of a checkpoint, and " VM_CONFIG_FILE " has it to be written", path);
	}
	return 0;
}

/* As tree_find() compares them. */
static void id_key(const char *id, char key[GUID_TEXT_SIZE])
{
	size_t i;

	for (i = 0; id[i] && i + 1 < GUID_TEXT_SIZE; i++)
		key[i] = (char)tolower((unsigned char)id[i]);
	key[i] = '\0';
}

static json_t *id_of(const json_t *object, const char *name)
{
	char key[GUID_TEXT_SIZE];

	id_key(text(object, name), key);
	return json_string(key);
}

static int check_checkpoints(const json_t *tree, const json_t *known, const char *directory, bool in_place, struct error *err)
{
	json_t *from = json_object(), *checkpoint;
	char id[GUID_TEXT_SIZE], parent[GUID_TEXT_SIZE];
	size_t i;
	int r = from ? 0 : error_set(err, ENOMEM, "no memory");

	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint) {
		id_key(text(checkpoint, "id"), id);
		if (!r)
			r = check_checkpoint(known, checkpoint, directory, in_place, err);
		if (!r && json_object_get(from, id))
			r = error_set(err, EINVAL, "checkpoint %s is there twice", id);
		if (!r && json_object_set_new(from, id, id_of(checkpoint, "parent")))
			r = error_set(err, ENOMEM, "no memory");
	}
	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint) {
		id_key(text(checkpoint, "parent"), parent);
		if (!r && *parent && !json_object_get(from, parent))
			r = error_set(err, EINVAL, "there is no checkpoint %s, which another comes from", parent);
	}
	id_key(tree_now(tree), id);
	if (!r && *id && !json_object_get(from, id))
		r = error_set(err, EINVAL, "there is no checkpoint %s, which the machine comes from", tree_now(tree));
	if (!r)
		r = check_rings(from, err);
	json_decref(from);
	return r;
}

int tree_check(const json_t *tree, const json_t *config, const char *directory, bool in_place, struct error *err)
{
	json_t *known = known_disks(tree);
	int r = known ? check_disks(tree, in_place, err) : error_set(err, ENOMEM, "no memory");

	if (!r)
		r = check_checkpoints(tree, known, directory, in_place, err);
	if (!r)
		r = check_written(tree, known, config, err);
	json_decref(known);
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

/* Those of the machine of now that are none of the tree's: each may continue others, which have to be there and what they were. */
static int check_own_disk(const json_t *tree, const char *where, const json_t *disk, struct error *err)
{
	struct disk_open_options reading = {.read_only = true};
	_cleanup_free_ char *path = vm_config_path(text(disk, "path"), where);
	struct disk *opened;
	int r;

	if (!tree_is_disk(disk) || tree_parent(tree, text(disk, "path")))
		return 0;
	r = path ? disk_open(&opened, path, &reading, err) : error_set(err, ENOMEM, "no memory");
	if (!r)
		disk_close(opened, NULL);
	return r == -EBUSY ? 0 : r;
}

int tree_check_disks(const json_t *tree, const json_t *config, const char *directory, struct job *job, struct error *err)
{
	_cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const json_t *disks = json_object_get(tree, "disks"), *own = json_object_get(config, "disks");
	size_t i, total = json_array_size(disks) + json_array_size(own);
	int r = fd < 0 ? error_set(err, errno, "%s: %s", directory, strerror(errno)) : 0;

	for (i = 0; i < total && !r; i++) {
		if (!job_step(job, i, total))
			r = error_set(err, ECANCELED, "looking at the disks was stopped, as was asked");
		else if (i < json_array_size(disks))
			r = check_disk(fd, directory, json_array_get(disks, i), err);
		else
			r = check_own_disk(tree, directory, json_array_get(own, i - json_array_size(disks)), err);
	}
	return r;
}

/* --- names that lead elsewhere ------------------------------------------------------------------------- */

/* "A, B and C", as far as there is room for it. */
struct names {
	char text[240];
	size_t size, left_out;
	json_t *told;
};

static void tell_outside(struct names *names, const json_t *object, const char *key)
{
	const char *name = text(object, key);
	size_t room = sizeof(names->text) - names->size;
	int n;

	if (!*name || name_is_inside(name) || json_object_get(names->told, name))
		return;
	json_object_set_new(names->told, name, json_true());
	n = snprintf(names->text + names->size, room, "%s%s", names->size ? ", " : "", name);
	if (n >= 0 && (size_t)n < room) {
		names->size += (size_t)n;
	} else {
		names->text[names->size] = '\0';
		names->left_out++;
	}
}

static void tell_outside_of(struct names *names, const json_t *config)
{
	const json_t *boot = json_object_get(config, "boot");
	json_t *disk;
	size_t i;

	tell_outside(names, boot, "kernel");
	tell_outside(names, boot, "initrd");
	json_array_foreach(json_object_get(config, "disks"), i, disk)
		tell_outside(names, disk, "path");
}

int tree_check_inside(const json_t *tree, const json_t *config, const char *directory, struct error *err)
{
	struct names names = {.told = json_object()};
	char more[40] = "";
	json_t *entry;
	size_t i;

	if (!names.told)
		return error_set(err, ENOMEM, "no memory");
	tell_outside_of(&names, config);
	json_array_foreach(json_object_get(tree, "checkpoints"), i, entry)
		tell_outside_of(&names, json_object_get(entry, "config"));
	json_array_foreach(json_object_get(tree, "disks"), i, entry)
		tell_outside(&names, entry, "parent");
	i = json_object_size(names.told);
	json_decref(names.told);
	if (!i)
		return 0;
	if (names.left_out)
		snprintf(more, sizeof(more), "%s%zu more", names.size ? " and " : "", names.left_out);
	return error_set(err, EINVAL, "files that are in other places: %s%s; if the machine in %s may have these of this host, say so "
			 "(outside, or --outside)", names.text, more, directory);
}
