/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * translate.h - hot blocks of 64-bit and flat 32-bit code as host code. Private to hypervisor/soft/; docs/translator.md says how.
 *
 * A translation is a second form of a block (block.h): entered where the block is, stale when the block is. It
 * belongs to one VP, whose thread makes it, runs it and forgets it with the block cache.
 */
#pragma once

#include "hypervisor/soft/block.h"

struct translate_options {
	bool on;
	uint32_t threshold; /* a block is translated when it is entered for the so-manieth time */
};

/* `size` bytes for code. What the host cannot do leaves vp->translator NULL, and the VP interprets. */
int translator_create(struct soft_vp *vp, const struct translate_options *options, int code_file, uint64_t offset, size_t size);
void translator_destroy(struct soft_vp *vp);

/* On the thread that runs the VP, each time before and after it does: the GS base is the VP meanwhile. */
void translator_attach(struct soft_vp *vp);
void translator_detach(struct soft_vp *vp);

/* A block has been decoded: count how often it is entered. */
void translate_watch(struct soft_vp *vp, struct block *b);

/* The block cache is being emptied, and every translation goes with it. */
void translate_flush(struct soft_vp *vp);

/* What is known of computed targets may no longer be true: an address lost its translation. */
void translate_forget_targets(struct soft_vp *vp);
void translate_forget_page(struct soft_vp *vp, uint64_t linear); /* those in one page, at least */

/* Whether there was no room for a translation, so that some should be made when no block runs; whether it is the code that has
 * none; and that there is some again. */
bool translate_full(const struct soft_vp *vp);
bool translate_code_full(const struct soft_vp *vp);
void translate_has_room(struct soft_vp *vp);
