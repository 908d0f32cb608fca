/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_disks.c - `bulkhead vm add-disk` and `remove-disk`. */
#include "cli/vm.h"

int vm_add_disk(struct manage *manage, int argc, char **argv)
{
	struct error err = {0};
	json_t *disk;
	int status;

	if (argc != 3)
		return manage_usage(manage, "it takes a machine and a file");
	status = vm_parse_disk(manage, argv[2], false, &disk);
	if (status) {
		json_decref(disk);
		return status;
	}
	if (vm_job(manage, "POST", "/v1/vms/%s/disks", argv[1], disk, "adding", &err))
		return manage_fail(manage, &err);
	return vm_show_result(manage, argv[1], "has a disk more");
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
