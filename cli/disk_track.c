/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_track.c - `bulkhead disk track`: points, and what has changed since one. */
#include <string.h>
#include <time.h>

#include "cli/disk_tool.h"

static int list(struct tool *tool, struct disk *disk, const char *name, struct error *err)
{
	struct disk_track_point *points;
	json_t *array = json_array();
	int count = disk_track_list(disk, &points, err);

	for (int i = 0; i < count; i++) {
		const struct disk_track_point *p = &points[i];
		char when[32];
		time_t created = (time_t)p->created;
		struct tm tm;

		strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&created, &tm));
		json_array_append_new(array, json_pack("{s:s%, s:s, s:I, s:I}", "name", p->name, strlen(p->name),
						       "created", when, "changed", (json_int_t)p->changed,
						       "granule", (json_int_t)p->granule));
		if (!tool->json)
			printf("%s  %15ju bytes changed since  %s\n", when, (uintmax_t)p->changed, p->name);
	}
	if (count >= 0)
		free(points);
	json_object_set_new(tool->result, "points", array);
	return count < 0 ? count : 0;
}

static int put_change(void *context, uint64_t offset, uint64_t length)
{
	struct tool *tool = context;

	if (tool->json)
		json_array_append_new(
		    json_object_get(tool->result, "changes"),
		    json_pack("{s:I, s:I}", "offset", (json_int_t)offset, "length", (json_int_t)length));
	else
		printf("%15ju %15ju\n", (uintmax_t)offset, (uintmax_t)length);
	return 0;
}

static int changes(struct tool *tool, struct disk *disk, const char *name, struct error *err)
{
	json_object_set_new(tool->result, "changes", json_array());
	return disk_track_changes(disk, name, put_change, tool, err);
}

static int add(struct tool *tool, struct disk *disk, const char *name, struct error *err)
{
	return disk_track_add(disk, name, err);
}

static int remove_point(struct tool *tool, struct disk *disk, const char *name, struct error *err)
{
	return disk_track_remove(disk, name, err);
}

static const struct action {
	const char *name;
	int (*run)(struct tool *tool, struct disk *disk, const char *name, struct error *err);
	int arguments; /* behind the action */
	bool writes;
} actions[] = {
    {"list", list, 1, false},
    {"add", add, 2, true},
    {"remove", remove_point, 2, true},
    {"changes", changes, 2, false},
};

static const struct action *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(actions); i++)
		if (strcmp(actions[i].name, name) == 0)
			return &actions[i];
	return NULL;
}

static int run(struct tool *tool, int argc, char **argv)
{
	static const struct option none[] = {{NULL, 0, NULL, 0}};
	struct disk_open_options options = {.read_only = true};
	const struct action *action;
	struct error err = {0}, closing = {0};
	struct disk *disk;
	int r;

	if (getopt_long(argc, argv, "", none, NULL) >= 0)
		return EXIT_USAGE;
	action = argc - optind > 0 ? find(argv[optind]) : NULL;
	if (!action || argc - optind != 1 + action->arguments)
		return tool_usage(tool, "say what to do with which disk: see bulkhead disk track --help");
	options.read_only = !action->writes;
	json_object_set_new(tool->result, "file", json_string(argv[optind + 1]));
	if (disk_open(&disk, argv[optind + 1], &options, &err))
		return tool_fail(tool, &err);
	r = action->run(tool, disk, action->arguments > 1 ? argv[optind + 2] : NULL, &err);
	if (disk_close(disk, &closing) < 0 && r == 0) {
		r = -1;
		err = closing;
	}
	return r < 0 ? tool_fail(tool, &err) : 0;
}

const struct disk_verb disk_verb_track = {
    .name = "track",
    .summary = "tell which parts have changed since a named point",
    .arguments = "list FILE | add FILE NAME | remove FILE NAME | changes FILE NAME",
    .text = "add makes the point NAME: from then on it is kept, in FILE.cbt, which parts of the disk change. list\n"
	    "shows the points and how much has changed since each; changes prints offset and length of every run.\n"
	    "What can be read from a copy of the time of the point, but for these runs, is what the disk holds.\n"
	    "\n"
	    "When the record is lost, or another program has written FILE, all counts as changed. Adding a point\n"
	    "counts as a write: differencing disks that continue FILE cannot be used any more.\n",
    .run = run,
};
