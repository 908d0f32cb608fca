/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vhdx_header.c - the two headers, [MS-VHDX] 2.2.2: one is current while the other is written. */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "disk/vhdx.h"

static const uint64_t slots[2] = {VHDX_HEADER_OFFSET_1, VHDX_HEADER_OFFSET_2};

static uint32_t header_checksum(const struct vhdx_header *header)
{
	static const uint8_t zero[4];
	const uint8_t *bytes = (const uint8_t *)header;
	uint32_t crc = crc32c(0, bytes, 4);

	crc = crc32c(crc, zero, 4);
	return crc32c(crc, bytes + 8, sizeof(*header) - 8);
}

static bool header_is_valid(const struct vhdx_header *header)
{
	return memcmp(header->signature, VHDX_HEADER_SIGNATURE, 4) == 0 &&
	       header->checksum == header_checksum(header) && header->version == VHDX_VERSION;
}

bool vhdx_header_is_good(struct vhdx *v, unsigned slot)
{
	struct vhdx_header header;

	return file_read(&v->disk->file, slots[slot], &header, sizeof(header)) == 0 && header_is_valid(&header);
}

static int check_header(struct vhdx *v, struct error *err)
{
	const struct vhdx_header *h = &v->header;
	const char *path = v->disk->path;

	if (!guid_is_zero(&h->log_guid) && h->log_version != VHDX_LOG_VERSION)
		return error_set(err, ENOTSUP,
				 "%s: its log has version %u, of which nothing is known; open and close it "
				 "with the program that "
				 "wrote it",
				 path, h->log_version);
	if (!is_aligned_u64(h->log_offset, VHDX_UNIT) || !is_aligned_u64(h->log_length, VHDX_UNIT) ||
	    h->log_offset < VHDX_HEADER_SECTION || h->log_length == 0 ||
	    h->log_offset > INT64_MAX - UINT32_MAX)
		return error_set(err, EBADMSG,
				 "%s: the header puts the log at offset %#jx, length %#x, where none can be; "
				 "restore the file "
				 "from a backup",
				 path, (uintmax_t)h->log_offset, h->log_length);
	if (!v->disk->info.read_only && h->sequence_number > UINT64_MAX / 2)
		return error_set(err, EBADMSG,
				 "%s: its header has the sequence number %#jx, behind which there is none left to "
				 "write; copy its contents by: bulkhead disk convert",
				 path, (uintmax_t)h->sequence_number);
	v->log = (struct region){h->log_offset, h->log_length};
	return 0;
}

int vhdx_read_headers(struct vhdx *v, struct error *err)
{
	struct vhdx_header headers[2];
	bool valid[2];

	for (int i = 0; i < 2; i++) {
		int r = file_read(&v->disk->file, slots[i], &headers[i], sizeof(headers[i]));

		if (r < 0 && r != -ENODATA)
			return error_set(err, -r, "%s: its header at offset %#jx cannot be read: %s",
					 v->disk->path, (uintmax_t)slots[i], strerror(-r));
		valid[i] = r == 0 && header_is_valid(&headers[i]);
	}
	if (!valid[0] && !valid[1])
		return error_set(err, EBADMSG,
				 "%s: both VHDX headers, at 64 KiB and 128 KiB, are damaged or missing; "
				 "restore the file from a "
				 "backup",
				 v->disk->path);
	if (valid[0] && valid[1] && headers[0].sequence_number == headers[1].sequence_number &&
	    memcmp(&headers[0], &headers[1], sizeof(headers[0])) != 0)
		return error_set(err, EBADMSG,
				 "%s: its two headers claim the same sequence number %ju but differ; restore "
				 "the file from a "
				 "backup",
				 v->disk->path, (uintmax_t)headers[0].sequence_number);
	v->header_slot = !valid[0] || (valid[1] && headers[1].sequence_number > headers[0].sequence_number);
	v->header = headers[v->header_slot];
	return check_header(v, err);
}

int vhdx_read_contents(int fd, char *path, struct guid *contents, struct error *err)
{
	struct disk disk = {.file = {.fd = fd, .direct_fd = -1}, .path = path, .info = {.read_only = true}};
	struct vhdx *v = calloc(1, sizeof(*v));
	int r;

	if (!v)
		return error_set(err, ENOMEM, "%s: no memory to look at it", path);
	v->disk = &disk;
	r = vhdx_read_headers(v, err);
	*contents = v->header.data_write_guid;
	free(v);
	return r;
}

int vhdx_write_headers(struct vhdx *v)
{
	for (int i = 0; i < 2; i++) {
		unsigned slot = !v->header_slot;
		int r;

		v->header.sequence_number++;
		v->header.checksum = header_checksum(&v->header);
		r = file_write(&v->disk->file, slots[slot], &v->header, sizeof(v->header));
		if (r == 0)
			r = file_sync(&v->disk->file);
		if (r < 0)
			return r;
		v->header_slot = slot;
	}
	return 0;
}

/* What lies behind the last thing that the file names was allocated before a crash and never used, or
 * anything else: new blocks take its place and have to be zeros. A last block that the file has in part gets all
 * of its place, which another may have after it. Synced together with the header. Before there is anything in the
 * log: its entries say how long the file is at least. */
static int cut_leftovers(struct vhdx *v)
{
	int r = 0;

	pthread_mutex_lock(&v->bat.lock);
	if (v->bat.file_end != v->bat.next_place) {
		r = file_resize(&v->disk->file, v->bat.next_place);
		if (r == 0)
			v->bat.file_end = v->bat.next_place;
	}
	pthread_mutex_unlock(&v->bat.lock);
	return r;
}

int vhdx_begin_data(struct vhdx *v)
{
	int r = 0;

	if (atomic_load_explicit(&v->data_begun, memory_order_acquire))
		return 0;
	pthread_mutex_lock(&v->header_lock);
	if (!atomic_load(&v->data_begun)) {
		guid_random(&v->header.file_write_guid);
		v->header.data_write_guid = v->next_data_guid;
		if (guid_is_zero(&v->next_data_guid))
			guid_random(&v->header.data_write_guid);
		r = cut_leftovers(v);
		if (r == 0)
			r = vhdx_write_headers(v);
		if (r == 0)
			atomic_store_explicit(&v->data_begun, true, memory_order_release);
	}
	pthread_mutex_unlock(&v->header_lock);
	return r;
}

int vhdx_begin_same_data(struct vhdx *v)
{
	pthread_mutex_lock(&v->header_lock);
	if (!atomic_load(&v->data_begun))
		v->next_data_guid = v->header.data_write_guid;
	pthread_mutex_unlock(&v->header_lock);
	return vhdx_begin_data(v);
}

int vhdx_begin_file(struct vhdx *v)
{
	int r;

	pthread_mutex_lock(&v->header_lock);
	guid_random(&v->header.file_write_guid);
	r = cut_leftovers(v);
	if (r == 0)
		r = vhdx_write_headers(v);
	pthread_mutex_unlock(&v->header_lock);
	return r;
}

int vhdx_set_data_guid(struct vhdx *v, const struct guid *guid)
{
	int r;

	pthread_mutex_lock(&v->header_lock);
	v->header.data_write_guid = *guid;
	r = vhdx_write_headers(v);
	pthread_mutex_unlock(&v->header_lock);
	return r;
}

int vhdx_name_log(struct vhdx *v, const struct guid *log_guid)
{
	int r;

	pthread_mutex_lock(&v->header_lock);
	v->header.log_guid = *log_guid;
	v->header.log_version = VHDX_LOG_VERSION;
	r = vhdx_write_headers(v);
	pthread_mutex_unlock(&v->header_lock);
	return r;
}
