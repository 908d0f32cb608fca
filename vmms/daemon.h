/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon.h - what the parts of vmms/ share. Private to vmms/. All on the loop's thread.
 */
#pragma once

#include <uv.h>

#include "vmms/http.h"
#include "vmms/machine.h"
#include "vmms/store.h"
#include "vmms/tls.h"
#include "vmms/vmms.h"

struct vmms {
	uv_loop_t loop;
	const struct vmms_options *options;
	struct store *store;
	json_t *config; /* host.json */
	struct access *access;
	struct tls_files tls;
	char https[72]; /* "ADDRESS:PORT" that TLS is listened for at, or "" */
	struct http *http;
	struct streams *streams; /* api_stream.c */
	struct machine **machines;
	size_t machine_count, machine_room;
	struct automatic *automatic; /* automatic.h */
	struct errands *errands; /* errand.h */
	struct measuring *measuring; /* measure.h */
	struct switches *switches; /* switches.h */
	struct job *jobs; /* that run, or that somebody waits for */
	uv_signal_t signals[2];
	uv_mutex_t children_lock; /* of what follows: processes of ports.c that have not been reaped */
	int *children;
	size_t child_count;
	struct cgroup_leaving *leaving; /* cgroup.h */
	int lock;
	bool closing;
	bool reserved; /* resources.c: weights of control groups were of reserves, too */
	bool merges_wait; /* of some machine: checkpoint_take_up() */
};

/* Reads host.json anew: from here on roles are what it says, and whether more memory is promised than there is. *restart, the caller's, is a list of its keys that are others by now and
 * wait for a restart. On failure all stays as it was. */
int vmms_reload(struct vmms *vmms, json_t **restart, struct error *err);

/* By id or name; NULL: there is none. */
struct machine *vmms_find(struct vmms *vmms, const char *name_or_id);
int vmms_add(struct vmms *vmms, struct machine *machine);
/* Off the list; the machine is freed. */
void vmms_forget(struct vmms *vmms, struct machine *machine);

/* A machine is what it is since an event that is older than this daemon, where one tells of it. */
void vmms_date_state(struct machine *machine);

/* Something happened: for people, kept in host.db. `machine` may be NULL. */
void vmms_event(struct vmms *vmms, const struct machine *machine, const char *kind, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

int64_t vmms_now(void); /* milliseconds since 1970 */

/* --- jobs: something that takes its time. Each ends once, as done or as failed. */

struct job {
	struct vmms *vmms;
	int64_t id;
	struct machine *machine; /* NULL when it is gone */
	char kind[32];
	char made[GUID_TEXT_SIZE]; /* the machine that came of it, where it is told here; or "" */
	bool ended, cancelled;
	struct error error;
	/* A job on the pool: `work` runs there, `done` on the loop. */
	uv_work_t request;
	int (*work)(struct job *job, struct error *err);
	void (*done)(struct job *job, int result);
	/* Of one that is not on the pool: NULL, or ends it soon. -EALREADY: too late. */
	int (*cancel)(struct job *job, struct error *err);
	bool working; /* it is there */
	bool yields;  /* it is stopped, and waited for, by whatever else is to be done to the machine */
	void *context;
	_Atomic uint64_t progress_done, progress_total;
	_Atomic bool stop;
	uv_timer_t timer;
	bool timer_used;
	int64_t deadline; /* of the loop's clock; for whoever sets the timer */
	void (*late)(struct job *job);
	void (*then)(struct job *job); /* NULL, or called when it has ended: another job goes on from there */
	void *then_context;
	struct job_wait *waits;
	struct job *next;
};

/* -EBUSY: another job is at work on the machine. */
int job_new(struct job **out, struct vmms *vmms, struct machine *machine, const char *kind, struct error *err);
/* Ends it; err NULL: done. The machine is free for the next. The job itself lasts until jobs_sweep(). */
void job_end(struct job *job, const struct error *err);
/* Calls `late` after so many seconds, unless it ends before; may be called again, also from `late`. */
void job_limit(struct job *job, unsigned seconds, void (*late)(struct job *job));
/* Runs job->work on the pool, then job->done. */
void job_work(struct job *job);
/* The same as an errand (errand.h): for what waits for Open vSwitch. */
void job_errand(struct job *job);
/* For struct disk_progress, with the job as context: how far it is, and whether it goes on. [any thread] */
bool job_step(void *context, uint64_t done, uint64_t total);
struct job *job_find(struct vmms *vmms, int64_t id);
/* Answers the request with the job when it ends, or after so many seconds as it is then. */
void job_wait(struct job *job, struct http_request *request, unsigned seconds, unsigned status);
/* The same, by whoever answers in another way. */
void job_wait_for(struct job *job, struct http_request *request, unsigned seconds, void (*reply)(struct job *job, struct http_request *request));
/* As REST shows it: from host.db, with progress. */
extern const struct form job_form;
json_t *job_json(struct vmms *vmms, int64_t id, struct error *err);
/* Frees jobs that have ended and that nobody waits for; from the loop, never from inside other work. */
void jobs_sweep(struct vmms *vmms);
/* The daemon ends: all that wait are answered, and work on the pool is asked to stop. */
void jobs_close(struct vmms *vmms);

/* --- api.c: all requests, for struct http_ops */
bool api_admit(void *context, struct http_request *request);
void api_handle(void *context, struct http_request *request);

/* api_stream.c: whoever waits for events is told that there are some. */
int api_streams_open(struct vmms *vmms, struct error *err);
void api_streams_wake(struct vmms *vmms);
/* After http_close(). The loop has to run once more. */
void api_streams_close(struct vmms *vmms);

/* --- create.c: machines made and deleted. `request` has passed vm_create_form. */
int machine_create(struct vmms *vmms, const json_t *request, struct job **job, struct error *err);
/* Its files go too if they are the daemon's own making, unless `keep_files` is set. */
int machine_delete(struct machine *machine, bool keep_files, struct job **job, struct error *err);
/* For whatever makes a machine: where its directory may be, which the caller frees; its row in host.db, and itself in the
 * list; and what follows when the job that makes its files is done: it is ready, or gone with its directory. */
char *machine_directory_for(const struct vmms *vmms, const char *name, const char *id);
int machine_enter(struct vmms *vmms, struct store_vm *vm, struct machine **out, struct error *err);
void machine_made(struct job *job, int result, bool made_directory);

/* --- register.c: one whose directory is there, by another name, which is written into its vm.json, unless that is NULL.
 * `outside`: it may have files that are not in there. The job's `made` tells which machine that is. */
int machine_register(struct vmms *vmms, const char *directory, const char *name, bool outside, const char *kind, struct job **job,
    struct error *err);

/* --- clone.c, export.c: machines made of others. The bodies have passed these forms. */
extern const struct form vm_clone_form, vm_export_form, vm_import_form;
int machine_clone(struct machine *machine, const json_t *body, struct job **job, struct error *err);
/* -EBUSY: another one continues disks of its checkpoints. */
int machine_check_base(const struct machine *machine, struct error *err);
int machine_export(struct machine *machine, const json_t *body, struct job **job, struct error *err);
int machine_import(struct vmms *vmms, const json_t *body, struct job **job, struct error *err);
/* What exports that did not come to their end have left. */
void exports_tidy(struct vmms *vmms);

/* What a daemon that died left half made or half deleted. */
void machine_finish_phase(struct machine *machine);
