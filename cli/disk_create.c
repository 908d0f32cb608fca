/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_create.c - `bulkhead disk create`. */
#include "cli/disk_tool.h"

static int set_number(struct tool *tool, uint32_t *to, const char *text)
{
	struct error err = {0};
	uint64_t value;

	if (parse_size(text, &value, &err))
		return tool_usage(tool, "%s", err.text);
	if (value > UINT32_MAX)
		return tool_usage(tool, "\"%s\" is too large", text);
	*to = (uint32_t)value;
	return 0;
}

static int take_options(struct tool *tool, int argc, char **argv, struct disk_create_options *o)
{
	static const struct option options[] = {{"fixed", no_argument, NULL, 'f'},
						{"format", required_argument, NULL, 'F'},
						{"raw", no_argument, NULL, 'r'},
						{"replace", no_argument, NULL, 'R'},
						{"block-size", required_argument, NULL, 'b'},
						{"sector-size", required_argument, NULL, 's'},
						{"physical-sector-size", required_argument, NULL, 'p'},
						{NULL, 0, NULL, 0}};
	int option, status = 0;

	while (status == 0 && (option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?')
			status = EXIT_USAGE;
		else if (option == 'f')
			o->fixed = true;
		else if (option == 'r')
			o->format = DISK_FORMAT_RAW;
		else if (option == 'R')
			o->replace = true;
		else if (option == 'b')
			status = set_number(tool, &o->block_size, optarg);
		else if (option == 's')
			status = set_number(tool, &o->logical_sector_size, optarg);
		else if (option == 'p')
			status = set_number(tool, &o->physical_sector_size, optarg);
		else if (!tool_parse_format(optarg, &o->format))
			status = tool_usage(tool, "there is no format \"%s\": see bulkhead disk create --help",
					    optarg);
	}
	return status;
}

static int run_create(struct tool *tool, int argc, char **argv)
{
	struct disk_create_options o = {.format = DISK_FORMAT_VHDX};
	struct error err = {0};
	int status = take_options(tool, argc, argv, &o);

	if (status)
		return status;
	if (argc - optind != 2)
		return tool_usage(tool, "say which file and how large: see bulkhead disk create --help");
	if (parse_size(argv[optind + 1], &o.size, &err))
		return tool_usage(tool, "%s", err.text);
	if (disk_create(argv[optind], &o, &err))
		return tool_fail(tool, &err);
	json_object_set_new(tool->result, "file", json_string(argv[optind]));
	json_object_set_new(tool->result, "format", json_string(tool_format_name(o.format)));
	json_object_set_new(tool->result, "size", json_bytes(o.size));
	return 0;
}

const struct disk_verb disk_verb_create = {
    .name = "create",
    .summary = "make an empty disk",
    .arguments = "FILE SIZE [OPTION…]",
    .text =
	"Makes an empty VHDX that grows as it is written. SIZE is a number and K, M, G or T.\n"
	"\n"
	"  --fixed                      all its space is taken from the start\n"
	"  --format raw|vhdx            another kind of file; --raw is short for --format raw\n"
	"  --block-size SIZE            VHDX: what it grows by, 1M to 256M (2M; --fixed: 32M)\n"
	"  --sector-size 512|4096       the guest's unit (512)\n"
	"  --physical-sector-size 512|4096  what the guest is told of the medium (4096)\n"
	"  --replace                    an existing FILE is replaced\n",
    .run = run_create,
};
