/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bios.c - as much of a PC's BIOS as iPXE needs. Its first multiboot module is a bzImage of which the real-mode part does the work; that is started by
 * the protocol for 16-bit loaders (boot.rst, "The Linux/x86 Boot Protocol"), and what is on our command line behind our name is its command line. There is no disk,
 * no keyboard and no PCI; characters go to COM1, and the interrupt that a PC's timer makes comes from the local APIC.
 */
#include "bare.h"
#include "bios.h"

_Static_assert(SEL_FREE == BIOS_CODE_SEL, "bios_enter() goes through it");

#define MSR_APIC_FREQUENCY 0x40000023u /* TLFS: HV_X64_MSR_APIC_FREQUENCY */

enum { X2APIC_SPURIOUS = 0x80f, X2APIC_LVT_TIMER = 0x832, X2APIC_TIMER_INITIAL = 0x838, X2APIC_TIMER_DIVIDE = 0x83e };
enum { TIMER_PERIODIC = 0x20000, DIVIDE_BY_16 = 3, TICKS_A_SECOND = 18 };

/* Fields of the setup header (boot.rst), from the start of the file. */
enum {
	SETUP_SECTS = 0x1f1,
	TYPE_OF_LOADER = 0x210,
	LOADFLAGS = 0x211,
	HEAP_END_PTR = 0x224,
	CMD_LINE_PTR = 0x228,
	COMMAND_LINE = 0xf000, /* ours: behind the real-mode part and its heap */
	CAN_USE_HEAP = 0x80
};

struct multiboot_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
};

struct multiboot_module {
	uint32_t start, end, string, reserved;
};

struct map_entry {
	uint64_t address, length;
	uint32_t type;
} __attribute__((packed));

extern char bios_begin[], bios_end[], bios_vectors[], bios_map[];
extern struct multiboot_info *multiboot_info;
extern void bios_enter(void) __attribute__((noreturn));

/* Memory by its address alone, which compilers distrust near 0. */
static void *at(unsigned long address)
{
	asm("" : "+r"(address));
	return (void *)address;
}

static void put_memory_map(void)
{
	struct {
		uint32_t count;
		struct map_entry entries[4];
	} __attribute__((packed)) map = {.count = 4,
					 .entries = {{0, BIOS_BASE, 1},
						     {BIOS_BASE, 0xa0000 - BIOS_BASE, 2},
						     {0xe0000, 0x20000, 2},
						     {0x100000, memory_top() - 0x100000, 1}}};

	memcpy(bios_map, &map, sizeof(map));
}

/* The vectors, and what a PC's programs look for in the BIOS data area. */
static void put_low_memory(void)
{
	uint16_t(*vectors)[2] = at(0);
	const uint16_t(*own)[2] = (const void *)bios_vectors;
	unsigned n = 0;

	memset(at(0x400), 0, 0x100);
	memcpy(at(0x413), &(const uint16_t){BIOS_BASE_KIB}, 2);
	*(uint8_t *)at(0x449) = 3;
	*(uint8_t *)at(0x44a) = 80;
	*(uint8_t *)at(0x484) = 24;
	while (own[n][0])
		n++;
	for (unsigned i = 0; i < 256; i++) {
		vectors[i][0] = own[n][1];
		vectors[i][1] = BIOS_SEGMENT;
	}
	for (unsigned i = 0; i < n; i++)
		vectors[own[i][0]][0] = own[i][1];
	memcpy(at(BIOS_BASE), bios_begin, (size_t)(bios_end - bios_begin));
}

static void start_clock(void)
{
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0xc00); /* enabled, x2APIC */
	wrmsr(X2APIC_SPURIOUS, 0x1ff);
	wrmsr(X2APIC_TIMER_DIVIDE, DIVIDE_BY_16);
	wrmsr(X2APIC_LVT_TIMER, TICK_VECTOR | TIMER_PERIODIC);
	wrmsr(X2APIC_TIMER_INITIAL, (uint32_t)rdmsr(MSR_APIC_FREQUENCY) / 16 / TICKS_A_SECOND);
}

static void put_command_line(void)
{
	const char *line = at(multiboot_info->cmdline);
	char *to = at(SETUP_BASE + COMMAND_LINE);

	while (*line && *line != ' ')
		line++;
	while (*line == ' ')
		line++;
	while ((*to++ = *line++))
		;
}

void guest_main(void)
{
	const struct multiboot_module *module = at(multiboot_info->mods_addr);
	uint8_t *setup = at(SETUP_BASE);
	uint32_t size;

	if (!multiboot_info->mods_count) {
		print("no module to start\n");
		machine_exit(1);
	}
	size = (((uint8_t *)at(module->start))[SETUP_SECTS] + 1u) * 512;
	memcpy(setup, at(module->start), size);
	memcpy(at(0x100000), at(module->start + size), module->end - module->start - size);
	setup[TYPE_OF_LOADER] = 0xff;
	setup[LOADFLAGS] |= CAN_USE_HEAP;
	memcpy(setup + HEAP_END_PTR, &(const uint16_t){COMMAND_LINE - 0x200}, 2);
	memcpy(setup + CMD_LINE_PTR, &(const uint32_t){SETUP_BASE + COMMAND_LINE}, 4);
	put_command_line();
	put_memory_map();
	put_low_memory();
	gdt[BIOS_CODE_SEL / 8] = descriptor(BIOS_BASE, 0xffff, 0x009b);
	start_clock();
	bios_enter();
}
