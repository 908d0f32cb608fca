/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/images.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/text.h"
#include "disk/disk.h"
#include "image/image.h"
#include "vmms/files.h"

/* image/image.h says which files an image has. */
static const char *const image_files[] = {"image.json", "disk.vhdx", "vmlinuz", "initrd.img"};

static int check_name(const char *name, struct error *err)
{
	return image_name_check(name, err);
}

static const struct form form_name = {.kind = FORM_STRING, .text = "what the library calls it", .min = 1, .max = 100,
				      .check = check_name};
static const struct form form_build = {.kind = FORM_STRING, .text = "a distribution's image, such as debian-12", .min = 1,
				       .max = 100};
static const struct form form_directory = {.kind = FORM_STRING, .text = "an image that is there, to be copied", .min = 1,
					   .max = 4095};
const struct form image_add_form = {.kind = FORM_OBJECT,
				    .text = "a new image: one of \"build\" and \"directory\"",
				    .fields = (const struct form_field[]){
					{"name", &form_name, NULL, true},
					{"build", &form_build, NULL, false},
					{"directory", &form_directory, NULL, false},
					{0},
				    }};

int image_name_check(const char *name, struct error *err)
{
	if (*name == '.' || *name == '-' || strchr(name, '/'))
		return error_set(err, EINVAL, "may not begin with a dot or a dash, nor have a slash in it");
	return strchr(name, ' ') ? error_set(err, EINVAL, "may not have a space in it") : text_check_name(name, err);
}

static char *image_path(const struct vmms *vmms, const char *prefix, const char *name)
{
	char *path;

	return asprintf(&path, "%s/images/%s%s", vmms->options->state, prefix, name) < 0 ? NULL : path;
}

/* --- list --------------------------------------------------------------------------------------------- */

static const struct form form_made_of = {.kind = FORM_STRING, .text = "what it says that it is", .max = INT64_MAX};
static const struct form form_size = {.kind = FORM_INTEGER, .text = "of its disk, in bytes", .max = INT64_MAX};
static const struct form form_disk_bytes = {.kind = FORM_INTEGER, .text = "that the disk takes", .max = INT64_MAX};
static const struct form form_problem = {.kind = FORM_STRING, .text = "it is damaged: why", .max = INT64_MAX};
const struct form image_form = {.kind = FORM_OBJECT,
				.name = "Image",
				.text = "an image of the library",
				.fields = (const struct form_field[]){
				    {"name", &answer_text, NULL, true},
				    {"image", &form_made_of, NULL, false},
				    {"size", &form_size, NULL, false},
				    {"disk_bytes", &form_disk_bytes, NULL, false},
				    {"problem", &form_problem, NULL, false},
				    {0},
				}};

static json_t *describe(struct vmms *vmms, const char *name)
{
	_cleanup_free_ char *path = image_path(vmms, "", name);
	struct image image = {0};
	struct error err = {0};
	struct stat st;
	json_t *json = json_pack("{s:s}", "name", name);

	if (!path || image_load(&image, path, &err)) {
		json_object_set_new(json, "problem", json_string(path ? err.text : "no memory"));
		return json;
	}
	json_object_set_new(json, "image", json_string(image.name));
	json_object_set_new(json, "size", json_integer((json_int_t)image.size));
	if (!stat(image.disk, &st))
		json_object_set_new(json, "disk_bytes", json_integer((json_int_t)st.st_blocks * 512));
	image_free(&image);
	return json;
}

static int is_image(const struct dirent *entry)
{
	return !image_name_check(entry->d_name, NULL);
}

static int scan(struct vmms *vmms, int (*which)(const struct dirent *), struct dirent ***entries, struct error *err)
{
	_cleanup_free_ char *path = image_path(vmms, "", "");
	int n = path ? scandir(path, entries, which, alphasort) : -1;

	return n < 0 ? error_set(err, errno, "%s cannot be read: %s", path ? path : "images", strerror(errno)) : n;
}

int images_list(struct vmms *vmms, json_t **list, struct error *err)
{
	struct dirent **entries;
	int n = scan(vmms, is_image, &entries, err);

	if (n < 0)
		return n;
	*list = json_array();
	for (int i = 0; i < n; i++) {
		json_array_append_new(*list, describe(vmms, entries[i]->d_name));
		free(entries[i]);
	}
	free(entries);
	return 0;
}

/* --- delete ------------------------------------------------------------------------------------------- */

/* Of an image only what belongs to one goes; a directory with more in it stays, with that. No file of it may be open here meanwhile:
 * NFS gives such a one another name, by which the directory is not empty. */
static int remove_image(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return errno == ELOOP || errno == ENOTDIR ? (unlink(path) ? -errno : 0) : -errno;
	for (size_t i = 0; i < ARRAY_SIZE(image_files); i++)
		unlinkat(fd, image_files[i], 0);
	return rmdir(path) ? -errno : 0;
}

struct removal {
	uv_work_t request;
	char path[];
};

static void remove_on_pool(uv_work_t *request)
{
	const struct removal *removal = request->data;
	int r = remove_image(removal->path);

	if (r && r != -ENOENT)
		log_write(LOG_LEVEL_WARNING, "%s cannot be removed: %s", removal->path, strerror(-r));
}

static void removed(uv_work_t *request, int status)
{
	(void)status;
	free(request->data);
}

/* Freeing the blocks of a big file takes its time. What does not come to its end is done at the next start. */
static void remove_aside(struct vmms *vmms, const char *hidden)
{
	struct removal *removal = malloc(sizeof(*removal) + strlen(hidden) + 1);

	if (!removal)
		return;
	strcpy(removal->path, hidden);
	removal->request.data = removal;
	if (uv_queue_work(&vmms->loop, &removal->request, remove_on_pool, removed))
		free(removal);
}

static int is_no_image_file(const struct dirent *entry)
{
	for (size_t i = 0; i < ARRAY_SIZE(image_files); i++)
		if (!strcmp(entry->d_name, image_files[i]))
			return 0;
	return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

/* Nothing goes that is none of ours. */
static int check_only_image(const char *path, struct error *err)
{
	struct dirent **others;
	struct stat st;
	int n, r = 0;

	if (lstat(path, &st) || !S_ISDIR(st.st_mode))
		return 0;
	n = scandir(path, &others, is_no_image_file, NULL);
	if (n < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (n)
		r = error_set(err, EEXIST, "%s has more in it than an image, such as %s: it stays", path, others[0]->d_name);
	for (int i = 0; i < n; i++)
		free(others[i]);
	free(others);
	return r;
}

/* Not by the image's name alone: others of the same name may be under way. */
static char *hidden_path(const struct vmms *vmms, const char *name)
{
	char prefix[48], id[GUID_TEXT_SIZE];
	struct guid guid;

	guid_random(&guid);
	snprintf(prefix, sizeof(prefix), ".new-%s-", guid_format(&guid, id));
	return image_path(vmms, prefix, name);
}

int image_delete(struct vmms *vmms, const char *name, struct error *err)
{
	_cleanup_free_ char *path = NULL, *hidden = NULL;
	struct error why = {0};
	int r;

	if (image_name_check(name, &why))
		return error_set(err, ENOENT, "there is no image \"%.100s\"", name);
	path = image_path(vmms, "", name);
	hidden = hidden_path(vmms, name);
	r = path && hidden ? check_only_image(path, err) : error_set(err, ENOMEM, "no memory");
	if (r)
		return r;
	if (rename(path, hidden))
		return errno == ENOENT ? error_set(err, ENOENT, "there is no image \"%s\": bulkhead image list shows what there is", name)
				       : error_set(err, errno, "%s cannot be removed: %s", path, strerror(errno));
	remove_aside(vmms, hidden);
	vmms_event(vmms, NULL, "image.deleted", "%s", name);
	return 0;
}

static int is_unfinished(const struct dirent *entry)
{
	return !strncmp(entry->d_name, ".new-", 5);
}

void images_tidy(struct vmms *vmms)
{
	struct dirent **entries;
	int n = scan(vmms, is_unfinished, &entries, NULL);

	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *path = image_path(vmms, "", entries[i]->d_name);

		if (path)
			remove_aside(vmms, path);
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
}

/* --- add ---------------------------------------------------------------------------------------------- */

struct addition {
	char *name, *build, *from, *temporary, *path;
};

static void addition_free(struct addition *addition)
{
	free(addition->name);
	free(addition->build);
	free(addition->from);
	free(addition->temporary);
	free(addition->path);
	free(addition);
}

/* Of another's directory: no link leads out of it. */
static int copy_plain(const char *from, int to, const char *name, struct error *err)
{
	_cleanup_close_ int fd = file_open_plain(from, true, err);

	return fd < 0 ? fd : file_copy(fd, to, name, NULL, err);
}

static int copy_disk(struct job *job, const char *from, const char *to, struct error *err)
{
	struct disk_progress progress = {job_step, job};
	struct disk_create_options options = {.format = DISK_FORMAT_VHDX};
	struct disk_open_options open_options = {.read_only = true};
	/* By its descriptor: what is opened is what was looked at. */
	_cleanup_close_ int fd = open(from, O_PATH | O_CLOEXEC | O_NOFOLLOW);
	char path[40];
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return error_set(err, errno, "%s: %s", from, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return error_set(err, EINVAL, "%s is no plain file", from);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return disk_convert(path, &open_options, to, &options, &progress, err) ? error_prefix(err, "%s", from) : 0;
}

static int copy_image(struct job *job, const struct addition *addition, struct error *err)
{
	_cleanup_close_ int to = open(addition->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ char *disk = NULL, *json = NULL;
	struct image image = {0};
	int r;

	if (to < 0)
		return error_set(err, errno, "%s: %s", addition->temporary, strerror(errno));
	if (asprintf(&disk, "%s/disk.vhdx", addition->temporary) < 0 || asprintf(&json, "%s/image.json", addition->from) < 0)
		return error_set(err, ENOMEM, "no memory");
	r = image_load(&image, addition->from, err);
	if (r)
		return r;
	r = copy_plain(image.kernel, to, "vmlinuz", err);
	if (!r)
		r = copy_plain(image.initrd, to, "initrd.img", err);
	if (!r)
		r = copy_disk(job, image.disk, disk, err);
	if (!r)
		r = copy_plain(json, to, "image.json", err);
	image_free(&image);
	return r;
}

static int build_image(const struct addition *addition, struct error *err)
{
	struct image_build_options options = {.name = addition->build, .directory = addition->temporary};

	return image_build(&options, err);
}

static int add_work(struct job *job, struct error *err)
{
	struct addition *addition = job->context;
	int r = 0;

	/* The image maker makes its directory itself. */
	if (addition->from && mkdir(addition->temporary, 0755))
		return error_set(err, errno, "%s: %s", addition->temporary, strerror(errno));
	r = addition->from ? copy_image(job, addition, err) : build_image(addition, err);
	if (!r && rename(addition->temporary, addition->path))
		r = error_set(err, errno == ENOTEMPTY ? EEXIST : errno, "there is an image \"%s\" already: delete it first",
			      addition->name);
	if (r)
		remove_image(addition->temporary);
	return r;
}

static void add_done(struct job *job, int result)
{
	struct addition *addition = job->context;

	if (!result)
		vmms_event(job->vmms, NULL, "image.added", "%s", addition->name);
	job_end(job, result ? &job->error : NULL);
	addition_free(addition);
}

static int check_request(struct vmms *vmms, const json_t *request, struct error *err)
{
	const char *name = json_string_value(json_object_get(request, "name"));
	_cleanup_free_ char *path = image_path(vmms, "", name);
	struct stat st;

	if (!json_object_get(request, "build") == !json_object_get(request, "directory"))
		return error_set(err, EINVAL, "give one of \"build\" and \"directory\"");
	if (path && !lstat(path, &st))
		return error_set(err, EEXIST, "there is an image \"%s\" already: delete it first, or choose another name", name);
	return 0;
}

static char *copy_of(const json_t *request, const char *key)
{
	const char *text = json_string_value(json_object_get(request, key));

	return text ? strdup(text) : NULL;
}

int image_add(struct vmms *vmms, const json_t *request, struct job **job, struct error *err)
{
	struct addition *addition;
	int r = check_request(vmms, request, err);

	if (r)
		return r;
	addition = calloc(1, sizeof(*addition));
	if (!addition)
		return error_set(err, ENOMEM, "no memory");
	addition->name = copy_of(request, "name");
	addition->build = copy_of(request, "build");
	addition->from = copy_of(request, "directory");
	if (addition->name) {
		addition->temporary = hidden_path(vmms, addition->name);
		addition->path = image_path(vmms, "", addition->name);
	}
	r = addition->temporary && addition->path ? job_new(job, vmms, NULL, "image.add", err) : error_set(err, ENOMEM, "no memory");
	if (r) {
		addition_free(addition);
		return r;
	}
	(*job)->work = add_work;
	(*job)->done = add_done;
	(*job)->context = addition;
	job_work(*job);
	return 0;
}
