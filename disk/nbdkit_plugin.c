/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbdkit_plugin.c - a disk for any NBD client, by way of nbdkit: nbdkit bulkhead FILE [read-only=true].
 *
 * One disk serves all connections, each with several requests at once; a flush on one connection covers
 * what the others have written. Source: nbdkit-plugin(3).
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "disk/disk.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define MAXIMUM      (32u << 20)

/* nbdkit serves one disk, and has no place but globals to keep it. */
static char *path;
static struct disk_open_options options;
static struct disk *the_disk;
static struct disk_info info;

static int tell(const struct error *err)
{
	nbdkit_error("%s", err->text);
	nbdkit_set_error(err->code);
	return -1;
}

static int plugin_config(const char *key, const char *value)
{
	int yes;

	if (!strcmp(key, "file")) {
		free(path);
		path = nbdkit_absolute_path(value);
		return path ? 0 : -1;
	}
	if (!strcmp(key, "read-only")) {
		yes = nbdkit_parse_bool(value);
		options.read_only = yes == 1;
		return yes < 0 ? -1 : 0;
	}
	if (!strcmp(key, "format")) {
		if (!strcmp(value, "raw"))
			options.format = DISK_FORMAT_RAW;
		else if (strcmp(value, "auto") != 0) {
			nbdkit_error("format: choose raw or auto");
			return -1;
		}
		return 0;
	}
	nbdkit_error("there is no parameter \"%s\"; there are file, read-only and format", key);
	return -1;
}

static int plugin_config_complete(void)
{
	if (path)
		return 0;
	nbdkit_error("say which disk: file=PATH");
	return -1;
}

static int plugin_get_ready(void)
{
	struct error err = {0};

	if (disk_open(&the_disk, path, &options, &err) < 0)
		return tell(&err);
	disk_get_info(the_disk, &info);
	return 0;
}

static void plugin_cleanup(void)
{
	struct error err = {0};

	if (disk_close(the_disk, &err) < 0)
		tell(&err);
	the_disk = NULL;
}

static void plugin_unload(void)
{
	free(path);
}

static void *plugin_open(int readonly)
{
	(void)readonly;
	return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t plugin_get_size(void *handle)
{
	(void)handle;
	return (int64_t)info.size;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
	(void)handle;
	*minimum = info.logical_sector_size;
	*preferred = info.physical_sector_size;
	*maximum = MAXIMUM;
	return 0;
}

static int plugin_can_write(void *handle)
{
	(void)handle;
	return !info.read_only;
}

static int plugin_can_multi_conn(void *handle)
{
	(void)handle;
	return 1;
}

static int plugin_can_fua(void *handle)
{
	(void)handle;
	return NBDKIT_FUA_NATIVE;
}

/* Reads may have any place; a change has whole sectors. */
static int perform(enum disk_op op, void *buffer, uint64_t length, uint64_t offset, uint32_t flags)
{
	const struct iovec iov = {buffer, length};
	struct disk_request request = {.op = op,
				       .force_unit_access = flags & NBDKIT_FLAG_FUA,
				       .offset = offset,
				       .length = length,
				       .iov = &iov,
				       .iov_count = buffer ? 1 : 0};
	struct error err = {0};

	if (op != DISK_OP_READ && (offset | length) % info.logical_sector_size != 0) {
		error_set(&err, EINVAL, "%s: a change of %ju bytes at offset %ju is not of whole sectors of %u",
			  path, (uintmax_t)length, (uintmax_t)offset, info.logical_sector_size);
		return tell(&err);
	}
	return disk_perform(the_disk, &request, &err) < 0 ? tell(&err) : 0;
}

static int plugin_pread(void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle;
	return perform(DISK_OP_READ, buffer, count, offset, flags);
}

static int plugin_pwrite(void *handle, const void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle;
	return perform(DISK_OP_WRITE, (void *)buffer, count, offset, flags);
}

static int plugin_flush(void *handle, uint32_t flags)
{
	(void)handle;
	return perform(DISK_OP_FLUSH, NULL, 0, 0, flags);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle;
	return perform(DISK_OP_DISCARD, NULL, count, offset, flags);
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
	(void)handle;
	return perform(DISK_OP_WRITE_ZEROES, NULL, count, offset, flags);
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
			  struct nbdkit_extents *extents)
{
	uint64_t end = offset + count;
	struct disk_extent e;
	struct error err = {0};

	(void)handle;
	for (; offset < end; offset += e.length) {
		if (disk_get_extent(the_disk, offset, end - offset, &e, &err) < 0)
			return tell(&err);
		if (nbdkit_add_extent(extents, offset, e.length,
				      e.zero ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0) < 0)
			return -1;
		if (flags & NBDKIT_FLAG_REQ_ONE)
			break;
	}
	return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "bulkhead",
    .longname = "Bulkhead's virtual disks",
    .description = "serves a VHDX or raw disk",
    .magic_config_key = "file",
    .config_help = "file=<FILE>       (required) the disk\n"
		   "read-only=<BOOL>  opened for reading only; others may read it too (false)\n"
		   "format=raw        the file's bytes, whatever they are (auto)",
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .get_ready = plugin_get_ready,
    .cleanup = plugin_cleanup,
    .unload = plugin_unload,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .block_size = plugin_block_size,
    .can_write = plugin_can_write,
    .can_multi_conn = plugin_can_multi_conn,
    .can_fua = plugin_can_fua,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .flush = plugin_flush,
    .trim = plugin_trim,
    .zero = plugin_zero,
    .extents = plugin_extents,
};

/* Seen by nbdkit, which does not declare it. */
struct nbdkit_plugin *plugin_init(void);

NBDKIT_REGISTER_PLUGIN(plugin)
