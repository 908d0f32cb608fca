/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_chain.c - `bulkhead disk merge` and `reparent`: differencing disks and their parents. */
#include "cli/disk_tool.h"

/* The parent's name as of now, for the result. */
static int put_parent(struct tool *tool, const char *path)
{
	const struct disk_open_options options = {.read_only = true};
	struct error err = {0};
	struct disk *disk;

	if (disk_open(&disk, path, &options, &err))
		return tool_fail(tool, &err);
	if (disk_parent(disk))
		json_object_set_new(tool->result, "parent", json_string(disk_path(disk_parent(disk))));
	disk_close(disk, NULL);
	return 0;
}

static int run_merge(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {{"into", required_argument, NULL, 'i'}, {NULL, 0, NULL, 0}};
	const char *into = NULL;
	struct error err = {0};
	int option, status;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?')
			return EXIT_USAGE;
		into = optarg;
	}
	if (argc - optind != 1)
		return tool_usage(tool, "say which differencing disk: see bulkhead disk merge --help");
	json_object_set_new(tool->result, "file", json_string(argv[optind]));
	if (into) {
		json_object_set_new(tool->result, "parent", json_string(into));
		return disk_merge_into(argv[optind], into, tool_progress(tool, "merging"), &err) ? tool_fail(tool, &err)
												 : 0;
	}
	status = put_parent(tool, argv[optind]);
	if (status)
		return status;
	return disk_merge(argv[optind], tool_progress(tool, "merging"), &err) ? tool_fail(tool, &err) : 0;
}

static int run_reparent(struct tool *tool, int argc, char **argv)
{
	static const struct option options[] = {{"force", no_argument, NULL, 'f'}, {NULL, 0, NULL, 0}};
	bool force = false;
	struct error err = {0};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?')
			return EXIT_USAGE;
		force = true;
	}
	if (argc - optind != 2)
		return tool_usage(tool, "say which disk and which parent: see bulkhead disk reparent --help");
	if (disk_reparent(argv[optind], argv[optind + 1], force, &err))
		return tool_fail(tool, &err);
	json_object_set_new(tool->result, "file", json_string(argv[optind]));
	return put_parent(tool, argv[optind]);
}

const struct disk_verb disk_verb_merge = {
    .name = "merge",
    .summary = "put a differencing disk into its parent",
    .arguments = "FILE [--into BASE]",
    .text = "Writes what is in FILE into its parent and then removes FILE. It may be stopped and done again: "
	    "FILE\n"
	    "reads the same until it is removed. Disks that continue FILE continue its parent afterwards by\n"
	    "bulkhead disk reparent (VHD: with --force). Other disks that continue the parent cannot be used\n"
	    "any more.\n"
	    "\n"
	    "  --into BASE                  all of the chain from FILE down to BASE goes into BASE; the same command\n"
	    "                               goes on with what was stopped (VHD: what is left of the chain)\n",
    .run = run_merge,
};

const struct disk_verb disk_verb_reparent = {
    .name = "reparent",
    .summary = "say which file a differencing disk continues",
    .arguments = "FILE PARENT [--force]",
    .text = "FILE continues the disk in PARENT from now on: for a parent that has been moved or renamed, or\n"
	    "merged.\n"
	    "\n"
	    "  --force                      also when PARENT has been written since: what does not fit is "
	    "garbage\n",
    .run = run_reparent,
};
