/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd_chain.c - what chain.c needs of a VHD: which parent it has, by the identifier and time stamp of that. The
 * identifier is what a guest knows the disk by, so it stays in the parent when a child is merged into it.
 */
#include <errno.h>
#include <string.h>

#include "disk/vhd.h"

static int must_have_parent(const struct disk *child, struct error *err)
{
	if (((struct vhd *)child->format)->has_parent)
		return 0;
	return error_set(err, EINVAL, "%s: no differencing disk, so that it can have no parent", child->path);
}

static int begin_merge(struct disk *child, struct disk *parent, struct error *err)
{
	struct vhd *to = parent->format;

	to->next_stamp = vhd_next_stamp(to);
	return vhd_expect(child->format, be32_get(to->footer.time_stamp), to->next_stamp, err);
}

static int end_merge(struct disk *child, struct disk *parent, struct error *err)
{
	return 0;
}

static int check_parent(const struct disk *child, const struct disk *parent, struct error *err)
{
	int r = must_have_parent(child, err);

	return r < 0 ? r : vhd_check_link(child->format, parent->format, err);
}

static int relink(struct disk *child, const char *way, const struct disk *parent, struct error *err)
{
	int r = must_have_parent(child, err);

	/* Other contents below are other contents here. */
	if (r == 0 && vhd_check_link(child->format, parent->format, NULL) < 0) {
		r = vhd_begin(child->format);
		if (r < 0)
			error_set(err, -r, "%s: its footer cannot be written: %s", child->path, strerror(-r));
	}
	return r < 0 ? r : vhd_relink(child->format, way, parent->format, err);
}

const struct chain_ops vhd_chain_ops = {
    .map_here = vhd_map_here,
    .begin_merge = begin_merge,
    .end_merge = end_merge,
    .check_parent = check_parent,
    .relink = relink,
};
