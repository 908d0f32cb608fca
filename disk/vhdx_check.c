/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx_check.c - what is wrong in a file that could be opened, for a person; and, if it is to be repaired, what would
 * put that right. What is lost then is said. A block whose place belongs to another is given a copy of it: nobody can
 * tell whose the contents are.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "disk/repair.h"
#include "disk/vhdx.h"
#include "disk/vhdx_metadata.h"

#define BATCH        65536u /* BAT entries at a time */
#define FINDINGS_MAX 1000u

struct check {
	struct vhdx *v;
	FILE *report;
	unsigned findings;
	struct space space;
	struct repair *repair; /* NULL: nothing is to be put right */
	uint64_t partial;      /* blocks of the chunk in hand that need its bitmap, */
	uint64_t *partials;    /* and which those are, when they are to be put right */
	size_t room;
};

__attribute__((format(printf, 2, 3))) static void find(struct check *check, const char *format, ...)
{
	va_list args;

	check->findings++;
	if (check->findings > FINDINGS_MAX || !check->report)
		return;
	if (check->findings == FINDINGS_MAX) {
		fputs("more findings are not printed\n", check->report);
		return;
	}
	if (check->v->disk->child || check->v->disk->parent)
		fprintf(check->report, "%s: ", check->v->disk->path);
	va_start(args, format);
	vfprintf(check->report, format, args);
	va_end(args);
	fputc('\n', check->report);
}

/* What is told, but is nothing wrong. */
__attribute__((format(printf, 2, 3))) static void tell(const struct check *check, const char *format, ...)
{
	va_list args;

	if (!check->report)
		return;
	fprintf(check->report, "%s: ", check->v->disk->path);
	va_start(args, format);
	vfprintf(check->report, format, args);
	va_end(args);
	fputc('\n', check->report);
}

/* A power cut leaves one of the headers torn, and a log that is not empty: opening the disk for writing mends both. */
static void check_headers(struct check *check)
{
	static const uint64_t places[] = {VHDX_HEADER_OFFSET_1, VHDX_HEADER_OFFSET_2};
	struct vhdx *v = check->v;

	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		if (vhdx_header_is_good(v, i))
			continue;
		tell(check, "the header at offset %#jx is damaged; the other one counts", (uintmax_t)places[i]);
		if (!check->repair)
			continue;
		repair_tell(check->repair, false, "the header at offset %#jx is written anew", (uintmax_t)places[i]);
		repair_touch(check->repair, places[i], sizeof(struct vhdx_header));
	}
	if (!guid_is_zero(&v->header.log_guid))
		tell(check, "its log is not empty: opening the disk for writing will carry it out");
}

static void check_tables(struct check *check)
{
	static const uint64_t places[] = {VHDX_REGION_TABLE_OFFSET_1, VHDX_REGION_TABLE_OFFSET_2};
	_cleanup_free_ uint8_t *table = malloc(VHDX_TABLE_SIZE);

	for (size_t i = 0; table && i < ARRAY_SIZE(places); i++) {
		if (vhdx_read_region_table(check->v, places[i], table) == 0)
			continue;
		find(check, "the region table at offset %#jx is damaged; the other one is used", (uintmax_t)places[i]);
		if (check->repair && vhdx_read_region_table(check->v, places[!i], table) == 0) {
			repair_tell(check->repair, false, "the region table at offset %#jx becomes a copy of the other",
				    (uintmax_t)places[i]);
			repair_put(check->repair, places[i], table, VHDX_TABLE_SIZE);
		}
	}
}

/* --- what puts entries right --- */

static void put_entry(struct check *check, uint64_t index, uint64_t entry)
{
	uint8_t bytes[8];

	le64_put(bytes, entry);
	repair_put(check->repair, check->v->bat_region.offset + index * 8, bytes, sizeof(bytes));
}

/* Where the block was cannot be known. */
static void lose_block(struct check *check, uint64_t block, unsigned state)
{
	struct vhdx *v = check->v;
	uint64_t entry = VHDX_BLOCK_NOT_PRESENT;

	if (!check->repair)
		return;
	if (!v->disk->info.dynamic)
		entry = repair_place(check->repair, 0, 0, v->block_size, VHDX_UNIT) | VHDX_BLOCK_FULLY_PRESENT;
	else if (v->has_parent && state != VHDX_BLOCK_PARTIALLY_PRESENT)
		entry = VHDX_BLOCK_ZERO;
	put_entry(check, bat_entry_index(v, block), entry);
	repair_tell(check->repair, true, "block %ju, %ju bytes of the disk at offset %ju, becomes %s", (uintmax_t)block,
		    (uintmax_t)vhdx_block_used(v, block), (uintmax_t)(block << v->block_shift),
		    v->has_parent && entry == VHDX_BLOCK_NOT_PRESENT ? "what its parent has" : "zeros");
}

/* A new place with a copy of what the file has of the block. */
static void give_place(struct check *check, uint64_t block, uint64_t entry)
{
	struct vhdx *v = check->v;
	uint64_t from = entry & VHDX_BAT_OFFSET_MASK;
	uint64_t place = repair_place(check->repair, from, v->bat.file_end - from, v->block_size, VHDX_UNIT);

	put_entry(check, bat_entry_index(v, block), place | (entry & VHDX_BAT_STATE_MASK));
}

/* Where a file was cut off inside of a block, what is before that can be had. */
static bool has_part(struct check *check, uint64_t place)
{
	const struct vhdx *v = check->v;

	return place < v->bat.file_end && vhdx_place_is_sane(v, place, v->block_size, UINT64_MAX) &&
	       space_take(&check->space, place, v->block_size);
}

static void keep_part(struct check *check, uint64_t block, uint64_t entry)
{
	struct vhdx *v = check->v;

	if (!check->repair)
		return;
	give_place(check, block, entry);
	repair_tell(check->repair, true,
		    "block %ju, %ju bytes of the disk at offset %ju: the file has the first %ju; the others become zeros",
		    (uintmax_t)block, (uintmax_t)vhdx_block_used(v, block), (uintmax_t)(block << v->block_shift),
		    (uintmax_t)(v->bat.file_end - (entry & VHDX_BAT_OFFSET_MASK)));
}

static void part_block(struct check *check, uint64_t block, uint64_t entry)
{
	struct vhdx *v = check->v;

	if (!check->repair)
		return;
	give_place(check, block, entry);
	repair_tell(check->repair, true,
		    "block %ju, %ju bytes of the disk at offset %ju, gets a copy of the place that it shares: its "
		    "contents are right, or those of the other block are",
		    (uintmax_t)block, (uintmax_t)vhdx_block_used(v, block), (uintmax_t)(block << v->block_shift));
}

static void put_state(struct check *check, uint64_t block, uint64_t entry, bool lossy, const char *what)
{
	if (!check->repair)
		return;
	put_entry(check, bat_entry_index(check->v, block), entry);
	repair_tell(check->repair, lossy, "block %ju: %s", (uintmax_t)block, what);
}

static void note_partial(struct check *check, uint64_t block)
{
	uint64_t *more;

	if (check->repair && check->partial == check->room) {
		more = reallocarray(check->partials, 2 * check->room + 64, sizeof(*more));
		if (!more) {
			check->repair->error = -ENOMEM;
			return;
		}
		check->partials = more;
		check->room = 2 * check->room + 64;
	}
	if (check->repair)
		check->partials[check->partial] = block;
	check->partial++;
}

/* --- what is wrong with them --- */

static void check_place(struct check *check, uint64_t block, uint64_t entry)
{
	struct vhdx *v = check->v;
	uint64_t place = entry & VHDX_BAT_OFFSET_MASK, used = vhdx_block_used(v, block);
	unsigned state = entry & VHDX_BAT_STATE_MASK;

	if (!vhdx_place_is_sane(v, place, used, v->bat.file_end) ||
	    !vhdx_place_is_sane(v, place, v->block_size, UINT64_MAX)) {
		find(check,
		     "block %ju: its place at offset %#jx is outside the file of %ju bytes or inside its own "
		     "structures",
		     (uintmax_t)block, (uintmax_t)place, (uintmax_t)v->bat.file_end);
		if (has_part(check, place))
			keep_part(check, block, entry);
		else
			lose_block(check, block, state);
	} else if (!space_take(&check->space, place, v->block_size)) {
		find(check, "block %ju: its place at offset %#jx belongs to another block too", (uintmax_t)block,
		     (uintmax_t)place);
		part_block(check, block, entry);
	} else if (entry & VHDX_BAT_RESERVED_MASK) {
		put_state(check, block, entry & ~VHDX_BAT_RESERVED_MASK, false, "its reserved bits are cleared");
	}
}

static void check_block(struct check *check, uint64_t block, uint64_t entry)
{
	struct vhdx *v = check->v;
	unsigned state = entry & VHDX_BAT_STATE_MASK;
	bool partial = state == VHDX_BLOCK_PARTIALLY_PRESENT;

	if (entry & VHDX_BAT_RESERVED_MASK)
		find(check, "block %ju: reserved bits are set in its entry %#jx", (uintmax_t)block,
		     (uintmax_t)entry);
	if (state == 4 || (partial && !v->has_parent)) {
		find(check, "block %ju: the state %u is impossible in a disk %s parent", (uintmax_t)block,
		     state, v->has_parent ? "with" : "without");
		if (!vhdx_place_is_sane(v, entry & VHDX_BAT_OFFSET_MASK, v->block_size, v->bat.file_end) ||
		    !space_take(&check->space, entry & VHDX_BAT_OFFSET_MASK, v->block_size))
			lose_block(check, block, state);
		else
			put_state(check, block, (entry & VHDX_BAT_OFFSET_MASK) | VHDX_BLOCK_FULLY_PRESENT, true,
				  "it becomes what is at its place, whether that was right or not");
		return;
	}
	if (partial) {
		note_partial(check, block);
	} else if (state != VHDX_BLOCK_FULLY_PRESENT) {
		if (!v->disk->info.dynamic && state == VHDX_BLOCK_NOT_PRESENT) {
			find(check, "block %ju: not present, although the disk is a fixed one", (uintmax_t)block);
			lose_block(check, block, state);
		} else if (entry & VHDX_BAT_RESERVED_MASK) {
			put_state(check, block, entry & ~VHDX_BAT_RESERVED_MASK, false, "its reserved bits are cleared");
		}
		return;
	}
	check_place(check, block, entry);
}

/* The bitmap is no more: which of the sectors are there is not known. */
static void lose_bitmap(struct check *check, uint64_t index, uint64_t partial, bool has_entry)
{
	for (uint64_t i = 0; check->repair && i < partial; i++)
		lose_block(check, check->partials[i], VHDX_BLOCK_PARTIALLY_PRESENT);
	if (!check->repair || !has_entry)
		return;
	put_entry(check, index, 0);
	repair_tell(check->repair, false, "the entry of a sector bitmap that cannot be is cleared");
}

static void part_bitmap(struct check *check, uint64_t index, uint64_t place)
{
	uint64_t copy;

	if (!check->repair)
		return;
	copy = repair_place(check->repair, place, VHDX_BITMAP_SIZE, VHDX_BITMAP_SIZE, VHDX_UNIT);
	put_entry(check, index, copy | VHDX_BITMAP_PRESENT);
	repair_tell(check->repair, true, "a sector bitmap gets a copy of the place that it shares with a block: one of the "
		    "two is wrong");
}

static void check_bitmap(struct check *check, uint64_t chunk, uint64_t entry)
{
	struct vhdx *v = check->v;
	uint64_t place = entry & VHDX_BAT_OFFSET_MASK, partial = check->partial;
	uint64_t index = (chunk + 1) * (v->chunk_ratio + 1) - 1;
	bool present = (entry & VHDX_BAT_STATE_MASK) == VHDX_BITMAP_PRESENT, lost = entry != 0;

	check->partial = 0;
	if (entry != 0 && !v->has_parent)
		find(check, "chunk %ju: has a sector bitmap, although the disk has no parent",
		     (uintmax_t)chunk);
	else if (entry != 0 && !present)
		find(check, "chunk %ju: its sector bitmap has the impossible entry %#jx", (uintmax_t)chunk,
		     (uintmax_t)entry);
	else if (present && !vhdx_place_is_sane(v, place, VHDX_BITMAP_SIZE, v->bat.file_end))
		find(check,
		     "chunk %ju: its sector bitmap at offset %#jx is outside the file of %ju bytes or inside "
		     "its "
		     "own structures",
		     (uintmax_t)chunk, (uintmax_t)place, (uintmax_t)v->bat.file_end);
	else
		lost = false;
	if (partial > 0 && !present)
		find(check, "chunk %ju: has no sector bitmap, but %ju partially present blocks need it",
		     (uintmax_t)chunk, (uintmax_t)partial);
	if (lost || (partial > 0 && !present)) {
		lose_bitmap(check, index, partial, lost);
	} else if (present && !space_take(&check->space, place, VHDX_BITMAP_SIZE)) {
		find(check, "chunk %ju: the place of its sector bitmap at offset %#jx belongs to a block too",
		     (uintmax_t)chunk, (uintmax_t)place);
		part_bitmap(check, index, place);
	}
}

static int check_bat(struct check *check, struct error *err)
{
	struct vhdx *v = check->v;
	uint64_t total = v->bat_entries;
	_cleanup_free_ uint64_t *entries = malloc(BATCH * sizeof(*entries));

	if (!entries)
		return error_set(err, ENOMEM, "%s: no memory to check it", v->disk->path);
	for (uint64_t start = 0; start < total; start += BATCH) {
		size_t n = min_u64(BATCH, total - start);
		int r = vhdx_read(v, v->bat_region.offset + start * 8, entries, n * sizeof(*entries));

		if (r < 0)
			return error_set(err, -r, "%s: its block allocation table cannot be read: %s",
					 v->disk->path, strerror(-r));
		for (size_t i = 0; i < n; i++) {
			uint64_t chunk = (start + i) / (v->chunk_ratio + 1),
				 within = (start + i) % (v->chunk_ratio + 1);

			if (within < v->chunk_ratio)
				check_block(check, chunk * v->chunk_ratio + within, entries[i]);
			else
				check_bitmap(check, chunk, entries[i]);
		}
	}
	return 0;
}

static int examine(struct check *check, struct error *err)
{
	struct disk *disk = check->v->disk;
	int r;

	if (check->v->bat.file_end > VHDX_FILE_SIZE_MAX)
		return error_set(err, EFBIG, "%s: a file of %ju bytes is too long to be checked", disk->path,
				 (uintmax_t)check->v->bat.file_end);
	if (space_init(&check->space, check->v->bat.file_end) < 0)
		return error_set(err, ENOMEM, "%s: no memory to check it", disk->path);
	check_headers(check);
	check_tables(check);
	r = check_bat(check, err);
	free(check->space.taken);
	free(check->partials);
	return r;
}

int vhdx_check(struct disk *disk, FILE *report, struct error *err)
{
	struct check check = {.v = disk->format, .report = report};
	int r = examine(&check, err);

	if (r == 0 && check.findings > 0)
		r = error_set(
		    err, EBADMSG,
		    "%s: %u things are wrong in its structures; copy what can be read to a new image, or see: "
		    "bulkhead disk check --repair",
		    disk->path, check.findings);
	return r;
}

int vhdx_plan_repair(struct disk *disk, struct repair *repair, struct error *err)
{
	struct vhdx *v = disk->format;
	struct check check = {.v = v, .report = repair->report, .repair = repair};

	repair->file_end = v->bat.file_end;
	return examine(&check, err);
}
