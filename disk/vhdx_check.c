/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_check.c - what is wrong in a file that could be opened, for a person. */
#include <errno.h>
#include <string.h>

#include "disk/vhdx.h"
#include "disk/vhdx_metadata.h"

#define BATCH        65536u /* BAT entries at a time */
#define FINDINGS_MAX 1000u

struct check {
	struct vhdx *v;
	FILE *report;
	unsigned findings;
	struct space space;
	uint64_t partial; /* blocks of the chunk in hand that need its bitmap */
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

static void check_tables(struct check *check)
{
	static const uint64_t places[] = {VHDX_REGION_TABLE_OFFSET_1, VHDX_REGION_TABLE_OFFSET_2};
	_cleanup_free_ uint8_t *table = malloc(VHDX_TABLE_SIZE);

	for (size_t i = 0; table && i < ARRAY_SIZE(places); i++)
		if (vhdx_read_region_table(check->v, places[i], table) < 0)
			find(check, "the region table at offset %#jx is damaged; the other one is used",
			     (uintmax_t)places[i]);
}

static void check_block(struct check *check, uint64_t block, uint64_t entry)
{
	struct vhdx *v = check->v;
	uint64_t place = entry & VHDX_BAT_OFFSET_MASK;
	uint64_t used = vhdx_block_used(v, block);
	unsigned state = entry & VHDX_BAT_STATE_MASK;

	if (entry & VHDX_BAT_RESERVED_MASK)
		find(check, "block %ju: reserved bits are set in its entry %#jx", (uintmax_t)block,
		     (uintmax_t)entry);
	if (state == 4 || (state == VHDX_BLOCK_PARTIALLY_PRESENT && !v->has_parent))
		find(check, "block %ju: the state %u is impossible in a disk %s parent", (uintmax_t)block,
		     state, v->has_parent ? "with" : "without");
	if (state == VHDX_BLOCK_PARTIALLY_PRESENT) {
		check->partial++;
	} else if (state != VHDX_BLOCK_FULLY_PRESENT) {
		if (!v->disk->info.dynamic && state == VHDX_BLOCK_NOT_PRESENT)
			find(check, "block %ju: not present, although the disk is a fixed one",
			     (uintmax_t)block);
		return;
	}
	if (!vhdx_place_is_sane(v, place, used, v->bat.file_end))
		find(check,
		     "block %ju: its place at offset %#jx is outside the file of %ju bytes or inside its own "
		     "structures",
		     (uintmax_t)block, (uintmax_t)place, (uintmax_t)v->bat.file_end);
	else if (!space_take(&check->space, place, used))
		find(check, "block %ju: its place at offset %#jx belongs to another block too",
		     (uintmax_t)block, (uintmax_t)place);
}

static void check_bitmap(struct check *check, uint64_t chunk, uint64_t entry)
{
	struct vhdx *v = check->v;
	uint64_t place = entry & VHDX_BAT_OFFSET_MASK, partial = check->partial;
	bool present = (entry & VHDX_BAT_STATE_MASK) == VHDX_BITMAP_PRESENT;

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
	else if (present && !space_take(&check->space, place, VHDX_BITMAP_SIZE))
		find(check, "chunk %ju: the place of its sector bitmap at offset %#jx belongs to a block too",
		     (uintmax_t)chunk, (uintmax_t)place);
	if (partial > 0 && !present)
		find(check, "chunk %ju: has no sector bitmap, but %ju partially present blocks need it",
		     (uintmax_t)chunk, (uintmax_t)partial);
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

int vhdx_check(struct disk *disk, FILE *report, struct error *err)
{
	struct check check = {.v = disk->format, .report = report};
	int r;

	if (check.v->bat.file_end > VHDX_FILE_SIZE_MAX)
		return error_set(err, EFBIG, "%s: a file of %ju bytes is too long to be checked", disk->path,
				 (uintmax_t)check.v->bat.file_end);
	if (space_init(&check.space, check.v->bat.file_end) < 0)
		return error_set(err, ENOMEM, "%s: no memory to check it", disk->path);
	check_tables(&check);
	r = check_bat(&check, err);
	free(check.space.taken);
	if (r == 0 && check.findings > 0)
		r = error_set(
		    err, EBADMSG,
		    "%s: %u things are wrong in its structures; copy what can be read to a new image",
		    disk->path, check.findings);
	return r;
}
