/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * merge_live.c - merging a differencing disk of an open chain into its parent, while the disk is used.
 *
 * On the disks it is the merge of chain.c, and as safe: until the merged file is removed, the chain of before
 * opens and reads the same. The three files that change (the one above names another parent in the end) are
 * opened for writing while the disk's gate is closed, which is short. Then the contents are copied, past all
 * gates. What reads meanwhile is not disturbed: each sector that is written below is hidden by what is above.
 * When the uppermost disk itself is merged, it is written meanwhile; what has been written since it was copied
 * is noted and copied again, several times when it is much, and the rest while the gate is closed.
 *
 * In a process that can open and remove nothing by name, the files are handed over, and the merged one gets a mark in
 * its first sector, in place of being removed, at the same moment.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "disk/chain.h"
#include "disk/changes.h"
#include "disk/lock.h"
#include "disk/new_file.h"
#include "disk/operation.h"
#include "disk/track.h"
#include "disk/vhdx_locator.h"

#define PASSES_MAX 16
#define REST_MAX   (UINT64_C(16) << 20) /* that is copied while the gate is closed, if that can be reached */

struct merging {
	struct disk *top, *above; /* NULL: the uppermost disk is merged */
	struct disk *child, *parent;
	struct disk_merge_files *files; /* that are open already, each until it is used; NULL: all goes by names */
	struct changes changes; /* of the uppermost disk, if that is merged */
	const struct disk_progress *progress;
};

static bool is_same_file(const struct disk *disk, int fd)
{
	struct stat here, there;

	return fstat(disk->file.fd, &here) == 0 && fstat(fd, &there) == 0 && here.st_dev == there.st_dev &&
	       here.st_ino == there.st_ino;
}

static bool is_merged(const struct merging *m, const struct disk *disk, const char *path)
{
	if (!m->files)
		return disk_is_file(disk, path);
	return m->files->child < 0 ? disk == m->top : is_same_file(disk, m->files->child);
}

static int find_link(struct merging *m, const char *path, struct error *err)
{
	m->above = NULL;
	m->child = m->top;
	while (m->child && !is_merged(m, m->child, path)) {
		m->above = m->child;
		m->child = m->child->parent;
	}
	if (!m->child)
		return error_set(err, ENOENT, "%s: not in the chain of %s; name one of its files", path,
				 m->top->path);
	m->parent = m->child->parent;
	if (!m->parent)
		return error_set(err, EINVAL,
				 "%s: no differencing disk, so that it has no parent to be merged into", path);
	if (m->top->info.read_only)
		return error_set(err, EROFS, "%s: open for reading only; open it for writing", m->top->path);
	return 0;
}

static void read_again(struct disk *disk)
{
	if (lock_image(disk->file.fd, disk->path, false, NULL) < 0)
		log_write(LOG_LEVEL_WARNING, "%s: could not be locked again; keep other programs from writing it",
			  disk->path);
}

/* The descriptor that was handed over for this disk, or another of its own. */
static int find_descriptor(const struct merging *m, const struct disk *disk, struct error *err)
{
	int flags = fcntl(disk->file.fd, F_GETFL), *given, fd;

	given = disk == m->child ? &m->files->child : disk == m->parent ? &m->files->parent : &m->files->above;
	if (*given < 0 && (flags & O_ACCMODE) != O_RDWR)
		return error_set(err, EBADF, "%s: is open for reading only, and no descriptor for writing was handed "
				 "over", disk->path);
	if (*given >= 0 && !is_same_file(disk, *given))
		return error_set(err, ESTALE, "%s: the descriptor that was handed over for it is another file's",
				 disk->path);
	fd = *given >= 0 ? *given : fcntl(disk->file.fd, F_DUPFD_CLOEXEC, 0);
	*given = -1;
	return fd >= 0 ? fd : error_set(err, errno, "%s: %s", disk->path, strerror(errno));
}

static int another_has_name(const struct disk *disk, struct error *err)
{
	return error_set(err, ESTALE, "%s: another file has this name now; give it back the one that is open",
			 disk->path);
}

/* The disk of a chain, open for reading, is opened anew for writing. [gate closed] */
static int open_for_writing(const struct merging *m, struct disk *disk, struct error *err)
{
	const struct disk_open_options options = {.format = disk->info.format,
						  .direct = disk->file.direct_fd >= 0};
	struct disk *new;
	int r;

	if (!disk->info.read_only)
		return 0;
	if (m->files)
		r = find_descriptor(m, disk, err);
	else
		r = disk_is_file(disk, disk->path) ? 0 : another_has_name(disk, err);
	if (r < 0)
		return r;
	lock_release(disk->file.fd);
	if (m->files)
		r = disk_open_handed(&new, r, disk->path, &options, disk->parent, disk->file.observer, err);
	else if (disk->parent)
		r = disk_open_over(&new, disk->path, &options, disk->parent, false, disk->file.observer, err);
	else
		r = disk_open_watched(&new, disk->path, &options, disk->file.observer, err);
	/* The name may have gone to another file meanwhile. */
	if (r == 0 && !is_same_file(disk, new->file.fd)) {
		disk_close(new, NULL);
		r = another_has_name(disk, err);
	}
	if (r < 0) {
		read_again(disk);
		return r;
	}
	disk_exchange(disk, new);
	return disk_close(new, NULL);
}

/* [gate closed] */
static int back_to_reading(struct disk *disk, struct error *err)
{
	int r;

	if (!disk || disk->info.read_only || !disk->child)
		return 0;
	r = disk->ops->chain->rest(disk, err);
	disk_share(disk);
	return r;
}

/* All that was opened for writing is only read again; `r` is why. [gate closed] */
static int give_up(struct merging *m, int r)
{
	m->top->changes = NULL;
	back_to_reading(m->parent, NULL);
	back_to_reading(m->child, NULL);
	back_to_reading(m->above, NULL);
	return r;
}

/* Files that are written, the one above with its new parent among them, stay known to those that continue them. */
static int stay_known(const struct merging *m, struct error *err)
{
	int r = 0;

	for (struct disk *d = m->top; r == 0 && d != m->child; d = d->parent)
		if (d->ops->chain->know_parent)
			r = d->ops->chain->know_parent(d, err);
	return r;
}

/* [gate closed] */
static int begin(struct merging *m, const char *path, struct error *err)
{
	int r = find_link(m, path, err);

	if (r < 0)
		return r;
	if (m->child == m->top)
		r = changes_init(&m->changes, m->top->info.size);
	if (r < 0)
		return error_set(err, -r, "%s: no memory to merge it", path);
	r = open_for_writing(m, m->parent, err);
	if (r == 0)
		r = open_for_writing(m, m->child, err);
	if (r == 0 && m->above)
		r = open_for_writing(m, m->above, err);
	if (r == 0)
		r = stay_known(m, err);
	if (r == 0)
		r = chain_begin_merge(m->child, m->parent, err);
	if (r < 0)
		return give_up(m, r);
	if (m->child == m->top)
		m->top->changes = &m->changes;
	return 0;
}

/* Later passes: as good as done. */
static bool late_step(void *context, uint64_t done, uint64_t total)
{
	const struct disk_progress *progress = context;

	return progress->step(progress->context, total, total);
}

/* What was written since it was copied. */
static int copy_changed(struct merging *m, const struct disk_progress *progress, struct error *err)
{
	uint64_t offset = 0, length;
	int r = 0;

	for (; r == 0 && changes_take(&m->changes, &offset, &length); offset += length)
		r = chain_copy(m->child, m->parent, offset, offset + length, progress, err);
	return r;
}

static int copy(struct merging *m, struct error *err)
{
	const struct disk_progress late = {late_step, (void *)m->progress};
	int r = chain_copy(m->child, m->parent, 0, m->child->info.size, m->progress, err);

	for (unsigned i = 0; r == 0 && m->changes.words && i < PASSES_MAX; i++) {
		if (changes_sum(&m->changes) <= REST_MAX)
			break;
		r = copy_changed(m, m->progress ? &late : NULL, err);
	}
	/* So that the one that counts, while the gate is closed, has little to do. */
	return r < 0 ? r : disk_flush(m->parent, err);
}

/* The merged disk leaves the chain: m->child is to be closed afterwards. [gate closed] */
static void unlink_child(struct merging *m)
{
	if (m->above) {
		m->above->parent = m->parent;
		m->parent->child = m->above;
	} else {
		/* The pointer that everybody has is the parent's from now on. */
		disk_exchange(m->top, m->parent);
		m->child = m->parent;
		m->parent = m->top;
		m->top->parent = m->child->parent;
		m->top->parent_kind = m->child->parent_kind;
		if (m->top->parent)
			m->top->parent->child = m->top;
	}
	m->child->parent_kind = PARENT_GIVEN;
}

/* What the disk above has to say of its new parent. */
static int find_way(const struct merging *m, char **way, struct error *err)
{
	_cleanup_free_ char *above = NULL;

	if (m->files)
		return locator_way(m->files->above_name, m->files->parent_name, way, err);
	above = realpath(m->above->path, NULL);
	if (!above)
		return error_set(err, errno, "%s: cannot be found: %s", m->above->path, strerror(errno));
	return locator_relative_path(above, m->parent->path, way, err);
}

/* The merged file is the disk no more, durably. */
static int remove_child(struct merging *m)
{
	struct file *file = &m->child->file;
	int r;

	if (!m->files)
		return new_file_remove(m->child->path, file->observer);
	/* Closing it must not make it a disk again. */
	r = m->child->ops->chain->rest(m->child, NULL);
	if (r == 0)
		r = m->child->ops->chain->mark(file, false);
	return r < 0 ? r : file_sync(file);
}

static void move_record(struct merging *m)
{
	if (m->files) {
		track_move_given(m->top, m->files->record);
		m->files->record = -1;
	} else if (m->top->tracker) {
		track_move(m->top, true);
	}
}

/* [gate closed] */
static int end(struct merging *m, struct error *err)
{
	_cleanup_free_ char *way = NULL;
	int r = 0, removed;

	m->top->changes = NULL;
	if (m->changes.words)
		r = copy_changed(m, NULL, err);
	if (r == 0)
		r = chain_end_merge(m->child, m->parent, err);
	if (r == 0 && m->above)
		r = find_way(m, &way, err);
	if (r == 0 && m->above)
		r = chain_relink(m->above, way, m->parent, true, err);
	if (r == 0)
		r = m->parent->ops->chain->rest(m->parent, err);
	if (r < 0)
		return give_up(m, r);
	unlink_child(m);
	removed = remove_child(m);
	if (removed < 0)
		r = error_set(err, -removed, "%s: merged, but cannot be removed: %s; remove it", m->child->path,
			      strerror(-removed));
	if (!m->above)
		move_record(m);
	disk_close(m->child, NULL);
	back_to_reading(m->above, NULL);
	back_to_reading(m->parent, NULL);
	return r;
}

static int merge(struct merging *m, const char *path, struct error *err)
{
	struct gate *gate = m->top->gate;
	int r;

	gate_close(gate);
	r = begin(m, path, err);
	gate_open(gate);
	if (r < 0)
		return r;
	r = copy(m, err);
	gate_close(gate);
	r = r < 0 ? give_up(m, r) : end(m, err);
	gate_open(gate);
	return r;
}

static int merge_in_turn(struct merging *m, const char *path, struct error *err)
{
	int r;

	if (!gate_begin_change(m->top->gate))
		return error_set(err, EBUSY, "%s: another change of the chain of files is under way; try again when "
				 "that is done", path);
	r = merge(m, path, err);
	changes_clear(&m->changes);
	gate_end_change(m->top->gate);
	return r;
}

int disk_merge_live(struct disk *disk, const char *path, const struct disk_progress *progress, struct error *err)
{
	struct merging m = {.top = disk, .progress = progress};

	return merge_in_turn(&m, path, err);
}

int disk_merge_files(struct disk *disk, const struct disk_merge_files *files, const struct disk_progress *progress,
		     struct error *err)
{
	struct disk_merge_files mine = *files;
	struct merging m = {.top = disk, .progress = progress, .files = &mine};
	int r = merge_in_turn(&m, "the file that was handed over", err);
	const int left[] = {mine.child, mine.parent, mine.above, mine.record};

	for (unsigned i = 0; i < ARRAY_SIZE(left); i++)
		if (left[i] >= 0)
			close(left[i]);
	return r;
}
