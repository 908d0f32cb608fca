/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * saved_state.c - a partition's state out of it and into another.
 *
 * Local APIC and synthetic registers are taken from apic/ and tlfs/ first and given to them first; a
 * processor that serves them itself then replaces what was taken, and takes over what was given (struct
 * processor_ops). Deadlines are in partition time, which goes on where it stood, so timers need nothing but
 * to be armed.
 */
#include "hypervisor/saved_state.h"

#include <errno.h>
#include <string.h>

#include "hypervisor/tlfs/protocol.h"

#define MSR_TSC_ADJUST              0x3bu
#define LEAF7_EDX_ARCH_CAPABILITIES (1u << 29)

/* --- saving ------------------------------------------------------------------------------------------- */

static void drop_msr(struct vp_state *state, uint32_t msr)
{
	for (unsigned i = 0; i < state->msr_count; i++)
		if (state->msrs[i].index == msr)
			state->msrs[i--] = state->msrs[--state->msr_count];
}

static int save_vp(struct vp *vp, struct saved_vp *saved, const struct cpuid_table *cpuid, struct error *err)
{
	struct partition *p = vp->partition;
	struct vp_state *state = &saved->state;
	int r;

	if (vp->dead)
		return error_set(
		    err, EINVAL,
		    "virtual processor %u has come to its end (fault, reset or error), so there is nothing "
		    "to go on with: start the guest anew",
		    vp->index);
	vp_settle(vp);
	saved->runtime = vp_runtime_ns(vp);
	vp_state_reset(state);
	apic_save(&p->apics[vp->index], &state->apic);
	state->registers.cr8 = state->apic.tpr >> 4;
	tlfs_save_vp(&p->tlfs, vp->index, &state->tlfs);
	if (atomic_load(&vp->startup) != VP_STARTED)
		state->activity = VP_ACTIVITY_WAITS_FOR_SIPI;
	r = p->processor->save_vp(vp, state, err);
	if (!(cpuid_table_register(cpuid, 7, 0, 3) & LEAF7_EDX_ARCH_CAPABILITIES))
		drop_msr(state, VP_MSR_ARCH_CAPABILITIES);
	return r;
}

static int save_partition(struct partition *p, struct saved_partition *s, struct error *err)
{
	s->region_count = p->region_count;
	for (unsigned i = 0; i < p->region_count; i++)
		s->regions[i] = (struct saved_region){p->regions[i].gpa, p->regions[i].size};
	s->time = clock_now(p);
	s->tsc_frequency = p->tsc_frequency;
	s->apic_frequency = p->tlfs.config.apic_frequency;
	tlfs_save(&p->tlfs, &s->tlfs);
	if (synic_save(p, &s->messages, &s->message_count))
		return error_set(err, ENOMEM,
				 "no memory on the host for the messages that wait for the guest");
	return 0;
}

int partition_save_state(struct partition *p, uint8_t **bytes, size_t *size, struct error *err)
{
	struct saved_partition *s;
	int r = 0;

	if (!p->processor->save_vp)
		return error_set(err, ENOTSUP, "the state of processor %s cannot be saved",
				 p->processor->name);
	if (!vp_all_rest(p))
		return error_set(err, EBUSY, "the partition runs: pause it before its state is saved");
	s = saved_new(p->config.vp_count);
	if (!s)
		return error_set(err, ENOMEM, "no memory on the host for the saved state of a partition");
	if (cpuid_collect(p, &s->cpuid))
		r = error_set(err, E2BIG, "CPUID of this processor has more than %u leaves", CPUID_TABLE_MAX);
	for (unsigned i = 0; i < p->config.vp_count && !r; i++)
		r = save_vp(&p->vps[i], &s->vps[i], &s->cpuid, err);
	/* A processor that serves synthetic registers itself has told tlfs/ of them now. */
	if (!r)
		r = save_partition(p, s, err);
	if (!r)
		r = saved_encode(s, bytes, size, err);
	saved_free(s);
	return r;
}

/* --- loading ------------------------------------------------------------------------------------------ */

static bool has_region(const struct partition *p, const struct saved_region *region)
{
	for (unsigned i = 0; i < p->region_count; i++)
		if (p->regions[i].gpa == region->gpa && p->regions[i].size == region->size)
			return true;
	return false;
}

static int check_shape(const struct partition *p, const struct saved_partition *s, struct error *err)
{
	bool same = p->region_count == s->region_count;

	if (p->config.vp_count != s->vp_count)
		return error_set(
		    err, EINVAL,
		    "the saved state is of a machine with %u virtual processors, and this one has %u",
		    s->vp_count, p->config.vp_count);
	/* Regions do not overlap, so with equal numbers one direction is enough. */
	for (unsigned i = 0; i < s->region_count && same; i++)
		same = has_region(p, &s->regions[i]);
	if (!same)
		return error_set(err, EINVAL,
				 "the saved state is of a machine with other memory than this one");
	return 0;
}

/* Guests ask for it once, and never measure it again; apic/ can count at any. */
static int load_apic_frequency(struct partition *p, uint64_t hz, struct error *err)
{
	uint64_t here = p->tlfs.config.apic_frequency;

	if (hz == here)
		return 0;
	if (p->traits.own_apic)
		return error_set(
		    err, ENOTSUP,
		    "the guest's APIC timer counts at %llu Hz, and that of this processor can only at %llu: "
		    "continue it on the kind of processor where it was saved",
		    (unsigned long long)hz, (unsigned long long)here);
	p->apic_bus.config.timer_frequency = hz;
	p->tlfs.config.apic_frequency = hz;
	return 0;
}

/* Time goes on where it stood, and so does the TSC: at its frequency if this processor can. */
static void load_time(struct partition *p, const struct saved_partition *s)
{
	const struct vp_state *first = &s->vps[0].state;
	uint64_t tsc = first->tsc - vp_state_msr(first, MSR_TSC_ADJUST), frequency = p->tsc_frequency;

	if (!p->processor->set_tsc_frequency || p->processor->set_tsc_frequency(p, s->tsc_frequency))
		frequency = s->tsc_frequency;
	clock_set(p, s->time);
	clock_set_tsc(p, frequency, tsc);
	p->apic_bus.config.tsc_frequency = frequency;
	tlfs_set_tsc_frequency(&p->tlfs, frequency);
}

/* What stands there is the instruction of the processor that the guest comes from. Where it returns is the
 * same offset on all, so a VP may stand in the page. */
static void renew_hypercall_page(struct partition *p)
{
	uint64_t value = atomic_load(&p->tlfs.hypercall);
	gpa_t gpa = value & HV_PAGE_MASK;
	uint8_t *page = value & HV_PAGE_ENABLE ? partition_memory(p, gpa, GUEST_PAGE_SIZE) : NULL;

	if (!page)
		return;
	p->processor->write_hypercall_page(p, page);
	partition_memory_written(p, gpa, GUEST_PAGE_SIZE);
}

static int load_vp(struct vp *vp, const struct saved_vp *saved, struct error *err)
{
	struct partition *p = vp->partition;
	const struct vp_state *state = &saved->state;
	int r;

	if (!apic_load(&p->apics[vp->index], &state->apic) || state->registers.cr8 != state->apic.tpr >> 4)
		return error_set(err, EBADMSG,
				 "virtual processor %u: no local APIC can be in its saved state", vp->index);
	if (!tlfs_load_vp(&p->tlfs, vp->index, &state->tlfs))
		return error_set(err, EBADMSG,
				 "virtual processor %u: no guest can have made its synthetic registers so",
				 vp->index);
	atomic_store(&vp->runtime, saved->runtime);
	atomic_store(&vp->startup,
		     state->activity == VP_ACTIVITY_WAITS_FOR_SIPI ? VP_WAITS_FOR_SIPI : VP_STARTED);
	atomic_store(&vp->nmi_pending, state->pending.nmi);
	r = p->processor->load_vp(vp, state, err);
	return r ? error_prefix(err, "virtual processor %u", vp->index) : 0;
}

static int load(struct partition *p, const struct saved_partition *s, struct error *err)
{
	int r = load_apic_frequency(p, s->apic_frequency, err);

	if (r)
		return r;
	p->loaded_cpuid = malloc(sizeof(*p->loaded_cpuid));
	if (!p->loaded_cpuid)
		return error_set(err, ENOMEM, "no memory on the host for the saved state of a partition");
	*p->loaded_cpuid = s->cpuid;
	load_time(p, s);
	if (!tlfs_load(&p->tlfs, &s->tlfs))
		return error_set(err, EBADMSG, "no guest can have made the saved synthetic registers so");
	renew_hypercall_page(p);
	for (unsigned i = 0; i < s->vp_count && !r; i++)
		r = load_vp(&p->vps[i], &s->vps[i], err);
	for (unsigned i = 0; i < s->message_count && !r; i++)
		if (synic_load(p, &s->messages[i]))
			r = error_set(err, EBADMSG,
				      "more messages wait for the guest than there is room for");
	return r;
}

int partition_load_state(struct partition *p, const uint8_t *bytes, size_t size, struct error *err)
{
	struct saved_partition *s;
	int r;

	if (!p->processor->load_vp)
		return error_set(err, ENOTSUP, "processor %s cannot go on from saved state",
				 p->processor->name);
	if (p->started || p->stopped || p->loaded_cpuid)
		return error_set(err, EINVAL,
				 "saved state can only be loaded into a partition that has not run");
	r = saved_decode(&s, bytes, size, err);
	if (r)
		return r;
	r = saved_check(s, err);
	if (!r)
		r = check_shape(p, s, err);
	if (!r)
		r = cpuid_check(p, &s->cpuid, err);
	if (!r)
		r = load(p, s, err);
	saved_free(s);
	return r;
}
