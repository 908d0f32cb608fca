/* SPDX-License-Identifier: GPL-2.0-or-later */
/* reader.c - a saved machine's file: what is checked before anything is believed, and memory out of it. */
#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "statefile/block.h"

#define AHEAD_BLOCKS 16u
#define AHEAD_PIECE  (128u << 10)

struct duplicate {
	uint64_t page;
	uint32_t equal;
};

struct statefile {
	int fd;
	const char *name;
	uint64_t size, pages, sections_at, index_at;
	size_t sections_size;
	uint8_t *sections, *index; /* the index when memory is read */
	uint32_t blocks, index_checksum;
};

struct filler {
	struct statefile *f;
	struct statefile_progress *progress;
	struct partition *partition;
	struct chunks chunks;
	struct team team;
	unsigned pass;
	uint32_t *passes_seen; /* of each chunk, a bit for each pass: none comes twice in one */

	pthread_mutex_t lock;
	struct duplicate *duplicates; /* lock */
	size_t duplicate_count, duplicate_room;
	uint64_t *is_duplicate; /* lock; a bit for each page */
};

/* --- the file ------------------------------------------------------------------------------------------ */

static int damaged(const struct statefile *f, uint64_t at, const char *what, struct error *err)
{
	return error_set(err, EBADMSG, "%s is damaged: at byte %llu: %s", f->name, (unsigned long long)at, what);
}

static int read_all(const struct statefile *f, uint64_t at, void *to, size_t size, struct error *err)
{
	uint8_t *bytes = to;

	while (size) {
		ssize_t n = pread(f->fd, bytes, size, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, errno, "%s cannot be read: %s", f->name, strerror(errno));
		if (n == 0)
			return damaged(f, at, "the file ends here, too early", err);
		bytes += n;
		at += (uint64_t)n;
		size -= (size_t)n;
	}
	return 0;
}

static int foreign(const struct statefile *f, const uint8_t *header, struct error *err)
{
	for (size_t i = 0; i < HEADER_USED; i++)
		if (header[i])
			return error_set(err, EBADMSG, "%s is no saved machine", f->name);
	return error_set(err, EBADMSG, "%s is no saved machine, or saving it did not come to its end", f->name);
}

static int check_header(struct statefile *f, uint8_t *header, struct error *err)
{
	uint32_t version = le32_get(header + HEADER_VERSION), checksum = le32_get(header + HEADER_CHECKSUM);
	uint64_t sections = le64_get(header + HEADER_SECTIONS), blocks = le64_get(header + HEADER_BLOCKS);

	if (memcmp(header, STATEFILE_MAGIC, HEADER_VERSION) != 0)
		return foreign(f, header, err);
	if (version > STATEFILE_VERSION)
		return error_set(err, EOVERFLOW,
		    "%s is a saved machine of version %u and this Bulkhead knows %u: use the one that saved it, or a later one",
		    f->name, version, STATEFILE_VERSION);
	le32_put(header + HEADER_CHECKSUM, 0);
	if (version < 1 || crc32c(0, header, HEADER_USED) != checksum)
		return damaged(f, 0, "the checksum of the header is wrong", err);
	if (le64_get(header + HEADER_FILE_SIZE) != f->size)
		return error_set(err, EBADMSG, "%s is damaged: it has %llu bytes and should have %llu", f->name,
		    (unsigned long long)f->size, (unsigned long long)le64_get(header + HEADER_FILE_SIZE));
	f->sections_at = le64_get(header + HEADER_SECTIONS_AT);
	f->index_at = le64_get(header + HEADER_INDEX_AT);
	f->pages = le64_get(header + HEADER_PAGES);
	if (sections > SECTIONS_MAX || !range_fits_u64(f->sections_at, sections, f->size) || blocks > UINT32_MAX ||
	    !range_fits_u64(f->index_at, blocks * ENTRY_SIZE, f->size))
		return damaged(f, HEADER_SECTIONS_AT, "sections or index lie outside of the file", err);
	f->sections_size = (size_t)sections;
	f->blocks = (uint32_t)blocks;
	f->index_checksum = le32_get(header + HEADER_INDEX_CRC);
	return 0;
}

static int no_memory(const struct statefile *f, struct error *err)
{
	return error_set(err, ENOMEM, "no memory on the host for the saved machine %s", f->name);
}

static int load_sections(struct statefile *f, struct error *err)
{
	f->sections = malloc(f->sections_size ? f->sections_size : 1);
	return f->sections ? read_all(f, f->sections_at, f->sections, f->sections_size, err) : no_memory(f, err);
}

/* Not before it is known of how many chunks it can tell: a file with holes may be as long as it likes. */
static int load_index(struct statefile *f, uint32_t chunks, struct error *err)
{
	size_t size = (size_t)f->blocks * ENTRY_SIZE;
	int r;

	if (f->blocks > (uint64_t)chunks * PASSES_MAX)
		return damaged(f, HEADER_BLOCKS, "it has more blocks of memory than there can be", err);
	free(f->index);
	f->index = malloc(size ? size : 1);
	if (!f->index)
		return no_memory(f, err);
	r = read_all(f, f->index_at, f->index, size, err);
	if (!r && crc32c(0, f->index, size) != f->index_checksum)
		r = damaged(f, f->index_at, "the checksum of the index is wrong", err);
	return r;
}

int statefile_open(struct statefile **out, int fd, const char *name, struct error *err)
{
	struct statefile *f = calloc(1, sizeof(*f));
	uint8_t header[HEADER_SIZE];
	struct stat st;
	int r = 0;

	if (!f)
		return error_set(err, ENOMEM, "no memory on the host for the saved machine %s", name);
	f->fd = fd;
	f->name = name;
	if (fstat(fd, &st))
		r = error_set(err, errno, "%s cannot be read: %s", name, strerror(errno));
	else if (!S_ISREG(st.st_mode) || st.st_size < (off_t)HEADER_SIZE)
		r = error_set(err, EBADMSG, "%s is no saved machine: it is %s", name,
		    S_ISREG(st.st_mode) ? "too short for one" : "no regular file");
	if (!r) {
		f->size = (uint64_t)st.st_size;
		r = read_all(f, 0, header, sizeof(header), err);
	}
	if (!r)
		r = check_header(f, header, err);
	if (!r)
		r = load_sections(f, err);
	if (r) {
		statefile_close(f);
		return r;
	}
	*out = f;
	return 0;
}

void statefile_close(struct statefile *f)
{
	if (!f)
		return;
	free(f->sections);
	free(f->index);
	free(f);
}

const uint8_t *statefile_sections(const struct statefile *f, size_t *size, uint64_t *at)
{
	*size = f->sections_size;
	*at = f->sections_at;
	return f->sections;
}

/* --- memory -------------------------------------------------------------------------------------------- */

struct unpacker {
	struct filler *t;
	uint64_t at; /* of the block in the file, for messages */
	uint8_t block[BLOCK_MAX];
	uint8_t pages[CHUNK_SIZE];
};

static int add_duplicate(struct filler *t, uint64_t page, uint32_t equal, bool *room)
{
	if (t->duplicate_count == t->duplicate_room) {
		size_t more = t->duplicate_room ? t->duplicate_room * 2 : 4096;
		struct duplicate *list = realloc(t->duplicates, more * sizeof(*list));

		*room = list;
		if (!list)
			return -1;
		t->duplicates = list;
		t->duplicate_room = more;
	}
	t->duplicates[t->duplicate_count++] = (struct duplicate){page, equal};
	t->is_duplicate[page / 64] |= 1ull << (page % 64);
	return 0;
}

/* Duplicates are noted, and stop being ones where a later pass brings something else. */
static int note_duplicates(struct unpacker *u, const struct chunk *chunk, struct error *err)
{
	struct filler *t = u->t;
	const uint8_t *map = u->block + BLOCK_MAP, *reference = u->block + BLOCK_REFERENCES;
	bool room = true, exists = true;

	pthread_mutex_lock(&t->lock);
	for (uint32_t i = 0; i < chunk->pages && room && exists; i++) {
		uint64_t page = chunk->first + i;

		if (map[i] != PAGE_DUPLICATE) {
			if (map[i] != PAGE_ABSENT)
				t->is_duplicate[page / 64] &= ~(1ull << (page % 64));
			continue;
		}
		exists = le32_get(reference) < t->chunks.pages;
		if (exists)
			add_duplicate(t, page, le32_get(reference), &room);
		reference += 4;
	}
	pthread_mutex_unlock(&t->lock);
	if (!room)
		return error_set(err, ENOMEM, "no memory on the host for the saved machine %s", t->f->name);
	return exists ? 0 : damaged(t->f, u->at, "a page equals one that does not exist", err);
}

/* The pages' own part: what the head says must be what is there. */
static int check_block(const struct unpacker *u, const struct chunk *chunk, uint32_t size, struct error *err)
{
	const uint8_t *b = u->block;
	uint32_t stored = 0, duplicates = 0;

	for (uint32_t i = 0; i < CHUNK_PAGES; i++) {
		uint8_t kind = b[BLOCK_MAP + i];

		if (kind > PAGE_DUPLICATE || (i >= chunk->pages && kind != PAGE_ABSENT))
			return damaged(u->t->f, u->at, "a page of memory is of no kind that there is", err);
		stored += kind == PAGE_STORED;
		duplicates += kind == PAGE_DUPLICATE;
	}
	if (le32_get(b + BLOCK_STORED) != stored || le32_get(b + BLOCK_DUPLICATES) != duplicates ||
	    le32_get(b + BLOCK_PACKING) > PACKING_LZ4 || size < BLOCK_REFERENCES + 4 * duplicates ||
	    le32_get(b + BLOCK_PAYLOAD) != size - BLOCK_REFERENCES - 4 * duplicates)
		return damaged(u->t->f, u->at, "a block of memory does not hold what it says", err);
	return 0;
}

/* The stored pages in order, or NULL. Where they are all of the chunk, they may be in their place already. */
static const uint8_t *unpack(struct unpacker *u, const struct chunk *chunk)
{
	const uint8_t *b = u->block;
	uint8_t *pages = le32_get(b + BLOCK_STORED) == chunk->pages ? chunk->host : u->pages;
	const uint8_t *payload = b + BLOCK_REFERENCES + 4 * le32_get(b + BLOCK_DUPLICATES);
	uint32_t size = le32_get(b + BLOCK_PAYLOAD), wanted = le32_get(b + BLOCK_STORED) * GUEST_PAGE_SIZE;

	if (le32_get(b + BLOCK_PACKING) == PACKING_NONE)
		return size == wanted ? payload : NULL;
	return LZ4_decompress_safe((const char *)payload, (char *)pages, (int)size, (int)wanted) == (int)wanted
		   ? pages
		   : NULL;
}

static int fill(struct unpacker *u, const struct chunk *chunk, struct error *err)
{
	const uint8_t *map = u->block + BLOCK_MAP, *page = unpack(u, chunk);

	if (!page)
		return damaged(u->t->f, u->at, "a block of memory cannot be unpacked", err);
	if (page == chunk->host)
		return note_duplicates(u, chunk, err);
	for (uint32_t i = 0; i < chunk->pages; i++) {
		uint8_t *to = chunk->host + (uint64_t)i * GUEST_PAGE_SIZE;

		if (map[i] == PAGE_ZERO)
			memset(to, 0, GUEST_PAGE_SIZE);
		if (map[i] != PAGE_STORED)
			continue;
		memcpy(to, page, GUEST_PAGE_SIZE);
		page += GUEST_PAGE_SIZE;
	}
	return note_duplicates(u, chunk, err);
}

/* The disk reads ahead what the threads come to soon; in pieces, for the host's kernel takes no more at a time. */
static void read_ahead(const struct statefile *f, uint32_t block)
{
	const uint8_t *entry = f->index + (size_t)block * ENTRY_SIZE;
	uint64_t at = le64_get(entry + ENTRY_AT), end = at + le32_get(entry + ENTRY_BYTES);

	for (; at < end && end <= f->size; at += AHEAD_PIECE)
		(void)posix_fadvise(f->fd, (off_t)at, (off_t)min_u64(AHEAD_PIECE, end - at), POSIX_FADV_WILLNEED);
}

/* One block of this pass. */
static int read_block(struct unpacker *u, const uint8_t *entry, struct error *err)
{
	struct filler *t = u->t;
	uint32_t number = le32_get(entry + ENTRY_CHUNK), size = le32_get(entry + ENTRY_BYTES);
	int r;

	u->at = le64_get(entry + ENTRY_AT);
	if (size < BLOCK_REFERENCES || size > sizeof(u->block) || !range_fits_u64(u->at, size, t->f->size))
		return damaged(t->f, t->f->index_at, "a block of memory lies outside of the file", err);
	r = read_all(t->f, u->at, u->block, size, err);
	if (r)
		return r;
	if (crc32c(0, u->block, size) != le32_get(entry + ENTRY_CHECKSUM))
		return damaged(t->f, u->at, "the checksum of a block of memory is wrong", err);
	r = check_block(u, &t->chunks.list[number], size, err);
	return r ? r : fill(u, &t->chunks.list[number], err);
}

static void read_blocks(void *argument)
{
	struct filler *t = argument;
	struct unpacker *u = malloc(sizeof(*u));
	struct error err = {0};
	uint32_t i;

	if (!u) {
		error_set(&err, ENOMEM, "no memory on the host for the saved machine %s", t->f->name);
		team_fail(&t->team, &err);
		return;
	}
	u->t = t;
	while ((i = atomic_fetch_add(&t->team.next, 1)) < t->f->blocks && !atomic_load(&t->team.failed)) {
		const uint8_t *entry = t->f->index + (size_t)i * ENTRY_SIZE;

		if (le32_get(entry + ENTRY_PASS) != t->pass)
			continue;
		if (i + AHEAD_BLOCKS < t->f->blocks)
			read_ahead(t->f, i + AHEAD_BLOCKS);
		if (atomic_load(&t->progress->cancel))
			error_set(&err, ECANCELED, "restoring the machine was cancelled");
		if (err.code || read_block(u, entry, &err)) {
			team_fail(&t->team, &err);
			break;
		}
		atomic_fetch_add(&t->progress->done,
		    (uint64_t)t->chunks.list[le32_get(entry + ENTRY_CHUNK)].pages * GUEST_PAGE_SIZE);
	}
	free(u);
}

/* Two threads must not fill one chunk at a time: each comes once in a pass. Returns the number of passes. */
static int check_index(struct filler *t, unsigned *passes, struct error *err)
{
	uint64_t total = 0;

	*passes = 0;
	for (uint32_t i = 0; i < t->f->blocks; i++) {
		const uint8_t *entry = t->f->index + (size_t)i * ENTRY_SIZE;
		uint32_t number = le32_get(entry + ENTRY_CHUNK), pass = le32_get(entry + ENTRY_PASS);

		if (number >= t->chunks.count || pass >= PASSES_MAX || t->passes_seen[number] >> pass & 1)
			return damaged(t->f, t->f->index_at + (uint64_t)i * ENTRY_SIZE,
			    "a block is of no part of memory that there is, or comes twice", err);
		t->passes_seen[number] |= 1u << pass;
		*passes = pass + 1 > *passes ? pass + 1 : *passes;
		total += (uint64_t)t->chunks.list[number].pages * GUEST_PAGE_SIZE;
	}
	atomic_store(&t->progress->done, 0);
	atomic_store(&t->progress->total, total);
	return 0;
}

static uint8_t *host_page(const struct filler *t, uint64_t number)
{
	uint32_t low = 0, high = t->chunks.count;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;

		if (t->chunks.list[middle].first <= number)
			low = middle;
		else
			high = middle;
	}
	return t->chunks.list[low].host + (number - t->chunks.list[low].first) * GUEST_PAGE_SIZE;
}

/* No duplicate of a duplicate: what it equals would depend on the order. */
static int fill_duplicates(const struct filler *t, struct error *err)
{
	for (size_t i = 0; i < t->duplicate_count; i++) {
		const struct duplicate *d = &t->duplicates[i];

		if (!(t->is_duplicate[d->page / 64] >> (d->page % 64) & 1))
			continue;
		if (t->is_duplicate[d->equal / 64] >> (d->equal % 64) & 1)
			return damaged(t->f, t->f->index_at, "a page equals one that equals another", err);
		memcpy(host_page(t, d->page), host_page(t, d->equal), GUEST_PAGE_SIZE);
	}
	return 0;
}

static int fill_all(struct filler *t, struct error *err)
{
	unsigned passes;
	int r = check_index(t, &passes, err);

	for (t->pass = 0; !r && t->pass < passes; t->pass++) {
		atomic_store(&t->team.next, 0);
		for (uint32_t i = 0; i < AHEAD_BLOCKS && i < t->f->blocks; i++)
			read_ahead(t->f, i);
		team_run(read_blocks, t);
		if (atomic_load(&t->team.failed)) {
			if (err)
				*err = t->team.err;
			r = -t->team.err.code;
		}
	}
	return r ? r : fill_duplicates(t, err);
}

int statefile_read_memory(struct statefile *f, struct partition *p, struct statefile_progress *progress, struct error *err)
{
	struct filler t = {.f = f, .progress = progress, .partition = p};
	int r = chunks_of(&t.chunks, p, err);

	if (r)
		return r;
	pthread_mutex_init(&t.lock, NULL);
	pthread_mutex_init(&t.team.lock, NULL);
	t.is_duplicate = calloc(t.chunks.pages / 64 + 1, sizeof(uint64_t));
	t.passes_seen = calloc(t.chunks.count + 1u, sizeof(*t.passes_seen));
	if (!t.is_duplicate || !t.passes_seen)
		r = error_set(err, ENOMEM, "no memory on the host for the saved machine %s", f->name);
	else if (t.chunks.pages != f->pages)
		r = error_set(err, EINVAL, "%s is of a machine with %llu MiB of memory, and this one has %llu MiB: give it the same",
		    f->name, (unsigned long long)(f->pages / 256), (unsigned long long)(t.chunks.pages / 256));
	else
		r = load_index(f, t.chunks.count, err);
	if (!r)
		r = fill_all(&t, err);
	pthread_mutex_destroy(&t.lock);
	pthread_mutex_destroy(&t.team.lock);
	free(t.chunks.list);
	free(t.duplicates);
	free(t.is_duplicate);
	free(t.passes_seen);
	return r;
}
