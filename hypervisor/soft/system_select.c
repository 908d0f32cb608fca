// SPDX-License-Identifier: GPL-2.0-or-later
/* system_select.c - instructions that are neither integer nor vector, by the file that serves them. */
#include "hypervisor/soft/system.h"

bool system_select(struct decoding *d, struct op *op)
{
	return segments_select(d, op) || control_select(d, op) || far_select(d, op) || calls_select(d, op) ||
	    machine_select(d, op) || io_select(d, op) || tables_select(d, op);
}
