/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kvm.h - the hardware processor: a partition's virtual processors run by Linux KVM on VT-x or SVM.
 *
 * Local APICs are the kernel's (split irqchip: I/O APIC and whatever else raises interrupts are ours).
 * Hyper-V is served in one of two ways that a guest cannot tell apart: kernel  where KVM has
 * KVM_CAP_HYPERV_*: hypercalls, timers, reference TSC, flushes and IPIs never leave the kernel; SynIC
 * registers, crash and reset registers come to us (an MSR filter sees to it) and are passed on, so that tlfs/
 * posts messages and sets event flags in either case. own     tlfs/ serves all of it: the filter sends every
 * synthetic MSR to us, and the hypercall page traps by port output. Sources: Linux
 * Documentation/virt/kvm/api.rst; arch/x86/kvm/hyperv.c for what the kernel serves.
 *
 * Private to hypervisor/kvm/. All of a VP's functions belong to its thread or need it to stand still, unless
 * marked [any].
 */
#pragma once

#include <linux/kvm.h>

#include "hypervisor/partition.h"

/* Routes 0 to 23 are those of the I/O APIC's pins, so that the EOI of a level-triggered one comes to us. */
#define KVM_LEVEL_ROUTES 24u

/* The own hypercall page traps by OUT to this port: none that a PC has. */
#define KVM_HYPERCALL_PORT 0xea

struct kvm_vp {
	int fd, stats;
	struct kvm_run *run;
	_Atomic bool kicked;
	uint64_t exits_at;    /* where in `stats` the number of exits lies */
	bool shutdown_resets; /* after a triple fault the registers are those of INIT (SVM) */
	bool lost_registers;
	struct kvm_regs last; /* at the last exit that brought them */
	uint64_t loaded_tsc, loaded_deadline;
	char error[1024];
};

struct kvm_level_route {
	struct kvm_irq_routing_msi msi;
	bool used;
};

struct kvm_machine {
	int device, vm;
	size_t run_size;
	bool kernel_hyperv;
	bool any_hardware;          /* hardware=any: also where nothing virtualizes in hardware */
	struct kvm_cpuid2 *offered; /* what KVM can show a guest on this host */
	struct kvm_cpuid2 *hyperv;  /* the same of leaves 0x40000000…, NULL in the own way */
	unsigned physical_bits;
	uint64_t tsc_khz;
	bool tsc_stable;
	uint64_t tsc_to_ns;  /* ns = tsc * this >> 60, own way only */
	int64_t tsc_offset;  /* VP 0's TSC less the host's; fixed while the partition runs */
	bool has_tsc_offset; /* KVM_VCPU_TSC_OFFSET */
	uint64_t paused_at;  /* the host's TSC when the partition was paused; 0 while it runs */
	bool loaded;         /* saved state waits for the start */

	pthread_mutex_t route_lock;
	struct kvm_level_route routes[KVM_LEVEL_ROUTES];

	bool prepared; /* memory and CPUID are set */
	bool dirty_log;
	uint64_t *dirty[PARTITION_MAX_REGIONS]; /* fetched from KVM and not asked for yet */

	struct kvm_vp vps[PARTITION_MAX_VPS];
};

static inline struct kvm_machine *kvm_of(struct partition *p)
{
	return p->processor_state;
}

static inline struct kvm_vp *kvm_vp_of(struct vp *vp)
{
	return &kvm_of(vp->partition)->vps[vp->index];
}

/* ioctl() that is tried again when a signal comes; -errno. KVM_RUN is not for it. */
int kvm_ioctl(int fd, unsigned long request, void *argument);

/* probe.c: open the device and look whether it serves. -ENODEV, -EACCES, -ENOTSUP with the reason and what to
 * do about it. `any_hardware` also takes a device with nothing below it. */
int kvm_probe(int *device, const struct partition_host *host, bool any_hardware, struct error *err);

/* processor.c: hand over memory and CPUID, once both are known: before start or loading of state. */
int kvm_prepare(struct partition *p, struct error *err);

/* cpuid.c */
int kvm_cpuid_offered(struct kvm_machine *m, struct error *err);
void kvm_cpuid_answer(struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);
int kvm_cpuid_apply(struct vp *vp, struct error *err);

/* registers.c */
int kvm_get_registers(struct vp *vp, struct vp_registers *registers);
int kvm_set_registers(struct vp *vp, const struct vp_registers *registers);
int kvm_get_msr(struct kvm_vp *k, uint32_t index, uint64_t *value);
int kvm_set_msr(struct kvm_vp *k, uint32_t index, uint64_t value);

/* run.c */
enum vp_run_result kvm_vp_run(struct vp *vp);
void kvm_report(struct vp *vp, char *text, size_t size);

/* interrupt.c: [any] */
void kvm_assert_interrupt(struct partition *p, const struct interrupt_message *message);
void kvm_request_interrupt(struct vp *vp, uint8_t vector);

/* hyperv.c */
int kvm_hyperv_choose(struct kvm_machine *m, const char *wish, struct error *err);
int kvm_hyperv_prepare(struct partition *p, struct error *err);
int kvm_hyperv_prepare_vp(struct vp *vp, struct error *err);
void kvm_hyperv_leaf(struct partition *p, uint32_t leaf, uint32_t registers[4]);
bool kvm_hyperv_read_msr(struct vp *vp, uint32_t msr, uint64_t *value);
bool kvm_hyperv_write_msr(struct vp *vp, uint32_t msr, uint64_t value);
void kvm_hyperv_exit(struct vp *vp);    /* KVM_EXIT_HYPERV */
void kvm_hypercall_port(struct vp *vp); /* OUT of the own hypercall page */
void kvm_write_hypercall_page(struct partition *p, uint8_t *page);
void kvm_hyperv_save(struct vp *vp, struct vp_state *state);
int kvm_hyperv_load(struct vp *vp, const struct vp_state *state, struct error *err);
int kvm_event_port(struct partition *p, uint32_t connection_id, int eventfd, bool open);

/* time.c */
int kvm_time_init(struct partition *p, struct error *err);
void kvm_time_pause(struct partition *p);
void kvm_time_resume(struct partition *p);
int kvm_get_tsc(struct vp *vp, uint64_t *tsc);
void kvm_time_load(struct partition *p); /* at the start: the TSCs of the saved state */
bool kvm_set_tsc_frequency(struct partition *p, uint64_t hz);
uint64_t kvm_counter_ns(struct partition *p);
void kvm_set_counter(struct partition *p, uint64_t ns);
void kvm_sample_clock(struct partition *p, uint64_t *tsc, uint64_t *reference);

/* memory.c */
int kvm_map_memory(struct partition *p, struct error *err);
int kvm_track_dirty(struct partition *p, bool on, struct error *err);
int kvm_fetch_dirty(struct partition *p, unsigned region, uint64_t first, uint64_t pages, uint64_t *bitmap);

/* saved.c; saved_apic.c */
void kvm_save_apic(struct partition *p, const struct kvm_lapic_state *from, uint64_t base,
		   struct apic_state *to);
void kvm_load_apic(struct partition *p, const struct apic_state *from, struct kvm_lapic_state *to);
int kvm_save_vp(struct vp *vp, struct vp_state *state, struct error *err);
int kvm_load_vp(struct vp *vp, const struct vp_state *state, struct error *err);
