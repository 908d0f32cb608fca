/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * partition.h - the insides of a partition, shared by the files of hypervisor/ and the processors.
 *
 * partition.c creates and ends, memory.c holds RAM, intercept.c finds the device behind an address,
 * clock.c keeps time and timers, synic.c carries messages and events, vp.c runs the VP threads.
 * Whatever runs guest code is a `struct processor_ops`.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/bitmap.h"
#include "hypervisor/apic/apic.h"
#include "hypervisor/hypervisor.h"
#include "hypervisor/state.h"
#include "hypervisor/tlfs/tlfs.h"

/* 1 GHz, which KVM's local APICs count too, for a guest measures it once and may be moved; and a TSC that counts nanoseconds of partition time, unless a guest came here that
 * had begun with another one. */
#define APIC_TIMER_HZ 1000000000ull
#define SOFT_TSC_HZ   1000000000ull

#define PARTITION_PHYSICAL_BITS 46u
#define PARTITION_MAX_REGIONS   16
#define PARTITION_MAX_RANGES    64
#define SYNIC_QUEUE_MAX         64

/* One variable for both, so that a SIPI is either meant for this wait or dropped. */
enum vp_startup { VP_STARTED = -2, VP_WAITS_FOR_SIPI = -1 };

struct vp {
	struct partition *partition;
	unsigned index;
	pthread_t thread;
	bool thread_started;

	/* Requests of others to the VP's thread; each also bumps `wake`. */
	_Atomic uint32_t wake;        /* futex: changes whenever there may be something to do */
	_Atomic bool sleeping;
	_Atomic bool stop_requested, init_requested, nmi_pending;
	_Atomic int startup;          /* enum vp_startup, or the vector of a SIPI that came for a VP that waits */

	/* Owned by the VP's thread. */
	bool dead;                    /* reset, triple fault or processor error: waits for the end */
	int64_t run_since;            /* monotonic ns, 0 while it does not run */
	_Atomic uint64_t runtime;     /* ns, finished runs */
	_Atomic uint64_t io_exits, mmio_exits, msr_exits, cpuid_exits, hypercalls, halts, interrupts;

	pthread_mutex_t apic_lock, tlfs_lock; /* what apic.h and tlfs.h call the VP's lock */

	/* synic.c: messages that wait for a free slot, in order; under queue_lock. */
	pthread_mutex_t queue_lock;
	struct queued_message *queue_head[SYNIC_SINT_COUNT];
	struct queued_message **queue_tail[SYNIC_SINT_COUNT];
	unsigned queue_length[SYNIC_SINT_COUNT];
};

/* A message that waits for its slot, as it is saved. */
struct synic_message {
	uint32_t vp, sint, type, size;
	uint8_t payload[SYNIC_MESSAGE_PAYLOAD];
};

struct memory_region {
	gpa_t gpa;
	uint64_t size;
	uint64_t offset; /* into the memfd and the mapping */
};

struct io_range {
	uint64_t first, count;
	const struct io_ops *ops;
	void *device;
	const char *name;
};

enum vp_run_result { VP_RUN_HALT, VP_RUN_KICK, VP_RUN_TRIPLE_FAULT, VP_RUN_ERROR };

/* What a processor is like. */
struct processor_traits {
	bool x2apic, tsc_deadline;
	bool own_apic;     /* its local APICs are not those of apic/, and INIT and SIPI are its own business */
	bool no_auto_eoi;  /* recommend against auto-EOI */
	bool tsc_unstable; /* the TSC is no clock */
	bool own_reference_page; /* it writes the reference TSC page */
	uint64_t tsc_frequency, apic_frequency;
	unsigned physical_bits;
};

/* One way to run guest code. `run` and what follows it belong to the VP's thread or need the VP not
 * to run; notify, kick, nmi, flush and memory_written are for any thread. */
struct processor_ops {
	const char *name;
	int (*create)(struct partition *p, const char *options, struct error *err);
	void (*destroy)(struct partition *p);
	int (*start)(struct partition *p, struct error *err); /* memory is complete */
	enum vp_run_result (*run)(struct vp *vp);
	void (*init)(struct vp *vp);
	void (*sipi)(struct vp *vp, uint8_t vector);
	bool (*interruptible)(struct vp *vp);
	int (*get_registers)(struct vp *vp, struct vp_registers *registers);
	int (*set_registers)(struct vp *vp, const struct vp_registers *registers);
	uint64_t (*instructions)(struct vp *vp);
	uint64_t (*exits)(struct vp *vp); /* optional: how often it left guest code; 0: nobody counts */
	void (*report)(struct vp *vp, char *text, size_t size); /* why VP_RUN_ERROR, and what else is to be said */
	void (*notify)(struct vp *vp);
	void (*kick)(struct vp *vp);
	void (*nmi)(struct vp *vp);
	void (*flush_tlb)(struct vp *self, const struct tlfs_flush *flush); /* not with own_apic */
	void (*memory_written)(struct partition *p, gpa_t gpa, uint64_t size);
	void (*write_hypercall_page)(struct partition *p, uint8_t *page);
	void (*traits)(struct partition *p, struct processor_traits *traits);

	/* With own_apic, for any thread. */
	void (*assert_interrupt)(struct partition *p, const struct interrupt_message *message);
	void (*request_interrupt)(struct vp *vp, uint8_t vector);
	/* Optional: tell it too of an event port, so that it can signal with no detour. -errno. */
	int (*event_port)(struct partition *p, uint32_t connection_id, int eventfd, bool open);
	/* Optional: what CPUID says in a leaf of the hypervisor, where it serves some of that itself. */
	void (*hypervisor_leaf)(struct partition *p, uint32_t leaf, uint32_t registers[4]);

	/* Optional: the clock that partition time is measured by (any thread), else the host's monotonic one; a
	 * clock that can be set is set to partition time whenever that begins to run. */
	uint64_t (*counter_ns)(struct partition *p);
	void (*set_counter)(struct partition *p, uint64_t ns);
	/* Guest's TSC and reference time at one moment; optional where the TSC is clock_tsc(). */
	void (*sample_clock)(struct partition *p, uint64_t *tsc, uint64_t *reference_time);
	/* Optional: all VPs stand still now; and are about to go on. */
	void (*paused)(struct partition *p);
	void (*resumed)(struct partition *p);

	/* The VP stands still; INIT and SIPI that were on their way are done with. The caller has filled `apic` and
	 * `tlfs` from apic/ and tlfs/, `activity` from vp->startup, and the rest with what holds after reset; save_vp
	 * replaces what it knows better: at least HALTED for RUNNING. What tlfs/ keeps for the whole partition is saved
	 * after the last VP. */
	int (*save_vp)(struct vp *vp, struct vp_state *state, struct error *err);
	/* Before start. The state has passed vp_state_check(), and the guest's CPUID is in p->loaded_cpuid, which
	 * this processor can serve. apic/, tlfs/, vp->startup, partition time and the TSC (clock_tsc()) stand
	 * already where they should. CR8 is in the local APIC. -EINVAL or -ENOTSUP for what it cannot be given. */
	int (*load_vp)(struct vp *vp, const struct vp_state *state, struct error *err);
	/* Its own answer to CPUID, before the partition amends it: EAX, EBX, ECX, EDX. NULL: it runs no guest code,
	 * and any CPUID is as good as another. */
	void (*cpuid)(struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);
	/* Before start: whether the guest's TSC will count at `hz`. NULL: it is clock_tsc(), which can at any. */
	bool (*set_tsc_frequency)(struct partition *p, uint64_t hz);
	/* Dirty pages of VPs: on or off; then add those of one region to `bitmap` and forget them. */
	int (*track_dirty)(struct partition *p, bool on, struct error *err);
	int (*fetch_dirty)(struct partition *p, unsigned region, uint64_t first_page, uint64_t pages, uint64_t *bitmap);
};

extern const struct processor_ops processor_kvm;  /* kvm/processor.c */
extern const struct processor_ops processor_soft; /* processor_soft.c */
extern const struct processor_ops processor_none; /* processor_none.c */

struct partition {
	struct partition_config config;
	const struct processor_ops *processor;
	void *processor_state; /* the processor's */
	char reason[512];
	struct processor_traits traits;

	/* memory.c */
	int memfd;
	uint8_t *base;         /* a reservation; RAM fills it from the start */
	uint64_t reserved, memory_size;
	struct memory_region regions[PARTITION_MAX_REGIONS];
	unsigned region_count;

	/* dirty.c */
	_Atomic bool tracks_dirty;
	struct atomic_bitmap dirty;  /* by page of the mapping; written by the host */
	pthread_mutex_t dirty_lock; /* switching on and off, asking */

	/* intercept.c */
	struct io_range ports[PARTITION_MAX_RANGES];
	unsigned port_count;
	uint8_t port_owner[65536]; /* index into ports plus 1 */
	struct io_range mmio[PARTITION_MAX_RANGES];
	unsigned mmio_count;
	void (*eoi_handler)(void *context, uint8_t vector);
	void *eoi_context;

	/* clock.c */
	_Atomic int64_t clock_origin; /* monotonic ns at partition time 0 */
	_Atomic int64_t frozen_at;    /* partition ns while time stands still, else negative */
	uint64_t tsc_frequency;       /* Hz; as the next two, set before start */
	uint64_t tsc_fraction;        /* of a tick a nanosecond, in 2^-64, beside the whole ones */
	uint64_t tsc_offset;          /* the TSC at partition time 0 */
	pthread_mutex_t timer_lock;
	pthread_cond_t timer_cond, timer_idle;
	pthread_t timer_thread;
	bool timer_thread_started, timer_stop;
	bool timer_busy;             /* somebody is being told; under timer_lock, as is the next */
	uint64_t timer_sleeps_until; /* 0 while the thread is awake: it looks again before it sleeps */
	uint64_t apic_deadline[PARTITION_MAX_VPS]; /* partition ns, under timer_lock */
	uint64_t tlfs_deadline[PARTITION_MAX_VPS];

	/* vp.c */
	pthread_mutex_t run_lock;
	pthread_cond_t run_cond;
	bool started, stopped;
	_Atomic bool paused;
	unsigned resting; /* VP threads that stand still for the pause; under run_lock */
	_Atomic bool end_reported;

	/* saved_state.c: what the guest was shown of CPUID before it came here; NULL: it began here. */
	struct cpuid_table *loaded_cpuid;

	/* synic.c */
	pthread_rwlock_t port_lock;
	struct synic_port *synic_ports;

	struct apic_bus apic_bus;
	struct apic apics[PARTITION_MAX_VPS];
	struct tlfs tlfs;
	struct tlfs_vp tlfs_vps[PARTITION_MAX_VPS];
	struct vp vps[PARTITION_MAX_VPS];
};

/* memory.c */
int memory_init(struct partition *p, struct error *err);
void memory_destroy(struct partition *p);

/* dirty.c: after the host wrote guest RAM and where dirty_is_tracked(). [any] */
void dirty_init(struct partition *p);
void dirty_destroy(struct partition *p);
void dirty_mark_gpa(struct partition *p, gpa_t gpa, uint64_t size);
void dirty_mark_host(struct partition *p, const void *host, uint64_t size);

/* The compiler must not look before it writes; the processor may (dirty.c). */
static inline bool dirty_is_tracked(const struct partition *p)
{
	atomic_signal_fence(memory_order_seq_cst);
	return atomic_load_explicit(&p->tracks_dirty, memory_order_acquire);
}

/* intercept.c: dispatch for the processors, on the VP's thread. */
uint64_t intercept_io_read(struct vp *vp, uint16_t port, unsigned size);
void intercept_io_write(struct vp *vp, uint16_t port, unsigned size, uint64_t value);
uint64_t intercept_mmio_read(struct vp *vp, gpa_t gpa, unsigned size);
void intercept_mmio_write(struct vp *vp, gpa_t gpa, unsigned size, uint64_t value);
void intercept_cr8_write(struct vp *vp, uint64_t value);
bool intercept_msr_read(struct vp *vp, uint32_t msr, uint64_t *value);
bool intercept_msr_write(struct vp *vp, uint32_t msr, uint64_t value);
void intercept_cpuid(struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);
/* The same with the processor's own answer asked for. */
void partition_cpuid(struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);
void intercept_amend_cpuid(struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]); /* not counted */

/* clock.c */
int clock_init(struct partition *p);
int clock_start(struct partition *p, struct error *err);
void clock_stop(struct partition *p);
void clock_destroy(struct partition *p);
void clock_freeze(struct partition *p);
void clock_thaw(struct partition *p);
uint64_t clock_now(struct partition *p); /* ns of partition time */
uint64_t clock_at(struct partition *p, uint64_t counter_ns); /* the same when the counter was that */
void clock_set(struct partition *p, uint64_t ns);  /* before start */
uint64_t clock_tsc(struct partition *p); /* the TSC, before IA32_TSC_ADJUST, that counts partition time */
uint64_t clock_tsc_at(const struct partition *p, uint64_t ns);
void clock_set_tsc(struct partition *p, uint64_t frequency, uint64_t now); /* before start: it reads `now` now */
void clock_arm_apic(struct partition *p, unsigned vp, uint64_t deadline_ns);
void clock_arm_tlfs(struct partition *p, unsigned vp, uint64_t deadline_100ns);

/* synic.c */
void synic_init(struct partition *p);
void synic_destroy(struct partition *p);
void synic_slot_free(struct partition *p, unsigned vp, unsigned sint);
enum tlfs_status synic_guest_post(struct partition *p, unsigned vp, uint32_t connection_id, uint32_t type,
    const void *payload, size_t size);
enum tlfs_status synic_guest_signal(struct partition *p, uint32_t connection_id, uint16_t flag);

/* The messages that wait, in the order of their queues; the caller frees them. -ENOMEM. */
int synic_save(struct partition *p, struct synic_message **messages, uint32_t *count);
/* Queue one that waited, behind those before it. -ENOBUFS. */
int synic_load(struct partition *p, const struct synic_message *message);

/* cpuid.c */
/* All that VP 0 is shown. -E2BIG: more than a table takes. */
int cpuid_collect(struct partition *p, struct cpuid_table *table);
/* Whether this partition can show its guest what `table` says; -ENOTSUP names what is missing. */
int cpuid_check(struct partition *p, const struct cpuid_table *table, struct error *err);
/* Replace a processor's answer by the table's, but for bits that follow from the VP's registers. */
void cpuid_recall(const struct cpuid_table *table, uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);
/* Take away the features that not every kind of processor serves on this host, and what a guest that moves should
 * not rely on. */
void cpuid_restrict(uint32_t leaf, uint32_t subleaf, uint32_t registers[4]);

/* hypervisor_ops.c: what apic/ and tlfs/ ask of us. */
extern const struct apic_ops partition_apic_ops;
extern const struct tlfs_ops partition_tlfs_ops;
extern const struct tlfs_ops partition_tlfs_ops_own_apic; /* for a processor with traits.own_apic */

/* kvm/probe.c: why this host cannot run guests in hardware; 0 when it can. */
int kvm_usable(const struct partition_host *host, struct error *err);

/* vp.c */
void vp_init_all(struct partition *p);
void vp_destroy_all(struct partition *p);
void vp_choose_start(struct partition *p);  /* who waits for a SIPI, once the traits are known */
void vp_wake(struct vp *vp);                /* [any] look at interrupts and requests */
void vp_idle(struct vp *vp);                /* on its thread: sleep until a vector is pending or a request came */
void vp_report_event(struct vp *vp, struct partition_event *event);
uint64_t vp_runtime_100ns(struct vp *vp); /* on its thread */
uint64_t vp_runtime_ns(struct vp *vp);    /* while it stands still */
void vp_settle(struct vp *vp);              /* while it stands still: do what INIT and SIPI asked of it */
/* Whether no VP runs and time stands still: the state can be saved. */
bool vp_all_rest(struct partition *p);
