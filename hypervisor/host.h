/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host.h - what a partition opens on the host. Private to hypervisor/.
 */
#pragma once

#include "hypervisor/hypervisor.h"

struct partition_host {
	int memory;
	int kvm;        /* -1: there is none */
	int kvm_error;  /* the errno of that */
	bool tsc_trusted;
};

/* -1 with errno when there is none; else the caller's. `host` is NULL for a partition that opens for itself. */
int host_kvm(const struct partition_host *host);

/* An empty file for guest memory, likewise. */
int host_memory(const struct partition_host *host);

/* Whether the kernel watches its TSCs and keeps time by them, which it does only while they run evenly and together. */
bool host_trusts_tsc(const struct partition_host *host);
