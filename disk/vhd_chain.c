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

static int relink(struct disk *child, const char *way, const struct disk *parent, bool same, struct error *err)
{
	int r = must_have_parent(child, err);

	/* Other contents below are other contents here. */
	if (r == 0 && !same && vhd_check_link(child->format, parent->format, NULL) < 0) {
		r = vhd_begin(child->format);
		if (r < 0)
			error_set(err, -r, "%s: its footer cannot be written: %s", child->path, strerror(-r));
	}
	return r < 0 ? r : vhd_relink(child->format, way, parent->format, err);
}

/* A child of another program may know its parent by the time of that file's last change. */
static int know_parent(struct disk *child, struct error *err)
{
	const struct vhd *v = child->format, *parent = child->parent->format;
	uint32_t stamp = be32_get(parent->footer.time_stamp);

	if (v->link.stamp == 0 || v->link.stamp == stamp || (v->link.stamp2 != 0 && v->link.stamp2 == stamp))
		return 0;
	if (child->info.read_only)
		return error_set(err, ENOTSUP,
				 "%s: knows its parent %s by the time at which that file was last changed, which would be "
				 "another; merge the files above it first, or this one while it is not in use",
				 child->path, child->parent->path);
	return vhd_expect(child->format, stamp, 0, err);
}

static int rest(struct disk *disk, struct error *err)
{
	struct vhd *v = disk->format;
	int r;

	if (disk->info.read_only)
		return 0;
	r = disk->ops->commit(disk);
	if (r == 0)
		r = vhd_mend(v);
	if (r < 0)
		return error_set(err, -r, "%s: what was written last may be lost: %s", disk->path, strerror(-r));
	v->next_stamp = 0;
	atomic_store(&v->begun, false);
	return 0;
}

static void moved(struct disk *disk)
{
	((struct vhd *)disk->format)->disk = disk;
}

static int mark(struct file *file, bool whole)
{
	return file_write(file, 0, whole ? VHD_COOKIE : DISK_VOID_SIGNATURE, sizeof(DISK_VOID_SIGNATURE) - 1);
}

const struct chain_ops vhd_chain_ops = {
    .map_here = vhd_map_here,
    .begin_merge = begin_merge,
    .end_merge = end_merge,
    .check_parent = check_parent,
    .relink = relink,
    .know_parent = know_parent,
    .rest = rest,
    .moved = moved,
    .fill = vhd_fill,
    .mark = mark,
};
