/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_disks.c - `bulkhead vm add-disk` and `remove-disk`. */
#include "cli/vm.h"

int vm_add_disk(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"dvd", no_argument, NULL, 'd'}, {NULL, 0, NULL, 0}};
	struct error err = {0};
	bool dvd = false;
	json_t *disk;
	int status, c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		dvd = true;
	}
	if (argc - optind != 2)
		return manage_usage(manage, "it takes a machine and a file");
	status = vm_parse_disk(manage, argv[optind + 1], dvd, &disk);
	if (status) {
		json_decref(disk);
		return status;
	}
	if (vm_job(manage, "POST", "/v1/vms/%s/disks", argv[optind], disk, "adding", &err))
		return manage_fail(manage, &err);
	return vm_show_result(manage, argv[optind], dvd ? "has a DVD drive more" : "has a disk more");
}

int vm_remove_disk(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};

	if (argc != 3)
		return manage_usage(manage, "it takes a machine and the path of its disk, as bulkhead vm show tells it");
	path = vm_path(manage, "/v1/vms/%s/disks?path=%s", argv[1], argv[2]);
	if (client_job(manage->client, "DELETE", path, NULL, "removing", NULL, &err))
		return manage_fail(manage, &err);
	return vm_show_result(manage, argv[1], "has a disk less");
}
