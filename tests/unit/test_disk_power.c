// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Power cuts, at every moment of each workload: tests/double/power.h says how. By hand, for long:
 * --count CUTS, and to see one again --seed N --workload NAME.
 */
#include "tests/double/power.h"

#include "tests/unit/test_disk_images.h"

#include "disk/track.h"
#include "disk/vhdx.h"

#define DISK_SIZE (3 * MIB)

static uint64_t first_seed = 1, cuts_wanted = 200; /* of each workload */
static const char *only;
static uint64_t tracked_sectors, told_sectors; /* asked for, and told as changed */
static uint64_t again; /* cuts of what opening the disk wrote */

static const struct disk_create_options dynamic = { .format = DISK_FORMAT_VHDX, .size = DISK_SIZE, .block_size = MIB };

/* --- one VHDX --- */

static void prepare_dynamic(struct power *power)
{
	power_create(power, "disk", &dynamic);
	power_watch(power, "disk");
}

static void prepare_fixed(struct power *power)
{
	struct disk_create_options options = dynamic;

	options.fixed = true;
	power_create(power, "disk", &options);
	power_watch(power, "disk");
}

/* All of it has been written. */
static void prepare_full(struct power *power)
{
	struct disk *disk;

	prepare_dynamic(power);
	disk = power_open(power, "disk", false);
	for (uint64_t at = 0; at < DISK_SIZE; at += 8 * KIB)
		power_write(power, disk, at, 8 * KIB, false);
	power_close(power, disk);
}

static void allocate(struct power *power)
{
	struct disk *disk = power_open(power, "disk", false);

	power_use(power, disk, 36, 3, 0);
	power_close(power, disk);
}

static void flush_seldom(struct power *power)
{
	struct disk *disk = power_open(power, "disk", false);

	power_use(power, disk, 40, 12, 8);
	power_close(power, disk);
}

static void open_and_close(struct power *power)
{
	for (unsigned i = 0; i < 4; i++) {
		struct disk *disk = power_open(power, "disk", false);

		power_use(power, disk, 1 + (unsigned)power_roll(power, 10), 4, 6);
		power_close(power, disk);
	}
}

/* Blocks come and go, and their places change hands. */
static void trim(struct power *power)
{
	struct disk *disk = power_open(power, "disk", false);

	power_use(power, disk, 50, 3, 2);
	power_close(power, disk);
}

/* The log begins near its end, so that few commits fill and wrap it; those are made by discards. */
static void wrap_log(struct power *power)
{
	struct disk *disk = power_open(power, "disk", false);

	((struct vhdx *)disk->format)->log_position = MIB - 3 * VHDX_LOG_SECTOR;
	power_use(power, disk, 40, 2, 6);
	power_close(power, disk);
}

/* --- chains --- */

/* disk over base over bottom; the parents are full of what is told apart. */
static void prepare_chain_of(struct power *power, const struct disk_create_options *create)
{
	static const char *const names[] = { "bottom", "base", "disk" };
	struct disk_create_options options = *create;
	struct disk *disk;

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		power_create(power, names[i], &options);
		disk = power_open(power, names[i], false);
		for (uint64_t at = 0; i == 0 && at < DISK_SIZE; at += 4 * KIB)
			power_write(power, disk, at, 4 * KIB, false);
		power_use(power, disk, i < 2 ? 12 : 4, 100, 4);
		power_close(power, disk);
		options.size = 0;
		options.parent = power_path(power, names[i]);
	}
	power_keep(power, "bottom");
	power_watch(power, "base");
	power_watch(power, "disk");
}

static void prepare_chain(struct power *power)
{
	prepare_chain_of(power, &dynamic);
}

static void merge(struct power *power)
{
	struct error err = { 0 };

	if (disk_merge_watched(power_path(power, "disk"), NULL, power_observer(power, "disk"),
		power_observer(power, "base"), &err) != 0)
		power_fail(power, "%s", err.text);
}

/* The child reads the same until it is gone; then its parent does. Merging again goes on. */
static void check_merge(struct power *power)
{
	if (!power_exists(power, "disk")) {
		power_check(power, "base");
		return;
	}
	power_compare(power, "disk");
	if (power_roll(power, 3) > 0)
		return;
	merge(power);
	power_check(power, "base");
}

static void reparent(struct power *power)
{
	static const char *const names[] = { "copy", "base" };

	for (unsigned i = 0; i < 4; i++) {
		struct disk *disk;
		struct error err = { 0 };

		if (disk_reparent_watched(power_path(power, "disk"), power_path(power, names[i % 2]), false,
			power_observer(power, "disk"), &err) != 0)
			power_fail(power, "%s", err.text);
		disk = power_open(power, "disk", false);
		power_use(power, disk, 3, 3, 0);
		power_close(power, disk);
	}
}

static void add_copy(struct power *power)
{
	assert_int_equal(link(power_path(power, "base"), power_path(power, "copy")), 0);
	power_keep(power, "copy");
}

static void prepare_reparent(struct power *power)
{
	prepare_chain(power);
	add_copy(power);
}

/* --- VHD --- */

static const struct disk_create_options vhd = { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .block_size = 512 * KIB };

static void prepare_vhd(struct power *power)
{
	power_create(power, "disk", &vhd);
	power_watch(power, "disk");
}

static void prepare_fixed_vhd(struct power *power)
{
	struct disk_create_options options = { .format = DISK_FORMAT_VHD, .size = DISK_SIZE, .fixed = true };

	power_create(power, "disk", &options);
	power_watch(power, "disk");
}

static void prepare_vhd_chain(struct power *power)
{
	prepare_chain_of(power, &vhd);
}

static void prepare_vhd_reparent(struct power *power)
{
	prepare_vhd_chain(power);
	add_copy(power);
}

/* --- chains of open disks --- */

struct guest {
	struct power *power;
	struct disk *disk;
};

static bool use_meanwhile(void *context, uint64_t done, uint64_t total)
{
	struct guest *guest = context;

	power_use(guest->power, guest->disk, 1, 4, 5);
	return true;
}

static void merge_live(struct power *power, struct disk *disk, const char *name)
{
	struct guest guest = { power, disk };
	const struct disk_progress progress = { use_meanwhile, &guest };
	struct error err = { 0 };

	if (disk_merge_live(disk, power_path(power, name), &progress, &err) != 0)
		power_fail(power, "%s", err.text);
}

static void split(struct power *power, struct disk *disk, const char *name)
{
	struct error err = { 0 };

	if (disk_split_watched(disk, power_path(power, name), power_observer(power, name), &err) != 0)
		power_fail(power, "%s", err.text);
}

static void prepare_live(struct power *power)
{
	prepare_full(power);
	power_watch(power, "second");
	power_watch(power, "third");
}

static void prepare_live_vhd(struct power *power)
{
	struct disk *disk;

	prepare_vhd(power);
	power_watch(power, "second");
	power_watch(power, "third");
	disk = power_open(power, "disk", false);
	power_use(power, disk, 20, 100, 4);
	power_close(power, disk);
}

static void prepare_live_fixed_vhd(struct power *power)
{
	prepare_fixed_vhd(power);
	power_watch(power, "second");
	power_watch(power, "third");
}

/* Checkpoints, made and deleted under a disk that is in use. */
static void split_and_merge(struct power *power)
{
	struct disk *disk = power_open(power, "disk", false);

	power_use(power, disk, 5, 6, 4);
	split(power, disk, "second");
	power_use(power, disk, 8, 4, 4);
	split(power, disk, "third");
	power_use(power, disk, 4, 4, 4);
	merge_live(power, disk, "second");
	power_use(power, disk, 4, 4, 4);
	merge_live(power, disk, "third");
	power_use(power, disk, 4, 4, 4);
	power_close(power, disk);
}

/* As somebody does it for a process that can open nothing by name. */
static int create_empty(struct power *power, const char *name)
{
	const struct file_observer *observer = power_observer(power, name);
	int fd = open(power_path(power, name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	observer->named(observer->context, true);
	observer->names_synced(observer->context);
	return fd;
}

static void remove_void(struct power *power, const char *name)
{
	const struct file_observer *observer = power_observer(power, name);

	assert_int_equal(disk_is_void(power_path(power, name), NULL), 1);
	assert_int_equal(unlink(power_path(power, name)), 0);
	observer->named(observer->context, false);
	observer->names_synced(observer->context);
}

static void split_handed(struct power *power, struct disk *disk, const char *name, const char *parent)
{
	struct disk_split_files files = { .child = create_empty(power, name), .record = -1 };
	struct error err = { 0 };

	files.child_name = power_path(power, name);
	files.parent_name = power_path(power, parent);
	if (disk_split_files_watched(disk, &files, power_observer(power, name), &err) != 0)
		power_fail(power, "%s", err.text);
}

static int open_writing(struct power *power, const char *name)
{
	return name ? open(power_path(power, name), O_RDWR | O_CLOEXEC) : -1;
}

static void merge_handed(struct power *power, struct disk *disk, const char *name, const char *parent, const char *above)
{
	struct disk_merge_files files = { .child = open_writing(power, name), .parent = open_writing(power, parent),
		.above = open_writing(power, above), .record = -1 };
	struct guest guest = { power, disk };
	const struct disk_progress progress = { use_meanwhile, &guest };
	struct error err = { 0 };

	files.parent_name = power_path(power, parent);
	files.above_name = above ? power_path(power, above) : NULL;
	if (disk_merge_files(disk, &files, &progress, &err) != 0)
		power_fail(power, "%s", err.text);
	power_use(power, disk, 3, 4, 4);
	remove_void(power, name);
}

static void split_and_merge_handed(struct power *power)
{
	struct disk *disk = power_open(power, "disk", false);

	power_use(power, disk, 5, 6, 4);
	split_handed(power, disk, "second", "disk");
	power_use(power, disk, 8, 4, 4);
	split_handed(power, disk, "third", "second");
	power_use(power, disk, 4, 4, 4);
	merge_handed(power, disk, "second", "disk", "third");
	power_use(power, disk, 4, 4, 4);
	merge_handed(power, disk, "third", "disk", NULL);
	power_use(power, disk, 4, 4, 4);
	power_close(power, disk);
}

/* The newest file that is there, and holds something, is the disk. */
static void check_live(struct power *power)
{
	static const char *const names[] = { "third", "second", "disk" };
	unsigned newest = 0;
	struct disk *disk;

	while (newest < 2 && (!power_exists(power, names[newest]) || disk_is_void(power_path(power, names[newest]), NULL)))
		newest++;
	power_check(power, names[newest]);
	if (!power_may_change(power) || newest == 2)
		return;
	/* What was begun goes on. */
	disk = power_open(power, names[newest], false);
	while (disk->parent) {
		struct error err = { 0 };

		if (disk_merge_live(disk, disk->parent->parent ? disk->parent->path : disk->path, NULL, &err) != 0)
			power_fail(power, "%s", err.text);
	}
	power_close(power, disk);
	power_compare_again(power, "disk");
}

/* --- other sizes --- */

static void resize(struct power *power, struct disk *disk, uint64_t size)
{
	struct error err = { 0 };

	if (size < disk->info.size)
		power_zero(power, disk, DISK_OP_DISCARD, size, disk->info.size - size);
	power_flush(power, disk);
	power_resizing(power, size);
	if (disk_resize(disk, size, false, NULL, &err) != 0)
		power_fail(power, "%s", err.text);
	power_flush(power, disk);
}

static void resize_often(struct power *power)
{
	static const uint64_t sizes[] = { 3 * MIB + 512, 4 * MIB, 2 * MIB + 4 * KIB, 3 * MIB };
	struct disk *disk = power_open(power, "disk", false);

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		resize(power, disk, sizes[i]);
		power_use(power, disk, 6, 3, 4);
	}
	power_close(power, disk);
}

/* As if the block allocation table had no room for more. */
static void resize_and_move(struct power *power)
{
	struct disk *disk = power_open(power, "disk", false);
	struct vhdx *v = disk->format;

	for (unsigned i = 1; i <= 4; i++) {
		power_use(power, disk, 4, 3, 3);
		v->bat_region.length = v->bat_entries * 8;
		resize(power, disk, DISK_SIZE + i * 128 * KIB + MIB / 2);
		power_use(power, disk, 4, 3, 3);
		resize(power, disk, DISK_SIZE);
	}
	power_close(power, disk);
}

static void grow_child(struct power *power)
{
	struct disk *disk = power_open(power, "disk", false);

	power_use(power, disk, 5, 3, 3);
	resize(power, disk, DISK_SIZE + MIB / 2);
	power_use(power, disk, 10, 3, 3);
	resize(power, disk, DISK_SIZE + MIB);
	power_use(power, disk, 5, 3, 3);
	resize(power, disk, DISK_SIZE + 4 * KIB);
	power_use(power, disk, 5, 3, 3);
	resize(power, disk, DISK_SIZE + MIB);
	power_use(power, disk, 5, 3, 3);
	power_close(power, disk);
}

static void compact(struct power *power)
{
	struct disk *disk = power_open(power, "disk", false);

	for (unsigned i = 0; i < 3; i++) {
		struct error err = { 0 };

		power_use(power, disk, 10, 4, 2);
		power_zero(power, disk, DISK_OP_DISCARD, i * MIB, MIB);
		power_flush(power, disk);
		if (disk_compact(disk, i != 1, NULL, &err) != 0)
			power_fail(power, "%s", err.text);
		power_flush(power, disk);
	}
	power_close(power, disk);
}

/* --- repair --- */

/* Damage of each kind, of which nothing is read but zeros. */
static void prepare_damaged(struct power *power, const struct disk_create_options *options)
{
	const char *path;
	struct disk *disk;
	uint8_t bytes[8];
	uint64_t place;
	int fd;

	power_create(power, "disk", options);
	disk = power_open(power, "disk", false);
	for (uint64_t at = 0; at < MIB; at += 8 * KIB)
		power_write(power, disk, at, 8 * KIB, false);
	power_close(power, disk);
	path = power_path(power, "disk");
	fd = open(path, O_RDWR | O_CLOEXEC);
	place = align_up_u64((uint64_t)lseek(fd, 0, SEEK_END), MIB);
	if (options->format == DISK_FORMAT_VHDX) {
		assert_int_equal(ftruncate(fd, (off_t)(place + 2 * MIB)), 0);
		le64_put(bytes, place | VHDX_BLOCK_FULLY_PRESENT);
		assert_int_equal(pwrite(fd, bytes, 8, 3 * MIB + 8), 8);
		assert_int_equal(pwrite(fd, bytes, 8, 3 * MIB + 16), 8);
		assert_int_equal(pwrite(fd, "damage", 6, VHDX_REGION_TABLE_OFFSET_2 + 100), 6);
		assert_int_equal(pwrite(fd, "damage", 6, VHDX_HEADER_OFFSET_1 + 100), 6);
		assert_int_equal(pwrite(fd, "nobody's", 8, (off_t)(place + MIB)), 8);
	} else {
		be32_put(bytes, 1);
		assert_int_equal(pwrite(fd, bytes, 4, 1536 + 8), 4);
		be32_put(bytes, (uint32_t)(place / 512));
		assert_int_equal(pwrite(fd, bytes, 4, 1536 + 12), 4);
		assert_int_equal(pwrite(fd, "damage", 6, 100), 6);
	}
	close(fd);
	power_watch(power, "disk");
}

static void prepare_damaged_vhdx(struct power *power)
{
	prepare_damaged(power, &dynamic);
}

static void prepare_damaged_vhd(struct power *power)
{
	prepare_damaged(power, &vhd);
}

static void repair(struct power *power)
{
	char undo[160];
	struct error err = { 0 };

	if (disk_repair_watched(power_path(power, "disk"), true, NULL, power_observer(power, "disk"), &err) != 0)
		power_fail(power, "%s", err.text);
	snprintf(undo, sizeof(undo), "%s.undo-1", power_path(power, "disk"));
	unlink(undo);
	if (disk_repair_watched(power_path(power, "disk"), false, NULL, power_observer(power, "disk"), &err) != 0)
		power_fail(power, "%s", err.text);
	unlink(undo);
}

/* Cut off anywhere, it is begun again, and ends. */
static void check_repair(struct power *power)
{
	repair(power);
	power_check(power, "disk");
}

/* --- what has changed since a point --- */

#define POINTS 4

/* What the disk held when each point was made. */
static uint8_t at_point[POINTS][DISK_SIZE];
static unsigned points_made;

static struct disk *open_tracked(struct power *power, bool read_only)
{
	struct disk *disk = power_open(power, "disk", read_only);

	track_open(disk, power_observer(power, "disk.cbt"), power_observer(power, "disk.cbt.new"));
	return disk;
}

static void make_point(struct power *power, struct disk *disk)
{
	char name[2] = { (char)('0' + points_made), '\0' };
	struct error err = { 0 };

	assert_int_equal(disk_read(disk, 0, at_point[points_made], DISK_SIZE, &err), 0);
	if (disk_track_add(disk, name, &err) != 0)
		power_fail(power, "%s", err.text);
	points_made++;
	power_flush(power, disk);
}

static void prepare_track(struct power *power)
{
	struct disk *disk;

	prepare_full(power);
	power_watch(power, "disk.cbt");
	power_watch_new(power, "disk.cbt");
	points_made = 0;
	disk = power_open(power, "disk", false);
	make_point(power, disk);
	power_close(power, disk);
}

static void track(struct power *power)
{
	for (unsigned i = 1; i < POINTS; i++) {
		struct disk *disk = open_tracked(power, false);

		power_use(power, disk, 2, 3, 4);
		make_point(power, disk);
		power_use(power, disk, 6, 4, 4);
		power_close(power, disk);
	}
}

static int note(void *context, uint64_t offset, uint64_t length)
{
	memset((uint8_t *)context + offset / POWER_SECTOR, 1, length / POWER_SECTOR);
	return 0;
}

/* Whatever differs from what a point had is told as changed since. */
static void check_points(struct power *power, struct disk *disk)
{
	static uint8_t changed[DISK_SIZE / POWER_SECTOR], here[DISK_SIZE];
	struct disk_track_point *points;
	struct error err = { 0 };
	int count = disk_track_list(disk, &points, &err);

	assert_true(count >= 0);
	assert_int_equal(disk_read(disk, 0, here, DISK_SIZE, &err), 0);
	for (int i = 0; i < count; i++) {
		const uint8_t *then = at_point[points[i].name[0] - '0'];

		memset(changed, 0, sizeof(changed));
		assert_int_equal(disk_track_changes(disk, points[i].name, note, changed, &err), 0);
		for (unsigned s = 0; s < ARRAY_SIZE(changed); s++)
			if (!changed[s] && memcmp(here + s * POWER_SECTOR, then + s * POWER_SECTOR, POWER_SECTOR) != 0)
				power_fail(power, "sector %u has changed since point %s, which does not say so", s,
				    points[i].name);
		tracked_sectors += ARRAY_SIZE(changed);
		for (unsigned s = 0; s < ARRAY_SIZE(changed); s++)
			told_sectors += changed[s];
	}
	free(points);
}

static void check_track(struct power *power)
{
	struct disk *disk;

	power_compare(power, "disk");
	disk = open_tracked(power, true);
	check_points(power, disk);
	power_close(power, disk);
	disk = open_tracked(power, false);
	check_points(power, disk);
	if (power_may_change(power)) {
		struct error err = { 0 };

		assert_int_equal(disk_write(disk, power_roll(power, 8) * 4096, at_point, 4096, &err), 0);
		check_points(power, disk);
	}
	power_close(power, disk);
	disk = open_tracked(power, true);
	check_points(power, disk);
	power_close(power, disk);
}

static const struct power_workload workloads[] = {
	{ "allocate", prepare_dynamic, allocate, NULL },
	{ "fixed", prepare_fixed, open_and_close, NULL },
	{ "overwrite", prepare_full, flush_seldom, NULL },
	{ "flush seldom", prepare_dynamic, flush_seldom, NULL },
	{ "open and close", prepare_dynamic, open_and_close, NULL },
	{ "wrap the log", prepare_dynamic, wrap_log, NULL },
	{ "trim", prepare_full, trim, NULL },
	{ "child", prepare_chain, wrap_log, NULL },
	{ "child, trim", prepare_chain, trim, NULL },
	{ "child, flushed seldom", prepare_chain, flush_seldom, NULL },
	{ "resize", prepare_full, resize_often, NULL },
	{ "resize, fixed", prepare_fixed, resize_often, NULL },
	{ "resize, another table", prepare_full, resize_and_move, NULL },
	{ "child, resize", prepare_chain, grow_child, NULL },
	{ "compact", prepare_full, compact, NULL },
	{ "child, compact", prepare_chain, compact, NULL },
	{ "merge", prepare_chain, merge, check_merge },
	{ "reparent", prepare_reparent, reparent, NULL },
	{ "VHD, allocate", prepare_vhd, allocate, NULL },
	{ "VHD, flushed seldom", prepare_vhd, flush_seldom, NULL },
	{ "VHD, open and close", prepare_vhd, open_and_close, NULL },
	{ "VHD, fixed", prepare_fixed_vhd, open_and_close, NULL },
	{ "VHD, child", prepare_vhd_chain, open_and_close, NULL },
	{ "VHD, child, flushed seldom", prepare_vhd_chain, flush_seldom, NULL },
	{ "VHD, merge", prepare_vhd_chain, merge, check_merge },
	{ "VHD, resize", prepare_vhd, resize_often, NULL },
	{ "VHD, child, resize", prepare_vhd_chain, grow_child, NULL },
	{ "VHD, compact", prepare_vhd, compact, NULL },
	{ "VHD, child, compact", prepare_vhd_chain, compact, NULL },
	{ "VHD, reparent", prepare_vhd_reparent, reparent, NULL },
	{ "split and merge, live", prepare_live, split_and_merge, check_live },
	{ "split and merge, files handed over", prepare_live, split_and_merge_handed, check_live },
	{ "VHD, split and merge, live", prepare_live_vhd, split_and_merge, check_live },
	{ "VHD, split and merge, files handed over", prepare_live_vhd, split_and_merge_handed, check_live },
	{ "VHD, fixed, split and merge, live", prepare_live_fixed_vhd, split_and_merge, check_live },
	{ "repair", prepare_damaged_vhdx, repair, check_repair },
	{ "VHD, repair", prepare_damaged_vhd, repair, check_repair },
	{ "what has changed", prepare_track, track, check_track },
};

static void run(void **state)
{
	const struct power_workload *workload = *state;
	struct power_count count = { 0 };

	for (uint64_t seed = first_seed; count.cuts < cuts_wanted; seed++)
		power_run(workload, seed, &count);
	print_message("%ju power cuts, %ju of them of a replay\n", (uintmax_t)count.cuts, (uintmax_t)count.again);
	again += count.again;
	if (tracked_sectors > 0)
		print_message("%ju of 100 sectors told as changed\n", (uintmax_t)(told_sectors * 100 / tracked_sectors));
}

static int logs_were_replayed(void **state)
{
	return only || again > 100 ? 0 : -1;
}

static bool take_arguments(int argc, char **argv)
{
	for (int i = 1; i < argc; i += 2) {
		if (i + 1 == argc)
			return false;
		if (strcmp(argv[i], "--count") == 0)
			cuts_wanted = strtoull(argv[i + 1], NULL, 10) / ARRAY_SIZE(workloads) + 1;
		else if (strcmp(argv[i], "--seed") == 0)
			first_seed = strtoull(argv[i + 1], NULL, 10);
		else if (strcmp(argv[i], "--workload") == 0)
			only = argv[i + 1];
		else
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[ARRAY_SIZE(workloads)];

	if (!take_arguments(argc, argv)) {
		fprintf(stderr, "usage: %s [--count CUTS] [--seed N] [--workload NAME]\n", argv[0]);
		return 2;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(workloads); i++)
		tests[i] = (struct CMUnitTest){ workloads[i].name, run, NULL, NULL, (void *)&workloads[i] };
	cmocka_set_test_filter(only);
	return cmocka_run_group_tests(tests, NULL, logs_were_replayed);
}
