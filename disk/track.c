/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/track.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "disk/new_file.h"
#include "disk/vhdx.h"

void track_free(struct tracker *t)
{
	if (!t)
		return;
	if (t->file.fd >= 0)
		close(t->file.fd);
	if (t->given >= 0)
		close(t->given);
	changes_clear(&t->session);
	pthread_mutex_destroy(&t->lock);
	free(t->path);
	free(t);
}

/* Beside the image itself, not beside a link to it. */
static char *record_path(const struct disk *disk)
{
	_cleanup_free_ char *real = realpath(disk->path, NULL);
	char *path;

	/* Where no name leads to it any more its own will do. */
	return asprintf(&path, "%s.cbt", real ? real : disk->path) > 0 ? path : NULL;
}

static struct tracker *create(struct disk *disk)
{
	struct tracker *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->disk = disk;
	t->file = (struct file){.fd = -1, .direct_fd = -1};
	t->given = -1;
	t->region_shift = track_region_shift(disk->info.size);
	t->fresh = TRACK_POINTS_MAX;
	pthread_mutex_init(&t->lock, NULL);
	t->path = record_path(disk);
	if (t->path && changes_init(&t->session, disk->info.size) == 0)
		return t;
	track_free(t);
	return NULL;
}

static bool is_block_device(const struct disk *disk)
{
	struct stat st;

	return fstat(disk->file.fd, &st) == 0 && S_ISBLK(st.st_mode);
}

/* The record is open, or found by its name (-1). */
static void take_up(struct disk *disk, int fd, const struct file_observer *observer, const struct file_observer *of_new)
{
	struct error err = {0};
	struct tracker *t;
	int r;

	t = is_block_device(disk) ? NULL : create(disk);
	if (!t) {
		if (fd >= 0)
			close(fd);
		return;
	}
	t->file.fd = fd;
	t->file.observer = observer;
	t->of_new = of_new;
	r = track_load(t, &err);
	if (r == 0) {
		disk->tracker = t;
		return;
	}
	if (r != -ENOENT)
		log_write(LOG_LEVEL_WARNING, "%s; take all of the disk as changed", err.text);
	track_free(t);
}

void track_open(struct disk *disk, const struct file_observer *observer, const struct file_observer *of_new)
{
	take_up(disk, -1, observer, of_new);
}

void disk_track_given(struct disk *disk, int fd)
{
	take_up(disk, fd, NULL, NULL);
}

/* --- before the disk changes --- */

static bool region_is_set(const struct tracker *t, uint64_t region)
{
	return atomic_load_explicit(&t->regions[region / 64], memory_order_acquire) >> region % 64 & 1;
}

static bool is_covered(const struct tracker *t, uint64_t first, uint64_t last)
{
	if (!atomic_load_explicit(&t->begun, memory_order_acquire))
		return false;
	for (uint64_t region = first; region <= last; region++)
		if (!region_is_set(t, region))
			return false;
	return true;
}

static void set_identity(struct tracker *t, const struct guid *now, const struct guid *next)
{
	for (unsigned i = 0; i < 2; i++) {
		memset(&t->header.identity[i], 0, sizeof(t->header.identity[i]));
		t->header.identity[i].kind = TRACK_BY_GUID;
		t->header.identity[i].data_write_guid = i == 0 ? *now : *next;
	}
}

/* The image will have another DataWriteGuid once it is written: the record says which. [lock] */
static int begin(struct tracker *t)
{
	struct disk *disk = t->disk;
	int r = t->must_save ? track_save(t, NULL) : 0;

	if (r < 0)
		return r;
	if (disk->info.format == DISK_FORMAT_VHDX) {
		struct vhdx *v = disk->format;

		guid_random(&v->next_data_guid);
		set_identity(t, &v->header.data_write_guid, &v->next_data_guid);
	}
	t->header.open = true;
	return track_write_header(t);
}

/* [lock] */
static int cover(struct tracker *t, uint64_t first, uint64_t last)
{
	uint64_t page[TRACK_REGIONS / 64];
	int r = atomic_load(&t->begun) ? 0 : begin(t);

	for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
		page[i] = atomic_load(&t->regions[i]);
	for (uint64_t region = first; region <= last; region++)
		page[region / 64] |= UINT64_C(1) << region % 64;
	if (r == 0)
		r = file_write(&t->file, TRACK_REGIONS_AT, page, sizeof(page));
	if (r == 0)
		r = file_sync(&t->file);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < ARRAY_SIZE(page); i++)
		atomic_store_explicit(&t->regions[i], page[i], memory_order_release);
	atomic_store_explicit(&t->begun, true, memory_order_release);
	return 0;
}

/* A record that is nowhere is found by nobody; one whose name has gone may have another. */
static bool has_no_name(const struct tracker *t)
{
	struct stat st;

	return fstat(t->file.fd, &st) == 0 && st.st_nlink == 0;
}

/* Its sector is there already, so that it can be written also where nothing else can. */
static int spoil(struct tracker *t)
{
	const struct track_header none = {.version = 0};
	int r = file_write(&t->file, 0, &none, sizeof(none));

	return r < 0 ? r : file_sync(&t->file);
}

/* A record that cannot be written must not be there: without one, all counts as changed. [lock] */
static int lose(struct tracker *t, int r)
{
	int spoiled = spoil(t), removed = new_file_remove(t->path, t->file.observer);

	if (spoiled < 0 && removed < 0 && !has_no_name(t))
		return r;
	log_write(LOG_LEVEL_WARNING,
		  "%s: the record of changes could not be written (%s) and was removed: all points are lost",
		  t->path, strerror(-r));
	t->header.point_count = 0;
	atomic_store(&t->lost, true);
	return 0;
}

int track_before(struct disk *disk, uint64_t offset, uint64_t length)
{
	struct tracker *t = disk->tracker;
	uint64_t first, last;
	int r = 0;

	if (length == 0 || atomic_load(&t->lost))
		return 0;
	last = min_u64((offset + length - 1) >> t->region_shift, TRACK_REGIONS - 1);
	first = min_u64(offset >> t->region_shift, last);
	if (!is_covered(t, first, last)) {
		pthread_mutex_lock(&t->lock);
		if (!atomic_load(&t->lost) && !is_covered(t, first, last)) {
			r = cover(t, first, last);
			if (r < 0)
				r = lose(t, r);
		}
		pthread_mutex_unlock(&t->lock);
	}
	if (r == 0)
		changes_note(&t->session, offset, length);
	return r;
}

/* --- when it is at rest --- */

/* What is written from now on has a later time than what was, also where a file system knows seconds alone. */
static int let_time_pass(const struct disk *disk)
{
	struct timespec now, pause = {.tv_nsec = 1000000};
	struct stat st;

	for (;;) {
		if (fstat(disk->file.fd, &st) < 0 || clock_gettime(CLOCK_REALTIME_COARSE, &now) < 0)
			return -errno;
		if (now.tv_sec + 1 < st.st_ctim.tv_sec) {
			/* The clock was set back. */
			if (futimens(disk->file.fd, NULL) < 0)
				return -errno;
		} else if (now.tv_sec > st.st_ctim.tv_sec ||
			   (now.tv_sec == st.st_ctim.tv_sec && st.st_ctim.tv_nsec != 0 &&
			    now.tv_nsec > st.st_ctim.tv_nsec)) {
			return 0;
		}
		nanosleep(&pause, NULL);
	}
}

/* A new DataWriteGuid, which no contents of before had. The record is right before and after. */
static int rename_contents(struct tracker *t)
{
	struct vhdx *v = t->disk->format;
	struct guid next;
	int r = 0;

	guid_random(&next);
	if (t->file.fd >= 0 && !t->must_save) {
		set_identity(t, &v->header.data_write_guid, &next);
		r = track_write_header(t);
		if (r == 0)
			r = file_sync(&t->file);
	}
	return r < 0 ? r : vhdx_set_data_guid(v, &next);
}

/* Nothing of the disk is on its way. */
static int rest(struct tracker *t, bool closed, struct error *err)
{
	struct disk *disk = t->disk;
	int r = 0;

	if (disk->info.format == DISK_FORMAT_VHDX)
		return vhdx_rest(disk, err);
	if (!closed)
		r = disk->ops->commit(disk);
	if (r == 0)
		r = fsync(disk->file.fd) < 0 ? -errno : let_time_pass(disk);
	return r < 0 ? error_set(err, -r, "%s: its record of changes cannot be brought up to date: %s", disk->path,
				 strerror(-r))
		     : 0;
}

int track_end(struct disk *disk, bool closed, struct error *err)
{
	struct tracker *t = disk->tracker;
	int r;

	if (disk->info.read_only || atomic_load(&t->lost) || !atomic_load(&t->begun))
		return 0;
	r = rest(t, closed, err);
	return r < 0 ? r : track_save(t, err);
}

void track_move(struct disk *disk, bool remove_old)
{
	struct tracker *t = disk->tracker;
	struct error err = {0};
	char *old = t->path;
	int r = 0;

	t->path = record_path(disk);
	if (!t->path)
		r = error_set(&err, ENOMEM, "%s: no memory for its record of changes", disk->path);
	else if (!atomic_load(&t->lost))
		r = track_save(t, &err);
	if (r < 0) {
		log_write(LOG_LEVEL_WARNING, "%s; all points are lost", err.text);
		disk->tracker = NULL;
		track_free(t);
	}
	if (remove_old)
		(void)new_file_remove(old, NULL);
	free(old);
}

void track_move_given(struct disk *disk, int record)
{
	struct tracker *t = disk->tracker;
	struct error err = {0};
	int r = 0;

	if (!t) {
		if (record >= 0)
			close(record);
		return;
	}
	free(t->path);
	t->given = record;
	if (asprintf(&t->path, "%s.cbt", disk->path) < 0) {
		t->path = NULL;
		r = error_set(&err, ENOMEM, "%s: no memory for its record of changes", disk->path);
	} else if (record < 0) {
		r = error_set(&err, ENOENT, "%s: there is no file for its record of changes", disk->path);
	} else if (!atomic_load(&t->lost)) {
		r = track_save(t, &err);
	}
	if (r < 0) {
		log_write(LOG_LEVEL_WARNING, "%s; all points are lost", err.text);
		disk->tracker = NULL;
		track_free(t);
	}
}

/* --- points --- */

static unsigned find(const struct tracker *t, const char *name)
{
	unsigned i = 0;

	while (t && i < t->header.point_count && strcmp(t->entries[i].name, name) != 0)
		i++;
	return t && i < t->header.point_count ? i : TRACK_POINTS_MAX;
}

static int check_name(const struct disk *disk, const char *name, struct error *err)
{
	bool good = name[0] != '\0' && strlen(name) <= DISK_TRACK_NAME_MAX;

	for (const char *c = name; *c; c++)
		good = good && *c >= ' ' && *c < 0x7f;
	return good ? 0
		    : error_set(err, EINVAL, "%s: a point's name has 1 to %d printable ASCII characters",
				disk->path, DISK_TRACK_NAME_MAX);
}

static int no_point(const struct disk *disk, const char *name, struct error *err)
{
	return error_set(err, ENOENT, "%s: there is no point \"%s\"; take all of the disk as changed, and see: "
			 "bulkhead disk track list", disk->path, name);
}

/* [gate closed] */
static int add(struct disk *disk, const char *name, struct error *err)
{
	struct tracker *t = disk->tracker;
	struct track_entry *entry;
	int r;

	if (find(t, name) < TRACK_POINTS_MAX)
		return error_set(err, EEXIST, "%s: there is a point \"%s\" already; choose another name", disk->path,
				 name);
	if (t && t->header.point_count == TRACK_POINTS_MAX)
		return error_set(err, ENOSPC, "%s: has %u points already; remove some of them", disk->path,
				 TRACK_POINTS_MAX);
	if (t && atomic_load(&t->lost)) {
		track_free(t);
		t = disk->tracker = NULL;
	}
	if (!t)
		t = create(disk);
	if (!t)
		return error_set(err, ENOMEM, "%s: no memory for a record of changes", disk->path);
	r = rest(t, false, err);
	if (r == 0 && disk->info.format == DISK_FORMAT_VHDX && rename_contents(t) < 0)
		r = error_set(err, EIO, "%s: its header cannot be written", disk->path);
	if (r == 0) {
		t->fresh = t->header.point_count++;
		entry = &t->entries[t->fresh];
		memset(entry, 0, sizeof(*entry));
		memcpy(entry->name, name, strlen(name));
		entry->created = (uint64_t)time(NULL);
		r = track_save(t, err);
		if (r < 0)
			t->header.point_count--;
		t->fresh = TRACK_POINTS_MAX;
	}
	if (r < 0 && !disk->tracker)
		track_free(t);
	else
		disk->tracker = t;
	return r;
}

/* [gate closed] */
static int remove_point(struct disk *disk, const char *name, struct error *err)
{
	struct tracker *t = disk->tracker;
	unsigned point = find(t, name);
	struct track_entry removed;
	int r;

	if (point == TRACK_POINTS_MAX)
		return no_point(disk, name, err);
	if (t->header.point_count == 1) {
		r = new_file_remove(t->path, t->file.observer);
		if (r < 0)
			return error_set(err, -r, "%s: cannot be removed: %s", t->path, strerror(-r));
		disk->tracker = NULL;
		track_free(t);
		return 0;
	}
	r = rest(t, false, err);
	if (r < 0)
		return r;
	removed = t->entries[point];
	t->header.point_count--;
	memmove(&t->entries[point], &t->entries[point + 1],
		(t->header.point_count - point) * sizeof(t->entries[0]));
	r = track_save(t, err);
	if (r < 0) {
		memmove(&t->entries[point + 1], &t->entries[point],
			(t->header.point_count - point) * sizeof(t->entries[0]));
		t->entries[point] = removed;
		t->header.point_count++;
	}
	return r;
}

static int change_points(struct disk *disk, const char *name,
			 int (*change)(struct disk *disk, const char *name, struct error *err), struct error *err)
{
	int r = check_name(disk, name, err);

	if (r < 0)
		return r;
	if (!gate_begin_change(disk->gate))
		return error_set(err, EBUSY, "%s: its chain of files changes; try again when that is done", name);
	gate_close(disk->gate);
	if (disk->info.read_only)
		r = error_set(err, EROFS, "%s: open for reading only; open it for writing", disk->path);
	else if (is_block_device(disk))
		r = error_set(err, ENOTSUP, "%s: a block device, beside which no record of changes can be kept",
			      disk->path);
	else
		r = change(disk, name, err);
	gate_open(disk->gate);
	gate_end_change(disk->gate);
	return r;
}

int disk_track_add(struct disk *disk, const char *name, struct error *err)
{
	return change_points(disk, name, add, err);
}

int disk_track_remove(struct disk *disk, const char *name, struct error *err)
{
	return change_points(disk, name, remove_point, err);
}

static int list(struct tracker *t, struct disk_track_point *points)
{
	struct changes changes;

	for (unsigned i = 0; i < t->header.point_count; i++) {
		int r = track_read(t, i, &changes);

		if (r < 0)
			return r;
		memcpy(points[i].name, t->entries[i].name, sizeof(points[i].name));
		points[i].created = t->entries[i].created;
		points[i].changed = changes_sum(&changes);
		points[i].granule = UINT64_C(1) << changes.shift;
		changes_clear(&changes);
	}
	return (int)t->header.point_count;
}

int disk_track_list(struct disk *disk, struct disk_track_point **points, struct error *err)
{
	int count = 0;

	*points = calloc(TRACK_POINTS_MAX, sizeof(**points));
	gate_enter_waiting(disk->gate);
	if (!*points) {
		count = -ENOMEM;
	} else if (disk->tracker) {
		pthread_mutex_lock(&disk->tracker->lock);
		count = list(disk->tracker, *points);
		pthread_mutex_unlock(&disk->tracker->lock);
	}
	if (count < 0)
		error_set(err, -count, "%s: no memory to list its points", disk->path);
	gate_leave(disk->gate);
	if (count < 0) {
		free(*points);
		*points = NULL;
	}
	return count;
}

static int read_point(struct disk *disk, const char *name, struct changes *changes, struct error *err)
{
	struct tracker *t = disk->tracker;
	unsigned point;
	int r;

	if (!t)
		return no_point(disk, name, err);
	pthread_mutex_lock(&t->lock);
	point = find(t, name);
	r = point < TRACK_POINTS_MAX ? track_read(t, point, changes) : no_point(disk, name, err);
	pthread_mutex_unlock(&t->lock);
	return r;
}

int disk_track_changes(struct disk *disk, const char *name,
		       int (*visit)(void *context, uint64_t offset, uint64_t length), void *context,
		       struct error *err)
{
	uint64_t offset = 0, length;
	struct changes changes;
	int r;

	gate_enter_waiting(disk->gate);
	r = read_point(disk, name, &changes, err);
	gate_leave(disk->gate);
	if (r < 0)
		return r;
	for (; r == 0 && changes_next(&changes, &offset, &length); offset += length)
		r = visit(context, offset, length);
	changes_clear(&changes);
	return r;
}
