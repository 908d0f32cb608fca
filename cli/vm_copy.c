/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_copy.c - `bulkhead vm clone`, `export` and `import`. */
#include <string.h>

#include "cli/vm.h"

int vm_clone(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"checkpoint", required_argument, NULL, 'c'},
						{"linked", no_argument, NULL, 'l'},
						{NULL, 0, NULL, 0}};
	const char *checkpoint = NULL;
	struct error err = {0};
	bool linked = false;
	json_t *body;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		if (c == 'c')
			checkpoint = optarg;
		else
			linked = true;
	}
	if (argc - optind != 2)
		return manage_usage(manage, "it takes a machine and the new one's name");
	body = json_pack("{s:s, s:s*, s:b}", "name", argv[optind + 1], "checkpoint", checkpoint, "linked", linked);
	if (vm_job(manage, "POST", "/v1/vms/%s/clone", argv[optind], body, "cloning", &err))
		return manage_fail(manage, &err);
	return vm_show_result(manage, argv[optind + 1], "is made");
}

int vm_export(struct manage *manage, int argc, char **argv)
{
	struct error err = {0};

	if (argc != 3)
		return manage_usage(manage, "it takes a machine and a directory");
	if (vm_job(manage, "POST", "/v1/vms/%s/export", argv[1], json_pack("{s:o}", "directory", vm_directory_path(argv[2])),
		   "exporting", &err))
		return manage_fail(manage, &err);
	return vm_show_result(manage, argv[1], "is exported");
}

int vm_import(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"register", no_argument, NULL, 'r'},
						{"restore", no_argument, NULL, 's'},
						{"copy", no_argument, NULL, 'c'},
						{"name", required_argument, NULL, 'n'},
						{"outside", no_argument, NULL, 'o'},
						{NULL, 0, NULL, 0}};
	const char *mode = "copy", *name = NULL;
	struct error err = {0};
	bool outside = false;
	json_t *body, *job;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		if (c == 'n')
			name = optarg;
		else if (c == 'o')
			outside = true;
		else
			mode = c == 'r' ? "register" : c == 's' ? "restore" : "copy";
	}
	if (argc - optind != 1)
		return manage_usage(manage, "it takes one directory");
	body = json_pack("{s:o, s:s, s:s*, s:b}", "directory", vm_directory_path(argv[optind]), "mode", mode, "name", name, "outside", outside);
	if (client_job(manage->client, "POST", "/v1/vms/import", body, "importing", &job, &err))
		return manage_fail(manage, &err);
	if (!manage->json) {
		const char *is = json_string_value(json_object_get(job, "vm_name"));

		manage_put(stdout, is ? is : argv[optind]);
		puts(" is imported");
	}
	manage_print_json(manage, job);
	return 0;
}
