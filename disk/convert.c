/* SPDX-License-Identifier: GPL-2.0-or-later */
/* convert.c - a new image with the contents of another, which appears when it is whole. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "disk/copy.h"
#include "disk/new_file.h"

/* What the contents come from: one of both. */
struct contents {
	struct disk *disk;
	const struct disk_source *source;
};

#define SAMPLES     64u /* of a file, to see whether the host has it in its cache */
#define SAMPLE_SIZE 65536u

/* The new image goes past the host's cache: it need not be copied there, and is on its way to the medium while the
 * next pieces are read. */
static int copy_into(int fd, const char *to, const struct contents *contents,
		     const struct disk_create_options *options, const struct disk_progress *progress,
		     struct error *err)
{
	const struct disk_open_options open_options = {.format = options->format, .direct = true};
	struct disk *disk;
	int r, closed;

	fd = dup(fd);
	if (fd < 0)
		return error_set(err, errno, "%s: cannot be opened: %s", to, strerror(errno));
	r = disk_open_descriptor(&disk, fd, to, &open_options, NULL, err);
	if (r < 0)
		return r;
	r = contents->disk ? copy_disk(contents->disk, disk, progress, err)
			   : copy_source(contents->source, disk, progress, err);
	closed = disk_close(disk, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

static int make(const struct contents *contents, const char *to, const struct disk_create_options *options,
		const struct disk_progress *progress, struct error *err)
{
	struct new_file file;
	int r = options->parent ? error_set(err, EINVAL, "%s: a converted disk has no parent; leave it out", to)
				: new_file_begin(&file, to, options->replace, err);

	if (r < 0)
		return r;
	r = disk_fill_descriptor(file.fd, to, options, err);
	if (r == 0)
		r = copy_into(file.fd, to, contents, options, progress, err);
	if (r < 0) {
		new_file_abandon(&file);
		return r;
	}
	return new_file_finish(&file, to, options->replace, err);
}

static int check_size(const char *to, uint64_t from_size, uint64_t size, struct error *err)
{
	if (size >= from_size)
		return 0;
	return error_set(err, EINVAL,
			 "%s: a size of %ju bytes is too small for contents of %ju; choose at least that, and "
			 "shrink the disk later",
			 to, (uintmax_t)size, (uintmax_t)from_size);
}

/* A raw file that ends inside a sector shows less than it holds. */
static int check_tail(const struct disk *from, struct error *err)
{
	uint64_t size;

	if (from->info.format != DISK_FORMAT_RAW || file_size(&from->file, &size) < 0 ||
	    size == from->info.size)
		return 0;
	return error_set(err, EINVAL,
			 "%s: its last %ju bytes are no whole sector of %u bytes and would be lost; make it "
			 "longer first, by: truncate -s %%%u",
			 from->path, (uintmax_t)(size - from->info.size), from->info.logical_sector_size,
			 from->info.logical_sector_size);
}

/* Whether most of a sample of the file is in memory already, as far as the host tells. */
static bool sample_is_cached(const struct file *file, uint64_t offset, size_t size)
{
	unsigned char pages[SAMPLE_SIZE / 4096] = {0};
	size_t page_size = (size_t)sysconf(_SC_PAGESIZE), count = (size + page_size - 1) / page_size, there = 0;
	void *at = mmap(NULL, size, PROT_READ, MAP_SHARED, file->fd, (off_t)offset);

	if (at == MAP_FAILED)
		return false;
	if (mincore(at, size, pages) == 0)
		for (size_t i = 0; i < count; i++)
			there += pages[i] & 1;
	munmap(at, size);
	return there * 2 > count;
}

static bool is_cached(const struct file *file)
{
	unsigned looked = 0, cached = 0;
	uint64_t size;

	if (file_size(file, &size) < 0)
		return false;
	for (unsigned i = 0; i < SAMPLES; i++) {
		uint64_t at = file_next_data(file, size / SAMPLES * i) / SAMPLE_SIZE * SAMPLE_SIZE;

		if (at >= size)
			break;
		looked++;
		cached += sample_is_cached(file, at, min_u64(size - at, SAMPLE_SIZE));
	}
	return cached * 2 > looked;
}

/* What is in the host's cache is read from there; what is not, goes past it. */
static void prefer_cache(struct disk *disk)
{
	for (struct disk *d = disk; d; d = d->parent) {
		if (d->file.direct_fd < 0 || !is_cached(&d->file))
			continue;
		close(d->file.direct_fd);
		d->file.direct_fd = -1;
	}
}

int disk_convert(const char *from, const struct disk_open_options *from_options, const char *to,
		 const struct disk_create_options *options, const struct disk_progress *progress,
		 struct error *err)
{
	struct disk_open_options open_options = from_options ? *from_options : (struct disk_open_options){0};
	struct disk_create_options o = *options;
	struct contents contents = {0};
	int r;

	open_options.read_only = open_options.direct = true;
	r = disk_open(&contents.disk, from, &open_options, err);
	if (r < 0)
		return r;
	prefer_cache(contents.disk);
	if (o.size == 0)
		o.size = contents.disk->info.size;
	if (o.logical_sector_size == 0)
		o.logical_sector_size = contents.disk->info.logical_sector_size;
	if (o.physical_sector_size == 0 && o.format != DISK_FORMAT_VHD)
		o.physical_sector_size = contents.disk->info.physical_sector_size;
	r = check_tail(contents.disk, err);
	if (r == 0)
		r = check_size(to, contents.disk->info.size, o.size, err);
	if (r == 0)
		r = make(&contents, to, &o, progress, err);
	disk_close(contents.disk, NULL);
	return r;
}

int disk_import(const struct disk_source *source, const char *to, const struct disk_create_options *options,
		const struct disk_progress *progress, struct error *err)
{
	struct disk_create_options o = *options;
	struct contents contents = {.source = source};
	int r;

	if (o.size == 0)
		o.size = source->size;
	r = check_size(to, source->size, o.size, err);
	return r < 0 ? r : make(&contents, to, &o, progress, err);
}
