/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_chain.c - what chain.c needs of a VHDX: which parent it has, by the DataWriteGuid of that. */
#include <errno.h>
#include <string.h>

#include "disk/vhdx.h"

static const struct guid *data_guid(const struct disk *disk)
{
	return &((struct vhdx *)disk->format)->header.data_write_guid;
}

/* Tells the child which identities its parent may have: the one of now and another. */
static int expect(struct disk *child, const struct disk *parent, const struct guid *also, struct error *err)
{
	struct vhdx *v = child->format;
	struct locator locator = v->locator;

	v->locator = (struct locator){.relative_path = NULL};
	locator.linkage = *data_guid(parent);
	locator.linkage2 = *also;
	return vhdx_relink(v, &locator, err);
}

static int begin_merge(struct disk *child, struct disk *parent, struct error *err)
{
	struct vhdx *to = parent->format;

	guid_random(&to->next_data_guid);
	return expect(child, parent, &to->next_data_guid, err);
}

static int end_merge(struct disk *child, struct disk *parent, struct error *err)
{
	int r = expect(child, parent, data_guid(child), err);

	if (r < 0)
		return r;
	r = vhdx_set_data_guid(parent->format, data_guid(child));
	return r < 0 ? error_set(err, -r, "%s: its header cannot be written: %s", parent->path, strerror(-r))
		     : 0;
}

static int check_parent(const struct disk *child, const struct disk *parent, struct error *err)
{
	const struct vhdx *v = child->format;

	if (guid_is_zero(&v->locator.linkage))
		return error_set(
		    err, EBADMSG,
		    "%s: does not say which disk it continues, so that nothing shows that %s is it; if you "
		    "know it: bulkhead disk reparent --force",
		    child->path, parent->path);
	return vhdx_check_linkage(v, parent->format, err);
}

static int relink(struct disk *child, const char *way, const struct disk *parent, bool same, struct error *err)
{
	struct vhdx *v = child->format;
	struct locator locator = {.linkage = *data_guid(parent), .relative_path = strdup(way)};
	/* Other contents below are other contents here. */
	bool changes = !same && !guid_equal(&v->locator.linkage, &locator.linkage) &&
		       !guid_equal(&v->locator.linkage2, &locator.linkage);
	int r = changes ? vhdx_begin_data(v) : 0;

	if (r < 0)
		error_set(err, -r, "%s: its header cannot be written: %s", child->path, strerror(-r));
	else if (!locator.relative_path)
		r = error_set(err, ENOMEM, "%s: no memory for the name of its parent", child->path);
	else
		return vhdx_relink(v, &locator, err);
	locator_clear(&locator);
	return r;
}

static void moved(struct disk *disk)
{
	((struct vhdx *)disk->format)->disk = disk;
}

const struct chain_ops vhdx_chain_ops = {
    .map_here = vhdx_map_here,
    .begin_merge = begin_merge,
    .end_merge = end_merge,
    .contents_have_names = true,
    .check_parent = check_parent,
    .relink = relink,
    .rest = vhdx_rest,
    .moved = moved,
    .fill = vhdx_fill,
    .mark = vhdx_mark,
};
