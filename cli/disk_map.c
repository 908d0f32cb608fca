/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_map.c - `bulkhead disk map`: what lies where. */
#include <errno.h>
#include <inttypes.h>

#include "cli/disk_tool.h"

#define STEP (UINT64_C(1) << 30)

struct map {
	struct tool *tool;
	json_t *list;
	struct disk_extent last; /* length 0: none yet */
	uint64_t data, zero, holes;
};

static void flush_extent(struct map *map)
{
	const struct disk_extent *e = &map->last;
	json_t *o;

	if (e->length == 0)
		return;
	if (!e->zero)
		map->data += e->length;
	else if (e->in_file)
		map->holes += e->length;
	else
		map->zero += e->length;
	if (!map->tool->json) {
		printf("%16" PRIu64 " %16" PRIu64 "  %s", e->offset, e->length,
		       !e->zero      ? "data"
		       : e->in_file ? "hole"
				    : "zero");
		if (e->in_file)
			printf("  %16" PRIu64, e->file_offset);
		putchar('\n');
		return;
	}
	o = json_object();
	json_object_set_new(o, "offset", json_bytes(e->offset));
	json_object_set_new(o, "length", json_bytes(e->length));
	json_object_set_new(o, "zero", json_boolean(e->zero));
	if (e->in_file)
		json_object_set_new(o, "file_offset", json_bytes(e->file_offset));
	json_array_append_new(map->list, o);
}

static void add(struct map *map, const struct disk_extent *e)
{
	struct disk_extent *last = &map->last;

	if (last->length > 0 && last->zero == e->zero && last->in_file == e->in_file &&
	    (!e->in_file || last->file_offset + last->length == e->file_offset)) {
		last->length += e->length;
		return;
	}
	flush_extent(map);
	*last = *e;
}

static int map_all(struct map *map, struct disk *disk, const struct disk_progress *progress, struct error *err)
{
	struct disk_info info;
	struct disk_extent e;

	disk_get_info(disk, &info);
	for (uint64_t at = 0; at < info.size; at += e.length) {
		int r = disk_get_extent(disk, at, min_u64(info.size - at, STEP), &e, err);

		if (r < 0)
			return r;
		add(map, &e);
		if (!progress->step(progress->context, at, info.size))
			return error_set(err, ECANCELED, "stopped; the map ends at offset %ju", (uintmax_t)at);
	}
	flush_extent(map);
	return 0;
}

static int run_map(struct tool *tool, int argc, char **argv)
{
	struct disk_open_options options = {.read_only = true};
	struct map map = {.tool = tool};
	struct error err = {0};
	struct disk *disk;
	int r;

	if (!tool_no_options(argc, argv))
		return EXIT_USAGE;
	if (argc - optind != 1)
		return tool_usage(tool, "say which file: see bulkhead disk map --help");
	if (disk_open(&disk, argv[optind], &options, &err))
		return tool_fail(tool, &err);
	map.list = json_array();
	if (!tool->json)
		printf("%16s %16s  %s  %16s\n", "offset", "length", "what", "at in the file");
	r = map_all(&map, disk, tool_progress(tool, "map"), &err);
	json_object_set_new(tool->result, "extents", map.list);
	disk_close(disk, NULL);
	if (r < 0)
		return tool_fail(tool, &err);
	json_object_set_new(tool->result, "data", json_bytes(map.data));
	json_object_set_new(tool->result, "holes", json_bytes(map.holes));
	json_object_set_new(tool->result, "zero", json_bytes(map.zero));
	return 0;
}

const struct disk_verb disk_verb_map = {
    .name = "map",
    .summary = "what lies where in a disk's file",
    .arguments = "FILE",
    .text = "Prints the disk from its start to its end: offset and length as the guest counts, and\n"
	    "\n"
	    "  data   contents, and where they are in the file\n"
	    "  hole   zeros; the place in the file takes no space on the host\n"
	    "  zero   zeros that have no place in the file\n",
    .run = run_map,
};
