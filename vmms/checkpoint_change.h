/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * checkpoint_change.h - a change of a machine's checkpoints on its way. Private to checkpoint.c and
 * checkpoint_{live,merge,write}.c. On the loop's thread but for what `work` of its job does.
 */
#pragma once

#include "vmms/checkpoint.h"
#include "vmms/tree.h"

/* What a merge that nobody waits for leaves of the room there is: without it nothing could be started. */
#define ROOM_LEFT (UINT64_C(8) << 20)

/* A job's context: what is to be when it is done. */
struct change {
	char *directory;
	json_t *tree, *config;
	json_t *made;   /* [{"path", "parent"}] disks that are to be made */
	json_t *remove; /* files that go when all is written */
	/* Of the merge that is at work; `live`: of the running machine's disk `top`, where `above` (NULL: none) continues it. */
	char *child, *parent, *above, *top;
	bool live;
	bool disks_fit; /* if it is saved, they are what its state goes on with, and are to be noted as such when all is done */
	const char *event;
	char *name;
	const char *link;   /* the state that the machine goes on from: of `tree`; NULL: none */
	json_t *checkpoint; /* the new one: of `tree` */
	/* Of a running machine: what its worker gets. */
	char *state;
	json_t *split;
	int fds[WORKER_FDS_MAX];
	size_t fd_count;
};

/* Of a machine as it is now. */
int change_new(struct change **out, const struct machine *machine, const char *event, struct error *err);
void change_free(struct change *change);
json_t *change_made_names(const struct change *change);

/* Of those that are the machine's own. */
void change_remove_files(const char *directory, const json_t *names);

/* checkpoint_write.c: both files, the saved state if there is one, and then what they do not name any more goes. It may be done again. */
int change_write(struct machine *machine, json_t *tree, json_t *config, json_t *remove, const char *state, struct error *err);
/* The same, but host.db knows of a change still. */
int change_write_down(struct machine *machine, json_t *tree, json_t *config, json_t *remove, const char *state, struct error *err);
/* When both are: files that were to go, but for those that are named. */
int change_remove_left(const struct machine *machine, const json_t *names, struct error *err);
/* What the directory says is to be in the two is. */
int checkpoint_end_pending(struct machine *machine, struct error *err);
/* The same, and from here on it is done, whatever happens. */
int change_commit(struct machine *machine, const struct change *change, struct error *err);
/* Ends the job, whose context the change is, and frees that. */
void change_end(struct job *job, const struct error *err);

/* checkpoint_live.c: takes the change over. */
int checkpoint_live_begin(struct machine *machine, struct change *change, struct job **job, struct error *err);
/* Of a machine that is off: what a daemon or a worker that died has left. */
int checkpoint_live_recover(struct machine *machine, const json_t *plan, struct error *err);

/* checkpoint_merge.c: the job, whose context the change is, merges and removes what is loose, and ends. */
void merge_go_on(struct job *job);
/* Of a machine that is off, or runs and is not at it: a job of its own. */
int merge_recover(struct machine *machine, const json_t *plan, struct error *err);
