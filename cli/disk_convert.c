/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_convert.c - `bulkhead disk convert`: a new image of any kind with the contents of another. */
#include <errno.h>
#include <string.h>

#include "cli/disk_foreign.h"
#include "cli/disk_tool.h"

struct request {
	const char *from_format; /* NULL: as the file says */
	struct disk_create_options target;
};

static int take_options(struct tool *tool, int argc, char **argv, struct request *q)
{
	static const struct option options[] = {{"from", required_argument, NULL, 'F'},
						{"replace", no_argument, NULL, 'R'},
						{"size", required_argument, NULL, 'z'},
						TOOL_TARGET_OPTIONS,
						{NULL, 0, NULL, 0}};
	struct error err = {0};
	int option, status = 0;

	while (status == 0 && (option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == 'F')
			q->from_format = optarg;
		else if (option == 'R')
			q->target.replace = true;
		else if (option != 'z')
			status = tool_target_option(tool, option, &q->target);
		else if (parse_size(optarg, &q->target.size, &err))
			status = tool_usage(tool, "%s", err.text);
	}
	return status;
}

static int convert(struct tool *tool, const char *from, const char *to, const struct request *q,
		   struct error *err)
{
	const struct disk_progress *progress = tool_progress(tool, "convert");
	struct disk_open_options open_options = {.format = DISK_FORMAT_AUTO};
	const char *foreign = foreign_format(from, q->from_format);

	if (foreign)
		return foreign_import(from, foreign, to, &q->target, progress, err);
	if (q->from_format && !tool_parse_format(q->from_format, &open_options.format))
		return error_set(err, EINVAL, "there is no format \"%s\": see bulkhead disk convert --help",
				 q->from_format);
	return disk_convert(from, &open_options, to, &q->target, progress, err);
}

static int run_convert(struct tool *tool, int argc, char **argv)
{
	struct request q = {0};
	int status = take_options(tool, argc, argv, &q);
	struct error err = {0};

	if (status)
		return status;
	if (argc - optind != 2)
		return tool_usage(tool, "say from which file and to which: see bulkhead disk convert --help");
	status = tool_target_format(tool, argv[optind + 1], &q.target);
	if (status)
		return status;
	if (convert(tool, argv[optind], argv[optind + 1], &q, &err))
		return tool_fail(tool, &err);
	json_object_set_new(tool->result, "file", json_string(argv[optind + 1]));
	json_object_set_new(tool->result, "format", json_string(tool_format_name(q.target.format)));
	return 0;
}

const struct disk_verb disk_verb_convert = {
    .name = "convert",
    .summary = "copy a disk into a new one of another kind",
    .arguments = "FROM TO [OPTION…]",
    .text = "Makes TO with the contents of FROM, and of all its parents. TO appears when it is whole, and FROM\n"
	    "stays as it is. Zeros take no space where the format can leave them out.\n"
	    "\n"
	    "  --from FORMAT                what FROM is, if it does not say so itself: " TOOL_FORMATS ", or one\n"
	    "                               that qemu-nbd reads (qcow2, vmdk, vdi; it has to be installed)\n"
	    "  --size SIZE                  larger than FROM; what is new is zeros\n"
	    "  --replace                    an existing TO is replaced; TO may be FROM itself\n" TOOL_TARGET_HELP,
    .run = run_convert,
};
