// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * saved.c - a controller at rest, out of its state and into another. Requests are not saved: the disks finish them
 * before. What the rings hold is in guest memory.
 */
#include <errno.h>
#include <string.h>

#include "vsp/storage/storvsp.h"

#define STORAGE_SECTION         "storage"
#define STORAGE_SECTION_VERSION 2u

struct saved_storage {
	uint32_t version, sub_channels;
	bool ready;
};

static const struct form_field storage_fields[] = {
    FORM_FIELD(struct saved_storage, version),
    FORM_FIELD(struct saved_storage, sub_channels),
    FORM_FLAG(struct saved_storage, ready),
};

struct saved_unit {
	uint32_t target, lun, kind;
	struct scsi_condition condition;
};

#define SAVED_UNIT_SIZE 25u

static const struct form_field unit_fields[] = {
    FORM_FIELD(struct saved_unit, target),
    FORM_FIELD(struct saved_unit, lun),
    FORM_FIELD(struct saved_unit, kind),
    FORM_FIELD(struct saved_unit, condition.block_size),
    FORM_FIELD(struct saved_unit, condition.block_count),
    FORM_FLAG(struct saved_unit, condition.changed),
};

/* From version 2 on, of a DVD drive. */
static const struct form_field drive_fields[] = {
    FORM_ARRAY(struct saved_unit, condition.drive.identifier.bytes),
    FORM_FLAG(struct saved_unit, condition.drive.ejected),
    FORM_FLAG(struct saved_unit, condition.drive.locked),
    FORM_FIELD(struct saved_unit, condition.drive.event),
};

static const struct form_field restored_fields[] = {
    FORM_FLAG(struct restored, announce),
    FORM_FIELD(struct restored, count),
};

#define ANSWER_SIZE 78u

static const struct form_field answer_fields[] = {
    FORM_FIELD(struct answer, transaction_id), FORM_FIELD(struct answer, reply_size),
    FORM_FLAG(struct answer, is_reset),        FORM_FLAG(struct answer, wants_completion),
    FORM_ARRAY(struct answer, packet),
};

/* --- rest ------------------------------------------------------------------------------------- */

static bool all_rest(const struct storage *storage)
{
	for (unsigned i = 0; i <= storage->max_sub_channels; i++)
		if (storage->endpoints[i].io && !io_rests(storage->endpoints[i].io))
			return false;
	return true;
}

void storage_pause(struct storage *storage)
{
	pthread_mutex_lock(&storage->lock);
	atomic_store(&storage->paused, true);
	for (unsigned i = 0; i <= storage->max_sub_channels; i++)
		if (storage->endpoints[i].io)
			io_wake(storage->endpoints[i].io);
	while (!all_rest(storage))
		pthread_cond_wait(&storage->idle, &storage->lock);
	pthread_mutex_unlock(&storage->lock);
}

void storage_resume(struct storage *storage)
{
	pthread_mutex_lock(&storage->lock);
	atomic_store(&storage->paused, false);
	pthread_cond_broadcast(&storage->idle);
	pthread_mutex_unlock(&storage->lock);
}

/* --- saving ----------------------------------------------------------------------------------- */

static struct saved_unit unit_of(const struct unit_slot *slot, unsigned target, unsigned lun)
{
	struct saved_unit unit = {.target = target, .lun = lun, .kind = slot->kind};

	scsi_get_condition(atomic_load(&slot->device), &unit.condition);
	return unit;
}

static void save_units(struct storage *storage, struct form_writer *w)
{
	form_put32(w, storage->unit_count);
	for (unsigned t = 0; t < STORAGE_TARGETS; t++) {
		for (unsigned l = 0; l < STORAGE_LUNS_PER_TARGET; l++) {
			struct saved_unit unit;

			if (!atomic_load(&storage->units[t][l].device))
				continue;
			unit = unit_of(&storage->units[t][l], t, l);
			FORM_PUT(w, &unit, unit_fields);
			if (unit.kind == STORAGE_UNIT_DVD)
				FORM_PUT(w, &unit, drive_fields);
		}
	}
}

static void save_io(const struct io *io, struct form_writer *w)
{
	struct restored *restored = calloc(1, sizeof(*restored));

	if (!restored) {
		w->failed = true;
		return;
	}
	if (io)
		io_save(io, restored);
	FORM_PUT(w, restored, restored_fields);
	for (uint32_t i = 0; i < restored->count; i++)
		FORM_PUT(w, &restored->answers[i], answer_fields);
	free(restored);
}

void storage_save(struct storage *storage, struct form_writer *w, unsigned number)
{
	struct saved_storage saved = {.version = atomic_load(&storage->version),
				      .sub_channels = storage->sub_channels,
				      .ready = atomic_load(&storage->ready)};
	size_t section = form_section_begin(w, STORAGE_SECTION, number, STORAGE_SECTION_VERSION);

	pthread_mutex_lock(&storage->lock);
	FORM_PUT(w, &saved, storage_fields);
	save_units(storage, w);
	for (unsigned i = 0; i <= storage->sub_channels; i++)
		save_io(storage->endpoints[i].io, w);
	pthread_mutex_unlock(&storage->lock);
	form_section_end(w, section);
}

/* --- loading ---------------------------------------------------------------------------------- */

static int load_unit(struct storage *storage, const struct saved_unit *saved, bool with_drive, struct error *err)
{
	struct unit_slot *slot = &storage->units[saved->target][saved->lun];
	struct scsi_device *device = atomic_load(&slot->device);
	struct saved_unit unit;

	if (!device || slot->kind != (enum storage_unit_kind)saved->kind)
		return error_set(err, EINVAL,
				 "%s: the guest knows a %s at target %u, LUN %u, and there is %s: give the machine "
				 "the disks that it had",
				 storage->name, saved->kind == STORAGE_UNIT_DVD ? "DVD drive" : "hard disk",
				 saved->target, saved->lun, device ? "something else" : "none");
	unit = unit_of(slot, saved->target, saved->lun);
	if (unit.condition.block_size != saved->condition.block_size ||
	    unit.condition.block_count != saved->condition.block_count)
		return error_set(err, EINVAL,
				 "%s: the guest knows %llu blocks of %u bytes at target %u, LUN %u, and there are "
				 "%llu of %u: it is another disk, or was resized",
				 storage->name, (unsigned long long)saved->condition.block_count,
				 saved->condition.block_size, saved->target, saved->lun,
				 (unsigned long long)unit.condition.block_count, unit.condition.block_size);
	scsi_set_condition(device, &saved->condition, with_drive);
	return 0;
}

static int load_units(struct storage *storage, struct form_reader *r, struct error *err)
{
	uint32_t count = form_get_count(r, STORAGE_MAX_UNITS, SAVED_UNIT_SIZE, "it has too many units");
	bool with_drives = r->version >= 2;
	int result = 0;

	for (uint32_t i = 0; i < count && !r->bad && !result; i++) {
		struct saved_unit unit = {0};

		FORM_GET(r, &unit, unit_fields);
		if (unit.target >= STORAGE_TARGETS || unit.lun >= STORAGE_LUNS_PER_TARGET ||
		    unit.kind > STORAGE_UNIT_DVD)
			form_bad(r, "a unit has an address or a kind that does not exist");
		if (!r->bad && with_drives && unit.kind == STORAGE_UNIT_DVD)
			FORM_GET(r, &unit, drive_fields);
		if (unit.condition.drive.event >= SCSI_DRIVE_EVENTS)
			form_bad(r, "a DVD drive has an event that does not exist");
		if (!r->bad)
			result = load_unit(storage, &unit, with_drives, err);
	}
	if (!r->bad && !result && count != storage->unit_count)
		result = error_set(err, EINVAL,
				   "%s: the guest knows %u disks and there are %u: give the machine the disks that it had",
				   storage->name, count, storage->unit_count);
	return result;
}

static bool answer_possible(const struct answer *answer, bool last)
{
	return answer->reply_size >= VSTOR_PACKET_SIZE_LEGACY && answer->reply_size <= sizeof(answer->packet) &&
	       (!answer->is_reset || last);
}

static int load_io(struct endpoint *endpoint, struct form_reader *r, struct error *err)
{
	struct restored *restored = calloc(1, sizeof(*restored));

	if (!restored)
		return error_set(err, ENOMEM, "no memory for a storage channel");
	endpoint->restored = restored;
	FORM_GET(r, restored, restored_fields);
	if (restored->count > IO_REQUESTS) {
		form_bad(r, "more answers wait than there can be requests");
		restored->count = 0;
	}
	for (uint32_t i = 0; i < restored->count && !r->bad; i++) {
		FORM_GET(r, &restored->answers[i], answer_fields);
		if (!r->bad && !answer_possible(&restored->answers[i], i + 1 == restored->count))
			form_bad(r, "an answer has a size or a place that cannot be");
	}
	return 0;
}

static int load_channels(struct storage *storage, struct form_reader *r, const struct saved_storage *saved,
			 struct error *err)
{
	int result = 0;

	if (saved->sub_channels > storage->max_sub_channels)
		return error_set(err, EINVAL, "%s: the guest knows %u channels and there can be %u: give the machine as "
				 "many processors as it had",
				 storage->name, saved->sub_channels + 1, storage->max_sub_channels + 1);
	for (unsigned i = 0; i <= saved->sub_channels && !r->bad && !result; i++)
		result = load_io(&storage->endpoints[i], r, err);
	if (!r->bad && !result && storage_offer_sub_channels(storage, saved->sub_channels) < 0)
		result = error_set(err, ENOSPC, "%s: its channels cannot be offered again", storage->name);
	return result;
}

int storage_load(struct storage *storage, struct form_reader *whole, unsigned number, struct error *err)
{
	struct form_reader r = form_section(whole, STORAGE_SECTION, number, STORAGE_SECTION_VERSION);
	struct saved_storage saved = {0};
	int result;

	FORM_GET(&r, &saved, storage_fields);
	if (saved.version && !storvsp_version_known((uint16_t)saved.version))
		form_bad(&r, "no such version of the storage protocol");
	if (saved.ready && !saved.version)
		form_bad(&r, "initialisation has ended and there is no version");
	result = load_units(storage, &r, err);
	if (!result && !r.bad)
		result = load_channels(storage, &r, &saved, err);
	if (result)
		return result;
	atomic_store(&storage->version, saved.version);
	atomic_store(&storage->ready, saved.ready);
	form_section_done(whole, &r);
	return 0;
}
