/* SPDX-License-Identifier: GPL-2.0-or-later */
/* hypervisor_ops.c - what the freestanding libraries apic/ and tlfs/ ask of a partition. */
#include "hypervisor/partition.h"

#include <ctype.h>
#include <sched.h>
#include <string.h>

static void ops_kick(void *context, unsigned vp)
{
	struct partition *p = context;

	vp_wake(&p->vps[vp]);
}

static void ops_event(void *context, unsigned index, enum apic_event event, uint8_t vector)
{
	struct partition *p = context;
	struct vp *vp = &p->vps[index];
	int waits = VP_WAITS_FOR_SIPI;

	switch (event) {
	case APIC_EVENT_NMI:
		/* The processor first: a VP that clears nmi_pending must then find the NMI when it runs. */
		p->processor->nmi(vp);
		atomic_store(&vp->nmi_pending, true);
		break;
	case APIC_EVENT_INIT:
		atomic_store(&vp->startup, VP_WAITS_FOR_SIPI);
		atomic_store(&vp->init_requested, true);
		p->processor->kick(vp);
		break;
	case APIC_EVENT_SIPI:
		if (!atomic_compare_exchange_strong(&vp->startup, &waits, vector))
			return;
		break;
	case APIC_EVENT_SMI:    /* there is no system management mode */
	case APIC_EVENT_EXTINT: /* there is no 8259 */
		return;
	}
	vp_wake(vp);
}

static void ops_broadcast_eoi(void *context, uint8_t vector)
{
	struct partition *p = context;

	if (p->eoi_handler)
		p->eoi_handler(p->eoi_context, vector);
}

static void ops_arm_apic(void *context, unsigned vp, uint64_t deadline)
{
	clock_arm_apic(context, vp, deadline);
}

static uint64_t ops_now(void *context)
{
	return clock_now(context);
}

static uint64_t ops_tsc(void *context, unsigned vp)
{
	(void)vp;
	return clock_tsc(context);
}

static void ops_apic_lock(void *context, unsigned vp)
{
	struct partition *p = context;

	pthread_mutex_lock(&p->vps[vp].apic_lock);
}

static void ops_apic_unlock(void *context, unsigned vp)
{
	struct partition *p = context;

	pthread_mutex_unlock(&p->vps[vp].apic_lock);
}

const struct apic_ops partition_apic_ops = {
    .kick = ops_kick,
    .event = ops_event,
    .broadcast_eoi = ops_broadcast_eoi,
    .arm_timer = ops_arm_apic,
    .now = ops_now,
    .tsc = ops_tsc,
    .lock = ops_apic_lock,
    .unlock = ops_apic_unlock,
};

static void *ops_page(void *context, uint64_t gpa)
{
	return partition_memory(context, gpa, GUEST_PAGE_SIZE);
}

static void ops_page_written(void *context, const void *at, size_t size)
{
	struct partition *p = context;

	if (dirty_is_tracked(p))
		dirty_mark_host(p, at, size);
}

static bool ops_read_memory(void *context, uint64_t gpa, void *buffer, size_t size)
{
	return partition_read(context, gpa, buffer, size) == 0;
}

static void ops_write_hypercall_page(void *context, unsigned vp, uint64_t gpa)
{
	struct partition *p = context;
	uint8_t *page = partition_memory(p, gpa, GUEST_PAGE_SIZE);

	(void)vp;
	if (!page)
		return;
	p->processor->write_hypercall_page(p, page);
	partition_memory_written(p, gpa, GUEST_PAGE_SIZE);
}

static uint64_t ops_reference_time(void *context)
{
	return partition_reference_time(context);
}

static void ops_sample_clock(void *context, uint64_t *tsc, uint64_t *reference_time)
{
	struct partition *p = context;
	uint64_t now;

	if (p->processor->sample_clock) {
		p->processor->sample_clock(p, tsc, reference_time);
		return;
	}
	now = clock_now(p);
	*tsc = clock_tsc_at(p, now);
	*reference_time = now / 100;
}

static uint64_t ops_vp_runtime(void *context, unsigned vp)
{
	struct partition *p = context;

	return vp_runtime_100ns(&p->vps[vp]);
}

static void ops_arm_tlfs(void *context, unsigned vp, uint64_t deadline)
{
	clock_arm_tlfs(context, vp, deadline);
}

static void ops_request_interrupt(void *context, unsigned vp, uint8_t vector)
{
	struct partition *p = context;

	if (p->traits.own_apic)
		p->processor->request_interrupt(&p->vps[vp], vector);
	else
		apic_request(&p->apics[vp], vector);
}

static void ops_set_auto_eoi(void *context, unsigned vp, const uint64_t vectors[4])
{
	struct partition *p = context;

	apic_set_auto_eoi(&p->apics[vp], vectors);
}

static bool ops_read_apic(void *context, unsigned vp, enum tlfs_apic_register which, uint64_t *value)
{
	struct partition *p = context;

	switch (which) {
	case TLFS_APIC_EOI:
		return false;
	case TLFS_APIC_ICR:
		*value = apic_get_icr(&p->apics[vp]);
		return true;
	case TLFS_APIC_TPR:
		*value = apic_get_tpr(&p->apics[vp]);
		return true;
	}
	return false;
}

static bool ops_write_apic(void *context, unsigned vp, enum tlfs_apic_register which, uint64_t value)
{
	struct partition *p = context;

	switch (which) {
	case TLFS_APIC_EOI:
		apic_eoi(&p->apics[vp]);
		return true;
	case TLFS_APIC_ICR:
		return apic_set_icr(&p->apics[vp], value);
	case TLFS_APIC_TPR:
		if (value > 0xff)
			return false;
		apic_set_tpr(&p->apics[vp], (uint8_t)value);
		return true;
	}
	return false;
}

static void ops_send_ipi(void *context, unsigned self, const struct tlfs_vp_set *vps, uint8_t vector)
{
	struct partition *p = context;

	(void)self;
	for (unsigned vp = 0; vp < p->config.vp_count; vp++)
		if (vps->bits[vp / 64] >> (vp % 64) & 1)
			apic_request(&p->apics[vp], vector);
}

static void ops_tlfs_lock(void *context, unsigned vp)
{
	struct partition *p = context;

	pthread_mutex_lock(&p->vps[vp].tlfs_lock);
}

static void ops_tlfs_unlock(void *context, unsigned vp)
{
	struct partition *p = context;

	pthread_mutex_unlock(&p->vps[vp].tlfs_lock);
}

static void ops_flush_tlb(void *context, unsigned vp, const struct tlfs_flush *flush)
{
	struct partition *p = context;

	p->processor->flush_tlb(&p->vps[vp], flush);
}

static enum tlfs_status ops_post_message(void *context, unsigned vp, uint32_t connection_id, uint32_t type,
    const void *payload, size_t size)
{
	return synic_guest_post(context, vp, connection_id, type, payload, size);
}

static enum tlfs_status ops_signal_event(void *context, unsigned vp, uint32_t connection_id, uint16_t flag)
{
	(void)vp;
	return synic_guest_signal(context, connection_id, flag);
}

static void ops_message_slot_free(void *context, unsigned vp, unsigned sint)
{
	synic_slot_free(context, vp, sint);
}

static void ops_long_spin_wait(void *context, unsigned vp, uint32_t spins)
{
	(void)context;
	(void)vp;
	(void)spins;
	sched_yield();
}

static void ops_guest_idle(void *context, unsigned vp)
{
	struct partition *p = context;

	vp_idle(&p->vps[vp]);
}

static void ops_reset(void *context, unsigned index)
{
	struct partition *p = context;
	struct vp *vp = &p->vps[index];
	struct partition_event event = {.kind = PARTITION_EVENT_RESET};

	vp->dead = true;
	p->processor->kick(vp);
	vp_report_event(vp, &event);
}

/* Guest text goes to a terminal: nothing but printable characters and line ends. */
static void copy_guest_text(struct partition *p, const struct tlfs_crash *crash, char *text, size_t room)
{
	size_t size = min_u64(crash->message_length, room - 1);

	if (!crash->has_message || partition_read(p, crash->message_gpa, text, size)) {
		text[0] = '\0';
		return;
	}
	text[size] = '\0';
	for (char *c = text; *c; c++)
		if (!isprint((unsigned char)*c) && *c != '\n' && *c != '\t')
			*c = '?';
}

static void ops_crash(void *context, unsigned index, const struct tlfs_crash *crash)
{
	struct partition *p = context;
	struct partition_event event = {.kind = PARTITION_EVENT_CRASH};

	memcpy(event.crash_parameters, crash->parameters, sizeof(event.crash_parameters));
	copy_guest_text(p, crash, event.text, sizeof(event.text));
	vp_report_event(&p->vps[index], &event);
}

const struct tlfs_ops partition_tlfs_ops = {
    .page = ops_page,
    .page_written = ops_page_written,
    .read_memory = ops_read_memory,
    .write_hypercall_page = ops_write_hypercall_page,
    .reference_time = ops_reference_time,
    .sample_clock = ops_sample_clock,
    .vp_runtime = ops_vp_runtime,
    .arm_timer = ops_arm_tlfs,
    .request_interrupt = ops_request_interrupt,
    .set_auto_eoi = ops_set_auto_eoi,
    .read_apic = ops_read_apic,
    .write_apic = ops_write_apic,
    .send_ipi = ops_send_ipi,
    .lock = ops_tlfs_lock,
    .unlock = ops_tlfs_unlock,
    .flush_tlb = ops_flush_tlb,
    .post_message = ops_post_message,
    .signal_event = ops_signal_event,
    .message_slot_free = ops_message_slot_free,
    .long_spin_wait = ops_long_spin_wait,
    .guest_idle = ops_guest_idle,
    .reset = ops_reset,
    .crash = ops_crash,
};

static void ops_own_auto_eoi(void *context, unsigned vp, const uint64_t vectors[4])
{
	(void)context; /* the processor has seen the register too, or we recommend against it */
	(void)vp;
	(void)vectors;
}

/* Without those that reach into apic/, or into a translation cache that we do not have. */
const struct tlfs_ops partition_tlfs_ops_own_apic = {
    .page = ops_page,
    .page_written = ops_page_written,
    .read_memory = ops_read_memory,
    .write_hypercall_page = ops_write_hypercall_page,
    .reference_time = ops_reference_time,
    .sample_clock = ops_sample_clock,
    .vp_runtime = ops_vp_runtime,
    .arm_timer = ops_arm_tlfs,
    .request_interrupt = ops_request_interrupt,
    .set_auto_eoi = ops_own_auto_eoi,
    .lock = ops_tlfs_lock,
    .unlock = ops_tlfs_unlock,
    .post_message = ops_post_message,
    .signal_event = ops_signal_event,
    .message_slot_free = ops_message_slot_free,
    .long_spin_wait = ops_long_spin_wait,
    .reset = ops_reset,
    .crash = ops_crash,
};
