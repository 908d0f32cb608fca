/* SPDX-License-Identifier: GPL-2.0-or-later */
/* writer.c - a machine's memory and sections into a file. */
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/crc32c.h"
#include "statefile/block.h"

/* Pages are looked for by a checksum in a table of so many; with more, fewer duplicates are found. */
#define SEEN_MAX    (1u << 22)
#define SEEN_PROBES 8u

#define SAMPLE_EVERY 256u
#define SAMPLE_SIZE  32u

/* So much of a block is tried first: where that does not get smaller, nothing of it is packed. */
#define PROBE_SIZE (16u << 10)

struct entry {
	uint64_t at;
	uint32_t size, checksum, chunk, pass;
};

struct statefile_writer {
	int fd;
	struct partition *partition;
	struct statefile_progress *progress;
	struct chunks chunks;
	unsigned passes;
	_Atomic uint64_t end; /* of what is in the file */

	/* One pass. */
	struct team team;
	const uint64_t *changed;
	bool still;
	_Atomic uint64_t *seen; /* checksum in the upper half, page number and 1 in the lower; 0: empty */
	uint32_t seen_size;     /* a power of two */

	pthread_mutex_t lock;
	struct entry *entries; /* lock */
	uint32_t entry_count, entry_room;
};

/* What one thread works with. */
struct packer {
	struct statefile_writer *w;
	bool in_place; /* memory is still: pages are looked at where they are, as long as all of a chunk are stored */
	uint8_t head[BLOCK_REFERENCES + 4 * CHUNK_PAGES];
	uint32_t stored, duplicates;
	bool some; /* there is anything to be written */
	uint8_t pages[CHUNK_SIZE];
	uint8_t packed[LZ4_COMPRESSBOUND(CHUNK_SIZE)];
};

/* --- the file ------------------------------------------------------------------------------------------ */

static int write_error(int code, struct error *err)
{
	return error_set(err, code, "the machine's state cannot be written: %s", strerror(code));
}

static int write_all(int fd, uint64_t at, struct iovec *iov, int count, struct error *err)
{
	while (count) {
		ssize_t n = pwritev(fd, iov, count, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return write_error(n ? errno : EIO, err);
		at += (uint64_t)n;
		while (count && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (count) {
			iov->iov_base = (uint8_t *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

static int add_entry(struct statefile_writer *w, const struct entry *entry, struct error *err)
{
	int r = 0;

	pthread_mutex_lock(&w->lock);
	if (w->entry_count == w->entry_room) {
		uint32_t room = w->entry_room ? w->entry_room * 2 : 1024;
		struct entry *entries = realloc(w->entries, room * sizeof(*entries));

		if (entries) {
			w->entries = entries;
			w->entry_room = room;
		} else {
			r = error_set(err, ENOMEM, "no memory on the host to save the machine");
		}
	}
	if (!r)
		w->entries[w->entry_count++] = *entry;
	pthread_mutex_unlock(&w->lock);
	return r;
}

/* --- pages --------------------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *page)
{
	return !page[0] && !memcmp(page, page + 1, GUEST_PAGE_SIZE - 1);
}

static uint8_t *page_at(const struct statefile_writer *w, uint64_t number)
{
	/* Chunks are full but for the last of a region. */
	uint32_t low = 0, high = w->chunks.count;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;

		if (w->chunks.list[middle].first <= number)
			low = middle;
		else
			high = middle;
	}
	return w->chunks.list[low].host + (number - w->chunks.list[low].first) * GUEST_PAGE_SIZE;
}

/* Of pieces of the page: what is looked for is compared as a whole anyway. */
static uint32_t quick_checksum(const uint8_t *page)
{
	uint32_t checksum = 0;

	for (unsigned at = 0; at < GUEST_PAGE_SIZE; at += SAMPLE_EVERY)
		checksum = crc32c(checksum, page + at, SAMPLE_SIZE);
	return checksum;
}

/* A page that was met before and equals this one, else UINT32_MAX, and this one is remembered. */
static uint32_t find_equal(struct statefile_writer *w, const uint8_t *page, uint64_t number)
{
	uint32_t checksum = quick_checksum(page);
	uint64_t own = (uint64_t)checksum << 32 | (number + 1);

	for (unsigned probe = 0; w->seen && probe < SEEN_PROBES; probe++) {
		_Atomic uint64_t *slot = &w->seen[(checksum + probe) & (w->seen_size - 1)];
		uint64_t other = atomic_load_explicit(slot, memory_order_relaxed);

		if (!other && atomic_compare_exchange_strong(slot, &other, own))
			break;
		if (other >> 32 == checksum &&
		    !memcmp(page, page_at(w, (uint32_t)other - 1), GUEST_PAGE_SIZE))
			return (uint32_t)other - 1;
	}
	return UINT32_MAX;
}

static bool is_wanted(const struct statefile_writer *w, uint64_t number)
{
	return !w->changed || w->changed[number / 64] >> (number % 64) & 1;
}

/* A quick look, for the many chunks in which nothing has changed; true when it cannot be told so. */
static bool any_wanted(const struct statefile_writer *w, const struct chunk *chunk)
{
	const uint64_t *words = w->changed ? w->changed + chunk->first / 64 : NULL;

	if (!words || chunk->first % 64 || chunk->pages % 64)
		return true;
	for (uint32_t i = 0; i < chunk->pages / 64; i++)
		if (words[i])
			return true;
	return false;
}

static enum page_kind take_page(struct packer *k, const struct chunk *chunk, uint32_t index)
{
	struct statefile_writer *w = k->w;
	const uint8_t *page = chunk->host + (uint64_t)index * GUEST_PAGE_SIZE;
	uint8_t *copy = k->pages + (uint64_t)k->stored * GUEST_PAGE_SIZE;
	uint32_t equal = UINT32_MAX;

	if (!is_wanted(w, chunk->first + index))
		return PAGE_ABSENT;
	if (is_zero(page))
		return w->passes ? PAGE_ZERO : PAGE_ABSENT; /* memory is zeros before the first pass */
	if (w->still)
		equal = find_equal(w, page, chunk->first + index);
	if (equal != UINT32_MAX) {
		le32_put(k->head + BLOCK_REFERENCES + 4 * k->duplicates++, equal);
		return PAGE_DUPLICATE;
	}
	if (!k->in_place)
		memcpy(copy, page, GUEST_PAGE_SIZE);
	k->stored++;
	return PAGE_STORED;
}

/* Not all pages are stored: those before this one are put together after all. */
static void leave_place(struct packer *k, const struct chunk *chunk)
{
	if (!k->in_place)
		return;
	k->in_place = false;
	memcpy(k->pages, chunk->host, (size_t)k->stored * GUEST_PAGE_SIZE);
}

/* --- blocks -------------------------------------------------------------------------------------------- */

/* Bytes in k->packed, or 0: not worth it. */
static int pack(struct packer *k, const uint8_t *pages, uint32_t size)
{
	const char *from = (const char *)pages, *middle = from + size / 2;
	int packed;

	if (!size)
		return 0;
	if (size >= 4 * PROBE_SIZE &&
	    LZ4_compress_default(middle, (char *)k->packed, (int)PROBE_SIZE, sizeof(k->packed)) >= (int)PROBE_SIZE &&
	    LZ4_compress_default(from, (char *)k->packed, (int)PROBE_SIZE, sizeof(k->packed)) >= (int)PROBE_SIZE)
		return 0;
	packed = LZ4_compress_default(from, (char *)k->packed, (int)size, sizeof(k->packed));
	return packed > 0 && (uint32_t)packed < size ? packed : 0;
}

static int write_block(struct packer *k, uint32_t chunk, struct error *err)
{
	struct statefile_writer *w = k->w;
	uint8_t *pages = k->in_place ? w->chunks.list[chunk].host : k->pages;
	uint32_t size = k->stored * GUEST_PAGE_SIZE, head = BLOCK_REFERENCES + 4 * k->duplicates;
	int packed = pack(k, pages, size);
	struct iovec iov[2] = {{.iov_base = k->head, .iov_len = head},
	    {.iov_base = packed ? k->packed : pages, .iov_len = packed ? (uint32_t)packed : size}};
	struct entry entry = {.chunk = chunk, .pass = w->passes};
	int r;

	le32_put(k->head + BLOCK_PACKING, packed ? PACKING_LZ4 : PACKING_NONE);
	le32_put(k->head + BLOCK_STORED, k->stored);
	le32_put(k->head + BLOCK_DUPLICATES, k->duplicates);
	le32_put(k->head + BLOCK_PAYLOAD, (uint32_t)iov[1].iov_len);
	entry.size = (uint32_t)(head + iov[1].iov_len);
	entry.checksum = crc32c(crc32c(0, k->head, head), iov[1].iov_base, iov[1].iov_len);
	entry.at = atomic_fetch_add(&w->end, entry.size);
	r = write_all(w->fd, entry.at, iov, 2, err);
	/* The disk begins at once: at the end little is left to wait for. Where that is not possible, all is. */
	if (!r)
		(void)sync_file_range(w->fd, (off_t)entry.at, entry.size, SYNC_FILE_RANGE_WRITE);
	return r ? r : add_entry(w, &entry, err);
}

static int write_chunk(struct packer *k, uint32_t number, struct error *err)
{
	const struct chunk *chunk = &k->w->chunks.list[number];

	if (!any_wanted(k->w, chunk) ||
	    !partition_memory_used(k->w->partition, chunk->gpa, (uint64_t)chunk->pages * GUEST_PAGE_SIZE))
		return 0;
	memset(k->head, 0, BLOCK_REFERENCES);
	k->stored = k->duplicates = 0;
	k->some = false;
	k->in_place = k->w->still;
	for (uint32_t i = 0; i < chunk->pages; i++) {
		enum page_kind kind = take_page(k, chunk, i);

		if (kind != PAGE_STORED)
			leave_place(k, chunk);
		k->head[BLOCK_MAP + i] = (uint8_t)kind;
		k->some = k->some || kind != PAGE_ABSENT;
	}
	return k->some ? write_block(k, number, err) : 0;
}

static void write_chunks(void *argument)
{
	struct statefile_writer *w = argument;
	struct packer *k = malloc(sizeof(*k));
	struct error err = {0};
	uint32_t number;

	if (!k) {
		error_set(&err, ENOMEM, "no memory on the host to save the machine");
		team_fail(&w->team, &err);
		return;
	}
	k->w = w;
	while ((number = atomic_fetch_add(&w->team.next, 1)) < w->chunks.count) {
		if (atomic_load(&w->team.failed))
			break;
		if (atomic_load(&w->progress->cancel))
			error_set(&err, ECANCELED, "saving the machine was cancelled");
		if (err.code || write_chunk(k, number, &err)) {
			team_fail(&w->team, &err);
			break;
		}
		atomic_fetch_add(&w->progress->done, (uint64_t)w->chunks.list[number].pages * GUEST_PAGE_SIZE);
	}
	free(k);
}

/* Without memory for it, no duplicates are found. */
static void make_seen(struct statefile_writer *w)
{
	uint64_t size = 1024;

	while (size < 2 * w->chunks.pages && size < SEEN_MAX)
		size *= 2;
	w->seen = w->still ? calloc(size, sizeof(*w->seen)) : NULL;
	w->seen_size = (uint32_t)size;
}

int statefile_write_memory(struct statefile_writer *w, const uint64_t *changed, bool still, struct error *err)
{
	if (w->passes == PASSES_MAX)
		return error_set(err, EINVAL, "memory was written too often into one file");
	w->changed = changed;
	w->still = still;
	make_seen(w);
	atomic_store(&w->team.next, 0);
	atomic_store(&w->progress->done, 0);
	atomic_store(&w->progress->total, w->chunks.pages * GUEST_PAGE_SIZE);
	team_run(write_chunks, w);
	free(w->seen);
	w->seen = NULL;
	w->passes++;
	if (!atomic_load(&w->team.failed))
		return 0;
	if (err)
		*err = w->team.err;
	return -w->team.err.code;
}

/* --- life ---------------------------------------------------------------------------------------------- */

static int check_file(int fd, struct error *err)
{
	int flags = fcntl(fd, F_GETFL);
	struct stat st;

	if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY || flags & O_APPEND)
		return error_set(err, EBADF, "the file for the machine's state is not open for writing, or only for appending");
	if (fstat(fd, &st))
		return write_error(errno, err);
	if (!S_ISREG(st.st_mode))
		return error_set(err, EBADF, "the machine's state can only be saved to a regular file");
	return ftruncate(fd, 0) ? write_error(errno, err) : 0;
}

int statefile_begin(struct statefile_writer **out, int fd, struct partition *p, struct statefile_progress *progress,
    struct error *err)
{
	struct statefile_writer *w;
	int r = check_file(fd, err);

	if (r)
		return r;
	w = calloc(1, sizeof(*w));
	if (!w)
		return error_set(err, ENOMEM, "no memory on the host to save the machine");
	w->fd = fd;
	w->partition = p;
	w->progress = progress;
	pthread_mutex_init(&w->lock, NULL);
	pthread_mutex_init(&w->team.lock, NULL);
	atomic_store(&w->end, HEADER_SIZE);
	r = chunks_of(&w->chunks, p, err);
	if (r) {
		statefile_end(w);
		return r;
	}
	*out = w;
	return 0;
}

void statefile_end(struct statefile_writer *w)
{
	if (!w)
		return;
	pthread_mutex_destroy(&w->lock);
	pthread_mutex_destroy(&w->team.lock);
	free(w->chunks.list);
	free(w->entries);
	free(w);
}

static uint8_t *make_index(const struct statefile_writer *w)
{
	uint8_t *index = malloc(w->entry_count ? (size_t)w->entry_count * ENTRY_SIZE : 1);

	for (uint32_t i = 0; index && i < w->entry_count; i++) {
		const struct entry *entry = &w->entries[i];
		uint8_t *to = index + (size_t)i * ENTRY_SIZE;

		le64_put(to + ENTRY_AT, entry->at);
		le32_put(to + ENTRY_BYTES, entry->size);
		le32_put(to + ENTRY_CHECKSUM, entry->checksum);
		le32_put(to + ENTRY_CHUNK, entry->chunk);
		le32_put(to + ENTRY_PASS, entry->pass);
	}
	return index;
}

int statefile_sync(struct statefile_writer *w, struct error *err)
{
	return fdatasync(w->fd) ? write_error(errno, err) : 0;
}

/* The header is written when all that it speaks of is on disk. */
int statefile_finish(struct statefile_writer *w, const void *sections, size_t sections_size, uint64_t *size,
    struct error *err)
{
	_cleanup_free_ uint8_t *index = make_index(w);
	size_t index_size = (size_t)w->entry_count * ENTRY_SIZE;
	uint64_t at = atomic_load(&w->end);
	uint8_t header[HEADER_SIZE] = {0};
	struct iovec tail[2] = {{.iov_base = (void *)(uintptr_t)sections, .iov_len = sections_size},
	    {.iov_base = index, .iov_len = index_size}};
	struct iovec front = {.iov_base = header, .iov_len = sizeof(header)};
	int r;

	if (!index || sections_size > SECTIONS_MAX)
		return error_set(err, ENOMEM, "no memory on the host to save the machine");
	*size = at + sections_size + index_size;
	memcpy(header, STATEFILE_MAGIC, HEADER_VERSION);
	le32_put(header + HEADER_VERSION, STATEFILE_VERSION);
	le64_put(header + HEADER_FILE_SIZE, *size);
	le64_put(header + HEADER_SECTIONS_AT, at);
	le64_put(header + HEADER_SECTIONS, sections_size);
	le64_put(header + HEADER_INDEX_AT, at + sections_size);
	le64_put(header + HEADER_BLOCKS, w->entry_count);
	le32_put(header + HEADER_INDEX_CRC, crc32c(0, index, index_size));
	le64_put(header + HEADER_PAGES, w->chunks.pages);
	le32_put(header + HEADER_CHECKSUM, crc32c(0, header, HEADER_USED));
	r = write_all(w->fd, at, tail, 2, err);
	if (!r)
		r = statefile_sync(w, err);
	if (!r)
		r = write_all(w->fd, 0, &front, 1, err);
	return r ? r : statefile_sync(w, err);
}
