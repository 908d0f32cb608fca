/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chain.h - inside of the room: the steps of which merges are made, of closed and of open disks. They go past
 * the disks' gates; chain.c says which is safe when.
 */
#pragma once

#include "disk/image.h"

/* Begins a merge: the child will know its parent when that has been written. */
int chain_begin_merge(struct disk *child, struct disk *parent, struct error *err);

/* What is in the child and not the parent's, from `offset` to `end`, is written to the parent. */
int chain_copy(struct disk *child, struct disk *parent, uint64_t offset, uint64_t end,
	       const struct disk_progress *progress, struct error *err);

/* The parent has got all: it gets the child's identity, too. No request may be in flight. */
int chain_end_merge(struct disk *child, struct disk *parent, struct error *err);

/* The disk's locator names this parent, to which `way` leads (vhdx_locator.h). `same`: it is known to have the same
 * contents as the one before. No request may be in flight. */
int chain_relink(struct disk *child, const char *way, const struct disk *parent, bool same, struct error *err);
