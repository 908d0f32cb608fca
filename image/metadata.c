// SPDX-License-Identifier: GPL-2.0-or-later
/* metadata.c - image.json: what an image is and how it boots. */
#include "image/build.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define VERSION 1
#define SIZE_MAX_BYTES (16 << 20)

/* "name version" lines into an array of objects. */
static json_t *package_array(const char *packages)
{
	_cleanup_free_ char *copy = format_string("%s", packages);
	json_t *array = json_array();
	char *state = NULL;

	for (char *line = strtok_r(copy, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
		char *space = strchr(line, ' ');

		if (!space)
			continue;
		*space = '\0';
		json_array_append_new(array, json_pack("{s:s, s:s}", "name", line, "version", space + 1));
	}
	return array;
}

int metadata_write(const char *path, const char *name, const char *key, uint64_t size, const char *append,
		   const char *packages, struct error *err)
{
	char created[32];
	time_t now = time(NULL);
	struct tm utc;
	json_t *root;
	char *text;
	int r;

	strftime(created, sizeof(created), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
	root = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:o}", "version", VERSION, "name",
			 name, "key", key, "disk", "disk.vhdx", "kernel", "vmlinuz", "initrd", "initrd.img",
			 "append", append, "created", created, "size", (json_int_t)size, "packages",
			 package_array(packages));
	text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
	json_decref(root);
	if (!text)
		return error_set(err, ENOMEM, "no memory for %s", path);
	r = write_file(path, text, strlen(text), false, err);
	free(text);
	return r;
}

static json_t *metadata_read(const char *directory, struct error *err)
{
	_cleanup_free_ char *path = format_string("%s/image.json", directory);
	_cleanup_close_ int fd = -1;
	json_error_t at;
	struct stat st;
	json_t *root;

	if (access(path, F_OK) < 0) {
		error_set(
		    err, ENOENT,
		    "%s is no image: it has no image.json (make one with: bulkhead image build debian-12 %s)",
		    directory, directory);
		return NULL;
	}
	/* Somebody else may have made it: a pipe would be waited for. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st)) {
		error_set(err, errno, "%s: %s", path, strerror(errno));
		return NULL;
	}
	if (!S_ISREG(st.st_mode) || st.st_size > SIZE_MAX_BYTES) {
		error_set(err, EBADMSG, "%s is no plain file of at most 16 MiB", path);
		return NULL;
	}
	root = json_loadfd(fd, 0, &at);
	if (!root)
		error_set(err, EBADMSG, "%s is damaged: line %d: %s", path, at.line, at.text);
	return root;
}

char *metadata_key(const char *directory)
{
	json_t *root = metadata_read(directory, NULL);
	const char *key = json_string_value(json_object_get(root, "key"));
	char *copy = key ? format_string("%s", key) : NULL;

	json_decref(root);
	return copy;
}

/* The path of a file of the image; NULL with err set. A name may not leave the directory. */
static char *member(json_t *root, const char *field, const char *directory, struct error *err)
{
	const char *name = json_string_value(json_object_get(root, field));
	char *path;

	if (!name || !*name || strchr(name, '/')) {
		error_set(err, EBADMSG,
			  "%s/image.json is damaged: \"%s\" is not the name of a file beside it", directory,
			  field);
		return NULL;
	}
	path = format_string("%s/%s", directory, name);
	if (access(path, R_OK) < 0) {
		error_set(err, errno, "the image in %s cannot be used: its %s: %s", directory, name,
			  strerror(errno));
		free(path);
		return NULL;
	}
	return path;
}

int image_load(struct image *image, const char *directory, struct error *err)
{
	json_t *root = metadata_read(directory, err);
	const char *append = json_string_value(json_object_get(root, "append"));
	const char *name = json_string_value(json_object_get(root, "name"));
	json_int_t version = json_integer_value(json_object_get(root, "version"));
	struct error ours = {0};

	memset(image, 0, sizeof(*image));
	if (!root)
		return access(directory, F_OK) < 0 || !err ? -ENOENT : -err->code;
	if (version > VERSION) {
		error_set(&ours, ENOTSUP,
			  "%s/image.json has version %lld, this program knows %d: a newer bulkhead made it",
			  directory, (long long)version, VERSION);
	} else if (version < 1 || !append || !name) {
		error_set(&ours, EBADMSG, "%s/image.json is damaged: version, name or append is missing",
			  directory);
	} else {
		image->name = format_string("%s", name);
		image->append = format_string("%s", append);
		image->size = (uint64_t)json_integer_value(json_object_get(root, "size"));
		image->disk = member(root, "disk", directory, &ours);
		image->kernel = image->disk ? member(root, "kernel", directory, &ours) : NULL;
		image->initrd = image->kernel ? member(root, "initrd", directory, &ours) : NULL;
	}
	json_decref(root);
	if (ours.code == 0)
		return 0;
	image_free(image);
	return error_set(err, ours.code, "%s", ours.text);
}

void image_free(struct image *image)
{
	free(image->name);
	free(image->disk);
	free(image->kernel);
	free(image->initrd);
	free(image->append);
	memset(image, 0, sizeof(*image));
}
