/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * saved.c - a VP's whole state from KVM and to it (hypervisor/state.h).
 *
 * A VP that was kicked has nothing open: the KVM_RUN that came back with EINTR has finished its last exit.
 */
#include "hypervisor/kvm/kvm.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

#define CR0_PG   (1ull << 31)
#define CR4_PAE  (1ull << 5)
#define EFER_LMA (1ull << 10)

/* --- saving --------------------------------------------------------------------------------------- */

static bool uses_pdptrs(const struct vp_registers *r)
{
	return r->cr0 & CR0_PG && r->cr4 & CR4_PAE && !(r->efer & EFER_LMA);
}

static int save_registers(struct vp *vp, struct vp_state *s)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	struct kvm_debugregs debug;
	struct kvm_sregs2 sregs;
	int r = kvm_get_registers(vp, &s->registers);

	if (!r && uses_pdptrs(&s->registers)) {
		r = kvm_ioctl(k->fd, KVM_GET_SREGS2, &sregs); /* Linux 5.14 */
		memcpy(s->pdptr, sregs.pdptrs, sizeof(s->pdptr));
	}
	if (!r)
		r = kvm_ioctl(k->fd, KVM_GET_DEBUGREGS, &debug);
	if (r)
		return r;
	memcpy(s->dr, debug.db, sizeof(debug.db));
	s->dr[6] = debug.dr6;
	s->dr[7] = debug.dr7;
	return 0;
}

/* As far as the components reach that this guest may use. */
static uint32_t xsave_end(struct vp *vp)
{
	uint32_t r[4], end = VP_XSAVE_MIN;
	uint64_t offered;

	partition_cpuid(vp, 0xd, 0, r);
	offered = r[0] | (uint64_t)r[3] << 32;
	for (unsigned i = 2; i < 63; i++) {
		if (!(offered >> i & 1))
			continue;
		partition_cpuid(vp, 0xd, i, r);
		end = (uint32_t)max_u64(end, (uint64_t)r[0] + r[1]);
	}
	return end;
}

static int save_vectors(struct vp *vp, struct vp_state *s, struct error *err)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	struct kvm_xcrs xcrs = {0};
	struct kvm_xsave area;
	int r;

	s->xsave_size = xsave_end(vp);
	if (s->xsave_size > sizeof(area.region))
		return error_set(err, ENOTSUP,
				 "vector registers of %u bytes are more than can be saved: start the guest "
				 "with --compatible",
				 s->xsave_size);
	s->xcr0 = 1;
	r = kvm_ioctl(k->fd, KVM_GET_XSAVE, &area);
	if (!r && kvm_ioctl(k->fd, KVM_GET_XCRS, &xcrs) == 0)
		for (unsigned i = 0; i < xcrs.nr_xcrs; i++)
			if (xcrs.xcrs[i].xcr == 0)
				s->xcr0 = xcrs.xcrs[i].value;
	if (r)
		return error_set(err, -r, "KVM does not give its vector registers: %s", strerror(-r));
	memcpy(s->xsave, area.region, s->xsave_size);
	return 0;
}

static void save_msrs(struct kvm_vp *k, struct vp_state *s)
{
	s->msr_count = 0;
	for (unsigned i = 0; i < vp_saved_msr_count; i++) {
		struct vp_msr m = {.index = vp_saved_msrs[i]};

		if (!kvm_get_msr(k, m.index, &m.value))
			s->msrs[s->msr_count++] = m;
	}
}

static enum vp_activity activity_of(uint32_t mp_state)
{
	switch (mp_state) {
	case KVM_MP_STATE_HALTED:
		return VP_ACTIVITY_HALTED;
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
		return VP_ACTIVITY_WAITS_FOR_SIPI;
	default:
		return VP_ACTIVITY_RUNNING;
	}
}

static void save_events(const struct kvm_vcpu_events *e, struct vp_pending *pending)
{
	*pending = (struct vp_pending){.interrupt_shadow = e->interrupt.shadow != 0,
				       .nmi_blocked = e->nmi.masked,
				       .nmi = e->nmi.pending || e->nmi.injected,
				       .exception = e->exception.injected || e->exception.pending,
				       .exception_has_code = e->exception.has_error_code,
				       .exception_vector = e->exception.nr,
				       .exception_code = e->exception.error_code,
				       .interrupt = e->interrupt.injected && !e->interrupt.soft,
				       .interrupt_vector = e->interrupt.nr};
	/* An NMI that was on its way in blocks others only once it is there. */
	if (e->nmi.injected)
		pending->nmi_blocked = false;
	if (!pending->exception)
		pending->exception_has_code = false, pending->exception_vector = 0,
		pending->exception_code = 0;
	if (!pending->interrupt)
		pending->interrupt_vector = 0;
}

static int save_apic(struct vp *vp, struct vp_state *s)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	struct kvm_lapic_state page;
	struct kvm_sregs sregs;
	uint64_t deadline = 0;
	int r = kvm_ioctl(k->fd, KVM_GET_LAPIC, &page);

	if (!r)
		r = kvm_ioctl(k->fd, KVM_GET_SREGS, &sregs);
	if (r)
		return r;
	kvm_save_apic(vp->partition, &page, sregs.apic_base, &s->apic);
	if (!kvm_get_msr(k, APIC_MSR_TSC_DEADLINE, &deadline))
		s->apic.tsc_deadline = deadline;
	s->registers.cr8 = s->apic.tpr >> 4;
	return 0;
}

int kvm_save_vp(struct vp *vp, struct vp_state *s, struct error *err)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	struct kvm_mp_state activity;
	struct kvm_vcpu_events events;
	/* First: INIT and SIPI that came meanwhile take effect in this. */
	int r = kvm_ioctl(k->fd, KVM_GET_MP_STATE, &activity);

	if (!r)
		r = save_registers(vp, s);
	if (!r)
		r = kvm_ioctl(k->fd, KVM_GET_VCPU_EVENTS, &events);
	if (!r)
		r = save_apic(vp, s);
	if (!r)
		r = kvm_get_tsc(vp, &s->tsc);
	if (r)
		return error_set(err, -r, "KVM does not give the state of virtual processor %u: %s",
				 vp->index, strerror(-r));
	save_msrs(k, s);
	save_events(&events, &s->pending);
	s->activity = activity_of(activity.mp_state);
	kvm_hyperv_save(vp, s);
	return save_vectors(vp, s, err);
}

/* --- loading -------------------------------------------------------------------------------------- */

static int load_msrs(struct kvm_vp *k, const struct vp_state *s, struct error *err)
{
	for (unsigned i = 0; i < s->msr_count; i++) {
		const struct vp_msr *m = &s->msrs[i];
		uint64_t own;
		int r = 0;

		/* KVM takes whatever it is given for this one. */
		if (m->index == VP_MSR_ARCH_CAPABILITIES && !kvm_get_msr(k, m->index, &own))
			r = vp_check_arch_capabilities(m->value, own, err);
		if (!r && kvm_set_msr(k, m->index, m->value))
			r = vp_msr_missing(m->index, m->value, err);
		if (r)
			return r;
	}
	return 0;
}

static int load_vectors(struct kvm_vp *k, const struct vp_state *s)
{
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = s->xcr0}}};
	struct kvm_xsave area = {0};
	/* A host with no XSAVE has no XCR0, and neither had a guest that may come here. */
	int r = s->xcr0 == 1 ? 0 : kvm_ioctl(k->fd, KVM_SET_XCRS, &xcrs);

	memcpy(area.region, s->xsave, min_u64(s->xsave_size, sizeof(area.region)));
	return r ? r : kvm_ioctl(k->fd, KVM_SET_XSAVE, &area);
}

/* The directory registers of PAE paging are loaded from memory with CR3, where the guest may have changed
 * them since: what the old processor held goes on to hold. */
static int load_pdptrs(struct kvm_vp *k, const struct vp_state *s)
{
	struct kvm_sregs2 sregs;
	int r;

	if (!uses_pdptrs(&s->registers))
		return 0;
	r = kvm_ioctl(k->fd, KVM_GET_SREGS2, &sregs);
	if (r)
		return r;
	memcpy(sregs.pdptrs, s->pdptr, sizeof(s->pdptr));
	sregs.flags |= KVM_SREGS2_FLAGS_PDPTRS_VALID;
	return kvm_ioctl(k->fd, KVM_SET_SREGS2, &sregs);
}

static int load_apic(struct vp *vp, const struct vp_state *s)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	struct kvm_lapic_state page;
	struct kvm_sregs sregs;
	int r = kvm_ioctl(k->fd, KVM_GET_SREGS, &sregs);

	sregs.apic_base = s->apic.base;
	if (!r)
		r = kvm_ioctl(k->fd, KVM_SET_SREGS, &sregs);
	if (!r)
		r = kvm_ioctl(k->fd, KVM_GET_LAPIC, &page);
	if (r)
		return r;
	kvm_load_apic(vp->partition, &s->apic, &page);
	k->loaded_deadline = s->apic.tsc_deadline;
	return kvm_ioctl(k->fd, KVM_SET_LAPIC, &page);
}

static int load_events(struct kvm_vp *k, const struct vp_pending *pending)
{
	struct kvm_vcpu_events e = {
	    .flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING,
	    .exception = {.injected = pending->exception,
			  .nr = pending->exception_vector,
			  .has_error_code = pending->exception_has_code,
			  .error_code = pending->exception_code},
	    .interrupt = {.injected = pending->interrupt,
			  .nr = pending->interrupt_vector,
			  .shadow = pending->interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0},
	    .nmi = {.pending = pending->nmi, .masked = pending->nmi_blocked}};

	return kvm_ioctl(k->fd, KVM_SET_VCPU_EVENTS, &e);
}

static int load_activity(struct kvm_vp *k, enum vp_activity activity)
{
	struct kvm_mp_state state = {.mp_state = activity == VP_ACTIVITY_HALTED ? KVM_MP_STATE_HALTED
						 : activity == VP_ACTIVITY_WAITS_FOR_SIPI
						     ? KVM_MP_STATE_INIT_RECEIVED
						     : KVM_MP_STATE_RUNNABLE};

	return kvm_ioctl(k->fd, KVM_SET_MP_STATE, &state);
}

static int load_debug(struct kvm_vp *k, const struct vp_state *s)
{
	struct kvm_debugregs debug = {.dr6 = s->dr[6], .dr7 = s->dr[7]};

	memcpy(debug.db, s->dr, sizeof(debug.db));
	return kvm_ioctl(k->fd, KVM_SET_DEBUGREGS, &debug);
}

/* apic/ was given the state too; here it serves nobody, so its timer must not run. */
static void retire_apic(struct vp *vp)
{
	apic_reset(&vp->partition->apics[vp->index], false);
	atomic_store(&vp->startup, VP_STARTED);
	atomic_store(&vp->nmi_pending, false);
}

int kvm_load_vp(struct vp *vp, const struct vp_state *s, struct error *err)
{
	struct partition *p = vp->partition;
	struct kvm_vp *k = kvm_vp_of(vp);
	int r = kvm_prepare(p, err);

	if (!r)
		r = load_msrs(k, s, err);
	if (r)
		return r;
	retire_apic(vp);
	k->loaded_tsc = s->tsc;
	kvm_of(p)->loaded = true;
	r = kvm_set_registers(vp, &s->registers);
	if (!r)
		r = load_vectors(k, s);
	if (!r)
		r = load_apic(vp, s);
	/* Whatever sets system registers loads these from memory; so this comes after all of it. */
	if (!r)
		r = load_pdptrs(k, s);
	if (!r)
		r = load_debug(k, s);
	if (!r)
		r = load_activity(k, s->activity);
	if (!r)
		r = load_events(k, &s->pending);
	if (r)
		return error_set(err, EINVAL, "KVM refuses the saved state: %s", strerror(-r));
	return kvm_hyperv_load(vp, s, err);
}
