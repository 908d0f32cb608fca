/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/tree.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int check_id(const char *text, struct error *err)
{
	struct guid guid;

	return *text && guid_parse(&guid, text) ? error_set(err, EINVAL, "is no GUID") : 0;
}

static const struct form form_version = {.kind = FORM_INTEGER, .min = 1, .max = 1};
static const struct form form_id = {.kind = FORM_STRING, .min = 36, .max = 36, .check = check_id};
static const struct form form_some_id = {.kind = FORM_STRING, .text = "empty: none", .min = 0, .max = 36, .check = check_id};
static const struct form form_name = {.kind = FORM_STRING, .min = 1, .max = 100};
static const struct form form_time = {.kind = FORM_INTEGER, .text = "milliseconds since 1970", .min = 0, .max = INT64_MAX};
static const struct form form_path = {.kind = FORM_STRING, .min = 1, .max = 4095};
static const struct form form_temporary = {.kind = FORM_BOOLEAN, .text = "made for an export of what ran, and goes when that is over"};
static const struct form form_checkpoint = {.kind = FORM_OBJECT,
					    .fields = (const struct form_field[]){{"id", &form_id, NULL, true},
										  {"name", &form_name, NULL, true},
										  {"created", &form_time, NULL, true},
										  {"parent", &form_some_id, NULL, true},
										  {"config", &vm_config_form, NULL, true},
										  {"state", &form_path, NULL, false},
										  {"temporary", &form_temporary, NULL, false},
										  {0}}};
static const struct form form_checkpoints = {.kind = FORM_LIST, .min = 0, .max = TREE_MAX, .items = &form_checkpoint};
static const struct form form_disk = {
    .kind = FORM_OBJECT,
    .fields = (const struct form_field[]){{"path", &form_path, NULL, true}, {"parent", &form_path, NULL, true}, {0}}};
static const struct form form_disks = {.kind = FORM_LIST, .min = 0, .max = (TREE_MAX + 1) * VM_DISKS_MAX, .items = &form_disk};

const struct form tree_form = {.kind = FORM_OBJECT,
			       .text = "the checkpoints of a machine",
			       .fields = (const struct form_field[]){{"version", &form_version, NULL, true},
								     {"now", &form_some_id, "\"\"", false},
								     {"checkpoints", &form_checkpoints, "[]", false},
								     {"disks", &form_disks, "[]", false},
								     {0}}};

int tree_load(json_t **tree, const char *directory, struct error *err)
{
	int r;

	*tree = NULL;
	r = vm_json_load(tree, directory, TREE_FILE, err);
	if (r == -ENOENT) {
		*tree = json_pack("{s:i}", "version", 1);
		r = *tree ? 0 : error_set(err, ENOMEM, "no memory");
	}
	if (!r && form_check(&tree_form, *tree, err))
		r = error_prefix(err, "%s/" TREE_FILE, directory);
	if (r) {
		json_decref(*tree);
		*tree = NULL;
	}
	return r;
}

int tree_load_some(json_t **tree, const char *directory, struct error *err)
{
	int r = tree_load(tree, directory, err);

	if (!r && !json_array_size(json_object_get(*tree, "checkpoints")) && !json_array_size(json_object_get(*tree, "disks"))) {
		json_decref(*tree);
		*tree = NULL;
	}
	return r;
}

int tree_save(const json_t *tree, const char *directory, struct error *err)
{
	return vm_json_save(tree, directory, TREE_FILE, err);
}

static const char *text(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

json_t *tree_find(const json_t *tree, const char *name_or_id)
{
	json_t *checkpoint;
	size_t i;

	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint)
		if (!strcasecmp(text(checkpoint, "id"), name_or_id))
			return checkpoint;
	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint)
		if (!strcmp(text(checkpoint, "name"), name_or_id))
			return checkpoint;
	return NULL;
}

json_t *tree_temporary(const json_t *tree, size_t *count)
{
	json_t *checkpoint, *newest = NULL;
	size_t i, found = 0;

	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint) {
		if (!json_is_true(json_object_get(checkpoint, "temporary")))
			continue;
		newest = checkpoint;
		found++;
	}
	if (count)
		*count = found;
	return newest;
}

const char *tree_now(const json_t *tree)
{
	return text(tree, "now");
}

const char *tree_parent(const json_t *tree, const char *path)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(tree, "disks"), i, disk)
		if (!strcmp(text(disk, "path"), path))
			return text(disk, "parent");
	return NULL;
}

void tree_set_parent(json_t *tree, const char *path, const char *parent)
{
	json_array_append_new(json_object_get(tree, "disks"), json_pack("{s:s, s:s}", "path", path, "parent", parent));
}

void tree_forget(json_t *tree, const char *path)
{
	json_t *disks = json_object_get(tree, "disks");
	_cleanup_free_ char *gone = strdup(path);

	for (size_t i = json_array_size(disks); gone && i-- > 0;)
		if (!strcmp(text(json_array_get(disks, i), "path"), gone))
			json_array_remove(disks, i);
}

size_t tree_children(const json_t *tree, const char *path, const char **one)
{
	size_t i, count = 0;
	json_t *disk;

	json_array_foreach(json_object_get(tree, "disks"), i, disk) {
		if (strcmp(text(disk, "parent"), path))
			continue;
		count++;
		if (one)
			*one = text(disk, "path");
	}
	return count;
}

bool tree_is_disk(const json_t *disk)
{
	return !json_is_true(json_object_get(disk, "read_only")) && strcmp(text(disk, "kind"), "dvd");
}

const char *tree_path(const json_t *disk)
{
	return text(disk, "path");
}

static bool config_uses(const json_t *config, const char *path)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(config, "disks"), i, disk)
		if (!strcmp(text(disk, "path"), path))
			return true;
	return false;
}

bool tree_uses(const json_t *tree, const json_t *config, const char *path)
{
	json_t *checkpoint;
	size_t i;

	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint)
		if (config_uses(json_object_get(checkpoint, "config"), path))
			return true;
	return config_uses(config, path);
}

bool tree_names(const json_t *tree, const json_t *config, const char *path)
{
	json_t *checkpoint;
	size_t i;

	json_array_foreach(json_object_get(tree, "checkpoints"), i, checkpoint)
		if (!strcmp(text(checkpoint, "state"), path))
			return true;
	return tree_uses(tree, config, path) || tree_parent(tree, path) || tree_children(tree, path, NULL);
}

void tree_remove(json_t *tree, const char *id)
{
	json_t *list = json_object_get(tree, "checkpoints"), *gone = json_incref(tree_find(tree, id)), *checkpoint;
	json_t *parent = json_object_get(gone, "parent");
	size_t i;

	json_array_foreach(list, i, checkpoint)
		if (!strcmp(text(checkpoint, "parent"), id))
			json_object_set(checkpoint, "parent", parent);
	if (!strcmp(tree_now(tree), id))
		json_object_set(tree, "now", parent);
	for (i = json_array_size(list); i-- > 0;)
		if (json_array_get(list, i) == gone)
			json_array_remove(list, i);
	json_decref(gone);
}

static void config_replace(json_t *config, const char *path, const char *by)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(config, "disks"), i, disk)
		if (!strcmp(text(disk, "path"), path))
			json_object_set_new(disk, "path", json_string(by));
}

void tree_merged(json_t *tree, json_t *config, const char *path, const char *parent)
{
	json_t *disks = json_object_get(tree, "disks"), *entry;
	/* Copies: they may be of what is changed here. */
	_cleanup_free_ char *gone = strdup(path), *by = strdup(parent);
	size_t i;

	if (!gone || !by)
		return;
	json_array_foreach(json_object_get(tree, "checkpoints"), i, entry)
		config_replace(json_object_get(entry, "config"), gone, by);
	config_replace(config, gone, by);
	for (i = json_array_size(disks); i-- > 0;)
		if (!strcmp(text(json_array_get(disks, i), "path"), gone))
			json_array_remove(disks, i);
	json_array_foreach(disks, i, entry)
		if (!strcmp(text(entry, "parent"), gone))
			json_object_set_new(entry, "parent", json_string(by));
}

static bool is_loose(const json_t *tree, const json_t *config, const char *path, const char **child)
{
	*child = NULL;
	return !tree_uses(tree, config, path) && tree_children(tree, path, child) < 2;
}

bool tree_loose(const json_t *tree, const json_t *config, const char **path, const char **child)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(tree, "disks"), i, disk) {
		*path = text(disk, "path");
		if (is_loose(tree, config, *path, child))
			return true;
		*path = text(disk, "parent");
		if (is_loose(tree, config, *path, child))
			return true;
	}
	return false;
}

static void add_file(json_t *list, const char *path)
{
	json_t *has;
	size_t i;

	json_array_foreach(list, i, has)
		if (!strcmp(json_string_value(has), path))
			return;
	json_array_append_new(list, json_string(path));
}

static void add_named(json_t *list, const json_t *object, const char *key)
{
	if (*text(object, key))
		add_file(list, text(object, key));
}

void tree_add_files(const char *directory, json_t *list)
{
	_cleanup_free_ char *path = vm_config_path(TREE_FILE, directory);
	json_t *tree, *entry, *disk;
	size_t i, j;

	if (tree_load(&tree, directory, NULL))
		return;
	json_array_foreach(json_object_get(tree, "disks"), i, entry) {
		add_file(list, text(entry, "path"));
		add_file(list, text(entry, "parent"));
	}
	json_array_foreach(json_object_get(tree, "checkpoints"), i, entry) {
		json_array_foreach(json_object_get(json_object_get(entry, "config"), "disks"), j, disk)
			add_named(list, disk, "path");
		add_named(list, json_object_get(json_object_get(entry, "config"), "boot"), "kernel");
		add_named(list, json_object_get(json_object_get(entry, "config"), "boot"), "initrd");
		add_named(list, entry, "state");
	}
	/* Also when there is nothing in it any more. */
	if (path && !access(path, F_OK))
		add_file(list, TREE_FILE);
	json_decref(tree);
}
