/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_vhd.c - opening, reading and writing VHD files that somebody else has written: fixed, dynamic and
 * differencing. The input patches the structures of a sound file; the checksums are mended afterwards, unless
 * it wishes otherwise, so that what lies behind them is reached.
 */
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "disk/vhd.h"

#define MIB       (1u << 20)
#define DISK_SIZE (2 * MIB)
#define BLOCK     (512u << 10)
#define FILE_MAX  (3 * MIB)
#define CHECK_MAX (UINT64_C(1) << 40)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct template {
	char path[64];
	uint8_t image[FILE_MAX];
	uint64_t size;
};

static struct template templates[3];
static char directory[32], base[64];
static FILE *nowhere;

static void make_template(struct template *template, const struct disk_create_options *create)
{
	const struct disk_open_options options = {.format = DISK_FORMAT_VHD};
	int fd = memfd_create("template", MFD_CLOEXEC);
	struct error err = {0};
	struct disk *disk;

	if (disk_fill_descriptor(fd, template->path, create, &err) < 0 ||
	    disk_open_descriptor(&disk, dup(fd), template->path, &options, NULL, &err) < 0)
		abort();
	for (unsigned i = 0; i < 2; i++)
		if (disk_write(disk, i * MIB, directory, 512 / 16, &err) < 0)
			abort();
	disk_close(disk, NULL);
	template->size = (uint64_t)lseek(fd, 0, SEEK_END);
	if (template->size > FILE_MAX ||
	    pread(fd, template->image, template->size, 0) != (ssize_t)template->size)
		abort();
	close(fd);
}

static void clean_up(void)
{
	unlink(base);
	rmdir(directory);
}

static void make_templates(void)
{
	struct disk_create_options create = {.format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = BLOCK};
	struct disk_create_options fixed = {.format = DISK_FORMAT_VHD, .size = DISK_SIZE, .fixed = true};

	nowhere = fopen("/dev/null", "w");
	log_set_stream(nowhere);
	strcpy(directory, "/tmp/fuzz-vhd-XXXXXX");
	if (!mkdtemp(directory))
		abort();
	snprintf(base, sizeof(base), "%s/base", directory);
	atexit(clean_up);
	for (unsigned i = 0; i < ARRAY_SIZE(templates); i++)
		snprintf(templates[i].path, sizeof(templates[i].path), "%s/image", directory);
	make_template(&templates[0], &create);
	make_template(&templates[1], &fixed);
	if (disk_create(base, &create, NULL) < 0)
		abort();
	create.parent = base;
	create.size = 0;
	make_template(&templates[2], &create);
}

static void seal_footer(uint8_t *image, uint64_t offset)
{
	vhd_seal_footer((struct vhd_footer *)(image + offset));
}

static void seal_header(uint8_t *image, uint64_t offset)
{
	struct vhd_dynamic_header header;

	memcpy(&header, image + offset, sizeof(header));
	be32_put(header.checksum,
		 vhd_checksum(&header, sizeof(header), offsetof(struct vhd_dynamic_header, checksum)));
	memcpy(image + offset, &header, sizeof(header));
}

/* Where patches go: both footers, the header, what follows it (BAT, paths), a bitmap, anywhere. */
static uint64_t piece_offset(const struct template *template, unsigned piece, uint64_t place, uint64_t *room)
{
	const uint64_t offsets[] = {0, 512, 1536, template->size - 512, 3584, 0};
	const uint64_t sizes[] = {512, 1024, 1024, 512, 512, template->size};

	place %= sizes[piece];
	*room = sizes[piece] - place;
	return offsets[piece] + place;
}

/* The input: wishes, the file's length, then patches of piece, place, count and bytes. */
static int build(const struct template *template, const uint8_t *data, size_t size)
{
	static uint8_t image[FILE_MAX];
	uint64_t length = template->size - (data[1] & 0x7f) * (data[1] & 0x80 ? 5000u : 0u);
	int fd = memfd_create("image", MFD_CLOEXEC);
	size_t at = 2;

	memcpy(image, template->image, template->size);
	while (size - at >= 4) {
		uint64_t room, place = piece_offset(template, data[at] % 6, le16_get(data + at + 1), &room);
		size_t count = min_u64(min_u64(1 + data[at + 3] % 32u, size - at - 4), room);

		memcpy(image + place, data + at + 4, count);
		at += 4 + count;
	}
	if (!(data[0] & 4)) {
		seal_footer(image, 0);
		seal_header(image, 512);
	}
	if (!(data[0] & 8))
		seal_footer(image, template->size - 512);
	if (pwrite(fd, image, length, 0) != (ssize_t)length)
		abort();
	return fd;
}

static int open_image(struct disk **disk, int fd, const char *path, bool read_only)
{
	const struct disk_open_options options = {.format = DISK_FORMAT_VHD, .read_only = read_only};
	struct error err = {0};
	int r = disk_open_descriptor(disk, dup(fd), path, &options, NULL, &err);

	if (r < 0 && (err.code != -r || err.text[0] == '\0'))
		abort();
	return r;
}

static void use(struct disk *disk)
{
	static uint8_t buffer[MIB + 8192];
	const uint64_t size = disk->info.size, places[] = {0, MIB, size / 2, size - min_u64(size, 4096)};

	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		uint64_t length = places[i] < size ? min_u64(size - places[i], sizeof(buffer)) : 0;
		struct disk_request discard = {.op = DISK_OP_DISCARD, .offset = places[i] / 512 * 512};

		disk_read(disk, places[i], buffer, length, NULL);
		if (disk->info.read_only)
			continue;
		disk_write(disk, places[i], buffer, min_u64(length, 4096), NULL);
		discard.length = min_u64(4096, size - discard.offset);
		disk_perform(disk, &discard, NULL);
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

	if (!nowhere)
		make_templates();
	if (size < 2)
		return 0;
	template = &templates[(data[0] & 3) % ARRAY_SIZE(templates)];
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
