/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/vhdx_locator.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "disk/utf16.h"
#include "disk/vhdx_format.h"

#define ADVICE      "restore the file from a backup"
#define KEYS        5
#define KEY_MAX     64
#define PATH_UNITS  32767u /* the longest path of Windows */
#define ENTRIES_MAX 256u

static const char *const key_names[KEYS] = {"parent_linkage", "parent_linkage2", "relative_path",
					    "volume_path", "absolute_win32_path"};

static int bad(const char *path, const char *what, struct error *err)
{
	return error_set(err, EBADMSG, "%s: its parent locator %s; " ADVICE, path, what);
}

static int read_text(const uint8_t *item, size_t size, uint32_t offset, uint16_t length, char **out,
		     const char *path, struct error *err)
{
	if (length == 0 || length % 2 != 0 || !range_fits_u64(offset, length, size))
		return error_set(
		    err, EBADMSG,
		    "%s: its parent locator has a text at offset %u of %u bytes, outside its %zu "
		    "bytes or no UTF-16; " ADVICE,
		    path, offset, length, size);
	*out = utf16_to_utf8(item + offset, length / 2);
	if (*out)
		return 0;
	return errno == ENOMEM ? error_set(err, ENOMEM, "%s: no memory to open it", path)
			       : bad(path, "has a text that is no UTF-16", err);
}

static int take_value(char *values[KEYS], const char *key, char **value, const char *path, struct error *err)
{
	for (size_t i = 0; i < KEYS; i++) {
		if (strcmp(key, key_names[i]) != 0)
			continue;
		if (values[i])
			return error_set(err, EBADMSG,
					 "%s: its parent locator has the key \"%s\" twice; " ADVICE, path,
					 key);
		values[i] = *value;
		*value = NULL;
	}
	return 0; /* keys of which nothing is known are left out */
}

static int read_entry(char *values[KEYS], const uint8_t *item, size_t size, unsigned index, const char *path,
		      struct error *err)
{
	_cleanup_free_ char *key = NULL, *value = NULL;
	struct vhdx_locator_entry entry;
	int r;

	memcpy(&entry, item + sizeof(struct vhdx_locator_header) + index * sizeof(entry), sizeof(entry));
	r = read_text(item, size, entry.key_offset, entry.key_length, &key, path, err);
	if (r == 0)
		r = read_text(item, size, entry.value_offset, entry.value_length, &value, path, err);
	return r < 0 ? r : take_value(values, key, &value, path, err);
}

static int take_linkage(struct guid *guid, const char *key, const char *text, const char *path,
			struct error *err)
{
	if (text && guid_parse(guid, text) < 0)
		return error_set(err, EBADMSG, "%s: its parent locator's \"%s\" is \"%s\", no GUID; " ADVICE,
				 path, key, text);
	return 0;
}

static int judge(struct locator *locator, char *values[KEYS], const char *path, struct error *err)
{
	int r;

	if (!values[0])
		return bad(path, "lacks the key \"parent_linkage\"", err);
	if (!values[2] && !values[3] && !values[4])
		return bad(path,
			   "names no file: it has none of the keys \"relative_path\", \"volume_path\" and "
			   "\"absolute_win32_path\"",
			   err);
	r = take_linkage(&locator->linkage, key_names[0], values[0], path, err);
	if (r == 0)
		r = take_linkage(&locator->linkage2, key_names[1], values[1], path, err);
	return r;
}

int locator_parse(struct locator *locator, const uint8_t *item, size_t size, const char *path,
		  struct error *err)
{
	static const struct guid type = VHDX_LOCATOR_TYPE;
	struct vhdx_locator_header header;
	char *values[KEYS] = {NULL}, text[GUID_TEXT_SIZE];
	int r = 0;

	*locator = (struct locator){.relative_path = NULL};
	if (size < sizeof(header))
		return bad(path, "is too short", err);
	memcpy(&header, item, sizeof(header));
	if (!guid_equal(&header.type, &type))
		return error_set(
		    err, ENOTSUP,
		    "%s: its parent locator is of type %s, of which nothing is known; open it with the "
		    "program that wrote it",
		    path, guid_format(&header.type, text));
	if (header.count > ENTRIES_MAX ||
	    sizeof(header) + header.count * sizeof(struct vhdx_locator_entry) > size)
		return bad(path, "claims more entries than it can hold", err);
	for (unsigned i = 0; r == 0 && i < header.count; i++)
		r = read_entry(values, item, size, i, path, err);
	if (r == 0)
		r = judge(locator, values, path, err);
	free(values[0]);
	free(values[1]);
	locator->relative_path = values[2];
	locator->volume_path = values[3];
	locator->absolute_path = values[4];
	if (r < 0)
		locator_clear(locator);
	return r;
}

void locator_clear(struct locator *locator)
{
	free(locator->relative_path);
	free(locator->volume_path);
	free(locator->absolute_path);
	*locator = (struct locator){.relative_path = NULL};
}

static void format_linkage(const struct guid *guid, char text[GUID_TEXT_SIZE + 2])
{
	text[0] = '{';
	guid_format(guid, text + 1);
	strcat(text, "}");
}

int locator_build(const struct locator *locator, uint8_t **item, size_t *size, const char *path,
		  struct error *err)
{
	char linkage[GUID_TEXT_SIZE + 2], linkage2[GUID_TEXT_SIZE + 2];
	const char *values[KEYS] = {linkage, guid_is_zero(&locator->linkage2) ? NULL : linkage2,
				    locator->relative_path, locator->volume_path, locator->absolute_path};
	struct vhdx_locator_header header = {VHDX_LOCATOR_TYPE, 0, 0};
	size_t at = sizeof(header) + KEYS * sizeof(struct vhdx_locator_entry);
	size_t max = at + KEYS * 2 * (PATH_UNITS + KEY_MAX);
	uint8_t *out = calloc(1, max);

	if (!out)
		return error_set(err, ENOMEM, "%s: no memory for its parent locator", path);
	format_linkage(&locator->linkage, linkage);
	format_linkage(&locator->linkage2, linkage2);
	for (size_t i = 0; i < KEYS; i++) {
		struct vhdx_locator_entry entry = {.key_offset = (uint32_t)at};

		if (!values[i])
			continue;
		entry.key_length = (uint16_t)(2 * utf16_put(out + at, KEY_MAX, key_names[i]));
		at += entry.key_length;
		entry.value_offset = (uint32_t)at;
		entry.value_length = (uint16_t)(2 * utf16_put(out + at, PATH_UNITS, values[i]));
		at += entry.value_length;
		if (entry.value_length == 0) {
			free(out);
			return error_set(
			    err, EINVAL,
			    "%s: the path \"%s\" of its parent is no UTF-8 or too long; rename the parent",
			    path, values[i]);
		}
		memcpy(out + sizeof(header) + header.count++ * sizeof(entry), &entry, sizeof(entry));
	}
	memcpy(out, &header, sizeof(header));
	*item = out;
	*size = at;
	return 0;
}

/* With the slash; "" when there is none. To be freed. */
static char *directory_of(const char *path)
{
	_cleanup_free_ char *real = realpath(path, NULL);
	const char *from = real ? real : path, *slash = strrchr(from, '/');

	return strndup(from, slash ? (size_t)(slash - from) + 1 : 0);
}

static char *beside(const char *directory, const char *name)
{
	char *path;

	if (asprintf(&path, "%s%s", directory, name) < 0)
		return NULL;
	for (char *p = path + strlen(directory); *p; p++)
		if (*p == '\\')
			*p = '/';
	return path;
}

static const char *last_part(const char *path)
{
	const char *part = path;

	for (; *path; path++)
		if (*path == '\\' || *path == '/')
			part = path + 1;
	return part;
}

static bool is_relative(const char *path)
{
	return path[0] != '\\' && path[0] != '/' && path[0] != '\0' && path[1] != ':';
}

/* A place that an entry of the locator leads to, or NULL; to be freed. */
static char *place_of(const struct locator *locator, unsigned entry, const char *directory)
{
	const char *named[] = {locator->relative_path, locator->volume_path, locator->absolute_path};
	const char *name = named[entry];

	if (name && (entry > 0 || !is_relative(name)))
		name = last_part(name);
	return name && *name ? beside(directory, name) : NULL;
}

static int not_there(char *const tried[3], const char *path, struct error *err)
{
	char places[3 * 128] = "";

	for (unsigned i = 0; i < 3; i++) {
		size_t used = strlen(places);

		/* Most often they are all the same. */
		if (tried[i] && !strstr(places, tried[i]))
			snprintf(places + used, sizeof(places) - used, "%s%s", used ? ", " : "", tried[i]);
	}
	return error_set(
	    err, ENOENT,
	    "%s: its parent is not there: looked for %s; put it there, or name it by: bulkhead disk reparent",
	    path, places);
}

int locator_find(const struct locator *locator, const char *path, char **parent, bool *stale,
		 struct error *err)
{
	_cleanup_free_ char *directory = directory_of(path);
	char *tried[3] = {NULL};
	int r = -ENOENT;

	for (unsigned i = 0; directory && r < 0 && i < ARRAY_SIZE(tried); i++) {
		tried[i] = place_of(locator, i, directory);
		if (!tried[i] || access(tried[i], F_OK) < 0)
			continue;
		*parent = realpath(tried[i], NULL);
		*stale = i > 0;
		r = 0;
	}
	if (!directory || (r == 0 && !*parent))
		r = error_set(err, ENOMEM, "%s: no memory to find its parent", path);
	else if (r < 0)
		not_there(tried, path, err);
	for (unsigned i = 0; i < ARRAY_SIZE(tried); i++)
		free(tried[i]);
	return r;
}

/* How much of both is the same directories, with the slash. */
static size_t common_length(const char *a, const char *b)
{
	size_t common = 0;

	for (size_t i = 0; a[i] && a[i] == b[i]; i++)
		if (a[i] == '/')
			common = i + 1;
	return common;
}

/* `here` is a directory, with the slash at its end; both are absolute, without links. */
static int way_between(const char *here, const char *there, char **relative, struct error *err)
{
	size_t common = common_length(here, there);
	unsigned up = 0;
	char *out;

	for (const char *p = here + common; *p; p++)
		up += *p == '/';
	if (strchr(there + common, '\\'))
		return error_set(err, EINVAL,
				 "%s: a path with a backslash cannot be written into an image; rename the file",
				 there);
	out = malloc(3 * up + strlen(there + common) + 3);
	if (!out)
		return error_set(err, ENOMEM, "%s: no memory for the name of its parent", here);
	strcpy(out, up ? "" : ".\\");
	for (unsigned i = 0; i < up; i++)
		strcat(out, "..\\");
	strcat(out, there + common);
	for (char *p = out; *p; p++)
		if (*p == '/')
			*p = '\\';
	*relative = out;
	return 0;
}

int locator_relative_path(const char *path, const char *parent, char **relative, struct error *err)
{
	_cleanup_free_ char *there = realpath(parent, NULL), *here = NULL, *name = NULL, *directory = NULL;
	const char *slash = strrchr(path, '/');

	if (!there)
		return error_set(err, errno, "%s: cannot be opened: %s; check the path", parent,
				 strerror(errno));
	name = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	directory = name ? realpath(name, NULL) : NULL;
	if (!directory)
		return error_set(err, errno, "%s: its directory cannot be found: %s; check the path", path,
				 strerror(errno));
	if (asprintf(&here, "%s/", strcmp(directory, "/") ? directory : "") < 0)
		return error_set(err, ENOMEM, "%s: no memory for the name of its parent", path);
	return way_between(here, there, relative, err);
}

int locator_way(const char *path, const char *parent, char **relative, struct error *err)
{
	_cleanup_free_ char *here = NULL;

	if (!path || !parent || path[0] != '/' || parent[0] != '/')
		return error_set(err, EINVAL, "%s: its name and its parent's have to be absolute here",
				 path ? path : "a disk");
	here = strndup(path, (size_t)(strrchr(path, '/') - path) + 1);
	if (!here)
		return error_set(err, ENOMEM, "%s: no memory for the name of its parent", path);
	return way_between(here, parent, relative, err);
}
