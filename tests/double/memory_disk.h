/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memory_disk.h - a double of disk/: implements disk.h over memory, so that a test decides when
 * requests complete and which of them fail. Link it instead of the disk room.
 */
#pragma once

#include <stdatomic.h>

#include "base/base.h"
#include "disk/disk.h"

struct disk {
	struct disk_info info;
	uint8_t *data; /* memory behind the first `backed` bytes; requests beyond fail with EIO */
	uint64_t backed;
	atomic_int fail;            /* a positive errno that the next requests end with, 0 for none */
	atomic_uint fail_after;     /* this many succeed first */
	atomic_uint count[5];       /* requests by enum disk_op */
	atomic_uint durable_writes; /* with force_unit_access */
};

/* `size` is what the guest sees, `backed` what is there. Options may be changed in `info` afterwards. */
struct disk *memory_disk_create(uint64_t size, uint64_t backed);
void memory_disk_destroy(struct disk *disk);
