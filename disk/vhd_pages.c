/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd_pages.c - sectors of the bitmaps of a differencing disk, as many as are of use. One that is newer than the
 * file stays, also beyond that number; vhd_child_settle() has them committed before they are too many.
 */
#include <errno.h>
#include <string.h>

#include "disk/vhd.h"

static struct vhd_page **bucket_of(struct vhd_pages *pages, uint64_t offset)
{
	return &pages->buckets[offset / VHD_SECTOR_SIZE * UINT64_C(0x9e3779b97f4a7c15) >> 52];
}
_Static_assert(PAGE_BUCKETS == 1u << 12, "the upper twelve bits choose");

static void take_out(struct vhd_pages *pages, struct vhd_page *page)
{
	struct vhd_page **at = bucket_of(pages, page->offset);

	while (*at != page)
		at = &(*at)->next_in_bucket;
	*at = page->next_in_bucket;
}

/* One that is not needed, out of its bucket; NULL: there is none. */
static struct vhd_page *find_old(struct vhd_pages *pages)
{
	for (unsigned tries = 2 * pages->count; tries > 0; tries--) {
		struct vhd_page *page = pages->all[pages->hand];

		pages->hand = (pages->hand + 1) % pages->count;
		if (page->dirty || page->committing)
			continue;
		if (!page->used) {
			take_out(pages, page);
			return page;
		}
		page->used = false;
	}
	return NULL;
}

static struct vhd_page *add(struct vhd_pages *pages)
{
	struct vhd_page *page;

	if (pages->count == pages->room) {
		unsigned room = pages->room ? 2 * pages->room : 64;
		struct vhd_page **all = realloc(pages->all, room * sizeof(struct vhd_page *));

		if (!all)
			return NULL;
		pages->all = all;
		pages->room = room;
	}
	page = calloc(1, sizeof(*page));
	if (page)
		pages->all[pages->count++] = page;
	return page;
}

static struct vhd_page *look_up(struct vhd_pages *pages, uint64_t offset)
{
	struct vhd_page *page = *bucket_of(pages, offset);

	while (page && page->offset != offset)
		page = page->next_in_bucket;
	return page;
}

/* A page for this offset, in its bucket, whose bits are whatever they were. */
static struct vhd_page *make_room(struct vhd_pages *pages, uint64_t offset)
{
	struct vhd_page *page = pages->count < PAGES_KEPT ? NULL : find_old(pages);
	struct vhd_page **bucket = bucket_of(pages, offset);

	if (!page)
		page = add(pages);
	if (!page)
		return NULL;
	page->offset = offset;
	page->next_in_bucket = *bucket;
	*bucket = page;
	return page;
}

int vhd_find_page(struct vhd *v, uint64_t offset, struct vhd_page **out)
{
	struct vhd_page *page = look_up(&v->pages, offset);
	uint8_t bits[VHD_SECTOR_SIZE];
	int r;

	if (!page) {
		r = file_read(&v->disk->file, offset, bits, sizeof(bits));
		if (r < 0)
			return r == -ENODATA ? -EBADMSG : r;
		page = make_room(&v->pages, offset);
		if (!page)
			return -ENOMEM;
		memcpy(page->bits, bits, sizeof(bits));
	}
	page->used = true;
	*out = page;
	return 0;
}

void vhd_mark_page(struct vhd_pages *pages, struct vhd_page *page)
{
	pages->dirty_count += !page->dirty;
	page->dirty = true;
}

void vhd_free_pages(struct vhd_pages *pages)
{
	for (unsigned i = 0; i < pages->count; i++)
		free(pages->all[i]);
	free(pages->all);
}
