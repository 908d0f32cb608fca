/* SPDX-License-Identifier: GPL-2.0-or-later */
/* IN, OUT, INS, OUTS (SDM volume 1, chapter 19). */
#include "devices.h"

/* CMOS memory that nobody gives a meaning (chipset/rtc.c). */
#define CMOS_FREE  0x60u
#define CMOS_COUNT 0x20u

static uint8_t cmos_read(uint8_t index)
{
	outb(RTC_INDEX, index);
	return inb(RTC_DATA);
}

static void cmos_write(uint8_t index, uint8_t value)
{
	outb(RTC_INDEX, index);
	outb(RTC_DATA, value);
}

/* RAX as IN leaves it when it held `before`. */
static uint64_t in8(uint16_t port, uint64_t before)
{
	asm volatile("inb %1, %%al" : "+a"(before) : "d"(port) : "memory");
	return before;
}

static uint64_t in16(uint16_t port, uint64_t before)
{
	asm volatile("inw %1, %%ax" : "+a"(before) : "d"(port) : "memory");
	return before;
}

static uint64_t in32(uint16_t port, uint64_t before)
{
	asm volatile("inl %1, %%eax" : "+a"(before) : "d"(port) : "memory");
	return before;
}

static void out16(uint16_t port, uint64_t value)
{
	asm volatile("outw %%ax, %1" : : "a"(value), "d"(port) : "memory");
}

static void out32(uint16_t port, uint64_t value)
{
	asm volatile("outl %%eax, %1" : : "a"(value), "d"(port) : "memory");
}

void port_sizes(void)
{
	const uint64_t full = 0x1122334455667788ull;

	for (unsigned i = 0; i < 256; i += 5) {
		outb(SCRATCH, (uint8_t)i);
		CHECK_EQ(inb(SCRATCH), i);
	}
	/* 8 and 16 bits leave the rest of RAX alone, 32 clear the upper half. */
	outb(SCRATCH, 0xa5);
	CHECK_EQ(in8(SCRATCH, full), 0x11223344556677a5ull);
	CHECK_EQ(in16(SCRATCH - 1, full) & ~0xffull, 0x112233445566a500ull);
	CHECK_EQ(in32(SCRATCH - 3, full) & ~0xffffffull, 0xa5000000ull);
	/* What is above the operand is not written. The other bytes go to registers that cannot be written.
	 */
	out16(SCRATCH - 1, 0xffffffffffff3c00ull);
	CHECK_EQ(inb(SCRATCH), 0x3c);
	out32(SCRATCH - 3, 0xffffffffc3000000ull);
	CHECK_EQ(inb(SCRATCH), 0xc3);
	/* A port as an immediate. */
	cmos_write(CMOS_FREE, 0x12);
	asm volatile("movb %0, %%al; outb %%al, $0x70; movb $0x34, %%al; outb %%al, $0x71"
		     :
		     : "i"(CMOS_FREE)
		     : "eax");
	CHECK_EQ(cmos_read(CMOS_FREE), 0x34);
	asm volatile("movw $0x5660, %%ax; outw %%ax, $0x70" : : : "eax"); /* index and data at one go */
	CHECK_EQ(cmos_read(CMOS_FREE), 0x56);
	CHECK_EQ(cmos_read(0x0d), 0x80); /* the clock's memory is good */
}

void port_unclaimed(void)
{
	CHECK_EQ(in8(NO_PORT, 0), 0xff);
	CHECK_EQ(in16(NO_PORT, 0), 0xffff);
	CHECK_EQ(in32(NO_PORT, 0), 0xffffffff);
	out32(NO_PORT, 0x12345678);
	CHECK_EQ(in32(NO_PORT, 0), 0xffffffff);
	CHECK_EQ(in8(0xffff, 0), 0xff);
	/* In part: the last two ports of a device, and two behind it. */
	CHECK_EQ(in32(PM_END - 2, 0) >> 16, 0xffff);
	CHECK_EQ(in16(SCRATCH - 8, 0) & 0xff, 0xff);
}

/* --- strings ------------------------------------------------------------------------------------------ */

struct registers {
	unsigned long si, di, cx;
};

#define STRING(instruction, port, r)                                                                         \
	asm volatile(instruction                                                                             \
		     : "+S"((r).si), "+D"((r).di), "+c"((r).cx)                                              \
		     : "d"((uint16_t)(port))                                                                 \
		     : "memory", "cc")

/* Two pages of memory that are neighbours only by address. */
static uint8_t *first_page, *second_page;

static void split_pages(void)
{
	first_page = page_alloc();
	page_alloc();
	second_page = page_alloc();
	map(TEST_VA, first_page, PTE_P | PTE_W);
	map(TEST_VA + 4096, second_page, PTE_P | PTE_W);
}

/* Pairs of index and data for CMOS memory: every element must arrive, in its order, as its size says. */
void port_strings_out(void)
{
	struct registers r;
	uint8_t *pairs;

	split_pages();
	for (unsigned shift = 0; shift < 64;
	     shift += 7) { /* the pairs lie before, across and behind the edge */
		pairs = (uint8_t *)TEST_VA + 4096 - shift;
		for (unsigned i = 0; i < CMOS_COUNT; i++) {
			pairs[2 * i] = (uint8_t)(CMOS_FREE + i);
			pairs[2 * i + 1] = (uint8_t)(i * 7 + shift);
		}
		r = (struct registers){(unsigned long)pairs, 0, CMOS_COUNT};
		STRING("rep outsw", RTC_INDEX, r);
		CHECK_EQ(r.si, (unsigned long)pairs + 2 * CMOS_COUNT);
		CHECK_EQ(r.cx, 0);
		for (unsigned i = 0; i < CMOS_COUNT; i++)
			if (!CHECK_EQ(cmos_read((uint8_t)(CMOS_FREE + i)), (uint8_t)(i * 7 + shift)))
				return;
	}
	/* Many bytes, of which the last one stays. */
	for (unsigned i = 0; i < 8192; i++)
		*(volatile uint8_t *)(TEST_VA + i) = (uint8_t)(i ^ i >> 8);
	r = (struct registers){TEST_VA, 0, 5000};
	STRING("rep outsb", SCRATCH, r);
	CHECK_EQ(inb(SCRATCH), (uint8_t)(4999 ^ 4999 >> 8));
	CHECK_EQ(r.si, TEST_VA + 5000);
	/* One that lies on both pages. */
	r = (struct registers){TEST_VA + 4093, 0, 1};
	first_page[4095] = 0;
	first_page[4094] = first_page[4093] = 0;
	second_page[0] = 0x9d;
	STRING("rep outsl", SCRATCH - 3, r);
	CHECK_EQ(inb(SCRATCH), 0x9d);
	CHECK_EQ(r.si, TEST_VA + 4097);
}

void port_strings_in(void)
{
	struct registers r;

	split_pages();
	memset((void *)TEST_VA, 0xee, 8192);
	outb(SCRATCH, 0x5b);
	r = (struct registers){0, TEST_VA + 4000, 200};
	STRING("rep insb", SCRATCH, r);
	CHECK_EQ(r.di, TEST_VA + 4200);
	CHECK_EQ(r.cx, 0);
	CHECK_EQ(first_page[3999], 0xee);
	CHECK_EQ(first_page[4000], 0x5b);
	CHECK_EQ(first_page[4095], 0x5b);
	CHECK_EQ(second_page[0], 0x5b);
	CHECK_EQ(second_page[103], 0x5b);
	CHECK_EQ(second_page[104], 0xee);
	/* One that lies on both pages. */
	r = (struct registers){0, TEST_VA + 4093, 1};
	STRING("rep insl", SCRATCH - 3, r);
	CHECK_EQ(second_page[0], 0x5b);
	CHECK_EQ(second_page[1], 0x5b);
	/* A clock that runs, read many times: what comes later is later. */
	r = (struct registers){0, TEST_VA, 2000};
	STRING("rep insl", PM_TIMER, r);
	CHECK_EQ(r.di, TEST_VA + 8000);
	for (unsigned i = 1; i < 2000; i++) {
		const volatile uint32_t *at = (const volatile uint32_t *)TEST_VA + i;

		if (!CHECK((int32_t)(at[0] - at[-1]) >= 0))
			return;
	}
}

/* Backwards, not at all, with 32-bit addresses, and from another segment. */
void port_string_forms(void)
{
	uint8_t *page = page_alloc();
	struct registers r = {(unsigned long)page + 9, 0, 10};

	for (unsigned i = 0; i < 10; i++)
		page[i] = (uint8_t)(0x30 + i);
	STRING("std; rep outsb; cld", SCRATCH, r);
	CHECK_EQ(r.si, (unsigned long)page - 1);
	CHECK_EQ(inb(SCRATCH), 0x30);
	r = (struct registers){0, (unsigned long)page + 100, 10};
	STRING("std; rep insb; cld", SCRATCH, r);
	CHECK_EQ(r.di, (unsigned long)page + 90);
	CHECK_EQ(page[90], 0);
	CHECK_EQ(page[91], 0x30);
	CHECK_EQ(page[100], 0x30);
	CHECK_EQ(page[101], 0);
	/* No count, no access: not even to memory that is not there. */
	r = (struct registers){1ul << 62, 1ul << 62, 0};
	EXPECT_NO_FAULT(STRING("rep outsb", SCRATCH, r));
	EXPECT_NO_FAULT(STRING("rep insb", SCRATCH, r));
	CHECK_EQ(r.si, 1ul << 62);
	/* Without REP the count does not matter. */
	r = (struct registers){(unsigned long)page + 5, (unsigned long)page + 200, 0};
	STRING("outsb; insb", SCRATCH, r);
	CHECK_EQ(page[200], 0x35);
	CHECK_EQ(page[201], 0);
	CHECK_EQ(r.cx, 0);
	/* ECX and ESI; the upper halves of what they write are cleared. */
	r = (struct registers){(unsigned long)page | 0xffull << 40, 0, 3 | 0xffull << 40};
	STRING("addr32 rep outsb", SCRATCH, r);
	CHECK_EQ(r.si, (unsigned long)page + 3);
	CHECK_EQ(r.cx, 0);
	CHECK_EQ(inb(SCRATCH), 0x32);
	wrmsr(MSR_FS_BASE, (unsigned long)page);
	r = (struct registers){0, 0, 8};
	STRING("rep outsb %%fs:(%%rsi), %%dx", SCRATCH, r);
	wrmsr(MSR_FS_BASE, 0);
	CHECK_EQ(r.si, 8);
	CHECK_EQ(inb(SCRATCH), 0x37);
}

static volatile unsigned long fault_si, fault_di, fault_cx, fault_at;
static volatile unsigned faults;

/* Give the page that was missing, and note how far the instruction had come. */
static void on_fault(struct frame *frame)
{
	fault_si = frame->si;
	fault_di = frame->di;
	fault_cx = frame->cx;
	fault_at = read_cr2();
	if (faults++ > 2 || (fault_at & ~0xffful) != TEST_VA + 4096) {
		print("FAIL a page fault at 0x%lx\n", fault_at);
		machine_exit(1);
	}
	map(TEST_VA + 4096, second_page, PTE_P | PTE_W);
}

/* A page that is missing in the middle: registers say how far it came, and it goes on from there. */
void port_string_faults(void)
{
	struct registers r;

	split_pages();
	set_handler(VEC_PF, on_fault);
	faults = 0;
	memset(first_page, 0x21, 4096);
	memset(second_page, 0x22, 4096);
	map(TEST_VA + 4096, second_page, 0);
	r = (struct registers){TEST_VA + 4090, 0, 16};
	STRING("rep outsb", SCRATCH, r);
	CHECK_EQ(faults, 1);
	CHECK_EQ(fault_at, TEST_VA + 4096);
	CHECK_EQ(fault_si, TEST_VA + 4096);
	CHECK_EQ(fault_cx, 10);
	CHECK_EQ(r.si, TEST_VA + 4106);
	CHECK_EQ(inb(SCRATCH), 0x22);
	map(TEST_VA + 4096, second_page, PTE_P); /* to be read only */
	r = (struct registers){0, TEST_VA + 4080, 32};
	outb(SCRATCH, 0x77);
	STRING("rep insb", SCRATCH, r);
	set_handler(VEC_PF, NULL);
	CHECK_EQ(faults, 2);
	CHECK_EQ(fault_at, TEST_VA + 4096);
	CHECK_EQ(fault_di, TEST_VA + 4096);
	CHECK_EQ(fault_cx, 16);
	CHECK_EQ(r.di, TEST_VA + 4112);
	CHECK_EQ(first_page[4079], 0x21);
	CHECK_EQ(first_page[4080], 0x77);
	CHECK_EQ(second_page[15], 0x77);
	CHECK_EQ(second_page[16], 0x22);
}

/* 3.579545 MHz (ACPI 6.4, 4.8.3.3), by the time-stamp counter: no slower than that. */
void port_timer(void)
{
	uint32_t before = inl(PM_TIMER), ticks, byte;

	spin(2000);
	ticks = inl(PM_TIMER) - before;
	CHECK(ticks >= 7000);
	/* Its bytes are those of the whole, however long a look takes. */
	before = inl(PM_TIMER);
	ticks = (uint32_t)in16(PM_TIMER + 2, 0);
	byte = inb(PM_TIMER + 3);
	CHECK((uint16_t)(ticks - (before >> 16)) <= (uint16_t)((inl(PM_TIMER) >> 16) - (before >> 16)));
	CHECK((uint8_t)(byte - (before >> 24)) <= (uint8_t)((inl(PM_TIMER) >> 24) - (before >> 24)));
}
