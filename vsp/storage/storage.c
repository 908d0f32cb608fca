// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * storage.c - the controller: its offers on the bus and the units that come and go.
 */
#include <errno.h>
#include <string.h>

#include "vsp/storage/storvsp.h"

/* --- units ------------------------------------------------------------------------------------ */

/* Both sides store first and look second, in one order for all (seq_cst): either the thread that
 * leaves sees `leaving`, or `held`, and wakes the waiter, or the waiter sees no users. */
void unit_release(struct unit_slot *slot)
{
	struct storage *storage = slot->storage;

	if (atomic_fetch_sub(&slot->users, 1) == 1 &&
	    (atomic_load(&slot->leaving) || atomic_load(&slot->held))) {
		pthread_mutex_lock(&storage->lock);
		pthread_cond_broadcast(&storage->idle);
		pthread_mutex_unlock(&storage->lock);
	}
}

struct scsi_device *unit_acquire(struct storage *storage, unsigned target, unsigned lun,
				 struct unit_slot **slot)
{
	struct scsi_device *device;

	if (target >= STORAGE_TARGETS || lun >= STORAGE_LUNS_PER_TARGET)
		return NULL;
	*slot = &storage->units[target][lun];
	if (!atomic_load(&(*slot)->device))
		return NULL;
	atomic_fetch_add(&(*slot)->users, 1);
	device = atomic_load(&(*slot)->device);
	if (!device)
		unit_release(*slot);
	return device;
}

bool unit_is_held(struct storage *storage, unsigned target, unsigned lun)
{
	return target < STORAGE_TARGETS && lun < STORAGE_LUNS_PER_TARGET &&
	       atomic_load(&storage->units[target][lun].held);
}

unsigned unit_list(struct storage *storage, unsigned target, uint8_t luns[STORAGE_LUNS_PER_TARGET])
{
	unsigned count = 0;

	for (unsigned lun = 0; target < STORAGE_TARGETS && lun < STORAGE_LUNS_PER_TARGET; lun++)
		if (atomic_load(&storage->units[target][lun].device))
			luns[count++] = (uint8_t)lun;
	return count;
}

static int check_address(unsigned target, unsigned lun, struct error *err)
{
	if (target >= STORAGE_TARGETS || lun >= STORAGE_LUNS_PER_TARGET)
		return error_set(err, EINVAL,
				 "SCSI target %u, LUN %u does not exist: targets are 0 to %u, LUNs 0 to %u",
				 target, lun, STORAGE_TARGETS - 1, STORAGE_LUNS_PER_TARGET - 1);
	return 0;
}

/* With the lock held. A guest that is not ready yet will look by itself. */
static void announce(struct storage *storage)
{
	if (storage->endpoints[0].io)
		io_announce(storage->endpoints[0].io);
}

int storage_attach(struct storage *storage, unsigned target, unsigned lun, enum storage_unit_kind kind,
		   struct disk *disk, struct error *err)
{
	struct scsi_device *device = NULL;
	struct unit_slot *slot;
	int r = check_address(target, lun, err);

	if (r < 0)
		return r;
	if (kind == STORAGE_UNIT_DVD)
		r = scsi_dvd_create(&device, disk, err);
	else if (disk)
		r = scsi_disk_create(&device, disk, err);
	else
		r = error_set(err, EINVAL, "a hard disk needs an image");
	if (r < 0)
		return r;
	pthread_mutex_lock(&storage->lock);
	slot = &storage->units[target][lun];
	if (atomic_load(&slot->device) || atomic_load(&slot->leaving)) {
		r = error_set(err, EEXIST, "%s: target %u, LUN %u is in use", storage->name, target, lun);
	} else if (storage->unit_count == STORAGE_MAX_UNITS) {
		r = error_set(err, ENOSPC, "%s holds %u units already; add another controller", storage->name,
			      STORAGE_MAX_UNITS);
	} else {
		slot->kind = kind;
		atomic_store(&slot->device, device);
		storage->unit_count++;
		announce(storage);
	}
	pthread_mutex_unlock(&storage->lock);
	if (r < 0)
		scsi_device_destroy(device);
	return r;
}

int storage_detach(struct storage *storage, unsigned target, unsigned lun, struct error *err)
{
	struct scsi_device *device;
	struct unit_slot *slot;
	int r = check_address(target, lun, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&storage->lock);
	slot = &storage->units[target][lun];
	while (atomic_load(&slot->held))
		pthread_cond_wait(&storage->idle, &storage->lock);
	atomic_store(&slot->leaving, true);
	device = atomic_exchange(&slot->device, NULL);
	if (device) {
		while (atomic_load(&slot->users) > 0)
			pthread_cond_wait(&storage->idle, &storage->lock);
		storage->unit_count--;
		announce(storage);
	}
	atomic_store(&slot->leaving, false);
	pthread_cond_broadcast(&storage->idle);
	pthread_mutex_unlock(&storage->lock);
	if (!device)
		return error_set(err, ENOENT, "%s: there is nothing at target %u, LUN %u", storage->name,
				 target, lun);
	scsi_device_destroy(device);
	return 0;
}

/* With the lock held. NULL: -ENOENT, there is none. */
static struct scsi_device *drive_at(struct storage *storage, unsigned target, unsigned lun, struct error *err)
{
	struct unit_slot *slot = &storage->units[target][lun];
	struct scsi_device *device = slot->kind == STORAGE_UNIT_DVD ? atomic_load(&slot->device) : NULL;

	if (!device)
		error_set(err, ENOENT, "%s: there is no DVD drive at target %u, LUN %u", storage->name, target, lun);
	return device;
}

int storage_medium_is_locked(struct storage *storage, unsigned target, unsigned lun, bool ask, bool *locked,
			     struct error *err)
{
	struct scsi_device *device;
	int r = check_address(target, lun, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&storage->lock);
	device = drive_at(storage, target, lun, err);
	*locked = device && scsi_dvd_is_locked(device);
	if (*locked && ask)
		scsi_dvd_request_eject(device);
	pthread_mutex_unlock(&storage->lock);
	return device ? 0 : -ENOENT;
}

static int check_unlocked(const struct scsi_device *device, struct error *err)
{
	if (!device)
		return -ENOENT;
	return scsi_dvd_is_locked(device)
		   ? error_set(err, EBUSY, "the guest has locked the medium in the drive, as it does while that is mounted: "
					   "unmount it there, or change it by force")
		   : 0;
}

int storage_change_medium(struct storage *storage, unsigned target, unsigned lun, struct disk *disk, bool force,
			  struct error *err)
{
	struct scsi_device *device;
	struct unit_slot *slot;
	int r = check_address(target, lun, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&storage->lock);
	slot = &storage->units[target][lun];
	while (atomic_load(&slot->held) || atomic_load(&slot->leaving))
		pthread_cond_wait(&storage->idle, &storage->lock);
	device = drive_at(storage, target, lun, err);
	r = device && force ? 0 : check_unlocked(device, err);
	if (r == 0) {
		atomic_store(&slot->held, true);
		while (atomic_load(&slot->users) > 0)
			pthread_cond_wait(&storage->idle, &storage->lock);
		scsi_dvd_set_medium(device, disk);
		atomic_store(&slot->held, false);
		pthread_cond_broadcast(&storage->idle);
	}
	pthread_mutex_unlock(&storage->lock);
	return r;
}

int storage_resized(struct storage *storage, unsigned target, unsigned lun, struct error *err)
{
	struct scsi_device *device = NULL;
	struct unit_slot *slot;
	int r = check_address(target, lun, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&storage->lock);
	slot = &storage->units[target][lun];
	if (slot->kind == STORAGE_UNIT_DISK)
		device = atomic_load(&slot->device);
	if (device)
		scsi_disk_resized(device);
	pthread_mutex_unlock(&storage->lock);
	return device ? 0
		      : error_set(err, ENOENT, "%s: there is no hard disk at target %u, LUN %u", storage->name,
				  target, lun);
}

/* --- channels --------------------------------------------------------------------------------- */

static void endpoint_set_io(struct endpoint *endpoint, struct io *io)
{
	pthread_mutex_lock(&endpoint->storage->lock);
	endpoint->io = io;
	pthread_mutex_unlock(&endpoint->storage->lock);
}

static int channel_opened(void *provider, struct channel *channel, const struct channel_open *open)
{
	struct endpoint *endpoint = provider;
	struct error err = {0};
	struct io *io;
	int r = io_start(&io, endpoint, channel, &err);

	if (r < 0) {
		log_write(LOG_LEVEL_ERROR, "%s: %s", endpoint->storage->name, err.text);
		return r;
	}
	free(endpoint->restored);
	endpoint->restored = NULL;
	endpoint_set_io(endpoint, io);
	return 0;
}

/* The sub-channels go with the primary: a guest asks for them anew. */
static void remove_sub_channels(struct storage *storage)
{
	for (unsigned i = 1; i <= storage->max_sub_channels; i++) {
		struct endpoint *endpoint = &storage->endpoints[i];

		if (endpoint->channel)
			channel_remove(endpoint->channel);
		endpoint->channel = NULL;
	}
	storage->sub_channels = 0;
}

static void channel_closed(void *provider, struct channel *channel)
{
	struct endpoint *endpoint = provider;
	struct storage *storage = endpoint->storage;
	struct io *io = endpoint->io;

	endpoint_set_io(endpoint, NULL);
	io_stop(io);
	if (endpoint->index == 0) {
		atomic_store(&storage->ready, false);
		atomic_store(&storage->version, 0);
		remove_sub_channels(storage);
	}
}

static int offer_endpoint(struct storage *storage, unsigned index, struct error *err)
{
	static const struct channel_ops ops = {.open = channel_opened, .close = channel_closed};
	struct endpoint *endpoint = &storage->endpoints[index];
	struct channel_offer offer = {
	    .interface = STORAGE_SCSI_CLASS,
	    .instance = storage->instance,
	    .name = storage->name,
	    .subchannel_index = (uint16_t)index,
	};

	endpoint->storage = storage;
	endpoint->index = index;
	return vmbus_offer(storage->bus, &offer, &ops, endpoint, &endpoint->channel, err);
}

int storage_offer_sub_channels(struct storage *storage, unsigned count)
{
	struct error err = {0};

	for (unsigned i = storage->sub_channels + 1; i <= count; i++) {
		int r = offer_endpoint(storage, i, &err);

		if (r < 0) {
			log_write(LOG_LEVEL_WARNING, "%s: sub-channel %u: %s", storage->name, i, err.text);
			return r;
		}
		storage->sub_channels = i;
	}
	return 0;
}

/* --- life ------------------------------------------------------------------------------------- */

int storage_create(struct storage **out, struct vmbus *bus, const struct storage_config *config,
		   struct error *err)
{
	struct storage *storage = calloc(1, sizeof(*storage));
	unsigned most = partition_vp_count(vmbus_partition(bus)) - 1;
	int r;

	if (!storage)
		return error_set(err, ENOMEM, "no memory for a SCSI controller");
	storage->bus = bus;
	storage->partition = vmbus_partition(bus);
	storage->instance = config->instance;
	snprintf(storage->name, sizeof(storage->name), "%s", config->name);
	storage->max_sub_channels = config->max_sub_channels < most ? config->max_sub_channels : most;
	storage->rings = config->rings;
	storage->kept = config->kept;
	pthread_mutex_init(&storage->lock, NULL);
	pthread_cond_init(&storage->idle, NULL);
	for (unsigned t = 0; t < STORAGE_TARGETS; t++)
		for (unsigned l = 0; l < STORAGE_LUNS_PER_TARGET; l++)
			storage->units[t][l].storage = storage;
	r = offer_endpoint(storage, 0, err);
	if (r < 0) {
		storage->endpoints[0].channel = NULL;
		storage_destroy(storage);
		return r;
	}
	*out = storage;
	return 0;
}

void storage_destroy(struct storage *storage)
{
	if (!storage)
		return;
	if (storage->endpoints[0].channel)
		channel_remove(storage->endpoints[0].channel);
	for (unsigned t = 0; t < STORAGE_TARGETS; t++)
		for (unsigned l = 0; l < STORAGE_LUNS_PER_TARGET; l++)
			if (storage->units[t][l].device)
				scsi_device_destroy(storage->units[t][l].device);
	for (unsigned i = 0; i <= storage->max_sub_channels; i++)
		free(storage->endpoints[i].restored);
	pthread_cond_destroy(&storage->idle);
	pthread_mutex_destroy(&storage->lock);
	free(storage);
}

void storage_get_counters(struct storage *storage, struct storage_counters *out)
{
	pthread_mutex_lock(&storage->lock);
	*out = storage->kept ? *storage->kept : (struct storage_counters){0};
	for (unsigned i = 0; i <= storage->max_sub_channels; i++)
		if (storage->endpoints[i].io)
			io_add_counters(storage->endpoints[i].io, out);
	pthread_mutex_unlock(&storage->lock);
}

static void inspect_units(struct storage *storage, const struct vmbus_inspector *inspector, void *context)
{
	for (unsigned t = 0; t < STORAGE_TARGETS; t++) {
		for (unsigned l = 0; l < STORAGE_LUNS_PER_TARGET; l++) {
			struct unit_slot *slot = &storage->units[t][l];
			char name[32];

			if (!atomic_load(&slot->device))
				continue;
			snprintf(name, sizeof(name), "unit %u:%u", t, l);
			inspector->begin(context, name);
			inspector->text(context, "kind", slot->kind == STORAGE_UNIT_DVD ? "dvd" : "disk");
			inspector->number(context, "in_flight", atomic_load(&slot->users));
			inspector->end(context);
		}
	}
}

void storage_inspect(struct storage *storage, const struct vmbus_inspector *inspector, void *context)
{
	unsigned version = atomic_load(&storage->version);
	char text[16];

	pthread_mutex_lock(&storage->lock);
	inspector->begin(context, storage->name);
	snprintf(text, sizeof(text), "%u.%u", version >> 8, version & 0xff);
	inspector->text(context, "version", text);
	inspector->text(context, "state", atomic_load(&storage->ready) ? "ready" : "not initialised");
	inspect_units(storage, inspector, context);
	for (unsigned i = 0; i <= storage->max_sub_channels; i++)
		if (storage->endpoints[i].io)
			io_inspect(storage->endpoints[i].io, inspector, context);
	inspector->end(context);
	pthread_mutex_unlock(&storage->lock);
}
