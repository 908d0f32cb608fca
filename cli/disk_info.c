/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_info.c - `bulkhead disk info` and `check`: looking at an image, and putting it right. */
#include <inttypes.h>
#include <string.h>

#include "cli/disk_tool.h"

static void print_info(const char *path, const struct disk_info *i, bool has_parent)
{
	char id[GUID_TEXT_SIZE], text[SIZE_TEXT_SIZE];
	const char *kind = i->format == DISK_FORMAT_RAW ? ""
			   : has_parent                 ? ", differencing"
			   : i->dynamic                 ? ", dynamic"
							: ", fixed";

	printf("file             %s\n", path);
	printf("format           %s%s\n", tool_format_name(i->format), kind);
	printf("size             %" PRIu64 " bytes (%s)\n", i->size, tool_size_text(i->size, text));
	printf("space on host    %" PRIu64 " bytes (%s)\n", i->file_size, tool_size_text(i->file_size, text));
	printf("sectors          %u logical, %u physical\n", i->logical_sector_size, i->physical_sector_size);
	if (i->block_size)
		printf("block size       %s\n", tool_size_text(i->block_size, text));
	printf("identifier       %s\n", guid_format(&i->identifier, id));
}

/* From the disk down: one line each of those that it continues. */
static void print_chain(const struct disk *disk)
{
	char space[SIZE_TEXT_SIZE];
	struct disk_info info;

	for (const struct disk *d = disk_parent(disk); d; d = disk_parent(d)) {
		disk_get_info(d, &info);
		printf("%s %s (%s, %s on the host)\n",
		       d == disk_parent(disk) ? "parent          " : "  its parent    ", disk_path(d),
		       disk_parent(d) ? "differencing"
		       : info.dynamic ? "dynamic"
				      : "fixed",
		       tool_size_text(info.file_size, space));
	}
}

static void put_info(json_t *o, const char *path, const struct disk_info *i)
{
	char id[GUID_TEXT_SIZE];

	json_object_set_new(o, "file", json_string(path));
	json_object_set_new(o, "format", json_string(tool_format_name(i->format)));
	json_object_set_new(o, "dynamic", json_boolean(i->dynamic));
	json_object_set_new(o, "size", json_bytes(i->size));
	json_object_set_new(o, "space", json_bytes(i->file_size));
	json_object_set_new(o, "logical_sector_size", json_bytes(i->logical_sector_size));
	json_object_set_new(o, "physical_sector_size", json_bytes(i->physical_sector_size));
	json_object_set_new(o, "block_size", json_bytes(i->block_size));
	json_object_set_new(o, "identifier", json_string(guid_format(&i->identifier, id)));
}

static void put_chain(json_t *o, const struct disk *disk)
{
	json_t *chain = json_array();

	for (const struct disk *d = disk_parent(disk); d; d = disk_parent(d)) {
		json_t *one = json_object();
		struct disk_info info;

		disk_get_info(d, &info);
		put_info(one, disk_path(d), &info);
		json_array_append_new(chain, one);
	}
	json_object_set_new(o, "parents", chain);
}

static int run_info(struct tool *tool, int argc, char **argv)
{
	struct disk_open_options options = {.read_only = true};
	struct error err = {0};
	struct disk_info info;
	struct disk *disk;

	if (!tool_no_options(argc, argv))
		return EXIT_USAGE;
	if (argc - optind != 1)
		return tool_usage(tool, "say which file: see bulkhead disk info --help");
	if (disk_open(&disk, argv[optind], &options, &err))
		return tool_fail(tool, &err);
	disk_get_info(disk, &info);
	if (tool->json) {
		put_info(tool->result, argv[optind], &info);
		put_chain(tool->result, disk);
	} else {
		print_info(argv[optind], &info, disk_parent(disk) != NULL);
		print_chain(disk);
	}
	if (disk_close(disk, &err))
		return tool_fail(tool, &err);
	return 0;
}

/* The report's lines, as text or as an array. */
static void show_findings(struct tool *tool, char *report)
{
	json_t *findings = json_array();
	char *rest = report, *line;

	while ((line = strsep(&rest, "\n"))) {
		if (*line == '\0')
			continue;
		if (!tool->json)
			puts(line);
		json_array_append_new(findings, json_string(line));
	}
	json_object_set_new(tool->result, "findings", findings);
}

struct check_options {
	bool repair, force;
	const char *undo;
};

static int take_check_options(int argc, char **argv, struct check_options *o)
{
	static const struct option options[] = {{"repair", no_argument, NULL, 'r'},
						{"force", no_argument, NULL, 'f'},
						{"undo", required_argument, NULL, 'u'},
						{NULL, 0, NULL, 0}};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?')
			return EXIT_USAGE;
		o->repair |= option == 'r';
		o->force |= option == 'f';
		if (option == 'u')
			o->undo = optarg;
	}
	return 0;
}

static int undo(struct tool *tool, const char *path, const char *from)
{
	struct error err = {0};

	json_object_set_new(tool->result, "file", json_string(path));
	if (disk_undo_repair(path, from, &err))
		return tool_fail(tool, &err);
	if (!tool->json)
		puts("the image is as it was before the repair");
	return 0;
}

static int run_check(struct tool *tool, int argc, char **argv)
{
	_cleanup_free_ char *report = NULL;
	struct check_options o = {.undo = NULL};
	struct error err = {0};
	size_t size;
	FILE *to;
	int r = take_check_options(argc, argv, &o);

	if (r)
		return r;
	if (argc - optind != 1)
		return tool_usage(tool, "say which file: see bulkhead disk check --help");
	if ((o.force && !o.repair) || (o.undo && o.repair))
		return tool_usage(tool, "--force is a word of --repair, and --undo stands alone: see bulkhead disk check "
				  "--help");
	if (o.undo)
		return undo(tool, argv[optind], o.undo);
	to = open_memstream(&report, &size);
	if (!to)
		return fail(1, "no memory to check a disk");
	r = o.repair ? disk_repair(argv[optind], o.force, to, &err) : disk_check(argv[optind], to, &err);
	fclose(to);
	json_object_set_new(tool->result, "file", json_string(argv[optind]));
	show_findings(tool, report);
	if (r < 0)
		return tool_fail(tool, &err);
	if (!tool->json)
		puts(o.repair ? "no errors are left" : "no errors were found");
	return 0;
}

const struct disk_verb disk_verb_info = {
    .name = "info",
    .summary = "what a disk is",
    .arguments = "FILE",
    .text = "Prints format, size, the space that it takes on the host, sectors and identifier, and of a\n"
	    "differencing disk the whole chain of its parents.\n",
    .run = run_info,
};

const struct disk_verb disk_verb_check = {
    .name = "check",
    .summary = "look for damage in a disk's structures",
    .arguments = "FILE [--repair [--force] | --undo UNDO]",
    .text = "Looks through the structures of FILE, and of its chain of parents, and prints a line for each\n"
	    "thing that is wrong, in which case the status is 1. Nothing is changed, unless asked for:\n"
	    "\n"
	    "  --repair                     puts FILE right, where nothing is lost by that: headers, tables and\n"
	    "                               footers of which a good copy is there, the log, space that is nobody's.\n"
	    "                               What is overwritten is kept in FILE.undo-1 or -2, ...\n"
	    "  --force                      also what has a loss: blocks that lie nowhere become zeros, and of two\n"
	    "                               in one place each gets a copy. Without it, what would be lost is listed\n"
	    "  --undo UNDO                  puts back what a repair has kept in UNDO\n",
    .run = run_check,
};
