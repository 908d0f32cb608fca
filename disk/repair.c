/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/repair.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "disk/new_file.h"

#define CHANGES_MAX (1u << 20)
#define TOLD_MAX    1000u
#define PART        (UINT64_C(1) << 20)

/* Room for one more. */
static bool grow(struct repair *repair, void *list, size_t count, size_t *room, size_t size)
{
	void **items = list, *more;

	if (count < *room)
		return true;
	more = count < CHANGES_MAX ? reallocarray(*items, 2 * count + 16, size) : NULL;
	if (!more) {
		repair->error = count < CHANGES_MAX ? -ENOMEM : -E2BIG;
		return false;
	}
	*items = more;
	*room = 2 * count + 16;
	return true;
}

static void note(struct repair *repair, uint64_t offset, uint8_t *bytes, uint32_t size)
{
	if (repair->error < 0 ||
	    !grow(repair, &repair->changes, repair->change_count, &repair->change_room, sizeof(*repair->changes))) {
		free(bytes);
		return;
	}
	repair->changes[repair->change_count] = (struct repair_change){offset, size, bytes, repair->change_count};
	repair->change_count++;
}

void repair_put(struct repair *repair, uint64_t offset, const void *bytes, uint32_t size)
{
	uint8_t *copy = malloc(size);

	if (!copy) {
		repair->error = -ENOMEM;
		return;
	}
	memcpy(copy, bytes, size);
	note(repair, offset, copy, size);
}

void repair_touch(struct repair *repair, uint64_t offset, uint32_t size)
{
	note(repair, offset, NULL, size);
}

uint64_t repair_place(struct repair *repair, uint64_t from, uint64_t there, uint64_t length, uint64_t alignment)
{
	uint64_t to = align_up_u64(repair->file_end, alignment);

	repair->file_end = to + length;
	if (repair->error == 0 &&
	    grow(repair, &repair->copies, repair->copy_count, &repair->copy_room, sizeof(*repair->copies)))
		repair->copies[repair->copy_count++] = (struct repair_copy){from, min_u64(there, length), to, length};
	return to;
}

void repair_tell(struct repair *repair, bool lossy, const char *format, ...)
{
	va_list args;

	repair->lossy += lossy;
	if (!repair->report || ++repair->told > TOLD_MAX)
		return;
	fputs(lossy ? "repair, with a loss: " : "repair: ", repair->report);
	va_start(args, format);
	vfprintf(repair->report, format, args);
	va_end(args);
	fputc('\n', repair->report);
}

static void clear(struct repair *repair)
{
	for (size_t i = 0; i < repair->change_count; i++)
		free(repair->changes[i].bytes);
	free(repair->changes);
	free(repair->copies);
}

static int copy(struct file *file, const struct repair_copy *copy, uint8_t *buffer)
{
	int r = 0;

	for (uint64_t at = 0, part; r == 0 && at < copy->length; at += part) {
		part = min_u64(PART, copy->length - at);
		memset(buffer, 0, part);
		if (at < copy->there)
			r = file_read(file, copy->from + at, buffer, min_u64(part, copy->there - at));
		if (r == 0)
			r = file_write(file, copy->to + at, buffer, part);
	}
	return r;
}

/* What stands behind the image as it was, so that each change finds what it relies on. */
static int prepare(struct repair *repair)
{
	struct file *file = &repair->disk->file;
	_cleanup_free_ uint8_t *buffer = malloc(PART);
	uint64_t size = 0;
	int r = buffer ? file_size(file, &size) : -ENOMEM;

	if (r < 0)
		return r;
	r = repair->disk->ops->begin_repair(repair->disk, repair);
	for (size_t i = 0; r == 0 && i < repair->copy_count; i++)
		r = copy(file, &repair->copies[i], buffer);
	if (r == 0)
		r = file_sync(file);
	/* The host may have no room for that: then it gets back what it had given. */
	if (r < 0)
		(void)file_resize(file, size);
	return r;
}

static int apply(struct repair *repair, const char *kept, struct error *err)
{
	struct file *file = &repair->disk->file;
	int r = prepare(repair);

	if (r < 0) {
		(void)new_file_remove(kept, NULL);
		return error_set(err, -r, "%s: cannot be repaired: %s; its contents are as they were", repair->disk->path,
				 strerror(-r));
	}
	for (size_t i = 0; r == 0 && i < repair->change_count; i++)
		if (repair->changes[i].bytes)
			r = file_write(file, repair->changes[i].offset, repair->changes[i].bytes, repair->changes[i].size);
	if (r == 0)
		r = file_sync(file);
	return r < 0 ? error_set(err, -r, "%s: its repair was not completed: %s; repair it again", repair->disk->path,
				 strerror(-r))
		     : 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct repair_change *left = a, *right = b;

	return left->offset != right->offset ? (left->offset > right->offset) - (left->offset < right->offset)
					     : (left->number > right->number) - (left->number < right->number);
}

/* What was noted last for an entry counts: a block that was to get a place, and whose bitmap is lost, say. */
static void leave_out_earlier(struct repair *repair)
{
	size_t count = 0;

	qsort(repair->changes, repair->change_count, sizeof(*repair->changes), by_offset);
	for (size_t i = 0; i < repair->change_count; i++) {
		if (i + 1 < repair->change_count && repair->changes[i + 1].offset == repair->changes[i].offset)
			free(repair->changes[i].bytes);
		else
			repair->changes[count++] = repair->changes[i];
	}
	repair->change_count = count;
}

static int judge(const struct repair *repair, bool lose_data, struct error *err)
{
	const char *path = repair->disk->path;

	if (repair->error == -E2BIG)
		return error_set(err, E2BIG, "%s: more is damaged than can be repaired one by one; copy what can be "
				 "read by: bulkhead disk convert", path);
	if (repair->error < 0)
		return error_set(err, -repair->error, "%s: no memory to repair it", path);
	if (repair->lossy > 0 && !lose_data)
		return error_set(err, EEXIST, "%s: %u things cannot be put right without a loss, so that nothing was "
				 "changed; restore it from a backup, or repair what is left by: bulkhead disk check "
				 "--repair --force", path, repair->lossy);
	return 0;
}

static int carry_out(struct repair *repair, bool lose_data, char **kept, struct error *err)
{
	int r = judge(repair, lose_data, err);

	if (r < 0 || (repair->change_count == 0 && repair->copy_count == 0))
		return r;
	if (repair->change_count > 0)
		leave_out_earlier(repair);
	r = repair_keep(repair, kept, err);
	if (r == 0)
		r = apply(repair, *kept, err);
	if (r == 0 && repair->report)
		fprintf(repair->report, "what was overwritten is kept in %s, and put back by: bulkhead disk check --undo\n",
			*kept);
	return r;
}

static int repair_structures(const char *path, bool lose_data, bool *lossy, char **kept, FILE *report,
			     const struct file_observer *observer, struct error *err)
{
	struct repair repair = {.report = report};
	int r = disk_open_damaged(&repair.disk, path, observer, err), closed;

	if (r < 0)
		return r;
	if (repair.disk->ops->plan_repair) {
		r = repair.disk->ops->plan_repair(repair.disk, &repair, err);
		if (r == 0)
			r = carry_out(&repair, lose_data, kept, err);
	}
	*lossy = repair.lossy > 0;
	clear(&repair);
	closed = disk_close(repair.disk, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

/* What a person may still look for, after a loss, in space that is nobody's, stays there. */
static int reclaim(const char *path, FILE *report, const struct file_observer *observer, struct error *err)
{
	struct disk *disk;
	uint64_t bytes = 0;
	int r = disk_open_watched(&disk, path, &(struct disk_open_options){.format = DISK_FORMAT_AUTO}, observer, err);
	int closed;

	if (r < 0)
		return r;
	r = disk->ops->reclaim ? disk->ops->reclaim(disk, &bytes) : 0;
	if (r < 0)
		error_set(err, -r, "%s: space that is nobody's could not be given back: %s", path, strerror(-r));
	if (bytes > 0 && report)
		fprintf(report, "repair: %ju bytes of the file that were nobody's were given back\n", (uintmax_t)bytes);
	closed = disk_close(disk, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

int disk_repair_watched(const char *path, bool lose_data, FILE *report, const struct file_observer *observer,
			struct error *err)
{
	_cleanup_free_ char *kept = NULL;
	bool lossy = false;
	struct error why = {0};
	int r = repair_structures(path, lose_data, &lossy, &kept, report, observer, err);

	if (r < 0)
		return r;
	if (!lossy)
		r = reclaim(path, report, observer, err);
	if (kept && repair_seal(path, kept, &why) < 0)
		log_write(LOG_LEVEL_WARNING, "%s: the repair is done, but %s; do not take it back once the image is used", path,
			  why.text);
	return r < 0 ? r : disk_check(path, report, err);
}

int disk_repair(const char *path, bool lose_data, FILE *report, struct error *err)
{
	return disk_repair_watched(path, lose_data, report, NULL, err);
}
