/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * protocol.h - numbers and memory layouts between guest and hypervisor, in the words of the TLFS.
 * All little-endian. Nothing but layouts here.
 */
#pragma once

#include <stdint.h>

/* --- MSRs (TLFS appendix C) ------------------------------------------------------------------- */

enum hv_msr {
	HV_X64_MSR_GUEST_OS_ID = 0x40000000,
	HV_X64_MSR_HYPERCALL = 0x40000001,
	HV_X64_MSR_VP_INDEX = 0x40000002,
	HV_X64_MSR_RESET = 0x40000003,
	HV_X64_MSR_VP_RUNTIME = 0x40000010,
	HV_X64_MSR_TIME_REF_COUNT = 0x40000020,
	HV_X64_MSR_REFERENCE_TSC = 0x40000021,
	HV_X64_MSR_TSC_FREQUENCY = 0x40000022,
	HV_X64_MSR_APIC_FREQUENCY = 0x40000023,
	HV_X64_MSR_EOI = 0x40000070,
	HV_X64_MSR_ICR = 0x40000071,
	HV_X64_MSR_TPR = 0x40000072,
	HV_X64_MSR_VP_ASSIST_PAGE = 0x40000073,
	HV_X64_MSR_SCONTROL = 0x40000080,
	HV_X64_MSR_SVERSION = 0x40000081,
	HV_X64_MSR_SIEFP = 0x40000082,
	HV_X64_MSR_SIMP = 0x40000083,
	HV_X64_MSR_EOM = 0x40000084,
	HV_X64_MSR_SINT0 = 0x40000090,
	HV_X64_MSR_SINT15 = 0x4000009f,
	HV_X64_MSR_STIMER0_CONFIG = 0x400000b0, /* CONFIG and COUNT take turns */
	HV_X64_MSR_STIMER3_COUNT = 0x400000b7,
	HV_X64_MSR_GUEST_IDLE = 0x400000f0,
	HV_X64_MSR_CRASH_P0 = 0x40000100,
	HV_X64_MSR_CRASH_P4 = 0x40000104,
	HV_X64_MSR_CRASH_CTL = 0x40000105,
	HV_X64_MSR_FIRST = 0x40000000,
	HV_X64_MSR_LAST = 0x400001ff
};

/* Page MSRs: enable in bit 0, page number from bit 12. */
#define HV_PAGE_ENABLE      1ull
#define HV_PAGE_MASK        0xfffffffffffff000ull
#define HV_HYPERCALL_LOCKED 2ull

#define HV_SINT_VECTOR   0xffull
#define HV_SINT_MASKED   0x10000ull
#define HV_SINT_AUTO_EOI 0x20000ull
#define HV_SINT_POLLING  0x40000ull

#define HV_SYNIC_VERSION_1 1ull

/* HV_X64_MSR_STIMERn_CONFIG (TLFS 12.5) */
#define HV_STIMER_ENABLE      0x1ull
#define HV_STIMER_PERIODIC    0x2ull
#define HV_STIMER_LAZY        0x4ull
#define HV_STIMER_AUTO_ENABLE 0x8ull
#define HV_STIMER_VECTOR(c)   ((uint8_t)((c) >> 4))
#define HV_STIMER_DIRECT      0x1000ull
#define HV_STIMER_SINT(c)     ((unsigned)((c) >> 16 & 15))
#define HV_STIMER_DEFINED     0xf1fffull

#define HV_CRASH_NOTIFY  (1ull << 63)
#define HV_CRASH_MESSAGE (1ull << 62)

/* --- CPUID (TLFS 2.4) ------------------------------------------------------------------------- */

/* 0x40000003 EAX: partition privileges, low half */
#define HV_ACCESS_VP_RUNTIME        (1u << 0)
#define HV_ACCESS_REFERENCE_COUNTER (1u << 1)
#define HV_ACCESS_SYNIC             (1u << 2)
#define HV_ACCESS_STIMER            (1u << 3)
#define HV_ACCESS_APIC_MSRS         (1u << 4)
#define HV_ACCESS_HYPERCALL_MSRS    (1u << 5)
#define HV_ACCESS_VP_INDEX          (1u << 6)
#define HV_ACCESS_RESET             (1u << 7)
#define HV_ACCESS_REFERENCE_TSC     (1u << 9)
#define HV_ACCESS_GUEST_IDLE        (1u << 10)
#define HV_ACCESS_FREQUENCIES       (1u << 11)
/* 0x40000003 EBX: partition privileges, high half */
#define HV_POST_MESSAGES           (1u << 4)
#define HV_SIGNAL_EVENTS           (1u << 5)
#define HV_START_VIRTUAL_PROCESSOR (1u << 21)
/* 0x40000003 EDX: features */
#define HV_FEATURE_XMM_INPUT      (1u << 4)
#define HV_FEATURE_GUEST_IDLE     (1u << 5)
#define HV_FEATURE_FREQUENCIES    (1u << 8)
#define HV_FEATURE_CRASH_MSRS     (1u << 10)
#define HV_FEATURE_SINT_POLLING   (1u << 17)
#define HV_FEATURE_HYPERCALL_LOCK (1u << 18)
#define HV_FEATURE_DIRECT_STIMER  (1u << 19)
/* 0x40000004 EAX: recommendations */
#define HV_RECOMMEND_REMOTE_FLUSH   (1u << 2)
#define HV_RECOMMEND_APIC_MSRS      (1u << 3)
#define HV_RECOMMEND_RELAXED_TIMING (1u << 5)
#define HV_RECOMMEND_X2APIC         (1u << 8)
#define HV_RECOMMEND_NO_AUTO_EOI    (1u << 9)
#define HV_RECOMMEND_CLUSTER_IPI    (1u << 10)
#define HV_RECOMMEND_EX_MASKS       (1u << 11)

/* --- pages ------------------------------------------------------------------------------------ */

/* TLFS 11.9: one of the 16 slots of the message page. */
struct hv_message {
	uint32_t type; /* 0: the slot is free */
	uint8_t payload_size;
	uint8_t flags; /* bit 0: another message waits, write EOM */
	uint16_t reserved;
	uint64_t origin;
	uint8_t payload[240];
} __attribute__((packed, aligned(8)));
_Static_assert(sizeof(struct hv_message) == 256, "16 slots fill a page");

#define HV_MESSAGE_NONE          0u
#define HV_MESSAGE_TIMER_EXPIRED 0x80000010u
#define HV_MESSAGE_HYPERVISOR    0x80000000u /* types that only the hypervisor sends */
#define HV_MESSAGE_PENDING       1u

/* TLFS 12.5.2: payload of HV_MESSAGE_TIMER_EXPIRED. */
struct hv_timer_message {
	uint32_t timer_index;
	uint32_t reserved;
	uint64_t expiration_time;
	uint64_t delivery_time;
} __attribute__((packed));
_Static_assert(sizeof(struct hv_timer_message) == 24, "wire layout");

/* TLFS 11.10: 16 sets of event flags fill the event flags page. */
struct hv_event_flags {
	uint64_t words[32];
};
_Static_assert(sizeof(struct hv_event_flags) == 256, "16 sets fill a page");

/* TLFS 12.7: reference time = (tsc * scale >> 64) + offset unless sequence is 0. */
struct hv_reference_tsc {
	uint32_t sequence;
	uint32_t reserved;
	uint64_t scale;
	int64_t offset;
} __attribute__((packed, aligned(8)));
_Static_assert(sizeof(struct hv_reference_tsc) == 24, "wire layout");

/* --- hypercalls (TLFS 3.7, 3.8; calls in their chapters) --------------------------------------- */

#define HV_CALL_CODE(input)          ((uint16_t)(input))
#define HV_CALL_FAST                 0x10000ull
#define HV_CALL_VARIABLE_SIZE(input) ((unsigned)((input) >> 17 & 0x3ff)) /* in 8 bytes */
#define HV_CALL_REP_COUNT(input)     ((unsigned)((input) >> 32 & 0xfff))
#define HV_CALL_REP_START(input)     ((unsigned)((input) >> 48 & 0xfff))
#define HV_CALL_RESERVED             0xf000f000f8000000ull
#define HV_CALL_REPS_DONE_SHIFT      32

enum hv_call {
	HV_CALL_FLUSH_SPACE = 0x0002,
	HV_CALL_FLUSH_LIST = 0x0003,
	HV_CALL_LONG_SPIN_WAIT = 0x0008,
	HV_CALL_SEND_IPI = 0x000b,
	HV_CALL_FLUSH_SPACE_EX = 0x0013,
	HV_CALL_FLUSH_LIST_EX = 0x0014,
	HV_CALL_SEND_IPI_EX = 0x0015,
	HV_CALL_POST_MESSAGE = 0x005c,
	HV_CALL_SIGNAL_EVENT = 0x005d,
	HV_CALL_START_VP = 0x0099,
	HV_CALL_VP_INDEX_FROM_APIC_ID = 0x009a
};

#define HV_PARTITION_SELF UINT64_MAX

#define HV_FLUSH_ALL_PROCESSORS  1ull
#define HV_FLUSH_ALL_SPACES      2ull
#define HV_FLUSH_NON_GLOBAL_ONLY 4ull
#define HV_FLUSH_DEFINED         7ull

/* TLFS 7.8.7.3: header of a VP set; `banks` words follow, one for each bit of valid_banks. */
struct hv_vp_set {
	uint64_t format;
	uint64_t valid_banks;
};
_Static_assert(sizeof(struct hv_vp_set) == 16, "wire layout");

#define HV_VP_SET_SPARSE 0u
#define HV_VP_SET_ALL    1u

/* TLFS 9.4.2, 9.4.4 */
struct hv_flush_input {
	uint64_t address_space;
	uint64_t flags;
	uint64_t processor_mask;
};
_Static_assert(sizeof(struct hv_flush_input) == 24, "wire layout");

/* TLFS 9.4.6, 9.4.7 */
struct hv_flush_ex_input {
	uint64_t address_space;
	uint64_t flags;
	struct hv_vp_set vps;
};
_Static_assert(sizeof(struct hv_flush_ex_input) == 32, "wire layout");

/* TLFS 10.6.1 */
struct hv_ipi_input {
	uint32_t vector;
	uint8_t target_vtl;
	uint8_t reserved[3];
	uint64_t processor_mask;
};
_Static_assert(sizeof(struct hv_ipi_input) == 16, "wire layout");

/* TLFS 10.6.2 */
struct hv_ipi_ex_input {
	uint32_t vector;
	uint8_t target_vtl;
	uint8_t reserved[3];
	struct hv_vp_set vps;
};
_Static_assert(sizeof(struct hv_ipi_ex_input) == 24, "wire layout");

/* TLFS 11.11.2 */
struct hv_post_message_input {
	uint32_t connection_id;
	uint32_t reserved;
	uint32_t message_type;
	uint32_t payload_size;
	uint8_t payload[240];
};
_Static_assert(sizeof(struct hv_post_message_input) == 256, "wire layout");

/* TLFS 11.11.3 */
struct hv_signal_event_input {
	uint32_t connection_id;
	uint16_t flag;
	uint16_t reserved;
};
_Static_assert(sizeof(struct hv_signal_event_input) == 8, "wire layout");

/* TLFS 7.8.9: segment and table registers. */
struct hv_segment {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint16_t attributes;
};
_Static_assert(sizeof(struct hv_segment) == 16, "wire layout");

struct hv_table {
	uint16_t reserved[3];
	uint16_t limit;
	uint64_t base;
};
_Static_assert(sizeof(struct hv_table) == 16, "wire layout");

/* TLFS 14.12 (HV_INITIAL_VP_CONTEXT) */
struct hv_initial_vp_context {
	uint64_t rip, rsp, rflags;
	struct hv_segment cs, ds, es, fs, gs, ss, tr, ldtr;
	struct hv_table idtr, gdtr;
	uint64_t efer, cr0, cr3, cr4, pat;
};
_Static_assert(sizeof(struct hv_initial_vp_context) == 224, "wire layout");

/* HvCallStartVirtualProcessor */
struct hv_start_vp_input {
	uint64_t partition_id;
	uint32_t vp_index;
	uint8_t target_vtl;
	uint8_t reserved[3];
	struct hv_initial_vp_context context;
};
_Static_assert(sizeof(struct hv_start_vp_input) == 240, "wire layout");

/* HvCallGetVpIndexFromApicId: a list of APIC ids (uint32_t) in, of VP indices (uint32_t) out. */
struct hv_vp_index_input {
	uint64_t partition_id;
	uint8_t target_vtl;
	uint8_t reserved[7];
};
_Static_assert(sizeof(struct hv_vp_index_input) == 16, "wire layout");
