/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * linux.c - load a bzImage and enter it at its 64-bit entry point (boot.rst, "64-bit Boot Protocol"), a kernel that has
 * none at its 32-bit one ("32-bit Boot Protocol").
 */
#include <errno.h>
#include <string.h>

#include "machine/boot.h"
#include "machine/linux_format.h"

/* What the kernel is entered with, in conventional memory, which it leaves alone until it has its own. */
#define GDT_GPA          0x1000u
#define PAGE_TABLES_GPA  0x2000u /* PML4, PDPT, four page directories: the first 4 GiB, in 2 MiB pages */
#define BOOT_PARAMS_GPA  0x8000u
#define COMMAND_LINE_GPA 0x9000u
#define COMMAND_LINE_MAX 0xf000u
#define STACK_GPA        0x9fff0u

#define PAGE_DIRECTORIES 4u
#define PAGE_ENTRIES     512u

enum { PTE_PRESENT = 1, PTE_WRITABLE = 2, PTE_LARGE = 0x80 };

#define CR0_PG   0x80000000u
#define CR4_PAE  0x20u
#define EFER_LME 0x100u
#define EFER_LMA 0x400u

/* Memory below this is for the tables above and for what a PC keeps there. */
#define KERNEL_MIN 0x100000u

struct linux_image {
	const struct boot_file *file;
	struct linux_setup_header header;
	uint64_t setup_size;  /* real-mode part, in front of the kernel proper */
	uint64_t kernel_size; /* of the protected-mode part in the file */
	gpa_t load;
};

bool linux_recognise(const struct boot_file *kernel)
{
	struct linux_setup_header header;

	return !boot_file_read(kernel, LINUX_HEADER_OFFSET, &header, sizeof(header), NULL) &&
	       header.boot_flag == LINUX_BOOT_FLAG && header.header == LINUX_HEADER_MAGIC;
}

static bool is_64bit(const struct linux_image *image)
{
	return image->header.xloadflags & LINUX_XLF_KERNEL_64;
}

static int check_header(const struct linux_image *image, struct error *err)
{
	const struct linux_setup_header *h = &image->header;
	const char *name = image->file->name;

	if (h->version < LINUX_VERSION_MIN)
		return error_set(err, ENOEXEC,
				 "%s speaks Linux boot protocol %u.%u; 2.12 or later is needed: use a kernel "
				 "of version 3.8 or later",
				 name, h->version >> 8, h->version & 0xff);
	if (!(h->loadflags & LINUX_LOADED_HIGH))
		return error_set(err, ENOEXEC, "%s is a Linux zImage, which cannot be booted: use a bzImage",
				 name);
	if (!image->kernel_size || image->kernel_size <= LINUX_ENTRY_64 ||
	    h->init_size < image->kernel_size || !h->kernel_alignment ||
	    h->kernel_alignment & (h->kernel_alignment - 1))
		return error_set(err, ENOEXEC,
				 "%s has a damaged Linux setup header: copy it again from where it came",
				 name);
	return 0;
}

static int read_header(struct linux_image *image, struct error *err)
{
	struct linux_setup_header *h = &image->header;
	uint64_t setup_sectors, header_end;
	int code = boot_file_read(image->file, LINUX_HEADER_OFFSET, h, sizeof(*h), err);

	if (code)
		return code;
	/* Fields that this kernel's header does not reach to are something else in the file. */
	header_end = LINUX_HEADER_JUMP + (h->jump >> 8);
	if (header_end < LINUX_HEADER_OFFSET + sizeof(*h))
		memset((uint8_t *)h + (header_end - LINUX_HEADER_OFFSET), 0,
		       LINUX_HEADER_OFFSET + sizeof(*h) - header_end);
	setup_sectors = h->setup_sects ? h->setup_sects : 4;
	image->setup_size = (setup_sectors + 1) * LINUX_SECTOR;
	image->kernel_size = (uint64_t)h->syssize * 16;
	return check_header(image, err);
}

/* Where the kernel likes to be, or, when memory does not reach so far, as low as it can be. */
static int choose_address(struct linux_image *image, const struct boot_target *target, struct error *err)
{
	const struct linux_setup_header *h = &image->header;

	image->load = h->pref_address;
	if (image->load >= KERNEL_MIN && range_fits_u64(image->load, h->init_size, target->low_memory))
		return 0;
	image->load = align_up_u64(KERNEL_MIN, h->kernel_alignment);
	if (h->relocatable_kernel && range_fits_u64(image->load, h->init_size, target->low_memory))
		return 0;
	return error_set(
	    err, ENOMEM,
	    "%s needs %u MiB of memory from %llu MiB up and the machine has %llu MiB: give it more memory",
	    image->file->name, (h->init_size >> 20) + 1, (unsigned long long)(h->pref_address >> 20),
	    (unsigned long long)(target->memory >> 20));
}

static int load_initrd(struct linux_image *image, const struct boot_target *target,
		       const struct boot_file *initrd, struct error *err)
{
	struct linux_setup_header *h = &image->header;
	uint64_t top = min_u64(target->low_memory, (uint64_t)h->initrd_addr_max + 1);
	uint64_t bottom = image->load + h->init_size;
	gpa_t gpa;

	if (!initrd)
		return 0;
	if (!initrd->size)
		return error_set(err, EIO, "%s is empty: give the initrd that belongs to the kernel",
				 initrd->name);
	/* As high as may be, so that the kernel can unpack itself over what is next to it. */
	gpa = initrd->size <= top ? (top - initrd->size) & ~(uint64_t)(GUEST_PAGE_SIZE - 1) : 0;
	if (gpa < bottom)
		return error_set(err, ENOMEM,
				 "%s (%llu MiB) does not fit into memory beside the kernel: give the machine "
				 "more than %llu MiB",
				 initrd->name, (unsigned long long)((initrd->size >> 20) + 1),
				 (unsigned long long)(target->memory >> 20));
	h->ramdisk_image = (uint32_t)gpa;
	h->ramdisk_size = (uint32_t)initrd->size;
	return boot_file_load(initrd, 0, target, gpa, initrd->size, err);
}

static int write_command_line(struct linux_image *image, const struct boot_target *target, const char *append,
			      struct error *err)
{
	struct linux_setup_header *h = &image->header;
	uint64_t max = min_u64(h->cmdline_size, COMMAND_LINE_MAX - 1);
	size_t length;

	if (!append)
		append = "";
	length = strlen(append);
	if (length > max)
		return error_set(err, E2BIG,
				 "the command line has %zu characters and %s takes up to %llu: shorten it",
				 length, image->file->name, (unsigned long long)max);
	h->cmd_line_ptr = COMMAND_LINE_GPA;
	if (partition_write(target->partition, COMMAND_LINE_GPA, append, length + 1))
		return error_set(err, EFAULT, "cannot write the command line to guest memory at %#x",
				 COMMAND_LINE_GPA);
	return 0;
}

static int write_boot_params(const struct linux_image *image, const struct boot_target *target,
			     struct error *err)
{
	struct linux_boot_params params = {.acpi_rsdp_addr = target->rsdp, .header = image->header};
	struct memory_range ranges[LAYOUT_MAX_RANGES];
	unsigned count = layout_memory_map(target->memory, ranges);

	params.alt_mem_k = (uint32_t)((target->low_memory - KERNEL_MIN) >> 10);
	params.e820_entries = (uint8_t)count;
	for (unsigned i = 0; i < count; i++)
		params.e820_table[i] =
		    (struct linux_e820_entry){ranges[i].base, ranges[i].size, ranges[i].type};
	params.header.type_of_loader = LINUX_LOADER_UNDEFINED;
	params.header.code32_start = (uint32_t)image->load;
	if (partition_write(target->partition, BOOT_PARAMS_GPA, &params, sizeof(params)))
		return error_set(err, EFAULT, "cannot write the boot parameters to guest memory at %#x",
				 BOOT_PARAMS_GPA);
	return 0;
}

static int write_tables(const struct linux_image *image, const struct boot_target *target, struct error *err)
{
	const uint64_t gdt[] = {0, 0, is_64bit(image) ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff};
	uint64_t table[PAGE_ENTRIES] = {PAGE_TABLES_GPA + 0x1000 + PTE_PRESENT + PTE_WRITABLE};
	struct partition *p = target->partition;
	int code = partition_write(p, GDT_GPA, gdt, sizeof(gdt));

	code = code ? code : partition_write(p, PAGE_TABLES_GPA, table, sizeof(table));
	for (unsigned i = 0; i < PAGE_DIRECTORIES; i++)
		table[i] = PAGE_TABLES_GPA + 0x2000 + i * 0x1000 + PTE_PRESENT + PTE_WRITABLE;
	code = code ? code : partition_write(p, PAGE_TABLES_GPA + 0x1000, table, sizeof(table));
	for (unsigned d = 0; d < PAGE_DIRECTORIES; d++) {
		for (uint64_t i = 0; i < PAGE_ENTRIES; i++)
			table[i] = (d * PAGE_ENTRIES + i) << 21 | PTE_LARGE | PTE_PRESENT | PTE_WRITABLE;
		code = code ? code
			    : partition_write(p, PAGE_TABLES_GPA + 0x2000 + d * 0x1000, table, sizeof(table));
	}
	return code
		   ? error_set(err, -code, "cannot write page tables to guest memory at %#x", PAGE_TABLES_GPA)
		   : 0;
}

static int set_registers(const struct linux_image *image, const struct boot_target *target, struct error *err)
{
	struct vp_registers r;
	int code;

	boot_flat_registers(&r, is_64bit(image));
	r.rip = image->load + (is_64bit(image) ? LINUX_ENTRY_64 : 0);
	r.gpr[4] = STACK_GPA;
	r.gpr[6] = BOOT_PARAMS_GPA;
	r.gdt_base = GDT_GPA;
	r.gdt_limit = 4 * 8 - 1;
	if (is_64bit(image)) {
		r.cr0 |= CR0_PG;
		r.cr3 = PAGE_TABLES_GPA;
		r.cr4 = CR4_PAE;
		r.efer = EFER_LME | EFER_LMA;
	}
	code = vp_set_registers(target->partition, 0, &r);
	return code ? error_set(err, -code, "the processor refuses the state that Linux begins with") : 0;
}

int linux_load(const struct boot_target *target, const struct boot_config *boot, struct error *err)
{
	struct linux_image image = {.file = &boot->kernel};
	int code;

	if (boot->module_count)
		return error_set(err, EINVAL, "%s is a Linux kernel, which takes an initrd and no modules",
				 boot->kernel.name);
	code = read_header(&image, err);
	code = code ? code : choose_address(&image, target, err);
	code = code ? code : load_initrd(&image, target, boot->initrd, err);
	code = code
		   ? code
		   : boot_file_load(image.file, image.setup_size, target, image.load, image.kernel_size, err);
	code = code ? code : write_command_line(&image, target, boot->append, err);
	code = code ? code : write_tables(&image, target, err);
	code = code ? code : write_boot_params(&image, target, err);
	return code ? code : set_registers(&image, target, err);
}
