/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * processor_none.c - a partition without a processor: the guest double plays the guest's part. A state that is
 * loaded into it is kept as it is, so this is also where to look into one.
 */
#include "hypervisor/partition.h"

#include <errno.h>
#include <string.h>

static int none_create(struct partition *p, const char *options, struct error *err)
{
	(void)p;
	(void)options;
	(void)err;
	return 0;
}

static void none_destroy(struct partition *p)
{
	free(p->processor_state);
}

/* The loaded state of a VP, NULL when nothing was loaded. */
static struct vp_state *loaded(struct vp *vp)
{
	struct vp_state *states = vp->partition->processor_state;

	return states ? &states[vp->index] : NULL;
}

static int none_start(struct partition *p, struct error *err)
{
	(void)p;
	(void)err;
	return 0;
}

static int none_get_registers(struct vp *vp, struct vp_registers *registers)
{
	if (!loaded(vp))
		return -ENOTSUP;
	*registers = loaded(vp)->registers;
	return 0;
}

static int none_set_registers(struct vp *vp, const struct vp_registers *registers)
{
	(void)vp;
	(void)registers;
	return 0;
}

static uint64_t none_instructions(struct vp *vp)
{
	(void)vp;
	return 0;
}

static void none_vp(struct vp *vp)
{
	(void)vp;
}

static void none_flush_tlb(struct vp *self, const struct tlfs_flush *flush)
{
	(void)self;
	(void)flush;
}

static void none_memory_written(struct partition *p, gpa_t gpa, uint64_t size)
{
	(void)p;
	(void)gpa;
	(void)size;
}

static void none_write_hypercall_page(struct partition *p, uint8_t *page)
{
	static const uint8_t vmcall_ret[] = {0x0f, 0x01, 0xc1, 0xc3};

	(void)p;
	memcpy(page, vmcall_ret, sizeof(vmcall_ret));
}

static void none_traits(struct partition *p, struct processor_traits *t)
{
	(void)p;
	*t = (struct processor_traits){.x2apic = true,
	    .tsc_deadline = true,
	    .tsc_frequency = SOFT_TSC_HZ,
	    .apic_frequency = APIC_TIMER_HZ,
	    .physical_bits = PARTITION_PHYSICAL_BITS};
}

/* What the local APIC and the synthetic registers say may have changed since. */
static int none_save(struct vp *vp, struct vp_state *state, struct error *err)
{
	struct vp_state now = *state;

	(void)err;
	if (!loaded(vp))
		return 0;
	*state = *loaded(vp);
	state->apic = now.apic;
	state->tlfs = now.tlfs;
	state->registers.cr8 = now.apic.tpr >> 4;
	return 0;
}

static int none_load(struct vp *vp, const struct vp_state *state, struct error *err)
{
	struct partition *p = vp->partition;
	size_t size = p->config.vp_count * sizeof(*state);

	if (!p->processor_state) {
		p->processor_state = aligned_alloc(_Alignof(struct vp_state), size);
		if (!p->processor_state)
			return error_set(err, ENOMEM, "no memory on the host to keep its state");
		memset(p->processor_state, 0, size);
	}
	*loaded(vp) = *state;
	return 0;
}

/* run, init, sipi, interruptible and report stay empty: there is no VP thread to call them. */
const struct processor_ops processor_none = {
    .name = "none",
    .create = none_create,
    .destroy = none_destroy,
    .start = none_start,
    .get_registers = none_get_registers,
    .set_registers = none_set_registers,
    .instructions = none_instructions,
    .notify = none_vp,
    .kick = none_vp,
    .nmi = none_vp,
    .flush_tlb = none_flush_tlb,
    .memory_written = none_memory_written,
    .write_hypercall_page = none_write_hypercall_page,
    .traits = none_traits,
    .save_vp = none_save,
    .load_vp = none_load,
};

static struct vp *driven_vp(struct partition *p, unsigned vp_index)
{
	return p->processor == &processor_none && vp_index < p->config.vp_count ? &p->vps[vp_index] : NULL;
}

int vp_read_msr(struct partition *p, unsigned vp_index, uint32_t msr, uint64_t *value)
{
	struct vp *vp = driven_vp(p, vp_index);

	return vp && intercept_msr_read(vp, msr, value) ? 0 : -EPERM;
}

int vp_write_msr(struct partition *p, unsigned vp_index, uint32_t msr, uint64_t value)
{
	struct vp *vp = driven_vp(p, vp_index);

	return vp && intercept_msr_write(vp, msr, value) ? 0 : -EPERM;
}

uint64_t vp_hypercall(struct partition *p, unsigned vp_index, uint64_t input, uint64_t in_gpa, uint64_t out_gpa)
{
	struct tlfs_hypercall call = {.input = input, .in = in_gpa, .out = out_gpa};

	if (!driven_vp(p, vp_index) || !tlfs_hypercall_enabled(&p->tlfs))
		return HV_STATUS_ACCESS_DENIED;
	tlfs_hypercall(&p->tlfs, vp_index, &call);
	return call.result;
}

int vp_take_interrupt(struct partition *p, unsigned vp_index)
{
	if (!driven_vp(p, vp_index))
		return -1;
	return apic_acknowledge(&p->apics[vp_index]);
}
