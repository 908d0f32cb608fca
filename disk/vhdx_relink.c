/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx_relink.c - another parent locator for a file that is there. It goes where there is room in the
 * metadata region, and through the log together with the table's entry that names it.
 */
#include <errno.h>
#include <string.h>

#include "disk/vhdx.h"

#define PAGES_MAX (COMMIT_PAGES_MAX - 8)

/* Where in the region nothing else is: in the locator's own place, or behind all items. */
static int find_room(struct vhdx *v, const uint8_t *table, uint64_t size, uint64_t *place)
{
	uint32_t count = le16_get(table + offsetof(struct vhdx_metadata_table, entry_count));
	uint64_t end = VHDX_TABLE_SIZE;

	for (uint32_t i = 0; i < count; i++) {
		struct vhdx_metadata_entry entry;

		memcpy(&entry, table + sizeof(struct vhdx_metadata_table) + i * sizeof(entry), sizeof(entry));
		if (range_fits_u64(entry.offset, entry.length, v->metadata.length))
			end = max_u64(end, (uint64_t)entry.offset + entry.length);
	}
	*place = align_up_u64(end, BAT_PAGE_SIZE);
	if (size <= v->locator_item.length && v->locator_item.offset >= VHDX_TABLE_SIZE &&
	    range_fits_u64(v->locator_item.offset, size, v->metadata.length))
		*place = v->locator_item.offset;
	return range_fits_u64(*place, size, v->metadata.length) ? 0 : -ENOSPC;
}

static int put_item(struct vhdx *v, const uint8_t *item, size_t size)
{
	_cleanup_free_ uint8_t *table = malloc(VHDX_TABLE_SIZE);
	struct vhdx_metadata_table head;
	struct vhdx_metadata_entry entry = {VHDX_ITEM_PARENT_LOCATOR, 0, (uint32_t)size,
					    VHDX_METADATA_IS_REQUIRED, 0};
	uint64_t place = 0, slot = v->locator_slot;
	int r = table ? vhdx_read(v, v->metadata.offset, table, VHDX_TABLE_SIZE) : -ENOMEM;

	if (r == 0)
		r = find_room(v, table, size, &place);
	if (r < 0)
		return r;
	memcpy(&head, table, sizeof(head));
	if (slot == VHDX_NO_SLOT && head.entry_count >= VHDX_TABLE_ENTRIES_MAX)
		return -ENOSPC;
	if (slot == VHDX_NO_SLOT)
		slot = head.entry_count++;
	entry.offset = (uint32_t)place;
	pthread_mutex_lock(&v->bat.lock);
	r = bat_put_bytes(v, v->metadata.offset + place, item, size);
	if (r == 0)
		r = bat_put_bytes(v, v->metadata.offset + sizeof(head) + slot * sizeof(entry), &entry, sizeof(entry));
	if (r == 0)
		r = bat_put_bytes(v, v->metadata.offset, &head, sizeof(head));
	pthread_mutex_unlock(&v->bat.lock);
	if (r == 0) {
		v->locator_slot = (unsigned)slot;
		v->locator_item = (struct region){place, size};
	}
	return r;
}

int vhdx_relink(struct vhdx *v, struct locator *locator, struct error *err)
{
	_cleanup_free_ uint8_t *item = NULL;
	const char *path = v->disk->path;
	size_t size = 0;
	int r = locator_build(locator, &item, &size, path, err);

	locator_clear(&v->locator);
	v->locator = *locator;
	*locator = (struct locator){.relative_path = NULL};
	if (r < 0)
		return r;
	if (size > PAGES_MAX * BAT_PAGE_SIZE)
		return error_set(err, ENAMETOOLONG,
				 "%s: its parent has too long a name; move the two closer together", path);
	r = vhdx_begin_file(v);
	/* All of it has to be in one entry of the log: nothing else may be waiting. */
	if (r == 0)
		r = vhdx_commit(v->disk);
	if (r == 0)
		r = put_item(v, item, size);
	if (r == 0)
		r = vhdx_commit(v->disk);
	if (r < 0)
		error_set(err, -r, "%s: its parent locator cannot be written: %s", path, strerror(-r));
	return r;
}

static char *copy_of(const char *text)
{
	return text ? strdup(text) : NULL;
}

void vhdx_refresh_path(struct vhdx *v)
{
	_cleanup_free_ char *real = realpath(v->disk->path, NULL);
	const char *path = real ? real : v->disk->path;
	struct locator locator = v->locator;
	struct error err = {0};
	int r = locator_relative_path(path, v->disk->parent->path, &locator.relative_path, &err);

	if (r == 0) {
		locator.volume_path = copy_of(v->locator.volume_path);
		locator.absolute_path = copy_of(v->locator.absolute_path);
		r = vhdx_relink(v, &locator, &err);
	}
	if (r < 0)
		log_write(LOG_LEVEL_WARNING, "%s", err.text);
}
