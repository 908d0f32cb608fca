/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * multiboot.c - load a multiboot 1 kernel: find its header, load its segments, then the modules, then what
 * the kernel is told, each on the pages after the last, and enter it in 32-bit protected mode.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "machine/boot.h"
#include "machine/multiboot_format.h"

#define MAX_SEGMENTS 256u
#define MAX_MODULES  64u
#define MAX_STRING   65536u

struct multiboot_image {
	const struct boot_file *file;
	struct multiboot_header header;
	uint64_t header_offset;
	gpa_t entry;
	gpa_t end; /* first byte after all that was loaded */
};

/* One segment of an ELF file of either class. */
struct segment {
	uint64_t type, offset, vaddr, paddr, filesz, memsz;
};

static bool find_header(const struct boot_file *file, struct multiboot_header *header, uint64_t *offset)
{
	uint8_t bytes[MULTIBOOT_SEARCH + sizeof(*header)] = {0};
	uint64_t size = min_u64(file->size, sizeof(bytes));

	if (boot_file_read(file, 0, bytes, size, NULL))
		return false;
	for (uint64_t at = 0; at + 12 <= min_u64(size, MULTIBOOT_SEARCH); at += 4) {
		if (le32_get(bytes + at) != MULTIBOOT_HEADER_MAGIC ||
		    le32_get(bytes + at) + le32_get(bytes + at + 4) + le32_get(bytes + at + 8) != 0)
			continue;
		memcpy(header, bytes + at, sizeof(*header));
		*offset = at;
		return true;
	}
	return false;
}

bool multiboot_recognise(const struct boot_file *kernel)
{
	struct multiboot_header header;
	uint64_t offset;

	return find_header(kernel, &header, &offset);
}

static int damaged(const struct multiboot_image *image, const char *what, struct error *err)
{
	return error_set(err, ENOEXEC, "%s cannot be booted: %s", image->file->name, what);
}

/* Load one piece: `filesz` bytes of the file, and zeros (which fresh RAM has) up to `memsz`. */
static int load_piece(struct multiboot_image *image, const struct boot_target *target, gpa_t gpa,
		      uint64_t offset, uint64_t filesz, uint64_t memsz, struct error *err)
{
	if (filesz > memsz)
		return damaged(image, "a segment is larger in the file than in memory", err);
	if (!range_fits_u64(gpa, memsz, target->low_memory))
		return error_set(err, ENOMEM,
				 "%s wants to be loaded at %#llx to %#llx, and the machine has %llu MiB: "
				 "give it more memory",
				 image->file->name, (unsigned long long)gpa,
				 (unsigned long long)(gpa + memsz),
				 (unsigned long long)(target->memory >> 20));
	if (gpa < LAYOUT_FIRMWARE_END && gpa + memsz > LAYOUT_FIRMWARE_BASE)
		return damaged(image, "it wants to be loaded over the firmware tables at 0xe0000 to 0xfffff",
			       err);
	image->end = max_u64(image->end, gpa + memsz);
	return boot_file_load(image->file, offset, target, gpa, filesz, err);
}

static int load_by_addresses(struct multiboot_image *image, const struct boot_target *target,
			     struct error *err)
{
	const struct multiboot_header *h = &image->header;
	uint64_t offset, filesz, memsz;

	if (h->header_addr < h->load_addr || h->header_addr - h->load_addr > image->header_offset)
		return damaged(image, "its multiboot header has a load address outside of the file", err);
	offset = image->header_offset - (h->header_addr - h->load_addr);
	filesz = image->file->size - offset;
	if (h->load_end_addr) {
		if (h->load_end_addr < h->load_addr)
			return damaged(image, "its multiboot header has an end before its beginning", err);
		filesz = h->load_end_addr - h->load_addr;
	}
	memsz = filesz;
	if (h->bss_end_addr) {
		if (h->bss_end_addr < h->load_addr + filesz)
			return damaged(image, "its multiboot header has an end of bss before the end of data",
				       err);
		memsz = h->bss_end_addr - h->load_addr;
	}
	if (h->entry_addr < h->load_addr || h->entry_addr - h->load_addr >= memsz)
		return damaged(image, "its entry point is outside of what is loaded", err);
	image->entry = h->entry_addr;
	return load_piece(image, target, h->load_addr, offset, filesz, memsz, err);
}

static int read_segment(const struct boot_file *file, bool elf64, uint64_t offset, struct segment *s,
			struct error *err)
{
	Elf64_Phdr p64;
	Elf32_Phdr p32;
	int code;

	if (elf64) {
		code = boot_file_read(file, offset, &p64, sizeof(p64), err);
		if (!code)
			*s = (struct segment){p64.p_type,  p64.p_offset, p64.p_vaddr,
					      p64.p_paddr, p64.p_filesz, p64.p_memsz};
	} else {
		code = boot_file_read(file, offset, &p32, sizeof(p32), err);
		if (!code)
			*s = (struct segment){p32.p_type,  p32.p_offset, p32.p_vaddr,
					      p32.p_paddr, p32.p_filesz, p32.p_memsz};
	}
	return code;
}

struct elf_layout {
	bool elf64;
	uint64_t entry, table;
	unsigned entry_size, count;
};

static int read_elf_header(const struct multiboot_image *image, struct elf_layout *e, struct error *err)
{
	union {
		unsigned char ident[EI_NIDENT];
		Elf32_Ehdr h32;
		Elf64_Ehdr h64;
	} u = {0};
	unsigned type, machine, size;
	int code = boot_file_read(image->file, 0, &u, min_u64(sizeof(u), image->file->size), err);

	if (code)
		return code;
	if (memcmp(u.ident, ELFMAG, SELFMAG) || u.ident[EI_DATA] != ELFDATA2LSB)
		return damaged(
		    image, "it has a multiboot header, but is no ELF file and names no load address", err);
	e->elf64 = u.ident[EI_CLASS] == ELFCLASS64;
	type = e->elf64 ? u.h64.e_type : u.h32.e_type;
	machine = e->elf64 ? u.h64.e_machine : u.h32.e_machine;
	e->entry = e->elf64 ? u.h64.e_entry : u.h32.e_entry;
	e->table = e->elf64 ? u.h64.e_phoff : u.h32.e_phoff;
	e->entry_size = e->elf64 ? u.h64.e_phentsize : u.h32.e_phentsize;
	e->count = e->elf64 ? u.h64.e_phnum : u.h32.e_phnum;
	size = e->elf64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	if (machine != (e->elf64 ? EM_X86_64 : EM_386))
		return damaged(image, "it is an ELF file for another processor", err);
	if (type != ET_EXEC)
		return damaged(image, "it is an ELF file that is not linked to fixed addresses", err);
	if (!e->count || e->count > MAX_SEGMENTS || e->entry_size < size || e->table > image->file->size)
		return damaged(image, "its ELF program headers are damaged", err);
	return 0;
}

static int load_elf(struct multiboot_image *image, const struct boot_target *target, struct error *err)
{
	struct elf_layout e = {0};
	bool entered = false;
	int code = read_elf_header(image, &e, err);

	for (unsigned i = 0; !code && i < e.count; i++) {
		struct segment s;

		code = read_segment(image->file, e.elf64, e.table + (uint64_t)i * e.entry_size, &s, err);
		if (code || s.type != PT_LOAD || !s.memsz)
			continue;
		/* The entry point is a virtual address; paging is off, so it means a place in a segment. */
		if (e.entry >= s.vaddr && e.entry - s.vaddr < s.memsz) {
			image->entry = s.paddr + (e.entry - s.vaddr);
			entered = true;
		}
		code = load_piece(image, target, s.paddr, s.offset, s.filesz, s.memsz, err);
	}
	if (!code && !entered)
		return damaged(image, "its entry point is outside of what is loaded", err);
	return code;
}

static int load_image(struct multiboot_image *image, const struct boot_target *target, struct error *err)
{
	uint32_t unknown;

	if (!find_header(image->file, &image->header, &image->header_offset))
		return damaged(image, "it has no multiboot header", err);
	unknown = image->header.flags & MULTIBOOT_REQUIRED & ~(MULTIBOOT_PAGE_ALIGN | MULTIBOOT_MEMORY_INFO);
	if (unknown & MULTIBOOT_VIDEO_MODE)
		return damaged(image, "it asks for a video mode, and this machine has no display", err);
	if (unknown)
		return damaged(image, "its multiboot header asks for features that do not exist", err);
	if (image->header.flags & MULTIBOOT_HAS_ADDRESSES)
		return load_by_addresses(image, target, err);
	return load_elf(image, target, err);
}

/* --- what the kernel is told -------------------------------------------------------------------- */

struct writer {
	const struct boot_target *target;
	gpa_t next;
	int code;
};

/* Put bytes down on the next multiple of 8; returns where, all of it below 4 GiB. */
static uint32_t put(struct writer *w, const void *bytes, size_t size)
{
	gpa_t at = align_up_u64(w->next, 8);

	if (w->code)
		return 0;
	if (!range_fits_u64(at, size, w->target->low_memory))
		w->code = -ENOMEM;
	else
		w->code = partition_write(w->target->partition, at, bytes, size);
	w->next = at + size;
	return (uint32_t)at;
}

static uint32_t put_string(struct writer *w, const char *string)
{
	size_t length = strlen(string);

	if (length >= MAX_STRING) {
		w->code = -E2BIG;
		return 0;
	}
	return put(w, string, length + 1);
}

static uint32_t put_command_line(struct writer *w, const char *name, const char *append)
{
	_cleanup_free_ char *line = NULL;

	if (asprintf(&line, "%s%s%s", name, append && *append ? " " : "", append ? append : "") < 0) {
		line = NULL;
		w->code = -ENOMEM;
		return 0;
	}
	return put_string(w, line);
}

static void put_memory_map(struct writer *w, struct multiboot_info *info)
{
	struct memory_range ranges[LAYOUT_MAX_RANGES];
	struct multiboot_range map[LAYOUT_MAX_RANGES];
	unsigned count = layout_memory_map(w->target->memory, ranges);

	for (unsigned i = 0; i < count; i++)
		map[i] = (struct multiboot_range){sizeof(map[i]) - sizeof(map[i].size), ranges[i].base,
						  ranges[i].size, ranges[i].type};
	info->mmap_length = count * (uint32_t)sizeof(map[0]);
	info->mmap_addr = put(w, map, info->mmap_length);
}

static int load_modules(struct writer *w, const struct boot_module *modules, unsigned count,
			struct multiboot_module *table, struct error *err)
{
	for (unsigned i = 0; i < count; i++) {
		const struct boot_file *file = &modules[i].file;
		gpa_t at = align_up_u64(w->next, GUEST_PAGE_SIZE);
		int code = boot_file_load(file, 0, w->target, at, file->size, err);

		if (code)
			return code;
		w->next = at + file->size;
		table[i].start = (uint32_t)at;
		table[i].end = (uint32_t)w->next;
	}
	for (unsigned i = 0; i < count; i++)
		table[i].string = put_string(w, modules[i].string ? modules[i].string : modules[i].file.name);
	return 0;
}

static int write_information(struct multiboot_image *image, const struct boot_target *target,
			     const struct boot_config *boot, gpa_t *info_gpa, struct error *err)
{
	struct writer w = {.target = target, .next = align_up_u64(image->end, GUEST_PAGE_SIZE)};
	struct boot_module modules[MAX_MODULES + 1];
	struct multiboot_module table[MAX_MODULES + 1] = {0};
	unsigned count = 0;
	struct multiboot_info info = {
	    .flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MEMORY_MAP | INFO_LOADER_NAME,
	    .mem_lower = LAYOUT_CONVENTIONAL_END >> 10,
	    .mem_upper = (uint32_t)((target->low_memory - LAYOUT_FIRMWARE_END) >> 10),
	};
	int code;

	if (boot->initrd)
		modules[count++] = (struct boot_module){.file = *boot->initrd};
	for (unsigned i = 0; i < boot->module_count; i++)
		modules[count++] = boot->modules[i];
	code = load_modules(&w, modules, count, table, err);
	if (code)
		return code;
	info.mods_count = count;
	info.mods_addr = put(&w, table, count * sizeof(table[0]));
	info.cmdline = put_command_line(&w, image->file->name, boot->append);
	info.boot_loader_name = put_string(&w, "Bulkhead");
	put_memory_map(&w, &info);
	*info_gpa = put(&w, &info, sizeof(info));
	if (w.code == -E2BIG)
		return error_set(
		    err, E2BIG,
		    "the command line or a module's string for %s is longer than %u characters: shorten it",
		    image->file->name, MAX_STRING - 1);
	return w.code
		   ? error_set(
			 err, -w.code,
			 "%s and its modules do not fit into the guest's memory: give it more than %llu MiB",
			 image->file->name, (unsigned long long)(target->memory >> 20))
		   : 0;
}

int multiboot_load(const struct boot_target *target, const struct boot_config *boot, struct error *err)
{
	struct multiboot_image image = {.file = &boot->kernel};
	struct vp_registers r;
	gpa_t info = 0;
	int code;

	if (boot->module_count > MAX_MODULES)
		return error_set(err, EINVAL, "%u modules were given for %s, and %u is the most",
				 boot->module_count, boot->kernel.name, MAX_MODULES);
	code = load_image(&image, target, err);
	code = code ? code : write_information(&image, target, boot, &info, err);
	if (code)
		return code;
	boot_flat_registers(&r, false);
	r.rip = image.entry;
	r.gpr[0] = MULTIBOOT_LOADER_MAGIC;
	r.gpr[3] = info;
	code = vp_set_registers(target->partition, 0, &r);
	return code ? error_set(err, -code,
				"the processor refuses the state that a multiboot kernel begins with")
		    : 0;
}
