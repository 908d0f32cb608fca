/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * disks.h - a machine's disks by vm.json, and by its worker, which may have them in another order. Private to vmms/:
 * disks.c, media.c. On the loop's thread, but for disk_open_file().
 */
#pragma once

#include "vmms/device_change.h"

/* The place of a disk in a configuration, by its path. -1: it has none such. */
ssize_t disk_find(const json_t *config, const char *directory, const char *path);

bool disk_is_dvd(const json_t *disk);

/* The place among its disks of its DVD drive number `which`, from 0 on. -1: it has none such. */
ssize_t drive_find(const json_t *config, const char *which);

/* Where a running machine has disk number `at` of vm.json; `status` is its worker's. Drives with no medium are told apart by
 * their order. False: it has none such. */
bool disk_place(const struct machine *machine, const json_t *status, size_t at, unsigned *controller, unsigned *lun);

/* Whether it has a disk of this path, from the root on. */
bool disk_is_with_worker(const json_t *status, const char *path);

/* [any thread] Opens a file or block device for the worker, into change->fds. */
int disk_open_file(struct device_change *change, const char *path, bool read_only, struct error *err);

/* media.c: as machine_disks_settle()'s `finish`, of a medium. */
int medium_finish(struct machine *machine, const json_t *plan, const json_t *status, struct error *err);
