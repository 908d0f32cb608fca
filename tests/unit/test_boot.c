/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Both loaders: what lies where when the guest begins, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <elf.h>
#include <errno.h>
#include <glob.h>
#include <string.h>

#include "machine/linux_format.h"
#include "machine/machine.h"
#include "machine/multiboot_format.h"
#include "tests/double/board.h"

#define MIB (1ull << 20)

struct boot {
	struct partition *p;
	struct machine *m;
	struct error err;
	char serial[64];
	size_t serial_size;
	unsigned power_offs, resets, exits;
};

static size_t on_output(void *context, unsigned port, const uint8_t *bytes, size_t size)
{
	struct boot *t = context;

	assert_int_equal(port, 0);
	memcpy(t->serial + t->serial_size, bytes, size);
	t->serial_size += size;
	return size;
}

static void on_power_off(void *context)
{
	((struct boot *)context)->power_offs++;
}

static void on_reset(void *context)
{
	((struct boot *)context)->resets++;
}

static void on_exit_port(void *context, uint32_t code)
{
	((struct boot *)context)->exits = code;
}

static void create(struct boot *t, uint64_t memory)
{
	const struct machine_config config = {.memory = memory,
					      .serial = {{.present = true, .output = on_output}},
					      .exit_port = true,
					      .on_power_off = on_power_off,
					      .on_reset = on_reset,
					      .on_exit = on_exit_port,
					      .context = t};

	t->p = board_create(2);
	assert_int_equal(machine_create(&t->m, t->p, &config, &t->err), 0);
}

static void destroy(struct boot *t)
{
	machine_destroy(t->m);
	board_destroy(t->p);
	t->m = NULL;
	t->p = NULL;
}

static int set_up(void **state)
{
	*state = calloc(1, sizeof(struct boot));
	create(*state, 256 * MIB);
	return 0;
}

static int tear_down(void **state)
{
	destroy(*state);
	free(*state);
	return 0;
}

static struct boot_file file_of(const char *name, const void *bytes, uint64_t size)
{
	return (struct boot_file){.name = name, .bytes = bytes, .size = size};
}

static int load(struct boot *t, const void *bytes, size_t size)
{
	t->err = (struct error){0};
	return machine_load(t->m, &(struct boot_config){.kernel = file_of("kernel", bytes, size)}, &t->err);
}

/* --- bzImage ------------------------------------------------------------------------------------ */

#define SETUP_SECTS 3u
#define KERNEL_SIZE 8192u

struct bzimage {
	uint8_t bytes[(SETUP_SECTS + 1) * 512 + KERNEL_SIZE];
};

static struct linux_setup_header *header_of(struct bzimage *image)
{
	return (struct linux_setup_header *)(image->bytes + LINUX_HEADER_OFFSET);
}

static void make_bzimage(struct bzimage *image)
{
	struct linux_setup_header *h = header_of(image);

	memset(image, 0, sizeof(*image));
	*h = (struct linux_setup_header){
	    .setup_sects = SETUP_SECTS,
	    .syssize = KERNEL_SIZE / 16,
	    .boot_flag = 0xaa55,
	    .jump = 0xeb | (sizeof(*h) - (LINUX_HEADER_JUMP - LINUX_HEADER_OFFSET)) << 8,
	    .header = LINUX_HEADER_MAGIC,
	    .version = 0x20f,
	    .loadflags = 1,
	    .initrd_addr_max = 0x7fffffff,
	    .kernel_alignment = 0x200000,
	    .relocatable_kernel = 1,
	    .xloadflags = 1,
	    .cmdline_size = 2047,
	    .pref_address = 0x1000000,
	    .init_size = 0x400000};
	for (unsigned i = 0; i < KERNEL_SIZE; i++)
		image->bytes[(SETUP_SECTS + 1) * 512 + i] = (uint8_t)(i * 13 >> 3);
}

static void linux_begins(void **state)
{
	struct boot *t = *state;
	struct bzimage image;
	uint8_t initrd[5000];
	struct linux_boot_params params;
	const struct vp_registers *r;
	char line[32];

	make_bzimage(&image);
	memset(initrd, 0x5a, sizeof(initrd));
	assert_int_equal(
	    machine_load(
		t->m,
		&(struct boot_config){
		    .kernel = file_of("vmlinuz", &image, sizeof(image)),
		    .initrd = &(struct boot_file){.name = "initrd", .bytes = initrd, .size = sizeof(initrd)},
		    .append = "console=ttyS0 quiet"},
		&t->err),
	    0);
	r = board_registers(t->p);
	assert_non_null(r);
	assert_int_equal(r->rip, 0x1000200);
	assert_int_equal(r->cs.attributes & 0x2000, 0x2000); /* long mode */
	assert_int_equal(r->cr0 & 0x80000001, 0x80000001);
	assert_int_equal(r->efer, 0x500);
	assert_memory_equal(partition_memory(t->p, 0x1000000, KERNEL_SIZE),
			    image.bytes + (SETUP_SECTS + 1) * 512, KERNEL_SIZE);
	assert_int_equal(partition_read(t->p, r->gpr[6], &params, sizeof(params)), 0);
	assert_int_equal(params.acpi_rsdp_addr, 0xe0000);
	assert_int_equal(params.header.type_of_loader, 0xff);
	assert_int_equal(params.header.ramdisk_size, sizeof(initrd));
	assert_int_equal(params.header.ramdisk_image, 256 * MIB - 8192);
	assert_memory_equal(partition_memory(t->p, params.header.ramdisk_image, sizeof(initrd)), initrd,
			    sizeof(initrd));
	assert_int_equal(partition_read(t->p, params.header.cmd_line_ptr, line, sizeof(line)), 0);
	assert_string_equal(line, "console=ttyS0 quiet");
	assert_int_equal(params.e820_entries, 3);
	assert_int_equal(params.e820_table[1].type, 2);
	assert_int_equal(params.e820_table[2].address + params.e820_table[2].size, 256 * MIB);
}

/* A kernel with no 64-bit entry: flat protected mode, no paging. */
static void linux_begins_32bit(void **state)
{
	struct boot *t = *state;
	struct bzimage image;
	struct linux_boot_params params;
	const struct vp_registers *r;
	uint64_t descriptor;

	make_bzimage(&image);
	header_of(&image)->xloadflags = 0;
	assert_int_equal(load(t, &image, sizeof(image)), 0);
	r = board_registers(t->p);
	assert_int_equal(r->rip, 0x1000000);
	assert_int_equal(r->cs.attributes & 0x6000, 0x4000);
	assert_int_equal(r->cs.selector, 0x10);
	assert_int_equal(r->ds.selector, 0x18);
	assert_int_equal(r->cr0 & 0x80000001, 1);
	assert_int_equal(r->efer, 0);
	assert_int_equal(r->rflags & 0x200, 0);
	assert_int_equal(r->gpr[3] | r->gpr[5] | r->gpr[7], 0);
	assert_int_equal(partition_read(t->p, r->gdt_base + 0x10, &descriptor, 8), 0);
	assert_int_equal(descriptor, 0x00cf9b000000ffff);
	assert_int_equal(partition_read(t->p, r->gpr[6], &params, sizeof(params)), 0);
	assert_int_equal(params.header.code32_start, 0x1000000);
}

/* Walk the page tables that the kernel is entered with: all of the first 4 GiB is there, at its own address.
 */
static void linux_page_tables(void **state)
{
	struct boot *t = *state;
	struct bzimage image;
	const struct vp_registers *r;

	make_bzimage(&image);
	assert_int_equal(load(t, &image, sizeof(image)), 0);
	r = board_registers(t->p);
	for (uint64_t va = 0; va < 4096 * MIB; va += 2 * MIB) {
		uint64_t entry;

		assert_int_equal(partition_read(t->p, r->cr3 + (va >> 39) * 8, &entry, 8), 0);
		assert_int_equal(entry & 0x83, 3);
		assert_int_equal(partition_read(t->p, (entry & ~0xfffull) + (va >> 30 & 511) * 8, &entry, 8),
				 0);
		assert_int_equal(entry & 0x83, 3);
		assert_int_equal(partition_read(t->p, (entry & ~0xfffull) + (va >> 21 & 511) * 8, &entry, 8),
				 0);
		assert_int_equal(entry, va | 0x83);
	}
}

static void memory_above_4g(void **state)
{
	struct boot *t = *state;
	struct bzimage image;
	struct linux_boot_params params;

	destroy(t);
	create(t, 8192 * MIB);
	make_bzimage(&image);
	assert_int_equal(load(t, &image, sizeof(image)), 0);
	assert_int_equal(partition_read(t->p, board_registers(t->p)->gpr[6], &params, sizeof(params)), 0);
	assert_int_equal(params.e820_entries, 4);
	assert_int_equal(params.e820_table[2].address + params.e820_table[2].size, 3072 * MIB);
	assert_int_equal(params.e820_table[3].address, 4096 * MIB);
	assert_int_equal(params.e820_table[3].size, 5120 * MIB);
	assert_int_equal(machine_high_mmio_base(t->m), 12288 * MIB);
}

static void linux_small_memory(void **state)
{
	struct boot *t = *state;
	struct bzimage image;

	make_bzimage(&image);
	header_of(&image)->pref_address = 255 * MIB;
	assert_int_equal(load(t, &image, sizeof(image)), 0);
	assert_int_equal(board_registers(t->p)->rip, 0x200200); /* moved: 2 MiB is the least aligned place */
	header_of(&image)->relocatable_kernel = 0;
	assert_int_equal(load(t, &image, sizeof(image)), -ENOMEM);
	assert_non_null(strstr(t->err.text, "kernel needs"));
	header_of(&image)->pref_address = UINT64_MAX - 1;
	assert_int_equal(load(t, &image, sizeof(image)), -ENOMEM);
}

static void linux_refused(void **state)
{
	struct boot *t = *state;
	struct bzimage image;
	char line[4096];
	struct boot_file initrd = file_of("big.img", &image, 250 * MIB);

	make_bzimage(&image);
	header_of(&image)->version = 0x20b;
	assert_int_equal(load(t, &image, sizeof(image)), -ENOEXEC);
	assert_non_null(strstr(t->err.text, "2.12"));
	make_bzimage(&image);
	header_of(&image)->kernel_alignment = 0x300000;
	assert_int_equal(load(t, &image, sizeof(image)), -ENOEXEC);
	make_bzimage(&image);
	header_of(&image)->init_size = 100;
	assert_int_equal(load(t, &image, sizeof(image)), -ENOEXEC);
	make_bzimage(&image);
	assert_int_equal(load(t, &image, sizeof(image) - 1), -EIO);
	assert_non_null(strstr(t->err.text, "cut short"));
	memset(line, 'x', sizeof(line));
	line[2048] = '\0';
	assert_int_equal(
	    machine_load(t->m,
			 &(struct boot_config){.kernel = file_of("k", &image, sizeof(image)), .append = line},
			 &t->err),
	    -E2BIG);
	line[2047] = '\0';
	assert_int_equal(
	    machine_load(t->m,
			 &(struct boot_config){.kernel = file_of("k", &image, sizeof(image)), .append = line},
			 &t->err),
	    0);
	assert_int_equal(machine_load(t->m,
				      &(struct boot_config){.kernel = file_of("k", &image, sizeof(image)),
							    .initrd = &initrd},
				      &t->err),
			 -ENOMEM);
	assert_non_null(strstr(t->err.text, "big.img"));
}

/* --- multiboot ---------------------------------------------------------------------------------- */

struct elf_kernel {
	union {
		Elf32_Ehdr h32;
		Elf64_Ehdr h64;
	};
	union {
		Elf32_Phdr p32;
		Elf64_Phdr p64;
	};
	uint8_t pad[512 - sizeof(Elf64_Ehdr) - sizeof(Elf64_Phdr)];
	struct multiboot_header header;
	uint8_t code[512];
};

#define CODE_OFFSET 512u

static void make_elf(struct elf_kernel *k, bool elf64)
{
	const uint32_t flags = MULTIBOOT_PAGE_ALIGN | MULTIBOOT_MEMORY_INFO;

	memset(k, 0, sizeof(*k));
	if (elf64) {
		k->h64 = (Elf64_Ehdr){.e_type = ET_EXEC,
				      .e_machine = EM_X86_64,
				      .e_entry = 0xc0100020,
				      .e_phnum = 1,
				      .e_phoff = offsetof(struct elf_kernel, p64),
				      .e_phentsize = sizeof(Elf64_Phdr)};
		k->p64 = (Elf64_Phdr){.p_type = PT_LOAD,
				      .p_offset = CODE_OFFSET,
				      .p_vaddr = 0xc0100000,
				      .p_paddr = 0x100000,
				      .p_filesz = 544,
				      .p_memsz = 10000};
	} else {
		k->h32 = (Elf32_Ehdr){.e_type = ET_EXEC,
				      .e_machine = EM_386,
				      .e_entry = 0xc0100020,
				      .e_phnum = 1,
				      .e_phoff = offsetof(struct elf_kernel, p32),
				      .e_phentsize = sizeof(Elf32_Phdr)};
		k->p32 = (Elf32_Phdr){.p_type = PT_LOAD,
				      .p_offset = CODE_OFFSET,
				      .p_vaddr = 0xc0100000,
				      .p_paddr = 0x100000,
				      .p_filesz = 544,
				      .p_memsz = 10000};
	}
	memcpy(k->h32.e_ident, ELFMAG, SELFMAG);
	k->h32.e_ident[EI_CLASS] = elf64 ? ELFCLASS64 : ELFCLASS32;
	k->h32.e_ident[EI_DATA] = ELFDATA2LSB;
	k->header = (struct multiboot_header){
	    .magic = MULTIBOOT_HEADER_MAGIC, .flags = flags, .checksum = -(MULTIBOOT_HEADER_MAGIC + flags)};
	memset(k->code, 0x90, sizeof(k->code));
}

static void multiboot_begins(void **state)
{
	struct boot *t = *state;
	struct elf_kernel kernel;
	struct multiboot_info info;
	struct multiboot_module modules[2];
	const struct vp_registers *r;
	const struct boot_module module = {.file = file_of("second", "0123456789", 10),
					   .string = "second arg"};
	const struct boot_file initrd = file_of("first", "abc", 3);
	char line[32];

	make_elf(&kernel, false);
	assert_int_equal(
	    machine_load(t->m,
			 &(struct boot_config){.kernel = file_of("test.elf", &kernel, sizeof(kernel)),
					       .append = "a b",
					       .initrd = &initrd,
					       .modules = &module,
					       .module_count = 1},
			 &t->err),
	    0);
	r = board_registers(t->p);
	assert_int_equal(r->rip, 0x100020); /* the entry's physical address */
	assert_int_equal(r->gpr[0], 0x2badb002);
	assert_int_equal(r->cr0, 0x31);
	assert_int_equal(r->efer, 0);
	assert_int_equal(r->cs.attributes, 0xc09b);
	assert_memory_equal(partition_memory(t->p, 0x100020, 512), kernel.code, 512);
	assert_int_equal(partition_read(t->p, r->gpr[3], &info, sizeof(info)), 0);
	assert_int_equal(info.mem_lower, 640);
	assert_int_equal(info.mem_upper, 255 * 1024);
	assert_int_equal(info.mods_count, 2);
	assert_int_equal(partition_read(t->p, info.mods_addr, modules, sizeof(modules)), 0);
	assert_int_equal(modules[0].start, 0x103000); /* the page after 10000 bytes from 1 MiB */
	assert_int_equal(modules[0].end, 0x103003);
	assert_int_equal(modules[1].start, 0x104000);
	assert_memory_equal(partition_memory(t->p, modules[1].start, 10), "0123456789", 10);
	assert_string_equal(partition_memory(t->p, modules[0].string, 6), "first");
	assert_string_equal(partition_memory(t->p, modules[1].string, 11), "second arg");
	assert_int_equal(partition_read(t->p, info.cmdline, line, sizeof(line)), 0);
	assert_string_equal(line, "test.elf a b");
	assert_int_equal(info.mmap_length, 3 * 24);
}

static void multiboot_elf64(void **state)
{
	struct boot *t = *state;
	struct elf_kernel kernel;

	make_elf(&kernel, true);
	assert_int_equal(load(t, &kernel, sizeof(kernel)), 0);
	assert_int_equal(board_registers(t->p)->rip, 0x100020);
	assert_int_equal(board_registers(t->p)->efer, 0); /* 32-bit entry all the same */
	kernel.p64.p_paddr = 1ull << 40;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOMEM);
	kernel.p64.p_paddr = UINT64_MAX - 100;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOMEM);
}

static void multiboot_addresses(void **state)
{
	struct boot *t = *state;
	struct {
		uint8_t before[64];
		struct multiboot_header header;
		uint8_t code[200];
	} kernel = {.header = {.magic = MULTIBOOT_HEADER_MAGIC,
			       .flags = MULTIBOOT_HAS_ADDRESSES,
			       .checksum = -(MULTIBOOT_HEADER_MAGIC + MULTIBOOT_HAS_ADDRESSES),
			       .header_addr = 0x200010,
			       .load_addr = 0x200000,
			       .entry_addr = 0x200030,
			       .bss_end_addr = 0x201000}};

	memset(kernel.code, 0x42, sizeof(kernel.code));
	assert_int_equal(load(t, &kernel, sizeof(kernel)), 0);
	assert_int_equal(board_registers(t->p)->rip, 0x200030);
	/* 16 bytes before the header are loaded, and all of the file after it. */
	assert_memory_equal(partition_memory(t->p, 0x200010, 32), &kernel.header, 32);
	assert_memory_equal(partition_memory(t->p, 0x200030, 200), kernel.code, 200);
	kernel.header.load_end_addr = 0x200400;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -EIO);
	kernel.header.load_end_addr = 0x1fffff;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOEXEC);
	kernel.header.load_end_addr = 0;
	kernel.header.header_addr = 0x200100;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOEXEC);
	kernel.header.header_addr = 0x200010;
	kernel.header.entry_addr = 0x201000;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOEXEC);
	kernel.header.load_addr = kernel.header.header_addr = kernel.header.entry_addr = 0xfffffff0;
	kernel.header.bss_end_addr = 0;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOMEM);
}

static void multiboot_refused(void **state)
{
	struct boot *t = *state;
	struct elf_kernel kernel;

	make_elf(&kernel, false);
	kernel.h32.e_entry = 0x100020;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOEXEC);
	make_elf(&kernel, false);
	kernel.p32.p_filesz = 20000;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOEXEC);
	make_elf(&kernel, false);
	kernel.p32.p_paddr = 0xdff00;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOEXEC);
	assert_non_null(strstr(t->err.text, "firmware"));
	make_elf(&kernel, false);
	assert_int_equal(load(t, &kernel, CODE_OFFSET + 100), -EIO);
	kernel.h32.e_phoff = 0xfffffff0;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOEXEC);
	make_elf(&kernel, false);
	kernel.header.flags |= MULTIBOOT_VIDEO_MODE;
	kernel.header.checksum -= MULTIBOOT_VIDEO_MODE;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOEXEC);
	assert_non_null(strstr(t->err.text, "video"));
	make_elf(&kernel, false);
	kernel.h32.e_machine = EM_ARM;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOEXEC);
}

static void no_kernel(void **state)
{
	struct boot *t = *state;
	static const char text[] = "#!/bin/sh\necho this is no kernel\n";
	struct elf_kernel kernel;

	assert_int_equal(load(t, text, sizeof(text)), -ENOEXEC);
	assert_non_null(strstr(t->err.text, "kernel is not a kernel"));
	assert_int_equal(load(t, text, 0), -ENOEXEC);
	assert_non_null(strstr(t->err.text, "empty"));
	assert_int_equal(load(t, "\x1f\x8b", 2), -ENOEXEC);
	assert_non_null(strstr(t->err.text, "gzip"));
	make_elf(&kernel, true);
	kernel.header.checksum++;
	assert_int_equal(load(t, &kernel, sizeof(kernel)), -ENOEXEC);
	assert_non_null(strstr(t->err.text, "bzImage"));
	assert_null(board_registers(t->p));
}

static void files(void **state)
{
	struct boot_file file;
	struct error err;

	assert_int_equal(boot_file_open(&file, "/nonexistent/vmlinuz", &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/vmlinuz"));
	assert_int_equal(boot_file_open(&file, "/", &err), -EINVAL);
	assert_int_equal(boot_file_open(&file, "/dev/zero", &err), -EINVAL);
}

static void memory_sizes(void **state)
{
	static const uint64_t wrong[] = {0, 31 * MIB, 64 * MIB + 4096, 1025ull << 30, UINT64_MAX};
	struct partition *p = board_create(1);
	struct machine *m;
	struct error err;

	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(machine_create(&m, p, &(struct machine_config){.memory = wrong[i]}, &err),
				 -EINVAL);
	board_destroy(p);
}

static void devices_answer(void **state)
{
	struct boot *t = *state;

	board_out(t->p, 0x3f8, 1, 'A');
	assert_int_equal(t->serial_size, 1);
	assert_int_equal(board_in(t->p, 0x2f8 + 5, 1), 0xff); /* COM2 was not asked for */
	assert_int_equal(machine_serial_receive(t->m, 0, (const uint8_t *)"z", 1), 1);
	assert_int_equal(board_in(t->p, 0x3f8, 1), 'z');
	assert_int_equal(machine_serial_receive(t->m, 1, (const uint8_t *)"z", 1), 0);
	assert_int_equal(machine_serial_input_room(t->m, 2), 0);
	machine_power_button(t->m);
	assert_int_equal(board_in(t->p, 0x400, 2), 0x100);
	board_out(t->p, 0x404, 2, 5 << 10 | 1 << 13);
	assert_int_equal(t->power_offs, 1);
	board_out(t->p, 0xcf9, 1, 6);
	assert_int_equal(t->resets, 1);
	board_out(t->p, 0xf4, 1, 0);
	assert_int_equal(t->exits, 1);
}

/* A distribution's own kernel, where this machine has one or BULKHEAD_TEST_KERNEL names it. */
static void debian_kernel(void **state)
{
	struct boot *t = *state;
	const char *named = getenv("BULKHEAD_TEST_KERNEL");
	struct linux_boot_params params;
	struct boot_file file;
	glob_t found = {0};

	if (named ? glob(named, 0, NULL, &found) : glob("/boot/vmlinuz-*", 0, NULL, &found)) {
		globfree(&found);
		skip();
	}
	assert_int_equal(boot_file_open(&file, found.gl_pathv[0], &t->err), 0);
	if (machine_load(t->m, &(struct boot_config){.kernel = file, .append = "console=ttyS0"}, &t->err))
		fail_msg("%s", t->err.text);
	assert_int_equal(partition_read(t->p, board_registers(t->p)->gpr[6], &params, sizeof(params)), 0);
	assert_true(params.header.init_size > file.size);
	assert_int_equal(board_registers(t->p)->rip, params.header.pref_address + 0x200);
	boot_file_close(&file);
	globfree(&found);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(linux_begins),
	    TEST(linux_begins_32bit),
	    TEST(linux_page_tables),
	    TEST(memory_above_4g),
	    TEST(linux_small_memory),
	    TEST(linux_refused),
	    TEST(multiboot_begins),
	    TEST(multiboot_elf64),
	    TEST(multiboot_addresses),
	    TEST(multiboot_refused),
	    TEST(no_kernel),
	    TEST(files),
	    TEST(memory_sizes),
	    TEST(devices_answer),
	    TEST(debian_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
