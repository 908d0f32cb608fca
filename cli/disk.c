/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "disk/disk.h"

static const char usage[] =
    "Usage: bulkhead disk create FILE SIZE [--fixed] [--raw] [--block-size SIZE] [--sector-size 512|4096]\n"
    "       bulkhead disk info FILE [--json]\n"
    "       bulkhead disk check FILE\n"
    "\n"
    "create makes an empty VHDX that grows as it is written, or, with --fixed, one that has all its\n"
    "space from the start; --raw makes a plain file. check looks through the structures of a VHDX.\n";

static int disk_command_create(int argc, char **argv)
{
	static const struct option options[] = {{"fixed", no_argument, NULL, 'f'},
						{"raw", no_argument, NULL, 'r'},
						{"block-size", required_argument, NULL, 'b'},
						{"sector-size", required_argument, NULL, 's'},
						{NULL, 0, NULL, 0}};
	struct disk_create_options o = {.format = DISK_FORMAT_VHDX};
	struct error err = {0};
	uint64_t value = 0;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?' || ((option == 'b' || option == 's') && parse_size(optarg, &value, &err)))
			return option == '?' ? EXIT_USAGE : fail(EXIT_USAGE, "%s", err.text);
		if (option == 'f')
			o.fixed = true;
		else if (option == 'r')
			o.format = DISK_FORMAT_RAW;
		else if (value > UINT32_MAX)
			return fail(EXIT_USAGE, "\"%s\" is too large", optarg);
		else if (option == 'b')
			o.block_size = (uint32_t)value;
		else
			o.logical_sector_size = (uint32_t)value;
	}
	if (argc - optind != 2)
		return fail(EXIT_USAGE, "say which file and how large: see bulkhead disk --help");
	if (parse_size(argv[optind + 1], &o.size, &err))
		return fail(EXIT_USAGE, "%s", err.text);
	if (disk_create(argv[optind], &o, &err))
		return fail(1, "%s", err.text);
	return 0;
}

static void print_info(const char *path, const struct disk_info *i)
{
	char id[GUID_TEXT_SIZE];

	printf("file             %s\n", path);
	printf("format           %s\n",
	       i->format == DISK_FORMAT_VHDX ? i->dynamic ? "VHDX, dynamic" : "VHDX, fixed" : "raw");
	printf("size             %" PRIu64 " bytes (%.1f GiB)\n", i->size, (double)i->size / (1 << 30));
	printf("space on host    %" PRIu64 " bytes (%.1f GiB)\n", i->file_size,
	       (double)i->file_size / (1 << 30));
	printf("sectors          %u logical, %u physical\n", i->logical_sector_size, i->physical_sector_size);
	if (i->block_size)
		printf("block size       %u MiB\n", i->block_size >> 20);
	printf("identifier       %s\n", guid_format(&i->identifier, id));
}

static void print_info_json(const char *path, const struct disk_info *i)
{
	char id[GUID_TEXT_SIZE];
	json_t *o = json_pack("{s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:s}", "file", path, "format",
			      i->format == DISK_FORMAT_VHDX ? "vhdx" : "raw", "dynamic", i->dynamic, "size",
			      (json_int_t)i->size, "space", (json_int_t)i->file_size, "logical_sector_size",
			      (json_int_t)i->logical_sector_size, "physical_sector_size",
			      (json_int_t)i->physical_sector_size, "block_size", (json_int_t)i->block_size,
			      "identifier", guid_format(&i->identifier, id));

	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
}

static int disk_command_info(int argc, char **argv)
{
	struct disk_open_options options = {.read_only = true};
	bool json = argc == 3 && !strcmp(argv[2], "--json");
	struct error err = {0};
	struct disk_info info;
	struct disk *disk;

	if (argc != 2 && !json)
		return fail(EXIT_USAGE, "say which file: see bulkhead disk --help");
	if (disk_open(&disk, argv[1], &options, &err))
		return fail(1, "%s", err.text);
	disk_get_info(disk, &info);
	if (json)
		print_info_json(argv[1], &info);
	else
		print_info(argv[1], &info);
	if (disk_close(disk, &err))
		return fail(1, "%s", err.text);
	return 0;
}

static int disk_command_check(int argc, char **argv)
{
	struct error err = {0};

	if (argc != 2)
		return fail(EXIT_USAGE, "say which file: see bulkhead disk --help");
	if (disk_check(argv[1], stdout, &err))
		return fail(1, "%s", err.text);
	puts("no errors were found");
	return 0;
}

int command_disk(int argc, char **argv)
{
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		fputs(usage, argc < 2 ? stderr : stdout);
		return argc < 2 ? EXIT_USAGE : 0;
	}
	if (!strcmp(argv[1], "create"))
		return disk_command_create(argc - 1, argv + 1);
	if (!strcmp(argv[1], "info"))
		return disk_command_info(argc - 1, argv + 1);
	if (!strcmp(argv[1], "check"))
		return disk_command_check(argc - 1, argv + 1);
	return fail(EXIT_USAGE, "there is no \"disk %s\": see bulkhead disk --help", argv[1]);
}
