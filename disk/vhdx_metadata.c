/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_metadata.c - the metadata region, [MS-VHDX] 2.6: what kind of disk this is. */
#include "disk/vhdx_metadata.h"

#include <errno.h>
#include <string.h>

#define ADVICE "restore the file from a backup"

/* What the items say, not yet judged. */
struct items {
	struct vhdx_file_parameters parameters;
	uint64_t disk_size;
	struct guid disk_id;
	uint32_t logical_sector_size;
	uint32_t physical_sector_size;
};

struct known_item {
	struct guid id;
	const char *name;
	size_t place; /* in struct items */
	uint32_t length;
};

static const struct known_item known_items[] = {
    {VHDX_ITEM_FILE_PARAMETERS, "file parameters", offsetof(struct items, parameters),
     sizeof(struct vhdx_file_parameters)},
    {VHDX_ITEM_VIRTUAL_DISK_SIZE, "virtual disk size", offsetof(struct items, disk_size), 8},
    {VHDX_ITEM_VIRTUAL_DISK_ID, "virtual disk identifier", offsetof(struct items, disk_id), 16},
    {VHDX_ITEM_LOGICAL_SECTOR_SIZE, "logical sector size", offsetof(struct items, logical_sector_size), 4},
    {VHDX_ITEM_PHYSICAL_SECTOR_SIZE, "physical sector size", offsetof(struct items, physical_sector_size), 4},
};

static int read_item(struct vhdx *v, const struct known_item *item, const struct vhdx_metadata_entry *entry,
		     struct items *items, struct error *err)
{
	int r;

	if (entry->length != item->length || entry->offset < VHDX_TABLE_SIZE ||
	    !range_fits_u64(entry->offset, entry->length, v->metadata.length))
		return error_set(
		    err, EBADMSG,
		    "%s: its metadata item \"%s\" has the impossible place %#x or length %u; " ADVICE,
		    v->disk->path, item->name, entry->offset, entry->length);
	if (item->place == offsetof(struct items, disk_size))
		v->size_at = v->metadata.offset + entry->offset;
	r = vhdx_read(v, v->metadata.offset + entry->offset, (uint8_t *)items + item->place, item->length);
	if (r < 0)
		return error_set(err, r == -ENODATA ? EBADMSG : -r,
				 "%s: its metadata item \"%s\" cannot be read: %s", v->disk->path, item->name,
				 strerror(-r));
	return 0;
}

/* Where the locator is. What it says counts only in a disk that has a parent. */
static int take_locator(struct vhdx *v, const struct vhdx_metadata_entry *entry, unsigned index,
			struct error *err)
{
	if (v->locator_slot != VHDX_NO_SLOT)
		return error_set(err, EBADMSG, "%s: its metadata has two parent locators; " ADVICE,
				 v->disk->path);
	v->locator_slot = index;
	v->locator_item = (struct region){entry->offset, entry->length};
	return 0;
}

static int take_entry(struct vhdx *v, const struct vhdx_metadata_entry *entry, unsigned index,
		      struct items *items, unsigned *found, struct error *err)
{
	static const struct guid locator = VHDX_ITEM_PARENT_LOCATOR;
	char text[GUID_TEXT_SIZE];

	for (size_t i = 0; i < ARRAY_SIZE(known_items); i++) {
		if ((entry->flags & VHDX_METADATA_IS_USER) ||
		    !guid_equal(&entry->item_id, &known_items[i].id))
			continue;
		if (*found & (1u << i))
			return error_set(err, EBADMSG, "%s: its metadata has the item \"%s\" twice; " ADVICE,
					 v->disk->path, known_items[i].name);
		*found |= 1u << i;
		return read_item(v, &known_items[i], entry, items, err);
	}
	if (!(entry->flags & VHDX_METADATA_IS_USER) && guid_equal(&entry->item_id, &locator))
		return take_locator(v, entry, index, err);
	if (!(entry->flags & VHDX_METADATA_IS_REQUIRED))
		return 0;
	return error_set(err, ENOTSUP,
			 "%s: needs metadata item %s, a feature that is not supported; open it with the "
			 "program that wrote it",
			 v->disk->path, guid_format(&entry->item_id, text));
}

static int read_items(struct vhdx *v, struct items *items, struct error *err)
{
	_cleanup_free_ uint8_t *table = malloc(VHDX_TABLE_SIZE);
	struct vhdx_metadata_table head;
	unsigned found = 0;
	int r = table ? vhdx_read(v, v->metadata.offset, table, VHDX_TABLE_SIZE) : -ENOMEM;

	if (r < 0 && r != -ENODATA)
		return error_set(err, -r, "%s: its metadata cannot be read: %s", v->disk->path, strerror(-r));
	if (r == 0)
		memcpy(&head, table, sizeof(head));
	if (r < 0 || memcmp(head.signature, VHDX_METADATA_SIGNATURE, 8) != 0 ||
	    head.entry_count > VHDX_TABLE_ENTRIES_MAX)
		return error_set(err, EBADMSG, "%s: its metadata table, at offset %#jx, is damaged; " ADVICE,
				 v->disk->path, (uintmax_t)v->metadata.offset);
	for (unsigned i = 0; i < head.entry_count; i++) {
		struct vhdx_metadata_entry entry;

		memcpy(&entry, table + sizeof(head) + i * sizeof(entry), sizeof(entry));
		r = take_entry(v, &entry, i, items, &found, err);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < ARRAY_SIZE(known_items); i++)
		if (!(found & (1u << i)))
			return error_set(err, EBADMSG, "%s: its metadata lacks the item \"%s\"; " ADVICE,
					 v->disk->path, known_items[i].name);
	return 0;
}

static int check_items(const struct vhdx *v, const struct items *items, struct error *err)
{
	const char *path = v->disk->path;
	uint32_t block = items->parameters.block_size;

	if (block < VHDX_BLOCK_SIZE_MIN || block > VHDX_BLOCK_SIZE_MAX || (block & (block - 1)) != 0)
		return error_set(err, EBADMSG, "%s: its block size of %u bytes is impossible; " ADVICE, path,
				 block);
	if (items->logical_sector_size != 512 && items->logical_sector_size != 4096)
		return error_set(err, EBADMSG,
				 "%s: its logical sector size of %u bytes is impossible; " ADVICE, path,
				 items->logical_sector_size);
	if (items->physical_sector_size != 512 && items->physical_sector_size != 4096)
		return error_set(err, EBADMSG,
				 "%s: its physical sector size of %u bytes is impossible; " ADVICE, path,
				 items->physical_sector_size);
	if (items->disk_size == 0 || items->disk_size > VHDX_DISK_SIZE_MAX ||
	    !is_aligned_u64(items->disk_size, items->logical_sector_size))
		return error_set(err, EBADMSG, "%s: its virtual size of %ju bytes is impossible; " ADVICE,
				 path, (uintmax_t)items->disk_size);
	return 0;
}

static int read_locator(struct vhdx *v, struct error *err)
{
	const struct region *item = &v->locator_item;
	_cleanup_free_ uint8_t *bytes = NULL;
	int r;

	if (v->locator_slot == VHDX_NO_SLOT)
		return error_set(
		    err, EBADMSG,
		    "%s: a differencing disk without parent locator, so that nothing says which disk "
		    "it continues; name its parent by: bulkhead disk reparent",
		    v->disk->path);
	if (item->length > LOCATOR_SIZE_MAX || item->offset < VHDX_TABLE_SIZE ||
	    !range_fits_u64(item->offset, item->length, v->metadata.length))
		return error_set(
		    err, EBADMSG,
		    "%s: its parent locator has the impossible place %#jx or length %ju; " ADVICE,
		    v->disk->path, (uintmax_t)item->offset, (uintmax_t)item->length);
	bytes = malloc(item->length + 1);
	if (!bytes)
		return error_set(err, ENOMEM, "%s: no memory to open it", v->disk->path);
	r = vhdx_read(v, v->metadata.offset + item->offset, bytes, item->length);
	if (r < 0)
		return error_set(err, r == -ENODATA ? EBADMSG : -r,
				 "%s: its parent locator cannot be read: %s", v->disk->path, strerror(-r));
	return locator_parse(&v->locator, bytes, item->length, v->disk->path, err);
}

int vhdx_read_metadata(struct vhdx *v, struct error *err)
{
	struct disk_info *info = &v->disk->info;
	struct items items = {0};
	int r;

	v->locator_slot = VHDX_NO_SLOT;
	r = read_items(v, &items, err);
	if (r == 0)
		r = check_items(v, &items, err);
	v->has_parent = items.parameters.flags & VHDX_HAS_PARENT;
	if (r == 0 && v->has_parent) {
		r = read_locator(v, err);
		/* It is to be replaced, whatever it says. */
		if (r < 0 && v->disk->parent_kind == PARENT_NEW)
			r = 0;
	}
	if (r < 0)
		return r;
	v->block_size = items.parameters.block_size;
	info->dynamic = !(items.parameters.flags & VHDX_LEAVE_BLOCK_ALLOCATED);
	info->size = items.disk_size;
	info->logical_sector_size = items.logical_sector_size;
	info->physical_sector_size = items.physical_sector_size;
	info->identifier = items.disk_id;
	return 0;
}
