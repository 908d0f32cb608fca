/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_commit.c - changed BAT pages through the log into the file; vhdx.h says why that is safe. */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "disk/vhdx.h"

#define ENTRY_SIZE_MAX ((1 + COMMIT_PAGES_MAX) * VHDX_LOG_SECTOR)
_Static_assert(sizeof(struct vhdx_log_entry) + COMMIT_PAGES_MAX * VHDX_LOG_DESCRIPTOR_SIZE <= VHDX_LOG_SECTOR,
	       "the descriptors fit into the first sector");
_Static_assert(4 * ENTRY_SIZE_MAX <= VHDX_UNIT, "an entry never overlaps the one before it");
_Static_assert(BAT_PAGE_SIZE == VHDX_LOG_SECTOR, "a page is a sector of the log");

/* One round of a commit. */
struct batch {
	struct bat_page *pages[COMMIT_PAGES_MAX];
	unsigned count;
	uint64_t file_end; /* everything that the pages name lies before */
	uint8_t *contents; /* of the pages, as they were when they were taken */
	uint8_t *entry;
	uint32_t entry_size;
};

bool vhdx_must_commit(struct disk *disk)
{
	struct vhdx *v = disk->format;
	bool must;

	pthread_mutex_lock(&v->bat.lock);
	must = v->bat.dirty_count > 0 || v->bat.committing_count > 0;
	pthread_mutex_unlock(&v->bat.lock);
	return must;
}

static void take_dirty(struct vhdx *v, struct batch *batch)
{
	struct bat *bat = &v->bat;

	pthread_mutex_lock(&bat->lock);
	batch->count = 0;
	while (bat->dirty && batch->count < COMMIT_PAGES_MAX) {
		struct bat_page *page = bat->dirty;

		bat->dirty = page->next_dirty;
		page->dirty = false;
		page->committing = true;
		page->leading = page->leads;
		page->leads = false;
		memcpy(batch->contents + batch->count * BAT_PAGE_SIZE, page->entries, BAT_PAGE_SIZE);
		batch->pages[batch->count++] = page;
	}
	if (!bat->dirty)
		bat->dirty_end = &bat->dirty;
	bat->dirty_count -= batch->count;
	bat->committing_count = batch->count;
	batch->file_end = bat->file_end;
	pthread_mutex_unlock(&bat->lock);
}

static void give_back(struct vhdx *v, struct batch *batch, bool failed)
{
	pthread_mutex_lock(&v->bat.lock);
	for (unsigned i = 0; i < batch->count; i++) {
		batch->pages[i]->committing = false;
		if (failed)
			bat_mark_dirty(&v->bat, batch->pages[i]);
		if (failed)
			batch->pages[i]->leads |= batch->pages[i]->leading;
		batch->pages[i]->leading = false;
	}
	v->bat.committing_count = 0;
	pthread_mutex_unlock(&v->bat.lock);
}

static void build_entry(struct vhdx *v, struct batch *batch, uint64_t position)
{
	struct vhdx_log_entry *entry = (struct vhdx_log_entry *)batch->entry;
	struct vhdx_log_desc *descriptors = (struct vhdx_log_desc *)(entry + 1);
	struct vhdx_log_data *sectors = (struct vhdx_log_data *)(batch->entry + VHDX_LOG_SECTOR);

	memset(entry, 0, VHDX_LOG_SECTOR);
	memcpy(entry->signature, VHDX_LOG_ENTRY_SIGNATURE, 4);
	batch->entry_size = (1 + batch->count) * VHDX_LOG_SECTOR;
	entry->entry_length = batch->entry_size;
	entry->tail = (uint32_t)position;
	entry->sequence_number = v->log_sequence;
	entry->descriptor_count = batch->count;
	entry->log_guid = v->log_guid;
	entry->flushed_file_offset = batch->file_end;
	entry->last_file_offset = batch->file_end;
	for (unsigned i = 0; i < batch->count; i++) {
		const uint8_t *page = batch->contents + i * BAT_PAGE_SIZE;

		memcpy(descriptors[i].signature, VHDX_LOG_DESC_SIGNATURE, 4);
		memcpy(descriptors[i].leading_bytes, page, 8);
		memcpy(descriptors[i].trailing_bytes, page + BAT_PAGE_SIZE - 4, 4);
		descriptors[i].file_offset = batch->pages[i]->index * BAT_PAGE_SIZE;
		descriptors[i].sequence_number = v->log_sequence;
		memcpy(sectors[i].signature, VHDX_LOG_DATA_SIGNATURE, 4);
		memcpy(sectors[i].data, page + 8, sizeof(sectors[i].data));
		sectors[i].sequence_high = (uint32_t)(v->log_sequence >> 32);
		sectors[i].sequence_low = (uint32_t)v->log_sequence;
	}
	entry->checksum = crc32c(0, batch->entry, batch->entry_size);
}

/* Writes the entry and syncs. The first one makes the header name the log, once it is there. */
static int write_log(struct vhdx *v, struct batch *batch)
{
	uint64_t size = (1 + (uint64_t)batch->count) * VHDX_LOG_SECTOR;
	uint64_t position = v->log.length - v->log_position < size ? 0 : v->log_position;
	int r;

	if (!v->log_in_use)
		guid_random(&v->log_guid);
	v->log_sequence++;
	build_entry(v, batch, position);
	r = file_write(&v->disk->file, v->log.offset + position, batch->entry, batch->entry_size);
	if (r == 0)
		r = file_sync(&v->disk->file);
	if (r < 0)
		return r;
	v->log_position = position + size;
	if (!v->log_in_use) {
		r = vhdx_name_log(v, &v->log_guid);
		v->log_in_use = r == 0;
	}
	return r;
}

static int write_in_place(struct vhdx *v, struct batch *batch)
{
	for (unsigned i = 0; i < batch->count; i++) {
		int r = file_write(&v->disk->file, batch->pages[i]->index * BAT_PAGE_SIZE,
				   batch->contents + i * BAT_PAGE_SIZE, BAT_PAGE_SIZE);

		if (r < 0)
			return r;
	}
	return 0;
}

static int commit_batch(struct vhdx *v, unsigned *committed)
{
	struct batch batch = {.contents = v->commit_buffer,
			      .entry = v->commit_buffer + COMMIT_PAGES_MAX * BAT_PAGE_SIZE};
	int r;

	take_dirty(v, &batch);
	r = file_sync(&v->disk->file);
	if (r == 0 && batch.count > 0)
		r = write_log(v, &batch);
	if (r == 0)
		r = write_in_place(v, &batch);
	give_back(v, &batch, r < 0);
	*committed = batch.count;
	return r;
}

static int commit_all(void *context)
{
	struct vhdx *v = context;
	unsigned left, committed;
	uint64_t freed;
	int r;

	if (!v->commit_buffer)
		v->commit_buffer = malloc(COMMIT_PAGES_MAX * BAT_PAGE_SIZE + ENTRY_SIZE_MAX);
	if (!v->commit_buffer)
		return -ENOMEM;
	freed = free_mark(v);
	pthread_mutex_lock(&v->bat.lock);
	left = v->bat.dirty_count;
	pthread_mutex_unlock(&v->bat.lock);
	/* What others make dirty meanwhile stands behind and is left to them. */
	do {
		r = commit_batch(v, &committed);
		left -= committed < left ? committed : left;
	} while (r == 0 && left > 0 && committed > 0);
	if (r == 0)
		free_made_durable(v, freed);
	return r;
}

int vhdx_commit(struct disk *disk)
{
	struct vhdx *v = disk->format;

	return commit_share(&v->commit, commit_all, v);
}
