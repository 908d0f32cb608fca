// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What has changed since named points. A model knows what the disk held at each point: whatever differs must be
 * told as changed, whoever wrote it and however the program ended; and where nothing went wrong, only what was
 * written is told. Power cuts are in test_disk_power.
 */
#include "tests/unit/test_disk_images.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "disk/track.h"
#include "disk/vhdx.h"

#define DISK_SIZE (16 * MIB)
#define GRANULE   (64 * KIB)
#define GRANULES  (DISK_SIZE / GRANULE)

static char directory[64];

struct model {
	enum disk_format format;
	struct dice dice;
	uint8_t now[DISK_SIZE];
	unsigned points;
	uint8_t then[4][DISK_SIZE];
	bool written[4][GRANULES]; /* since the point */
};

static const char *in(const char *name, char path[128])
{
	snprintf(path, 128, "%s/%s", directory, name);
	return path;
}

static struct disk *must_open(const char *name, bool read_only)
{
	const struct disk_open_options options = { .read_only = read_only };
	struct error err = { 0 };
	struct disk *disk;
	char path[128];

	if (disk_open(&disk, in(name, path), &options, &err) != 0)
		fail_msg("%s", err.text);
	return disk;
}

static void create(const char *name, enum disk_format format)
{
	const struct disk_create_options options = { .format = format, .size = DISK_SIZE };
	struct error err = { 0 };
	char path[128];

	if (disk_create(in(name, path), &options, &err) != 0)
		fail_msg("%s", err.text);
}

static void remove_image(const char *name)
{
	char path[128], record[160];

	unlink(in(name, path));
	snprintf(record, sizeof(record), "%s.cbt", path);
	unlink(record);
}

static void add_point(struct model *model, struct disk *disk)
{
	char name[8];
	struct error err = { 0 };

	snprintf(name, sizeof(name), "%u", model->points);
	if (disk_track_add(disk, name, &err) != 0)
		fail_msg("%s", err.text);
	memcpy(model->then[model->points], model->now, DISK_SIZE);
	memset(model->written[model->points], 0, sizeof(model->written[0]));
	model->points++;
}

static void use(struct model *model, struct disk *disk, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		uint64_t length = 512 * (1 + dice_roll(&model->dice, 200));
		uint64_t offset = 512 * dice_roll(&model->dice, (DISK_SIZE - length) / 512);
		struct disk_request discard = { .op = DISK_OP_DISCARD, .offset = offset, .length = length };
		struct error err = { 0 };

		if (dice_roll(&model->dice, 5) == 0) {
			memset(model->now + offset, 0, length);
			assert_int_equal(disk_perform(disk, &discard, &err), 0);
		} else {
			dice_fill(&model->dice, model->now + offset, length);
			assert_int_equal(disk_write(disk, offset, model->now + offset, length, &err), 0);
		}
		for (unsigned p = 0; p < model->points; p++)
			for (uint64_t g = offset / GRANULE; g <= (offset + length - 1) / GRANULE; g++)
				model->written[p][g] = true;
	}
}

static int note(void *context, uint64_t offset, uint64_t length)
{
	bool *granules = context;

	assert_int_equal(offset % GRANULE, 0);
	for (uint64_t at = offset; at < offset + length; at += GRANULE)
		granules[at / GRANULE] = true;
	return 0;
}

static void granules_of(struct disk *disk, const char *name, bool granules[GRANULES])
{
	struct error err = { 0 };

	memset(granules, 0, GRANULES * sizeof(bool));
	if (disk_track_changes(disk, name, note, granules, &err) != 0)
		fail_msg("%s", err.text);
}

/* `exact`: only what was written is told. */
static void check(struct model *model, struct disk *disk, bool exact)
{
	static uint8_t here[DISK_SIZE];
	struct disk_track_point *points;
	struct error err = { 0 };

	assert_int_equal(disk_read(disk, 0, here, DISK_SIZE, &err), 0);
	assert_int_equal(disk_track_list(disk, &points, &err), model->points);
	for (unsigned p = 0; p < model->points; p++) {
		bool told[GRANULES];
		uint64_t sum = 0;

		granules_of(disk, points[p].name, told);
		for (unsigned g = 0; g < GRANULES; g++) {
			const uint8_t *then = model->then[points[p].name[0] - '0'] + (uint64_t)g * GRANULE;

			sum += told[g] ? GRANULE : 0;
			if (!told[g])
				assert_memory_equal(then, here + (uint64_t)g * GRANULE, GRANULE);
			if (exact)
				assert_int_equal(told[g], model->written[points[p].name[0] - '0'][g]);
		}
		assert_int_equal(points[p].changed, sum);
		assert_int_equal(points[p].granule, GRANULE);
	}
	free(points);
}

static struct model *begin(void **state)
{
	struct model *model = calloc(1, sizeof(*model));

	model->format = *(const enum disk_format *)*state;
	model->dice.state = 7;
	create("disk", model->format);
	return model;
}

static void end(struct model *model)
{
	remove_image("disk");
	free(model);
}

/* Across restarts and points; a disk that is only read, or only opened, stays what it is. */
static void exact(void **state)
{
	struct model *model = begin(state);
	struct disk *disk;

	for (unsigned i = 0; i < 12; i++) {
		disk = must_open("disk", false);
		use(model, disk, i % 4);
		check(model, disk, true);
		if (i % 4 == 1)
			add_point(model, disk);
		use(model, disk, i % 3 * 2);
		check(model, disk, true);
		image_must_close(disk);
		disk = must_open("disk", true);
		check(model, disk, true);
		image_must_close(disk);
		image_must_close(must_open("disk", false));
	}
	disk = must_open("disk", false);
	assert_int_equal(disk_track_remove(disk, "0", NULL), 0);
	assert_int_equal(disk_track_remove(disk, "0", NULL), -ENOENT);
	use(model, disk, 1);
	assert_int_equal(disk_track_remove(disk, "1", NULL), 0);
	assert_int_equal(disk_track_remove(disk, "2", NULL), 0);
	assert_null(disk->tracker);
	image_must_close(disk);
	end(model);
}

static void killed(void **state)
{
	struct model *model = begin(state);
	struct disk *disk = must_open("disk", false);
	bool told[GRANULES];
	unsigned sum = 0;

	use(model, disk, 5);
	add_point(model, disk);
	image_must_close(disk);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t offset = dice_roll(&model->dice, DISK_SIZE / 512) * 512;
		pid_t pid = fork();
		int status;

		if (pid == 0) {
			disk = must_open("disk", false);
			if (disk_write(disk, offset, "written by one that is killed", 16, NULL) == 0)
				disk_flush(disk, NULL);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		disk = must_open("disk", i % 2);
		check(model, disk, false);
		granules_of(disk, "0", told);
		assert_true(told[offset / GRANULE]);
		image_must_close(disk);
	}
	for (unsigned g = 0; g < GRANULES; g++)
		sum += told[g];
	/* By regions of 1 MiB, where the image tells who wrote it. */
	assert_int_equal(sum <= 3 * 16, model->format == DISK_FORMAT_VHDX);
	end(model);
}

static void must_be_all(struct disk *disk, const char *name)
{
	bool told[GRANULES];

	granules_of(disk, name, told);
	for (unsigned g = 0; g < GRANULES; g++)
		assert_true(told[g]);
}

/* Also when the disk has been opened and written here since. */
static void must_stay_all(struct model *model, const char *name)
{
	struct disk *disk = must_open("disk", true);

	must_be_all(disk, name);
	image_must_close(disk);
	disk = must_open("disk", false);
	must_be_all(disk, name);
	assert_int_equal(disk_write(disk, 0, model->now, 512, NULL), 0);
	image_must_close(disk);
	disk = must_open("disk", true);
	must_be_all(disk, name);
	image_must_close(disk);
}

static void foreign_writer(void **state)
{
	struct model *model = begin(state);
	struct disk *disk = must_open("disk", false);
	char path[128], command[300];
	bool told[GRANULES];

	use(model, disk, 5);
	add_point(model, disk);
	image_must_close(disk);
	snprintf(command, sizeof(command), "qemu-io -f %s -c 'write -P 7 5M 512' %s >/dev/null",
	    model->format == DISK_FORMAT_VHDX ? "vhdx" : model->format == DISK_FORMAT_VHD ? "vpc" : "raw", in("disk", path));
	assert_int_equal(system(command), 0);
	must_stay_all(model, "0");
	/* A new point counts from now on. */
	disk = must_open("disk", false);
	assert_int_equal(disk_track_add(disk, "later", NULL), 0);
	assert_int_equal(disk_write(disk, 3 * GRANULE, model->now, 512, NULL), 0);
	image_must_close(disk);
	disk = must_open("disk", true);
	granules_of(disk, "later", told);
	for (unsigned g = 0; g < GRANULES; g++)
		assert_int_equal(told[g], g == 3);
	must_be_all(disk, "0");
	image_must_close(disk);
	end(model);
}

/* An earlier copy of the image is put back, without its record: of before the point, and of the same session. */
static void copy_put_back(void **state)
{
	struct model *model = begin(state);
	char path[128], copy[128], command[300];
	struct disk *disk = must_open("disk", false);

	add_point(model, disk);
	use(model, disk, 4);
	assert_int_equal(disk_flush(disk, NULL), 0);
	snprintf(command, sizeof(command), "cp %s %s", in("disk", path), in("copy", copy));
	assert_int_equal(system(command), 0);
	use(model, disk, 4);
	add_point(model, disk);
	image_must_close(disk);
	snprintf(command, sizeof(command), "cp %s %s", copy, path);
	assert_int_equal(system(command), 0);
	must_stay_all(model, "1");
	unlink(copy);
	end(model);
}

/* Whatever stands in the record: nothing that has changed is told as unchanged, and what cannot be used is no record. */
static void damaged(void **state)
{
	struct model *model = begin(state);
	struct disk *disk = must_open("disk", false);
	char path[128], record[160];
	uint8_t bytes[32 * KIB], broken[32 * KIB];
	ssize_t size;
	int fd;

	use(model, disk, 3);
	add_point(model, disk);
	use(model, disk, 20);
	image_must_close(disk);
	snprintf(record, sizeof(record), "%s.cbt", in("disk", path));
	fd = open(record, O_RDWR);
	size = pread(fd, bytes, sizeof(bytes), 0);
	assert_true(size > (ssize_t)TRACK_BITMAPS_AT);
	for (unsigned i = 0; i < 600; i++) {
		struct disk_track_point *points;
		uint64_t at = i < 512 ? i : dice_roll(&model->dice, (uint64_t)size);
		int count;

		memcpy(broken, bytes, (size_t)size);
		broken[at] ^= (uint8_t)(1u << dice_roll(&model->dice, 8));
		assert_int_equal(pwrite(fd, broken, (size_t)size, 0), size);
		disk = must_open("disk", true);
		count = disk_track_list(disk, &points, NULL);
		free(points);
		assert_true(count == 0 || count == 1);
		if (count == 1)
			check(model, disk, false);
		image_must_close(disk);
	}
	assert_int_equal(ftruncate(fd, 9000), 0);
	disk = must_open("disk", false);
	assert_int_equal(disk_track_changes(disk, "0", note, NULL, NULL), -ENOENT);
	/* It makes place for a new one. */
	assert_int_equal(disk_track_add(disk, "new", NULL), 0);
	image_must_close(disk);
	close(fd);
	/* Nobody is waited for at the other end of a pipe. */
	unlink(record);
	assert_int_equal(mkfifo(record, 0600), 0);
	image_must_close(must_open("disk", true));
	image_must_close(must_open("disk", false));
	end(model);
}

static int refuse(void *context, uint64_t offset, uint64_t length)
{
	return ENOSPC;
}

static void ignore_written(void *context, uint64_t offset, const void *data, size_t size)
{
}

static void ignore_synced(void *context)
{
}

/* A record that cannot be written is removed before the disk is: the disk goes on. */
static void record_cannot_be_written(void **state)
{
	static const struct file_observer full = { .refuse = refuse, .written = ignore_written,
		.synced = ignore_synced };
	struct model *model = begin(state);
	struct disk *disk = must_open("disk", false);
	char path[128], record[160];

	add_point(model, disk);
	disk->tracker->file.observer = &full;
	use(model, disk, 3);
	snprintf(record, sizeof(record), "%s.cbt", in("disk", path));
	assert_int_equal(access(record, F_OK), -1);
	assert_int_equal(disk_track_changes(disk, "0", note, NULL, NULL), -ENOENT);
	model->points = 0;
	add_point(model, disk);
	use(model, disk, 3);
	check(model, disk, true);
	image_must_close(disk);
	end(model);
}

static int refuse_regions(void *context, uint64_t offset, uint64_t length)
{
	return offset >= TRACK_REGIONS_AT ? ENOSPC : 0;
}

/* Nor may it be found by another name that it has got meanwhile, together with its image. */
static void moved_record_cannot_be_written(void **state)
{
	static const struct file_observer full = { .refuse = refuse_regions, .written = ignore_written,
		.synced = ignore_synced };
	struct model *model = begin(state);
	struct disk *disk = must_open("disk", false);
	char path[128], to[128], record[160], to_record[160];

	add_point(model, disk);
	snprintf(record, sizeof(record), "%s.cbt", in("disk", path));
	snprintf(to_record, sizeof(to_record), "%s.cbt", in("moved", to));
	assert_int_equal(rename(path, to), 0);
	assert_int_equal(rename(record, to_record), 0);
	disk->tracker->file.observer = &full;
	use(model, disk, 3);
	image_must_close(disk);
	disk = must_open("moved", true);
	assert_int_equal(disk_track_changes(disk, "0", note, NULL, NULL), -ENOENT);
	image_must_close(disk);
	remove_image("moved");
	end(model);
}

static void refused(void **state)
{
	struct model *model = begin(state);
	struct disk *disk = must_open("disk", true);
	char name[16];

	assert_int_equal(disk_track_add(disk, "p", NULL), -EROFS);
	image_must_close(disk);
	disk = must_open("disk", false);
	assert_int_equal(disk_track_add(disk, "", NULL), -EINVAL);
	assert_int_equal(disk_track_add(disk, "a\nb", NULL), -EINVAL);
	assert_int_equal(disk_track_add(disk, "0123456789012345678901234567890123456789012345678901234567890123", NULL),
	    -EINVAL);
	for (unsigned i = 0; i < TRACK_POINTS_MAX; i++) {
		snprintf(name, sizeof(name), "p%u", i);
		assert_int_equal(disk_track_add(disk, name, NULL), 0);
	}
	assert_int_equal(disk_track_add(disk, "p3", NULL), -EEXIST);
	assert_int_equal(disk_track_add(disk, "more", NULL), -ENOSPC);
	image_must_close(disk);
	end(model);
}

/* --- with files that change below, and with several threads --- */

static void checkpoints(void **state)
{
	static enum disk_format vhdx = DISK_FORMAT_VHDX;
	void *format = &vhdx;
	struct model *model = begin(&format);
	struct disk *disk = must_open("disk", false);
	char path[128];
	struct error err = { 0 };

	use(model, disk, 3);
	add_point(model, disk);
	use(model, disk, 3);
	assert_int_equal(disk_split(disk, in("second", path), &err), 0);
	check(model, disk, true);
	use(model, disk, 3);
	add_point(model, disk);
	use(model, disk, 3);
	image_must_close(disk);
	disk = must_open("second", false);
	check(model, disk, true);
	assert_int_equal(disk_merge_live(disk, path, NULL, &err), 0);
	use(model, disk, 2);
	check(model, disk, true);
	image_must_close(disk);
	disk = must_open("disk", true);
	check(model, disk, true);
	image_must_close(disk);
	snprintf(path, sizeof(path), "%s/second.cbt", directory);
	assert_int_equal(access(path, F_OK), -1);
	end(model);
}

/* A merge of closed files writes the parent, whose points know nothing of it: all has changed. */
static void merged_into(void **state)
{
	static enum disk_format vhdx = DISK_FORMAT_VHDX;
	void *format = &vhdx;
	struct model *model = begin(&format);
	struct disk *disk = must_open("disk", false);
	char path[128];
	struct error err = { 0 };

	add_point(model, disk);
	assert_int_equal(disk_split(disk, in("second", path), &err), 0);
	assert_int_equal(disk_write(disk, MIB, "of the child", 12, &err), 0);
	image_must_close(disk);
	assert_int_equal(disk_merge(path, NULL, &err), 0);
	must_stay_all(model, "0");
	remove_image("second");
	end(model);
}

static int note_run(void *context, uint64_t offset, uint64_t length)
{
	uint64_t *found = context;

	found[0] = offset;
	found[1] += length;
	return 0;
}

/* A disk of another size: all of it, also what is new. */
static void resized(void **state)
{
	struct model *model = begin(state);
	struct disk *disk = must_open("disk", false);
	uint64_t found[2] = { 0, 0 };
	struct error err = { 0 };

	if (model->format != DISK_FORMAT_VHD) {
		add_point(model, disk);
		use(model, disk, 3);
		if (disk_resize(disk, DISK_SIZE + MIB, false, NULL, &err) != 0)
			fail_msg("%s", err.text);
		assert_int_equal(disk_track_changes(disk, "0", note_run, found, &err), 0);
		assert_int_equal(found[1], DISK_SIZE + MIB);
		assert_int_equal(disk_write(disk, DISK_SIZE, model->now, MIB, &err), 0);
		image_must_close(disk);
		disk = must_open("disk", true);
		found[1] = 0;
		assert_int_equal(disk_track_changes(disk, "0", note_run, found, &err), 0);
		assert_int_equal(found[1], DISK_SIZE + MIB);
	}
	image_must_close(disk);
	end(model);
}

/* What was cut off and came back is zeros: changed, also for who sees only the two sizes that are the same. */
static void cut_and_grown_again(void **state)
{
	struct model *model = begin(state);
	struct disk *disk = must_open("disk", false);
	bool killed = false;

	if (model->format != DISK_FORMAT_VHD) {
		use(model, disk, 20);
		add_point(model, disk);
		memset(model->now + DISK_SIZE / 2 + GRANULE / 2, 0, DISK_SIZE / 2 - GRANULE / 2);
		for (unsigned g = GRANULES / 2; g < GRANULES; g++)
			model->written[0][g] = true;
		assert_int_equal(disk_resize(disk, DISK_SIZE / 2 + GRANULE / 2, true, NULL, NULL), 0);
		assert_int_equal(disk_resize(disk, DISK_SIZE, false, NULL, NULL), 0);
		check(model, disk, true);
		image_must_close(disk);
		disk = must_open("disk", true);
		check(model, disk, true);
		killed = true;
	}
	image_must_close(disk);
	if (killed) {
		pid_t pid = fork();
		int status;

		if (pid == 0) {
			disk = must_open("disk", false);
			disk_resize(disk, MIB, true, NULL, NULL);
			disk_resize(disk, DISK_SIZE, false, NULL, NULL);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		disk = must_open("disk", true);
		check(model, disk, false);
		image_must_close(disk);
	}
	end(model);
}

struct writer {
	pthread_t thread;
	struct disk *disk;
	unsigned number;
	_Atomic bool *stop;
	_Atomic uint64_t *begun, *stamps; /* of each granule: the newest that was begun, and that is written */
};

#define THREADS 3

static void *write_on(void *argument)
{
	struct writer *writer = argument;
	struct dice dice = { writer->number };

	for (uint64_t stamp = 1; !atomic_load(writer->stop); stamp++) {
		unsigned granule = (unsigned)dice_roll(&dice, GRANULES / THREADS) * THREADS + writer->number;

		atomic_store(&writer->begun[granule], stamp);
		if (disk_write(writer->disk, (uint64_t)granule * GRANULE, &stamp, sizeof(stamp), NULL) != 0)
			break;
		atomic_store(&writer->stamps[granule], stamp);
	}
	return NULL;
}

/* What was begun after a point was made and is complete has to be told. */
static void several_threads(void **state)
{
	struct model *model = begin(state);
	struct disk *disk = must_open("disk", false);
	static _Atomic uint64_t stamps[GRANULES], begun[GRANULES];
	_Atomic bool stop = false;
	struct writer writers[THREADS];
	uint64_t before[GRANULES], now;
	bool told[GRANULES];

	for (unsigned i = 0; i < THREADS; i++) {
		writers[i] = (struct writer){ .disk = disk, .number = i, .stop = &stop, .begun = begun,
			.stamps = stamps };
		assert_int_equal(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]), 0);
	}
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(disk_track_add(disk, "p", NULL), 0);
		for (unsigned g = 0; g < GRANULES; g++)
			before[g] = atomic_load(&begun[g]);
		for (unsigned wait = 0; wait < 8;) {
			unsigned g = wait * 5;

			wait += atomic_load(&stamps[g]) > before[g];
		}
		for (unsigned g = 0; g < GRANULES; g++)
			before[g] = atomic_load(&stamps[g]) > before[g];
		granules_of(disk, "p", told);
		for (unsigned g = 0; g < GRANULES; g++)
			assert_true(told[g] || !before[g]);
		assert_int_equal(disk_track_remove(disk, "p", NULL), 0);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(writers[i].thread, NULL);
	for (unsigned g = 0; g < GRANULES; g++) {
		assert_int_equal(disk_read(disk, (uint64_t)g * GRANULE, &now, sizeof(now), NULL), 0);
		assert_int_equal(now, atomic_load(&stamps[g]));
		atomic_store(&stamps[g], 0);
		atomic_store(&begun[g], 0);
	}
	image_must_close(disk);
	end(model);
}

/* 64 TiB: larger granules, little memory and a short record. */
static void largest_disk(void **state)
{
	const struct disk_create_options options = { .format = DISK_FORMAT_VHDX, .size = UINT64_C(64) << 40 };
	uint64_t end = options.size - 512, found[2] = { 0, 0 };
	static const char sector[512] = "the last";
	struct disk_track_point *points;
	struct error err = { 0 };
	struct disk *disk;
	char path[128], record[160];
	struct stat st;

	assert_int_equal(disk_create(in("disk", path), &options, &err), 0);
	disk = must_open("disk", false);
	assert_int_equal(disk_track_add(disk, "p", &err), 0);
	assert_int_equal(disk_write(disk, end, sector, sizeof(sector), &err), 0);
	image_must_close(disk);
	disk = must_open("disk", true);
	assert_int_equal(disk_track_list(disk, &points, &err), 1);
	assert_int_equal(points[0].granule, 8 * MIB);
	assert_int_equal(points[0].changed, 8 * MIB);
	free(points);
	assert_true(disk->tracker->session.granules <= CHANGES_GRANULES_MAX);
	assert_true(disk_track_changes(disk, "p", note_run, found, &err) == 0);
	assert_int_equal(found[0], options.size - 8 * MIB);
	assert_int_equal(found[1], 8 * MIB);
	image_must_close(disk);
	snprintf(record, sizeof(record), "%s.cbt", path);
	assert_int_equal(stat(record, &st), 0);
	assert_true(st.st_blocks * 512 < 64 * KIB);
	remove_image("disk");
}

int main(void)
{
	static enum disk_format formats[] = { DISK_FORMAT_VHDX, DISK_FORMAT_RAW, DISK_FORMAT_VHD };
	struct CMUnitTest tests[64];
	static const struct {
		const char *name;
		void (*run)(void **state);
		bool of_each_format;
	} rows[] = {
		{ "exact", exact, true },
		{ "killed", killed, true },
		{ "foreign writer", foreign_writer, true },
		{ "copy put back", copy_put_back, true },
		{ "damaged record", damaged, true },
		{ "record cannot be written", record_cannot_be_written, true },
		{ "moved record cannot be written", moved_record_cannot_be_written, true },
		{ "refused", refused, true },
		{ "resized", resized, true },
		{ "cut and grown again", cut_and_grown_again, true },
		{ "several threads", several_threads, true },
		{ "checkpoints", checkpoints, false },
		{ "merged into", merged_into, false },
		{ "largest disk", largest_disk, false },
	};
	size_t count = 0;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		for (size_t f = 0; f < (rows[i].of_each_format ? ARRAY_SIZE(formats) : 1); f++)
			tests[count++] = (struct CMUnitTest){ rows[i].name, rows[i].run, NULL, NULL, &formats[f] };
	log_set_level(LOG_LEVEL_ERROR); /* thousands of damaged records */
	image_directory(directory, sizeof(directory));
	r = _cmocka_run_group_tests("track", tests, count, NULL, NULL);
	rmdir(directory);
	return r;
}
