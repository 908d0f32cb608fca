/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_resize.c - `bulkhead disk resize`. */
#include "cli/disk_tool.h"

static int resize(struct tool *tool, const char *path, uint64_t size, bool force, struct error *err)
{
	struct disk *disk;
	int r = disk_open(&disk, path, NULL, err), closed;

	if (r < 0)
		return r;
	r = disk_resize(disk, size, force, tool_progress(tool, "looking for data"), err);
	closed = disk_close(disk, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

static int run_resize(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {{"force", no_argument, NULL, 'f'}, {NULL, 0, NULL, 0}};
	struct error err = {0};
	bool force = false;
	uint64_t size;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?')
			return EXIT_USAGE;
		force = true;
	}
	if (argc - optind != 2)
		return tool_usage(tool, "say which disk and how large: see bulkhead disk resize --help");
	if (parse_size(argv[optind + 1], &size, &err))
		return tool_usage(tool, "%s", err.text);
	if (resize(tool, argv[optind], size, force, &err))
		return tool_fail(tool, &err);
	json_object_set_new(tool->result, "file", json_string(argv[optind]));
	json_object_set_new(tool->result, "size", json_bytes(size));
	return 0;
}

const struct disk_verb disk_verb_resize = {
    .name = "resize",
    .summary = "make a disk larger or smaller",
    .arguments = "FILE SIZE [--force]",
    .text = "FILE is a VHDX, raw, or a VHD that is not fixed. What is new is zeros; partitions and file systems stay\n"
	    "as they are. A disk becomes smaller only when nothing but zeros lies past its new end; else it is said\n"
	    "what does. A differencing disk does not grow below its parent's size, and the parent of another disk must keep its\n"
	    "size.\n"
	    "\n"
	    "  --force                      what lies past the new end is cut off and lost\n",
    .run = run_resize,
};
