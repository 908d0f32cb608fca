/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/disk_foreign.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <string.h>

#define EXTENTS_MAX 256u
#define ASK_MAX     (1u << 30) /* of block status at a time: a NBD request has 32 bits for its length */

static const struct {
	const char *name;
	size_t offset;
	const char *magic; /* NULL: has none that can be told safely */
} foreign[] = {
    {"qcow2", 0, "QFI\xfb"},   {"vmdk", 0, "KDMV"}, {"vmdk", 0, "# Disk DescriptorFile"},
    {"vdi", 64, "\x7f\x10\xda\xbe"}, {"qed", 0, "QED"},   {"parallels", 0, "WithoutFreeSpace"},
};

const char *foreign_format(const char *path, const char *said)
{
	_cleanup_close_ int fd = said ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	char start[128] = {0};

	if (fd >= 0 && pread(fd, start, sizeof(start), 0) < 4)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(foreign); i++) {
		if (said && strcmp(said, foreign[i].name) == 0)
			return foreign[i].name;
		if (fd >= 0 &&
		    memcmp(start + foreign[i].offset, foreign[i].magic, strlen(foreign[i].magic)) == 0)
			return foreign[i].name;
	}
	return NULL;
}

/* A disk behind a NBD connection, and what is known of it from `start` on. */
struct remote {
	struct nbd_handle *nbd;
	const char *path;
	uint64_t size;
	bool has_extents;
	uint64_t start, end;
	unsigned count;
	struct {
		uint64_t end;
		bool zero;
	} extents[EXTENTS_MAX];
};

static int nbd_failed(const struct remote *remote, const char *verb, struct error *err)
{
	int code = nbd_get_errno();

	return error_set(err, code ? code : EIO, "%s: %s by qemu-nbd failed: %s", remote->path, verb,
			 nbd_get_error());
}

static int take_extents(void *context, const char *metacontext, uint64_t offset, uint32_t *entries,
			size_t count, int *error)
{
	struct remote *remote = context;

	(void)metacontext;
	(void)error;
	for (size_t i = 0; i + 1 < count && remote->count < EXTENTS_MAX; i += 2) {
		offset += entries[i];
		remote->extents[remote->count].end = offset;
		remote->extents[remote->count++].zero = entries[i + 1] & LIBNBD_STATE_ZERO;
		remote->end = offset;
	}
	return 0;
}

static int remote_extent(void *context, uint64_t offset, uint64_t *length, bool *zero, struct error *err)
{
	struct remote *remote = context;

	*zero = false;
	if (!remote->has_extents) {
		*length = remote->size - offset;
		return 0;
	}
	if (offset < remote->start || offset >= remote->end) {
		remote->start = remote->end = offset;
		remote->count = 0;
		if (nbd_block_status(remote->nbd, min_u64(ASK_MAX, remote->size - offset), offset,
				     (nbd_extent_callback){.callback = take_extents, .user_data = remote},
				     0) < 0)
			return nbd_failed(remote, "finding what lies where", err);
	}
	for (unsigned i = 0; i < remote->count; i++) {
		if (offset >= remote->extents[i].end)
			continue;
		*length = remote->extents[i].end - offset;
		*zero = remote->extents[i].zero;
		return 0;
	}
	return error_set(err, EPROTO, "%s: qemu-nbd does not say what lies at offset %ju", remote->path,
			 (uintmax_t)offset);
}

static int remote_read(void *context, uint64_t offset, void *buffer, size_t size, struct error *err)
{
	struct remote *remote = context;

	return nbd_pread(remote->nbd, buffer, size, offset, 0) < 0 ? nbd_failed(remote, "reading", err) : 0;
}

static bool is_installed(const char *program)
{
	const char *rest = getenv("PATH");
	size_t length;

	for (; rest && *rest; rest += length + (rest[length] == ':')) {
		char path[4096];

		length = strcspn(rest, ":");
		if (length + strlen(program) + 2 > sizeof(path))
			continue;
		snprintf(path, sizeof(path), "%.*s/%s", (int)length, rest, program);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

static int connect_to(struct remote *remote, const char *format, struct error *err)
{
	char *const command[] = {(char *)"qemu-nbd", (char *)"--read-only", (char *)"--format",
				 (char *)format,     (char *)remote->path,  NULL};
	int64_t size;

	remote->nbd = nbd_create();
	if (!remote->nbd || nbd_add_meta_context(remote->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
	    nbd_connect_systemd_socket_activation(remote->nbd, (char **)command) < 0)
		return nbd_failed(remote, "opening", err);
	size = nbd_get_size(remote->nbd);
	if (size < 0)
		return nbd_failed(remote, "finding its size", err);
	remote->size = (uint64_t)size;
	remote->has_extents = nbd_can_meta_context(remote->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
	return 0;
}

int foreign_import(const char *from, const char *format, const char *to,
		   const struct disk_create_options *options, const struct disk_progress *progress,
		   struct error *err)
{
	struct remote *remote;
	int r;

	if (access(from, R_OK) < 0)
		return error_set(err, errno, "%s: cannot be opened: %s", from, strerror(errno));
	if (!is_installed("qemu-nbd"))
		return error_set(err, ENOTSUP,
				 "%s: an image in the format %s is read with the help of qemu-nbd, which is not "
				 "installed; install it (Debian: qemu-utils)",
				 from, format);
	remote = calloc(1, sizeof(*remote));
	if (!remote)
		return error_set(err, ENOMEM, "%s: no memory to read it", from);
	remote->path = from;
	r = connect_to(remote, format, err);
	if (r == 0) {
		const struct disk_source source = {remote->size, remote_extent, remote_read, remote};

		r = disk_import(&source, to, options, progress, err);
	}
	nbd_close(remote->nbd);
	free(remote);
	return r;
}
