// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A hostile guest at the hypervisor's door: any sequence of MSR accesses, hypercalls, APIC accesses,
 * writes to the shared pages, messages, events and time, over four VPs. The caller's callbacks check
 * what they are promised.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "hypervisor/apic/apic.h"
#include "hypervisor/tlfs/protocol.h"
#include "hypervisor/tlfs/tlfs.h"

#define VPS       4
#define RAM_PAGES 8
#define RAM_SIZE  (RAM_PAGES * 4096u)

static struct apic_bus bus;
static struct apic apics[VPS];
static struct tlfs tlfs;
static struct tlfs_vp vps[VPS];
static uint8_t *ram;
static uint64_t now;
static bool apic_locked[VPS], tlfs_locked[VPS];
static unsigned queued[VPS][TLFS_SINT_COUNT];

static void require(bool good)
{
	if (!good)
		abort();
}

/* Bytes of the input; zeros after its end. */
struct stream {
	const uint8_t *data;
	size_t left;
};

static uint64_t next(struct stream *s, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes && s->left; i++) {
		value |= (uint64_t)*s->data++ << (8 * i);
		s->left--;
	}
	return value;
}

/* --- the APICs' caller ------------------------------------------------------------------------ */

static void require_unlocked(void)
{
	for (unsigned vp = 0; vp < VPS; vp++)
		require(!apic_locked[vp] && !tlfs_locked[vp]);
}

static void on_kick(void *context, unsigned vp)
{
	require(vp < VPS);
	require_unlocked();
}

static void on_event(void *context, unsigned vp, enum apic_event event, uint8_t vector)
{
	require(vp < VPS);
	if (event == APIC_EVENT_INIT)
		apic_reset(&apics[vp], true);
}

static void on_eoi(void *context, uint8_t vector)
{
	require(vector >= 16);
}

static void on_apic_arm(void *context, unsigned vp, uint64_t deadline)
{
	require(vp < VPS && apic_locked[vp]);
}

static uint64_t on_now(void *context)
{
	return now * 100;
}

static uint64_t on_tsc(void *context, unsigned vp)
{
	return now * 200;
}

static void on_apic_lock(void *context, unsigned vp)
{
	require(!apic_locked[vp]);
	apic_locked[vp] = true;
}

static void on_apic_unlock(void *context, unsigned vp)
{
	require(apic_locked[vp]);
	apic_locked[vp] = false;
}

static const struct apic_ops apic_ops = {
    .kick = on_kick,
    .event = on_event,
    .broadcast_eoi = on_eoi,
    .arm_timer = on_apic_arm,
    .now = on_now,
    .tsc = on_tsc,
    .lock = on_apic_lock,
    .unlock = on_apic_unlock,
};

/* --- the hypervisor interface's caller ---------------------------------------------------------- */

static void *on_page(void *context, uint64_t gpa)
{
	require(!(gpa & 4095));
	return gpa < RAM_SIZE ? ram + gpa : NULL;
}

static bool on_read_memory(void *context, uint64_t gpa, void *buffer, size_t size)
{
	require((gpa & 4095) + size <= 4096);
	if (gpa >= RAM_SIZE)
		return false;
	memcpy(buffer, ram + gpa, size);
	return true;
}

static void on_hypercall_page(void *context, unsigned vp, uint64_t gpa)
{
	require(gpa < RAM_SIZE && !(gpa & 4095));
	memset(ram + gpa, 0xcc, 4096);
}

static uint64_t on_reference_time(void *context)
{
	return now;
}

static void on_sample_clock(void *context, uint64_t *tsc, uint64_t *reference_time)
{
	*tsc = now * 200;
	*reference_time = now;
}

static uint64_t on_vp_runtime(void *context, unsigned vp)
{
	return now;
}

static void on_tlfs_arm(void *context, unsigned vp, uint64_t deadline)
{
	require(tlfs_locked[vp]);
}

static void on_interrupt(void *context, unsigned vp, uint8_t vector)
{
	require_unlocked();
	require(vp < VPS && vector >= 16);
	apic_request(&apics[vp], vector);
}

static void on_auto_eoi(void *context, unsigned vp, const uint64_t vectors[4])
{
	apic_set_auto_eoi(&apics[vp], vectors);
}

static bool on_read_apic(void *context, unsigned vp, enum tlfs_apic_register which, uint64_t *value)
{
	*value = which == TLFS_APIC_ICR ? apic_get_icr(&apics[vp]) : apic_get_tpr(&apics[vp]);
	return true;
}

static bool on_write_apic(void *context, unsigned vp, enum tlfs_apic_register which, uint64_t value)
{
	if (which == TLFS_APIC_ICR)
		return apic_set_icr(&apics[vp], value);
	if (which == TLFS_APIC_TPR)
		apic_set_tpr(&apics[vp], (uint8_t)value);
	else
		apic_eoi(&apics[vp]);
	return true;
}

static void on_ipi(void *context, unsigned vp, const struct tlfs_vp_set *set, uint8_t vector)
{
	require(set->bits[0] && set->bits[0] < 1u << VPS && vector >= 16);
	for (unsigned target = 0; target < VPS; target++)
		if (set->bits[0] >> target & 1)
			apic_request(&apics[target], vector);
}

static void on_tlfs_lock(void *context, unsigned vp)
{
	require(vp < VPS && !tlfs_locked[vp]);
	tlfs_locked[vp] = true;
}

static void on_tlfs_unlock(void *context, unsigned vp)
{
	require(tlfs_locked[vp]);
	tlfs_locked[vp] = false;
}

static void on_flush(void *context, unsigned vp, const struct tlfs_flush *flush)
{
	uint64_t ranges[512];

	require(flush->vps.bits[0] && flush->vps.bits[0] < 1u << VPS && flush->range_count < 512);
	require(!flush->range_count == !flush->ranges);
	if (flush->range_count)
		memcpy(ranges, flush->ranges, flush->range_count * sizeof(ranges[0]));
}

static enum tlfs_status on_post(void *context, unsigned vp, uint32_t connection, uint32_t type,
				const void *payload, size_t size)
{
	uint8_t copy[TLFS_MESSAGE_PAYLOAD];

	require(size <= sizeof(copy) && connection < 1u << 24);
	memcpy(copy, payload, size);
	return HV_STATUS_SUCCESS;
}

static enum tlfs_status on_signal(void *context, unsigned vp, uint32_t connection, uint16_t flag)
{
	require(connection < 1u << 24 && flag < TLFS_EVENT_FLAGS);
	return HV_STATUS_SUCCESS;
}

static void on_slot_free(void *context, unsigned vp, unsigned sint)
{
	require_unlocked();
	require(sint < TLFS_SINT_COUNT);
	while (queued[vp][sint] && tlfs_post_message(&tlfs, vp, sint, 1, "queued", 6) == TLFS_POSTED)
		queued[vp][sint]--;
}

static void on_spin(void *context, unsigned vp, uint32_t spins)
{
}

static void on_vp(void *context, unsigned vp)
{
	require_unlocked();
}

static void on_crash(void *context, unsigned vp, const struct tlfs_crash *crash)
{
	require(crash->message_length <= 4096);
}

static enum tlfs_status on_start(void *context, unsigned vp, unsigned target,
				 const struct hv_initial_vp_context *start)
{
	require(target < VPS);
	return start->rip ? HV_STATUS_SUCCESS : HV_STATUS_INVALID_VP_STATE;
}

static const struct tlfs_ops tlfs_ops = {
    .page = on_page,
    .read_memory = on_read_memory,
    .write_hypercall_page = on_hypercall_page,
    .reference_time = on_reference_time,
    .sample_clock = on_sample_clock,
    .vp_runtime = on_vp_runtime,
    .arm_timer = on_tlfs_arm,
    .request_interrupt = on_interrupt,
    .set_auto_eoi = on_auto_eoi,
    .read_apic = on_read_apic,
    .write_apic = on_write_apic,
    .send_ipi = on_ipi,
    .lock = on_tlfs_lock,
    .unlock = on_tlfs_unlock,
    .flush_tlb = on_flush,
    .post_message = on_post,
    .signal_event = on_signal,
    .message_slot_free = on_slot_free,
    .long_spin_wait = on_spin,
    .guest_idle = on_vp,
    .reset = on_vp,
    .crash = on_crash,
    .start_vp = on_start,
};

/* --- what the guest does ------------------------------------------------------------------------ */

static void hypercall(struct stream *s, unsigned vp)
{
	struct tlfs_hypercall call;

	call.input = next(s, 8);
	call.in = next(s, 2) | (next(s, 1) & 1 ? next(s, 8) : 0);
	call.out = next(s, 8);
	for (unsigned i = 0; i < 12; i++)
		call.xmm[i] = next(s, 1);
	tlfs_hypercall(&tlfs, vp, &call);
	require(!(call.result >> 44) && !(call.result >> 16 & 0xffff));
}

/* A VP or the whole partition saved loads again; a torn state loads or is refused. */
static void save_and_load(struct stream *s, unsigned vp)
{
	struct apic_state apic;
	struct tlfs_vp_state state;
	uint16_t where = (uint16_t)next(s, 2);
	uint8_t what = (uint8_t)next(s, 1);

	apic_save(&apics[vp], &apic);
	require(apic_load(&apics[vp], &apic));
	tlfs_save_vp(&tlfs, vp, &state);
	require(tlfs_load_vp(&tlfs, vp, &state));
	((uint8_t *)&apic)[where % sizeof(apic)] ^= what;
	apic_load(&apics[vp], &apic);
	((uint8_t *)&state)[where % sizeof(state)] ^= what;
	tlfs_load_vp(&tlfs, vp, &state);
}

static void message(struct stream *s, unsigned vp)
{
	unsigned sint = (unsigned)next(s, 1);
	enum tlfs_post result = tlfs_post_message(&tlfs, vp, sint, 1, "posted", 6);

	require((result == TLFS_INVALID) == (sint >= TLFS_SINT_COUNT));
	if (result == TLFS_BUSY && queued[vp][sint] < 8)
		queued[vp][sint]++;
}

static void act(struct stream *s)
{
	uint8_t what = (uint8_t)next(s, 1);
	unsigned vp = what >> 6;
	uint64_t value;

	switch (what & 15) {
	case 0:
		tlfs_read_msr(&tlfs, vp, 0x40000000 + (uint32_t)next(s, 2), &value);
		break;
	case 1:
	case 2:
		value = next(s, 1);
		tlfs_write_msr(&tlfs, vp, 0x40000000 + (uint32_t)value, next(s, 8));
		break;
	case 3:
	case 4:
		hypercall(s, vp);
		break;
	case 5:
		apic_mmio_read(&apics[vp], (uint32_t)next(s, 2) & 0xfff, 1u << (next(s, 1) & 3));
		break;
	case 6:
		value = next(s, 2);
		apic_mmio_write(&apics[vp], (uint32_t)value & 0xfff, 1u << (value >> 12 & 3), next(s, 8));
		break;
	case 7:
		value = next(s, 1);
		apic_write_msr(&apics[vp], 0x800 + (uint32_t)value, next(s, 8));
		break;
	case 8:
		apic_read_msr(&apics[vp], next(s, 1) & 1 ? APIC_MSR_TSC_DEADLINE : APIC_MSR_BASE, &value);
		apic_write_msr(&apics[vp], next(s, 1) & 1 ? APIC_MSR_TSC_DEADLINE : APIC_MSR_BASE,
			       next(s, 8));
		break;
	case 9:
		value = next(s, 2) % RAM_SIZE;
		ram[value] = (uint8_t)next(s, 1);
		break;
	case 10:
		now += next(s, 3);
		apic_timer_expired(&apics[vp], now * 100);
		tlfs_timer_expired(&tlfs, vp);
		break;
	case 11:
		message(s, vp);
		break;
	case 12:
		value = next(s, 2);
		tlfs_signal_event(&tlfs, vp, (unsigned)value & 31, (unsigned)value >> 5);
		break;
	case 13:
		value = next(s, 8);
		apic_deliver(&bus, &(struct apic_message){
				       .vector = (uint8_t)value,
				       .delivery = (enum apic_delivery)(value >> 8 & 7),
				       .logical = value >> 11 & 1,
				       .level = value >> 12 & 1,
				       .destination = (uint32_t)(value >> 32),
				   });
		break;
	case 14:
		if (apic_acknowledge(&apics[vp]) >= 0 && next(s, 1) & 1)
			apic_eoi(&apics[vp]);
		apic_set_lint(&apics[vp], (unsigned)next(s, 1), next(s, 1) & 1);
		break;
	default:
		save_and_load(s, vp);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct apic_config apic_config = {
	    .vp_count = VPS,
	    .timer_frequency = 200000000,
	    .tsc_frequency = 2000000000,
	    .physical_address_bits = 40,
	    .x2apic = true,
	    .tsc_deadline = true,
	};
	struct tlfs_config config = {
	    .vp_count = VPS,
	    .tsc_frequency = 2000000000,
	    .apic_frequency = 200000000,
	    .physical_address_bits = 40,
	};
	struct stream stream = {data, size};

	ram = aligned_alloc(4096, RAM_SIZE);
	require(ram);
	memset(ram, 0, RAM_SIZE);
	memset(queued, 0, sizeof(queued));
	now = 1;
	apic_init(&bus, apics, &apic_config, &apic_ops, NULL);
	tlfs_init(&tlfs, vps, &config, &tlfs_ops, NULL);
	for (unsigned vp = 0; vp < VPS; vp++)
		apic_mmio_write(&apics[vp], 0xf0, 4, 0x1ff);
	while (stream.left)
		act(&stream);
	free(ram);
	return 0;
}
