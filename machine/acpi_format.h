/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * acpi_format.h - ACPI tables as they lie in memory. Fields in the words of the ACPI Specification 6.4,
 * chapter 5; section numbers beside them.
 */
#pragma once

#include <stdint.h>

struct acpi_rsdp { /* 5.2.5.3 */
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt_address;
	uint32_t length;
	uint64_t xsdt_address;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_rsdp) == 36, "RSDP");

struct acpi_header { /* 5.2.6 */
	char signature[4];
	uint32_t length;
	uint8_t revision;
	uint8_t checksum;
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_header) == 36, "ACPI table header");

struct acpi_address {  /* 5.2.3.2, Generic Address Structure */
	uint8_t space; /* 1: system I/O */
	uint8_t bit_width;
	uint8_t bit_offset;
	uint8_t access_size; /* 1 byte, 2 word, 3 dword */
	uint64_t address;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_address) == 12, "generic address");

struct acpi_fadt { /* 5.2.9 */
	struct acpi_header header;
	uint32_t firmware_ctrl;
	uint32_t dsdt;
	uint8_t reserved0;
	uint8_t preferred_pm_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk, pm2_cnt_blk, pm_tmr_blk, gpe0_blk,
	    gpe1_blk;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_blk_len, gpe1_blk_len, gpe1_base,
	    cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
	uint16_t iapc_boot_arch;
	uint8_t reserved1;
	uint32_t flags;
	struct acpi_address reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct acpi_address x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk, x_pm2_cnt_blk,
	    x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk, sleep_control_reg, sleep_status_reg;
	char hypervisor_vendor[8];
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_fadt) == 276, "FADT of ACPI 6");

#define FADT_REVISION          6
#define FADT_MINOR_VERSION     4
#define FADT_PM_PROFILE_SERVER 4

/* flags, table 5.10 */
enum {
	FADT_WBINVD = 1 << 0,
	FADT_PROC_C1 = 1 << 2,
	FADT_NO_FIXED_SLEEP_BUTTON = 1 << 5,
	FADT_NO_FIXED_RTC_WAKE = 1 << 6,
	FADT_TMR_VAL_EXT = 1 << 8,
	FADT_RESET_REG_SUP = 1 << 10,
	FADT_HEADLESS = 1 << 12
};

/* iapc_boot_arch, table 5.11. Not set: 8042 is there; no MSI (VMBus PCI needs it); CMOS RTC absent. */
enum { BOOT_ARCH_LEGACY_DEVICES = 1 << 0, BOOT_ARCH_VGA_NOT_PRESENT = 1 << 2 };

struct acpi_facs { /* 5.2.10 */
	char signature[4];
	uint32_t length;
	uint32_t hardware_signature;
	uint32_t waking_vector;
	uint32_t global_lock;
	uint32_t flags;
	uint64_t x_waking_vector;
	uint8_t version;
	uint8_t reserved0[3];
	uint32_t ospm_flags;
	uint8_t reserved1[24];
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_facs) == 64, "FACS");

struct acpi_madt { /* 5.2.12 */
	struct acpi_header header;
	uint32_t local_apic_address;
	uint32_t flags; /* bit 0: a PC/AT-compatible pair of 8259 is there */
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_madt) == 44, "MADT");

enum { MADT_LOCAL_APIC = 0, MADT_IO_APIC = 1, MADT_INTERRUPT_OVERRIDE = 2, MADT_LOCAL_APIC_NMI = 4 };

struct madt_local_apic { /* 5.2.12.2 */
	uint8_t type, length;
	uint8_t processor_uid;
	uint8_t apic_id;
	uint32_t flags; /* bit 0: enabled */
} __attribute__((packed));
_Static_assert(sizeof(struct madt_local_apic) == 8, "MADT local APIC");

struct madt_io_apic { /* 5.2.12.3 */
	uint8_t type, length;
	uint8_t id;
	uint8_t reserved;
	uint32_t address;
	uint32_t interrupt_base;
} __attribute__((packed));
_Static_assert(sizeof(struct madt_io_apic) == 12, "MADT I/O APIC");

struct madt_interrupt_override { /* 5.2.12.5 */
	uint8_t type, length;
	uint8_t bus;
	uint8_t source;
	uint32_t interrupt;
	uint16_t flags; /* table 5.26: bits 0-1 polarity, 2-3 trigger mode */
} __attribute__((packed));
_Static_assert(sizeof(struct madt_interrupt_override) == 10, "MADT interrupt override");

enum { MPS_ACTIVE_HIGH = 1, MPS_LEVEL = 3 << 2 };

struct madt_local_apic_nmi { /* 5.2.12.7 */
	uint8_t type, length;
	uint8_t processor_uid; /* 0xff: all */
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));
_Static_assert(sizeof(struct madt_local_apic_nmi) == 6, "MADT local APIC NMI");

struct acpi_waet { /* Windows ACPI Emulated Devices Table, Microsoft 2009 */
	struct acpi_header header;
	uint32_t flags;
} __attribute__((packed));
_Static_assert(sizeof(struct acpi_waet) == 40, "WAET");

enum { WAET_RTC_GOOD = 1 << 0, WAET_PM_TIMER_GOOD = 1 << 1 };

/* Ours: what the methods of dsdt.asl read (operation region BLCK). */
struct machine_block {
	uint32_t processors;
	uint8_t com1_present;
	uint8_t com2_present;
	uint16_t reserved;
	uint32_t low_base;
	uint32_t low_size;
	uint64_t high_base;
	uint64_t high_last;
	uint64_t high_size;
} __attribute__((packed));
_Static_assert(sizeof(struct machine_block) == 0x28, "dsdt.asl names this size");
