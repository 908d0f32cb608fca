// SPDX-License-Identifier: GPL-2.0-or-later
/* saved.c - a VP's state out of the processor and into it, in the form that all processors share. */
#include <errno.h>
#include <string.h>

#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/system.h"
#include "hypervisor/soft/vector_x87.h"
#include "hypervisor/state.h"

static bool pae_paging(const struct vp_registers *r)
{
	return r->cr0 & CR0_PG && r->cr4 & CR4_PAE && !(r->efer & EFER_LMA);
}

void soft_vp_save(struct soft_vp *vp, struct vp_state *state)
{
	struct vp_pending *pending = &state->pending;

	soft_vp_get_registers(vp, &state->registers);
	/* Behind the last byte of a 32-bit code segment. */
	if (vp->mode != MODE_64)
		state->registers.rip = (uint32_t)state->registers.rip;
	memset(state->pdptr, 0, sizeof(state->pdptr));
	if (pae_paging(&state->registers))
		memcpy(state->pdptr, vp->pdptr, sizeof(state->pdptr));
	memcpy(state->dr, vp->dr, sizeof(state->dr));
	state->xcr0 = vp->xcr0;
	state->xsave_size = vector_area_put(vp, state->xsave);
	state->msr_count = 0;
	for (unsigned i = 0; i < vp_saved_msr_count; i++) {
		struct vp_msr *msr = &state->msrs[state->msr_count];

		*msr = (struct vp_msr){.index = vp_saved_msrs[i]};
		if (msr_saved_read(vp, msr->index, &msr->value) && (msr->index != VP_MSR_PKRS || msr->value))
			state->msr_count++;
	}
	state->tsc = tsc_read(vp);
	if (vp->halted)
		state->activity = VP_ACTIVITY_HALTED;
	*pending = (struct vp_pending){
	    .interrupt_shadow = vp->interrupt_shadow,
	    .nmi_blocked = vp->nmi_blocked,
	    .nmi = vp->nmi_waiting || atomic_load(&vp->attention) & ATTENTION_NMI,
	    .exception = vp->again == AGAIN_EXCEPTION,
	    .interrupt = vp->again == AGAIN_INTERRUPT,
	};
	if (pending->exception) {
		pending->exception_vector = vp->again_event.vector;
		pending->exception_has_code = vp->again_event.has_code;
		pending->exception_code = vp->again_event.code;
	} else if (pending->interrupt) {
		pending->interrupt_vector = vp->again_event.vector;
	}
}

/* What the model lacks, although CPUID of the guest lets it be. Returns what is wrong, or NULL. */
static const char *refuse(const struct soft_vp *vp, const struct vp_state *state)
{
	uint64_t components = vector_components(vp);

	if (state->registers.cr4 & ~cr4_known(vp))
		return "CR4";
	if (state->registers.efer & ~efer_known)
		return "EFER";
	if (state->registers.cr3 & ~PHYSICAL_MASK)
		return "CR3";
	if (state->xcr0 & ~components || le64_get(state->xsave + VP_XSAVE_LEGACY) & ~components)
		return "XCR0";
	if (le32_get(state->xsave + FX_MXCSR) & ~MXCSR_VALID)
		return "MXCSR";
	return NULL;
}

static int load_msrs(struct soft_vp *vp, const struct vp_state *state, struct error *err)
{
	for (unsigned i = 0; i < state->msr_count; i++) {
		const struct vp_msr *msr = &state->msrs[i];
		uint64_t value;
		int r = 0;

		if (msr->index == VP_MSR_ARCH_CAPABILITIES)
			r = vp_check_arch_capabilities(msr->value, ARCH_CAPABILITIES, err);
		if (r)
			return r;
		if (msr_saved_write(vp, msr->index, msr->value))
			continue;
		if (msr_saved_read(vp, msr->index, &value))
			return error_set(err, EINVAL, "MSR 0x%x (%s) cannot hold 0x%llx", msr->index,
			    vp_msr_name(msr->index), (unsigned long long)msr->value);
		r = vp_msr_missing(msr->index, msr->value, err);
		if (r)
			return r;
	}
	return 0;
}

static void load_pending(struct soft_vp *vp, const struct vp_state *state)
{
	const struct vp_pending *pending = &state->pending;

	vp->interrupt_shadow = pending->interrupt_shadow;
	vp->nmi_blocked = pending->nmi_blocked;
	vp->nmi_waiting = false;
	vp->again = AGAIN_NOTHING;
	if (pending->exception) {
		vp->again = AGAIN_EXCEPTION;
		vp->again_event = (struct fault){.vector = pending->exception_vector,
		    .has_code = pending->exception_has_code,
		    .code = pending->exception_code};
	} else if (pending->interrupt) {
		vp->again = AGAIN_INTERRUPT;
		vp->again_event = (struct fault){.vector = pending->interrupt_vector};
	}
	if (pending->nmi)
		atomic_fetch_or(&vp->attention, ATTENTION_NMI);
	vp->halted = state->activity == VP_ACTIVITY_HALTED;
}

int soft_vp_load(struct soft_vp *vp, const struct vp_state *state, struct error *err)
{
	const char *bad = refuse(vp, state);
	int r;

	if (bad)
		return error_set(err, ENOTSUP, "%s has bits that the software processor does not serve", bad);
	pkrs_set(vp, 0); /* where it is not in the state */
	r = load_msrs(vp, state, err);
	if (r)
		return r;
	memcpy(vp->pdptr, state->pdptr, sizeof(vp->pdptr));
	memcpy(vp->dr, state->dr, sizeof(vp->dr));
	vp->dr[6] = (vp->dr[6] & 0xe00f) | 0xffff0ff0;
	vp->dr[7] = (vp->dr[7] & 0xffff23ff) | 0x400;
	vp->xcr0 = state->xcr0;
	vector_area_take(vp, state->xsave);
	registers_take(vp, &state->registers);
	load_pending(vp, state);
	return 0;
}

void soft_vp_take_for_amd(struct soft_vp *vp)
{
	vp->amd = true;
}
