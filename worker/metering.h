/* SPDX-License-Identifier: GPL-2.0-or-later */
/* metering.h - what metering.c and adapters.c share. Private to worker/; vm.h has what others ask for. */
#pragma once

#include "worker/vm.h"

/* The adapter of this meter is removed, and its network is gone: what it counted stays counted. */
void vm_keep_meter(struct vm *vm, struct network_meter *meter);
