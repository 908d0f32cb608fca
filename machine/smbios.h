/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * smbios.h - what inventory tools read of the machine: manufacturer, product, UUID. Private to machine/.
 */
#pragma once

#include "machine/layout.h"

/* Write SMBIOS 2.8 tables where guests scan for them. A zero `uuid` reads as not present. */
int smbios_write_tables(struct partition *p, const struct guid *uuid, struct error *err);
