/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vm.h - the parts of one virtual machine put together and taken down. Private to worker/.
 *
 * Disks are opened once and stay locked while the worker lives; everything else is built anew when
 * the guest resets. All functions belong to the loop's thread; the callbacks in `struct vm_events`
 * come from VP threads or the bus and only pass the word on.
 */
#pragma once

#include <stdatomic.h>

#include <jansson.h>

#include "base/base.h"
#include "disk/disk.h"
#include "machine/machine.h"
#include "statefile/statefile.h"
#include "vmbus/vmbus.h"
#include "vsp/integration/integration.h"
#include "vsp/network/network.h"
#include "vsp/storage/storage.h"
#include "worker/worker.h"

enum vm_end { VM_END_POWER_OFF = 1, VM_END_RESET = 2, VM_END_FAILURE = 4, VM_END_EXIT_PORT = 8 };

struct vm_events {
	/* Loop thread. The processors start next, unless it says no. */
	int (*ready)(void *context, struct error *err);
	/* [any] Bits of enum vm_end; the VM goes on running until vm_power_down(). */
	void (*ended)(void *context, enum vm_end end, uint32_t code);
	/* [any] Something for a person to read. */
	void (*report)(void *context, const char *text);
	size_t (*output)(void *context, unsigned port, const uint8_t *bytes, size_t size);
	void (*input_room)(void *context, unsigned port);
	void *context;
};

struct vm_disk {
	struct worker_disk config;
	struct disk *disk; /* NULL: a DVD drive with no medium */
	unsigned lun;
	bool used;
};

struct vm_adapter {
	struct worker_adapter config; /* without its descriptor */
	unsigned number;              /* for its name */
	struct port *port;            /* NULL: not plugged in */
	struct network *network;      /* NULL while the machine is off */
	struct network_meter *meter;  /* of its network adapters, one after the other */
};

struct vm {
	const struct worker_config *config;
	struct vm_events events;
	struct vm_disk disks[WORKER_MAX_DISKS];
	struct disk_rings *rings; /* made before the sandbox is entered; NULL: there is none */
	char *disk_paths[WORKER_MAX_DISKS]; /* of disks and media that came while it ran */
	struct guid uuid; /* of the machine */
	struct guid run;  /* of this process: counters begin with it */
	struct boot_file kernel, initrd;
	struct boot_module modules[WORKER_MAX_MODULES];
	struct partition_host *host;

	struct partition *partition;
	struct machine *machine;
	struct vmbus *bus;
	struct storage *controllers[WORKER_MAX_CONTROLLERS];
	struct storage_counters controller_kept[WORKER_MAX_CONTROLLERS]; /* of channels that are closed; the controller's as long as there is one */
	struct network_counters adapters_gone; /* of those that were removed */
	struct vm_adapter adapters[WORKER_MAX_ADAPTERS]; /* in the order in which they came */
	unsigned adapter_count;
	struct integration *integration;
	bool running, paused;
	int restore;              /* file of the saved machine that the next start is from; -1: it boots */
	struct statefile *saved;  /* while it is read */
	uint32_t controllers_wanted; /* by a saved machine; a bit for each */
	bool processor_told;
	const struct vm_disk *kept; /* whose chain is shown as `kept_chain`; NULL: none */
	json_t *kept_chain;
	_Atomic bool guest_crashed; /* since the last power-up */
	_Atomic unsigned crashes_told;
};

/* Opens what has a name on the host: disks, kernel files, devices. Nothing needs one afterwards but a disk that is added. */
int vm_create(struct vm **out, const struct worker_config *config, const struct vm_events *events,
    struct error *err);
void vm_destroy(struct vm *vm, struct error *err);

/* How many files its disks are in. */
unsigned vm_disk_files(const struct vm *vm);

/* Builds everything and starts the processors; takes it all down. */
int vm_power_up(struct vm *vm, struct error *err);
void vm_power_down(struct vm *vm);

void vm_pause(struct vm *vm);
void vm_resume(struct vm *vm);

/* Stop everything that could change guest memory or the state of a device: processors, timers, bus and storage, when the disks have
 * done what they had begun. It stays paused, or goes on, as it was before. Calls do not nest. */
void vm_hold(struct vm *vm);
void vm_release(struct vm *vm);

/* (vm_save.c) All but guest memory, as sections; while held. The bytes are the caller's to free(). */
int vm_save_state(struct vm *vm, uint8_t **bytes, size_t *size, struct error *err);

/* While held: what the guest has written to its disks is durable. [any thread] */
int vm_flush_disks(struct vm *vm, struct error *err);

/* Parts of a start from saved state. First, with a partition: the file is opened, and disks get the addresses that the guest
 * knows. Then, with everything built and no kernel loaded: memory and all state; the bus is held, controllers are paused.
 * At last, when the processors run. */
int vm_restore_begin(struct vm *vm, struct error *err);
int vm_restore_state(struct vm *vm, struct error *err);
void vm_restore_end(struct vm *vm);

/* Ask the guest to shut down: by the integration service, else by the power button. `how` says which. */
void vm_ask_shutdown(struct vm *vm, const char **how);

void vm_close_files(struct vm_files *files);

/* Add a disk to a running machine; `lun` tells where it appears. Its files are taken over in any case. */
int vm_add_disk(struct vm *vm, const struct worker_disk *disk, struct vm_files *files, unsigned *lun, struct error *err);
/* The DVD drive there has the medium `path` from now on, whose file is taken over in any case (`files` as of vm_add_disk()), or none
 * (NULL). -EBUSY: the guest holds the one that it has; with `force` that is not looked at. */
int vm_change_medium(struct vm *vm, unsigned controller, unsigned lun, const char *path, struct vm_files *files, bool force,
    struct error *err);
/* Whether the guest holds the medium of the DVD drive there. `ask`: if so it is asked to let go of it. */
int vm_medium_is_locked(struct vm *vm, unsigned controller, unsigned lun, bool ask, bool *locked, struct error *err);
int vm_resize_disk(struct vm *vm, unsigned controller, unsigned lun, uint64_t size, struct error *err);
/* The disk at an address, or NULL and -ENOENT. */
struct vm_disk *vm_disk_at(struct vm *vm, unsigned controller, unsigned lun, struct error *err);

/* It continues on files->child (disk_split_files()); descriptors that are taken over are set to -1. And back, before anything
 * was written. */
int vm_split_disk(struct vm *vm, unsigned controller, unsigned lun, struct disk_split_files *files, struct error *err);
int vm_unsplit_disk(struct vm *vm, unsigned controller, unsigned lun, const char *name, struct error *err);

/* A disk has another name now: that of its file, when that was split or merged. */
int vm_rename_disk(struct vm *vm, struct vm_disk *disk, const char *name);

/* While files come and go under a disk on another thread, its chain is shown as it is now; until NULL is given. */
void vm_keep_chain(struct vm *vm, const struct vm_disk *disk);

int vm_remove_disk(struct vm *vm, unsigned controller, unsigned lun, struct error *err);

/* (adapters.c) Ports are opened once, as disks are; adapters are built anew with each start. */
int vm_open_ports(struct vm *vm, struct error *err);
void vm_close_ports(struct vm *vm);
int vm_build_adapters(struct vm *vm, struct error *err);
void vm_take_down_adapters(struct vm *vm);
/* The integration services know which there are. */
void vm_tell_adapters(struct vm *vm);

/* An adapter more; -EEXIST: its address is another's. One that is there, by its address, goes: -ENOENT. It is plugged into what `to`
 * says (kind, descriptor, label). Descriptors are taken over even on failure. */
int vm_add_adapter(struct vm *vm, const struct worker_adapter *adapter, struct error *err);
int vm_remove_adapter(struct vm *vm, const uint8_t *mac, struct error *err);
int vm_plug_adapter(struct vm *vm, const struct worker_adapter *to, struct error *err);

json_t *vm_inspect_adapters(struct vm *vm);

/* (metering.c) What the machine did since this process began, whatever the guest did meanwhile; as docs/worker.md has it. */
json_t *vm_metering(struct vm *vm);
/* The adapters' traffic is told by these remote addresses from now on: [{"mac", "rules": [{"direction", "remote"}]}]. Adapters that are not
 * named have no rules. -EINVAL; -ENOMEM. */
int vm_set_meters(struct vm *vm, const json_t *adapters, struct error *err);

/* Live state as a tree; the caller owns the reference. */
json_t *vm_inspect(struct vm *vm);
