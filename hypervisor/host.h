/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host.h - what a partition opens on the host. Private to hypervisor/.
 */
#pragma once

#include "hypervisor/hypervisor.h"

struct partition_host {
	int memory, code;
	uint64_t memory_size; /* of that file */
	int kvm;        /* -1: there is none */
	int kvm_error;  /* the errno of that */
	bool tsc_trusted;
};

/* -1 with errno when there is none; else the caller's. `host` is NULL for a partition that opens for itself. */
int host_kvm(const struct partition_host *host);

/* A file for guest memory, of zeros if of anything, likewise; and it has room for so much from now on. */
int host_memory(const struct partition_host *host);
int host_memory_room(const struct partition_host *host, int memory, uint64_t size);

/* Address space for all the RAM that a partition may have, which says that it is `memory_max`. */
uint64_t host_reservation(const struct partition_host *host, uint64_t memory_max);

/* Whether the kernel watches its TSCs and keeps time by them, which it does only while they run evenly and together. */
bool host_trusts_tsc(const struct partition_host *host);
