// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * build.c - image_build(): the cache, the lock, and the directory that is handed out.
 *
 * What is cached is the file system (root.img) with kernel and initramfs, so one cached build serves
 * disks of every size. A directory appears under its final name only when it is whole.
 */
#include "image/build.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define APPEND   "root=LABEL=bulkhead-root ro console=ttyS0"
#define MIN_SIZE (1ull << 30)
#define MAX_SIZE (64ull << 40)

const char *const *image_names(void)
{
	static const char *const names[] = {"debian-12", NULL};

	return names;
}

static void say(const struct image_build_options *options, const char *text)
{
	if (options->progress)
		options->progress(options->context, text);
}

static int check_options(const struct image_build_options *options, uint64_t size, struct error *err)
{
	if (strcmp(options->name, image_names()[0]) != 0)
		return error_set(err, EINVAL, "there is no image called \"%s\"; there is %s", options->name,
				 image_names()[0]);
	if (size < MIN_SIZE || size > MAX_SIZE || size % 4096)
		return error_set(
		    err, EINVAL,
		    "a disk of %llu bytes cannot be made: it must be from 1 GiB to 64 TiB and a multiple "
		    "of 4096 bytes",
		    (unsigned long long)size);
	for (const char *const *p = options->include; p && *p; p++)
		if (!**p || strspn(*p, "abcdefghijklmnopqrstuvwxyz0123456789+.-") != strlen(*p))
			return error_set(err, EINVAL, "\"%s\" is no package name", *p);
	if (options->mirror &&
	    (strncmp(options->mirror, "http", 4) != 0 || strpbrk(options->mirror, " \t\n")))
		return error_set(err, EINVAL, "\"%s\" is no mirror: give its URL (http://…)",
				 options->mirror);
	return 0;
}

/* FNV-1a: names a cache entry; the inputs themselves lie in it and are compared. */
static uint64_t hash_text(const char *text)
{
	uint64_t hash = 0xcbf29ce484222325;

	for (; *text; text++)
		hash = (hash ^ (uint8_t)*text) * 0x100000001b3;
	return hash;
}

static char *cache_directory(struct error *err)
{
	const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

	if (xdg && *xdg == '/')
		return format_string("%s/bulkhead/images", xdg);
	if (home && *home == '/')
		return format_string("%s/.cache/bulkhead/images", home);
	error_set(err, ENOENT, "there is no place for a cache: set XDG_CACHE_HOME or HOME to a directory");
	return NULL;
}

/* --- what is in the way ------------------------------------------------------------------------- */

static bool is_empty(const char *directory)
{
	DIR *dir = opendir(directory);
	struct dirent *entry;
	bool empty = true;

	if (!dir)
		return false;
	while (empty && (entry = readdir(dir)))
		empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
	closedir(dir);
	return empty;
}

/* 1: the image is there already; 0: it can be made; or -EEXIST. */
static int look_at_target(const struct image_build_options *options, const char *key, uint64_t size,
			  struct error *err)
{
	const char *directory = options->directory;
	_cleanup_free_ char *there = metadata_key(directory);
	struct image image;
	struct stat st;
	bool same;

	if (lstat(directory, &st) < 0 && errno == ENOENT)
		return 0;
	if (!there) {
		if (is_empty(directory))
			return 0;
		return error_set(err, EEXIST, "%s exists and is no image: choose another directory",
				 directory);
	}
	same = strcmp(there, key) == 0 && !options->refresh && image_load(&image, directory, NULL) == 0;
	if (same) {
		same = image.size == size;
		image_free(&image);
	}
	if (same)
		return 1;
	return error_set(err, EEXIST,
			 "%s holds an image already, made from other inputs or damaged: remove it, or choose "
			 "another directory",
			 directory);
}

/* --- the cache ---------------------------------------------------------------------------------- */

static int lock_cache(const char *path, const struct image_build_options *options, struct error *err)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);

	if (fd < 0)
		return error_set(err, errno, "cannot make the lock %s: %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	say(options, "waiting for another build of this image");
	while (flock(fd, LOCK_EX) < 0) {
		if (errno != EINTR) {
			close(fd);
			return error_set(err, errno, "cannot lock %s: %s", path, strerror(errno));
		}
	}
	return fd;
}

/* A tree that may hold files of the users of a namespace. */
static int remove_work(const char *work, struct error *err)
{
	_cleanup_free_ char *log = format_string("%s.log", work);
	char *argv[] = {(char *)"unshare",
			(char *)"--map-auto",
			(char *)"--map-root-user",
			(char *)"rm",
			(char *)"-rf",
			(char *)work,
			NULL};

	if (remove_tree(work, NULL) == 0)
		return 0;
	if (geteuid() != 0)
		run_program(argv, NULL, log, NULL);
	unlink(log);
	return remove_tree(work, err);
}

static bool is_cached(const char *entry, const char *inputs)
{
	_cleanup_free_ char *path = format_string("%s/inputs", entry);
	_cleanup_free_ char *text = access(path, R_OK) == 0 ? read_file(path, NULL, NULL) : NULL;

	return text && strcmp(text, inputs) == 0;
}

/* Make the cache entry; the lock is held. */
static int fill_cache(const char *entry, const char *inputs, const struct image_build_options *options,
		      struct error *err)
{
	_cleanup_free_ char *work = format_string("%s.partial", entry);
	_cleanup_free_ char *path = format_string("%s/inputs", work);
	int r = remove_work(work, err);

	if (r == 0)
		r = make_directories(work, err);
	if (r == 0)
		r = debian_build(work, options, err);
	if (r == 0)
		r = write_file(path, inputs, strlen(inputs), false, err);
	if (r == 0)
		r = remove_work(entry, err);
	if (r == 0 && rename(work, entry) < 0)
		r = error_set(err, errno, "cannot rename %s: %s", work, strerror(errno));
	if (r < 0)
		remove_work(work, NULL);
	return r;
}

/* --- the directory that is handed out ----------------------------------------------------------- */

static int fill_target(const char *entry, const char *to, const char *key, uint64_t size,
		       const struct image_build_options *options, struct error *err)
{
	static const char *const copies[] = {"vmlinuz", "initrd.img"};
	_cleanup_free_ char *root = format_string("%s/root.img", entry);
	_cleanup_free_ char *disk = format_string("%s/disk.vhdx", to);
	_cleanup_free_ char *list = format_string("%s/packages", entry);
	_cleanup_free_ char *metadata = format_string("%s/image.json", to);
	_cleanup_free_ char *packages = read_file(list, NULL, err);
	struct stat st;
	int r;

	if (!packages)
		return -EIO;
	if (stat(root, &st) < 0)
		return error_set(err, errno, "cannot read %s: %s", root, strerror(errno));
	r = make_directories(to, err);
	if (r == 0)
		r = check_space(to, (uint64_t)st.st_blocks * 512 + (128u << 20), err);
	if (r == 0)
		r = write_disk(root, disk, size, err);
	for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(copies); i++) {
		_cleanup_free_ char *a = format_string("%s/%s", entry, copies[i]);
		_cleanup_free_ char *b = format_string("%s/%s", to, copies[i]);

		r = copy_file(a, b, err);
	}
	if (r == 0)
		r = metadata_write(metadata, options->name, key, size, APPEND, packages, err);
	return r;
}

static int install_target(const char *entry, const char *key, uint64_t size,
			  const struct image_build_options *options, struct error *err)
{
	_cleanup_free_ char *directory = format_string("%s", options->directory);
	_cleanup_free_ char *partial = NULL;
	int r;

	for (size_t n = strlen(directory); n > 1 && directory[n - 1] == '/'; n--)
		directory[n - 1] = '\0';
	partial = format_string("%s.partial", directory);
	say(options, "writing the disk");
	r = remove_tree(partial, err);
	if (r == 0)
		r = fill_target(entry, partial, key, size, options, err);
	if (r == 0 && rename(partial, directory) < 0)
		r = error_set(err, errno, "cannot rename %s to %s: %s", partial, directory, strerror(errno));
	if (r < 0)
		remove_tree(partial, NULL);
	return r;
}

/* --- the whole ---------------------------------------------------------------------------------- */

static int build_locked(const char *cache, const char *key, const char *inputs, uint64_t size,
			const struct image_build_options *options, struct error *err)
{
	_cleanup_free_ char *entry = format_string("%s/%s", cache, key);
	_cleanup_free_ char *lock = format_string("%s/%s.lock", cache, options->name);
	_cleanup_close_ int fd = lock_cache(lock, options, err);
	int r = 0;

	if (fd < 0)
		return fd;
	if (options->refresh || !is_cached(entry, inputs))
		r = fill_cache(entry, inputs, options, err);
	if (r == 0)
		r = install_target(entry, key, size, options, err);
	return r;
}

int image_build(const struct image_build_options *options, struct error *err)
{
	uint64_t size = options->size ? options->size : IMAGE_DEFAULT_SIZE;
	_cleanup_free_ char *inputs = NULL;
	_cleanup_free_ char *cache = NULL;
	_cleanup_free_ char *key = NULL;
	int r = check_options(options, size, err);

	if (r < 0)
		return r;
	inputs = debian_inputs(options);
	key = format_string("%s-%016llx", options->name, (unsigned long long)hash_text(inputs));
	r = look_at_target(options, key, size, err);
	if (r != 0)
		return r < 0 ? r : 0;
	cache = cache_directory(err);
	if (!cache)
		return -ENOENT;
	r = make_directories(cache, err);
	if (r == 0)
		r = build_locked(cache, key, inputs, size, options, err);
	return r;
}
