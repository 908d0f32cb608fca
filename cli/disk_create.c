/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_create.c - `bulkhead disk create`. */
#include "cli/disk_tool.h"

static int take_options(struct tool *tool, int argc, char **argv, struct disk_create_options *o)
{
	static const struct option options[] = {TOOL_TARGET_OPTIONS,
						{"replace", no_argument, NULL, 'R'},
						{"parent", required_argument, NULL, 'P'},
						{NULL, 0, NULL, 0}};
	int option, status = 0;

	while (status == 0 && (option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == 'R')
			o->replace = true;
		else if (option == 'P')
			o->parent = optarg;
		else
			status = tool_target_option(tool, option, o);
	}
	return status;
}

static int run_create(struct tool *tool, int argc, char **argv)
{
	struct disk_create_options o = {.format = DISK_FORMAT_AUTO};
	struct error err = {0};
	int status = take_options(tool, argc, argv, &o);

	if (status)
		return status;
	if (o.parent && argc - optind != 1)
		return tool_usage(
		    tool, "say which file; the size is the parent's: see bulkhead disk create --help");
	if (!o.parent && argc - optind != 2)
		return tool_usage(tool, "say which file and how large: see bulkhead disk create --help");
	if (!o.parent && parse_size(argv[optind + 1], &o.size, &err))
		return tool_usage(tool, "%s", err.text);
	status = tool_target_format(tool, argv[optind], &o);
	if (status)
		return status;
	if (disk_create(argv[optind], &o, &err))
		return tool_fail(tool, &err);
	json_object_set_new(tool->result, "file", json_string(argv[optind]));
	json_object_set_new(tool->result, "format", json_string(tool_format_name(o.format)));
	if (o.parent)
		json_object_set_new(tool->result, "parent", json_string(o.parent));
	else
		json_object_set_new(tool->result, "size", json_bytes(o.size));
	return 0;
}

const struct disk_verb disk_verb_create = {
    .name = "create",
    .summary = "make an empty disk",
    .arguments = "FILE SIZE|--parent PARENT [OPTION…]",
    .text =
	"Makes an empty disk that grows as it is written. SIZE is a number and K, M, G or T.\n"
	"\n"
	"  --parent PARENT              a differencing disk: contents and size are PARENT's, and what is\n"
	"                               written goes into FILE; PARENT must not be written any more\n"
	"  --replace                    an existing FILE is replaced\n" TOOL_TARGET_HELP,
    .run = run_create,
};
