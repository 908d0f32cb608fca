/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hypervisor/partition.h"

#include <errno.h>
#include <string.h>

static size_t clause_length(const char *text)
{
	const char *end = strstr(text, ": ");

	return end ? (size_t)(end - text) : strlen(text);
}

static int choose_processor(struct partition *p, struct error *err)
{
	struct error why = {0};

	switch (p->config.processor) {
	case PROCESSOR_NONE:
		p->processor = &processor_none;
		return 0;
	case PROCESSOR_AUTO:
		if (kvm_usable(p->config.host, &why) == 0) {
			p->processor = &processor_kvm;
		} else {
			/* The clause that says why; what could be done about it follows a colon. */
			snprintf(p->reason, sizeof(p->reason), "%.*s", (int)clause_length(why.text), why.text);
			p->processor = &processor_soft;
		}
		return 0;
	case PROCESSOR_SOFT:
		p->processor = &processor_soft;
		return 0;
	case PROCESSOR_KVM:
		p->processor = &processor_kvm;
		return 0;
	}
	return error_set(err, EINVAL, "there is no processor of kind %d", (int)p->config.processor);
}

static void init_interfaces(struct partition *p)
{
	const struct processor_traits *t = &p->traits;
	struct apic_config apic = {.vp_count = p->config.vp_count,
	    .timer_frequency = APIC_TIMER_HZ,
	    .tsc_frequency = t->tsc_frequency,
	    .physical_address_bits = t->physical_bits,
	    .x2apic = t->x2apic,
	    .tsc_deadline = t->tsc_deadline};
	struct tlfs_config tlfs = {.vp_count = p->config.vp_count,
	    .tsc_frequency = t->tsc_frequency,
	    .apic_frequency = t->apic_frequency,
	    .physical_address_bits = t->physical_bits,
	    .x2apic = t->x2apic,
	    .deprecate_auto_eoi = t->no_auto_eoi,
	    .tsc_unstable = t->tsc_unstable};

	apic_init(&p->apic_bus, p->apics, &apic, &partition_apic_ops, p);
	tlfs_init(&p->tlfs, p->tlfs_vps, &tlfs, t->own_apic ? &partition_tlfs_ops_own_apic : &partition_tlfs_ops, p);
}

int partition_create(struct partition **out, const struct partition_config *config, struct error *err)
{
	struct partition *p;
	int r;

	if (config->vp_count < 1 || config->vp_count > PARTITION_MAX_VPS)
		return error_set(err, EINVAL, "%u virtual processors were asked for: a partition has 1 to %u",
		    config->vp_count, PARTITION_MAX_VPS);
	p = calloc(1, sizeof(*p));
	if (!p)
		return error_set(err, ENOMEM, "no memory on the host for a partition");
	p->config = *config;
	p->memfd = -1;
	r = choose_processor(p, err);
	if (r) {
		free(p);
		return r;
	}
	vp_init_all(p);
	synic_init(p);
	clock_init(p);
	dirty_init(p);
	r = memory_init(p, err);
	if (!r)
		r = p->processor->create(p, config->processor_options, err);
	if (!r) {
		p->processor->traits(p, &p->traits);
		p->traits.physical_bits = (unsigned)min_u64(p->traits.physical_bits, PARTITION_PHYSICAL_BITS);
		clock_set_tsc(p, p->traits.tsc_frequency, 0);
		init_interfaces(p);
		vp_choose_start(p);
	}
	if (r) {
		p->processor = NULL;
		partition_destroy(p);
		return r;
	}
	*out = p;
	return 0;
}

void partition_destroy(struct partition *p)
{
	if (!p)
		return;
	partition_stop(p);
	if (p->processor)
		p->processor->destroy(p);
	synic_destroy(p);
	clock_destroy(p);
	vp_destroy_all(p);
	dirty_destroy(p);
	memory_destroy(p);
	free(p->loaded_cpuid);
	free(p);
}

const char *partition_processor_name(const struct partition *p)
{
	return p->processor->name;
}

const char *partition_processor_reason(const struct partition *p)
{
	return p->reason;
}

unsigned partition_vp_count(const struct partition *p)
{
	return p->config.vp_count;
}

void partition_assert_interrupt(struct partition *p, const struct interrupt_message *message)
{
	struct apic_message m = {.vector = message->vector,
	    .delivery = (enum apic_delivery)message->delivery,
	    .logical = message->logical,
	    .level = message->level,
	    .destination = message->destination};

	if (p->traits.own_apic)
		p->processor->assert_interrupt(p, message);
	else
		apic_deliver(&p->apic_bus, &m);
}

void partition_set_eoi_handler(struct partition *p, void (*handler)(void *, uint8_t), void *context)
{
	p->eoi_handler = handler;
	p->eoi_context = context;
}

int vp_get_registers(struct partition *p, unsigned vp_index, struct vp_registers *registers)
{
	if (vp_index >= p->config.vp_count)
		return -EINVAL;
	return p->processor->get_registers(&p->vps[vp_index], registers);
}

int vp_set_registers(struct partition *p, unsigned vp_index, const struct vp_registers *registers)
{
	if (vp_index >= p->config.vp_count)
		return -EINVAL;
	return p->processor->set_registers(&p->vps[vp_index], registers);
}

void vp_get_counters(struct partition *p, unsigned vp_index, struct vp_counters *counters)
{
	struct vp *vp;

	memset(counters, 0, sizeof(*counters));
	if (vp_index >= p->config.vp_count)
		return;
	vp = &p->vps[vp_index];
	counters->instructions = p->processor->instructions(vp);
	counters->exits = p->processor->exits ? p->processor->exits(vp) : 0;
	counters->io_exits = atomic_load_explicit(&vp->io_exits, memory_order_relaxed);
	counters->mmio_exits = atomic_load_explicit(&vp->mmio_exits, memory_order_relaxed);
	counters->msr_exits = atomic_load_explicit(&vp->msr_exits, memory_order_relaxed);
	counters->cpuid_exits = atomic_load_explicit(&vp->cpuid_exits, memory_order_relaxed);
	counters->hypercalls = atomic_load_explicit(&vp->hypercalls, memory_order_relaxed);
	counters->halts = atomic_load_explicit(&vp->halts, memory_order_relaxed);
	counters->interrupts = atomic_load_explicit(&vp->interrupts, memory_order_relaxed);
}
