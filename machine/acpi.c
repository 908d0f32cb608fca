/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "machine/acpi.h"

#include <errno.h>
#include <string.h>

#include "machine/acpi_format.h"
#include "machine/dsdt.hex"

#define LOCAL_APIC_BASE 0xfee00000u

/* Tables are laid one after the other into an image of the area that is written in one go. */
struct builder {
	uint8_t image[LAYOUT_ACPI_END - LAYOUT_ACPI_BASE];
	uint32_t used;
};

/* What is asked for is known at build time and fits many times over: 64 processors take 512 bytes. */
_Static_assert(sizeof(dsdt_aml_code) + PARTITION_MAX_VPS * sizeof(struct madt_local_apic) + 4096 <
		   LAYOUT_ACPI_END - LAYOUT_ACPI_BASE,
	       "tables outgrow their area");

static void *builder_take(struct builder *b, uint32_t size, uint32_t alignment)
{
	uint32_t at = (uint32_t)align_up_u64(b->used, alignment);

	b->used = at + size;
	return b->image + at;
}

static uint32_t builder_address(const struct builder *b, const void *table)
{
	return LAYOUT_ACPI_BASE + (uint32_t)((const uint8_t *)table - b->image);
}

static uint8_t checksum(const void *bytes, size_t size)
{
	const uint8_t *p = bytes;
	uint8_t sum = 0;

	while (size--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

static void *table_begin(struct builder *b, uint32_t size, const char *signature, uint8_t revision)
{
	struct acpi_header *header = builder_take(b, size, 16);

	memcpy(header->signature, signature, sizeof(header->signature));
	header->revision = revision;
	memcpy(header->oem_id, "BLKHD ", sizeof(header->oem_id));
	memcpy(header->oem_table_id, "DIRECT  ", sizeof(header->oem_table_id));
	header->oem_revision = 1;
	memcpy(header->creator_id, "BLKH", sizeof(header->creator_id));
	header->creator_revision = 1;
	return header;
}

/* The table reaches to what was taken last. */
static void table_end(struct builder *b, struct acpi_header *header)
{
	header->length = (uint32_t)(b->image + b->used - (uint8_t *)header);
	header->checksum = 0;
	header->checksum = checksum(header, header->length);
}

static void *madt_entry(struct builder *b, uint8_t type, uint8_t size)
{
	uint8_t *entry = builder_take(b, size, 1);

	entry[0] = type;
	entry[1] = size;
	return entry;
}

static uint32_t build_madt(struct builder *b, unsigned processors)
{
	struct acpi_madt *madt = table_begin(b, sizeof(*madt), "APIC", 4);
	struct madt_io_apic *io;
	struct madt_interrupt_override *sci;
	struct madt_local_apic_nmi *nmi;

	madt->local_apic_address = LOCAL_APIC_BASE;
	madt->flags = 0; /* no 8259 */
	/* Ids that x2APIC and xAPIC share: below 255, so one kind of entry serves both modes (5.2.12.12). */
	_Static_assert(PARTITION_MAX_VPS <= 255, "ids from 255 on need x2APIC entries");
	for (unsigned i = 0; i < processors; i++) {
		struct madt_local_apic *cpu = madt_entry(b, MADT_LOCAL_APIC, sizeof(*cpu));

		cpu->processor_uid = (uint8_t)i;
		cpu->apic_id = (uint8_t)i;
		cpu->flags = 1;
	}
	io = madt_entry(b, MADT_IO_APIC, sizeof(*io));
	io->address = IOAPIC_BASE;
	sci = madt_entry(b, MADT_INTERRUPT_OVERRIDE, sizeof(*sci));
	sci->source = ACPI_SCI;
	sci->interrupt = ACPI_SCI;
	sci->flags = MPS_ACTIVE_HIGH | MPS_LEVEL;
	nmi = madt_entry(b, MADT_LOCAL_APIC_NMI, sizeof(*nmi));
	nmi->processor_uid = 0xff;
	nmi->lint = 1;
	table_end(b, &madt->header);
	return builder_address(b, madt);
}

static uint32_t build_waet(struct builder *b)
{
	struct acpi_waet *waet = table_begin(b, sizeof(*waet), "WAET", 1);

	waet->flags = WAET_RTC_GOOD | WAET_PM_TIMER_GOOD;
	table_end(b, &waet->header);
	return builder_address(b, waet);
}

static uint32_t build_dsdt(struct builder *b)
{
	void *dsdt = builder_take(b, sizeof(dsdt_aml_code), 16);

	memcpy(dsdt, dsdt_aml_code, sizeof(dsdt_aml_code));
	return builder_address(b, dsdt);
}

static uint32_t build_facs(struct builder *b)
{
	struct acpi_facs *facs = builder_take(b, sizeof(*facs), 64);

	memcpy(facs->signature, "FACS", sizeof(facs->signature));
	facs->length = sizeof(*facs);
	facs->version = 2;
	return builder_address(b, facs);
}

static struct acpi_address port_address(uint16_t port, uint8_t bytes)
{
	return (struct acpi_address){
	    .space = 1,
	    .bit_width = (uint8_t)(bytes * 8),
	    .access_size = bytes == 4   ? 3
			   : bytes == 2 ? 2
					: 1,
	    .address = port,
	};
}

static uint32_t build_fadt(struct builder *b, uint32_t facs, uint32_t dsdt)
{
	struct acpi_fadt *fadt = table_begin(b, sizeof(*fadt), "FACP", FADT_REVISION);

	fadt->firmware_ctrl = facs;
	fadt->dsdt = dsdt;
	fadt->x_dsdt = dsdt;
	fadt->preferred_pm_profile = FADT_PM_PROFILE_SERVER;
	fadt->sci_int = ACPI_SCI;
	fadt->pm1a_evt_blk = ACPI_PM_PORT + ACPI_PM1_EVT;
	fadt->pm1_evt_len = 4;
	fadt->pm1a_cnt_blk = ACPI_PM_PORT + ACPI_PM1_CNT;
	fadt->pm1_cnt_len = 2;
	fadt->pm_tmr_blk = ACPI_PM_PORT + ACPI_PM_TMR;
	fadt->pm_tmr_len = 4;
	fadt->x_pm1a_evt_blk = port_address(ACPI_PM_PORT + ACPI_PM1_EVT, 4);
	fadt->x_pm1a_evt_blk.access_size = 2; /* status and enable are two words */
	fadt->x_pm1a_cnt_blk = port_address(ACPI_PM_PORT + ACPI_PM1_CNT, 2);
	fadt->x_pm_tmr_blk = port_address(ACPI_PM_PORT + ACPI_PM_TMR, 4);
	fadt->p_lvl2_lat = 0xffff; /* over 100 and 1000: C2 and C3 are not there */
	fadt->p_lvl3_lat = 0xffff;
	fadt->century = RTC_CENTURY;
	fadt->iapc_boot_arch = BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_VGA_NOT_PRESENT;
	fadt->flags = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_FIXED_SLEEP_BUTTON | FADT_NO_FIXED_RTC_WAKE |
		      FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP | FADT_HEADLESS;
	fadt->reset_reg = port_address(RESET_PORT, 1);
	fadt->reset_value = RESET_VALUE;
	fadt->minor_version = FADT_MINOR_VERSION;
	memcpy(fadt->hypervisor_vendor, "MsHyperV", sizeof(fadt->hypervisor_vendor));
	table_end(b, &fadt->header);
	return builder_address(b, fadt);
}

static uint32_t build_xsdt(struct builder *b, const uint32_t *tables, unsigned count)
{
	struct acpi_header *xsdt = table_begin(b, sizeof(*xsdt), "XSDT", 1);

	for (unsigned i = 0; i < count; i++)
		le64_put(builder_take(b, 8, 1), tables[i]);
	table_end(b, xsdt);
	return builder_address(b, xsdt);
}

static void build_tables(struct builder *b, const struct acpi_config *config)
{
	struct acpi_rsdp *rsdp = builder_take(b, sizeof(*rsdp), 16);
	uint32_t facs = build_facs(b), dsdt = build_dsdt(b);
	uint32_t tables[] = {build_fadt(b, facs, dsdt), build_madt(b, config->processors), build_waet(b)};

	memcpy(rsdp->signature, "RSD PTR ", sizeof(rsdp->signature));
	memcpy(rsdp->oem_id, "BLKHD ", sizeof(rsdp->oem_id));
	rsdp->revision = 2;
	rsdp->length = sizeof(*rsdp);
	rsdp->xsdt_address = build_xsdt(b, tables, ARRAY_SIZE(tables));
	rsdp->checksum = checksum(rsdp, 20);
	rsdp->extended_checksum = checksum(rsdp, sizeof(*rsdp));
}

int acpi_write_tables(struct partition *p, const struct acpi_config *config, gpa_t *rsdp, struct error *err)
{
	const struct machine_block block = {
	    .processors = config->processors,
	    .com1_present = config->serial_present[0],
	    .com2_present = config->serial_present[1],
	    .low_base = MACHINE_LOW_MMIO_BASE,
	    .low_size = MACHINE_LOW_MMIO_SIZE,
	    .high_base = config->high_mmio_base,
	    .high_last = config->high_mmio_base + MACHINE_HIGH_MMIO_SIZE - 1,
	    .high_size = MACHINE_HIGH_MMIO_SIZE,
	};
	struct builder *b = calloc(1, sizeof(*b));
	int code;

	if (!b)
		return error_set(err, ENOMEM, "no memory for the ACPI tables");
	build_tables(b, config);
	code = partition_write(p, LAYOUT_ACPI_BASE, b->image, b->used);
	if (!code)
		code = partition_write(p, LAYOUT_MACHINE_BLOCK, &block, sizeof(block));
	free(b);
	if (code)
		return error_set(err, -code, "cannot write the ACPI tables to guest memory at %#x",
				 LAYOUT_ACPI_BASE);
	*rsdp = LAYOUT_ACPI_BASE;
	return 0;
}
