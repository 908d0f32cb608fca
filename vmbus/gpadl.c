// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * gpadl.c - memory that the guest lends: guest physical address descriptor lists (GPADLs).
 *
 * A GPADL arrives as one header message and as many bodies as its page numbers need. Page numbers are
 * turned into host addresses when the last has come, so nothing later can name memory that is not
 * the guest's RAM. A GPADL in use (a ring, or held by a provider) outlives the guest's teardown,
 * whose answer waits for the last user.
 *
 * Source: Linux drivers/hv/channel.c (create_gpadl_header, vmbus_teardown_gpadl).
 */
#include <errno.h>
#include <string.h>

#include "vmbus/bus.h"

/* --- the list ------------------------------------------------------------------------------------ */

static struct gpadl *find(struct vmbus *bus, uint32_t handle)
{
	struct gpadl *gpadl;

	for (gpadl = bus->gpadls; gpadl && gpadl->handle != handle; gpadl = gpadl->next)
		;
	return gpadl;
}

static void free_gpadl(struct gpadl *gpadl)
{
	free(gpadl->building);
	free(gpadl->ranges);
	free(gpadl->pages);
	free(gpadl);
}

/* [lock] Take it off the list. Its last user frees it, or nobody uses it and it is returned in the
 * list of what the caller frees. */
static void unlink_gpadl(struct vmbus *bus, struct gpadl **at, struct gpadl **dead)
{
	struct gpadl *gpadl = *at;

	*at = gpadl->next;
	bus->gpadl_count--;
	bus->gpadl_pages -= gpadl->page_count;
	if (!gpadl->complete)
		bus->gpadl_building--;
	if (gpadl->users > 0) {
		gpadl->orphan = true;
		return;
	}
	gpadl->next = *dead;
	*dead = gpadl;
}

static void free_list(struct gpadl *dead)
{
	while (dead) {
		struct gpadl *next = dead->next;

		free_gpadl(dead);
		dead = next;
	}
}

static void drop(struct vmbus *bus, struct gpadl *gpadl)
{
	struct gpadl **at, *dead = NULL;

	pthread_mutex_lock(&bus->lock);
	for (at = &bus->gpadls; *at && *at != gpadl; at = &(*at)->next)
		;
	if (*at)
		unlink_gpadl(bus, at, &dead);
	pthread_mutex_unlock(&bus->lock);
	free_list(dead);
}

void gpadl_drop_all(struct vmbus *bus, uint32_t relid)
{
	struct gpadl **at, *dead = NULL;

	pthread_mutex_lock(&bus->lock);
	for (at = &bus->gpadls; *at;) {
		if (relid == 0 || (*at)->relid == relid)
			unlink_gpadl(bus, at, &dead);
		else
			at = &(*at)->next;
	}
	pthread_mutex_unlock(&bus->lock);
	free_list(dead);
}

/* --- creation ------------------------------------------------------------------------------------ */

static void send_created(struct vmbus *bus, uint32_t relid, uint32_t handle, int r)
{
	struct vmbus_message_gpadl_created created = {.relid = relid, .gpadl = handle};

	if (r < 0)
		created.status = r == -EINVAL || r == -EFAULT || r == -EEXIST
				     ? VMBUS_STATUS_INVALID_PARAMETER
				     : VMBUS_STATUS_INSUFFICIENT_RESOURCES;
	connection_send(bus, &created, VMBUS_MSG_GPADL_CREATED, sizeof(created));
}

static uint64_t range_pages(const struct vmbus_gpa_range *range)
{
	return ((uint64_t)range->byte_offset + range->byte_count + GUEST_PAGE_SIZE - 1) >> GUEST_PAGE_SHIFT;
}

/* Count what the ranges describe and check that it is all there, exactly. */
static int measure(struct gpadl *gpadl)
{
	uint32_t at = 0;
	uint64_t pages = 0;

	for (unsigned i = 0; i < gpadl->range_count; i++) {
		struct vmbus_gpa_range range;
		uint64_t count;

		if (gpadl->building_size - at < sizeof(range))
			return -EINVAL;
		memcpy(&range, gpadl->building + at, sizeof(range));
		at += sizeof(range);
		count = range_pages(&range);
		if (range.byte_offset >= GUEST_PAGE_SIZE || range.byte_count == 0 ||
		    count > (gpadl->building_size - at) / sizeof(uint64_t))
			return -EINVAL;
		at += (uint32_t)(count * sizeof(uint64_t));
		pages += count;
	}
	gpadl->page_count = (unsigned)pages;
	return at == gpadl->building_size && pages > 0 ? 0 : -EINVAL;
}

static int resolve(struct vmbus *bus, struct gpadl *gpadl)
{
	const uint8_t *from = gpadl->building;
	unsigned page = 0;

	for (unsigned i = 0; i < gpadl->range_count; i++) {
		struct vmbus_gpa_range range;
		unsigned end;

		memcpy(&range, from, sizeof(range));
		from += sizeof(range);
		gpadl->ranges[i] = (struct gpadl_range){.start = gpadl->size,
							.byte_count = range.byte_count,
							.byte_offset = range.byte_offset,
							.first_page = page};
		gpadl->size += range.byte_count;
		for (end = page + (unsigned)range_pages(&range); page < end;
		     page++, from += sizeof(uint64_t)) {
			uint64_t pfn = le64_get(from);

			if (pfn > UINT64_MAX >> GUEST_PAGE_SHIFT)
				return -EFAULT;
			gpadl->pages[page] =
			    partition_memory(bus->partition, pfn << GUEST_PAGE_SHIFT, GUEST_PAGE_SIZE);
			if (!gpadl->pages[page])
				return -EFAULT;
		}
	}
	return 0;
}

static int complete(struct vmbus *bus, struct gpadl *gpadl)
{
	bool room;
	int r = measure(gpadl);

	if (r < 0) {
		gpadl->page_count = 0;
		return r;
	}
	pthread_mutex_lock(&bus->lock);
	room = gpadl->page_count <= BUS_MAX_GPADL_PAGES - bus->gpadl_pages;
	if (room)
		bus->gpadl_pages += gpadl->page_count;
	else
		gpadl->page_count = 0;
	pthread_mutex_unlock(&bus->lock);
	if (!room)
		return -ENOSPC;
	gpadl->ranges = calloc(gpadl->range_count, sizeof(gpadl->ranges[0]));
	gpadl->pages = calloc(gpadl->page_count, sizeof(gpadl->pages[0]));
	if (!gpadl->ranges || !gpadl->pages)
		return -ENOMEM;
	r = resolve(bus, gpadl);
	if (r < 0)
		return r;
	free(gpadl->building);
	gpadl->building = NULL;
	pthread_mutex_lock(&bus->lock);
	gpadl->complete = true;
	bus->gpadl_building--;
	pthread_mutex_unlock(&bus->lock);
	return 0;
}

/* Take what a message brings. Answers the guest when that was all, or when it cannot be right. */
static void append(struct vmbus *bus, struct gpadl *gpadl, const uint8_t *bytes, size_t size)
{
	uint32_t relid = gpadl->relid, handle = gpadl->handle;
	int r;

	if (size > gpadl->building_size - gpadl->building_filled)
		size = gpadl->building_size - gpadl->building_filled;
	memcpy(gpadl->building + gpadl->building_filled, bytes, size);
	gpadl->building_filled += (uint32_t)size;
	if (gpadl->building_filled < gpadl->building_size)
		return;
	r = complete(bus, gpadl);
	if (r < 0)
		drop(bus, gpadl);
	send_created(bus, relid, handle, r);
}

static int insert(struct vmbus *bus, struct gpadl *gpadl)
{
	int r = 0;

	pthread_mutex_lock(&bus->lock);
	if (find(bus, gpadl->handle)) {
		r = -EEXIST;
	} else if (bus->gpadl_count == BUS_MAX_GPADLS || bus->gpadl_building == BUS_MAX_BUILDING) {
		r = -ENOSPC;
	} else {
		gpadl->next = bus->gpadls;
		bus->gpadls = gpadl;
		bus->gpadl_count++;
		bus->gpadl_building++;
	}
	pthread_mutex_unlock(&bus->lock);
	return r;
}

static int start_building(struct vmbus *bus, const struct vmbus_message_gpadl_header *header,
			  struct gpadl **out)
{
	struct channel *channel = bus_channel(bus, header->relid);
	struct gpadl *gpadl;
	int r;

	if (!channel || !channel->announced)
		return -EINVAL;
	if (header->range_count == 0 ||
	    header->range_buffer_length <
		header->range_count * (sizeof(struct vmbus_gpa_range) + sizeof(uint64_t)))
		return -EINVAL;
	gpadl = calloc(1, sizeof(*gpadl));
	if (!gpadl)
		return -ENOMEM;
	gpadl->bus = bus;
	gpadl->relid = header->relid;
	gpadl->handle = header->gpadl;
	gpadl->range_count = header->range_count;
	gpadl->building_size = header->range_buffer_length;
	gpadl->building = malloc(gpadl->building_size);
	r = gpadl->building ? insert(bus, gpadl) : -ENOMEM;
	if (r < 0) {
		free_gpadl(gpadl);
		return r;
	}
	*out = gpadl;
	return 0;
}

/* To a channel that was removed, nothing is lent any more; what was lent before waits for the guest to take it back. */
static bool is_removed(struct vmbus *bus, uint32_t relid)
{
	const struct channel *channel = bus_channel(bus, relid);

	return channel && channel->state == CHANNEL_REMOVED;
}

void gpadl_on_header(struct vmbus *bus, const void *message, size_t size)
{
	const struct vmbus_message_gpadl_header *header = message;
	struct gpadl *gpadl;
	int r = is_removed(bus, header->relid) ? -EINVAL : start_building(bus, header, &gpadl);

	if (r < 0) {
		bus->counters.ignored++;
		send_created(bus, header->relid, header->gpadl, r);
		return;
	}
	append(bus, gpadl, (const uint8_t *)message + sizeof(*header), size - sizeof(*header));
}

void gpadl_on_body(struct vmbus *bus, const void *message, size_t size)
{
	const struct vmbus_message_gpadl_body *body = message;
	struct gpadl *gpadl;

	pthread_mutex_lock(&bus->lock);
	gpadl = find(bus, body->gpadl);
	if (gpadl && gpadl->complete)
		gpadl = NULL;
	pthread_mutex_unlock(&bus->lock);
	if (!gpadl || size == sizeof(*body)) {
		bus->counters.ignored++;
		return;
	}
	append(bus, gpadl, (const uint8_t *)message + sizeof(*body), size - sizeof(*body));
}

/* --- teardown ------------------------------------------------------------------------------------ */

static void send_torndown(struct vmbus *bus, uint32_t handle)
{
	struct vmbus_message_gpadl_torndown torndown = {.gpadl = handle};

	connection_send(bus, &torndown, VMBUS_MSG_GPADL_TORNDOWN, sizeof(torndown));
}

void gpadl_on_teardown(struct vmbus *bus, const struct vmbus_message_gpadl_teardown *message)
{
	struct gpadl *gpadl;
	bool mine = true;

	pthread_mutex_lock(&bus->lock);
	gpadl = find(bus, message->gpadl);
	if (gpadl) {
		mine = gpadl->relid == message->relid && !gpadl->teardown_asked;
		if (mine)
			gpadl->teardown_asked = true;
	}
	pthread_mutex_unlock(&bus->lock);
	if (!gpadl) {
		/* Gone already: say so, a driver that waits for it must not wait for ever. */
		bus->counters.ignored++;
		send_torndown(bus, message->gpadl);
	} else if (!mine) {
		bus->counters.ignored++;
	} else {
		gpadl_reap(bus);
	}
}

void gpadl_reap(struct vmbus *bus)
{
	struct gpadl **at, *dead = NULL, *gpadl;

	pthread_mutex_lock(&bus->lock);
	for (at = &bus->gpadls; *at;) {
		if ((*at)->teardown_asked && (*at)->users == 0)
			unlink_gpadl(bus, at, &dead);
		else
			at = &(*at)->next;
	}
	pthread_mutex_unlock(&bus->lock);
	for (gpadl = dead; gpadl; gpadl = gpadl->next)
		send_torndown(bus, gpadl->handle);
	free_list(dead);
}

/* --- users --------------------------------------------------------------------------------------- */

static struct gpadl *acquire(struct vmbus *bus, uint32_t relid, uint32_t handle, bool even_torn)
{
	struct gpadl *gpadl;

	pthread_mutex_lock(&bus->lock);
	gpadl = find(bus, handle);
	if (gpadl &&
	    (gpadl->relid != relid || !gpadl->complete || (gpadl->teardown_asked && !even_torn)))
		gpadl = NULL;
	if (gpadl)
		gpadl->users++;
	pthread_mutex_unlock(&bus->lock);
	return gpadl;
}

struct gpadl *gpadl_acquire(struct vmbus *bus, uint32_t relid, uint32_t handle)
{
	return acquire(bus, relid, handle, false);
}

struct gpadl *gpadl_acquire_even_torn(struct vmbus *bus, uint32_t relid, uint32_t handle)
{
	return acquire(bus, relid, handle, true);
}

struct gpadl *channel_gpadl(struct channel *channel, uint32_t handle)
{
	return gpadl_acquire(channel->bus, channel->relid, handle);
}

void gpadl_release(struct gpadl *gpadl)
{
	struct vmbus *bus = gpadl->bus;
	bool dead, reap;

	pthread_mutex_lock(&bus->lock);
	gpadl->users--;
	dead = gpadl->users == 0 && gpadl->orphan;
	reap = gpadl->users == 0 && !gpadl->orphan && gpadl->teardown_asked;
	pthread_mutex_unlock(&bus->lock);
	if (dead)
		free_gpadl(gpadl);
	if (reap) {
		__atomic_store_n(&bus->work_reap, true, __ATOMIC_RELEASE);
		bus_wake(bus);
	}
}

size_t gpadl_size(const struct gpadl *gpadl)
{
	return gpadl->size;
}

/* Add [offset, offset + size) of one range to the list. */
static int range_iovec(const struct gpadl *gpadl, const struct gpadl_range *range, uint64_t offset,
		       uint64_t size, struct iovec *iov, unsigned capacity, unsigned *count)
{
	uint64_t at = range->byte_offset + offset;

	while (size > 0) {
		uint64_t in_page = at & (GUEST_PAGE_SIZE - 1);
		uint64_t chunk = min_u64(size, GUEST_PAGE_SIZE - in_page);
		uint8_t *base = gpadl->pages[range->first_page + (at >> GUEST_PAGE_SHIFT)] + in_page;
		struct iovec *last = *count ? &iov[*count - 1] : NULL;

		if (last && (uint8_t *)last->iov_base + last->iov_len == base) {
			last->iov_len += chunk;
		} else {
			if (*count == capacity)
				return -EMSGSIZE;
			iov[(*count)++] = (struct iovec){.iov_base = base, .iov_len = chunk};
		}
		at += chunk;
		size -= chunk;
	}
	return 0;
}

int gpadl_iovec(const struct gpadl *gpadl, size_t offset, size_t size, struct iovec *iov, unsigned capacity)
{
	unsigned count = 0;

	if (!range_fits_u64(offset, size, gpadl->size))
		return -EINVAL;
	for (unsigned i = 0; i < gpadl->range_count && size > 0; i++) {
		const struct gpadl_range *range = &gpadl->ranges[i];
		uint64_t chunk;
		int r;

		if (offset >= range->start + range->byte_count)
			continue;
		chunk = min_u64(size, range->start + range->byte_count - offset);
		r = range_iovec(gpadl, range, offset - range->start, chunk, iov, capacity, &count);
		if (r < 0)
			return r;
		offset += chunk;
		size -= chunk;
	}
	return (int)count;
}

/* --- saved state ---------------------------------------------------------------------------------- */

/* A GPADL is saved as the bytes of its ranges that the guest has sent so far, and comes back by the same way. */
struct saved_gpadl {
	uint32_t relid, handle, range_count, size, filled;
	bool teardown_asked;
};

#define SAVED_GPADL_SIZE 21u

static const struct form_field saved_gpadl_fields[] = {
    FORM_FIELD(struct saved_gpadl, relid),       FORM_FIELD(struct saved_gpadl, handle),
    FORM_FIELD(struct saved_gpadl, range_count), FORM_FIELD(struct saved_gpadl, size),
    FORM_FIELD(struct saved_gpadl, filled),      FORM_FLAG(struct saved_gpadl, teardown_asked),
};

static void put_ranges(const struct gpadl *gpadl, struct form_writer *w)
{
	for (unsigned i = 0; i < gpadl->range_count; i++) {
		const struct gpadl_range *range = &gpadl->ranges[i];
		unsigned end = i + 1 < gpadl->range_count ? gpadl->ranges[i + 1].first_page : gpadl->page_count;

		form_put32(w, range->byte_count);
		form_put32(w, range->byte_offset);
		for (unsigned page = range->first_page; page < end; page++)
			form_put64(w, partition_memory_gpa(gpadl->bus->partition, gpadl->pages[page]) >>
					  GUEST_PAGE_SHIFT);
	}
}

void gpadl_save_all(struct vmbus *bus, struct form_writer *w)
{
	form_put32(w, bus->gpadl_count);
	for (const struct gpadl *gpadl = bus->gpadls; gpadl; gpadl = gpadl->next) {
		struct saved_gpadl saved = {.relid = gpadl->relid,
					    .handle = gpadl->handle,
					    .range_count = gpadl->range_count,
					    .size = gpadl->building_size,
					    .filled = gpadl->building_filled,
					    .teardown_asked = gpadl->teardown_asked};

		FORM_PUT(w, &saved, saved_gpadl_fields);
		if (gpadl->complete)
			put_ranges(gpadl, w);
		else
			form_put(w, gpadl->building, gpadl->building_filled);
	}
}

static int load_gpadl(struct vmbus *bus, const struct saved_gpadl *saved, const uint8_t *bytes)
{
	struct vmbus_message_gpadl_header header = {.relid = saved->relid,
						    .gpadl = saved->handle,
						    .range_buffer_length = (uint16_t)saved->size,
						    .range_count = (uint16_t)saved->range_count};
	struct gpadl *gpadl;
	int r = start_building(bus, &header, &gpadl);

	if (r < 0)
		return r;
	memcpy(gpadl->building, bytes, saved->filled);
	gpadl->building_filled = saved->filled;
	if (saved->filled == saved->size)
		r = complete(bus, gpadl);
	gpadl->teardown_asked = saved->teardown_asked;
	return r;
}

void gpadl_load_all(struct vmbus *bus, struct form_reader *r)
{
	uint32_t count = form_get_count(r, BUS_MAX_GPADLS, SAVED_GPADL_SIZE, "there are too many GPADLs");

	for (uint32_t i = 0; i < count && !r->bad; i++) {
		struct saved_gpadl saved = {0};
		const uint8_t *bytes;

		FORM_GET(r, &saved, saved_gpadl_fields);
		if (saved.range_count > UINT16_MAX || saved.size > UINT16_MAX || saved.filled > saved.size)
			form_bad(r, "a GPADL is larger than its message can say");
		bytes = form_take(r, saved.filled);
		if (bytes && load_gpadl(bus, &saved, bytes) < 0)
			form_bad(r, "a GPADL that no guest can have lent");
	}
}
