/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * apic.h - the local APICs of one partition: registers, priorities, interrupt messages, timers.
 *
 * Freestanding C: no allocation, no library but <stdint.h>, <stddef.h>, <stdbool.h>, <stdatomic.h>.
 * The caller owns an array of `struct apic`, one per virtual processor (VP) in VP index order, and
 * gives time, locks and wake-ups through `struct apic_ops`. Nothing here blocks.
 *
 * Threads. Every function says who may call it:
 *   [any] from any thread at any time; lock-free (delivery into an IRR is an atomic OR).
 *   [vp]  only from the thread that runs that VP, or while the VP does not run.
 * Only the timer is guarded by ops->lock(vp), because apic_timer_expired() is [any]; the lock is a
 * leaf: of the callbacks only `arm_timer`, `now` and `tsc` are called under it, and they must not
 * come back into this library.
 *
 * Errors: accesses that raise #GP in a guest return false. Addresses of the MMIO page never fault.
 *
 * Source: Intel SDM volume 3, chapter "Advanced Programmable Interrupt Controller (APIC)"; section
 * titles are named at the functions. Not offered: CMCI, EOI-broadcast suppression, writable xAPIC id;
 * LINT pins with a fixed vector are edge-triggered whatever their LVT says (no remote IRR).
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define APIC_MSR_BASE         0x1bu  /* IA32_APIC_BASE */
#define APIC_MSR_TSC_DEADLINE 0x6e0u /* IA32_TSC_DEADLINE */
#define APIC_MSR_X2APIC_FIRST 0x800u
#define APIC_MSR_X2APIC_LAST  0x83fu /* the rest up to 0x8ff is reserved and faults too */

#define APIC_BASE_BSP     0x100u
#define APIC_BASE_X2APIC  0x400u
#define APIC_BASE_ENABLE  0x800u
#define APIC_DEFAULT_BASE 0xfee00000u
#define APIC_PAGE_SIZE    4096u

/* A deadline that never comes. */
#define APIC_NEVER UINT64_MAX

/* Delivery modes as the interrupt command register encodes them. The values are those of enum
 * interrupt_delivery in hypervisor.h. */
enum apic_delivery {
	APIC_FIXED = 0,
	APIC_LOWEST_PRIORITY = 1,
	APIC_SMI = 2,
	APIC_NMI = 4,
	APIC_INIT = 5,
	APIC_SIPI = 6,
	APIC_EXTINT = 7
};

/* An interrupt message on the system bus ("Message Signalled Interrupts", "Interrupt Command Register"). */
struct apic_message {
	uint8_t vector;
	enum apic_delivery delivery;
	bool logical; /* destination mode */
	bool level;   /* trigger mode: sets the TMR bit, so that EOI is broadcast */
	uint32_t destination;
};

/* What a VP is told other than by its IRR. */
enum apic_event {
	APIC_EVENT_NMI,
	APIC_EVENT_INIT, /* the VP calls apic_reset(apic, true) and waits for SIPI */
	APIC_EVENT_SIPI, /* `vector`: start at vector << 12; ignored unless the VP waits for it */
	APIC_EVENT_SMI,
	APIC_EVENT_EXTINT /* take the vector from the 8259 */
};

struct apic_ops {
	/* [any] `vp` has a newly pending vector: wake it or make it leave guest code. Called on the
	 * sender's thread; `vp` may be the sender itself. */
	void (*kick)(void *context, unsigned vp);

	/* [any] NMI, INIT, SIPI, SMI, ExtINT for `vp`: the caller records it and wakes the VP. */
	void (*event)(void *context, unsigned vp, enum apic_event event, uint8_t vector);

	/* [vp] A level-triggered vector was ended (to the I/O APICs). */
	void (*broadcast_eoi)(void *context, uint8_t vector);

	/* [vp] Optional. IA32_APIC_BASE changed: see apic_mmio_base(), apic_enabled(). */
	void (*base_changed)(void *context, unsigned vp, uint64_t base);

	/* [any] Call apic_timer_expired(vp) at or after `deadline`, in nanoseconds of now();
	 * APIC_NEVER cancels. Replaces the deadline before. Called with the VP's lock held. */
	void (*arm_timer)(void *context, unsigned vp, uint64_t deadline);

	/* [any] A monotonic clock in nanoseconds that stands still while the partition is paused. */
	uint64_t (*now)(void *context);

	/* [any] The VP's time stamp counter as the guest reads it (for TSC-deadline mode). */
	uint64_t (*tsc)(void *context, unsigned vp);

	/* [any] A lock per VP, not recursive; held for a few dozen instructions. */
	void (*lock)(void *context, unsigned vp);
	void (*unlock)(void *context, unsigned vp);
};

struct apic_config {
	unsigned vp_count;
	uint64_t timer_frequency; /* Hz before the divide configuration */
	uint64_t tsc_frequency;   /* Hz */
	unsigned physical_address_bits; /* bounds IA32_APIC_BASE */
	bool x2apic;                    /* whether CPUID offers x2APIC; if not, enabling it faults */
	bool tsc_deadline;              /* whether CPUID offers the TSC-deadline timer */
};

/* Index into a local vector table. */
enum apic_lvt {
	APIC_LVT_TIMER,
	APIC_LVT_THERMAL,
	APIC_LVT_PERF,
	APIC_LVT_LINT0,
	APIC_LVT_LINT1,
	APIC_LVT_ERROR
};
#define APIC_LVT_COUNT 6

/* All state of one local APIC in fixed-width fields, for saving. */
struct apic_state {
	uint64_t base; /* IA32_APIC_BASE */
	uint64_t irr[4], isr[4], tmr[4];
	uint64_t auto_eoi[4];
	uint64_t icr;
	uint32_t id;
	uint32_t tpr, ldr, dfr, svr;
	uint32_t esr, esr_pending;
	uint32_t lvt[APIC_LVT_COUNT]; /* by enum apic_lvt */
	uint32_t lint_level;          /* bit 0: LINT0 is asserted, bit 1: LINT1 */
	uint32_t divide;
	uint32_t initial_count;
	uint64_t timer_start;    /* now() when the count was last loaded */
	uint64_t timer_deadline; /* now() of the next expiry, APIC_NEVER when stopped */
	uint64_t tsc_deadline;   /* IA32_TSC_DEADLINE, 0 when disarmed */
};

/* One local APIC. Fields are private to the library but for the inline functions below. */
struct apic {
	struct apic_bus *bus;
	unsigned vp;
	uint32_t id;
	_Atomic uint32_t attention; /* 0: surely nothing to deliver */
	_Atomic uint64_t irr[4], tmr[4], auto_eoi[4];
	uint64_t isr[4];
	_Atomic uint64_t base;
	_Atomic uint32_t tpr, ldr, dfr, svr, esr_pending;
	uint32_t esr;
	_Atomic uint32_t lvt[APIC_LVT_COUNT];
	_Atomic uint32_t lint_level;
	uint64_t icr;
	/* under ops->lock */
	uint32_t divide, initial_count;
	uint64_t timer_start, timer_deadline, tsc_deadline;
};

/* The local APICs of one partition and what they share. */
struct apic_bus {
	struct apic *apics;
	const struct apic_ops *ops;
	void *context;
	struct apic_config config;
	_Atomic uint32_t arbitration; /* round robin for lowest-priority delivery */
};

/* --- life ------------------------------------------------------------------------------------- */

/* Initialise `bus` and config->vp_count entries of `apics` to the state after power-up; the APIC id
 * of a VP is its index. `apics` and `ops` stay the caller's and must outlive the bus. */
void apic_init(struct apic_bus *bus, struct apic *apics, const struct apic_config *config,
	       const struct apic_ops *ops, void *context);

/* [vp] Power-up reset, or INIT reset, which keeps IA32_APIC_BASE ("Local APIC State After It
 * Receives an INIT"). Disarms the timer. */
void apic_reset(struct apic *apic, bool init);

/* [vp stopped] Everything a local APIC knows, and back. Load arms the timer again; it returns false
 * and changes nothing when the state is one that no APIC can be in. */
void apic_save(struct apic *apic, struct apic_state *state);
bool apic_load(struct apic *apic, const struct apic_state *state);

/* --- delivery --------------------------------------------------------------------------------- */

/* [any] Send a message of a device to the APICs it names. True when some APIC accepted it. */
bool apic_deliver(struct apic_bus *bus, const struct apic_message *message);

/* [any] Make `vector` pending in one APIC (edge-triggered), as SynIC, timers and cluster IPIs do.
 * False when the APIC is disabled or the vector is below 16; then nothing happens. */
bool apic_request(struct apic *apic, uint8_t vector);

/* [any] Drive the LINT0 (pin 0) or LINT1 (pin 1) input ("Local Vector Table"). LINT0 in ExtINT mode
 * hands APIC_EVENT_EXTINT to the caller on the rising edge; LINT1 usually is NMI. */
void apic_set_lint(struct apic *apic, unsigned pin, bool asserted);

/* [any] Whether this APIC would pass on the 8259's interrupt: globally disabled, or LINT0 is an
 * unmasked ExtINT. */
bool apic_accepts_extint(struct apic *apic);

/* [any] The set of vectors that do not enter the ISR when acknowledged and so need no EOI: the
 * auto-EOI SINTs (TLFS 11.8.3). Bit v % 64 of word v / 64. */
void apic_set_auto_eoi(struct apic *apic, const uint64_t vectors[4]);

/* --- taking interrupts ------------------------------------------------------------------------ */

int apic_find_pending(struct apic *apic);

/* [vp] The vector that the processor would take now if RFLAGS.IF allows, -1 for none. One relaxed
 * load when there is nothing to do; so this may stand in the innermost loop. */
static inline int apic_pending_vector(struct apic *apic)
{
	if (__builtin_expect(!atomic_load_explicit(&apic->attention, memory_order_relaxed), 1))
		return -1;
	return apic_find_pending(apic);
}

/* [any] Whether apic_pending_vector() is worth a call: for the decision to halt, made by the VP
 * after it said that it is about to sleep. */
static inline bool apic_has_attention(struct apic *apic)
{
	return atomic_load(&apic->attention) != 0;
}

/* [vp] Take the highest pending vector: clears its IRR bit and sets its ISR bit (unless it is
 * auto-EOI). -1 when nothing is deliverable. */
int apic_acknowledge(struct apic *apic);

/* [vp] End the interrupt in service. Also HV_X64_MSR_EOI. */
void apic_eoi(struct apic *apic);

/* [vp] CR8 (0 to 15) and the whole TPR (0 to 255; HV_X64_MSR_TPR). */
uint64_t apic_get_cr8(struct apic *apic);
void apic_set_cr8(struct apic *apic, uint64_t value);
uint8_t apic_get_tpr(struct apic *apic);
void apic_set_tpr(struct apic *apic, uint8_t value);

/* [vp] The interrupt command register in the xAPIC layout (destination in bits 56-63), whatever the
 * mode: HV_X64_MSR_ICR. False: reserved bits set. */
uint64_t apic_get_icr(struct apic *apic);
bool apic_set_icr(struct apic *apic, uint64_t value);

/* --- register access -------------------------------------------------------------------------- */

/* [vp] The 4 KiB page at apic_mmio_base(). `size` is 1, 2, 4 or 8. Aligned dwords are the
 * registers; other reads give bytes of them, other writes are dropped. */
uint64_t apic_mmio_read(struct apic *apic, uint32_t offset, unsigned size);
void apic_mmio_write(struct apic *apic, uint32_t offset, unsigned size, uint64_t value);

/* [any] Where the page is; 0 when there is none (APIC disabled, or x2APIC mode). */
static inline uint64_t apic_mmio_base(struct apic *apic)
{
	uint64_t base = atomic_load_explicit(&apic->base, memory_order_relaxed);

	return (base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) == APIC_BASE_ENABLE ? base & ~0xfffull : 0;
}

/* [any] Global enable: CPUID.1:EDX.APIC follows it. */
static inline bool apic_enabled(struct apic *apic)
{
	return atomic_load_explicit(&apic->base, memory_order_relaxed) & APIC_BASE_ENABLE;
}

/* Whether an MSR is this library's: IA32_APIC_BASE, IA32_TSC_DEADLINE, 0x800 to 0x8ff. */
static inline bool apic_owns_msr(uint32_t msr)
{
	return msr == APIC_MSR_BASE || msr == APIC_MSR_TSC_DEADLINE || (msr >= 0x800 && msr <= 0x8ff);
}

/* [vp] RDMSR and WRMSR of an owned MSR. False: #GP. */
bool apic_read_msr(struct apic *apic, uint32_t msr, uint64_t *value);
bool apic_write_msr(struct apic *apic, uint32_t msr, uint64_t value);

/* --- timer ------------------------------------------------------------------------------------ */

/* [any] The deadline given to arm_timer() has come, or may have. `now` is ops->now(). Calling it
 * early or twice does no harm: it arms again what is not due. */
void apic_timer_expired(struct apic *apic, uint64_t now);

/* [vp] The guest's TSC jumped (IA32_TSC, IA32_TSC_ADJUST): computes a TSC deadline anew. */
void apic_tsc_changed(struct apic *apic);
