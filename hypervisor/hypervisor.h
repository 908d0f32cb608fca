/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hypervisor.h - partitions, virtual processors, guest memory, intercepts, SynIC: the lowest layer
 * of a virtual machine, in the words of the Hyper-V Top Level Functional Specification (TLFS).
 *
 * A partition looks the same whatever runs its processors: `soft` (no hardware needed), `kvm`, or
 * `none` (no processor at all: the test double of a guest drives hypercalls and MSRs by function
 * call). Devices register for the ports and pages they stand behind and raise interrupts; they
 * never learn which processor runs the guest.
 *
 * Life: create, add memory, register devices and ports, set registers, start; then pause, resume,
 * stop; destroy. The partition owns its memory and the threads of its virtual processors.
 *
 * Threads: set-up functions belong to one thread and end before partition_start(). Functions marked
 * [any] may be called from any thread at any time between create and destroy. Handlers marked [vp]
 * run on a virtual processor's thread, several at once; they must be short and must not block.
 *
 * Errors: negative errno; `err` gets the sentence for a person.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/base.h"

struct partition;

/* A guest physical address. */
typedef uint64_t gpa_t;

#define GUEST_PAGE_SIZE 4096u
#define GUEST_PAGE_SHIFT 12

/* Hyper-V's own limit is higher; ours is what xAPIC destination fields and the ACPI tables carry. */
#define PARTITION_MAX_VPS 64u

enum processor_kind { PROCESSOR_AUTO, PROCESSOR_SOFT, PROCESSOR_KVM, PROCESSOR_NONE };

/* Why a running partition came to an end. Reported once, on a VP's thread. */
enum partition_event_kind {
	PARTITION_EVENT_TRIPLE_FAULT,   /* a VP could not deliver a double fault */
	PARTITION_EVENT_CRASH,          /* the guest wrote HV_X64_MSR_CRASH_CTL; the partition runs on */
	PARTITION_EVENT_RESET,          /* the guest wrote HV_X64_MSR_RESET */
	PARTITION_EVENT_PROCESSOR_ERROR /* the processor cannot go on; `text` says why */
};

struct partition_event {
	enum partition_event_kind kind;
	unsigned vp_index;
	uint64_t rip;
	uint64_t crash_parameters[5]; /* HV_X64_MSR_CRASH_P0..P4 */
	char text[4608];              /* crash message or report (registers, bytes at RIP), may be empty */
};

struct partition_host;

struct partition_config {
	enum processor_kind processor;
	const char *processor_options; /* after "soft," on the command line; NULL for none */
	unsigned vp_count;             /* 1 to PARTITION_MAX_VPS */
	bool compatibility;            /* show the guest only CPUID features that every kind of processor serves */
	uint64_t memory_max;           /* bytes of RAM that it is to have room for; at least 512 GiB are set aside */
	const struct partition_host *host; /* NULL: opened anew for this one */
	/* [vp] Called for every event; the VP's thread waits meanwhile. Must not call partition_stop(). */
	void (*on_event)(void *context, const struct partition_event *event);
	void *context;
};

/* --- life ------------------------------------------------------------------------------------- */

/* What partitions need of the host beside private memory and time: files for guest memory and for translated code, and /dev/kvm where
 * there is one. A process that gives up its rights opens it before; it serves any number of partitions, one at a time, with up to
 * `memory` bytes of RAM. The files have their sizes, and can never become larger. */
int partition_host_open(struct partition_host **out, uint64_t memory, struct error *err);
void partition_host_close(struct partition_host *host);

int partition_create(struct partition **out, const struct partition_config *config, struct error *err);
void partition_destroy(struct partition *p);

/* "soft" or "kvm": what PROCESSOR_AUTO became, and why (one clause, may be empty). */
const char *partition_processor_name(const struct partition *p);
const char *partition_processor_reason(const struct partition *p);
unsigned partition_vp_count(const struct partition *p);

/* Start the VP threads. VP 0 runs from the registers set by vp_set_registers(), the others wait for
 * INIT and SIPI (or HvCallStartVirtualProcessor). */
int partition_start(struct partition *p, struct error *err);

/* [any but vp] Stop all VPs at an instruction boundary and freeze the partition's time; and go on.
 * pause returns when no VP runs. Both may be called in any state; calls do not nest. */
void partition_pause(struct partition *p);
void partition_resume(struct partition *p);

/* [any but vp] End all VP threads for good. After this no handler runs. */
void partition_stop(struct partition *p);

/* [any] The partition reference time in 100 ns units since partition_start(); stands still while
 * paused (TLFS 12.4). */
uint64_t partition_reference_time(struct partition *p);

/* --- memory ----------------------------------------------------------------------------------- */

/* Give the partition `size` bytes of zeroed RAM at `gpa` (both page aligned). All RAM lives in one
 * shared memfd. -EEXIST when it overlaps, -ENOMEM when the host has no room. */
int partition_add_memory(struct partition *p, gpa_t gpa, uint64_t size, struct error *err);

/* [any] The host address of guest RAM [gpa, gpa + size), NULL unless all of it is RAM of one region.
 * Valid until destroy. What it points at changes under the reader: copy once, check the copy. */
void *partition_memory(struct partition *p, gpa_t gpa, uint64_t size);

/* [any] Copy between guest memory and ours, across regions. -EFAULT when any byte is not RAM (then
 * nothing is said about how much was copied). */
int partition_read(struct partition *p, gpa_t gpa, void *buffer, size_t size);
int partition_write(struct partition *p, gpa_t gpa, const void *buffer, size_t size);

/* [any] Tell the processors that the host wrote guest memory through partition_memory() where code
 * may lie (loaders do; data of devices needs it too where a guest may execute what was read from a
 * disk). partition_write() does it by itself. */
void partition_memory_written(struct partition *p, gpa_t gpa, uint64_t size);

/* [any] The same by host address, inside what partition_memory() returned. For providers, which hold
 * guest buffers as iovecs and do not know their GPAs. */
void partition_host_written(struct partition *p, const void *host, uint64_t size);

/* Bytes of RAM in all. */
uint64_t partition_memory_size(const struct partition *p);

/* [any] The regions of RAM in the order in which they were added; false: there are not so many. */
bool partition_memory_region(const struct partition *p, unsigned index, gpa_t *gpa, uint64_t *size);

/* [any] False: no page of [gpa, gpa + size), which lies inside one region, was ever written, so all are zeros. */
bool partition_memory_used(const struct partition *p, gpa_t gpa, uint64_t size);

/* [any] Where in guest memory `host` lies, which must be inside what partition_memory() returned. */
gpa_t partition_memory_gpa(const struct partition *p, const void *host);

/* --- intercepts ------------------------------------------------------------------------------- */

struct io_ops {
	/* [vp] `size` is 1, 2 or 4 for ports and 1, 2, 4 or 8 for memory; `offset` counts from the
	 * start of the range; offset + size stays inside the range. */
	uint64_t (*read)(void *device, uint64_t offset, unsigned size);
	void (*write)(void *device, uint64_t offset, unsigned size, uint64_t value);
};

/* Put a device behind ports [first, first + count) or guest physical [gpa, gpa + size). `name` is
 * for reports and is not copied. Ports and pages that nobody claimed read as all ones. -EEXIST when
 * ranges overlap. Only before start. */
int partition_add_ports(struct partition *p, uint16_t first, unsigned count, const struct io_ops *ops,
    void *device, const char *name);
int partition_add_mmio(struct partition *p, gpa_t gpa, uint64_t size, const struct io_ops *ops, void *device,
    const char *name);

/* --- interrupts ------------------------------------------------------------------------------- */

enum interrupt_delivery {
	INTERRUPT_FIXED = 0,
	INTERRUPT_LOWEST_PRIORITY = 1,
	INTERRUPT_SMI = 2,
	INTERRUPT_NMI = 4,
	INTERRUPT_INIT = 5,
	INTERRUPT_SIPI = 6,
	INTERRUPT_EXTINT = 7
};

/* An interrupt message as the I/O APIC or an MSI sends it (SDM volume 3, 11.11). */
struct interrupt_message {
	uint8_t vector;
	enum interrupt_delivery delivery;
	bool logical;     /* destination mode */
	bool level;       /* trigger mode: sets the TMR bit, EOI is broadcast; only an I/O APIC sends these */
	uint8_t pin;      /* of the I/O APIC, for level */
	uint32_t destination;
};

/* [any] Deliver to the local APICs (HvCallAssertVirtualInterrupt). */
void partition_assert_interrupt(struct partition *p, const struct interrupt_message *message);

/* [vp] Called when a local APIC broadcasts the EOI of a level-triggered vector. Only before start. */
void partition_set_eoi_handler(struct partition *p, void (*handler)(void *context, uint8_t vector),
    void *context);

/* --- SynIC: host to guest --------------------------------------------------------------------- */

#define SYNIC_SINT_COUNT 16u
#define SYNIC_MESSAGE_PAYLOAD 240u
#define SYNIC_EVENT_FLAGS 2048u

/* [any] Queue a message for the guest's message slot (TLFS 11.9); it is delivered when the slot is
 * free. -EINVAL: no such VP or SINT, or too long; -ENOBUFS: the queue (64 a slot) is full. A guest
 * that has not enabled its SynIC gets the message when it does. */
int partition_post_message(struct partition *p, unsigned vp_index, unsigned sint, uint32_t type,
    const void *payload, size_t size);

/* [any] Set an event flag and interrupt the VP when it was clear (TLFS 11.10). -EINVAL as above,
 * -ENXIO while the guest has the SINT masked or its event page disabled: the signal is dropped. */
int partition_signal_event(struct partition *p, unsigned vp_index, unsigned sint, unsigned flag);

/* --- SynIC: guest to host --------------------------------------------------------------------- */

/* [vp] A message the guest posted with HvCallPostMessage to `connection_id`; payload valid during
 * the call. Returns 0 or -ENOBUFS, which the guest sees as HV_STATUS_INSUFFICIENT_BUFFERS. */
typedef int (*message_port_fn)(void *context, unsigned vp_index, uint32_t type, const void *payload, size_t size);

/* [any] Listen on a connection id (24 bits); -EEXIST when somebody does. close waits until no
 * handler of that port runs. */
int partition_open_message_port(struct partition *p, uint32_t connection_id, message_port_fn handler, void *context);
void partition_close_message_port(struct partition *p, uint32_t connection_id);

/* [any] Write to `eventfd` whenever the guest calls HvCallSignalEvent on `connection_id` (flag 0).
 * The descriptor stays the caller's and must live until close returns. */
int partition_open_event_port(struct partition *p, uint32_t connection_id, int eventfd);
void partition_close_event_port(struct partition *p, uint32_t connection_id);

/* --- virtual processors ----------------------------------------------------------------------- */

struct vp_segment {
	uint64_t base;
	uint32_t limit;      /* in bytes, granularity applied */
	uint16_t selector;
	uint16_t attributes; /* descriptor bits 40-47 and 52-55: type, S, DPL, P, AVL, L, D/B, G (bits 0-7, 12-15) */
};

/* The part of a processor's state that a loader sets and a report shows. */
struct vp_registers {
	uint64_t gpr[16]; /* RAX RCX RDX RBX RSP RBP RSI RDI R8..R15: the order of the encoding */
	uint64_t rip, rflags;
	struct vp_segment es, cs, ss, ds, fs, gs, ldtr, tr; /* the order of the encoding */
	uint64_t gdt_base, idt_base;
	uint16_t gdt_limit, idt_limit;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer;
};

/* Only while the VP does not run (before start, while paused, after stop). -EINVAL names a state
 * that no processor can be in. */
int vp_get_registers(struct partition *p, unsigned vp_index, struct vp_registers *registers);
int vp_set_registers(struct partition *p, unsigned vp_index, const struct vp_registers *registers);

/* Drive the hypervisor as the guest on `vp_index` would, with no processor: for the guest double.
 * Only on PROCESSOR_NONE. rdmsr and wrmsr return -EPERM where a guest would get #GP; hypercall takes
 * and returns what RCX, RDX, R8 and RAX hold (TLFS 3.7). take_interrupt returns the vector that the
 * VP would take now, acknowledged at its local APIC, or -1. */
int vp_read_msr(struct partition *p, unsigned vp_index, uint32_t msr, uint64_t *value);
int vp_write_msr(struct partition *p, unsigned vp_index, uint32_t msr, uint64_t value);
uint64_t vp_hypercall(struct partition *p, unsigned vp_index, uint64_t input, uint64_t in_gpa, uint64_t out_gpa);
int vp_take_interrupt(struct partition *p, unsigned vp_index);

/* --- saved state ------------------------------------------------------------------------------ */

/* Everything the hypervisor knows of a partition but for its RAM and its devices, as bytes in one versioned,
 * little-endian form that does not depend on the processor. Only while paused (or before start, after stop):
 * -EBUSY. -EINVAL: a VP has come to its end. The bytes are the caller's to free(). */
int partition_save_state(struct partition *p, uint8_t **bytes, size_t *size, struct error *err);

/* Give a partition that has not been started the state of another: same number of VPs, RAM of the same sizes
 * at the same addresses and already filled. It then starts where the other stood; partition time goes on from
 * the moment of saving. -EBADMSG: no such form, or a state that no partition can be in; -EOVERFLOW: of a later
 * version; -ENOTSUP: this processor lacks a feature that the guest was shown, which `err` names; -EINVAL: the
 * partition is of another shape, or has run. After an error the partition must be destroyed. */
int partition_load_state(struct partition *p, const uint8_t *bytes, size_t size, struct error *err);

/* --- dirty pages ------------------------------------------------------------------------------ */

/* [any but vp] Record which pages of RAM are written from now on, by VPs, by the hypervisor and by devices
 * (partition_write, partition_memory_written, partition_host_written). Off costs nothing. Before start: -EAGAIN. */
int partition_track_dirty(struct partition *p, bool on, struct error *err);

/* [any but vp; one at a time] Which pages of [gpa, gpa + size) (page aligned, RAM of one region) were written
 * since tracking began or since they were asked for last; bit i % 64 of bitmap[i / 64] is page i. A page that
 * is written meanwhile is told now or next time. -EFAULT: not RAM; -EAGAIN: tracking is off. */
int partition_fetch_dirty(struct partition *p, gpa_t gpa, uint64_t size, uint64_t *bitmap);

/* [any] What this VP has done since start, for inspection and benchmarks. */
struct vp_counters {
	uint64_t instructions;   /* retired; fewer or 0 where the processor does not count all (translated code, hardware) */
	uint64_t exits;          /* times it left guest code, whoever served that; 0 where nobody counts */
	uint64_t io_exits, mmio_exits, msr_exits, cpuid_exits, hypercalls, halts, interrupts;
};

void vp_get_counters(struct partition *p, unsigned vp_index, struct vp_counters *counters);
