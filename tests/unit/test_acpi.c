/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tables as a guest finds them: by scanning, with sums that hold; and, where iasl is there, as it reads
 * them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "machine/acpi_format.h"
#include "machine/machine.h"
#include "machine/multiboot_format.h"
#include "machine/smbios_format.h"
#include "tests/double/board.h"

#define MIB (1ull << 20)

struct tables {
	struct partition *p;
	struct machine *m;
};

static const struct {
	struct multiboot_header header;
	uint8_t code[16];
} kernel = {.header = {.magic = MULTIBOOT_HEADER_MAGIC,
		       .flags = MULTIBOOT_HAS_ADDRESSES,
		       .checksum = -(MULTIBOOT_HEADER_MAGIC + MULTIBOOT_HAS_ADDRESSES),
		       .header_addr = 0x100000,
		       .load_addr = 0x100000,
		       .entry_addr = 0x100000}};

static int set_up(void **state)
{
	struct tables *t = calloc(1, sizeof(*t));
	const struct machine_config config = {
	    .memory = 4096 * MIB,
	    .serial = {{.present = false}, {.present = true}},
	    .uuid = GUID_INIT(0x00112233, 0x4455, 0x6677, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff)};
	const struct boot_config boot = {
	    .kernel = {.name = "kernel", .bytes = &kernel, .size = sizeof(kernel)}};
	struct error err;

	*state = t;
	t->p = board_create(4);
	assert_int_equal(machine_create(&t->m, t->p, &config, &err), 0);
	assert_int_equal(machine_load(t->m, &boot, &err), 0);
	return 0;
}

static int tear_down(void **state)
{
	struct tables *t = *state;

	machine_destroy(t->m);
	board_destroy(t->p);
	free(t);
	return 0;
}

static uint8_t sum(const void *bytes, size_t size)
{
	const uint8_t *p = bytes;
	uint8_t total = 0;

	while (size--)
		total = (uint8_t)(total + *p++);
	return total;
}

static const struct acpi_rsdp *find_rsdp(struct tables *t)
{
	for (gpa_t gpa = 0xe0000; gpa < 0x100000; gpa += 16) {
		const struct acpi_rsdp *rsdp = partition_memory(t->p, gpa, sizeof(*rsdp));

		if (!memcmp(rsdp->signature, "RSD PTR ", 8))
			return rsdp;
	}
	return NULL;
}

static const void *table_at(struct tables *t, uint64_t gpa)
{
	const struct acpi_header *header = partition_memory(t->p, gpa, sizeof(*header));

	assert_non_null(header);
	assert_in_range(gpa + header->length, 0xe0000, 0xef000);
	assert_int_equal(sum(header, header->length), 0);
	return header;
}

static const void *find_table(struct tables *t, const char *signature)
{
	const struct acpi_header *xsdt = table_at(t, find_rsdp(t)->xsdt_address);

	for (size_t at = sizeof(*xsdt); at < xsdt->length; at += 8) {
		const struct acpi_header *table = table_at(t, le64_get((const uint8_t *)xsdt + at));

		if (!memcmp(table->signature, signature, 4))
			return table;
	}
	fail_msg("no table %s", signature);
	return NULL;
}

static void found_by_scan(void **state)
{
	struct tables *t = *state;
	const struct acpi_rsdp *rsdp = find_rsdp(t);

	assert_non_null(rsdp);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, sizeof(*rsdp)), 0);
	assert_int_equal(rsdp->revision, 2);
}

static void fadt(void **state)
{
	struct tables *t = *state;
	const struct acpi_fadt *f = find_table(t, "FACP");
	const struct acpi_facs *facs = partition_memory(t->p, f->firmware_ctrl, sizeof(*facs));

	assert_int_equal(f->firmware_ctrl % 64, 0);
	assert_memory_equal(facs->signature, "FACS", 4);
	assert_memory_equal(((const struct acpi_header *)table_at(t, f->x_dsdt))->signature, "DSDT", 4);
	/* The ports that the tables name are the ports that answer. */
	assert_int_equal(board_in(t->p, (uint16_t)f->pm1a_cnt_blk, 2), 1);
	assert_int_equal(f->sci_int, 9);
	assert_int_equal(f->reset_reg.address, 0xcf9);
}

static void madt(void **state)
{
	struct tables *t = *state;
	const struct acpi_madt *table = find_table(t, "APIC");
	const uint8_t *entry = (const uint8_t *)(table + 1),
		      *end = (const uint8_t *)table + table->header.length;
	unsigned processors = 0, io_apics = 0;

	for (; entry < end; entry += entry[1]) {
		assert_true(entry[1] >= 2);
		if (entry[0] == MADT_LOCAL_APIC) {
			assert_int_equal(((const struct madt_local_apic *)entry)->apic_id, processors);
			processors++;
		}
		io_apics += entry[0] == MADT_IO_APIC;
	}
	assert_ptr_equal(entry, end);
	assert_int_equal(processors, 4);
	assert_int_equal(io_apics, 1);
	assert_int_equal(table->flags, 0);
}

static void machine_block(void **state)
{
	struct tables *t = *state;
	const struct machine_block *block = partition_memory(t->p, 0xef000, sizeof(*block));

	assert_int_equal(block->processors, 4);
	assert_int_equal(block->com1_present, 0);
	assert_int_equal(block->com2_present, 1);
	assert_int_equal(block->low_base, 0xf8000000);
	assert_int_equal(block->high_base, 8192 * MIB);
	assert_int_equal(block->high_last + 1 - block->high_base, block->high_size);
}

static void smbios(void **state)
{
	struct tables *t = *state;
	const struct smbios_entry_point *entry = partition_memory(t->p, 0xf0000, sizeof(*entry));
	const uint8_t *at, *end;
	unsigned count = 0;

	assert_memory_equal(entry->anchor, "_SM_", 4);
	assert_int_equal(sum(entry, sizeof(*entry)), 0);
	assert_int_equal(sum(entry->intermediate_anchor, 15), 0);
	at = partition_memory(t->p, entry->table_address, entry->table_length);
	end = at + entry->table_length;
	while (at < end) {
		const struct smbios_header *header = (const void *)at;

		assert_int_equal(header->handle, count++);
		if (header->type == SMBIOS_SYSTEM) {
			const struct smbios_system *system = (const void *)at;

			assert_string_equal((const char *)at + header->length, "Microsoft Corporation");
			assert_int_equal(system->uuid[0], 0x33); /* little-endian first field */
		}
		for (at += header->length; at[0] || at[1]; at++)
			;
		at += 2;
	}
	assert_ptr_equal(at, end);
	assert_int_equal(count, entry->structure_count);
}

/* Write the tables to files and let iasl take them apart; it fails on what it cannot make sense of. */
static void disassembles(void **state)
{
	struct tables *t = *state;
	static const char *const names[] = {"FACP", "APIC", "WAET"};
	char directory[] = "/tmp/bulkhead-acpi-XXXXXX", command[256];
	const struct acpi_fadt *f = find_table(t, "FACP");
	const struct acpi_header *tables[] = {table_at(t, f->x_dsdt), find_table(t, names[0]),
					      find_table(t, names[1]), find_table(t, names[2])};

	if (system("command -v iasl > /dev/null"))
		skip();
	assert_non_null(mkdtemp(directory));
	for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
		FILE *file;

		snprintf(command, sizeof(command), "%s/table%u.aml", directory, i);
		file = fopen(command, "w");
		assert_non_null(file);
		assert_int_equal(fwrite(tables[i], 1, tables[i]->length, file), tables[i]->length);
		fclose(file);
	}
	snprintf(command, sizeof(command),
		 "cd %s && for t in 0 1 2 3; do iasl -d table$t.aml || exit 1; done > log 2>&1 && "
		 "! grep -i -E 'error|warning|invalid' log table?.dsl && iasl table0.dsl > again 2>&1",
		 directory);
	if (system(command)) {
		snprintf(command, sizeof(command), "cat %s/log %s/again; rm -r %s", directory, directory,
			 directory);
		(void)!system(command);
		fail();
	}
	snprintf(command, sizeof(command), "rm -r %s", directory);
	assert_int_equal(system(command), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(found_by_scan), TEST(fadt),   TEST(madt),
	    TEST(machine_block), TEST(smbios), TEST(disassembles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
