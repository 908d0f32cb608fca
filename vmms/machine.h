/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * machine.h - one machine as the daemon knows it, and what may be done to it. Private to vmms/.
 *
 * All on the loop's thread. At most one job is at work on a machine at a time.
 */
#pragma once

#include "vmms/config.h"
#include "vmms/store.h"
#include "vmms/worker_link.h"

struct vmms;
struct job;

/* Hyper-V's words (Msvm_ComputerSystem.EnabledState), as far as they occur; MACHINE_BROKEN is the last. */
enum machine_state { MACHINE_OFF, MACHINE_STARTING, MACHINE_RUNNING, MACHINE_PAUSED, MACHINE_STOPPING, MACHINE_SAVING,
		     MACHINE_SAVED, MACHINE_BROKEN };

struct machine {
	struct vmms *vmms;
	char id[GUID_TEXT_SIZE];
	char *name, *directory, *runtime;
	char *cgroup; /* of its worker; NULL: none */
	json_t *config; /* NULL: it cannot be read, `problem` says why */
	struct error problem;
	struct error limits_problem; /* what of "limits" is not in force while it runs */
	struct error start_error; /* of the last start that failed */
	struct error unsettled; /* why what is half done could not be ended, as told last */
	enum vm_phase phase;
	unsigned number;
	bool own_directory, wanted;
	bool power_cut; /* asked for by us */
	const json_t *coming; /* a network adapter that the worker is being given; its address is taken */
	bool untold; /* a worker that was found has not told yet what it is at, or what became of that */
	bool temporary; /* it has a checkpoint that is to go */
	bool merge_waits; /* whether its checkpoints have left something to merge is looked at when it is free for that */
	bool was_paused; /* before it was saved */
	unsigned crashes; /* since the first that counts (automatic.c) */
	int64_t first_crash;
	bool ends_with_host; /* a daemon before this one may have stopped it with the host */
	int stop_try; /* what was tried last to stop it with the host */
	enum machine_state state;
	int64_t state_since; /* milliseconds since 1970 */
	struct worker_link *link;
	struct measure *measure; /* measure.h; NULL: its resource metering is not enabled */
	unsigned readers; /* jobs of other machines that copy its files: if it is off it stays so, and its checkpoints stay */
	struct job *job;
};

/* A registered machine; its configuration is read. Its worker is not looked for yet. */
struct machine *machine_new(struct vmms *vmms, const struct store_vm *vm);
void machine_free(struct machine *machine);

/* Finds its worker, if it has one, and takes note of how a run ended that nobody saw. */
void machine_adopt(struct machine *machine);

/* The daemon was away, and a machine that ran is off now with no word of how: that is a crash. */
void machine_end_unseen(struct machine *machine);

/* Looks again at a machine that does not run, as far as is known: its vm.json, and whether it does run. */
void machine_refresh(struct machine *machine);

/* Reads its vm.json again, unless it runs. */
void machine_reload(struct machine *machine);

/* Puts its "limits" into force, if it runs; what cannot be is told once, however often it is tried. */
void machine_apply_limits(struct machine *machine);

/* That what a change has left half done cannot be ended (err->code; 0: it can) is told once, however often it is tried. */
void machine_tell_unsettled(struct machine *machine, const struct error *err);

/* Whether it is to run, as far as anybody asked; kept in host.db. */
void machine_set_wanted(struct machine *machine, bool wanted);

void machine_set_state(struct machine *machine, enum machine_state state);
/* It has no worker and could be given one. */
bool machine_is_off(const struct machine *machine);
const char *machine_state_word(enum machine_state state);

/* A machine's state as it is shown, and what the two functions below make. */
extern const struct form machine_state_form, machine_form, machine_brief_form;

/* What the REST interface shows. The caller owns the reference. */
json_t *machine_json(const struct machine *machine);

/* What a list of many shows: of its configuration only a few keys, and no ETag. */
json_t *machine_json_brief(const struct machine *machine);

/* Of its configuration, for ETag and If-Match: with the quotes. */
void machine_etag(const struct machine *machine, char text[24]);

/* Each makes a job, which may have ended when it returns. -EALREADY: the machine is in another state; -EBUSY:
 * another job is at work on it. */
int machine_start(struct machine *machine, struct job **job, struct error *err);
int machine_shut_down(struct machine *machine, unsigned seconds, struct job **job, struct error *err);
int machine_turn_off(struct machine *machine, struct job **job, struct error *err);
int machine_pause(struct machine *machine, struct job **job, struct error *err);
int machine_resume(struct machine *machine, struct job **job, struct error *err);
int machine_reset(struct machine *machine, struct job **job, struct error *err);

/* save.c: its end is in the file; the next start goes on from there. */
int machine_save(struct machine *machine, struct job **job, struct error *err);
int machine_discard_saved(struct machine *machine, struct error *err);

/* The user and group that its worker runs as, where the daemon is root's. */
unsigned machine_own_user(const struct machine *machine);

/* Changes the configuration: the name and notes at any time, the rest while it is off. */
int machine_change(struct machine *machine, const json_t *request, struct error *err);

/* -EALREADY: its state is none of `states` (bits): "it cannot be WHAT"; -EBUSY: a job is at work on it. */
int machine_check_state(const struct machine *machine, unsigned states, const char *what, struct error *err);
int machine_check_free(const struct machine *machine, struct error *err);

/* Writes vm.json. Takes the reference; on failure all stays as it was. */
int machine_set_config(struct machine *machine, json_t *config, struct error *err);

/* disks.c: a disk more (it has passed vm_disk_form) or, by the path that vm.json has or an absolute one, less; while it
 * runs, too. */
int machine_add_disk(struct machine *machine, const json_t *disk, struct job **job, struct error *err);
int machine_remove_disk(struct machine *machine, const char *path, struct job **job, struct error *err);
/* A DVD drive, by its number among those that the machine has: "0". */
int machine_remove_drive(struct machine *machine, const char *which, struct job **job, struct error *err);

/* media.c: what a DVD drive has in it is other, or nothing; `body` has passed medium_form. */
int machine_change_medium(struct machine *machine, const char *which, const json_t *body, struct job **job, struct error *err);

/* What a daemon that died in the middle of that has left: vm.json has what the worker has, which `status` tells. */
void machine_disks_settle(struct machine *machine, const json_t *status);

/* What the daemon itself makes in a machine's directory, the configuration last; NULL ends it. */
extern const char *const machine_own_files[];

/* The files that go with it, each once: names relative to its directory, or absolute. */
json_t *machine_files(const struct machine *machine);
