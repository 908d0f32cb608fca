// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A hostile VHDX. A sound image with a written block and a log to replay, or a differencing one whose parent is
 * sound, is patched as the input says,
 * its checksums are made right again unless the input wishes otherwise, and it is opened, checked, read
 * and written. What could be opened for writing and was closed without error must open again.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/crc32c.h"
#include "disk/vhdx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MIB        (1u << 20)
#define IMAGE_SIZE (6 * MIB)
#define CHILD_SIZE (7 * MIB) /* of the differencing one: a bitmap more */
#define CHECK_MAX  (UINT64_C(1) << 36) /* larger disks take the check too long to be fuzzed */

/* The pieces of the file that matter, as patches name them. */
static const struct {
	uint32_t offset, size;
} pieces[] = {
    {0, 8},
    {VHDX_HEADER_OFFSET_1, 80},
    {VHDX_HEADER_OFFSET_2, 80},
    {VHDX_REGION_TABLE_OFFSET_1, 160},
    {VHDX_REGION_TABLE_OFFSET_2, 160},
    {1 * MIB, 128}, /* the log's first entry, with its descriptor */
    {1 * MIB + 8192, 128},
    {1 * MIB, 4 * 4096},
    {2 * MIB, 256},
    {2 * MIB + VHDX_TABLE_SIZE, 64},
    {3 * MIB, 64},
    {2 * MIB + 2 * VHDX_TABLE_SIZE, 512}, /* the parent locator */
    {3 * MIB + 4096 * 8, 8},              /* the bitmap's entry, */
    {4 * MIB, 1024},                      /* and the bitmap */
};

static struct template {
	uint8_t *image;
	uint64_t size;
	char path[64]; /* where the parent is looked for */
} sound, child;

static char directory[32], base[64];
static FILE *nowhere;

static void make_template(struct template *template, const struct disk_create_options *create)
{
	const struct disk_open_options options = {0};
	struct file file = {.fd = memfd_create("template", 0), .direct_fd = -1};
	char sector[512] = "written";
	struct error err;
	struct disk *disk;

	template->image = calloc(1, template->size);
	if (disk_fill_descriptor(file.fd, template->path, create, &err) < 0 ||
	    disk_open_descriptor(&disk, dup(file.fd), template->path, &options, NULL, &err) < 0)
		abort();
	for (unsigned block = 0; block < 2; block++)
		if (disk_write(disk, (block + 1) * MIB, sector, sizeof(sector), &err) < 0 ||
		    disk_flush(disk, &err) < 0)
			abort();
	if (pread(file.fd, template->image, template->size, 0) != (ssize_t)template->size)
		abort();
	disk_close(disk, NULL);
	close(file.fd);
}

static void clean_up(void)
{
	unlink(base);
	rmdir(directory);
}

static void make_templates(void)
{
	struct disk_create_options create = {.format = DISK_FORMAT_VHDX, .size = 8 * MIB, .block_size = MIB};

	nowhere = fopen("/dev/null", "w");
	log_set_stream(nowhere);
	strcpy(directory, "/tmp/fuzz-vhdx-XXXXXX");
	if (!mkdtemp(directory))
		abort();
	snprintf(base, sizeof(base), "%s/base", directory);
	atexit(clean_up);
	sound.size = IMAGE_SIZE;
	strcpy(sound.path, "image");
	make_template(&sound, &create);
	if (disk_create(base, &create, NULL) < 0)
		abort();
	child.size = CHILD_SIZE;
	snprintf(child.path, sizeof(child.path), "%s/image", directory);
	create.parent = base;
	create.size = 0;
	make_template(&child, &create);
}

static void seal(uint8_t *image, uint64_t offset, uint64_t size)
{
	if (!range_fits_u64(offset, size, IMAGE_SIZE) || size < 8)
		return;
	le32_put(image + offset + 4, 0);
	le32_put(image + offset + 4, crc32c(0, image + offset, size));
}

static void seal_all(uint8_t *image, uint8_t wishes)
{
	for (unsigned sector = 0; !(wishes & 1) && sector < 4; sector++) {
		uint64_t at = MIB + sector * 4096u;

		if (memcmp(image + at, VHDX_LOG_ENTRY_SIGNATURE, 4) == 0 &&
		    le32_get(image + at + 8) <= 4 * 4096)
			seal(image, at, le32_get(image + at + 8));
	}
	if (!(wishes & 2)) {
		seal(image, VHDX_HEADER_OFFSET_1, 4096);
		seal(image, VHDX_HEADER_OFFSET_2, 4096);
	}
	if (!(wishes & 4)) {
		seal(image, VHDX_REGION_TABLE_OFFSET_1, VHDX_TABLE_SIZE);
		seal(image, VHDX_REGION_TABLE_OFFSET_2, VHDX_TABLE_SIZE);
	}
}

/* The input: wishes (8: the differencing one), the file's length, then patches of piece, place, count and bytes. */
static int build(const struct template *template, const uint8_t *data, size_t size)
{
	static uint8_t image[CHILD_SIZE];
	uint64_t length = template->size - (data[1] & 0x7f) * (data[1] & 0x80 ? 40000u : 0u);
	int fd = memfd_create("image", MFD_CLOEXEC);
	size_t at = 2;

	memcpy(image, template->image, template->size);
	while (size - at >= 4) {
		unsigned piece = data[at] % ARRAY_SIZE(pieces);
		uint32_t place = le16_get(data + at + 1) % pieces[piece].size;
		size_t count = min_u64(1 + data[at + 3] % 32u, size - at - 4);

		count = min_u64(count, pieces[piece].size - place);
		memcpy(image + pieces[piece].offset + place, data + at + 4, count);
		at += 4 + count;
	}
	seal_all(image, data[0]);
	if (ftruncate(fd, (off_t)length) < 0)
		abort();
	for (uint64_t page = 0; page + 4096 <= length; page += 4096)
		if (image[page] || memcmp(image + page, image + page + 1, 4095) != 0)
			if (pwrite(fd, image + page, 4096, (off_t)page) != 4096)
				abort();
	return fd;
}

static int open_image(struct disk **disk, int fd, const char *path, bool read_only)
{
	const struct disk_open_options options = {.format = DISK_FORMAT_VHDX, .read_only = read_only};
	struct error err = {0};
	int r = disk_open_descriptor(disk, dup(fd), path, &options, NULL, &err);

	if (r < 0 && (err.code != -r || err.text[0] == '\0'))
		abort();
	return r;
}

static void use(struct disk *disk)
{
	static uint8_t buffer[MIB + 8192];
	struct disk_info info;
	uint64_t places[4] = {0, MIB, 0, 0};

	disk_get_info(disk, &info);
	places[2] = info.size / 2;
	places[3] = info.size - min_u64(info.size, 4096);
	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		uint64_t length = places[i] < info.size ? min_u64(info.size - places[i], sizeof(buffer)) : 0;

		disk_read(disk, places[i], buffer, length, NULL);
		if (info.read_only)
			continue;
		disk_write(disk, places[i], buffer, min_u64(length, 4096), NULL);
		if (i % 2 == 0)
			disk_flush(disk, NULL);
	}
}

/* What a repair would do is found out; there is no place for what it would overwrite, so that it ends there, unless
 * nothing has to change. Then it must be sound. */
static void repair(int fd)
{
	char path[32];
	struct error err = {0};
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = disk_repair(path, true, nowhere, &err);
	if (r < 0 && (err.code != -r || err.text[0] == '\0'))
		abort();
	if (r == 0 && disk_check(path, nowhere, NULL) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct template *template;
	struct disk *disk;
	bool small = false;
	int fd;

	if (!sound.image)
		make_templates();
	if (size < 2)
		return 0;
	template = data[0] & 8 ? &child : &sound;
	fd = build(template, data, size);
	if (open_image(&disk, fd, template->path, true) == 0) {
		use(disk);
		small = disk->info.size <= CHECK_MAX;
		if (small)
			disk->ops->check(disk, nowhere, NULL);
		disk_close(disk, NULL);
	}
	if (open_image(&disk, fd, template->path, false) == 0) {
		use(disk);
		if (disk_close(disk, NULL) == 0) {
			if (open_image(&disk, fd, template->path, true) < 0)
				abort();
			disk_close(disk, NULL);
		}
	}
	if (small)
		repair(fd);
	close(fd);
	return 0;
}
