/* SPDX-License-Identifier: GPL-2.0-or-later */
/* library.c - the library's part of `bulkhead image`: build, list, import, delete. */
#include <string.h>

#include "cli/manage.h"

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static void add_row(struct table *table, const json_t *image)
{
	char size[32], disk[32];

	snprintf(size, sizeof(size), "%.1f GiB", json_number_value(json_object_get(image, "size")) / (1 << 30));
	snprintf(disk, sizeof(disk), "%.1f GiB", json_number_value(json_object_get(image, "disk_bytes")) / (1 << 30));
	if (json_object_get(image, "problem"))
		table_add(table, (const char *const[]){text_of(image, "name"), "", "", "", text_of(image, "problem")});
	else
		table_add(table, (const char *const[]){text_of(image, "name"), text_of(image, "image"), size, disk, ""});
}

static int image_list(struct manage *manage, int argc, char **argv)
{
	static const char *const titles[] = {"NAME", "IMAGE", "SIZE", "ON DISK", ""};
	struct error err = {0};
	json_t *page, *image;
	struct table *table;
	bool names;
	size_t i;

	if (!manage_only_names(manage, argc, argv, &names))
		return EXIT_USAGE;
	if (client_call(manage->client, "GET", "/v1/images", NULL, &page, &err))
		return manage_fail(manage, &err);
	if (names && !manage->json) {
		manage_print_names(json_object_get(page, "images"));
	} else if (!manage->json) {
		if (!json_array_size(json_object_get(page, "images")))
			puts("no images: bulkhead image build debian-12 makes one");
		table = json_array_size(json_object_get(page, "images")) ? table_new(ARRAY_SIZE(titles), titles) : NULL;
		json_array_foreach(json_object_get(page, "images"), i, image)
			add_row(table, image);
		table_print(table);
	}
	manage_print_json(manage, json_incref(json_object_get(page, "images")));
	json_decref(page);
	return 0;
}

static int add(struct manage *manage, const char *name, json_t *body, const char *label)
{
	struct error err = {0};

	json_object_set_new(body, "name", json_string(name));
	if (client_job(manage->client, "POST", "/v1/images", body, label, NULL, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		printf("%s is in the library: bulkhead vm create NAME --image %s\n", name, name);
	manage_print_json(manage, json_pack("{s:s}", "name", name));
	return 0;
}

static int image_build(struct manage *manage, int argc, char **argv)
{
	if (argc != 2)
		return manage_usage(manage, "it takes one name");
	return add(manage, argv[1], json_pack("{s:s}", "build", argv[1]), "building (some minutes)");
}

static int image_import(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;

	if (argc != 3)
		return manage_usage(manage, "it takes a name and a directory");
	path = realpath(argv[2], NULL);
	return add(manage, argv[1], json_pack("{s:s}", "directory", path ? path : argv[2]), "importing");
}

static int image_delete(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};

	if (argc != 2)
		return manage_usage(manage, "it takes one name");
	path = client_path(manage->client, "/v1/images/%s", argv[1]);
	if (client_call(manage->client, "DELETE", path, NULL, NULL, &err))
		return manage_fail(manage, &err);
	if (!manage->json)
		printf("%s is deleted; machines made from it have copies\n", argv[1]);
	manage_print_json(manage, json_pack("{s:s}", "deleted", argv[1]));
	return 0;
}

int command_library(int argc, char **argv)
{
	static const struct manage_verb verbs[] = {
	    {"build", "build a distribution's image", "NAME " WAITS,
	     "NAME is debian-12. With a directory behind it, and other options, it is made there and not in the library:\n"
	     "see bulkhead image --help.\n", image_build},
	    {"list", "what the library has", "[--names]",
     "Images that machines can be made from.\n\n  --names                only their names, one a line\n", image_list},
	    {"import", "copy one into it", "NAME DIRECTORY " WAITS, "DIRECTORY is of bulkhead image build NAME DIRECTORY, on any host.\n",
	     image_import},
	    {"delete", "delete one", "NAME", "Machines made from it stay: they have copies.\n", image_delete},
	    {0}};

	return manage_run("image", "The library that machines are made from.\n", verbs, argc, argv);
}
