/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_metadata.h - reading the tables that say what a VHDX is. */
#pragma once

#include "disk/vhdx.h"

/* The table at `offset`, VHDX_TABLE_SIZE bytes. -EBADMSG: it is not valid. */
int vhdx_read_region_table(struct vhdx *v, uint64_t offset, uint8_t *table);

/* Fills the disk's info and v->block_size from the metadata region. */
int vhdx_read_metadata(struct vhdx *v, struct error *err);
