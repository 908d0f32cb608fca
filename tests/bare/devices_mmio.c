/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that is a device. The I/O APIC's registers take part in it: the index at 0, which is a byte that can
 * be written and read, and the data window at 0x10, behind which the redirection entry of an unconnected,
 * masked pin has bits that can hold anything.
 */
#include "devices.h"

#define INDEX    (*(volatile uint32_t *)IOAPIC)
#define WINDOW   (*(volatile uint32_t *)(IOAPIC + 0x10))
#define VERSION  1
#define ENTRY    (0x10 + 2 * IOAPIC_PIN)
#define MASKED   0x10000u
#define WRITABLE 0x1afffu /* of the low half: not delivery status, not remote IRR */

/* One memory operand at `address` in its plainest form, and one register. */
#define LOAD(instruction, type, address)                                                                     \
	({                                                                                                   \
		uint64_t loaded_ = ~0ull;                                                                    \
		asm volatile(instruction : "+a"(loaded_) : "r"(address) : "memory", "cc");                   \
		(type) loaded_;                                                                              \
	})

void mmio_sizes(void)
{
	uint32_t version;

	INDEX = 0x12;
	CHECK_EQ(LOAD("movb (%1), %%al", uint64_t, IOAPIC), 0xffffffffffffff12ull);
	CHECK_EQ(LOAD("movw (%1), %%ax", uint64_t, IOAPIC), 0xffffffffffff0012ull);
	CHECK_EQ(LOAD("movl (%1), %%eax", uint64_t, IOAPIC), 0x12);
	CHECK_EQ(LOAD("movq (%1), %%rax", uint32_t, IOAPIC), 0x12);
	*(volatile uint8_t *)IOAPIC = 0x34;
	CHECK_EQ(INDEX, 0x34);
	*(volatile uint16_t *)IOAPIC = 0x56;
	CHECK_EQ(INDEX, 0x56);
	asm volatile("movb %%ah, (%0)" : : "r"(IOAPIC), "a"(0x7800) : "memory");
	CHECK_EQ(INDEX, 0x78);
	asm volatile("movl $0x3a, (%0)" : : "r"(IOAPIC) : "memory");
	CHECK_EQ(INDEX, 0x3a);
	asm volatile("movb $0x3b, (%0)" : : "r"(IOAPIC) : "memory");
	CHECK_EQ(INDEX, 0x3b);
	INDEX = VERSION;
	version = WINDOW;
	CHECK_EQ(version >> 16 & 0xff, 23);
	CHECK((version & 0xff) >= 0x11 && (version & 0xff) <= 0x2f);
	CHECK_EQ(LOAD("movb (%1), %%al", uint8_t, IOAPIC + 0x10), (uint8_t)version);
	CHECK_EQ(LOAD("movw (%1), %%ax", uint16_t, IOAPIC + 0x10), (uint16_t)version);
}

/* Whatever reads memory reads a device. */
void mmio_instructions(void)
{
	const unsigned long window = IOAPIC + 0x10;
	uint32_t version;
	uint64_t result;
	uint8_t flag;

	INDEX = VERSION;
	version = WINDOW;
	CHECK_EQ(LOAD("movzbl (%1), %%eax", uint64_t, window), (uint8_t)version);
	CHECK_EQ(LOAD("movzwl (%1), %%eax", uint64_t, window), (uint16_t)version);
	CHECK_EQ(LOAD("movsbl (%1), %%eax", uint32_t, window), (uint32_t)(int8_t)version);
	CHECK_EQ(LOAD("movswq (%1), %%rax", uint64_t, window), (uint64_t)(int16_t)version);
	CHECK_EQ(LOAD("movslq (%1), %%rax", uint64_t, window), (uint64_t)(int32_t)version);
	CHECK_EQ(LOAD("xorl %%eax, %%eax; orl (%1), %%eax", uint32_t, window), version);
	CHECK_EQ(LOAD("andl (%1), %%eax", uint32_t, window), version);
	CHECK_EQ(LOAD("addl (%1), %%eax", uint32_t, window), version - 1);
	CHECK_EQ(LOAD("xorl (%1), %%eax", uint32_t, window), ~version);
	CHECK_EQ(LOAD("subl (%1), %%eax", uint32_t, window), ~version);
	CHECK_EQ(LOAD("imull $3, (%1), %%eax", uint32_t, window), 3 * version);
	CHECK_EQ(LOAD("cmpl %%eax, %%eax; cmovel (%1), %%eax", uint64_t, window), version);
	asm volatile("cmpl %2, (%1); sete %0" : "=q"(flag) : "r"(window), "r"(version) : "memory", "cc");
	CHECK_EQ(flag, 1);
	asm volatile("testl %2, (%1); setz %0" : "=q"(flag) : "r"(window), "r"(~version) : "memory", "cc");
	CHECK_EQ(flag, 1);
	asm volatile("btl $16, (%1); setc %0" : "=q"(flag) : "r"(window) : "memory", "cc");
	CHECK_EQ(flag, version >> 16 & 1);
	asm volatile("pushq (%1); popq %0" : "=r"(result) : "r"(window) : "memory");
	CHECK_EQ((uint32_t)result, version);
	/* An address to jump to or a stack to use it is not; a value to store it is. */
	asm volatile("pushq %1; popq (%0)" : : "r"(IOAPIC), "r"(0x41ul) : "memory");
	CHECK_EQ(INDEX, 0x41);
	asm volatile("setc (%0)" : : "r"(IOAPIC) : "memory");
	CHECK(INDEX <= 1);
}

/* Read, changed, written: `before` stands in the entry, `after` is what must. */
#define MODIFY(instruction, before, after)                                                                   \
	do {                                                                                                 \
		uint32_t operand_ = 0x55;                                                                    \
		WINDOW = MASKED | (before);                                                                  \
		asm volatile(instruction                                                                     \
			     : "+r"(operand_)                                                                \
			     : "r"(IOAPIC + 0x10), "a"(MASKED | 0x11)                                        \
			     : "memory", "cc");                                                              \
		check_equal(WINDOW &WRITABLE, MASKED | (after), instruction, __FILE__, __LINE__);            \
	} while (0)

void mmio_modify(void)
{
	uint32_t old = 0x66;
	uint8_t equal;

	INDEX = ENTRY;
	MODIFY("orl %0, (%1)", 0x22, 0x77);
	MODIFY("xorl %0, (%1)", 0x22, 0x77);
	MODIFY("addl %0, (%1)", 0x22, 0x77);
	MODIFY("subl %0, (%1)", 0x77, 0x22);
	MODIFY("stc; adcl %0, (%1)", 0x22, 0x78);
	MODIFY("stc; sbbl %0, (%1)", 0x77, 0x21);
	MODIFY("orl $0x55, (%1)", 0x22, 0x77);
	MODIFY("andl $0x100ff, (%1)", 0x822, 0x22);
	MODIFY("incl (%1)", 0x22, 0x23);
	MODIFY("decl (%1)", 0x22, 0x21);
	MODIFY("shrl $1, (%1); orl $0x10000, (%1)", 0x44, 0x8022); /* bit 16 moves on into bit 15 */
	MODIFY("btsl $3, (%1)", 0x22, 0x2a);
	MODIFY("btrl $1, (%1)", 0x22, 0x20);
	MODIFY("btcl $0, (%1)", 0x22, 0x23);
	MODIFY("lock orl %0, (%1)", 0x22, 0x77);
	MODIFY("lock incl (%1)", 0x22, 0x23);
	MODIFY("lock btsl $3, (%1)", 0x22, 0x2a);
	MODIFY("orl $0x10000, %0; xchgl %0, (%1)", 0x22, 0x55);
	MODIFY("xaddl %0, (%1)", 0x22, 0x77);
	MODIFY("lock xaddl %0, (%1)", 0x22, 0x77);
	/* The values that come back, too. */
	WINDOW = MASKED | 0x22;
	asm volatile("lock xaddl %0, (%1)" : "+r"(old) : "r"(IOAPIC + 0x10) : "memory", "cc");
	CHECK_EQ(old, MASKED | 0x22);
	asm volatile("lock cmpxchgl %2, (%3); sete %1"
		     : "+a"(old), "=q"(equal)
		     : "r"(MASKED | 0x99), "r"(IOAPIC + 0x10)
		     : "memory", "cc");
	CHECK_EQ(equal, 0);
	CHECK_EQ(old, MASKED | 0x88);
	asm volatile("lock cmpxchgl %2, (%3); sete %1"
		     : "+a"(old), "=q"(equal)
		     : "r"(MASKED | 0x99), "r"(IOAPIC + 0x10)
		     : "memory", "cc");
	CHECK_EQ(equal, 1);
	CHECK_EQ(WINDOW & WRITABLE, MASKED | 0x99);
	WINDOW = MASKED;
	/* A byte of the index. */
	INDEX = 0x0f;
	asm volatile("notb (%0)" : : "r"(IOAPIC) : "memory");
	CHECK_EQ(INDEX, 0xf0);
	asm volatile("negb (%0)" : : "r"(IOAPIC) : "memory", "cc");
	CHECK_EQ(INDEX, 0x10);
	asm volatile("rolb $4, (%0)" : : "r"(IOAPIC) : "memory", "cc");
	CHECK_EQ(INDEX, 0x01);
}

/* Every way of saying where; each reads the version. */
void mmio_addressing(void)
{
	uint32_t version, value;
	uint8_t *code = page_alloc();
	static const uint8_t relative[] = {0x8b, 0x05, 0x0a, 0x10,
					   0,    0,    0xc3}; /* mov 0x100a(%rip), %eax; ret */

	INDEX = VERSION;
	version = WINDOW;
#define READ(operand, r)                                                                                     \
	do {                                                                                                 \
		asm volatile("movl " operand ", %0"                                                          \
			     : "=&r"(value)                                                                  \
			     : "r"((unsigned long)(r)), "r"(4ul)                                             \
			     : "memory");                                                                    \
		check_equal(value, version, operand, __FILE__, __LINE__);                                    \
	} while (0)
	READ("0x10(%1)", IOAPIC);
	READ("-0x70(%1)", IOAPIC + 0x80);
	READ("0x12345678(%1)", IOAPIC + 0x10 - 0x12345678);
	READ("(%1,%2,4)", IOAPIC);
	READ("-4(%1,%2,1)", IOAPIC + 0x10);
	READ("0x10(,%1,8)", IOAPIC / 8);
	READ("0x10(%1,%1,1)", IOAPIC / 2);
	READ("%%fs:(%1)", IOAPIC + 0x10);
	READ("%%ds:0x10(%1)", IOAPIC);
	READ("%%gs:(%1,%2,2)", IOAPIC + 8);
	READ("0x10(%k1)", IOAPIC | 1ul << 40); /* a 32-bit address */
	wrmsr(MSR_GS_BASE, IOAPIC);
	READ("%%gs:(%1,%2,4)", 0);
	READ("%%gs:-8(%1,%2,2)", 0x10);
	wrmsr(MSR_GS_BASE, 0);
	asm volatile("movabsl 0xfec00010, %%eax" : "=a"(value) : : "memory");
	CHECK_EQ(value, version);
	asm volatile("mov %1, %%r13; movl 0x10(%%r13), %%r9d; movl %%r9d, %0"
		     : "=r"(value)
		     : "r"(IOAPIC)
		     : "r9", "r13", "memory");
	CHECK_EQ(value, version);
	asm volatile("mov %1, %%r12; movl 0x10(%%r12), %%r15d; movl %%r15d, %0"
		     : "=r"(value)
		     : "r"(IOAPIC)
		     : "r12", "r15", "memory");
	CHECK_EQ(value, version);
	/* Relative to RIP: code and device a page apart, at addresses of the test's own. */
	memcpy(code, relative, sizeof(relative));
	map(TEST_VA, code, PTE_P);
	map(TEST_VA + 4096, (void *)IOAPIC, PTE_P | PTE_W);
	asm volatile("call *%1" : "=a"(value) : "r"(TEST_VA) : "memory");
	CHECK_EQ(value, version);
	map(TEST_VA + 4096, NULL, 0);
}

void mmio_strings(void)
{
	uint32_t *page = page_alloc();
	unsigned long si, di, cx;
	uint32_t version, value;

	INDEX = VERSION;
	version = WINDOW;
	si = IOAPIC + 0x10;
	di = (unsigned long)page;
	asm volatile("movsl" : "+S"(si), "+D"(di) : : "memory");
	CHECK_EQ(page[0], version);
	CHECK_EQ(si, IOAPIC + 0x14);
	CHECK_EQ(di, (unsigned long)page + 4);
	/* All of the first 32 bytes: the two registers, and nothing between them. */
	si = IOAPIC;
	di = (unsigned long)page;
	cx = 8;
	memset(page, 0xee, 64);
	asm volatile("rep movsl" : "+S"(si), "+D"(di), "+c"(cx) : : "memory");
	CHECK_EQ(page[0], VERSION);
	CHECK_EQ(page[4], version);
	CHECK_EQ(page[8], 0xeeeeeeee);
	CHECK_EQ(si, IOAPIC + 32);
	CHECK_EQ(cx, 0);
	/* To the device: index, three that are nothing, window. */
	for (unsigned i = 0; i < 5; i++)
		page[i] = 0;
	page[0] = ENTRY;
	page[4] = MASKED | 0x5a;
	si = (unsigned long)page;
	di = IOAPIC;
	cx = 5;
	asm volatile("rep movsl" : "+S"(si), "+D"(di), "+c"(cx) : : "memory");
	CHECK_EQ(INDEX, ENTRY);
	CHECK_EQ(WINDOW & WRITABLE, MASKED | 0x5a);
	di = IOAPIC + 0x10;
	asm volatile("stosl" : "+D"(di) : "a"(MASKED | 0xa5) : "memory");
	CHECK_EQ(WINDOW & WRITABLE, MASKED | 0xa5);
	CHECK_EQ(di, IOAPIC + 0x14);
	WINDOW = MASKED;
	di = IOAPIC;
	cx = 4;
	asm volatile("rep stosl" : "+D"(di), "+c"(cx) : "a"(VERSION) : "memory");
	CHECK_EQ(INDEX, VERSION);
	CHECK_EQ(di, IOAPIC + 16);
	si = IOAPIC + 0x10;
	asm volatile("lodsl" : "+S"(si), "=a"(value) : : "memory");
	CHECK_EQ(value, version);
	/* Compared with memory, and searched. */
	page[0] = VERSION;
	si = IOAPIC;
	di = (unsigned long)page;
	asm volatile("cmpsl; setz %b0" : "=a"(value), "+S"(si), "+D"(di) : : "memory", "cc");
	CHECK_EQ((uint8_t)value, 1);
	di = IOAPIC;
	cx = 8;
	asm volatile("repne scasl" : "+D"(di), "+c"(cx) : "a"(version) : "memory", "cc");
	CHECK_EQ(di, IOAPIC + 0x14);
	CHECK_EQ(cx, 3);
	/* From one register to the other. */
	si = IOAPIC + 0x10;
	di = IOAPIC;
	asm volatile("movsl" : "+S"(si), "+D"(di) : : "memory");
	CHECK_EQ(INDEX, (uint8_t)version);
}

void mmio_unclaimed(void)
{
	CHECK_EQ(LOAD("movb (%1), %%al", uint8_t, NO_MMIO), 0xff);
	CHECK_EQ(LOAD("xorl %%eax, %%eax; movw (%1), %%ax", uint64_t, NO_MMIO), 0xffff);
	CHECK_EQ(LOAD("movl (%1), %%eax", uint64_t, NO_MMIO), 0xffffffff);
	CHECK_EQ(LOAD("xorl %%eax, %%eax; movq (%1), %%rax", uint64_t, NO_MMIO), ~0ull);
	CHECK_EQ(LOAD("xorl %%eax, %%eax; movq (%1), %%rax", uint64_t, NO_MMIO + 3), ~0ull);
	*(volatile uint64_t *)NO_MMIO = 0;
	CHECK_EQ(LOAD("movl (%1), %%eax", uint64_t, NO_MMIO), 0xffffffff);
	asm volatile("lock incl (%0)" : : "r"(NO_MMIO) : "memory", "cc");
	CHECK_EQ(LOAD("movl (%1), %%eax", uint64_t, NO_MMIO), 0xffffffff);
}

/* Half in one thing, half in another: memory, device, nothing. */
void mmio_crossing(void)
{
	uint8_t *page = page_alloc();
	const unsigned long edge = TEST_VA + 4096;

	/* Behind the I/O APIC there is nothing. */
	CHECK_EQ(*(volatile uint64_t *)(IOAPIC + 0xffc) >> 32, 0xffffffff);
	/* Memory, then the device. */
	map(TEST_VA, page, PTE_P | PTE_W);
	map(edge, (void *)IOAPIC, PTE_P | PTE_W);
	INDEX = VERSION;
	memset(page, 0xee, 4096);
	CHECK_EQ(*(volatile uint64_t *)(edge - 4) & 0xffffffffffull, (uint64_t)VERSION << 32 | 0xeeeeeeee);
	*(volatile uint64_t *)(edge - 4) = 0x0000002512345678ull;
	CHECK_EQ(*(uint32_t *)(page + 4092), 0x12345678);
	CHECK_EQ(INDEX, 0x25);
	*(volatile uint32_t *)(edge - 3) = 0x43aabbcc;
	CHECK_EQ(*(uint32_t *)(page + 4092), 0xaabbcc78);
	CHECK_EQ(INDEX, 0x43);
	*(volatile uint16_t *)(edge - 1) = 0x2111;
	CHECK_EQ(page[4095], 0x11);
	CHECK_EQ(INDEX, 0x21);
	/* The device, then memory. */
	map(TEST_VA, (void *)IOAPIC, PTE_P | PTE_W);
	map(edge, page, PTE_P | PTE_W);
	*(uint32_t *)page = 0xcafe1234;
	CHECK_EQ(*(volatile uint64_t *)(edge - 4) >> 32, 0xcafe1234);
	*(volatile uint64_t *)(edge - 4) = 0x8877665500000000ull;
	CHECK_EQ(*(uint32_t *)page, 0x88776655);
	map(TEST_VA, NULL, 0);
	map(edge, NULL, 0);
}

/* The last bytes of memory, with nothing behind them. */
void ram_end(void)
{
	unsigned long top = memory_top();
	volatile uint32_t *last;
	uint32_t old;

	if (!top || top & 4095) {
		skip("it is not known where memory ends");
		return;
	}
	last = (volatile uint32_t *)(top - 4);
	old = *last;
	*last = 0x13572468;
	CHECK_EQ(*(volatile uint64_t *)(top - 4), 0xffffffff13572468ull);
	*(volatile uint64_t *)(top - 4) = 0xaabbccdd00112233ull;
	CHECK_EQ(*last, 0x00112233);
	CHECK_EQ(*(volatile uint32_t *)top, 0xffffffff);
	asm volatile("addq $1, (%0)" : : "r"(top - 4) : "memory", "cc");
	CHECK_EQ(*last, 0x00112234);
	*last = old;
}
