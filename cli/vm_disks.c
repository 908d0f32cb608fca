/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_disks.c - `bulkhead vm add-disk`, `remove-disk`, `insert-dvd` and `eject-dvd`. */
#include "cli/vm.h"

int vm_add_disk(struct manage *manage, int argc, char **argv)
{
	static const struct option options[] = {{"dvd", no_argument, NULL, 'd'}, {NULL, 0, NULL, 0}};
	struct error err = {0};
	bool dvd = false;
	json_t *disk;
	int status = 0, c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		dvd = true;
	}
	if (argc - optind != 2 && !(dvd && argc - optind == 1))
		return manage_usage(manage, "it takes a machine and a file; an empty DVD drive is added by --dvd alone");
	if (argc - optind == 2)
		status = vm_parse_disk(manage, argv[optind + 1], dvd, &disk);
	else
		disk = json_pack("{s:s}", "kind", "dvd");
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
	static const struct option options[] = {{"dvd", required_argument, NULL, 'd'}, {NULL, 0, NULL, 0}};
	_cleanup_free_ char *path = NULL;
	const char *drive = NULL;
	struct error err = {0};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		drive = optarg;
	}
	if (argc - optind != (drive ? 1 : 2))
		return manage_usage(manage, "it takes a machine and the path of its disk, as bulkhead vm show tells it, or --dvd N");
	path = drive ? vm_path(manage, "/v1/vms/%s/dvd-drives/%s", argv[optind], drive)
		     : vm_path(manage, "/v1/vms/%s/disks?path=%s", argv[optind], argv[optind + 1]);
	if (client_job(manage->client, "DELETE", path, NULL, "removing", NULL, &err))
		return manage_fail(manage, &err);
	return vm_show_result(manage, argv[optind], drive ? "has a DVD drive less" : "has a disk less");
}

/* Both verbs: one takes a file, one does not. */
static int change_medium(struct manage *manage, int argc, char **argv, bool insert)
{
	static const struct option options[] = {{"drive", required_argument, NULL, 'd'}, {"force", no_argument, NULL, 'f'},
						{NULL, 0, NULL, 0}};
	_cleanup_free_ char *path = NULL;
	const char *drive = "0";
	struct error err = {0};
	bool force = false;
	json_t *medium;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return EXIT_USAGE;
		if (c == 'd')
			drive = optarg;
		else
			force = true;
	}
	if (argc - optind != (insert ? 2 : 1))
		return manage_usage(manage, insert ? "it takes a machine and a file" : "it takes a machine");
	medium = insert ? vm_real_path(argv[optind + 1]) : json_string("");
	path = vm_path(manage, "/v1/vms/%s/dvd-drives/%s", argv[optind], drive);
	if (client_job(manage->client, "PATCH", path, json_pack("{s:o, s:b}", "medium", medium, "force", force),
		       insert ? "inserting" : "ejecting", NULL, &err))
		return manage_fail(manage, &err);
	return vm_show_result(manage, argv[optind], insert ? "has the medium in its DVD drive" : "has an empty DVD drive");
}

int vm_insert_dvd(struct manage *manage, int argc, char **argv)
{
	return change_medium(manage, argc, argv, true);
}

int vm_eject_dvd(struct manage *manage, int argc, char **argv)
{
	return change_medium(manage, argc, argv, false);
}
