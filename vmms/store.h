/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store.h - host.db: which machines there are, jobs and events. Private to vmms/.
 *
 * Every function is one transaction and is on the medium when it returns, but for what store_group_begin() says. One
 * thread. Errors: negative errno; -EEXIST where a name, an id or a directory is taken.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"
#include "vmms/form.h"

struct store;

#define STORE_KIND_SIZE 32

enum vm_phase { VM_CREATING, VM_READY, VM_DELETING };

struct store_vm {
	char id[GUID_TEXT_SIZE];
	unsigned number; /* no other machine of the host has it; given by store_vm_add() */
	const char *name, *directory;
	enum vm_phase phase;
	bool own_directory; /* made by us, and goes with the machine */
	bool wanted;        /* it was running, as far as anybody asked */
};

struct store_job {
	int64_t id;
	const char *kind; /* "vm.start" */
	char vm[GUID_TEXT_SIZE];
	const char *vm_name;
	const char *state; /* "running", "done", "failed", "cancelled" */
	int64_t started, ended; /* milliseconds since 1970; 0: not yet */
	const char *error_code, *error_text; /* NULL: none */
};

/* Opens or makes it. -ENOTSUP: made by a later version; -EBADMSG: no database. */
int store_open(struct store **out, const char *path, struct error *err);
void store_close(struct store *store);

/* What is stored between these two is one transaction, which waits for the medium once, at its end: nobody may be told
 * before that. No groups in groups. Without a group that was begun, the end does nothing. When the end fails, all of the
 * group is lost. */
void store_group_begin(struct store *store);
int store_group_end(struct store *store, struct error *err);

/* An event as its lists show it. */
extern const struct form store_event_form;

int store_vm_add(struct store *store, struct store_vm *vm, struct error *err);
int store_vm_rename(struct store *store, const char *id, const char *name, struct error *err);
int store_vm_set_phase(struct store *store, const char *id, enum vm_phase phase, struct error *err);
/* From here on it is deleted; its files too if `own_directory` is set. */
int store_vm_begin_delete(struct store *store, const char *id, bool own_directory, struct error *err);
int store_vm_set_wanted(struct store *store, const char *id, bool wanted, struct error *err);
int store_vm_remove(struct store *store, const char *id, struct error *err);

/* Calls `each` for every machine, by name; its strings last until it returns. */
int store_vm_list(struct store *store, void (*each)(void *context, const struct store_vm *vm), void *context,
    struct error *err);

/* A new job, running; its id in *id. */
int store_job_add(struct store *store, const char *kind, const char *vm, const char *vm_name, int64_t *id,
    struct error *err);
int store_job_end(struct store *store, int64_t id, const char *state, const char *error_code, const char *error_text,
    struct error *err);

/* Jobs that ran when the daemon died: each ends as failed. */
int store_jobs_abandon(struct store *store, unsigned *count, struct error *err);

/* As JSON, newest first: those with ids below `before` (0: all), at most `limit`. `id` 0: all; else that one. */
int store_job_list(struct store *store, int64_t id, int64_t before, unsigned limit, json_t **list, struct error *err);

int store_event_add(struct store *store, const char *kind, const char *vm, const char *vm_name, const char *text,
    int64_t *id, struct error *err);
/* Oldest first, ids above `after`, at most `limit`; of one machine if `vm` is not NULL. */
int store_event_list(struct store *store, int64_t after, const char *vm, unsigned limit, json_t **list,
    struct error *err);
/* The newest `limit`, oldest of them first. */
int store_event_tail(struct store *store, const char *vm, unsigned limit, json_t **list, struct error *err);
/* The newest event that says what state a machine came into, and its time in milliseconds since 1970. 0 and "": none. */
int64_t store_event_state_time(struct store *store, const char *vm, char kind[STORE_KIND_SIZE]);

/* What is to be known of the host. *value (NULL: there is none) is the caller's; setting it to NULL removes it. */
int store_host_get(struct store *store, const char *key, char **value, struct error *err);
int store_host_set(struct store *store, const char *key, const char *value, struct error *err);

/* What is being done to a machine in several steps, so that whoever finds it half done can end it or undo it: a JSON
 * object, its "kind" says which. NULL: nothing is. */
int store_work_get(struct store *store, const char *vm, json_t **plan, struct error *err);
int store_work_set(struct store *store, const char *vm, const json_t *plan, struct error *err);

/* A machine's disks continue those of a checkpoint of another one, which have to stay while it is there. */
int store_base_add(struct store *store, const char *vm, const char *of, const char *checkpoint, struct error *err);
/* Names of the machines that continue any checkpoint of machine `of`, or that one. */
int store_base_users(struct store *store, const char *of, const char *checkpoint, json_t **names, struct error *err);
/* Names of the machines whose disks `vm` continues. */
int store_base_of(struct store *store, const char *vm, json_t **names, struct error *err);

/* The account of a machine whose resource metering is enabled (measure_record.h). NULL: it is not, or no more. */
int store_metering_set(struct store *store, const char *vm, const json_t *account, struct error *err);
/* Calls `each` for every one; what it gets lasts until it returns. `account` is NULL where it cannot be read. */
int store_metering_list(struct store *store, void (*each)(void *context, const char *vm, const json_t *account), void *context,
    struct error *err);

/* Which start of the host this is, and milliseconds since then: good whatever the host's clock is set to. */
const char *store_boot_id(void);
int64_t store_uptime(void);

/* Files outside the daemon's directories that are gone again when it starts, unless they were whole by then. */
int store_leftover_add(struct store *store, const char *path, struct error *err);
int store_leftover_remove(struct store *store, const char *path, struct error *err);
int store_leftover_list(struct store *store, json_t **paths, struct error *err);
