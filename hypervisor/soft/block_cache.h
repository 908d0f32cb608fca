/* SPDX-License-Identifier: GPL-2.0-or-later */
/* block_cache.h - what the run loop needs of the block cache. Private to hypervisor/soft/. */
#pragma once

#include "hypervisor/soft/block.h"

int block_cache_create(struct soft_vp *vp, size_t size);
void block_cache_destroy(struct soft_vp *vp);
void block_cache_flush(struct soft_vp *vp);

/* The first op of the block at vp->rip, decoded if need be. Raises what the fetch raises. */
const struct op *block_start(struct soft_vp *vp);

/* The one instruction at vp->rip, decoded anew, followed by a way back to the run loop. */
const struct op *block_single(struct soft_vp *vp);

/* The linear address of the page that follows the one of `linear` in code. */
uint64_t fetch_next_page(const struct soft_vp *vp, uint64_t linear);

/* The running block moves to where hot ones are, which stay when the others are forgotten; NULL when there is no room. The old
 * one must not be used any more. */
struct block *block_heat(struct soft_vp *vp, struct block *b);

/* Memory that lives as long as hot blocks: at least `size` bytes, of which `kept` are then taken; NULL when
 * there is no room. */
void *block_cache_reserve(struct soft_vp *vp, size_t size);
void block_cache_keep(struct soft_vp *vp, size_t kept);
