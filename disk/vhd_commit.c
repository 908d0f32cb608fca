/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhd_commit.c - changed BAT sectors into the file; vhd.h says why that is safe. */
#include <errno.h>
#include <string.h>

#include "disk/vhd.h"

/* One round of a commit. */
struct batch {
	uint32_t sectors[COMMIT_BAT_SECTORS]; /* ascending */
	unsigned count;
	uint8_t *contents; /* as they were when they were taken */
};

bool vhd_must_commit(struct disk *disk)
{
	struct vhd *v = disk->format;
	bool must;

	pthread_mutex_lock(&v->bat.lock);
	must = v->bat.dirty_count > 0 || v->bat.committing_count > 0;
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

static void take_dirty(struct vhd_bat *bat, struct batch *batch)
{
	pthread_mutex_lock(&bat->lock);
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

static void give_back(struct vhd_bat *bat, const struct batch *batch, bool failed)
{
	pthread_mutex_lock(&bat->lock);
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

static int commit_batch(struct vhd *v, unsigned *committed)
{
	struct batch batch = {.contents = v->commit_buffer};
	int r;

	take_dirty(&v->bat, &batch);
	r = file_sync(&v->disk->file);
	if (r == 0 && batch.count > 0)
		r = write_sectors(v, &batch);
	if (r == 0 && batch.count > 0)
		r = file_sync(&v->disk->file);
	give_back(&v->bat, &batch, r < 0);
	*committed = batch.count;
	return r;
}

static int commit_all(void *context)
{
	struct vhd *v = context;
	unsigned left, committed;
	int r;

	if (!v->commit_buffer)
		v->commit_buffer = malloc(COMMIT_BAT_SECTORS * VHD_SECTOR_SIZE);
	if (!v->commit_buffer)
		return -ENOMEM;
	pthread_mutex_lock(&v->bat.lock);
	left = v->bat.dirty_count;
	pthread_mutex_unlock(&v->bat.lock);
	/* What others make dirty meanwhile is left to them. */
	do {
		r = commit_batch(v, &committed);
		left -= committed < left ? committed : left;
	} while (r == 0 && left > 0 && committed > 0);
	return r;
}

int vhd_commit(struct disk *disk)
{
	struct vhd *v = disk->format;

	return commit_share(&v->commit, commit_all, v);
}
