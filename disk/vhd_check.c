/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd_check.c - what is wrong in a file that could be opened, for a person; and what would put that right. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "disk/repair.h"
#include "disk/vhd.h"

#define FINDINGS_MAX 1000u

struct check {
	struct vhd *v;
	FILE *report;
	unsigned findings;
	struct repair *repair; /* NULL: nothing is to be put right */
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
	va_start(args, format);
	vfprintf(check->report, format, args);
	va_end(args);
	fputc('\n', check->report);
}

/* What a power cut may leave, and opening it for writing mends: told, but nothing is wrong. */
static void tell_of_footers(const struct vhd *v, FILE *report)
{
	if (!report)
		return;
	if (v->footer_offset == UINT64_MAX)
		fprintf(report, "%s: the footer at the end of the file is missing; its copy at offset 0 counts "
				"until the disk is opened for writing, which puts it back\n",
			v->disk->path);
	else if (v->disk->info.dynamic && !v->copy_is_good)
		fprintf(report, "%s: the copy of the footer at offset 0 is damaged or older than the one at the "
				"end, which counts; opening the disk for writing mends it\n",
			v->disk->path);
}

static void put_entry(struct check *check, uint32_t block, uint32_t entry)
{
	uint8_t bytes[VHD_BAT_ENTRY_SIZE];

	be32_put(bytes, entry);
	repair_put(check->repair, check->v->table_offset + (uint64_t)block * VHD_BAT_ENTRY_SIZE, bytes, sizeof(bytes));
}

static void lose_block(struct check *check, uint32_t block)
{
	struct vhd *v = check->v;

	if (!check->repair)
		return;
	put_entry(check, block, VHD_BAT_UNUSED);
	repair_tell(check->repair, true, "block %u, %ju bytes of the disk at offset %ju, becomes %s", block,
		    (uintmax_t)vhd_block_used(v, block), (uintmax_t)block << v->block_shift,
		    v->has_parent ? "what its parent has" : "zeros");
}

static uint64_t end_of_blocks(const struct vhd *v)
{
	return v->footer_offset != UINT64_MAX ? v->footer_offset : v->file_end;
}

/* A new place for bitmap and data; the file has the first `there` bytes of them where the block was. */
static void give_place(struct check *check, uint32_t block, uint64_t there)
{
	struct vhd *v = check->v;
	uint64_t place = repair_place(check->repair, (uint64_t)vhd_entry(v, block) * VHD_SECTOR_SIZE, there,
				      v->bitmap_size + (uint64_t)v->block_size, VHD_SECTOR_SIZE);

	if (place / VHD_SECTOR_SIZE >= VHD_BAT_UNUSED)
		check->repair->error = -E2BIG;
	else
		put_entry(check, block, (uint32_t)(place / VHD_SECTOR_SIZE));
}

/* Where a file was cut off inside of a block, what is before that can be had. Bytes of it, or 0. */
static uint64_t find_part(const struct vhd *v, uint64_t place)
{
	uint64_t end = end_of_blocks(v), there = place < end ? end - place : 0;

	return there > v->bitmap_size && there < v->bitmap_size + (uint64_t)v->block_size &&
			       vhd_place_is_sane(v, place, there)
		   ? there
		   : 0;
}

static void keep_part(struct check *check, uint32_t block, uint64_t there)
{
	struct vhd *v = check->v;

	if (!check->repair)
		return;
	give_place(check, block, there);
	repair_tell(check->repair, true,
		    "block %u, %ju bytes of the disk at offset %ju: the file has the first %ju; the others become zeros", block,
		    (uintmax_t)vhd_block_used(v, block), (uintmax_t)block << v->block_shift,
		    (uintmax_t)(there - v->bitmap_size));
}

/* Bitmap and data, at a place of its own. */
static void part_block(struct check *check, uint32_t block)
{
	struct vhd *v = check->v;

	if (!check->repair)
		return;
	give_place(check, block, end_of_blocks(v) - (uint64_t)vhd_entry(v, block) * VHD_SECTOR_SIZE);
	repair_tell(check->repair, true,
		    "block %u, %ju bytes of the disk at offset %ju, gets a copy of the place that it shares: its contents "
		    "are right, or those of the other block are",
		    block, (uintmax_t)vhd_block_used(v, block), (uintmax_t)block << v->block_shift);
}

static void check_block(struct check *check, uint32_t block)
{
	struct vhd *v = check->v;
	uint64_t place = (uint64_t)vhd_entry(v, block) * VHD_SECTOR_SIZE;

	if (vhd_entry(v, block) == VHD_BAT_UNUSED ||
	    vhd_place_is_sane(v, place, v->bitmap_size + vhd_block_used(v, block)))
		return;
	find(check,
	     "block %u: its place at offset %#jx is outside the file of %ju bytes or inside its own structures", block,
	     (uintmax_t)place, (uintmax_t)v->file_end);
	if (find_part(v, place) > 0)
		keep_part(check, block, find_part(v, place));
	else
		lose_block(check, block);
}

static int report_overlap(void *context, uint32_t block, uint32_t other)
{
	struct check *check = context;

	find(check, "block %u: its place at offset %#jx belongs to block %u too", block,
	     (uintmax_t)vhd_entry(check->v, block) * VHD_SECTOR_SIZE, other);
	part_block(check, block);
	return 0;
}

static int examine(struct check *check, struct error *err)
{
	tell_of_footers(check->v, check->report);
	for (uint32_t i = 0; i < check->v->block_count; i++)
		check_block(check, i);
	if (vhd_find_overlaps(check->v, report_overlap, check) == -ENOMEM)
		return error_set(err, ENOMEM, "%s: no memory to check it", check->v->disk->path);
	return 0;
}

int vhd_check(struct disk *disk, FILE *report, struct error *err)
{
	struct check check = {.v = disk->format, .report = report};
	int r = examine(&check, err);

	if (r < 0 || check.findings == 0)
		return r;
	return error_set(err, EBADMSG,
			 "%s: %u things are wrong in its structures; copy what can be read to a new image, or see: "
			 "bulkhead disk check --repair",
			 disk->path, check.findings);
}

/* What a disk without blocks can have is mended when it is opened. */
int vhd_plan_repair(struct disk *disk, struct repair *repair, struct error *err)
{
	struct vhd *v = disk->format;
	struct check check = {.v = v, .report = repair->report, .repair = repair};
	int r;

	if (!disk->info.dynamic)
		return 0;
	repair->file_end = v->bat.next_place;
	r = examine(&check, err);
	if (r == 0 && repair->change_count > 0) {
		repair_touch(repair, 0, sizeof(v->footer));
		repair_touch(repair, v->bat.next_place, sizeof(v->footer));
	}
	return r;
}

int vhd_begin_repair(struct disk *disk, const struct repair *repair)
{
	struct vhd *v = disk->format;
	int r = repair->lossy > 0 ? vhd_begin(v) : vhd_mend(v);

	if (r < 0 || repair->copy_count == 0)
		return r;
	v->bat.next_place = repair->file_end;
	r = vhd_put_end(v);
	return r < 0 ? r : file_sync(&disk->file);
}

/* What lies behind the last block. */
int vhd_reclaim(struct disk *disk, uint64_t *bytes)
{
	struct vhd *v = disk->format;
	uint64_t end = v->bat.next_place + sizeof(v->footer);

	if (!disk->info.dynamic || v->bat.tidy)
		return 0;
	*bytes = v->file_end > end ? v->file_end - end : 0;
	return vhd_mend(v);
}
