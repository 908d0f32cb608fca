/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhd_begin.c - before a file changes: its end, its two footers, its time stamp.
 *
 * Both footers are good and the same before one of them is written, and each is one sector; so whenever the
 * power fails one of them counts, and says the contents of before or those that may be written from now on.
 */
#include <errno.h>
#include <time.h>

#include "disk/vhd.h"

int vhd_put_end(struct vhd *v)
{
	struct file *file = &v->disk->file;
	uint64_t place = v->bat.next_place;
	int r = file_resize(file, place);

	v->bat.tidy = false;
	if (r == 0)
		r = file_write(file, place, &v->footer, sizeof(v->footer));
	if (r < 0)
		return r;
	v->footer_offset = place;
	v->file_end = place + sizeof(v->footer);
	v->bat.tidy = v->copy_is_good;
	return 0;
}

int vhd_mend(struct vhd *v)
{
	struct file *file = &v->disk->file;
	int r = 0;

	if (!v->disk->info.dynamic || v->bat.tidy)
		return 0;
	if (!v->copy_is_good) {
		r = file_write(file, 0, &v->footer, sizeof(v->footer));
		if (r == 0)
			r = file_sync(file);
		v->copy_is_good = r == 0;
	}
	if (r < 0)
		return r;
	pthread_mutex_lock(&v->bat.lock);
	r = vhd_put_end(v);
	pthread_mutex_unlock(&v->bat.lock);
	return r < 0 ? r : file_sync(file);
}

/* The change was not made, so nobody may find it in one of the footers. */
static void restore_footers(struct vhd *v)
{
	struct file *file = &v->disk->file;

	v->bat.tidy = v->copy_is_good = false;
	if (file_write(file, v->footer_offset, &v->footer, v->file_end - v->footer_offset) < 0 || file_sync(file) < 0 ||
	    !v->disk->info.dynamic)
		return;
	v->copy_is_good = file_write(file, 0, &v->footer, sizeof(v->footer)) == 0 && file_sync(file) == 0;
	v->bat.tidy = v->copy_is_good;
}

int vhd_change_footers(struct vhd *v, struct vhd_footer *footer)
{
	struct file *file = &v->disk->file;
	int r;

	vhd_seal_footer(footer);
	/* Old programs' footers lack the last byte, which is zero. */
	r = file_write(file, v->footer_offset, footer, v->file_end - v->footer_offset);
	if (r == 0)
		r = file_sync(file);
	if (r == 0 && v->disk->info.dynamic) {
		r = file_write(file, 0, footer, sizeof(*footer));
		if (r == 0)
			r = file_sync(file);
	}
	if (r < 0) {
		restore_footers(v);
		return r;
	}
	pthread_mutex_lock(&v->bat.lock);
	v->footer = *footer;
	pthread_mutex_unlock(&v->bat.lock);
	return 0;
}

uint32_t vhd_next_stamp(const struct vhd *v)
{
	uint32_t now = (uint32_t)(time(NULL) - VHD_EPOCH), then = be32_get(v->footer.time_stamp);

	return now > then || then == UINT32_MAX ? now : then + 1;
}

static int begin(struct vhd *v)
{
	struct vhd_footer footer;
	int r = vhd_mend(v);

	if (r < 0)
		return r;
	footer = v->footer;
	be32_put(footer.time_stamp, v->next_stamp ? v->next_stamp : vhd_next_stamp(v));
	return vhd_change_footers(v, &footer);
}

int vhd_begin(struct vhd *v)
{
	int r = 0;

	if (atomic_load(&v->begun))
		return 0;
	pthread_mutex_lock(&v->begin_lock);
	if (!atomic_load(&v->begun)) {
		r = begin(v);
		atomic_store(&v->begun, r == 0);
	}
	pthread_mutex_unlock(&v->begin_lock);
	return r;
}
