/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tlfs.h - what a guest sees of the hypervisor: CPUID leaves, synthetic MSRs, hypercalls, SynIC,
 * synthetic timers, as the Hyper-V Top Level Functional Specification 6.0b (TLFS) words them.
 *
 * Freestanding C: no allocation, no library but <stdint.h>, <stddef.h>, <stdbool.h>, <stdatomic.h>.
 * The caller owns one `struct tlfs` and one `struct tlfs_vp` per virtual processor (VP), and gives
 * memory, time, locks and everything with an effect outside through `struct tlfs_ops`. Nothing here
 * blocks, but for what the callbacks do.
 *
 * What is offered is what is implemented, and the other way round: CPUID says so (see cpuid.c).
 *
 * Overlay pages (hypercall, SIMP, SIEFP, reference TSC, VP assist) are ordinary guest RAM written in
 * place: what lay in the page before is overwritten and does not come back when the page is
 * disabled. Enabling one where there is no RAM raises #GP.
 *
 * Threads. Every function says who may call it:
 *   [any] from any thread at any time.
 *   [vp]  only from the thread that runs that VP, or while the VP does not run.
 * Per-VP SynIC and timer state is guarded by ops->lock(vp), a leaf lock: under it only page(),
 * page_written(), reference_time(), sample_clock() and arm_timer() are called, and they must not come
 * back into this library. All other callbacks are made with no lock held. The lock of VP 0 also guards the
 * reference TSC page.
 *
 * A queue of messages above tlfs_post_message() needs a lock of its own, held over "post, and queue
 * when busy" and taken in message_slot_free(); then no message is left behind.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLFS_MAX_VPS         64u
#define TLFS_SINT_COUNT      16u
#define TLFS_TIMER_COUNT     4u
#define TLFS_EVENT_FLAGS     2048u
#define TLFS_MESSAGE_PAYLOAD 240u
#define TLFS_NEVER           UINT64_MAX

/* HV_STATUS (TLFS appendix B): what callbacks return and guests see. */
enum tlfs_status {
	HV_STATUS_SUCCESS = 0x0000,
	HV_STATUS_INVALID_HYPERCALL_CODE = 0x0002,
	HV_STATUS_INVALID_HYPERCALL_INPUT = 0x0003,
	HV_STATUS_INVALID_ALIGNMENT = 0x0004,
	HV_STATUS_INVALID_PARAMETER = 0x0005,
	HV_STATUS_ACCESS_DENIED = 0x0006,
	HV_STATUS_INVALID_PARTITION_STATE = 0x0007,
	HV_STATUS_OPERATION_DENIED = 0x0008,
	HV_STATUS_INSUFFICIENT_MEMORY = 0x000b,
	HV_STATUS_INVALID_PARTITION_ID = 0x000d,
	HV_STATUS_INVALID_VP_INDEX = 0x000e,
	HV_STATUS_INVALID_PORT_ID = 0x0011,
	HV_STATUS_INVALID_CONNECTION_ID = 0x0012,
	HV_STATUS_INSUFFICIENT_BUFFERS = 0x0013,
	HV_STATUS_INVALID_VP_STATE = 0x0015
};

/* A set of VPs; bit v % 64 of word v / 64. Never names a VP that does not exist. */
struct tlfs_vp_set {
	uint64_t bits[TLFS_MAX_VPS / 64];
};

/* A TLB flush that a guest asked for (TLFS 9.4). */
struct tlfs_flush {
	struct tlfs_vp_set vps;
	bool all_address_spaces;
	bool non_global_only;   /* global translations may stay */
	uint64_t address_space; /* CR3 value, valid unless all_address_spaces */
	unsigned range_count;   /* 0: every address, and `ranges` is NULL */
	/* Each range: page address in bits 12-63, number of further pages in bits 0-11. */
	const uint64_t *ranges;
};

/* A crash report (TLFS 2.9: HV_X64_MSR_CRASH_*). */
struct tlfs_crash {
	uint64_t parameters[5];
	bool has_message; /* then parameters[3] is its GPA, parameters[4] its length: unchecked */
	uint64_t message_gpa;
	uint64_t message_length; /* at most a page: longer is cut, 0 when there is no message */
};

/* The local APIC through the synthetic MSRs. */
enum tlfs_apic_register { TLFS_APIC_EOI, TLFS_APIC_ICR, TLFS_APIC_TPR };

struct hv_initial_vp_context; /* tlfs/protocol.h */

struct tlfs_ops {
	/* --- memory --- */

	/* [any] Host address of the guest RAM page at `gpa` (page aligned), NULL when there is none.
	 * Valid as long as the partition. */
	void *(*page)(void *context, uint64_t gpa);

	/* [any] Bytes inside what page() returned have been written. May be NULL. */
	void (*page_written)(void *context, const void *at, size_t size);

	/* [vp] Copy from guest memory (never across a page). False when some of it is not RAM. */
	bool (*read_memory)(void *context, uint64_t gpa, void *buffer, size_t size);

	/* [vp] Write the instructions of the hypercall page (trap, return) to the page at `gpa`. */
	void (*write_hypercall_page)(void *context, unsigned vp, uint64_t gpa);

	/* --- time --- */

	/* [any] Partition reference time: 100 ns units, monotonic, stands still while paused. */
	uint64_t (*reference_time)(void *context);

	/* [any] The guest's TSC (the same on all VPs) and the reference time, taken at one moment. */
	void (*sample_clock)(void *context, uint64_t *tsc, uint64_t *reference_time);

	/* [vp] How long this VP has run, in 100 ns units. */
	uint64_t (*vp_runtime)(void *context, unsigned vp);

	/* [any] Call tlfs_timer_expired(vp) when reference_time() has reached `deadline`; TLFS_NEVER
	 * cancels. Replaces the deadline before. Called with the VP's lock held. */
	void (*arm_timer)(void *context, unsigned vp, uint64_t deadline);

	/* --- interrupts --- */

	/* [any] Make `vector` pending in the VP's local APIC (apic_request). */
	void (*request_interrupt)(void *context, unsigned vp, uint8_t vector);

	/* [vp] The vectors that are auto-EOI from now on (apic_set_auto_eoi). */
	void (*set_auto_eoi)(void *context, unsigned vp, const uint64_t vectors[4]);

	/* [vp] Optional, offered when set: HV_X64_MSR_EOI (write only), ICR and TPR. False: #GP. */
	bool (*read_apic)(void *context, unsigned vp, enum tlfs_apic_register which, uint64_t *value);
	bool (*write_apic)(void *context, unsigned vp, enum tlfs_apic_register which, uint64_t value);

	/* [vp] Optional, offered when set: make `vector` (16 to 255) pending on every VP of the set (TLFS 10.6). */
	void (*send_ipi)(void *context, unsigned vp, const struct tlfs_vp_set *vps, uint8_t vector);

	/* [any] Per-VP lock, not recursive. */
	void (*lock)(void *context, unsigned vp);
	void (*unlock)(void *context, unsigned vp);

	/* --- what the guest asks for --- */

	/* [vp] Optional, offered when set. Returns when no VP of the set uses the translations any more. */
	void (*flush_tlb)(void *context, unsigned vp, const struct tlfs_flush *flush);

	/* [vp] HvCallPostMessage and HvCallSignalEvent. `payload` is a private copy. */
	enum tlfs_status (*post_message)(void *context, unsigned vp, uint32_t connection_id, uint32_t type,
					 const void *payload, size_t size);
	enum tlfs_status (*signal_event)(void *context, unsigned vp, uint32_t connection_id, uint16_t flag);

	/* [vp] The slot of `sint` can take a message now: the guest wrote EOM or enabled what was
	 * missing, after a post found it busy. Post what is queued until it is busy again (which asks
	 * the guest for the next EOM) or the queue is empty. */
	void (*message_slot_free)(void *context, unsigned vp, unsigned sint);

	/* [vp] Optional, offered when set: the VP has spun long for a lock; let another run. */
	void (*long_spin_wait)(void *context, unsigned vp, uint32_t spins);

	/* [vp] Optional, offered when set: HV_X64_MSR_GUEST_IDLE was read. Wait until an interrupt is
	 * pending for the VP, *whatever RFLAGS.IF says* (Linux pv spinlocks wait here with IF clear). */
	void (*guest_idle)(void *context, unsigned vp);

	/* [vp] HV_X64_MSR_RESET; and the crash registers. */
	void (*reset)(void *context, unsigned vp);
	void (*crash)(void *context, unsigned vp, const struct tlfs_crash *crash);

	/* [vp] Optional, offered when set: HvCallStartVirtualProcessor. `start` is a private copy. */
	enum tlfs_status (*start_vp)(void *context, unsigned vp, unsigned target,
				     const struct hv_initial_vp_context *start);
};

struct tlfs_config {
	unsigned vp_count;       /* 1 to TLFS_MAX_VPS */
	uint64_t tsc_frequency;  /* Hz; at 10 MHz or less the reference TSC page is marked invalid */
	uint64_t apic_frequency; /* Hz, of the local APIC timer */
	unsigned physical_address_bits;
	bool x2apic;             /* CPUID offers x2APIC: then it is recommended over the APIC MSRs */
	bool deprecate_auto_eoi; /* recommend against auto-EOI: where hardware virtualizes the APIC */
	bool tsc_unstable;       /* the TSC is no clock on this host: the reference TSC page is marked invalid */
};

/* --- state ------------------------------------------------------------------------------------ */

struct tlfs_timer_state {
	uint64_t config;     /* HV_X64_MSR_STIMERn_CONFIG */
	uint64_t count;      /* HV_X64_MSR_STIMERn_COUNT */
	uint64_t deadline;   /* reference time, TLFS_NEVER when not running */
	uint64_t expired_at; /* when a message that waits for its slot was due */
	uint32_t message_waits;
	uint32_t reserved;
};

/* Everything saved of one VP; fixed-width fields only. */
struct tlfs_vp_state {
	uint64_t scontrol, siefp, simp;
	uint64_t sint[TLFS_SINT_COUNT];
	uint64_t assist_page;
	struct tlfs_timer_state timers[TLFS_TIMER_COUNT];
};

/* Everything saved of the partition. */
struct tlfs_state {
	uint64_t guest_os_id;
	uint64_t hypercall;
	uint64_t reference_tsc;
	uint64_t crash[5];
	uint32_t tsc_sequence;
	uint32_t reserved;
};

struct tlfs_vp {
	struct tlfs_vp_state state; /* under ops->lock(vp) */
	uint32_t waiting;           /* SINTs whose slot somebody waits for; under ops->lock(vp) */
	uint64_t input[512];        /* the hypercall's input, copied from the guest once; [vp] */
};

struct tlfs {
	struct tlfs_vp *vps;
	const struct tlfs_ops *ops;
	void *context;
	struct tlfs_config config;
	uint64_t tsc_scale; /* reference time = (tsc * scale >> 64) + offset; 0: not representable */
	_Atomic uint64_t guest_os_id, hypercall, reference_tsc, crash[5];
	_Atomic uint32_t tsc_sequence;
};

/* --- life ------------------------------------------------------------------------------------- */

/* Initialise `t` and config->vp_count entries of `vps` to the state after reset. `vps` and `ops`
 * stay the caller's and must outlive `t`. */
void tlfs_init(struct tlfs *t, struct tlfs_vp *vps, const struct tlfs_config *config,
	       const struct tlfs_ops *ops, void *context);

/* [no vp runs] The guest's TSC counts at another frequency than tlfs_init() was told, because the guest began
 * elsewhere. tlfs_clock_changed() must follow. */
void tlfs_set_tsc_frequency(struct tlfs *t, uint64_t frequency);

/* [no vp runs] System reset: everything back, timers cancelled. */
void tlfs_reset(struct tlfs *t);

/* [no vp runs] Save and load. Load arms timers and sets auto-EOI vectors; it returns false and
 * changes nothing for a state that no guest can have made. */
void tlfs_save(struct tlfs *t, struct tlfs_state *state);
bool tlfs_load(struct tlfs *t, const struct tlfs_state *state);
void tlfs_save_vp(struct tlfs *t, unsigned vp, struct tlfs_vp_state *state);
bool tlfs_load_vp(struct tlfs *t, unsigned vp, const struct tlfs_vp_state *state);

/* [any] TSC and reference time no longer stand in the relation of the last sample (after a pause, a
 * migration): rewrites the reference TSC page under a new sequence number (TLFS 12.7.3). */
void tlfs_clock_changed(struct tlfs *t);

/* --- CPUID ------------------------------------------------------------------------------------ */

/* [any] Leaves 0x40000000 to 0x400000ff (TLFS 2.4); `out` is EAX, EBX, ECX, EDX. False for other
 * leaves. The caller sets CPUID.1:ECX[31] (hypervisor present) itself. */
bool tlfs_cpuid(const struct tlfs *t, uint32_t leaf, uint32_t out[4]);

/* --- MSRs ------------------------------------------------------------------------------------- */

enum tlfs_msr { TLFS_MSR_OK, TLFS_MSR_FAULT /* raise #GP */, TLFS_MSR_UNKNOWN /* not a Hyper-V MSR */ };

/* [vp] RDMSR and WRMSR. Everything from 0x40000000 to 0x400001ff is ours: unoffered ones fault. */
enum tlfs_msr tlfs_read_msr(struct tlfs *t, unsigned vp, uint32_t msr, uint64_t *value);
enum tlfs_msr tlfs_write_msr(struct tlfs *t, unsigned vp, uint32_t msr, uint64_t value);

/* --- hypercalls ------------------------------------------------------------------------------- */

/* One hypercall (TLFS 3.7). 64-bit callers: input RCX, in RDX, out R8, result RAX. 32-bit callers:
 * input EDX:EAX, in EBX:ECX, out EDI:ESI, result EDX:EAX (see tlfs_hypercall_load32). xmm holds
 * XMM0 to XMM5, low half first; read only for fast calls with more than 16 bytes of input. */
struct tlfs_hypercall {
	uint64_t input, in, out;
	uint64_t xmm[12];
	uint64_t result;
};

/* [any] Whether hypercalls may be made: the guest has set its OS id and the hypercall page. If not,
 * or if CPL is not 0 or the processor is in real mode, the caller raises #UD (TLFS 3.4). */
bool tlfs_hypercall_enabled(const struct tlfs *t);

/* [vp] Do the call and set `result`. Always finishes: a repeated call is done in one go. */
void tlfs_hypercall(struct tlfs *t, unsigned vp, struct tlfs_hypercall *call);

/* Fetch from and return to general registers in encoding order (RAX RCX RDX RBX RSP RBP RSI RDI). */
static inline void tlfs_hypercall_load32(struct tlfs_hypercall *call, const uint64_t gpr[8])
{
	call->input = gpr[2] << 32 | (uint32_t)gpr[0];
	call->in = gpr[3] << 32 | (uint32_t)gpr[1];
	call->out = gpr[7] << 32 | (uint32_t)gpr[6];
}

static inline void tlfs_hypercall_store32(const struct tlfs_hypercall *call, uint64_t gpr[8])
{
	gpr[0] = (uint32_t)call->result;
	gpr[2] = call->result >> 32;
}

/* --- SynIC: host to guest --------------------------------------------------------------------- */

enum tlfs_post {
	TLFS_POSTED,
	TLFS_BUSY,   /* slot occupied, or SynIC, page or SINT not enabled: message_slot_free() follows */
	TLFS_INVALID /* no such VP or SINT, or too long */
};

/* [any] Put a message into the slot of `sint` and interrupt the VP (TLFS 11.9). When the slot is
 * occupied, marks the message in it so that the guest writes EOM. */
enum tlfs_post tlfs_post_message(struct tlfs *t, unsigned vp, unsigned sint, uint32_t type,
				 const void *payload, size_t size);

enum tlfs_signal {
	TLFS_SIGNALLED,      /* the flag was clear: set, VP interrupted */
	TLFS_ALREADY_SET,    /* nothing to do */
	TLFS_SIGNAL_DROPPED, /* SynIC, page or SINT not enabled */
	TLFS_SIGNAL_INVALID  /* no such VP, SINT or flag */
};

/* [any] Set an event flag (TLFS 11.10). */
enum tlfs_signal tlfs_signal_event(struct tlfs *t, unsigned vp, unsigned sint, unsigned flag);

/* --- synthetic timers ------------------------------------------------------------------------- */

/* [any] The deadline given to arm_timer() has come, or may have. Calling it early or twice does no
 * harm. */
void tlfs_timer_expired(struct tlfs *t, unsigned vp);
