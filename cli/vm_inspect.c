/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_inspect.c - `bulkhead vm inspect`: the insides of a running machine, as a tree. */
#include <errno.h>
#include <string.h>

#include "cli/manage.h"
#include "cli/screen.h"

#define DEPTH_MAX 32u
#define LINE_MAX_COLUMNS 110u

struct tree {
	FILE *to;
	bool last[DEPTH_MAX]; /* of each level: nothing comes behind it */
};

static void put_bytes(FILE *to, double bytes)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
	unsigned unit = 0;

	for (; bytes >= 1024 && unit + 1 < ARRAY_SIZE(units); unit++)
		bytes /= 1024;
	fprintf(to, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

static bool counts_bytes(const char *name)
{
	static const char *const ends[] = {"_bytes", "size"};
	size_t length = strlen(name);

	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		if (length >= strlen(ends[i]) && !strcmp(name + length - strlen(ends[i]), ends[i]))
			return true;
	return !strcmp(name, "memory");
}

static void put_scalar(FILE *to, const char *name, const json_t *value)
{
	if (json_is_string(value))
		manage_put(to, json_string_value(value));
	else if (json_is_number(value) && counts_bytes(name))
		put_bytes(to, json_number_value(value));
	else if (json_is_number(value))
		fprintf(to, "%lld", (long long)json_number_value(value));
	else
		fputs(json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "none", to);
}

static void indent(const struct tree *tree, unsigned depth, bool branch)
{
	for (unsigned i = 0; i < depth; i++) {
		bool own = branch && i + 1 == depth;

		fputs(own ? (tree->last[i] ? "└─ " : "├─ ") : tree->last[i] ? "   " : "│  ", tree->to);
	}
}

static bool holds_others(const json_t *value)
{
	return json_is_object(value) || json_is_array(value);
}

/* What is no branch of its own stands behind the name, as far as a line goes, and goes on below it. */
static void put_scalars(const struct tree *tree, const json_t *object, unsigned depth, unsigned column)
{
	bool first = true;
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, key, value) {
		_cleanup_free_ char *text = NULL;
		size_t size;
		FILE *to;

		if (holds_others(value) || !(to = open_memstream(&text, &size)))
			continue;
		manage_put(to, key);
		fputc(' ', to);
		put_scalar(to, key, value);
		fclose(to);
		if (!first && column + size > LINE_MAX_COLUMNS) {
			fputs(",\n", tree->to);
			indent(tree, depth, false);
			fputs("   ", tree->to);
			column = depth * 3 + 3;
		} else if (!first) {
			fputs(", ", tree->to);
		}
		fputs(text, tree->to);
		column += (unsigned)size + 2;
		first = false;
	}
}

static size_t branches_of(const json_t *value)
{
	size_t count = 0;
	const char *key;
	json_t *child;

	json_object_foreach((json_t *)(uintptr_t)value, key, child)
		count += holds_others(child);
	return count;
}

static void put_branches(struct tree *tree, const json_t *value, unsigned depth);

static void put_branch(struct tree *tree, const char *name, const json_t *value, unsigned depth, bool last)
{
	if (depth >= DEPTH_MAX)
		return;
	tree->last[depth] = last;
	indent(tree, depth + 1, true);
	manage_put(tree->to, name);
	if (json_is_object(value) && json_object_size(value) > branches_of(value)) {
		fputs(": ", tree->to);
		put_scalars(tree, value, depth + 1, depth * 3 + (unsigned)strlen(name) + 5);
	} else if (holds_others(value) && !json_array_size(value) && !json_object_size(value)) {
		fputs(": none", tree->to);
	} else if (!holds_others(value)) {
		fputs(": ", tree->to);
		put_scalar(tree->to, name, value);
	}
	fputc('\n', tree->to);
	put_branches(tree, value, depth + 1);
}

static void put_branches(struct tree *tree, const json_t *value, unsigned depth)
{
	size_t i, left = branches_of(value);
	char number[24];
	const char *key;
	json_t *child;

	json_object_foreach((json_t *)(uintptr_t)value, key, child)
		if (holds_others(child))
			put_branch(tree, key, child, depth, --left == 0);
	json_array_foreach((json_t *)(uintptr_t)value, i, child) {
		snprintf(number, sizeof(number), "%zu", i);
		put_branch(tree, number, child, depth, i + 1 == json_array_size(value));
	}
}

struct inspection {
	struct manage *manage;
	const char *name;
};

static int fetch(const struct inspection *inspection, json_t **tree, struct error *err)
{
	_cleanup_free_ char *path = client_path(inspection->manage->client, "/v1/vms/%s/inspect", inspection->name);

	return client_call(inspection->manage->client, "GET", path, NULL, tree, err);
}

static void put_tree(FILE *to, const json_t *root)
{
	struct tree tree = {.to = to};

	put_scalars(&tree, root, 0, 0);
	fputc('\n', to);
	put_branches(&tree, root, 0);
}

static int draw(void *context, FILE *to)
{
	struct error err = {0};
	json_t *root;

	if (fetch(context, &root, &err)) {
		manage_put(to, err.text);
		fputc('\n', to);
		return 0;
	}
	put_tree(to, root);
	json_decref(root);
	return 0;
}

int vm_inspect(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"watch", no_argument, NULL, 'w'}, {NULL, 0, NULL, 0}};
	struct inspection inspection = {.manage = manage};
	struct error err = {0};
	bool watch = false;
	json_t *root;
	int c, status;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		watch = true;
	}
	if (argc - optind != 1)
		return manage_usage(manage, argc == optind ? "the machine's name is missing" : "one machine at a time");
	inspection.name = argv[optind];
	/* An error that is there from the start ends it. */
	if (fetch(&inspection, &root, &err))
		return manage_fail(manage, &err);
	if (watch && !manage->json) {
		json_decref(root);
		status = screen_run(1, draw, &inspection, &err);
		return status < 0 ? manage_fail(manage, &err) : status;
	}
	if (!manage->json)
		put_tree(stdout, root);
	manage_print_json(manage, root);
	return 0;
}
