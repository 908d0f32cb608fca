// SPDX-License-Identifier: GPL-2.0-or-later
#include "hypervisor/soft/op.h"

bool vector_select(struct decoding *d, struct op *op)
{
	(void)d, (void)op;
	return false;
}
