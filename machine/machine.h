/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * machine.h - what a virtual machine is made of: memory layout, chipset, ACPI tables, and the loading of
 * a kernel. This is the direct-boot machine: no firmware, a kernel is put into memory and entered.
 *
 * Life: create the partition, machine_create() (adds RAM and the chipset), machine_load() (kernel,
 * tables, registers of VP 0), partition_start(), …, partition_stop(), machine_destroy(),
 * partition_destroy(). To reset, take all of it down and build it anew.
 *
 * The machine owns its parts and keeps no reference to configuration or files; the partition stays the
 * caller's. Set-up functions belong to one thread; those marked [any] may be called from any thread at
 * any time between create and destroy. Callbacks marked [vp] come from a virtual processor's
 * thread: short, no blocking, no partition_stop(), and no call back into the same serial port.
 *
 * Errors: negative errno, with one sentence in `err`. Kernel files are not trusted: nothing in one does
 * more than fail machine_load().
 */
#pragma once

#include "chipset/chipset.h"
#include "hypervisor/hypervisor.h"

struct machine;

/* --- memory map --------------------------------------------------------------------------------- */

/* RAM from 0 up to at most 3 GiB, the rest from 4 GiB. 0xe0000 to 0xfffff is RAM too, where the tables
 * lie, and is reserved in the memory map that a guest gets. */
#define MACHINE_MEMORY_MIN     (32ull << 20)
#define MACHINE_MEMORY_MAX     (1024ull << 30)
#define MACHINE_MEMORY_ALIGN   (1ull << 20)
#define MACHINE_LOW_MEMORY_MAX 0xc0000000ull

/* Address space that VMBus devices may claim (framebuffers, pass-through): told to guests by the _CRS of
 * the VMBus bus device. The high window begins after all RAM. */
#define MACHINE_LOW_MMIO_BASE  0xf8000000ull
#define MACHINE_LOW_MMIO_SIZE  0x06c00000ull /* up to the I/O APIC */
#define MACHINE_HIGH_MMIO_SIZE (4ull << 30)

gpa_t machine_high_mmio_base(const struct machine *m);

/* --- creation ----------------------------------------------------------------------------------- */

#define MACHINE_SERIAL_PORTS 2u

struct machine_serial {
	bool present; /* COM1 at index 0, COM2 at 1; an absent port is not in the ACPI tables */
	/* [vp] The guest sends bytes; returns how many were taken, the rest waits for
	 * machine_serial_output_ready(). NULL: bytes vanish. */
	size_t (*output)(void *context, unsigned port, const uint8_t *bytes, size_t size);
	/* [vp] Input that was not taken may be given again. May be NULL. */
	void (*input_room)(void *context, unsigned port);
};

struct machine_config {
	uint64_t memory; /* bytes of RAM: MACHINE_MEMORY_MIN to _MAX, a multiple of _ALIGN */
	struct machine_serial serial[MACHINE_SERIAL_PORTS];
	struct guid uuid; /* the machine's, as SMBIOS tells it; zero: none */
	bool exit_port;   /* port 0xf4 ends the guest, and interrupt lines: for bare test guests only */

	/* [vp] The guest turned the machine off, asked for a reset, wrote to the exit port ((v << 1) | 1).
	 * The VP runs on until the caller's own thread stops the partition. NULL: ignored. */
	void (*on_power_off)(void *context);
	void (*on_reset)(void *context);
	void (*on_exit)(void *context, uint32_t code);
	void *context;
};

/* -EINVAL: memory size; else what partition_add_memory() and friends return. */
int machine_create(struct machine **out, struct partition *p, const struct machine_config *config,
		   struct error *err);
void machine_destroy(struct machine *m);

/* --- files to boot ------------------------------------------------------------------------------ */

/* A file that becomes guest memory: an open descriptor, or bytes in memory where `bytes` is not NULL. */
struct boot_file {
	const char *name; /* as the user wrote it, for messages */
	const void *bytes;
	int fd;
	uint64_t size;
};

/* Open `path` (which must outlive `file`) for reading; -EINVAL for what is no regular file. */
int boot_file_open(struct boot_file *file, const char *path, struct error *err);
/* The same of a file that is open, `fd`, which is taken over in any case. */
int boot_file_take(struct boot_file *file, int fd, const char *path, struct error *err);
void boot_file_close(struct boot_file *file);

struct boot_module {
	struct boot_file file;
	const char *string; /* what the multiboot kernel is told of it; NULL: the file's name */
};

/*
 * What to boot. Two kinds of kernel, told apart by the file itself:
 *
 *  - Linux bzImage, boot protocol 2.12 or later with a 64-bit entry point. Takes `initrd` and `append`;
 *    modules are refused. Source: Linux Documentation/arch/x86/boot.rst.
 *  - multiboot 1: ELF32 or ELF64 (as GRUB does; QEMU refuses the latter), or any file with the address
 *    fields of the header (a.out kludge). Entered in 32-bit mode, so all of it must lie below 4 GiB. Its
 *    command line is the kernel's name, a space, and `append`. `initrd`, when given, is the first module.
 *    Source: Multiboot Specification 0.6.96.
 */
struct boot_config {
	struct boot_file kernel;
	const struct boot_file *initrd; /* NULL: none */
	const char *append;             /* NULL: empty */
	const struct boot_module *modules;
	unsigned module_count; /* up to 64 */
};

/* Write kernel, files, command line, ACPI and SMBIOS tables into fresh RAM, and set the registers of VP 0.
 * -ENOEXEC: not a kernel that can be booted here; -ENOMEM: does not fit into the guest's memory;
 * -E2BIG: command line too long; -EIO: the file could not be read or is shorter than its header says. */
int machine_load(struct machine *m, const struct boot_config *boot, struct error *err);

/* --- saved state --------------------------------------------------------------------------------- */

/* While no VP runs: nothing changes in its parts by itself, so that they can be saved in one moment. Timers that came due
 * meanwhile are told at the release. */
void machine_hold(struct machine *m);
void machine_release(struct machine *m);

/* What the machine is made of and the state of its parts, as sections (base/form.h): all but RAM and what
 * partition_save_state() gives. Only while no VP runs. */
void machine_save(struct machine *m, struct form_writer *w);

/* Give them to a machine that was just created, instead of machine_load(), when RAM and the partition's state are
 * there. What is wrong with the bytes is the reader's error; -EINVAL: this machine is made of something else, and `err`
 * says of what. After either it must be destroyed. */
int machine_load_state(struct machine *m, struct form_reader *r, struct error *err);

/* --- while it runs ------------------------------------------------------------------------------ */

/* [any] Press the power button. */
void machine_power_button(struct machine *m);

/* [any] Input for COM1 (port 0) or COM2 (port 1): how many bytes were taken (0 for an absent port), and how
 * many would be. */
size_t machine_serial_receive(struct machine *m, unsigned port, const uint8_t *bytes, size_t size);
size_t machine_serial_input_room(struct machine *m, unsigned port);

/* [any] The sink of a port takes bytes again. */
void machine_serial_output_ready(struct machine *m, unsigned port);

/* [any] The other end of a port came or went (carrier detect and friends). */
void machine_serial_set_connected(struct machine *m, unsigned port, bool connected);
