/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/saved_disks.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "disk/disk.h"
#include "vmms/tree.h"

static int check_id(const char *text, struct error *err)
{
	struct guid guid;

	return guid_parse(&guid, text) ? error_set(err, EINVAL, "is no GUID") : 0;
}

static const struct form form_version = {.kind = FORM_INTEGER, .min = 1, .max = 1};
static const struct form form_path = {.kind = FORM_STRING, .text = "as vm.json had it", .min = 1, .max = 4095};
static const struct form form_contents = {.kind = FORM_STRING, .min = 36, .max = 36, .check = check_id};
static const struct form form_disk = {
    .kind = FORM_OBJECT,
    .fields = (const struct form_field[]){{"path", &form_path, NULL, true}, {"contents", &form_contents, NULL, true}, {0}}};
static const struct form form_disks = {.kind = FORM_LIST, .min = 0, .max = VM_DISKS_MAX, .items = &form_disk};
static const struct form saved_disks_form = {
    .kind = FORM_OBJECT,
    .fields = (const struct form_field[]){{"version", &form_version, NULL, true}, {"disks", &form_disks, NULL, true}, {0}}};

static int contents_of(const json_t *disk, const char *directory, char id[GUID_TEXT_SIZE], struct error *err)
{
	_cleanup_free_ char *path = vm_config_path(json_string_value(json_object_get(disk, "path")), directory);
	struct guid contents;
	int r = path ? disk_contents(path, &contents, err) : error_set(err, ENOMEM, "no memory");

	if (!r)
		guid_format(&contents, id);
	return r;
}

int saved_disks_note(const json_t *config, const char *directory, struct error *err)
{
	json_t *disks = json_array(), *disk, *noted;
	char id[GUID_TEXT_SIZE];
	size_t i;
	int r = disks ? 0 : error_set(err, ENOMEM, "no memory");

	json_array_foreach(json_object_get(config, "disks"), i, disk) {
		if (r || !tree_is_disk(disk))
			continue;
		r = contents_of(disk, directory, id, err);
		if (!r && json_array_append_new(disks, json_pack("{s:O, s:s}", "path", json_object_get(disk, "path"), "contents", id)))
			r = error_set(err, ENOMEM, "no memory");
	}
	noted = json_pack("{s:i, s:o}", "version", 1, "disks", disks);
	if (!r)
		r = noted ? vm_json_save(noted, directory, SAVED_DISKS, err) : error_set(err, ENOMEM, "no memory");
	json_decref(noted);
	if (r)
		saved_disks_forget(directory);
	return r;
}

static int compare(const json_t *config, const json_t *noted, const char *directory, struct error *err)
{
	json_t *disk, *was;
	char id[GUID_TEXT_SIZE];
	size_t i, count = 0;

	json_array_foreach(json_object_get(config, "disks"), i, disk) {
		int r;

		if (!tree_is_disk(disk))
			continue;
		was = json_array_get(noted, count++);
		/* How many there are is known by the state too, which says what is to be done then. */
		r = was ? contents_of(disk, directory, id, err) : 0;
		if (r)
			return r;
		if (was && strcasecmp(json_string_value(json_object_get(was, "contents")), id))
			return error_set(err, ESTALE, "disk %s was changed since by another program",
					 json_string_value(json_object_get(disk, "path")));
	}
	return 0;
}

int saved_disks_check(const json_t *config, const char *directory, struct error *err)
{
	json_t *noted = NULL;
	bool missing;
	int r = vm_json_load(&noted, directory, SAVED_DISKS, err);

	if (!r && form_check(&saved_disks_form, noted, err))
		r = error_prefix(err, "%s/" SAVED_DISKS, directory);
	if (!r)
		r = compare(config, json_object_get(noted, "disks"), directory, err);
	missing = !noted && r == -ENOENT;
	json_decref(noted);
	return missing ? 0 : r;
}

void saved_disks_forget(const char *directory)
{
	_cleanup_free_ char *path = vm_config_path(SAVED_DISKS, directory);

	if (path)
		unlink(path);
}
