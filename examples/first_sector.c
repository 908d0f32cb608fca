/* SPDX-License-Identifier: GPL-2.0-or-later */
/* first_sector.c - prints the first sector of a virtual disk as text. Build: cc first_sector.c $(pkg-config
 * --cflags --libs libbulkhead-disk) */
#include <disk/disk.h>

int main(int argc, char **argv)
{
	const struct disk_open_options options = {.read_only = true};
	struct error err = {0};
	struct disk_info info;
	struct disk *disk;
	char sector[4096];
	int r;

	if (argc != 2) {
		fprintf(stderr, "Usage: %s DISK\n", argv[0]);
		return 2;
	}
	if (disk_open(&disk, argv[1], &options, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	disk_get_info(disk, &info);
	r = disk_read(disk, 0, sector, info.logical_sector_size, &err);
	if (r == 0)
		fwrite(sector, info.logical_sector_size, 1, stdout);
	else
		fprintf(stderr, "%s\n", err.text);
	disk_close(disk, NULL);
	return r < 0;
}
