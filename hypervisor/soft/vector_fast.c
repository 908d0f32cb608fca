// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_fast.c - the commonest SSE and VEX.128 instructions without a call into the pool: moves,
 * logic, integer arithmetic and comparison, interleaving.
 */
#include "hypervisor/soft/vector_private.h"

bool vector_fast_select(struct decoding *d, struct op *op, const struct form *form)
{
	(void)d, (void)op, (void)form;
	return false;
}
