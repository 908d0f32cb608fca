/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * config.h - vm.json, a machine's configuration in its own directory. Private to vmms/.
 *
 * A configuration in memory is a JSON object that has passed `vm_config_form`, so that every key with a
 * default is there. Paths in it are absolute, or relative to the machine's directory.
 */
#pragma once

#include "vmms/form.h"

#define VM_CONFIG_VERSION 1
#define VM_CONFIG_FILE    "vm.json"

extern const struct form vm_config_form;

/* The body of a request which makes a machine, and of one which changes it. */
extern const struct form vm_create_form, vm_change_form;

/* One of its disks, and how many there may be. */
extern const struct form vm_disk_form;
#define VM_DISKS_MAX 63
#define VM_ADAPTERS_MAX 8

/* A network adapter more, and what is to change of one. */
extern const struct form vm_new_adapter_form, vm_some_adapter_form;

/* One of its adapters as it is shown: with the guest's addresses. */
extern const struct form vm_shown_adapter_form;

/* -EINVAL: a name that a machine cannot have; `err` is the end of a sentence. */
int vm_name_check(const char *name, struct error *err);

/* Reads DIRECTORY/vm.json; the caller owns the reference. -ENOENT: it is not there; -ENOTSUP: of a later
 * version; -EBADMSG: not JSON; -EINVAL: a key is wrong; -EFBIG: over 1 MiB. `err` names the file. */
int vm_config_load(json_t **out, const char *directory, struct error *err);

/* Writes it: by rename, synced, so that it is the old or the new one whatever happens. */
int vm_config_save(const json_t *config, const char *directory, struct error *err);

/* The same for another file of the directory, without a look at what it says. The caller owns the reference that *out
 * gets, which is NULL or to be freed even on failure. */
int vm_json_load(json_t **out, const char *directory, const char *name, struct error *err);
int vm_json_save(const json_t *json, const char *directory, const char *name, struct error *err);

/* A new configuration with what `request` (it has passed vm_create_form) says; id is new. */
json_t *vm_config_new(const json_t *request);

/* `config` with the changes of `request` (it has passed vm_change_form), checked as a whole. */
int vm_config_changed(json_t **out, const json_t *config, const json_t *request, struct error *err);

/* Of a configuration, a machine's or a switch's: for ETag and If-Match, with the quotes. NULL is one, too. */
void config_etag(const json_t *config, char text[24]);

/* A path of a configuration, from the root on; the caller frees it. NULL: it is NULL, or there is no memory. */
char *vm_config_path(const char *path, const char *directory);

/* What bulkhead-worker reads (docs/worker.md); the caller owns the reference. `runtime` is where the sockets
 * go. */
json_t *vm_config_for_worker(const json_t *config, const char *directory, const char *runtime);
