/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd_commit.c - changed bitmaps and BAT sectors into the file; vhd.h says why that is safe. */
#include <errno.h>
#include <string.h>

#include "disk/vhd.h"

/* One round of a commit. */
struct batch {
	uint32_t sectors[COMMIT_BAT_SECTORS]; /* ascending */
	unsigned count;
	uint8_t *contents; /* as they were when they were taken */
	struct vhd_page *pages[COMMIT_PAGES];
	unsigned page_count;
	uint8_t *page_contents;
};

bool vhd_must_commit(struct disk *disk)
{
	struct vhd *v = disk->format;
	bool must;

	pthread_mutex_lock(&v->bat.lock);
	must = v->bat.dirty_count + v->bat.committing_count + v->pages.dirty_count +
		   v->pages.committing_count >
	       0;
	pthread_mutex_unlock(&v->bat.lock);
	return must;
}

static void take_sector(struct vhd_bat *bat, struct batch *batch, uint32_t sector)
{
	memcpy(batch->contents + batch->count * VHD_SECTOR_SIZE,
	       bat->table + (size_t)sector * VHD_SECTOR_SIZE, VHD_SECTOR_SIZE);
	batch->sectors[batch->count++] = sector;
	bat->dirty_count--;
}

static void take_pages(struct vhd_pages *pages, struct batch *batch)
{
	batch->page_count = 0;
	for (unsigned i = 0; pages->dirty_count > 0 && i < pages->count && batch->page_count < COMMIT_PAGES; i++) {
		struct vhd_page *page = pages->all[i];

		if (!page->dirty)
			continue;
		memcpy(batch->page_contents + batch->page_count * VHD_SECTOR_SIZE, page->bits,
		       VHD_SECTOR_SIZE);
		batch->pages[batch->page_count++] = page;
		page->dirty = false;
		page->committing = true;
		pages->dirty_count--;
	}
	pages->committing_count = batch->page_count;
}

static void take_dirty(struct vhd *v, struct batch *batch)
{
	struct vhd_bat *bat = &v->bat;

	pthread_mutex_lock(&bat->lock);
	take_pages(&v->pages, batch);
	batch->count = 0;
	for (uint32_t word = 0; bat->dirty_count > 0 && word <= bat->sectors / 64; word++) {
		while (bat->dirty[word] && batch->count < COMMIT_BAT_SECTORS) {
			take_sector(bat, batch, word * 64 + (uint32_t)__builtin_ctzll(bat->dirty[word]));
			bat->dirty[word] &= bat->dirty[word] - 1;
		}
	}
	bat->committing_count = batch->count;
	pthread_mutex_unlock(&bat->lock);
}

static void give_back(struct vhd *v, const struct batch *batch, bool failed)
{
	struct vhd_bat *bat = &v->bat;

	pthread_mutex_lock(&bat->lock);
	for (unsigned i = 0; i < batch->page_count; i++) {
		batch->pages[i]->committing = false;
		if (failed)
			vhd_mark_page(&v->pages, batch->pages[i]);
	}
	v->pages.committing_count = 0;
	for (unsigned i = 0; failed && i < batch->count; i++)
		vhd_mark_dirty(bat, batch->sectors[i]);
	bat->committing_count = 0;
	pthread_mutex_unlock(&bat->lock);
}

static int write_sectors(struct vhd *v, const struct batch *batch)
{
	unsigned run;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < batch->count; i += run) {
		for (run = 1; i + run < batch->count; run++)
			if (batch->sectors[i + run] != batch->sectors[i] + run)
				break;
		r = file_write(&v->disk->file,
			       v->table_offset + (uint64_t)batch->sectors[i] * VHD_SECTOR_SIZE,
			       batch->contents + i * VHD_SECTOR_SIZE, run * VHD_SECTOR_SIZE);
	}
	return r;
}

static int write_pages(struct vhd *v, const struct batch *batch)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < batch->page_count; i++)
		r = file_write(&v->disk->file, batch->pages[i]->offset,
			       batch->page_contents + i * VHD_SECTOR_SIZE, VHD_SECTOR_SIZE);
	return r;
}

/* Bitmaps and BAT need no order between them: an entry without bits, or bits without an entry, leave what is not
 * flushed yet to the parent. */
static int commit_batch(struct vhd *v, struct batch *batch)
{
	struct file *file = &v->disk->file;
	int r;

	take_dirty(v, batch);
	r = file_sync(file);
	if (r == 0)
		r = write_pages(v, batch);
	if (r == 0)
		r = write_sectors(v, batch);
	if (r == 0 && batch->page_count + batch->count > 0)
		r = file_sync(file);
	give_back(v, batch, r < 0);
	return r;
}

static int commit_all(void *context)
{
	struct vhd *v = context;
	_cleanup_free_ struct batch *batch = malloc(sizeof(*batch));
	unsigned left;
	int r;

	if (!v->commit_buffer)
		v->commit_buffer = malloc((COMMIT_BAT_SECTORS + COMMIT_PAGES) * VHD_SECTOR_SIZE);
	if (!batch || !v->commit_buffer)
		return -ENOMEM;
	batch->contents = v->commit_buffer;
	batch->page_contents = v->commit_buffer + COMMIT_BAT_SECTORS * VHD_SECTOR_SIZE;
	pthread_mutex_lock(&v->bat.lock);
	left = v->bat.dirty_count + v->pages.dirty_count;
	pthread_mutex_unlock(&v->bat.lock);
	/* What others make dirty meanwhile is left to them. */
	do {
		unsigned committed;

		r = commit_batch(v, batch);
		committed = batch->count + batch->page_count;
		left -= min_u64(committed, left);
		if (committed == 0)
			break;
	} while (r == 0 && left > 0);
	return r;
}

int vhd_commit(struct disk *disk)
{
	struct vhd *v = disk->format;

	return commit_share(&v->commit, commit_all, v);
}
