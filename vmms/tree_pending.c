/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tree_pending.c - vm.json and checkpoints.json changed as one. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmms/files.h"
#include "vmms/save.h"
#include "vmms/saved_disks.h"
#include "vmms/tree.h"

static const struct form form_version = {.kind = FORM_INTEGER, .min = 1, .max = 1};
static const struct form form_link = {.kind = FORM_STRING, .min = 1, .max = 255};
static const struct form form_name = {.kind = FORM_STRING, .min = 1, .max = 4095};
static const struct form form_names = {.kind = FORM_LIST, .min = 0, .max = 65536, .items = &form_name};
static const struct form pending_form = {.kind = FORM_OBJECT,
					 .fields = (const struct form_field[]){{"version", &form_version, NULL, true},
									       {"vm", &vm_config_form, NULL, true},
									       {"checkpoints", &tree_form, NULL, true},
									       {"state", &form_link, NULL, false},
									       {"remove", &form_names, "[]", false},
									       {0}}};

bool pending_is_there(const char *directory)
{
	_cleanup_free_ char *path = vm_config_path(PENDING_FILE, directory);
	struct stat st;

	return path && !lstat(path, &st);
}

int pending_load(json_t **pending, const char *directory, struct error *err)
{
	int r;

	*pending = NULL;
	r = vm_json_load(pending, directory, PENDING_FILE, err);
	if (!r && form_check(&pending_form, *pending, err))
		r = error_prefix(err, "%s/" PENDING_FILE, directory);
	if (r) {
		json_decref(*pending);
		*pending = NULL;
	}
	return r;
}

int pending_save(json_t **pending, json_t *config, json_t *tree, const char *state, json_t *remove, const char *directory, struct error *err)
{
	int r;

	*pending = json_pack("{s:i, s:O, s:O, s:s*, s:O*}", "version", 1, "vm", config, "checkpoints", tree, "state", state, "remove", remove);
	r = *pending ? vm_json_save(*pending, directory, PENDING_FILE, err) : error_set(err, ENOMEM, "no memory");
	if (r) {
		json_decref(*pending);
		*pending = NULL;
	}
	return r;
}

/* The saved state of a checkpoint becomes the machine's, and stays the checkpoint's. */
static int link_state(const char *directory, const char *state, struct error *err)
{
	_cleanup_free_ char *from = vm_config_path(state, directory), *to = vm_config_path(SAVED_FILE, directory);
	struct stat st;

	/* Ours are beside vm.json: with no directory there is no link on the way, and link() follows none at the end. */
	if (!from || !to || !name_is_inside(state) || strchr(state, '/'))
		return error_set(err, EINVAL, "%s is no file of the machine's own", state);
	if (lstat(from, &st) || !S_ISREG(st.st_mode))
		return error_set(err, EINVAL, "%s is not there, or no plain file", from);
	unlink(to);
	saved_disks_forget(directory);
	if (link(from, to))
		return error_set(err, errno, "%s: %s", from, strerror(errno));
	return directory_sync(directory, err);
}

void tree_remove_unnamed(const json_t *tree, const json_t *config, const char *directory, const json_t *names)
{
	_cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *name;
	size_t i;

	json_array_foreach(names, i, name) {
		_cleanup_free_ char *record = NULL;
		const char *path = json_string_value(name);

		if (fd < 0 || !name_is_inside(path) || tree_names(tree, config, path))
			continue;
		/* With the record of changes that a disk may have beside it. */
		if (asprintf(&record, "%s.cbt", path) > 0)
			file_remove_below(fd, record);
		file_remove_below(fd, path);
	}
}

int pending_finish(const json_t *pending, const char *directory, struct error *err)
{
	_cleanup_free_ char *path = vm_config_path(PENDING_FILE, directory);
	const char *state = json_string_value(json_object_get(pending, "state"));
	int r = path ? vm_config_save(json_object_get(pending, "vm"), directory, err) : error_set(err, ENOMEM, "no memory");

	if (!r)
		r = tree_save(json_object_get(pending, "checkpoints"), directory, err);
	if (!r && state)
		r = link_state(directory, state, err);
	if (!r)
		tree_remove_unnamed(json_object_get(pending, "checkpoints"), json_object_get(pending, "vm"), directory, json_object_get(pending, "remove"));
	if (!r && unlink(path) && errno != ENOENT)
		r = error_set(err, errno, "%s: %s", path, strerror(errno));
	return r;
}
