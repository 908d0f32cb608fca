/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd_check.c - what is wrong in a file that could be opened, for a person. */
#include <errno.h>
#include <string.h>

#include "disk/vhd.h"

#define FINDINGS_MAX 1000u

struct check {
	struct vhd *v;
	FILE *report;
	unsigned findings;
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

static void check_block(struct check *check, uint32_t block)
{
	struct vhd *v = check->v;
	uint64_t place = (uint64_t)vhd_entry(v, block) * VHD_SECTOR_SIZE;

	if (vhd_entry(v, block) != VHD_BAT_UNUSED &&
	    !vhd_place_is_sane(v, place, v->bitmap_size + vhd_block_used(v, block)))
		find(check,
		     "block %u: its place at offset %#jx is outside the file of %ju bytes or inside its own "
		     "structures",
		     block, (uintmax_t)place, (uintmax_t)v->file_end);
}

static int report_overlap(void *context, uint32_t block, uint32_t other)
{
	struct check *check = context;

	find(check, "block %u: its place at offset %#jx belongs to block %u too", block,
	     (uintmax_t)vhd_entry(check->v, block) * VHD_SECTOR_SIZE, other);
	return 0;
}

int vhd_check(struct disk *disk, FILE *report, struct error *err)
{
	struct check check = {.v = disk->format, .report = report};

	tell_of_footers(check.v, report);
	for (uint32_t i = 0; i < check.v->block_count; i++)
		check_block(&check, i);
	if (vhd_find_overlaps(check.v, report_overlap, &check) == -ENOMEM)
		return error_set(err, ENOMEM, "%s: no memory to check it", disk->path);
	if (check.findings == 0)
		return 0;
	return error_set(err, EBADMSG,
			 "%s: %u things are wrong in its structures; copy what can be read to a new image",
			 disk->path, check.findings);
}
