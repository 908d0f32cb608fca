/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * requests.h - the control commands that bring several descriptors, from their JSON. Private to worker/.
 *
 * Descriptors come in the order of the keys here. One that is taken is set to -1 in the call; after an error none is.
 */
#pragma once

#include <jansson.h>

#include "disk/disk.h"
#include "worker/control.h"
#include "worker/saving.h"
#include "worker/vm.h"
#include "worker/worker.h"

/* "CONTROLLER:LUN" at `key`. */
int request_address(const json_t *arguments, unsigned *controller, unsigned *lun, struct error *err);

/* checkpoint: "fd" (true: the first descriptor is for the machine's state), "disks": for each "address", "path" (of the new file, the
 * next descriptor), "parent" (the file of now), and "record" (true: one more descriptor, for its changed blocks). Names are of
 * the arguments. */
int request_checkpoint(const json_t *arguments, struct control_call *call, struct saving_request *request, struct error *err);

/* add-adapter and plug-adapter: "mac", "port" ("descriptor", which is the one that comes, or "none"), "label", "forwarded" (ports of
 * the host), and with add-adapter "any_mac". remove-adapter: "mac" alone. */
int request_adapter(const json_t *arguments, struct control_call *call, struct worker_adapter *adapter, struct error *err);
int request_mac(const json_t *arguments, uint8_t mac[6], struct error *err);

/* add-disk: "path" (without it a DVD drive is empty), "read_only", "dvd", "controller", and with "fd" true a descriptor for the file, and one for each of "parents",
 * the names of the files that it continues, from the uppermost on. Names are of the arguments. */
/* change-medium: "address" of a DVD drive, "force", and with "path" and "fd" true the descriptor of the medium; without "path" the
 * drive gets empty, and *path is NULL. */
struct medium_request {
	unsigned controller, lun;
	bool force;
	const char *path;
};
int request_medium(const json_t *arguments, struct control_call *call, struct medium_request *request, struct vm_files *files,
    struct error *err);

int request_disk(const json_t *arguments, struct control_call *call, struct worker_disk *disk, struct vm_files *files, struct error *err);

/* merge-disk: "address", and a descriptor each for those of "child", "parent", "above", "record" that are true; with "above" also "above_path"
 * and "parent_path". */
int request_merge(const json_t *arguments, struct control_call *call, struct disk_merge_files *files, unsigned *controller,
    unsigned *lun, struct error *err);
