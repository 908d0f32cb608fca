// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Merging a differencing disk into its parent, cut off at any moment. After each change that the merge makes to
 * one of the two files, both are rebuilt elsewhere as a power cut would leave them: of what came after a
 * file's last sync all, nothing or a random part, torn by sectors. The child must then open and read as
 * before, and merging it again must give a parent that reads the same.
 */
#include "tests/unit/test_disk_images.h"

#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "disk/operation.h"
#include "disk/vhdx.h"

#define DISK_SIZE   (4 * MIB)
#define FILE_MAX    (12 * MIB)
#define PENDING_MAX 256

struct change {
	enum { WRITTEN, ZEROED, RESIZED } kind;
	uint64_t offset, length;
	uint8_t *data;
};

/* One of the two files. */
struct side {
	struct file_observer observer;
	struct cutter *cutter;
	const char *name;
	uint64_t durable_size;
	uint8_t *durable;
	struct change pending[PENDING_MAX];
	unsigned count;
};

struct cutter {
	struct side child, parent;
	struct dice dice;
	uint8_t *expected, *read;
	unsigned cuts, merged_again;
};

static char directory[64];

static const char *in(const char *where, const char *name, char path[128])
{
	snprintf(path, 128, "%s%s/%s", directory, where, name);
	return path;
}

enum survival { ALL, NOTHING, TORN };

static void apply(struct side *side, const struct change *change, uint8_t *image, uint64_t *size, enum survival survival)
{
	struct dice *dice = &side->cutter->dice;

	if (change->kind == RESIZED) {
		if (survival == ALL || (survival == TORN && dice_roll(dice, 2))) {
			assert_true(change->length <= FILE_MAX);
			if (change->length < *size)
				memset(image + change->length, 0, *size - change->length);
			*size = change->length;
		}
		return;
	}
	for (uint64_t at = 0; at < change->length; at += 512) {
		uint64_t offset = change->offset + at, part = min_u64(512, change->length - at);

		if ((survival == NOTHING || (survival == TORN && dice_roll(dice, 2))) || offset + part > *size)
			continue;
		if (change->kind == WRITTEN)
			memcpy(image + offset, change->data + at, part);
		else
			memset(image + offset, 0, part);
	}
}

static void write_image(const char *path, const uint8_t *image, uint64_t size)
{
	static const uint8_t zeros[65536];
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	for (uint64_t at = 0; at < size; at += 65536) {
		size_t part = min_u64(65536, size - at);

		if (memcmp(image + at, zeros, part) != 0)
			assert_int_equal(pwrite(fd, image + at, part, (off_t)at), part);
	}
	close(fd);
}

static void rebuild(struct side *side)
{
	enum survival survival = (enum survival)dice_roll(&side->cutter->dice, 3);
	uint8_t *image = calloc(1, FILE_MAX);
	uint64_t size = side->durable_size;
	char path[128];

	memcpy(image, side->durable, size);
	for (unsigned i = 0; i < side->count; i++)
		apply(side, &side->pending[i], image, &size, survival);
	write_image(in("/cut", side->name, path), image, size);
	free(image);
}

static void must_read_as(const char *path, bool read_only, const uint8_t *expected, uint8_t *read)
{
	const struct disk_open_options options = { .read_only = read_only };
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, path, &options, &err) != 0)
		fail_msg("%s", err.text);
	if (disk_read(disk, 0, read, DISK_SIZE, &err) != 0)
		fail_msg("%s", err.text);
	image_must_close(disk);
	for (unsigned i = 0; i < DISK_SIZE; i += 512)
		if (memcmp(read + i, expected + i, 512) != 0)
			fail_msg("%s: the sector at %u is another one", path, i);
}

static void must_merge(const char *path)
{
	struct error err = { 0 };

	if (disk_merge(path, NULL, &err) != 0)
		fail_msg("%s", err.text);
}

static void cut(struct cutter *cutter)
{
	char child[128], parent[128];
	struct error err = { 0 };

	cutter->cuts++;
	rebuild(&cutter->child);
	rebuild(&cutter->parent);
	in("/cut", cutter->child.name, child);
	in("/cut", cutter->parent.name, parent);
	must_read_as(child, true, cutter->expected, cutter->read);
	if (disk_check(child, stderr, &err) != 0)
		fail_msg("%s", err.text);
	if (dice_roll(&cutter->dice, 3) == 0) {
		must_read_as(child, false, cutter->expected, cutter->read);
		must_merge(child);
		must_read_as(parent, true, cutter->expected, cutter->read);
		cutter->merged_again++;
	}
}

static void add(struct side *side, struct change change, const void *data)
{
	assert_true(side->count < PENDING_MAX);
	if (data) {
		change.data = malloc(change.length);
		memcpy(change.data, data, change.length);
	}
	side->pending[side->count++] = change;
	cut(side->cutter);
}

static void on_written(void *context, uint64_t offset, const void *data, size_t size)
{
	add(context, (struct change){ .kind = WRITTEN, .offset = offset, .length = size }, data);
}

static void on_zeroed(void *context, uint64_t offset, uint64_t length)
{
	add(context, (struct change){ .kind = ZEROED, .offset = offset, .length = length }, NULL);
}

static void on_resized(void *context, uint64_t size)
{
	add(context, (struct change){ .kind = RESIZED, .length = size }, NULL);
}

static void on_synced(void *context)
{
	struct side *side = context;

	for (unsigned i = 0; i < side->count; i++) {
		apply(side, &side->pending[i], side->durable, &side->durable_size, ALL);
		free(side->pending[i].data);
	}
	side->count = 0;
}

static void watch(struct cutter *cutter, struct side *side, const char *name)
{
	char path[128];
	int fd = open(in("", name, path), O_RDONLY | O_CLOEXEC);

	*side = (struct side){ .cutter = cutter, .name = name, .durable = calloc(1, FILE_MAX) };
	side->observer = (struct file_observer){ .context = side, .written = on_written, .zeroed = on_zeroed,
		.resized = on_resized, .synced = on_synced };
	side->durable_size = (uint64_t)lseek(fd, 0, SEEK_END);
	assert_true(side->durable_size <= FILE_MAX);
	assert_int_equal(pread(fd, side->durable, side->durable_size, 0), side->durable_size);
	close(fd);
}

static void unwatch(struct side *side)
{
	for (unsigned i = 0; i < side->count; i++)
		free(side->pending[i].data);
	free(side->durable);
}

static void change_randomly(const char *path, uint8_t *expected, struct dice *dice, unsigned count)
{
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open(&disk, path, NULL, &err) != 0)
		fail_msg("%s", err.text);
	for (unsigned i = 0; i < count; i++) {
		uint64_t length = 512 * (1 + dice_roll(dice, 200)), offset = 512 * dice_roll(dice, DISK_SIZE / 512);
		struct disk_request request = { .op = DISK_OP_DISCARD };
		struct operation op;

		length = min_u64(length, DISK_SIZE - offset);
		if (i % 4 == 3) {
			offset = MIB * dice_roll(dice, DISK_SIZE / MIB);
			length = i % 8 == 7 ? MIB : 4096;
			request.offset = offset;
			request.length = length;
			memset(expected + offset, 0, length);
			operation_start(&op, disk, &request);
			assert_int_equal(operation_run(&op), 0);
			continue;
		}
		dice_fill(dice, expected + offset, length);
		assert_int_equal(disk_write(disk, offset, expected + offset, length, &err), 0);
	}
	image_must_close(disk);
}

/* 0.vhdx, and so on: each the parent of the next; the last has child.vhdx. */
static void create_chain(unsigned length, uint8_t *expected, struct dice *dice)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };
	char path[128], parent[128], name[16];
	struct error err = { 0 };

	for (unsigned i = 0; i <= length; i++) {
		snprintf(name, sizeof(name), i < length ? "%u.vhdx" : "child.vhdx", i);
		in("", name, path);
		if (disk_create(path, &options, &err) != 0)
			fail_msg("%s", err.text);
		change_randomly(path, expected, dice, 8);
		strcpy(parent, path);
		options.parent = parent;
		options.size = 0;
	}
}

static void remove_all(void)
{
	char path[128], name[16];

	for (unsigned i = 0; i < 2; i++) {
		snprintf(name, sizeof(name), "%u.vhdx", i);
		unlink(in("", name, path));
		unlink(in("/cut", name, path));
	}
	unlink(in("", "child.vhdx", path));
	unlink(in("/cut", "child.vhdx", path));
}

static unsigned rounds = 4;

static unsigned cut_off_once(unsigned length, uint64_t seed)
{
	struct cutter *cutter = calloc(1, sizeof(*cutter));
	char path[128], other[128], name[16];
	struct error err = { 0 };
	unsigned cuts;

	cutter->dice.state = seed;
	cutter->expected = calloc(1, DISK_SIZE);
	cutter->read = malloc(DISK_SIZE);
	create_chain(length, cutter->expected, &cutter->dice);
	if (length == 2)
		assert_int_equal(link(in("", "0.vhdx", path), in("/cut", "0.vhdx", other)), 0);
	snprintf(name, sizeof(name), "%u.vhdx", length - 1);
	watch(cutter, &cutter->parent, name);
	watch(cutter, &cutter->child, "child.vhdx");
	if (disk_merge_watched(in("", "child.vhdx", path), NULL, &cutter->child.observer, &cutter->parent.observer,
		&err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(access(path, F_OK), -1);
	must_read_as(in("", name, path), true, cutter->expected, cutter->read);
	/* The child is no more: what it had is durable. */
	for (unsigned i = 0; i < 4; i++) {
		rebuild(&cutter->parent);
		must_read_as(in("/cut", name, path), i % 2, cutter->expected, cutter->read);
	}
	assert_true(cutter->merged_again > 0);
	cuts = cutter->cuts;
	unwatch(&cutter->parent);
	unwatch(&cutter->child);
	free(cutter->expected);
	free(cutter->read);
	free(cutter);
	remove_all();
	return cuts;
}

static void cut_off(void **state)
{
	unsigned length = *(unsigned *)*state, cuts = 0;

	for (unsigned i = 0; i < rounds; i++)
		cuts += cut_off_once(length, 10 * i + length);
	print_message("%u power cuts\n", cuts);
}

/* --- what others say --- */

static void qemu_finds_the_same(void **state)
{
	char path[128], raw[128], whole[128], command[512];
	struct error err = { 0 };
	uint8_t *expected = calloc(1, DISK_SIZE);
	struct dice dice = { 9 };

	create_chain(2, expected, &dice);
	write_image(in("", "raw", raw), expected, DISK_SIZE);
	in("", "child.vhdx", path);
	in("", "whole.vhdx", whole);
	if (disk_convert(path, NULL, whole, &(struct disk_create_options){ .format = DISK_FORMAT_VHDX }, NULL, &err) != 0)
		fail_msg("%s", err.text);
	must_merge(path);
	must_merge(in("", "1.vhdx", path));
	in("", "0.vhdx", path);
	for (unsigned i = 0; i < 2; i++) {
		snprintf(command, sizeof(command), "qemu-img compare -f vhdx -F raw %s %s >/dev/null", i ? whole : path,
		    raw);
		assert_int_equal(system(command), 0);
	}
	unlink(raw);
	unlink(whole);
	free(expected);
	remove_all();
}

/* --- what ends it early --- */

struct stop {
	unsigned after;
	bool kill;
};

static bool stop_step(void *context, uint64_t done, uint64_t total)
{
	struct stop *stop = context;

	assert_true(done <= total);
	if (stop->after-- > 0)
		return true;
	if (stop->kill)
		_exit(7);
	return false;
}

static void stopped_and_killed(void **state)
{
	uint8_t *expected = calloc(1, DISK_SIZE), *read = malloc(DISK_SIZE);
	struct dice dice = { 5 };
	char path[128], parent[128];

	create_chain(2, expected, &dice);
	in("", "child.vhdx", path);
	for (unsigned i = 0; i < 12; i++) {
		struct stop stop = { .after = i / 2, .kill = i % 2 };
		struct disk_progress progress = { stop_step, &stop };
		struct error err = { 0 };
		int status;

		if (stop.kill) {
			pid_t pid = fork();

			if (pid == 0) {
				disk_merge(path, &progress, NULL);
				_exit(0);
			}
			assert_int_equal(waitpid(pid, &status, 0), pid);
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
		} else {
			assert_int_equal(disk_merge(path, &progress, &err), -ECANCELED);
			assert_non_null(strstr(err.text, "merging it again goes on"));
		}
		must_read_as(path, i % 3 != 0, expected, read);
	}
	must_merge(path);
	must_read_as(in("", "1.vhdx", parent), true, expected, read);
	free(expected);
	free(read);
	remove_all();
}

/* Killed after more and more steps, and begun again by the same call, until all of the chain is in its base. */
static void a_row_killed(void **state)
{
	uint8_t *expected = calloc(1, DISK_SIZE), *read = malloc(DISK_SIZE);
	struct dice dice = { 11 };
	char path[128], base[128], middle[128], name[16];
	struct error err = { 0 };
	unsigned kills = 0;
	int status = 1;

	create_chain(4, expected, &dice);
	in("", "child.vhdx", path);
	in("", "0.vhdx", base);
	assert_int_equal(disk_merge_into(path, path, NULL, &err), -ENOENT);
	assert_int_equal(disk_merge_into(base, path, NULL, &err), -ENOENT);
	/* Down to one in the middle, and from there again. */
	assert_int_equal(disk_merge_into(path, in("", "1.vhdx", middle), NULL, &err), 0);
	must_read_as(middle, true, expected, read);
	change_randomly(middle, expected, &dice, 8);
	for (unsigned i = 2; i <= 4; i++) {
		char parent[128];

		snprintf(name, sizeof(name), "%u.vhdx", i - 1);
		in("", name, parent);
		snprintf(name, sizeof(name), i < 4 ? "%u.vhdx" : "child.vhdx", i);
		assert_int_equal(disk_create(in("", name, path),
				     &(struct disk_create_options){ .format = DISK_FORMAT_VHDX, .parent = parent }, &err),
		    0);
		change_randomly(path, expected, &dice, 8);
	}
	for (unsigned after = 0; status != 0; after++) {
		struct stop stop = { .after = after, .kill = true };
		struct disk_progress progress = { stop_step, &stop };
		pid_t pid = fork();

		if (pid == 0)
			_exit(disk_merge_into(path, base, &progress, NULL) == 0 ? 0 : 1);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 7 || WEXITSTATUS(status) == 0));
		kills += status != 0;
		if (status != 0)
			must_read_as(path, after % 2, expected, read);
	}
	assert_true(kills > 3);
	must_read_as(base, true, expected, read);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(access(in("", "1.vhdx", path), F_OK), -1);
	free(expected);
	free(read);
	remove_all();
}

static void a_row_of_vhd(void **state)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB };
	uint8_t *expected = calloc(1, DISK_SIZE), *read = malloc(DISK_SIZE);
	char paths[4][128], name[16];
	struct dice dice = { 13 };
	struct error err = { 0 };

	for (unsigned i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "%u.vhd", i);
		if (disk_create(in("", name, paths[i]), &options, &err) != 0)
			fail_msg("%s", err.text);
		change_randomly(paths[i], expected, &dice, 8);
		options.parent = paths[i];
		options.size = 0;
	}
	if (disk_merge_into(paths[3], paths[0], NULL, &err) != 0)
		fail_msg("%s", err.text);
	must_read_as(paths[0], true, expected, read);
	for (unsigned i = 1; i < 4; i++)
		assert_int_equal(access(paths[i], F_OK), -1);
	unlink(paths[0]);
	free(expected);
	free(read);
}

static void another_child_is_told(void **state)
{
	char path[128], parent[128], other[128];
	uint8_t *expected = calloc(1, DISK_SIZE);
	struct dice dice = { 3 };
	struct error err = { 0 };
	struct disk *disk;

	create_chain(1, expected, &dice);
	in("", "0.vhdx", parent);
	assert_int_equal(disk_create(in("", "other.vhdx", other),
			     &(struct disk_create_options){ .format = DISK_FORMAT_VHDX, .parent = parent }, &err),
	    0);
	must_merge(in("", "child.vhdx", path));
	assert_int_equal(disk_open(&disk, other, NULL, &err), -ESTALE);
	assert_non_null(strstr(err.text, "0.vhdx has been changed since"));
	unlink(other);
	free(expected);
	remove_all();
}

int main(int argc, char **argv)
{
	static unsigned one = 1, two = 2;
	const struct CMUnitTest tests[] = {
		{ "cut off, into a base", cut_off, NULL, NULL, &one },
		{ "cut off, into a differencing disk", cut_off, NULL, NULL, &two },
		cmocka_unit_test(qemu_finds_the_same),
		cmocka_unit_test(stopped_and_killed),
		cmocka_unit_test(a_row_killed),
		cmocka_unit_test(a_row_of_vhd),
		cmocka_unit_test(another_child_is_told),
	};
	char cut_directory[128];
	int r;

	/* --count N: more rounds, by hand */
	if (argc == 3 && !strcmp(argv[1], "--count"))
		rounds = (unsigned)atoi(argv[2]);
	image_directory(directory, sizeof(directory));
	assert_int_equal(mkdir(in("", "cut", cut_directory), 0700), 0);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(cut_directory);
	rmdir(directory);
	return r;
}
