/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bare.h - what the bare guests stand on: a start by multiboot, output on COM1, an IDT whose faults a test
 * can catch, and a list of tests that prints one line each and ends the machine.
 *
 * A guest is one program for one mode: 64-bit ones begin in long mode with the first 4 GiB mapped one to one
 * in 2 MiB pages, 32-bit ones in flat protected mode with paging off. Interrupts are off. Every test leaves
 * the machine as it found it. 0 is written to port 0xf4 when all passed, 1 when not; Bulkhead makes that exit
 * codes 1 and 3, as QEMU's isa-debug-exit does. "without=NAME,NAME" on the command line leaves tests out.
 *
 * What a test expects is the manual's word, and Bochs agrees with it. QEMU's TCG is no reference: it leaves
 * out checks that processors make.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu.h"

/* --- tests -------------------------------------------------------------------------------------- */

struct test {
	const char *name;
	void (*run)(void);
};

/* Prints "PASS name", "FAIL name: what" or "SKIP name: why" for each, and ends the machine. */
void run_tests(const struct test *tests, unsigned count) __attribute__((noreturn));

/* Defined by each guest; calls run_tests(). */
void guest_main(void);

/* Note a failure of the running test (the first is printed) when `condition` does not hold. */
#define CHECK(condition) check_that(condition, #condition, __FILE__, __LINE__)
bool check_that(bool condition, const char *text, const char *file, unsigned line);

/* The same for two values that should be equal; prints both. */
#define CHECK_EQ(a, b) check_equal((uint64_t)(a), (uint64_t)(b), #a, __FILE__, __LINE__)
bool check_equal(uint64_t value, uint64_t expected, const char *text, const char *file, unsigned line);

/* The running test cannot be made here; return after it. */
void skip(const char *why);

/* %s %c %d %u %x %p, with l and ll, and widths with leading zeros. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void machine_exit(unsigned code) __attribute__((noreturn));

/* --- memory ------------------------------------------------------------------------------------- */

/* A zeroed page that is never given back, identity mapped, below 4 GiB. */
void *page_alloc(void);

/* Where the memory from 1 MiB up ends; 0 when the loader did not say. */
unsigned long memory_top(void);

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);

/* --- interrupts --------------------------------------------------------------------------------- */

struct frame {
#ifdef __x86_64__
	unsigned long r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
#else
	unsigned long di, si, bp, unused_sp, bx, dx, cx, ax;
#endif
	unsigned long vector, error, ip, cs, flags, sp, ss; /* in 32-bit: sp and ss only from an outer ring */
};

typedef void (*interrupt_fn)(struct frame *frame);

/* Who takes `vector`; NULL gives it back. A handler may change the frame. */
void set_handler(unsigned vector, interrupt_fn handler);

/* What a fault brought. */
struct fault {
	unsigned count; /* 0: there was none */
	unsigned vector;
	unsigned long error, ip, sp, flags, cr2;
	unsigned cs;
};

/* Where execution goes on after a fault that is caught. */
struct catch_point {
	unsigned long ip, sp, bp, bx, r12, r13, r14, r15;
	bool armed;
};

extern struct catch_point catch_point;
extern struct fault fault;

/* As setjmp: returns 0 now, and 1 when a fault was caught. */
int catch_begin(struct catch_point *point) __attribute__((returns_twice));

/* Run a statement; if it raises an exception that nobody handles, go on after it. See `fault`. */
#define CATCH(statement)                                                                                     \
	do {                                                                                                 \
		fault = (struct fault){0};                                                                   \
		if (!catch_begin(&catch_point)) {                                                            \
			catch_point.armed = true;                                                            \
			asm volatile("" : : : "memory");                                                     \
			statement;                                                                           \
			asm volatile("" : : : "memory");                                                     \
			catch_point.armed = false;                                                           \
		}                                                                                            \
	} while (0)

/* Run it and expect this vector and error code. */
#define EXPECT_FAULT(number, code, statement)                                                                \
	do {                                                                                                 \
		CATCH(statement);                                                                            \
		if (check_that(fault.count == 1, "no fault from " #statement, __FILE__, __LINE__)) {         \
			check_equal(fault.vector, number, "vector of " #statement, __FILE__, __LINE__);      \
			check_equal(fault.error, code, "error code of " #statement, __FILE__, __LINE__);     \
		}                                                                                            \
	} while (0)

#define EXPECT_NO_FAULT(statement)                                                                           \
	do {                                                                                                 \
		CATCH(statement);                                                                            \
		check_equal(fault.count ? fault.vector : ~0ull, ~0ull, "fault from " #statement, __FILE__,   \
			    __LINE__);                                                                       \
	} while (0)

enum {
	VEC_DE = 0,
	VEC_DB = 1,
	VEC_NMI = 2,
	VEC_BP = 3,
	VEC_OF = 4,
	VEC_BR = 5,
	VEC_UD = 6,
	VEC_NM = 7,
	VEC_DF = 8,
	VEC_TS = 10,
	VEC_NP = 11,
	VEC_SS = 12,
	VEC_GP = 13,
	VEC_PF = 14,
	VEC_MF = 16,
	VEC_AC = 17,
	VEC_XM = 19
};

/* --- descriptors -------------------------------------------------------------------------------- */

/* Selectors of the GDT (start.S); SEL_FREE and on are for tests. */
enum {
	SEL_CODE = 0x08,
	SEL_DATA = 0x10,
	SEL_USER_CODE32 = 0x18,
	SEL_USER_DATA = 0x20,
	SEL_USER_CODE64 = 0x28,
	SEL_CODE32 = 0x30,
	SEL_CODE16 = 0x38,
	SEL_DATA16 = 0x40,
	SEL_TSS = 0x48,
	SEL_FREE = 0x58,
	SEL_LIMIT = 0xff
};

extern uint64_t gdt[32];

struct gate {
#ifdef __x86_64__
	uint16_t offset0, selector;
	uint8_t ist, type;
	uint16_t offset1;
	uint32_t offset2, reserved;
#else
	uint16_t offset0, selector;
	uint8_t ist, type;
	uint16_t offset1;
#endif
} __attribute__((packed));

extern struct gate idt[256];

/* An interrupt gate to `offset`: type 0x8e with DPL added. */
void set_gate(struct gate *gate, unsigned long offset, uint16_t selector, uint8_t type);

/* The gate of `vector` as it was at start. */
void reset_gate(unsigned vector);

/* Descriptor of a segment: access byte, and flags (G D/B L AVL) in bits 12 to 15 of `attributes`. */
uint64_t descriptor(uint32_t base, uint32_t limit, uint16_t attributes);

#ifdef __x86_64__
struct tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t ist[7];
	uint64_t reserved2;
	uint16_t reserved3, io_map;
	uint8_t io_bits[129];
} __attribute__((packed));
#else
struct tss {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi,
	    edi, es, cs, ss, ds, fs, gs, ldt;
	uint16_t trap, io_map;
	uint8_t io_bits[129];
} __attribute__((packed));
#endif

extern struct tss tss;

/* Put the descriptor of the TSS back to "available" and load it. */
void load_tss(void);

/* --- the machine -------------------------------------------------------------------------------- */

/* Virtual processors by the ACPI tables; 1 when there are none. */
unsigned processor_count(void);

/* Spin until *flag is `value`, for many seconds at the most, of those in which this processor ran; returns whether it came. */
bool wait_for(const volatile unsigned *flag, unsigned value);

/* Time in microseconds of the time-stamp counter. Exact where the hypervisor tells the counter's frequency;
 * else it errs towards too long on all but the fastest. */
uint64_t ticks_of(uint32_t microseconds);

/* Let at least so much time go by. */
void spin(uint32_t microseconds);

/* Whose rules the processor follows where manuals differ. */
bool is_amd(void); /* and Hygon; all others follow Intel */

/* The software processor: where real ones may do either, it is held to what we meant it to do. */
bool is_software(void);
