// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sets of virtual processors as hypercalls name them (TLFS 7.8.7.3). Processors that do not exist
 * are left out silently: a guest may name all it could have.
 */
#include "hypervisor/tlfs/internal.h"

#define BANKS (TLFS_MAX_VPS / 64)

static uint64_t existing(const struct tlfs *t, unsigned bank)
{
	unsigned count = t->config.vp_count;

	if (count >= (bank + 1) * 64)
		return UINT64_MAX;
	return count <= bank * 64 ? 0 : (1ull << (count - bank * 64)) - 1;
}

void tlfs_all_vps(const struct tlfs *t, struct tlfs_vp_set *set)
{
	for (unsigned bank = 0; bank < BANKS; bank++)
		set->bits[bank] = existing(t, bank);
}

void tlfs_vp_mask(const struct tlfs *t, uint64_t mask, struct tlfs_vp_set *set)
{
	for (unsigned bank = 0; bank < BANKS; bank++)
		set->bits[bank] = bank == 0 ? mask & existing(t, 0) : 0;
}

enum tlfs_status tlfs_parse_vp_set(const struct tlfs *t, const struct hv_vp_set *header,
				   const uint64_t *banks, unsigned count, struct tlfs_vp_set *set)
{
	unsigned next = 0;

	if (header->format == HV_VP_SET_ALL) {
		tlfs_all_vps(t, set);
		return HV_STATUS_SUCCESS;
	}
	if (header->format != HV_VP_SET_SPARSE)
		return HV_STATUS_INVALID_PARAMETER;
	if ((unsigned)__builtin_popcountll(header->valid_banks) != count)
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	tlfs_vp_mask(t, 0, set);
	for (unsigned bank = 0; bank < 64; bank++) {
		if (!(header->valid_banks >> bank & 1))
			continue;
		if (bank < BANKS)
			set->bits[bank] = banks[next] & existing(t, bank);
		next++;
	}
	return HV_STATUS_SUCCESS;
}

bool tlfs_vp_set_is_empty(const struct tlfs_vp_set *set)
{
	for (unsigned bank = 0; bank < BANKS; bank++)
		if (set->bits[bank])
			return false;
	return true;
}
