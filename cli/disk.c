/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk.c - `bulkhead disk`: its verbs. */
#include <string.h>

#include "cli/disk_tool.h"

static const struct disk_verb *const verbs[] = {
    &disk_verb_create,
    &disk_verb_merge,
    &disk_verb_reparent,
    &disk_verb_resize,
    &disk_verb_compact,
    &disk_verb_info,
    &disk_verb_check,
    &disk_verb_convert,
    &disk_verb_map,
    &disk_verb_bench,
    &disk_verb_serve,
    &disk_verb_track,
};

static void print_usage(FILE *to)
{
	fputs("Usage: bulkhead disk VERB …\n\n", to);
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		fprintf(to, "  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
	fputs("\nbulkhead disk VERB --help tells the rest. With --json a verb prints one JSON object.\n" STATUS_TEXT ".\n", to);
}

static int dump(void)
{
	json_t *all = dump_new("disk", "Virtual disks: files.\n");

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		dump_verb(all, verbs[i]->name, verbs[i]->summary, verbs[i]->arguments, verbs[i]->text);
	return dump_print(all);
}

int command_disk(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--dump"))
		return dump();
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		print_usage(argc < 2 ? stderr : stdout);
		return argc < 2 ? EXIT_USAGE : 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(argv[1], verbs[i]->name))
			return tool_run(verbs[i], argc - 1, argv + 1);
	return fail(EXIT_USAGE, "there is no \"disk %s\": see bulkhead disk --help", argv[1]);
}
