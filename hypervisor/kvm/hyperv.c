/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hyperv.c - which half of Hyper-V the kernel serves, and the way between it and tlfs/ (see kvm.h).
 */
#include "hypervisor/kvm/kvm.h"
#include "hypervisor/tlfs/protocol.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

/* --- kernel or own -------------------------------------------------------------------------------- */

static const int kernel_needs[] = {
    KVM_CAP_HYPERV_SYNIC2,   KVM_CAP_HYPERV_VP_INDEX,  KVM_CAP_HYPERV_EVENTFD,      KVM_CAP_HYPERV_TLBFLUSH,
    KVM_CAP_HYPERV_SEND_IPI, KVM_CAP_SYS_HYPERV_CPUID, KVM_CAP_HYPERV_ENFORCE_CPUID};

static bool kernel_serves(const struct kvm_machine *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(kernel_needs); i++)
		if (ioctl(m->device, KVM_CHECK_EXTENSION, kernel_needs[i]) <= 0)
			return false;
	return true;
}

#define HYPERV_LEAVES_MAX 64

static int ask_hyperv_leaves(struct kvm_machine *m, struct error *err)
{
	int r;

	m->hyperv = calloc(1, sizeof(*m->hyperv) + HYPERV_LEAVES_MAX * sizeof(struct kvm_cpuid_entry2));
	if (!m->hyperv)
		return error_set(err, ENOMEM, "no memory for the CPUID leaves of Hyper-V");
	m->hyperv->nent = HYPERV_LEAVES_MAX;
	r = kvm_ioctl(m->device, KVM_GET_SUPPORTED_HV_CPUID, m->hyperv);
	return r ? error_set(err, -r, "KVM does not tell what it serves of Hyper-V: %s", strerror(-r)) : 0;
}

int kvm_hyperv_choose(struct kvm_machine *m, const char *wish, struct error *err)
{
	bool serves = kernel_serves(m);

	if (!strcmp(wish, "kernel") && !serves)
		return error_set(err, ENOTSUP,
				 "this host's kernel does not serve Hyper-V to guests (it needs Linux 5.18 "
				 "or later with CONFIG_KVM_HYPERV): use "
				 "--processor kvm, which serves it in the worker");
	m->kernel_hyperv = serves && strcmp(wish, "own") != 0;
	return m->kernel_hyperv ? ask_hyperv_leaves(m, err) : 0;
}

/* --- MSR filter ----------------------------------------------------------------------------------- */

/* A clear bit denies, and what is denied comes to us (KVM_MSR_EXIT_REASON_FILTER). */
static uint8_t deny[64];

static const struct kvm_msr_filter own_filter = {
    .ranges = {{KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, HV_X64_MSR_LAST - HV_X64_MSR_FIRST + 1,
		HV_X64_MSR_FIRST, deny}}};

/* The kernel has the SynIC registers too, for its timers' messages; what the guest writes goes to both. Its
 * crash registers have no message and its reset would only come back to us. */
static const struct kvm_msr_filter kernel_filter = {
    .ranges = {{KVM_MSR_FILTER_WRITE, 1, HV_X64_MSR_RESET, deny},
	       {KVM_MSR_FILTER_WRITE, HV_X64_MSR_SINT15 - HV_X64_MSR_SCONTROL + 1, HV_X64_MSR_SCONTROL, deny},
	       {KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, HV_X64_MSR_CRASH_CTL - HV_X64_MSR_CRASH_P0 + 1,
		HV_X64_MSR_CRASH_P0, deny}}};

static bool in_synic(uint32_t msr)
{
	return msr >= HV_X64_MSR_SCONTROL && msr <= HV_X64_MSR_SINT15;
}

int kvm_hyperv_prepare(struct partition *p, struct error *err)
{
	struct kvm_machine *m = kvm_of(p);
	struct kvm_enable_cap exits = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
				       .args = {KVM_MSR_EXIT_REASON_FILTER}};
	struct kvm_msr_filter filter = m->kernel_hyperv ? kernel_filter : own_filter;
	int r = kvm_ioctl(m->vm, KVM_ENABLE_CAP, &exits);

	if (!r)
		r = kvm_ioctl(m->vm, KVM_X86_SET_MSR_FILTER, &filter);
	return r ? error_set(err, -r, "KVM does not hand over Hyper-V's registers: %s", strerror(-r)) : 0;
}

int kvm_hyperv_prepare_vp(struct vp *vp, struct error *err)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	struct kvm_enable_cap synic = {.cap = KVM_CAP_HYPERV_SYNIC2};
	struct kvm_enable_cap enforce = {.cap = KVM_CAP_HYPERV_ENFORCE_CPUID, .args = {1}};
	int r;

	if (!kvm_of(vp->partition)->kernel_hyperv)
		return 0;
	r = kvm_ioctl(k->fd, KVM_ENABLE_CAP, &synic);
	if (!r)
		r = kvm_ioctl(k->fd, KVM_ENABLE_CAP, &enforce);
	/* KVM begins with the SynIC enabled, the TLFS with it disabled. */
	if (!r)
		r = kvm_set_msr(k, HV_X64_MSR_SCONTROL, 0);
	return r ? error_set(err, -r, "KVM's SynIC cannot be enabled: %s", strerror(-r)) : 0;
}

/* --- CPUID ---------------------------------------------------------------------------------------- */

#define KERNEL_FEATURES_A                                                                                    \
	(HV_ACCESS_VP_RUNTIME | HV_ACCESS_REFERENCE_COUNTER | HV_ACCESS_SYNIC | HV_ACCESS_STIMER |           \
	 HV_ACCESS_APIC_MSRS | HV_ACCESS_HYPERCALL_MSRS | HV_ACCESS_VP_INDEX | HV_ACCESS_REFERENCE_TSC |     \
	 HV_ACCESS_FREQUENCIES)
#define KERNEL_FEATURES_B (HV_POST_MESSAGES | HV_SIGNAL_EVENTS)
#define KERNEL_FEATURES_D (HV_FEATURE_XMM_INPUT | HV_FEATURE_FREQUENCIES | HV_FEATURE_DIRECT_STIMER)
#define KERNEL_RECOMMENDS                                                                                    \
	(HV_RECOMMEND_REMOTE_FLUSH | HV_RECOMMEND_RELAXED_TIMING | HV_RECOMMEND_CLUSTER_IPI |                \
	 HV_RECOMMEND_EX_MASKS)

static const struct kvm_cpuid_entry2 *find_leaf(const struct kvm_machine *m, uint32_t leaf)
{
	for (unsigned i = 0; i < m->hyperv->nent; i++)
		if (m->hyperv->entries[i].function == leaf)
			return &m->hyperv->entries[i];
	return NULL;
}

/* What the kernel serves, and what the filter brings to us. */
void kvm_hyperv_leaf(struct partition *p, uint32_t leaf, uint32_t r[4])
{
	const struct kvm_machine *m = kvm_of(p);
	const struct kvm_cpuid_entry2 *e;

	tlfs_cpuid(&p->tlfs, leaf, r);
	if (!m->kernel_hyperv || (leaf != 0x40000003 && leaf != 0x40000004))
		return;
	e = find_leaf(m, leaf);
	if (!e)
		return;
	if (leaf == 0x40000003) {
		r[0] = (e->eax & KERNEL_FEATURES_A) | HV_ACCESS_RESET;
		r[1] = e->ebx & KERNEL_FEATURES_B;
		r[3] = (e->edx & KERNEL_FEATURES_D) | HV_FEATURE_CRASH_MSRS;
	} else {
		r[0] = (e->eax & KERNEL_RECOMMENDS) | HV_RECOMMEND_X2APIC | HV_RECOMMEND_NO_AUTO_EOI;
	}
}

/* --- MSRs ----------------------------------------------------------------------------------------- */

bool kvm_hyperv_read_msr(struct vp *vp, uint32_t msr, uint64_t *value)
{
	return intercept_msr_read(vp, msr, value);
}

bool kvm_hyperv_write_msr(struct vp *vp, uint32_t msr, uint64_t value)
{
	if (!intercept_msr_write(vp, msr, value))
		return false;
	return !kvm_of(vp->partition)->kernel_hyperv || !in_synic(msr) ||
	       !kvm_set_msr(kvm_vp_of(vp), msr, value);
}

/* --- hypercalls ----------------------------------------------------------------------------------- */

/* HvCallPostMessage, and HvCallSignalEvent on a connection that has no eventfd. */
void kvm_hyperv_exit(struct vp *vp)
{
	struct kvm_hyperv_exit *e = &kvm_vp_of(vp)->run->hyperv;
	struct tlfs_hypercall call = {0};

	if (e->type != KVM_EXIT_HYPERV_HCALL)
		return; /* SynIC registers: the filter has brought them */
	call = (struct tlfs_hypercall){
	    .input = e->u.hcall.input, .in = e->u.hcall.params[0], .out = e->u.hcall.params[1]};
	atomic_fetch_add_explicit(&vp->hypercalls, 1, memory_order_relaxed);
	tlfs_hypercall(&vp->partition->tlfs, vp->index, &call);
	e->u.hcall.result = call.result;
}

/*
 * The own page: OUT, padded by a prefix that means nothing to it, then RET where every processor has it, so
 * that a VP that was stopped here goes on anywhere.
 */
void kvm_write_hypercall_page(struct partition *p, uint8_t *page)
{
	static const uint8_t code[] = {0x3e, 0xe7, KVM_HYPERCALL_PORT, 0xc3};

	(void)p;
	memcpy(page, code, sizeof(code));
}

#define HYPERCALL_RETURN 3u

/* Calls whose fast form has no more than RDX and R8: the usual ones need no look at the vector registers. */
static bool has_vector_input(uint64_t input)
{
	return input & HV_CALL_FAST && HV_CALL_CODE(input) != HV_CALL_SIGNAL_EVENT &&
	       HV_CALL_CODE(input) != HV_CALL_LONG_SPIN_WAIT;
}

static void load_vectors(struct kvm_vp *k, struct tlfs_hypercall *call)
{
	struct kvm_fpu fpu;

	if (!kvm_ioctl(k->fd, KVM_GET_FPU, &fpu))
		memcpy(call->xmm, fpu.xmm, sizeof(call->xmm));
}

/* Depending on how KVM came here RIP is at the OUT or behind it. */
static bool from_hypercall_page(uint64_t rip)
{
	return (rip & 0xfff) == 0 || (rip & 0xfff) == HYPERCALL_RETURN;
}

/* TLFS 3.7. The registers that it returns go back with the next KVM_RUN. */
void kvm_hypercall_port(struct vp *vp)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	struct kvm_regs *r = &k->run->s.regs.regs;
	uint64_t gpr[8] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi};
	struct tlfs_hypercall call = {.input = r->rcx, .in = r->rdx, .out = r->r8};
	struct kvm_sregs s;
	bool long_mode;

	/* From user code, in real mode or from elsewhere it is an ordinary port, and nothing is there. */
	if (!tlfs_hypercall_enabled(&vp->partition->tlfs) || !from_hypercall_page(r->rip) ||
	    kvm_ioctl(k->fd, KVM_GET_SREGS, &s) || s.ss.dpl || !(s.cr0 & 1))
		return;
	atomic_fetch_add_explicit(&vp->hypercalls, 1, memory_order_relaxed);
	long_mode = s.cs.l && s.efer >> 10 & 1;
	if (!long_mode)
		tlfs_hypercall_load32(&call, gpr);
	if (has_vector_input(call.input))
		load_vectors(k, &call);
	tlfs_hypercall(&vp->partition->tlfs, vp->index, &call);
	if (long_mode) {
		r->rax = call.result;
	} else {
		tlfs_hypercall_store32(&call, gpr);
		r->rax = gpr[0];
		r->rdx = gpr[2];
	}
	k->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

/* --- saving --------------------------------------------------------------------------------------- */

/* What the kernel keeps and tlfs/ does not know, into the form that tlfs/ would have it in. */
static void save_partition_registers(struct partition *p, struct kvm_vp *k)
{
	uint64_t value;

	if (!kvm_get_msr(k, HV_X64_MSR_GUEST_OS_ID, &value))
		atomic_store(&p->tlfs.guest_os_id, value);
	if (!kvm_get_msr(k, HV_X64_MSR_HYPERCALL, &value))
		atomic_store(&p->tlfs.hypercall, value);
	/* KVM takes any address; tlfs/ takes RAM only, so such a page is saved as what it is: none. */
	if (!kvm_get_msr(k, HV_X64_MSR_REFERENCE_TSC, &value))
		atomic_store(&p->tlfs.reference_tsc,
			     partition_memory(p, value & HV_PAGE_MASK, GUEST_PAGE_SIZE)
				 ? value
				 : value & ~HV_PAGE_ENABLE);
}

/* When a periodic timer is due next the kernel does not say: a period from now at the latest. */
static void save_timer(struct kvm_vp *k, unsigned index, uint64_t now, struct tlfs_timer_state *timer)
{
	uint32_t msr = HV_X64_MSR_STIMER0_CONFIG + 2 * index;

	*timer = (struct tlfs_timer_state){.deadline = TLFS_NEVER};
	if (kvm_get_msr(k, msr, &timer->config) || kvm_get_msr(k, msr + 1, &timer->count))
		return;
	timer->config &= HV_STIMER_DEFINED;
	if (timer->config & HV_STIMER_ENABLE && timer->count)
		timer->deadline = timer->config & HV_STIMER_PERIODIC ? now + timer->count : timer->count;
}

void kvm_hyperv_save(struct vp *vp, struct vp_state *state)
{
	struct partition *p = vp->partition;
	struct kvm_vp *k = kvm_vp_of(vp);
	uint64_t now = partition_reference_time(p);

	if (!kvm_of(p)->kernel_hyperv)
		return;
	if (vp->index == 0)
		save_partition_registers(p, k);
	kvm_get_msr(k, HV_X64_MSR_VP_ASSIST_PAGE, &state->tlfs.assist_page);
	for (unsigned i = 0; i < TLFS_TIMER_COUNT; i++)
		save_timer(k, i, now, &state->tlfs.timers[i]);
}

struct msr_list {
	struct kvm_vp *k;
	int r;
	uint32_t failed;
};

static void put(struct msr_list *list, uint32_t msr, uint64_t value)
{
	if (list->r)
		return;
	list->r = kvm_set_msr(list->k, msr, value);
	list->failed = msr;
}

static void put_partition_registers(struct msr_list *list, struct partition *p)
{
	put(list, HV_X64_MSR_GUEST_OS_ID, atomic_load(&p->tlfs.guest_os_id));
	put(list, HV_X64_MSR_HYPERCALL, atomic_load(&p->tlfs.hypercall));
	put(list, HV_X64_MSR_REFERENCE_TSC, atomic_load(&p->tlfs.reference_tsc));
}

static void put_synic(struct msr_list *list, const struct tlfs_vp_state *s)
{
	put(list, HV_X64_MSR_SIEFP, s->siefp);
	put(list, HV_X64_MSR_SIMP, s->simp);
	for (unsigned i = 0; i < TLFS_SINT_COUNT; i++)
		put(list, HV_X64_MSR_SINT0 + i, s->sint[i]);
	put(list, HV_X64_MSR_SCONTROL, s->scontrol);
}

/* The kernel takes a runtime to be that of the thread that sets it, and goes on with the VP's own. */
static uint64_t thread_time_100ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 10000000u + (uint64_t)t.tv_nsec / 100;
}

/* tlfs/ has them already: the kernel is given what it serves, and its timers stop running here. */
int kvm_hyperv_load(struct vp *vp, const struct vp_state *state, struct error *err)
{
	struct partition *p = vp->partition;
	struct tlfs_vp_state *ours = &p->tlfs_vps[vp->index].state;
	struct msr_list list = {.k = kvm_vp_of(vp)};

	if (!kvm_of(p)->kernel_hyperv)
		return 0;
	if (vp->index == 0)
		put_partition_registers(&list, p);
	put(&list, HV_X64_MSR_VP_ASSIST_PAGE, state->tlfs.assist_page);
	put_synic(&list, &state->tlfs);
	for (unsigned i = 0; i < TLFS_TIMER_COUNT; i++) {
		put(&list, HV_X64_MSR_STIMER0_CONFIG + 2 * i + 1, state->tlfs.timers[i].count);
		put(&list, HV_X64_MSR_STIMER0_CONFIG + 2 * i, state->tlfs.timers[i].config);
		ours->timers[i] = (struct tlfs_timer_state){.deadline = TLFS_NEVER};
	}
	put(&list, HV_X64_MSR_VP_RUNTIME, atomic_load(&vp->runtime) / 100 + thread_time_100ns());
	clock_arm_tlfs(p, vp->index, TLFS_NEVER);
	return list.r ? error_set(err, EBADMSG, "KVM refuses the saved value of synthetic register 0x%x",
				  list.failed)
		      : 0;
}

/* --- events --------------------------------------------------------------------------------------- */

int kvm_event_port(struct partition *p, uint32_t connection_id, int eventfd, bool open)
{
	struct kvm_hyperv_eventfd e = {
	    .conn_id = connection_id, .fd = eventfd, .flags = open ? 0 : KVM_HYPERV_EVENTFD_DEASSIGN};

	return kvm_of(p)->kernel_hyperv ? kvm_ioctl(kvm_of(p)->vm, KVM_HYPERV_EVENTFD, &e) : 0;
}
