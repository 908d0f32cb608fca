/* SPDX-License-Identifier: GPL-2.0-or-later */
/* checkpoint.c - `bulkhead checkpoint`. */
#include <string.h>

#include "cli/vm.h"

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

/* --- list --------------------------------------------------------------------------------------------- */

/* A branch: those that come from `parent`, each with its own below it. */
static void add_branch(struct table *table, const json_t *list, const char *parent, unsigned depth)
{
	json_t *checkpoint;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)list, i, checkpoint) {
		char time[32];
		json_t *name;

		if (strcmp(text_of(checkpoint, "parent"), parent) || depth > json_array_size(list))
			continue;
		name = json_sprintf("%*s%s", (int)depth * 2, "", text_of(checkpoint, "name"));
		manage_time_text(json_integer_value(json_object_get(checkpoint, "created")), time);
		table_add(table, (const char *const[]){json_string_value(name), time,
						       json_is_true(json_object_get(checkpoint, "now")) ? "now" : "",
						       text_of(checkpoint, "id")});
		json_decref(name);
		add_branch(table, list, text_of(checkpoint, "id"), depth + 1);
	}
}

static int checkpoint_list(struct manage *manage, int argc, char **argv)
{
	static const char *const titles[] = {"CHECKPOINT", "MADE", "", "ID"};
	_cleanup_free_ char *path = NULL;
	struct error err = {0};
	struct table *table;
	json_t *page, *list;

	if (argc != 2)
		return manage_usage(manage, "it takes one machine");
	path = client_path(manage->client, "/v1/vms/%s/checkpoints", argv[1]);
	if (client_call(manage->client, "GET", path, NULL, &page, &err))
		return manage_fail(manage, &err);
	list = json_incref(json_object_get(page, "checkpoints"));
	json_decref(page);
	if (!manage->json && !json_array_size(list)) {
		puts("no checkpoints: bulkhead checkpoint create makes one");
	} else if (!manage->json) {
		table = table_new(4, titles);
		add_branch(table, list, "", 0);
		table_print(table);
	}
	manage_print_json(manage, list);
	return 0;
}

/* --- the others --------------------------------------------------------------------------------------- */

static int show(struct manage *manage, const char *vm, const char *text)
{
	if (manage->json)
		manage_print_json(manage, json_pack("{s:s}", "vm", vm));
	else
		printf("%s %s\n", vm, text);
	return 0;
}

static int checkpoint_create(struct manage *manage, int argc, char **argv)
{
	struct error err = {0};

	if (argc != 2 && argc != 3)
		return manage_usage(manage, "it takes a machine and, if it is to have one, a name");
	if (vm_job(manage, "POST", "/v1/vms/%s/checkpoints", argv[1], json_pack("{s:s*}", "name", argc == 3 ? argv[2] : NULL),
		   "keeping", &err))
		return manage_fail(manage, &err);
	return show(manage, argv[1], "has a checkpoint more");
}

static int one(struct manage *manage, int argc, char **argv, const char *method, const char *format, const char *label,
	       const char *done)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};

	if (argc != 3)
		return manage_usage(manage, "it takes a machine and one of its checkpoints");
	path = vm_path(manage, format, argv[1], argv[2]);
	if (client_job(manage->client, method, path, NULL, label, NULL, &err))
		return manage_fail(manage, &err);
	return show(manage, argv[1], done);
}

static int checkpoint_apply(struct manage *manage, int argc, char **argv)
{
	return one(manage, argc, argv, "POST", "/v1/vms/%s/checkpoints/%s/apply", "applying", "is what it was");
}

static int checkpoint_delete(struct manage *manage, int argc, char **argv)
{
	return one(manage, argc, argv, "DELETE", "/v1/vms/%s/checkpoints/%s", "merging", "has a checkpoint less");
}

static int checkpoint_merge(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};

	if (argc != 2)
		return manage_usage(manage, "it takes a machine");
	path = client_path(manage->client, "/v1/vms/%s/merge", argv[1]);
	if (client_job(manage->client, "POST", path, NULL, "merging", NULL, &err))
		return manage_fail(manage, &err);
	return show(manage, argv[1], "has nothing left to merge");
}

static int checkpoint_rename(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};

	if (argc != 4)
		return manage_usage(manage, "it takes a machine, a checkpoint and its new name");
	path = vm_path(manage, "/v1/vms/%s/checkpoints/%s", argv[1], argv[2]);
	if (client_call(manage->client, "PATCH", path, json_pack("{s:s}", "name", argv[3]), NULL, &err))
		return manage_fail(manage, &err);
	return show(manage, argv[1], "has it by its new name");
}

static int checkpoint_export(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};

	if (argc != 4)
		return manage_usage(manage, "it takes a machine, one of its checkpoints and a directory");
	path = vm_path(manage, "/v1/vms/%s/checkpoints/%s/export", argv[1], argv[2]);
	if (client_job(manage->client, "POST", path, json_pack("{s:o}", "directory", vm_directory_path(argv[3])), "exporting", NULL,
		       &err))
		return manage_fail(manage, &err);
	return show(manage, argv[1], "is exported as it was then");
}

int command_checkpoint(int argc, char **argv)
{
	static const struct manage_verb verbs[] = {
	    {"list", "what there is", "MACHINE", "As a tree: each below the one that it comes from.\n", checkpoint_list},
	    {"create", "keep what a machine is now", "MACHINE [NAME] " WAITS,
	     "Its disks, of the format VHDX (or VHD, if it is off), its settings and, if it runs, its state.\n", checkpoint_create},
	    {"apply", "make it what it was", "MACHINE CHECKPOINT " WAITS,
	     "What it is now is lost: make a checkpoint of it first. It has to be off, and is saved then if it ran when\n"
	     "the checkpoint was made: bulkhead vm start lets it go on from there.\n", checkpoint_apply},
	    {"delete", "delete one", "MACHINE CHECKPOINT " WAITS,
	     "The machine stays what it is, and runs on if it runs. Disks that only this one keeps apart are merged.\n",
	     checkpoint_delete},
	    {"merge", "end merges that had no room", "MACHINE " WAITS,
	     "What deleted checkpoints have left is merged when they are deleted. Where there was no room for that, or it was\n"
	     "cancelled, it is done now. The machine may be used in between.\n", checkpoint_merge},
	    {"export", "make a machine's directory of it", "MACHINE CHECKPOINT DIRECTORY " WAITS,
	     "Into a new directory DIRECTORY/MACHINE, from which any host can import it (bulkhead vm import): what the machine\n"
	     "was then, with whole disks, saved if it ran. The machine may run meanwhile.\n", checkpoint_export},
	    {"rename", "give it another name", "MACHINE CHECKPOINT NEW", "At any time.\n", checkpoint_rename},
	    {0}};

	return manage_run("checkpoint", "What machines were at some time, to go back to.\n", verbs, argc, argv);
}
