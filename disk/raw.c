/* SPDX-License-Identifier: GPL-2.0-or-later */
/* raw.c - a file or block device that is the disk, byte for byte. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/image.h"

#define RAW_SECTOR_SIZE          512u
#define RAW_PHYSICAL_SECTOR_SIZE 4096u

static int raw_map(struct disk *disk, enum map_purpose purpose, uint64_t offset, uint64_t length,
		   struct extent *extent)
{
	*extent = (struct extent){.kind = EXTENT_FILE, .length = length, .file = &disk->file, .file_offset = offset};
	return 0;
}

static int raw_commit(struct disk *disk)
{
	return file_sync(&disk->file);
}

static int raw_resize(struct disk *disk, uint64_t size, struct error *err)
{
	struct stat st;
	int r = fstat(disk->file.fd, &st) < 0 ? -errno : 0;

	if (r == 0 && S_ISBLK(st.st_mode))
		return error_set(err, ENOTSUP, "%s: a block device; its own tools change its size", disk->path);
	if (r == 0)
		r = file_resize(&disk->file, size);
	if (r == 0)
		r = file_sync(&disk->file);
	if (r == 0)
		disk->info.size = size;
	else if (file_resize(&disk->file, disk->info.size) < 0)
		disk->info.size = min_u64(size, disk->info.size);
	return r < 0 ? error_set(err, -r, "%s: cannot be made %ju bytes long: %s", disk->path, (uintmax_t)size,
				 strerror(-r))
		     : 0;
}

static const struct disk_ops raw_ops = {.map = raw_map, .commit = raw_commit, .resize = raw_resize};

static uint64_t mix(uint64_t v)
{
	v = (v ^ (v >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	v = (v ^ (v >> 27)) * UINT64_C(0x94d049bb133111eb);
	return v ^ (v >> 31);
}

/* The same file keeps its identity as long as it is the same file, whatever its name. */
static void raw_identify(struct disk *disk)
{
	struct stat st;
	uint64_t seed;

	if (fstat(disk->file.fd, &st) < 0)
		return;
	seed = S_ISBLK(st.st_mode) ? (uint64_t)st.st_rdev : mix((uint64_t)st.st_dev) ^ (uint64_t)st.st_ino;
	le64_put(disk->info.identifier.bytes, mix(seed + 1));
	le64_put(disk->info.identifier.bytes + 8, mix(seed + 2));
}

int raw_open(struct disk *disk, const struct disk_open_options *options, struct error *err)
{
	uint64_t size;
	int r = file_size(&disk->file, &size);

	if (r < 0)
		return error_set(err, -r, "%s: its size cannot be found: %s", disk->path, strerror(-r));
	disk->ops = &raw_ops;
	disk->info.format = DISK_FORMAT_RAW;
	disk->info.size = size & ~(uint64_t)(RAW_SECTOR_SIZE - 1);
	disk->info.logical_sector_size = RAW_SECTOR_SIZE;
	disk->info.physical_sector_size = RAW_PHYSICAL_SECTOR_SIZE;
	disk->info.can_discard = !disk->info.read_only;
	raw_identify(disk);
	if (disk->info.size == 0)
		return error_set(
		    err, EINVAL,
		    "%s: %ju bytes are too few for a disk of %u-byte sectors; is it the right file?",
		    disk->path, (uintmax_t)size, RAW_SECTOR_SIZE);
	return 0;
}
