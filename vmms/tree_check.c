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

/* --- names that lead elsewhere ------------------------------------------------------------------------- */

typedef int visit_fn(void *context, const char *name, struct error *err);

static int each_file_of(const json_t *config, visit_fn *visit, void *context, struct error *err)
{
	const json_t *boot = json_object_get(config, "boot");
	json_t *disk;
	size_t i;
	int r = visit(context, text(boot, "kernel"), err);

	if (!r)
		r = visit(context, text(boot, "initrd"), err);
	json_array_foreach(json_object_get(config, "disks"), i, disk)
		if (!r)
			r = visit(context, text(disk, "path"), err);
	return r;
}

/* Each name of a file that the machine, of now or of a checkpoint, would open; "" for none, and some more than once. */
static int each_file(const json_t *tree, const json_t *config, visit_fn *visit, void *context, struct error *err)
{
	json_t *entry;
	size_t i;
	int r = each_file_of(config, visit, context, err);

	json_array_foreach(json_object_get(tree, "checkpoints"), i, entry)
		if (!r)
			r = each_file_of(json_object_get(entry, "config"), visit, context, err);
	json_array_foreach(json_object_get(tree, "disks"), i, entry)
		if (!r)
			r = visit(context, text(entry, "parent"), err);
	return r;
}

/* "A, B and C", as far as there is room for it. */
struct names {
	char text[240];
	size_t size, count, left_out;
	json_t *told;
};

static int tell_outside(void *context, const char *name, struct error *err)
{
	struct names *names = context;
	size_t room = sizeof(names->text) - names->size;
	int n;

	if (!*name || name_is_inside(name) || json_object_get(names->told, name))
		return 0;
	if (json_object_set_new(names->told, name, json_true()))
		return error_set(err, ENOMEM, "no memory");
	names->count++;
	n = snprintf(names->text + names->size, room, "%s%s", names->size ? ", " : "", name);
	if (n >= 0 && (size_t)n < room) {
		names->size += (size_t)n;
	} else {
		names->text[names->size] = '\0';
		names->left_out++;
	}
	return 0;
}

int tree_check_inside(const json_t *tree, const json_t *config, const char *directory, struct error *err)
{
	struct names names = {.told = json_object()};
	char more[40] = "";
	int r = names.told ? each_file(tree, config, tell_outside, &names, err) : error_set(err, ENOMEM, "no memory");

	json_decref(names.told);
	if (r || !names.count)
		return r;
	if (names.left_out)
		snprintf(more, sizeof(more), "%s%zu more", names.size ? " and " : "", names.left_out);
	return error_set(err, EINVAL, "files that are in other places: %s%s; if the machine in %s may have these of this host, say so "
			 "(outside, or --outside)", names.text, more, directory);
}

/* --- the disks ------------------------------------------------------------------------------------------- */

static bool same_file(const char *a, const char *b)
{
	struct stat one, other;

	return !stat(a, &one) && !stat(b, &other) && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

/* A directory that is looked at: `path` is from the root on, with no link in it. */
struct place {
	const char *path;
	int fd;
	bool outside; /* its files may be, or continue, others that are not in it */
};

#define SAY_OUTSIDE "if the machine in %s may have what is elsewhere on this host, say so (outside, or --outside)"

/* What is not there leads nowhere, and is told when the machine starts. */
static int check_no_way_out(void *context, const char *name, struct error *err)
{
	const struct place *place = context;
	_cleanup_close_ int fd = *name ? file_open_below(place->fd, name, err) : -ENOENT;

	if (fd != -ELOOP && fd != -EXDEV)
		return fd >= 0 || fd == -ENOENT ? 0 : fd;
	return error_set(err, EINVAL, "%s is a link, or has one on its way; " SAY_OUTSIDE, name, place->path);
}

/* It continues only what is in the directory, wherever its own locators lead. */
static int check_chain_inside(const struct place *place, const struct disk *disk, struct error *err)
{
	size_t length = strlen(place->path);

	for (const struct disk *parent = disk_parent(disk); parent && !place->outside; parent = disk_parent(parent)) {
		_cleanup_free_ char *path = realpath(disk_path(parent), NULL);

		if (!path)
			return error_set(err, errno, "%s: %s", disk_path(parent), strerror(errno));
		if (strncmp(path, place->path, length) || path[length] != '/')
			return error_set(err, EINVAL, "%s continues %s, which is not in its directory; " SAY_OUTSIDE, disk_path(disk), path,
					 place->path);
	}
	return 0;
}

/* What is open elsewhere may be right; but what it continues nobody can tell. */
static int check_busy(const struct place *place, const char *path, struct error *err)
{
	return place->outside ? 0
			      : error_set(err, EBUSY, "%s is in use, so that what it continues cannot be looked at; " SAY_OUTSIDE, path, place->path);
}

/* A merge that did not come to its end: all of `name` has gone into what that continues, and what continued `name` continues that already.
 * Both read the same, and merging it goes on where the machine is looked at next. */
static bool was_merged_into(const struct place *place, const json_t *tree, const json_t *config, const char *name, const struct disk *parent)
{
	const char *below = tree_parent(tree, name);
	_cleanup_free_ char *path = below && !tree_uses(tree, config, below) ? vm_config_path(below, place->path) : NULL;

	return path && same_file(disk_path(parent), path);
}

static int check_disk(const struct place *place, const json_t *tree, const json_t *config, const json_t *entry, struct error *err)
{
	struct disk_open_options reading = {.read_only = true};
	_cleanup_free_ char *path = vm_config_path(text(entry, "path"), place->path), *parent = vm_config_path(text(entry, "parent"), place->path);
	_cleanup_close_ int plain = file_open_below(place->fd, text(entry, "path"), err);
	struct disk *disk;
	int r;

	if (plain < 0)
		return plain;
	r = path && parent ? disk_open(&disk, path, &reading, err) : error_set(err, ENOMEM, "no memory");
	if (r)
		return r == -EBUSY ? check_busy(place, path, err) : r;
	if (!disk_parent(disk) || (!same_file(disk_path(disk_parent(disk)), parent) &&
				   !was_merged_into(place, tree, config, text(entry, "parent"), disk_parent(disk))))
		r = error_set(err, ESTALE, "%s does not continue %s, as " TREE_FILE " says, but %s", path, parent,
			      disk_parent(disk) ? disk_path(disk_parent(disk)) : "no other disk");
	if (!r)
		r = check_chain_inside(place, disk, err);
	disk_close(disk, NULL);
	return r;
}

/* Each may continue others, which have to be there and what they were. */
static int check_chain(const struct place *place, const json_t *disk, struct error *err)
{
	struct disk_open_options reading = {.read_only = true};
	_cleanup_free_ char *path = vm_config_path(text(disk, "path"), place->path);
	struct disk *opened;
	int r = path ? disk_open(&opened, path, &reading, err) : error_set(err, ENOMEM, "no memory");

	if (r)
		return r == -EBUSY ? check_busy(place, path, err) : r;
	r = check_chain_inside(place, opened, err);
	disk_close(opened, NULL);
	return r;
}

static bool is_there(const struct place *place, const char *name)
{
	struct stat st;

	return !fstatat(place->fd, name, &st, AT_SYMLINK_NOFOLLOW);
}

/* Of a configuration: those that are none of the tree's. What the machine of now would write has to be there; of the rest it is only
 * looked where it leads. */
static int check_disks_of(const struct place *place, const json_t *tree, const json_t *config, bool now, struct error *err)
{
	json_t *disk;
	size_t i;
	int r = 0;

	json_array_foreach(json_object_get(config, "disks"), i, disk) {
		const char *path = text(disk, "path");
		bool needed = now && tree_is_disk(disk);

		/* What a DVD is read as continues nothing. */
		if (r || tree_parent(tree, path) || !strcmp(text(disk, "kind"), "dvd"))
			continue;
		if (needed || (!place->outside && is_there(place, path)))
			r = check_chain(place, disk, err);
	}
	return r;
}

static int check_place(const struct place *place, const json_t *tree, const json_t *config, struct job *job, struct error *err)
{
	const json_t *disks = json_object_get(tree, "disks"), *checkpoints = json_object_get(tree, "checkpoints");
	size_t i, count = json_array_size(disks), total = count + 1 + json_array_size(checkpoints);
	int r = place->outside ? 0 : each_file(tree, config, check_no_way_out, (void *)(uintptr_t)place, err);

	for (i = 0; i < total && !r; i++) {
		if (!job_step(job, i, total))
			r = error_set(err, ECANCELED, "looking at the disks was stopped, as was asked");
		else if (i < count)
			r = check_disk(place, tree, config, json_array_get(disks, i), err);
		else if (i == count)
			r = check_disks_of(place, tree, config, true, err);
		else
			r = check_disks_of(place, tree, json_object_get(json_array_get(checkpoints, i - count - 1), "config"), false, err);
	}
	return r;
}

int tree_check_disks(const json_t *tree, const json_t *config, const char *directory, bool outside, struct job *job, struct error *err)
{
	_cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct place place = {directory, fd, outside};

	return fd < 0 ? error_set(err, errno, "%s: %s", directory, strerror(errno)) : check_place(&place, tree, config, job, err);
}
