/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhdx_log.c - the log after a crash, [MS-VHDX] 2.3.2 and 2.3.3: find the newest run of whole entries
 * and carry it out, in the file or, where that may not be written, in memory.
 */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "disk/vhdx.h"

#define LOG_LENGTH_MAX (64u << 20)
#define CRC_BUDGET     16 /* times the log's length: hostile entries may overlap */

enum entry_state { UNKNOWN, WHOLE, BROKEN };

struct log {
	struct vhdx *v;
	uint8_t *bytes;
	uint32_t length;
	uint8_t *states;      /* enum entry_state of what begins at each sector */
	uint64_t crc_budget;  /* bytes that may still be summed */
	uint64_t file_length; /* what the file has or will have */
	uint32_t tail, head;  /* the active sequence */
	uint64_t head_sequence;
};

static const uint8_t *sector_at(const struct log *log, uint64_t position)
{
	return log->bytes + position % log->length;
}

static struct vhdx_log_entry entry_at(const struct log *log, uint64_t position)
{
	struct vhdx_log_entry entry;

	memcpy(&entry, sector_at(log, position), sizeof(entry));
	return entry;
}

static uint64_t descriptor_sectors(const struct vhdx_log_entry *entry)
{
	uint64_t bytes = sizeof(*entry) + (uint64_t)entry->descriptor_count * VHDX_LOG_DESCRIPTOR_SIZE;

	return (bytes + VHDX_LOG_SECTOR - 1) / VHDX_LOG_SECTOR;
}

/* Descriptors never cross a sector: the entry's header has the size of two. */
static struct vhdx_log_desc descriptor_at(const struct log *log, uint64_t entry, uint32_t index)
{
	uint64_t offset = sizeof(struct vhdx_log_entry) + (uint64_t)index * VHDX_LOG_DESCRIPTOR_SIZE;
	struct vhdx_log_desc descriptor;

	memcpy(&descriptor, sector_at(log, entry + offset), sizeof(descriptor));
	return descriptor;
}

static bool is_data(const struct vhdx_log_desc *descriptor)
{
	return memcmp(descriptor->signature, VHDX_LOG_DESC_SIGNATURE, 4) == 0;
}

static bool checksum_is_right(struct log *log, uint64_t position, const struct vhdx_log_entry *entry)
{
	static const uint8_t zero[4];
	uint32_t crc;

	if (entry->entry_length > log->crc_budget)
		return false;
	log->crc_budget -= entry->entry_length;
	crc = crc32c(0, sector_at(log, position), 4);
	crc = crc32c(crc, zero, 4);
	crc = crc32c(crc, sector_at(log, position) + 8, VHDX_LOG_SECTOR - 8);
	for (uint64_t at = VHDX_LOG_SECTOR; at < entry->entry_length; at += VHDX_LOG_SECTOR)
		crc = crc32c(crc, sector_at(log, position + at), VHDX_LOG_SECTOR);
	return crc == entry->checksum;
}

static bool parts_belong(const struct log *log, uint64_t position, const struct vhdx_log_entry *entry)
{
	uint64_t sector = descriptor_sectors(entry) * VHDX_LOG_SECTOR;

	for (uint32_t i = 0; i < entry->descriptor_count; i++) {
		struct vhdx_log_desc descriptor = descriptor_at(log, position, i);
		struct vhdx_log_data data;

		if (descriptor.sequence_number != entry->sequence_number)
			return false;
		if (!is_data(&descriptor)) {
			if (memcmp(descriptor.signature, VHDX_LOG_ZERO_SIGNATURE, 4) != 0)
				return false;
			continue;
		}
		if (sector >= entry->entry_length)
			return false;
		memcpy(&data, sector_at(log, position + sector), sizeof(data));
		if (memcmp(data.signature, VHDX_LOG_DATA_SIGNATURE, 4) != 0 ||
		    data.sequence_high != (uint32_t)(entry->sequence_number >> 32) ||
		    data.sequence_low != (uint32_t)entry->sequence_number)
			return false;
		sector += VHDX_LOG_SECTOR;
	}
	return sector == entry->entry_length;
}

static bool examine(struct log *log, uint64_t position)
{
	struct vhdx_log_entry entry = entry_at(log, position);

	return memcmp(entry.signature, VHDX_LOG_ENTRY_SIGNATURE, 4) == 0 &&
	       guid_equal(&entry.log_guid, &log->v->header.log_guid) && entry.sequence_number > 0 &&
	       entry.entry_length > 0 && entry.entry_length <= log->length &&
	       is_aligned_u64(entry.entry_length, VHDX_LOG_SECTOR) && entry.tail < log->length &&
	       is_aligned_u64(entry.tail, VHDX_LOG_SECTOR) &&
	       descriptor_sectors(&entry) * VHDX_LOG_SECTOR <= entry.entry_length &&
	       checksum_is_right(log, position, &entry) && parts_belong(log, position, &entry);
}

static bool entry_is_whole(struct log *log, uint64_t position)
{
	uint8_t *state = &log->states[position % log->length / VHDX_LOG_SECTOR];

	if (*state == UNKNOWN)
		*state = examine(log, position) ? WHOLE : BROKEN;
	return *state == WHOLE;
}

/* Follows the entries from `start`. They are a sequence when the last one names the start its tail. */
static void try_sequence(struct log *log, uint32_t start)
{
	uint64_t position = start;
	struct vhdx_log_entry entry, head = {.tail = UINT32_MAX};
	uint64_t last = start;

	while (entry_is_whole(log, position)) {
		entry = entry_at(log, position);
		if (position != start && entry.sequence_number != head.sequence_number + 1)
			break;
		if (position + entry.entry_length > (uint64_t)start + log->length)
			break;
		head = entry;
		last = position;
		position += entry.entry_length;
		if (position >= (uint64_t)start + log->length)
			break;
	}
	if (head.tail == start && head.sequence_number > log->head_sequence) {
		log->tail = start;
		log->head = (uint32_t)(last % log->length);
		log->head_sequence = head.sequence_number;
	}
}

static int damaged(const struct log *log, const char *what, uint64_t value, struct error *err)
{
	return error_set(err, EBADMSG, "%s: its log %s %#jx; restore the file from a backup",
			 log->v->disk->path, what, (uintmax_t)value);
}

static int check_lengths(struct log *log, const struct vhdx_log_entry *entry, struct error *err)
{
	uint64_t size;
	int r = file_size(&log->v->disk->file, &size);

	if (r < 0)
		return error_set(err, -r, "%s: %s", log->v->disk->path, strerror(-r));
	if (entry->flushed_file_offset > size)
		return error_set(err, EBADMSG,
				 "%s: the file has been cut short: its log was written when it had %ju "
				 "bytes, now it has %ju; "
				 "restore it from a backup",
				 log->v->disk->path, (uintmax_t)entry->flushed_file_offset, (uintmax_t)size);
	if (entry->last_file_offset > VHDX_FILE_SIZE_MAX)
		return damaged(log, "asks for the impossible file length", entry->last_file_offset, err);
	log->file_length = max_u64(log->file_length, max_u64(size, entry->last_file_offset));
	return 0;
}

static int check_target(const struct log *log, uint64_t offset, uint64_t length, struct error *err)
{
	const struct region *own = &log->v->log;

	if (!is_aligned_u64(offset | length, VHDX_LOG_SECTOR) || offset < VHDX_REGION_TABLE_OFFSET_1 ||
	    !range_fits_u64(offset, length, log->file_length) ||
	    (offset < own->offset + own->length && own->offset < offset + length))
		return damaged(log, "would change the file where it must not, at", offset, err);
	return 0;
}

static void restore_sector(const struct vhdx_log_desc *descriptor, const struct vhdx_log_data *data,
			   uint8_t *out)
{
	memcpy(out, descriptor->leading_bytes, 8);
	memcpy(out + 8, data->data, sizeof(data->data));
	memcpy(out + VHDX_LOG_SECTOR - 4, descriptor->trailing_bytes, 4);
}

/* One change: to the file, or to the list of overlays. */
static int apply(struct log *log, uint64_t offset, uint64_t length, const uint8_t *sector, struct error *err)
{
	struct vhdx *v = log->v;
	int r;

	if (length == 0)
		return 0;
	if (v->disk->info.read_only) {
		struct overlay *overlay = &v->overlays[v->overlay_count];

		*overlay = (struct overlay){.offset = offset, .length = length};
		if (sector) {
			uint8_t *copy = v->overlay_data + (uint64_t)v->overlay_count * VHDX_LOG_SECTOR;

			memcpy(copy, sector, VHDX_LOG_SECTOR);
			overlay->data = copy;
		}
		v->overlay_count++;
		return 0;
	}
	r = sector ? file_write(&v->disk->file, offset, sector, VHDX_LOG_SECTOR)
		   : file_zero(&v->disk->file, offset, length);
	if (r < 0)
		return error_set(err, -r, "%s: its log cannot be replayed at offset %#jx: %s", v->disk->path,
				 (uintmax_t)offset, strerror(-r));
	return 0;
}

static int apply_entry(struct log *log, uint64_t position, struct error *err)
{
	struct vhdx_log_entry entry = entry_at(log, position);
	uint64_t sector = position + descriptor_sectors(&entry) * VHDX_LOG_SECTOR;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < entry.descriptor_count; i++) {
		struct vhdx_log_desc descriptor = descriptor_at(log, position, i);
		uint8_t contents[VHDX_LOG_SECTOR];
		struct vhdx_log_data data;

		if (is_data(&descriptor)) {
			memcpy(&data, sector_at(log, sector), sizeof(data));
			restore_sector(&descriptor, &data, contents);
			sector += VHDX_LOG_SECTOR;
			r = apply(log, descriptor.file_offset, VHDX_LOG_SECTOR, contents, err);
		} else {
			struct vhdx_log_zero zero;

			memcpy(&zero, &descriptor, sizeof(zero));
			r = apply(log, zero.file_offset, zero.zero_length, NULL, err);
		}
	}
	return r;
}

typedef int entry_visitor(struct log *log, uint64_t position, struct error *err);

static int for_each_entry(struct log *log, entry_visitor *visit, struct error *err)
{
	uint64_t position = log->tail;

	for (;;) {
		struct vhdx_log_entry entry = entry_at(log, position);
		int r = visit(log, position, err);

		if (r < 0 || position % log->length == log->head)
			return r;
		position += entry.entry_length;
	}
}

static int visit_lengths(struct log *log, uint64_t position, struct error *err)
{
	struct vhdx_log_entry entry = entry_at(log, position);

	return check_lengths(log, &entry, err);
}

static int visit_targets(struct log *log, uint64_t position, struct error *err)
{
	struct vhdx_log_entry entry = entry_at(log, position);
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < entry.descriptor_count; i++) {
		struct vhdx_log_desc descriptor = descriptor_at(log, position, i);
		struct vhdx_log_zero zero;

		memcpy(&zero, &descriptor, sizeof(zero));
		r = check_target(log, descriptor.file_offset,
				 is_data(&descriptor) ? VHDX_LOG_SECTOR : zero.zero_length, err);
	}
	return r;
}

static int make_room_for_overlays(struct log *log, struct error *err)
{
	struct vhdx *v = log->v;
	uint64_t count = 0, position = log->tail;

	for (;;) {
		struct vhdx_log_entry entry = entry_at(log, position);

		count += entry.descriptor_count;
		if (position % log->length == log->head)
			break;
		position += entry.entry_length;
	}
	v->overlays = calloc(count + 1, sizeof(*v->overlays));
	v->overlay_data = calloc(count + 1, VHDX_LOG_SECTOR);
	if (!v->overlays || !v->overlay_data)
		return error_set(err, ENOMEM, "%s: no memory to replay its log", v->disk->path);
	return 0;
}

static int replay_into_file(struct log *log, struct error *err)
{
	struct vhdx *v = log->v;
	uint64_t size;
	int r = file_size(&v->disk->file, &size);

	if (r == 0 && size < log->file_length)
		r = file_resize(&v->disk->file, log->file_length);
	if (r < 0)
		return error_set(err, -r, "%s: cannot be extended to %ju bytes, as its log asks: %s",
				 v->disk->path, (uintmax_t)log->file_length, strerror(-r));
	r = for_each_entry(log, apply_entry, err);
	if (r < 0)
		return r;
	r = file_sync(&v->disk->file);
	if (r < 0)
		return error_set(err, -r, "%s: its replayed log cannot be made durable: %s", v->disk->path,
				 strerror(-r));
	return 0;
}

/* Nothing is changed before every entry has been found to be right. */
static int replay_sequence(struct log *log, struct error *err)
{
	int r = for_each_entry(log, visit_lengths, err);

	if (r == 0)
		r = for_each_entry(log, visit_targets, err);
	if (r < 0)
		return r;
	log->v->bat.file_end = log->file_length;
	if (!log->v->disk->info.read_only)
		return replay_into_file(log, err);
	r = make_room_for_overlays(log, err);
	return r < 0 ? r : for_each_entry(log, apply_entry, err);
}

static int read_log(struct log *log, struct error *err)
{
	struct vhdx *v = log->v;
	int r;

	log->length = (uint32_t)v->log.length;
	log->bytes = malloc(log->length);
	log->states = calloc(log->length / VHDX_LOG_SECTOR, 1);
	log->crc_budget = (uint64_t)log->length * CRC_BUDGET;
	if (!log->bytes || !log->states)
		return error_set(err, ENOMEM, "%s: no memory to read its log of %u bytes", v->disk->path,
				 log->length);
	r = file_read(&v->disk->file, v->log.offset, log->bytes, log->length);
	if (r == -ENODATA)
		return error_set(err, EBADMSG,
				 "%s: the file ends inside its log, which begins at offset %#jx and is not "
				 "empty; restore it from a "
				 "backup",
				 v->disk->path, (uintmax_t)v->log.offset);
	if (r < 0)
		return error_set(err, -r, "%s: its log cannot be read: %s", v->disk->path, strerror(-r));
	return 0;
}

static int replay(struct log *log, struct error *err)
{
	struct vhdx *v = log->v;
	int r = read_log(log, err);

	if (r < 0)
		return r;
	for (uint32_t start = 0; start < log->length; start += VHDX_LOG_SECTOR)
		try_sequence(log, start);
	/* A log without one whole entry was begun and never finished: nothing had been changed yet. */
	if (log->head_sequence > 0)
		r = replay_sequence(log, err);
	if (r < 0 || v->disk->info.read_only)
		return r;
	guid_random(&v->header.file_write_guid);
	r = vhdx_name_log(v, &(struct guid){{0}});
	if (r < 0)
		return error_set(err, -r, "%s: its header cannot be written: %s", v->disk->path,
				 strerror(-r));
	return 0;
}

int vhdx_replay(struct vhdx *v, struct error *err)
{
	struct log log = {.v = v};
	int r;

	if (guid_is_zero(&v->header.log_guid))
		return 0;
	if (v->log.length > LOG_LENGTH_MAX)
		return error_set(err, ENOTSUP,
				 "%s: its log of %ju bytes is not empty, and logs above %u bytes are not "
				 "replayed; open and close it "
				 "with the program that wrote it",
				 v->disk->path, (uintmax_t)v->log.length, LOG_LENGTH_MAX);
	r = replay(&log, err);
	free(log.bytes);
	free(log.states);
	return r;
}

static void overlay_read(const struct overlay *overlay, uint64_t offset, uint8_t *buffer, size_t size)
{
	uint64_t start = max_u64(offset, overlay->offset);
	uint64_t end = min_u64(offset + size, overlay->offset + overlay->length);

	if (start >= end)
		return;
	if (overlay->data)
		memcpy(buffer + (start - offset), overlay->data + (start - overlay->offset), end - start);
	else
		memset(buffer + (start - offset), 0, end - start);
}

int vhdx_read(struct vhdx *v, uint64_t offset, void *buffer, size_t size)
{
	size_t there = size;
	int r;

	if (v->overlay_count > 0) {
		/* The log may have made the file longer. */
		there = offset >= v->real_size ? 0 : min_u64(size, v->real_size - offset);
		if (!range_fits_u64(offset, size, v->bat.file_end))
			return -ENODATA;
		memset((uint8_t *)buffer + there, 0, size - there);
	}
	r = file_read(&v->disk->file, offset, buffer, there);
	for (unsigned i = 0; r == 0 && i < v->overlay_count; i++)
		overlay_read(&v->overlays[i], offset, buffer, size);
	return r;
}

void vhdx_apply_overlays(const struct vhdx *v, struct extent *extent)
{
	const struct overlay *covering = NULL;
	uint64_t offset = extent->file_offset, end;
	bool touched = false;

	for (unsigned i = 0; i < v->overlay_count && !touched; i++)
		touched = v->overlays[i].offset < offset + extent->length &&
			  offset < v->overlays[i].offset + v->overlays[i].length;
	/* Overlays begin and end at sectors of the log: within one, the last that covers it counts. */
	end = touched ? (offset / VHDX_LOG_SECTOR + 1) * VHDX_LOG_SECTOR : offset + extent->length;
	extent->length = min_u64(extent->length, end - offset);
	for (unsigned i = 0; touched && i < v->overlay_count; i++)
		if (v->overlays[i].offset <= offset && offset - v->overlays[i].offset < v->overlays[i].length)
			covering = &v->overlays[i];
	if (covering && covering->data) {
		extent->kind = EXTENT_MEMORY;
		extent->memory = covering->data + (offset - covering->offset);
	} else if (covering || offset >= v->real_size) {
		extent->kind = EXTENT_ZERO;
	} else {
		extent->length = min_u64(extent->length, v->real_size - offset);
	}
}
