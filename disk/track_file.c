/* SPDX-License-Identifier: GPL-2.0-or-later */
/* track_file.c - the record of changes as a file. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "disk/new_file.h"
#include "disk/track.h"
#include "disk/vhdx.h"

#define SIGNATURE "BULKHCBT"
#define VERSION   1u
#define PAGE      4096u

static uint64_t bitmap_size(const struct changes *changes)
{
	return (changes->granules + 63) / 64 * 8;
}

static uint32_t header_checksum(const struct track_header *header)
{
	struct track_header copy = *header;

	copy.checksum = 0;
	return crc32c(0, &copy, sizeof(copy));
}

int track_write_header(struct tracker *t)
{
	t->header.checksum = header_checksum(&t->header);
	return file_write(&t->file, 0, &t->header, sizeof(t->header));
}

static int identify(const struct disk *disk, struct track_identity *identity)
{
	struct stat st;

	memset(identity, 0, sizeof(*identity));
	identity->kind = TRACK_BY_TIME;
	if (disk->info.format == DISK_FORMAT_VHDX) {
		identity->kind = TRACK_BY_GUID;
		identity->data_write_guid = ((struct vhdx *)disk->format)->header.data_write_guid;
		return 0;
	}
	if (fstat(disk->file.fd, &st) < 0)
		return -errno;
	identity->file.inode = st.st_ino;
	identity->file.modified = st.st_mtim.tv_sec;
	identity->file.changed = st.st_ctim.tv_sec;
	identity->nanoseconds[0] = (uint32_t)st.st_mtim.tv_nsec;
	identity->nanoseconds[1] = (uint32_t)st.st_ctim.tv_nsec;
	return 0;
}

static bool is_of(const struct track_header *header, const struct track_identity *image)
{
	if (header->open && image->kind != TRACK_BY_GUID)
		return false;
	return memcmp(&header->identity[0], image, sizeof(*image)) == 0 ||
	       memcmp(&header->identity[1], image, sizeof(*image)) == 0;
}

unsigned track_region_shift(uint64_t disk_size)
{
	unsigned shift = 20;

	while ((disk_size - 1) >> shift >= TRACK_REGIONS)
		shift++;
	return shift;
}

static bool entry_is_sane(const struct tracker *t, const struct track_entry *entry, uint64_t file_length)
{
	return entry->name[0] != '\0' && memchr(entry->name, '\0', sizeof(entry->name)) &&
	       (entry->offset == 0 || (entry->offset >= TRACK_BITMAPS_AT &&
				       range_fits_u64(entry->offset, bitmap_size(&t->session), file_length)));
}

static bool is_sane(const struct tracker *t, uint64_t file_length)
{
	const struct track_header *header = &t->header;

	if (memcmp(header->signature, SIGNATURE, 8) != 0 || header->version != VERSION ||
	    header->checksum != header_checksum(header) || header->point_count > TRACK_POINTS_MAX ||
	    header->table_checksum != crc32c(0, t->entries, sizeof(t->entries)))
		return false;
	for (unsigned i = 0; i < header->point_count; i++)
		if (!entry_is_sane(t, &t->entries[i], file_length))
			return false;
	return true;
}

static int read_record(struct tracker *t, uint64_t *regions)
{
	uint64_t length;
	int r = file_size(&t->file, &length);

	if (r == 0)
		r = file_read(&t->file, 0, &t->header, sizeof(t->header));
	if (r == 0)
		r = file_read(&t->file, TRACK_REGIONS_AT, regions, TRACK_REGIONS / 8);
	if (r == 0)
		r = file_read(&t->file, TRACK_TABLE_AT, t->entries, sizeof(t->entries));
	if (r == 0 && !is_sane(t, length))
		r = -EBADMSG;
	return r == -ENODATA ? -EBADMSG : r;
}

/* What the regions say has changed, and so may have been before a crash. */
static void take_regions(struct tracker *t, const uint64_t *regions)
{
	for (unsigned i = 0; i < TRACK_REGIONS; i++) {
		if (!(regions[i / 64] >> i % 64 & 1))
			continue;
		atomic_fetch_or(&t->regions[i / 64], UINT64_C(1) << i % 64);
		changes_note(&t->session, (uint64_t)i << t->region_shift, UINT64_C(1) << t->region_shift);
	}
}

int track_load(struct tracker *t, struct error *err)
{
	const struct disk *disk = t->disk;
	uint64_t regions[TRACK_REGIONS / 64];
	struct track_identity image;
	int r;

	if (t->file.fd < 0)
		t->file.fd = disk_file_open(t->path, (disk->info.read_only ? O_RDONLY : O_RDWR) | O_NOFOLLOW);
	if (t->file.fd < 0)
		return error_set(err, errno, "%s: cannot be opened: %s", t->path, strerror(errno));
	r = read_record(t, regions);
	if (r == 0)
		r = identify(disk, &image);
	if (r < 0)
		return error_set(err, -r, "%s: no record of changes that can be used: %s", t->path,
				 r == -EBADMSG ? "damaged, or of another version" : strerror(-r));
	t->all_changed = !is_of(&t->header, &image) || t->header.disk_size != disk->info.size ||
			 t->header.granule_shift != t->session.shift ||
			 t->header.region_shift != t->region_shift;
	if (t->all_changed)
		t->must_save = true;
	else
		take_regions(t, regions);
	return 0;
}

int track_read(struct tracker *t, unsigned point, struct changes *out)
{
	const struct track_entry *entry = &t->entries[point];
	uint64_t size = bitmap_size(&t->session), *words = NULL;
	bool all = t->all_changed || entry->offset == 0 || t->disk->info.size != t->session.size;
	int r = changes_init(out, t->disk->info.size);

	if (r == 0 && !all) {
		words = malloc(size);
		r = words ? 0 : -ENOMEM;
	}
	if (r < 0) {
		changes_clear(out);
		return r;
	}
	if (!all)
		all = file_read(&t->file, entry->offset, words, size) < 0 || crc32c(0, words, size) != entry->checksum;
	for (uint64_t i = 0; !all && i < size / 8; i++)
		atomic_store(&out->words[i], words[i] | atomic_load(&t->session.words[i]));
	if (all)
		changes_note(out, 0, out->size);
	free(words);
	return 0;
}

/* Zeros are holes of the file. */
static int write_bitmap(struct file *file, uint64_t offset, const uint64_t *words, uint64_t size)
{
	static const uint8_t zeros[PAGE];
	int r = 0;

	for (uint64_t at = 0, part; r == 0 && at < size; at += part) {
		part = min_u64(PAGE, size - at);
		if (memcmp((const uint8_t *)words + at, zeros, part) != 0)
			r = file_write(file, offset + at, (const uint8_t *)words + at, part);
	}
	return r;
}

static int save_point(struct tracker *t, unsigned point, struct file *file, struct track_entry *entry)
{
	uint64_t size = bitmap_size(&t->session);
	struct changes changes;
	int r = point == t->fresh ? changes_init(&changes, t->session.size) : track_read(t, point, &changes);

	if (r < 0)
		return r;
	*entry = t->entries[point];
	entry->offset = 0;
	if (!changes_has(&changes, 0, changes.size)) {
		entry->offset = TRACK_BITMAPS_AT + point * align_up_u64(size, PAGE);
		entry->checksum = crc32c(0, changes.words, size);
		r = write_bitmap(file, entry->offset, (const uint64_t *)changes.words, size);
	}
	changes_clear(&changes);
	return r;
}

static int fill(struct tracker *t, struct file *file, struct track_header *header, struct track_entry *entries)
{
	uint64_t end = TRACK_BITMAPS_AT + header->point_count * align_up_u64(bitmap_size(&t->session), PAGE);
	int r = file_resize(file, end);

	for (unsigned i = 0; r == 0 && i < header->point_count; i++)
		r = save_point(t, i, file, &entries[i]);
	if (r == 0)
		r = identify(t->disk, &header->identity[0]);
	if (r < 0)
		return r;
	memcpy(header->signature, SIGNATURE, 8);
	header->version = VERSION;
	header->open = false;
	header->disk_size = t->disk->info.size;
	header->granule_shift = t->session.shift;
	header->region_shift = t->region_shift;
	header->identity[1] = header->identity[0];
	header->table_checksum = crc32c(0, entries, TRACK_POINTS_MAX * sizeof(*entries));
	header->checksum = header_checksum(header);
	r = file_write(file, 0, header, sizeof(*header));
	return r < 0 ? r : file_write(file, TRACK_TABLE_AT, entries, TRACK_POINTS_MAX * sizeof(*entries));
}

/* Until it is synced it is damaged, which means that all has changed. */
static int fill_given(struct tracker *t, struct track_header *header, struct track_entry *entries, int *fd,
		      struct error *err)
{
	struct file file = {.fd = t->given, .direct_fd = -1, .observer = t->of_new};
	uint64_t size;
	int r = file_size(&file, &size);

	if (r == 0 && size > 0)
		return error_set(err, EEXIST, "%s: is not empty", t->path);
	if (r == 0)
		r = fill(t, &file, header, entries);
	if (r == 0)
		r = file_sync(&file);
	if (r < 0)
		return error_set(err, -r, "%s: cannot be written: %s", t->path, strerror(-r));
	*fd = t->given;
	t->given = -1;
	return 0;
}

static int replace(struct tracker *t, struct track_header *header, struct track_entry *entries, int *fd,
		   struct error *err)
{
	struct new_file new;
	struct file file;
	int r = new_file_begin(&new, t->path, true, err);

	if (r < 0)
		return r;
	new.observer = t->of_new;
	file = (struct file){.fd = new.fd, .direct_fd = -1, .observer = t->of_new};
	r = fill(t, &file, header, entries);
	if (r == 0) {
		*fd = fcntl(new.fd, F_DUPFD_CLOEXEC, 0);
		r = *fd < 0 ? -errno : 0;
	}
	if (r < 0) {
		new_file_abandon(&new);
		return error_set(err, -r, "%s: cannot be written: %s", t->path, strerror(-r));
	}
	r = new_file_finish(&new, t->path, true, err);
	if (r < 0)
		close(*fd);
	return r;
}

/* The disk has another size than before: nothing is known of what is new. */
static int follow_size(struct tracker *t)
{
	struct changes session;
	int r;

	if (t->disk->info.size == t->session.size)
		return 0;
	r = changes_init(&session, t->disk->info.size);
	if (r < 0)
		return r;
	changes_clear(&t->session);
	t->session = session;
	t->region_shift = track_region_shift(session.size);
	t->all_changed = true;
	return 0;
}

int track_save(struct tracker *t, struct error *err)
{
	struct track_header header = {.point_count = t->header.point_count};
	struct track_entry entries[TRACK_POINTS_MAX];
	int fd = -1, r;

	memset(entries, 0, sizeof(entries));
	r = follow_size(t);
	if (r < 0)
		return error_set(err, -r, "%s: no memory for the record of changes", t->path);
	r = t->given >= 0 ? fill_given(t, &header, entries, &fd, err) : replace(t, &header, entries, &fd, err);
	if (r < 0)
		return r;
	if (t->file.fd >= 0)
		close(t->file.fd);
	t->file.fd = fd;
	t->header = header;
	memcpy(t->entries, entries, sizeof(entries));
	for (uint64_t i = 0; i < bitmap_size(&t->session) / 8; i++)
		atomic_store(&t->session.words[i], 0);
	for (unsigned i = 0; i < TRACK_REGIONS / 64; i++)
		atomic_store(&t->regions[i], 0);
	t->all_changed = t->must_save = false;
	atomic_store(&t->begun, false);
	return 0;
}
