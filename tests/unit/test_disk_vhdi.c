// SPDX-License-Identifier: GPL-2.0-or-later
/* Chains of differencing VHDX as libvhdi reads them: which disk continues which, and every byte. */
#include "tests/unit/test_disk_images.h"

#include <libvhdi.h>

#include "disk/operation.h"

#define DISK_SIZE (8 * MIB)
#define DEPTH     4

static char directory[64];

static const char *name_of(unsigned index, char name[96])
{
	snprintf(name, 96, "%s/%u.vhdx", directory, index);
	return name;
}

/* Blocks are discarded as a whole in the lowest disk, and all but a sector of them above: libvhdi looks for the
 * contents of a block that is "zero" in the parent. */
static void change(struct disk *disk, struct dice *dice, uint8_t *model)
{
	struct error err = { 0 };

	for (unsigned i = 0; i < 24; i++) {
		uint64_t offset = 512 * dice_roll(dice, DISK_SIZE / 512);
		uint64_t length = min_u64(512 * (1 + dice_roll(dice, 300)), DISK_SIZE - offset);
		struct disk_request request = { .op = DISK_OP_DISCARD, .offset = offset / MIB * MIB, .length = MIB };
		struct operation op;

		if (disk->parent)
			request.length -= 4 * KIB;
		if (i % 8 == 7) {
			memset(model + request.offset, 0, request.length);
			operation_start(&op, disk, &request);
			assert_int_equal(operation_run(&op), 0);
		} else {
			dice_fill(dice, model + offset, length);
			assert_int_equal(disk_write(disk, offset, model + offset, length, &err), 0);
		}
	}
}

static void create_chain(uint8_t *model, uint32_t sector)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB,
		.logical_sector_size = sector };
	struct dice dice = { sector };
	char name[96], parent[96];
	struct error err = { 0 };
	struct disk *disk;

	for (unsigned i = 0; i < DEPTH; i++) {
		name_of(i, name);
		if (disk_create(name, &options, &err) != 0)
			fail_msg("%s", err.text);
		if (disk_open(&disk, name, NULL, &err) != 0)
			fail_msg("%s", err.text);
		change(disk, &dice, model);
		image_must_close(disk);
		options.parent = strcpy(parent, name);
		options.size = 0;
	}
}

static libvhdi_file_t *open_vhdi(unsigned index, libvhdi_file_t *parent)
{
	libvhdi_file_t *file = NULL;
	uint8_t expected[16], named[16];
	libvhdi_error_t *err = NULL;
	char name[96];

	assert_int_equal(libvhdi_file_initialize(&file, NULL), 1);
	if (libvhdi_file_open(file, name_of(index, name), LIBVHDI_OPEN_READ, &err) != 1) {
		libvhdi_error_fprint(err, stderr);
		fail_msg("libvhdi does not open %s", name);
	}
	if (parent) {
		assert_int_equal(libvhdi_file_get_identifier(parent, expected, 16, NULL), 1);
		assert_int_equal(libvhdi_file_get_parent_identifier(file, named, 16, NULL), 1);
		assert_memory_equal(named, expected, 16);
		assert_int_equal(libvhdi_file_set_parent_file(file, parent, NULL), 1);
	}
	return file;
}

/* Of the chain of these files; they are removed. */
static void must_read_as(const unsigned *chain, unsigned depth, const uint8_t *model)
{
	libvhdi_file_t *files[DEPTH] = { NULL };
	uint8_t *read = malloc(DISK_SIZE);
	char name[96];

	for (unsigned i = 0; i < depth; i++)
		files[i] = open_vhdi(chain[i], i > 0 ? files[i - 1] : NULL);
	assert_int_equal(libvhdi_file_read_buffer_at_offset(files[depth - 1], read, DISK_SIZE, 0, NULL), DISK_SIZE);
	for (unsigned at = 0; at < DISK_SIZE; at += 512)
		if (memcmp(read + at, model + at, 512) != 0)
			fail_msg("libvhdi reads something else at %u", at);
	for (unsigned i = depth; i-- > 0;) {
		libvhdi_file_close(files[i], NULL);
		libvhdi_file_free(&files[i], NULL);
		unlink(name_of(chain[i], name));
	}
	free(read);
}

static void reads_the_same(void **state)
{
	static const unsigned chain[DEPTH] = { 0, 1, 2, 3 };
	uint8_t *model = calloc(1, DISK_SIZE);

	create_chain(model, *(uint32_t *)*state);
	must_read_as(chain, DEPTH, model);
	free(model);
}

/* Split and merged while it is open. */
static void made_live(void **state)
{
	const struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };
	static const unsigned chain[] = { 0, 2, 3 };
	uint8_t *model = calloc(1, DISK_SIZE);
	struct dice dice = { 5 };
	struct error err = { 0 };
	struct disk *disk;
	char name[96];

	assert_int_equal(disk_create(name_of(0, name), &options, &err), 0);
	assert_int_equal(disk_open(&disk, name, NULL, &err), 0);
	for (unsigned i = 1; i < DEPTH; i++) {
		change(disk, &dice, model);
		if (disk_split(disk, name_of(i, name), &err) != 0)
			fail_msg("%s", err.text);
	}
	change(disk, &dice, model);
	if (disk_merge_live(disk, name_of(1, name), NULL, &err) != 0)
		fail_msg("%s", err.text);
	change(disk, &dice, model);
	image_must_close(disk);
	must_read_as(chain, ARRAY_SIZE(chain), model);
	free(model);
}

int main(void)
{
	static uint32_t small = 512, large = 4096;
	const struct CMUnitTest tests[] = {
		{ "sectors of 512 bytes", reads_the_same, NULL, NULL, &small },
		{ "sectors of 4096 bytes", reads_the_same, NULL, NULL, &large },
		cmocka_unit_test(made_live),
	};
	int r;

	image_directory(directory, sizeof(directory));
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(directory);
	return r;
}
