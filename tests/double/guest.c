// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * guest.c - the double's machine, messages, contact and offers.
 */
#include "tests/double/guest.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "tests/double/guest_state.h"

/* TLFS: synthetic MSRs and hypercall codes. */
#define MSR_GUEST_OS_ID  0x40000000u
#define MSR_HYPERCALL    0x40000001u
#define MSR_SCONTROL     0x40000080u
#define MSR_SIEFP        0x40000082u
#define MSR_SIMP         0x40000083u
#define MSR_EOM          0x40000084u
#define MSR_SINT0        0x40000090u
#define CALL_POST        0x5cu
#define STATUS_NO_BUFFER 0x13

#define HEAP_START      0x100000u
#define SINT_VECTOR     0xf3u
#define SINT_AUTO_EOI   (1u << 17)
#define WAIT_NS         10000000000
#define KERNEL_PAUSE_NS 20000

/* TLFS 11.9: a message slot. */
struct synic_message {
	uint32_t type;
	uint8_t payload_size;
	uint8_t flags; /* bit 0: another waits */
	uint8_t reserved[2];
	uint64_t sender;
	uint8_t payload[SYNIC_MESSAGE_PAYLOAD];
};
_Static_assert(sizeof(struct synic_message) == 256, "TLFS layout");

/* --- waiting -------------------------------------------------------------------------------------- */

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

struct guest_deadline guest_deadline(void)
{
	return (struct guest_deadline){.end_ns = now_ns() + WAIT_NS};
}

bool guest_patience(struct guest_deadline *deadline)
{
	struct timespec pause = {.tv_nsec = KERNEL_PAUSE_NS};

	if (now_ns() > deadline->end_ns)
		return false;
	nanosleep(&pause, NULL);
	return true;
}

bool guest_wait(bool (*condition)(void *context), void *context)
{
	struct guest_deadline deadline = guest_deadline();

	do {
		if (condition(context))
			return true;
	} while (guest_patience(&deadline));
	return false;
}

/* --- machine and memory ---------------------------------------------------------------------------- */

void *guest_at(struct guest *guest, gpa_t gpa)
{
	return partition_memory(guest->partition, gpa, 1);
}

gpa_t guest_gpa(struct guest *guest, const void *memory)
{
	return (gpa_t)((const uint8_t *)memory - (uint8_t *)guest_at(guest, 0));
}

void *guest_alloc(struct guest *guest, unsigned pages, gpa_t *gpa)
{
	uint64_t size = (uint64_t)pages * GUEST_PAGE_SIZE;
	void *memory;

	if (size > guest->memory_size - guest->heap) {
		fprintf(stderr, "guest double: out of guest memory\n");
		abort();
	}
	memory = guest_at(guest, guest->heap);
	memset(memory, 0, size);
	if (gpa)
		*gpa = guest->heap;
	guest->heap += size;
	return memory;
}

void guest_set_scatter(struct guest *guest, bool scatter)
{
	guest->scatter = scatter;
}

static int enable_synic(struct guest *guest)
{
	int r = vp_write_msr(guest->partition, 0, MSR_GUEST_OS_ID, 0x8100000000000001u);
	gpa_t code;

	guest_alloc(guest, 1, &code);
	r = r ? r : vp_write_msr(guest->partition, 0, MSR_HYPERCALL, code | 1);
	for (unsigned vp = 0; vp < guest->vp_count && r == 0; vp++) {
		guest_alloc(guest, 1, &guest->message_page[vp]);
		guest_alloc(guest, 1, &guest->event_page[vp]);
		r = vp_write_msr(guest->partition, vp, MSR_SIMP, guest->message_page[vp] | 1);
		r = r ? r : vp_write_msr(guest->partition, vp, MSR_SIEFP, guest->event_page[vp] | 1);
		r = r ? r
		      : vp_write_msr(guest->partition, vp, MSR_SINT0 + VMBUS_MESSAGE_SINT,
				     SINT_VECTOR | SINT_AUTO_EOI);
		r = r ? r : vp_write_msr(guest->partition, vp, MSR_SCONTROL, 1);
	}
	return r;
}

static void ignore_event(void *context, const struct partition_event *event)
{
}

static int start_machine(struct guest *guest, struct error *err)
{
	struct partition_config config = {
	    .processor = PROCESSOR_NONE, .vp_count = guest->vp_count, .on_event = ignore_event};
	int r = partition_create(&guest->partition, &config, err);

	if (r < 0)
		return r;
	r = partition_add_memory(guest->partition, 0, guest->memory_size, err);
	if (r < 0)
		return r;
	r = partition_start(guest->partition, err);
	if (r < 0)
		return r;
	r = enable_synic(guest);
	return r < 0 ? error_set(err, -r, "cannot enable the SynIC: %s", strerror(-r)) : 0;
}

struct guest *guest_create_vps(unsigned megabytes, unsigned vp_count)
{
	struct guest *guest = calloc(1, sizeof(*guest));
	struct error err = {0};

	if (!guest)
		abort();
	guest->vp_count = vp_count;
	guest->memory_size = (uint64_t)megabytes << 20;
	guest->heap = HEAP_START;
	guest->next_gpadl = 0xe1e10;
	guest->next_open = 1;
	guest->message_connection = VMBUS_MESSAGE_CONNECTION_ID;
	if (start_machine(guest, &err) < 0) {
		fprintf(stderr, "guest double: %s\n", err.text);
		guest_destroy(guest);
		return NULL;
	}
	guest_alloc(guest, 1, &guest->hypercall_input);
	guest_alloc(guest, 1, &guest->interrupt_page);
	guest_alloc(guest, 1, &guest->monitor_page[0]);
	guest_alloc(guest, 1, &guest->monitor_page[1]);
	return guest;
}

struct guest *guest_create(unsigned megabytes)
{
	return guest_create_vps(megabytes, 1);
}

static void forget_offers(struct guest *guest)
{
	for (unsigned i = 0; i < guest->offer_count; i++)
		free(guest->offers[i]);
	guest->offer_count = 0;
}

void guest_destroy(struct guest *guest)
{
	if (!guest)
		return;
	while (guest->channels)
		guest_channel_free(guest->channels);
	forget_offers(guest);
	if (guest->partition) {
		partition_stop(guest->partition);
		partition_destroy(guest->partition);
	}
	free(guest);
}

struct partition *guest_partition(struct guest *guest)
{
	return guest->partition;
}

/* --- messages -------------------------------------------------------------------------------------- */

int guest_post_raw(struct guest *guest, uint32_t connection_id, uint32_t synic_type, const void *bytes,
		   size_t size)
{
	struct guest_deadline deadline = guest_deadline();
	uint8_t *input = guest_at(guest, guest->hypercall_input);
	uint64_t status;

	do {
		le32_put(input, connection_id);
		le32_put(input + 4, 0);
		le32_put(input + 8, synic_type);
		le32_put(input + 12, (uint32_t)size);
		memset(input + 16, 0, SYNIC_MESSAGE_PAYLOAD);
		memcpy(input + 16, bytes, min_u64(size, SYNIC_MESSAGE_PAYLOAD));
		status = vp_hypercall(guest->partition, 0, CALL_POST, guest->hypercall_input, 0) & 0xffff;
		if (status != STATUS_NO_BUFFER)
			return (int)status;
	} while (guest_patience(&deadline));
	return -ETIMEDOUT;
}

int guest_post(struct guest *guest, uint32_t type, void *message, size_t size)
{
	struct vmbus_message_header *header = message;
	int r;

	header->type = type;
	header->padding = 0;
	r = guest_post_raw(guest, guest->message_connection, VMBUS_MESSAGE_TYPE, message, size);
	return r > 0 ? -EIO : r;
}

static void note_offer(struct guest *guest, const struct vmbus_message_offer *message)
{
	struct guest_offer *offer;

	if (guest->offer_count == GUEST_MAX_OFFERS)
		return;
	offer = calloc(1, sizeof(*offer));
	if (!offer)
		abort();
	offer->message = *message;
	guest->offers[guest->offer_count++] = offer;
}

static void note_rescind(struct guest *guest, uint32_t relid)
{
	for (unsigned i = 0; i < guest->offer_count; i++)
		if (guest->offers[i]->message.relid == relid)
			guest->offers[i]->rescinded = true;
}

bool guest_poll_message(struct guest *guest, struct guest_message *message)
{
	struct synic_message *slot = guest_at(guest, guest->message_page[guest->message_vp]);
	uint32_t type;
	bool more;

	slot += VMBUS_MESSAGE_SINT;
	type = __atomic_load_n(&slot->type, __ATOMIC_ACQUIRE);
	if (type == 0)
		return false;
	memset(message, 0, sizeof(*message));
	message->size = slot->payload_size;
	if (message->size > SYNIC_MESSAGE_PAYLOAD)
		abort();
	memcpy(message->bytes, slot->payload, message->size);
	message->type = le32_get(message->bytes);
	__atomic_store_n(&slot->type, 0, __ATOMIC_SEQ_CST);
	more = __atomic_load_n(&slot->flags, __ATOMIC_SEQ_CST) & 1;
	if (more)
		vp_write_msr(guest->partition, guest->message_vp, MSR_EOM, 0);
	if (message->type == VMBUS_MSG_OFFER_CHANNEL)
		note_offer(guest, (const void *)message->bytes);
	if (message->type == VMBUS_MSG_RESCIND_CHANNEL_OFFER)
		note_rescind(guest, ((const struct vmbus_message_relid *)message->bytes)->relid);
	return true;
}

static void poll_all(struct guest *guest)
{
	struct guest_message message;

	while (guest_poll_message(guest, &message)) {
		bool noted = message.type == VMBUS_MSG_OFFER_CHANNEL ||
			     message.type == VMBUS_MSG_RESCIND_CHANNEL_OFFER;

		if (!noted && guest->kept_count < GUEST_KEPT_MESSAGES)
			guest->kept[guest->kept_count++] = message;
	}
}

static bool take_kept(struct guest *guest, uint32_t type, struct guest_message *message)
{
	for (unsigned i = 0; i < guest->kept_count; i++) {
		if (guest->kept[i].type != type)
			continue;
		if (message)
			*message = guest->kept[i];
		guest->kept_count--;
		memmove(&guest->kept[i], &guest->kept[i + 1],
			(guest->kept_count - i) * sizeof(guest->kept[0]));
		return true;
	}
	return false;
}

int guest_wait_message(struct guest *guest, uint32_t type, struct guest_message *message)
{
	struct guest_deadline deadline = guest_deadline();

	do {
		poll_all(guest);
		if (take_kept(guest, type, message))
			return 0;
	} while (guest_patience(&deadline));
	return -ETIMEDOUT;
}

bool guest_has_message(struct guest *guest, uint32_t type)
{
	poll_all(guest);
	for (unsigned i = 0; i < guest->kept_count; i++)
		if (guest->kept[i].type == type)
			return true;
	return false;
}

void guest_flush_messages(struct guest *guest)
{
	poll_all(guest);
	guest->kept_count = 0;
}

/* --- contact --------------------------------------------------------------------------------------- */

int guest_connect_vp(struct guest *guest, uint32_t version, unsigned target_vp)
{
	struct vmbus_message_initiate_contact contact = {
	    .version = version,
	    .target_vp = target_vp,
	    .monitor_page_parent_to_child = guest->monitor_page[0],
	    .monitor_page_child_to_parent = guest->monitor_page[1],
	};
	const struct vmbus_message_version_response *response;
	struct guest_message message;
	int r;

	if (version >= VMBUS_VERSION_WIN10_V5) {
		contact.message_target.sint = VMBUS_MESSAGE_SINT;
		guest->message_connection = VMBUS_MESSAGE_CONNECTION_ID_4;
	} else {
		contact.interrupt_page = guest->interrupt_page;
		guest->message_connection = VMBUS_MESSAGE_CONNECTION_ID;
	}
	guest->message_vp = target_vp < guest->vp_count ? target_vp : 0;
	r = guest_post(guest, VMBUS_MSG_INITIATE_CONTACT, &contact, sizeof(contact));
	if (r == 0)
		r = guest_wait_message(guest, VMBUS_MSG_VERSION_RESPONSE, &message);
	if (r < 0)
		return r;
	response = (const void *)message.bytes;
	if (!response->supported)
		return -ECONNREFUSED;
	guest->version = version;
	if (version >= VMBUS_VERSION_WIN10_V5)
		guest->message_connection = response->message_connection_id;
	return 0;
}

int guest_connect(struct guest *guest, uint32_t version)
{
	return guest_connect_vp(guest, version, 0);
}

uint32_t guest_version(const struct guest *guest)
{
	return guest->version;
}

uint32_t guest_message_connection(const struct guest *guest)
{
	return guest->message_connection;
}

int guest_request_offers(struct guest *guest)
{
	struct vmbus_message_header message;
	int r = guest_post(guest, VMBUS_MSG_REQUEST_OFFERS, &message, sizeof(message));

	return r ? r : guest_wait_message(guest, VMBUS_MSG_ALL_OFFERS_DELIVERED, NULL);
}

int guest_unload(struct guest *guest)
{
	struct vmbus_message_header message;
	int r = guest_post(guest, VMBUS_MSG_UNLOAD, &message, sizeof(message));

	if (r == 0)
		r = guest_wait_message(guest, VMBUS_MSG_UNLOAD_RESPONSE, NULL);
	forget_offers(guest);
	guest->kept_count = 0;
	guest->version = 0;
	guest->message_connection = VMBUS_MESSAGE_CONNECTION_ID;
	return r;
}

static const struct vmbus_message_offer *offer_now(struct guest *guest, const struct guid *interface,
						   const struct guid *instance, unsigned subchannel_index)
{
	for (unsigned i = 0; i < guest->offer_count; i++) {
		const struct guest_offer *offer = guest->offers[i];

		if (!offer->rescinded && guid_equal(&offer->message.interface_type, interface) &&
		    (!instance || guid_equal(&offer->message.interface_instance, instance)) &&
		    offer->message.subchannel_index == subchannel_index)
			return &offer->message;
	}
	return NULL;
}

const struct vmbus_message_offer *guest_find_instance(struct guest *guest, const struct guid *interface,
						      const struct guid *instance, unsigned subchannel_index)
{
	struct guest_deadline deadline = guest_deadline();
	const struct vmbus_message_offer *offer;

	do {
		poll_all(guest);
		offer = offer_now(guest, interface, instance, subchannel_index);
	} while (!offer && guest_patience(&deadline));
	return offer;
}

const struct vmbus_message_offer *guest_find_offer(struct guest *guest, const struct guid *interface,
						   unsigned subchannel_index)
{
	return guest_find_instance(guest, interface, NULL, subchannel_index);
}

unsigned guest_offer_count(struct guest *guest)
{
	unsigned count = 0;

	poll_all(guest);
	for (unsigned i = 0; i < guest->offer_count; i++)
		count += !guest->offers[i]->rescinded;
	return count;
}

static int find_rescinded(struct guest *guest, uint32_t relid)
{
	for (unsigned i = 0; i < guest->offer_count; i++)
		if (guest->offers[i]->message.relid == relid && guest->offers[i]->rescinded)
			return (int)i;
	return -1;
}

int guest_release_relid(struct guest *guest, uint32_t relid)
{
	struct vmbus_message_relid message = {.relid = relid};
	int i = find_rescinded(guest, relid);

	if (i >= 0) {
		free(guest->offers[i]);
		guest->offers[i] = guest->offers[--guest->offer_count];
	}
	return guest_post(guest, VMBUS_MSG_RELID_RELEASED, &message, sizeof(message));
}

int guest_wait_rescind(struct guest *guest, uint32_t relid)
{
	struct guest_deadline deadline = guest_deadline();

	do {
		poll_all(guest);
		if (find_rescinded(guest, relid) >= 0)
			return guest_release_relid(guest, relid);
	} while (guest_patience(&deadline));
	return -ETIMEDOUT;
}
