/* SPDX-License-Identifier: GPL-2.0-or-later */
/* repair_undo.c - what a repair has overwritten, as a file, and putting it back. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "disk/lock.h"
#include "disk/new_file.h"
#include "disk/repair.h"

#define SIGNATURE "BULKUNDO"
#define VERSION   2u
#define NAMES_MAX 100u
#define SIZE_MAX_KEPT (UINT64_C(256) << 20)
#define START     (UINT64_C(1) << 20) /* headers and footers lie there: no change of the image leaves it as it is */
#define TRAILER   512u /* the longest that a format has behind all places */

enum { DONE = 1, DONE_AND_LOST /* what it has left is not known */ };

/* Little-endian. Behind it the changes; of each, behind its head, the bytes of before and those of after. */
struct __attribute__((packed)) undo_header {
	char signature[8];
	uint32_t version;
	uint32_t checksum; /* CRC-32C of all that follows */
	uint64_t file_size; /* before the repair */
	uint64_t count;
	uint64_t end;       /* the file is not longer than that when the repair is cut off */
	uint64_t left_size; /* of the file when the repair was done, and */
	uint32_t left_sum;  /* CRC-32C of how it began then, with zeros where there are changes */
	uint32_t is_done;   /* 0: the repair may have been cut off; or one of: */
};

struct __attribute__((packed)) undo_change {
	uint64_t offset;
	uint32_t size;
	uint32_t has_after; /* 0: there is nothing of after, but: */
	uint32_t after_sum; /* CRC-32C of what the repair has left, when it is done */
	uint32_t reserved;
};

_Static_assert(sizeof(struct undo_header) == 56 && sizeof(struct undo_change) == 24, "as in the file");

static int put_change(FILE *out, const struct file *file, uint64_t file_size, const struct repair_change *change)
{
	struct undo_change head = {change->offset, change->size, change->bytes != NULL, 0, 0};
	_cleanup_free_ uint8_t *before = calloc(1, change->size);
	struct file reading = {.fd = file->fd, .direct_fd = -1};
	size_t there = change->offset < file_size ? min_u64(change->size, file_size - change->offset) : 0;
	int r = before ? file_read(&reading, change->offset, before, there) : -ENOMEM;

	if (r < 0)
		return r;
	fwrite(&head, sizeof(head), 1, out);
	fwrite(before, change->size, 1, out);
	if (change->bytes)
		fwrite(change->bytes, change->size, 1, out);
	return 0;
}

static int build(const struct repair *repair, char **bytes, size_t *size)
{
	struct undo_header header = {.version = VERSION, .count = repair->change_count};
	uint64_t file_length = 0;
	FILE *out = open_memstream(bytes, size);
	int r = out ? file_size(&repair->disk->file, &file_length) : -ENOMEM;

	if (!out)
		return r;
	memcpy(header.signature, SIGNATURE, 8);
	header.file_size = file_length;
	header.end = max_u64(file_length, repair->file_end + TRAILER);
	fwrite(&header, sizeof(header), 1, out);
	for (size_t i = 0; r == 0 && i < repair->change_count; i++)
		r = put_change(out, &repair->disk->file, file_length, &repair->changes[i]);
	if (fclose(out) != 0 && r == 0)
		r = -ENOMEM;
	if (r < 0)
		return r;
	header.checksum = crc32c(0, *bytes + 16, *size - 16);
	memcpy(*bytes, &header, sizeof(header));
	return 0;
}

static int write_named(const char *name, const void *bytes, size_t size, bool replace, struct error *err)
{
	struct new_file new;
	struct file file;
	int r = new_file_begin(&new, name, replace, err);

	if (r < 0)
		return r;
	file = (struct file){.fd = new.fd, .direct_fd = -1};
	r = file_write(&file, 0, bytes, size);
	if (r < 0) {
		new_file_abandon(&new);
		return error_set(err, -r, "%s: cannot be written: %s", name, strerror(-r));
	}
	return new_file_finish(&new, name, replace, err);
}

int repair_keep(const struct repair *repair, char **name, struct error *err)
{
	_cleanup_free_ char *bytes = NULL;
	size_t size = 0;
	int r = build(repair, &bytes, &size);

	if (r < 0)
		return error_set(err, -r, "%s: what a repair would overwrite cannot be read: %s", repair->disk->path,
				 strerror(-r));
	r = -EEXIST;
	for (unsigned i = 1; r == -EEXIST && i <= NAMES_MAX; i++) {
		free(*name);
		if (asprintf(name, "%s.undo-%u", repair->disk->path, i) < 0) {
			*name = NULL;
			return error_set(err, ENOMEM, "%s: no memory to repair it", repair->disk->path);
		}
		r = write_named(*name, bytes, size, false, err);
	}
	return r;
}

/* --- back --- */

struct undo {
	struct file file;
	uint8_t *bytes;
	uint64_t size;
	bool is_done;
	uint8_t *start; /* START bytes of the file, while they are summed */
};

static int bad(const char *path, struct error *err)
{
	return error_set(err, EBADMSG, "%s: no file of what a repair has overwritten, or a damaged one", path);
}

static int read_undo(struct undo *undo, const char *path, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct file file = {.fd = fd, .direct_fd = -1};
	struct undo_header header;
	int r = fd < 0 ? -errno : file_size(&file, &undo->size);

	if (r == 0 && (undo->size < sizeof(header) || undo->size > SIZE_MAX_KEPT))
		return bad(path, err);
	undo->bytes = r == 0 ? malloc(undo->size) : NULL;
	if (r == 0)
		r = undo->bytes ? file_read(&file, 0, undo->bytes, undo->size) : -ENOMEM;
	if (r < 0)
		return error_set(err, -r, "%s: cannot be read: %s", path, strerror(-r));
	memcpy(&header, undo->bytes, sizeof(header));
	if (memcmp(header.signature, SIGNATURE, 8) != 0 || header.version != VERSION ||
	    header.checksum != crc32c(0, undo->bytes + 16, undo->size - 16) || header.file_size > INT64_MAX)
		return bad(path, err);
	return 0;
}

/* `bytes` are those of before, and behind them, if there are any, those of after. */
typedef int undo_visitor(struct undo *undo, struct undo_change *change, const uint8_t *bytes);

/* -EBADMSG: the file's parts do not fit into it. */
static int for_each(struct undo *undo, undo_visitor *visit)
{
	struct undo_header header;
	uint64_t at = sizeof(header);
	int r = 0;

	memcpy(&header, undo->bytes, sizeof(header));
	for (uint64_t i = 0; r == 0 && i < header.count; i++) {
		struct undo_change change;
		uint64_t length;

		if (!range_fits_u64(at, sizeof(change), undo->size))
			return -EBADMSG;
		memcpy(&change, undo->bytes + at, sizeof(change));
		at += sizeof(change);
		length = (uint64_t)change.size * (change.has_after ? 2 : 1);
		if (!range_fits_u64(at, length, undo->size) || change.offset > (uint64_t)INT64_MAX - change.size)
			return -EBADMSG;
		r = visit(undo, &change, undo->bytes + at);
		memcpy(undo->bytes + at - sizeof(change), &change, sizeof(change));
		at += length;
	}
	return r;
}

/* What the file has there; behind its end zeros, as when they were kept. */
static int read_now(struct undo *undo, const struct undo_change *change, uint8_t **now)
{
	uint64_t size = 0;
	int r = file_size(&undo->file, &size);

	*now = calloc(1, (size_t)change->size + 1);
	if (!*now)
		return -ENOMEM;
	return r == 0 && change->offset < size
		   ? file_read(&undo->file, change->offset, *now, min_u64(change->size, size - change->offset))
		   : r;
}

/* One or the other is there, entry by entry, as a power cut may leave it. */
static int check_change(struct undo *undo, struct undo_change *change, const uint8_t *bytes)
{
	const uint8_t *before = bytes, *after = bytes + change->size;
	_cleanup_free_ uint8_t *now = NULL;
	int r = read_now(undo, change, &now);

	if (r < 0)
		return r;
	if (!change->has_after)
		return !undo->is_done || memcmp(now, before, change->size) == 0 ||
			       crc32c(0, now, change->size) == change->after_sum
			   ? 0
			   : -ESTALE;
	for (uint32_t at = 0; r == 0 && at < change->size; at += 8) {
		size_t part = min_u64(8, change->size - at);

		if (memcmp(now + at, before + at, part) != 0 && memcmp(now + at, after + at, part) != 0)
			r = -ESTALE;
	}
	return r;
}

static int seal_change(struct undo *undo, struct undo_change *change, const uint8_t *bytes)
{
	_cleanup_free_ uint8_t *now = NULL;
	int r = change->has_after ? 0 : read_now(undo, change, &now);

	if (now)
		change->after_sum = crc32c(0, now, change->size);
	return r;
}

static int leave_out(struct undo *undo, struct undo_change *change, const uint8_t *bytes)
{
	if (change->offset < START)
		memset(undo->start + change->offset, 0, min_u64(change->size, START - change->offset));
	return 0;
}

/* How the file begins, whatever is where the changes are. */
static int sum_start(struct undo *undo, uint64_t size, uint32_t *sum)
{
	int r;

	undo->start = calloc(1, START);
	r = undo->start ? file_read(&undo->file, 0, undo->start, min_u64(size, START)) : -ENOMEM;
	if (r == 0)
		r = for_each(undo, leave_out);
	if (r == 0)
		*sum = crc32c(0, undo->start, START);
	free(undo->start);
	undo->start = NULL;
	return r;
}

static int put_back(struct undo *undo, struct undo_change *change, const uint8_t *bytes)
{
	return file_write(&undo->file, change->offset, bytes, change->size);
}

/* -ESTALE: the image is neither what the repair has left, nor what is on the way back from there. */
static int check_image(struct undo *undo, const struct undo_header *header)
{
	uint32_t sum = 0;
	uint64_t size;
	int r = file_size(&undo->file, &size);

	if (r < 0)
		return r;
	if (header->is_done > DONE ||
	    (header->is_done ? size != header->left_size && size != header->file_size : size > header->end))
		return -ESTALE;
	undo->is_done = header->is_done;
	if (header->is_done)
		r = sum_start(undo, size, &sum);
	if (r == 0 && sum != header->left_sum)
		r = -ESTALE;
	return r < 0 ? r : for_each(undo, check_change);
}

static int undo_changes(struct undo *undo, const char *path, struct error *err)
{
	struct undo_header header;
	int r;

	memcpy(&header, undo->bytes, sizeof(header));
	r = check_image(undo, &header);
	if (r == 0)
		r = for_each(undo, put_back);
	if (r == 0)
		r = file_resize(&undo->file, header.file_size);
	if (r == 0)
		r = file_sync(&undo->file);
	if (r == -ESTALE)
		return error_set(err, ESTALE, "%s: is not what the repair has left, so that it cannot be undone", path);
	return r < 0 ? error_set(err, -r, "%s: its repair cannot be undone: %s", path, strerror(-r)) : 0;
}

static int note_what_is_left(struct undo *undo, bool lost)
{
	struct undo_header header;
	uint64_t size;
	uint32_t sum = 0;
	int r = file_size(&undo->file, &size);

	if (r == 0)
		r = for_each(undo, seal_change);
	if (r == 0)
		r = sum_start(undo, size, &sum);
	memcpy(&header, undo->bytes, sizeof(header));
	header.left_size = size;
	header.left_sum = sum;
	header.is_done = lost ? DONE_AND_LOST : DONE;
	memcpy(undo->bytes, &header, sizeof(header));
	header.checksum = crc32c(0, undo->bytes + 16, undo->size - 16);
	memcpy(undo->bytes, &header, sizeof(header));
	return r;
}

int repair_seal(const char *path, const char *name, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct undo undo = {.file = {.fd = fd, .direct_fd = -1}};
	/* Who has it already may have changed it. */
	bool lost = fd >= 0 && lock_image(fd, path, false, NULL) < 0;
	int r = fd < 0 ? error_set(err, errno, "%s: cannot be opened: %s", path, strerror(errno)) : read_undo(&undo, name, err);

	if (r == 0) {
		r = note_what_is_left(&undo, lost);
		if (r < 0)
			error_set(err, -r, "%s: cannot be read: %s", path, strerror(-r));
	}
	if (r == 0)
		r = write_named(name, undo.bytes, undo.size, true, err);
	free(undo.bytes);
	return r;
}

int disk_undo_repair(const char *path, const char *undo_path, struct error *err)
{
	struct undo undo = {.file = {.fd = -1, .direct_fd = -1}};
	int r = read_undo(&undo, undo_path, err);

	if (r == 0) {
		undo.file.fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
		r = undo.file.fd < 0 ? error_set(err, errno, "%s: cannot be opened: %s", path, strerror(errno))
				     : lock_image(undo.file.fd, path, true, err);
	}
	if (r == 0)
		r = undo_changes(&undo, path, err);
	if (undo.file.fd >= 0)
		close(undo.file.fd);
	free(undo.bytes);
	return r;
}
