/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * acpi.h - the ACPI tables of the direct-boot machine. Private to machine/.
 *
 * RSDP, XSDT, FADT, FACS, DSDT, MADT and WAET; no HPET, no MCFG, no PIC, no i8042. They say what a
 * generation 2 virtual machine of Hyper-V says, plus the serial ports.
 */
#pragma once

#include "machine/layout.h"

struct acpi_config {
	unsigned processors; /* local APIC ids are 0 to processors - 1 */
	bool serial_present[MACHINE_SERIAL_PORTS];
	gpa_t high_mmio_base;
};

/* Build and write all tables and the machine block. `*rsdp` gets the address of the RSDP. */
int acpi_write_tables(struct partition *p, const struct acpi_config *config, gpa_t *rsdp, struct error *err);
