// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Other sizes: against a plain array, up and down, of all kinds of disks; a block allocation table that has to
 * move; data in the way; a host without room; and QEMU as a peer.
 */
#include "tests/unit/test_disk_images.h"

#include <errno.h>

#include "disk/vhd.h"
#include "disk/vhdx.h"

#define SIZE_MAX_HERE (24 * MIB)
#define GIB           (UINT64_C(1) << 30)

static char directory[64];

static void must(int r, const struct error *err)
{
	if (r != 0)
		fail_msg("%s", err->text);
}

static void must_resize(struct disk *disk, uint64_t size)
{
	struct error err = { 0 };

	must(disk_resize(disk, size, false, NULL, &err), &err);
	assert_int_equal(disk->info.size, size);
}

static void must_write(struct disk *disk, uint64_t offset, const void *data, size_t size)
{
	struct error err = { 0 };

	must(disk_write(disk, offset, data, size, &err), &err);
}

static void discard(struct disk *disk, uint64_t offset, uint64_t length)
{
	struct disk_request request = { .op = DISK_OP_DISCARD, .offset = offset, .length = length };
	struct error err = { 0 };

	must(disk_perform(disk, &request, &err), &err);
}

static void must_be(struct disk *disk, const uint8_t *model, uint64_t size)
{
	uint8_t *all = malloc(size);
	struct error err = { 0 };

	assert_int_equal(disk->info.size, size);
	must(disk_read(disk, 0, all, size, &err), &err);
	for (uint64_t at = 0; at < size; at += 512)
		if (memcmp(all + at, model + at, 512) != 0)
			fail_msg("other contents at %ju of %ju", (uintmax_t)at, (uintmax_t)size);
	if (disk->ops->check)
		must(disk->ops->check(disk, stderr, &err), &err);
	free(all);
}

static void change(struct disk *disk, struct dice *dice, uint8_t *model, uint32_t sector)
{
	uint64_t size = disk->info.size, offset = sector * dice_roll(dice, size / sector);
	uint64_t length = min_u64(sector * (1 + dice_roll(dice, 300)), size - offset);

	if (dice_roll(dice, 4) == 0) {
		offset = offset / MIB * MIB;
		length = min_u64(MIB, size - offset);
		memset(model + offset, 0, length);
		discard(disk, offset, length);
		return;
	}
	dice_fill(dice, model + offset, length);
	must_write(disk, offset, model + offset, length);
}

static void as_an_array(void **state)
{
	const struct disk_create_options *create = *state;
	uint32_t sector = create->logical_sector_size ? create->logical_sector_size : 512;
	uint8_t *model = calloc(1, SIZE_MAX_HERE);
	struct dice dice = { 3 + sector };
	struct disk *disk;
	int fd = image_create(create);
	uint64_t size = create->size;

	disk = image_must_open(fd, false);
	for (unsigned round = 0; round < 40; round++) {
		uint64_t new = sector * (1 + dice_roll(&dice, SIZE_MAX_HERE / sector));

		for (unsigned i = 0; i < 12; i++)
			change(disk, &dice, model, sector);
		if (new < size) {
			memset(model + new, 0, size - new);
			discard(disk, new, size - new);
		}
		must_resize(disk, new);
		size = new;
		must_be(disk, model, size);
		if (dice_roll(&dice, 2)) {
			image_must_close(disk);
			disk = image_must_open(fd, dice_roll(&dice, 3) == 0);
			must_be(disk, model, size);
			image_must_close(disk);
			disk = image_must_open(fd, false);
		}
	}
	must_resize(disk, size);
	image_must_close(disk);
	/* Nothing is left of what was larger, but in a VHD. */
	assert_true(create->format == DISK_FORMAT_VHD || (uint64_t)lseek(fd, 0, SEEK_END) <= 4 * MIB + align_up_u64(SIZE_MAX_HERE, MIB) + 8 * MIB);
	free(model);
	close(fd);
}

static void forced(void **state)
{
	const struct disk_create_options *create = *state;
	uint64_t size = create->size;
	uint8_t sector[4096];
	struct error err = { 0 };
	int fd = image_create(create);
	struct disk *disk = image_must_open(fd, false);

	memset(sector, 0x99, sizeof(sector));
	must_write(disk, 0, sector, sizeof(sector));
	must_write(disk, 3 * MIB + 8192, sector, sizeof(sector));
	must_write(disk, size - 4096, sector, sizeof(sector));
	assert_int_equal(disk_resize(disk, 3 * MIB, false, NULL, &err), -EEXIST);
	assert_non_null(strstr(err.text, "8192 bytes of data would be lost, the first at offset 3153920"));
	assert_int_equal(disk->info.size, size);
	assert_int_equal(disk_resize(disk, 3 * MIB, true, NULL, &err), 0);
	must_resize(disk, size);
	for (uint64_t at = 3 * MIB; at < size; at += sizeof(sector)) {
		must(disk_read(disk, at, sector, sizeof(sector), &err), &err);
		for (unsigned i = 0; i < sizeof(sector); i++)
			assert_int_equal(sector[i], 0);
	}
	must(disk_read(disk, 0, sector, sizeof(sector), &err), &err);
	assert_int_equal(sector[4095], 0x99);
	image_must_close(disk);
	close(fd);
}

static void refused(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = MIB, .logical_sector_size = 4096 };
	struct error err = { 0 };
	int fd = image_create(&create);
	struct disk *disk = image_must_open(fd, false);

	assert_int_equal(disk_resize(disk, 0, true, NULL, &err), -EINVAL);
	assert_int_equal(disk_resize(disk, MIB + 512, true, NULL, &err), -EINVAL);
	assert_int_equal(disk_resize(disk, (UINT64_C(64) << 40) + 4096, true, NULL, &err), -EINVAL);
	image_must_close(disk);
	disk = image_must_open(fd, true);
	assert_int_equal(disk_resize(disk, 2 * MIB, true, NULL, &err), -EROFS);
	image_must_close(disk);
	close(fd);
	fd = image_create(&(struct disk_create_options){ .format = DISK_FORMAT_VHD, .size = MIB });
	disk = image_must_open(fd, false);
	assert_int_equal(disk_resize(disk, UINT64_C(2041) << 30, true, NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "2040 GiB"));
	image_must_close(disk);
	close(fd);
	/* Its only footer is at the end. */
	fd = image_create(&(struct disk_create_options){ .format = DISK_FORMAT_VHD, .size = MIB, .fixed = true });
	disk = image_must_open(fd, false);
	assert_int_equal(disk_resize(disk, 2 * MIB, true, NULL, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "a fixed VHD"));
	image_must_close(disk);
	close(fd);
}

/* A MiB of table is enough for 128 GiB in blocks of 1 MiB. */
static void table_moves(void **state)
{
	const struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = GIB, .block_size = MIB };
	static const uint64_t sizes[] = { 200 * GIB, 128 * GIB, 300 * GIB + 512, 400 * GIB, GIB };
	uint64_t places[5] = { 0, GIB - 512, 100 * GIB, 299 * GIB, 399 * GIB }, written = 2;
	uint8_t sector[512], read[512];
	struct error err = { 0 };
	int fd = image_create(&create);
	struct disk *disk = image_must_open(fd, false);
	struct vhdx *v;

	for (unsigned step = 0; step < 5; step++) {
		for (uint64_t i = 0; i < ARRAY_SIZE(places); i++) {
			memset(sector, (int)(i + 1), sizeof(sector));
			if (places[i] < disk->info.size) {
				must_write(disk, places[i], sector, sizeof(sector));
				written = i;
			}
		}
		if (step == 4)
			discard(disk, GIB, disk->info.size - GIB);
		else if (sizes[step] < places[written])
			discard(disk, sizes[step], disk->info.size - sizes[step]);
		must_resize(disk, sizes[step]);
		if (step % 2) {
			image_must_close(disk);
			disk = image_must_open(fd, false);
		}
		v = disk->format;
		assert_true(v->bat_region.length >= v->bat_entries * 8);
		for (uint64_t i = 0; i < ARRAY_SIZE(places); i++) {
			memset(sector, i <= written ? (int)(i + 1) : 0, sizeof(sector));
			if (places[i] < disk->info.size) {
				must(disk_read(disk, places[i], read, sizeof(read), &err), &err);
				assert_memory_equal(read, sector, sizeof(read));
			}
		}
		must(disk->ops->check(disk, stderr, &err), &err);
	}
	image_must_close(disk);
	close(fd);
}

static void child(void **state)
{
	struct disk_create_options create = *(const struct disk_create_options *)*state;
	uint8_t *model = calloc(1, SIZE_MAX_HERE);
	struct dice dice = { 9 };
	char base[96], top[96];
	struct error err = { 0 };
	struct disk *disk;

	snprintf(base, sizeof(base), "%s/base", directory);
	snprintf(top, sizeof(top), "%s/top", directory);
	create.size = 2 * MIB + 512;
	must(disk_create(base, &create, &err), &err);
	must(disk_open(&disk, base, NULL, &err), &err);
	dice_fill(&dice, model, 2 * MIB + 512);
	must_write(disk, 0, model, 2 * MIB + 512);
	image_must_close(disk);
	create.size = 0;
	create.parent = base;
	must(disk_create(top, &create, &err), &err);
	must(disk_open(&disk, top, NULL, &err), &err);
	for (uint64_t size = 2 * MIB + 512; size < 7 * MIB; size += 300 * KIB) {
		if (size > 2 * MIB + 512)
			must_resize(disk, size);
		must_be(disk, model, size);
		for (unsigned i = 0; i < 3; i++)
			change(disk, &dice, model, 512);
	}
	/* Smaller and larger again, in blocks and in the middle of one: what was cut off does not come back. */
	for (uint64_t i = 0; i < 40; i++) {
		uint64_t size = 2 * MIB + 512 + 512 * dice_roll(&dice, 9000), had = disk->info.size;

		must(disk_resize(disk, size, true, NULL, &err), &err);
		memset(model + min_u64(size, had), 0, SIZE_MAX_HERE - min_u64(size, had));
		must_be(disk, model, size);
		change(disk, &dice, model, 512);
		if (i % 8 == 7) {
			image_must_close(disk);
			must(disk_open(&disk, top, NULL, &err), &err);
		}
	}
	/* Below its parent's size it does not grow again. */
	must(disk_resize(disk, MIB, true, NULL, &err), &err);
	must_be(disk, model, MIB);
	assert_int_equal(disk_resize(disk, 2 * MIB, false, NULL, &err), -ENOTSUP);
	must_be(disk, model, MIB);
	image_must_close(disk);
	/* A parent that has become larger is another one. */
	must(disk_open(&disk, base, NULL, &err), &err);
	must_resize(disk, 20 * MIB);
	image_must_close(disk);
	assert_int_equal(disk_open(&disk, top, NULL, &err), -ESTALE);
	must(disk_reparent(top, base, true, &err), &err);
	must(disk_open(&disk, top, NULL, &err), &err);
	assert_int_equal(disk_resize(disk, 30 * MIB, false, NULL, &err), -ENOTSUP);
	image_must_close(disk);
	unlink(base);
	unlink(top);
	free(model);
}

/* --- a sync that fails ------------------------------------------------------------------------ */

static int fail_sync(void *context)
{
	return *(bool *)context ? EIO : 0;
}

static void nothing(void *context)
{
}

static void nothing_resized(void *context, uint64_t size)
{
}

/* A raw disk has the size that its user was told. */
static void raw_sync_fails(void **state)
{
	bool fails = true;
	const struct file_observer observer = { .context = &fails, .refuse_sync = fail_sync, .synced = nothing,
		.resized = nothing_resized };
	struct disk *disk;
	struct error err = { 0 };
	uint64_t length;
	int fd = image_create(&(struct disk_create_options){ .format = DISK_FORMAT_RAW, .size = MIB });

	for (unsigned i = 0; i < 2; i++) {
		must(disk_open_descriptor(&disk, dup(fd), "image", NULL, &observer, &err), &err);
		fails = true;
		assert_int_equal(disk_resize(disk, i ? 2 * MIB : MIB / 2, false, NULL, &err), -EIO);
		assert_int_equal(disk->info.size, MIB);
		must(file_size(&disk->file, &length), &err);
		assert_int_equal(length, MIB);
		disk_close(disk, NULL);
	}
	close(fd);
}

/* --- no room ---------------------------------------------------------------------------------- */

struct host {
	struct file_observer observer;
	unsigned room, refusals;
	bool full;
};

static int refuse(void *context, uint64_t offset, uint64_t length)
{
	struct host *host = context;

	if (!host->full)
		return 0;
	if (host->room > 0) {
		host->room--;
		return 0;
	}
	host->refusals++;
	return ENOSPC;
}

static void ignore_written(void *context, uint64_t offset, const void *data, size_t size)
{
}

static void ignore_range(void *context, uint64_t offset, uint64_t length)
{
}

static void ignore_resized(void *context, uint64_t size)
{
}

static void ignore_synced(void *context)
{
}

static bool resize_with_room(const struct disk_create_options *create, unsigned room, uint64_t to)
{
	struct host host = { .observer = { .context = &host, .refuse = refuse, .written = ignore_written,
		.zeroed = ignore_range, .resized = ignore_resized, .synced = ignore_synced } };
	const struct disk_open_options options = { 0 };
	uint8_t *model = calloc(1, SIZE_MAX_HERE);
	struct dice dice = { room };
	struct error err = { 0 };
	struct disk *disk;
	int fd = image_create(create);

	must(disk_open_descriptor(&disk, dup(fd), "image", &options, &host.observer, &err), &err);
	if (create->format == DISK_FORMAT_VHDX)
		((struct vhdx *)disk->format)->bat_region.length = ((struct vhdx *)disk->format)->bat_entries * 8;
	for (unsigned i = 0; i < 5; i++)
		change(disk, &dice, model, 512);
	host.full = true;
	host.room = room;
	if (disk_resize(disk, to, true, NULL, &err) == 0) {
		memset(model + to, 0, SIZE_MAX_HERE - to);
		must_be(disk, model, to);
	} else {
		assert_non_null(strstr(err.text, "No space left"));
		must_be(disk, model, create->size);
	}
	host.full = false;
	for (unsigned i = 0; i < 5; i++)
		change(disk, &dice, model, 512);
	must_resize(disk, 9 * MIB);
	for (unsigned i = 0; i < 5; i++)
		change(disk, &dice, model, 512);
	must_be(disk, model, 9 * MIB);
	image_must_close(disk);
	disk = image_must_open(fd, true);
	must_be(disk, model, 9 * MIB);
	image_must_close(disk);
	free(model);
	close(fd);
	return host.refusals > 0;
}

static void no_room(void **state)
{
	const struct disk_create_options *create = *state;
	unsigned room = 0;

	while (resize_with_room(*state, room, 9 * MIB))
		room += 1 + room / 16;
	assert_true(room > (create->format == DISK_FORMAT_VHD ? 5 : 10));
	for (room = 0; resize_with_room(*state, room, 2 * MIB);)
		room++;
	assert_true(room > 5);
}

/* --- footers of a VHD --- */

/* The copy of the footer, which is written last, is refused; once, or for a while. */
struct footers {
	bool refused_copy, stays;
};

static int refuse_copy(void *context, uint64_t offset, uint64_t length)
{
	struct footers *footers = context;

	if (length > 0 && offset == 0)
		footers->refused_copy = true;
	else if (!footers->refused_copy || !footers->stays)
		return 0;
	return EIO;
}

static int refuse_copy_once(void *context, uint64_t offset, uint64_t length)
{
	struct footers *footers = context;
	bool was = footers->refused_copy;

	return !was && length > 0 && offset == 0 ? footers->refused_copy = true, EIO : 0;
}

/* A size that was not changed is the old one also when the disk is opened again. */
static void footer_fails(void **state)
{
	static const struct disk_create_options vhd = { .format = DISK_FORMAT_VHD, .size = 8 * MIB, .block_size = 512 * KIB };

	for (unsigned i = 0; i < 2; i++) {
		struct footers footers = { .stays = i };
		struct file_observer observer = { .context = &footers, .written = ignore_written,
			.zeroed = ignore_range, .resized = ignore_resized, .synced = ignore_synced };
		uint8_t *model = calloc(1, SIZE_MAX_HERE);
		struct error err = { 0 };
		struct disk *disk;
		int fd = image_create(&vhd);

		memset(model, 0x61, 8 * MIB);
		must(disk_open_descriptor(&disk, dup(fd), "image", NULL, &observer, &err), &err);
		must_write(disk, 0, model, 8 * MIB);
		observer.refuse = i ? refuse_copy : refuse_copy_once;
		assert_int_equal(disk_resize(disk, 4 * MIB, true, NULL, &err), -EIO);
		assert_true(footers.refused_copy);
		observer.refuse = NULL;
		memset(model + 6 * MIB, 0x62, MIB);
		must_write(disk, 6 * MIB, model + 6 * MIB, MIB);
		image_must_close(disk);
		disk = image_must_open(fd, false);
		must_be(disk, model, 8 * MIB);
		image_must_close(disk);
		free(model);
		close(fd);
	}
}

/* XenServer looks for its map of blocks behind the table, which is elsewhere now. */
static void of_xen(void **state)
{
	static const struct disk_create_options vhd = { .format = DISK_FORMAT_VHD, .size = 8 * MIB, .block_size = 512 * KIB };
	int fd = image_create(&vhd);
	off_t end = lseek(fd, 0, SEEK_END) - (off_t)sizeof(struct vhd_footer);
	struct vhd_footer footer;
	struct disk *disk;

	assert_int_equal(pread(fd, &footer, sizeof(footer), 0), sizeof(footer));
	memcpy(footer.creator_application, "tap", 4);
	vhd_seal_footer(&footer);
	assert_int_equal(pwrite(fd, &footer, sizeof(footer), 0), sizeof(footer));
	assert_int_equal(pwrite(fd, &footer, sizeof(footer), end), sizeof(footer));
	disk = image_must_open(fd, false);
	must_resize(disk, 12 * MIB);
	image_must_close(disk);
	assert_int_equal(pread(fd, &footer, sizeof(footer), 0), sizeof(footer));
	assert_memory_equal(footer.creator_application, "win ", 4);
	disk = image_must_open(fd, true);
	assert_int_equal(disk->info.size, 12 * MIB);
	image_must_close(disk);
	close(fd);
}

/* --- QEMU ------------------------------------------------------------------------------------- */

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void run(const char *format, ...)
{
	char command[600], line[800];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	snprintf(line, sizeof(line), "cd %s && ( %s ) >out 2>&1 || { cat out >&2; false; }", directory, command);
	if (system(line) != 0)
		fail_msg("failed: %s", command);
}

static void qemu_reads(void **state)
{
	struct disk_create_options create = { .format = DISK_FORMAT_VHDX, .size = 100 * MIB, .block_size = MIB };
	uint8_t *data = malloc(2 * MIB);
	struct dice dice = { 1 };
	char path[96], raw[96];
	struct error err = { 0 };
	struct disk *disk, *flat;

	if (system("command -v qemu-img >/dev/null") != 0)
		skip();
	snprintf(path, sizeof(path), "%s/a.vhdx", directory);
	snprintf(raw, sizeof(raw), "%s/a.raw", directory);
	for (unsigned i = 0; i < 3; i++) {
		bool is_vhd = i == 2;

		create.format = is_vhd ? DISK_FORMAT_VHD : DISK_FORMAT_VHDX;
		create.block_size = is_vhd ? 512 * KIB : MIB;
		create.fixed = i == 1;
		must(disk_create(path, &create, &err), &err);
		create.format = DISK_FORMAT_RAW;
		create.fixed = false;
		must(disk_create(raw, &create, &err), &err);
		must(disk_open(&disk, path, NULL, &err), &err);
		must(disk_open(&flat, raw, &(struct disk_open_options){ .format = DISK_FORMAT_RAW }, &err), &err);
		for (unsigned step = 0; step < 5; step++) {
			uint64_t size = i == 1 ? (60 + step * 20) * MIB : (step % 2 ? 150 * MIB + 512 : 50 * MIB + 4096);
			struct vhdx *v = disk->format;
			uint64_t at = 512 * dice_roll(&dice, 50000);

			dice_fill(&dice, data, 2 * MIB);
			must_write(disk, at, data, 2 * MIB);
			must_write(flat, at, data, 2 * MIB);
			if (!is_vhd)
				v->bat_region.length = v->bat_entries * 8; /* so that it moves */
			must(disk_resize(disk, size, true, NULL, &err), &err);
			must(disk_resize(flat, size, true, NULL, &err), &err);
			image_must_close(disk);
			image_must_close(flat);
			if (!is_vhd)
				run("qemu-img check -f vhdx a.vhdx");
			run("qemu-img compare -f %s -F raw a.vhdx a.raw", is_vhd ? "vpc" : "vhdx");
			run("qemu-img info --output=json a.vhdx | grep -q '\"virtual-size\": %ju'", (uintmax_t)size);
			must(disk_open(&disk, path, NULL, &err), &err);
			must(disk_open(&flat, raw, &(struct disk_open_options){ .format = DISK_FORMAT_RAW }, &err), &err);
		}
		image_must_close(disk);
		image_must_close(flat);
		unlink(path);
		unlink(raw);
	}
	run("rm -f out");
	free(data);
}

#define DYNAMIC { .format = DISK_FORMAT_VHDX, .size = 5 * MIB, .block_size = MIB }
static const struct disk_create_options dynamic = DYNAMIC;
static const struct disk_create_options fixed = { .format = DISK_FORMAT_VHDX, .size = 5 * MIB, .block_size = MIB,
	.fixed = true };
static const struct disk_create_options large_sectors = { .format = DISK_FORMAT_VHDX, .size = 5 * MIB,
	.logical_sector_size = 4096, .block_size = 2 * MIB };
static const struct disk_create_options raw = { .format = DISK_FORMAT_RAW, .size = 5 * MIB };

static const struct disk_create_options vhd = { .format = DISK_FORMAT_VHD, .size = 5 * MIB, .block_size = 512 * KIB };

#define CASE(name, function, create) { name, function, NULL, NULL, (void *)(create) }

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE("dynamic", as_an_array, &dynamic),
		CASE("fixed", as_an_array, &fixed),
		CASE("sectors of 4096 bytes", as_an_array, &large_sectors),
		CASE("raw", as_an_array, &raw),
		CASE("VHD", as_an_array, &vhd),
		CASE("forced, VHD", forced, &vhd),
		CASE("forced, dynamic", forced, &dynamic),
		CASE("forced, fixed", forced, &fixed),
		CASE("forced, raw", forced, &raw),
		cmocka_unit_test(refused),
		cmocka_unit_test(table_moves),
		CASE("child", child, &dynamic),
		CASE("child, VHD", child, &vhd),
		cmocka_unit_test(raw_sync_fails),
		cmocka_unit_test(footer_fails),
		cmocka_unit_test(of_xen),
		CASE("no room, dynamic", no_room, &dynamic),
		CASE("no room, fixed", no_room, &fixed),
		CASE("no room, VHD", no_room, &vhd),
		cmocka_unit_test(qemu_reads),
	};
	int r;

	image_directory(directory, sizeof(directory));
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return r;
}
