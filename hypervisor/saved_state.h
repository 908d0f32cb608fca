/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * saved_state.h - a partition's saved state in memory, between the partition (saved_state.c) and its bytes
 * (saved_form.c). Private to hypervisor/.
 *
 * The bytes, all little-endian: a header (magic, version, CRC-32C of everything but itself, total size), then
 * sections (id, size): the partition, CPUID, one for each VP in order, queued messages. Every field is
 * written by its own width; the tables in saved_form.c say which. A change to them is a new version.
 */
#pragma once

#include "hypervisor/partition.h"

#define SAVED_MAGIC       "BulkVPst"
#define SAVED_VERSION     1u
#define SAVED_HEADER      24u
#define SAVED_VERSION_AT  8u
#define SAVED_CHECKSUM_AT 12u
#define SAVED_SIZE_AT     16u

struct saved_region {
	gpa_t gpa;
	uint64_t size;
};

struct saved_vp {
	struct vp_state state;
	uint64_t runtime; /* ns */
};

struct saved_partition {
	uint32_t vp_count, region_count;
	struct saved_region regions[PARTITION_MAX_REGIONS];
	uint64_t time; /* ns of partition time */
	uint64_t tsc_frequency;
	struct tlfs_state tlfs;
	struct cpuid_table cpuid;
	struct synic_message *messages; /* in the order of their queues */
	uint32_t message_count;
	struct saved_vp *vps; /* vp_count of them */
};

/* Empty but for its VPs; NULL: no memory. */
struct saved_partition *saved_new(unsigned vp_count);
void saved_free(struct saved_partition *s);

int saved_encode(const struct saved_partition *s, uint8_t **bytes, size_t *size, struct error *err);

/* -EBADMSG, -EOVERFLOW or -ENOMEM. What comes out has possible counts and sizes; whether its values are
 * possible is saved_check()'s. */
int saved_decode(struct saved_partition **out, const uint8_t *bytes, size_t size, struct error *err);

/* What can be said of the values without a partition to load them into. */
int saved_check(const struct saved_partition *s, struct error *err);
