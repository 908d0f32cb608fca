/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_compact.c - `bulkhead disk compact`. */
#include <sys/stat.h>

#include "cli/disk_tool.h"

static uint64_t on_host(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static int compact(struct tool *tool, const char *path, bool read, struct error *err)
{
	struct disk *disk;
	int r = disk_open(&disk, path, NULL, err), closed;

	if (r < 0)
		return r;
	r = disk_compact(disk, read, tool_progress(tool, "compacting"), err);
	closed = disk_close(disk, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

static int run_compact(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {{"quick", no_argument, NULL, 'q'}, {NULL, 0, NULL, 0}};
	char before_text[SIZE_TEXT_SIZE], after_text[SIZE_TEXT_SIZE];
	struct error err = {0};
	bool quick = false;
	uint64_t before, after;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?')
			return EXIT_USAGE;
		quick = true;
	}
	if (argc - optind != 1)
		return tool_usage(tool, "say which disk: see bulkhead disk compact --help");
	before = on_host(argv[optind]);
	if (compact(tool, argv[optind], !quick, &err))
		return tool_fail(tool, &err);
	after = on_host(argv[optind]);
	json_object_set_new(tool->result, "file", json_string(argv[optind]));
	json_object_set_new(tool->result, "before", json_bytes(before));
	json_object_set_new(tool->result, "after", json_bytes(after));
	if (!tool->json)
		printf("%s on the host, before %s\n", tool_size_text(after, after_text),
		       tool_size_text(before, before_text));
	return 0;
}

const struct disk_verb disk_verb_compact = {
    .name = "compact",
    .summary = "give space back that a disk does not need",
    .arguments = "FILE [--quick]",
    .text = "Frees the blocks of a VHDX or VHD that are zeros, moves the others together and cuts the file off. The\n"
	    "contents stay as they are, and disks that continue FILE still do. It may be stopped at any time and\n"
	    "done again. What a guest has deleted is data until it says otherwise: run fstrim in it first.\n"
	    "\n"
	    "  --quick                      reads no contents: frees only what is unmapped or a hole already\n",
    .run = run_compact,
};
