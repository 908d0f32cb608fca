/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * internal.h - what the files of this library share. Not for others.
 */
#pragma once

#include "hypervisor/tlfs/protocol.h"
#include "hypervisor/tlfs/tlfs.h"

static inline void tlfs_lock(struct tlfs *t, unsigned vp)
{
	t->ops->lock(t->context, vp);
}

static inline void tlfs_unlock(struct tlfs *t, unsigned vp)
{
	t->ops->unlock(t->context, vp);
}

/* Host address of the page that a page MSR enables, NULL when it is disabled or not RAM. */
static inline void *tlfs_enabled_page(struct tlfs *t, uint64_t msr_value)
{
	return msr_value & HV_PAGE_ENABLE ? t->ops->page(t->context, msr_value & HV_PAGE_MASK) : NULL;
}

static inline void tlfs_written(struct tlfs *t, const void *at, size_t size)
{
	if (t->ops->page_written)
		t->ops->page_written(t->context, at, size);
}

/* Vectors to be raised when the lock is released. */
struct tlfs_vectors {
	unsigned count;
	uint8_t vectors[TLFS_TIMER_COUNT];
};

/* synic.c. Under the lock: put a message into its slot; *vector is what to raise, 0 for none. */
enum tlfs_post tlfs_deliver_message(struct tlfs *t, unsigned vp, unsigned sint, uint32_t type,
				    const void *payload, size_t size, uint8_t *vector);
/* A slot may have become usable: retry timer messages, then tell who waits. */
void tlfs_synic_retry(struct tlfs *t, unsigned vp);
bool tlfs_write_sint(struct tlfs *t, unsigned vp, unsigned sint, uint64_t value);
bool tlfs_write_synic_page(struct tlfs *t, unsigned vp, uint64_t *msr, uint64_t value);
void tlfs_publish_auto_eoi(struct tlfs *t, unsigned vp);

/* stimer.c */
bool tlfs_write_timer_config(struct tlfs *t, unsigned vp, unsigned index, uint64_t value);
void tlfs_write_timer_count(struct tlfs *t, unsigned vp, unsigned index, uint64_t value);
/* Under the lock: tell the caller the earliest deadline. */
void tlfs_arm_timers(struct tlfs *t, unsigned vp);
/* Take the lock, expire what is due, retry messages that wait. */
void tlfs_run_timers(struct tlfs *t, unsigned vp);

/* vp_set.c. `banks` holds `count` words. */
void tlfs_all_vps(const struct tlfs *t, struct tlfs_vp_set *set);
void tlfs_vp_mask(const struct tlfs *t, uint64_t mask, struct tlfs_vp_set *set);
enum tlfs_status tlfs_parse_vp_set(const struct tlfs *t, const struct hv_vp_set *header,
				   const uint64_t *banks, unsigned count, struct tlfs_vp_set *set);
bool tlfs_vp_set_is_empty(const struct tlfs_vp_set *set);

/* tlfs.c. Under the lock of VP 0: write the reference TSC page that `msr_value` enables. */
void tlfs_write_reference_tsc(struct tlfs *t, uint64_t msr_value);
