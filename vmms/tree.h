/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tree.h - the checkpoints of a machine: checkpoints.json in its own directory. Private to vmms/.
 *
 * A checkpoint is what vm.json said when it was made. Its disks are not written any more; what comes later is in
 * differencing disks that continue them. "disks" says which file continues which, also those that no checkpoint has any
 * more and that several others still continue.
 */
#pragma once

#include "vmms/config.h"

struct job;

#define TREE_FILE "checkpoints.json"
#define TREE_MAX  50 /* checkpoints of a machine, as Hyper-V has it */

extern const struct form tree_form;

/* Reads it; a machine with no such file has an empty one. The caller owns the reference. */
int tree_load(json_t **tree, const char *directory, struct error *err);
/* The same; *tree is NULL where there is nothing in it. */
int tree_load_some(json_t **tree, const char *directory, struct error *err);
/* By rename, synced. */
int tree_save(const json_t *tree, const char *directory, struct error *err);

/* By id or name; NULL: there is none. Borrowed. */
json_t *tree_find(const json_t *tree, const char *name_or_id);

/* The newest that is temporary; NULL: there is none. Borrowed. `count` (may be NULL): how many there are. */
json_t *tree_temporary(const json_t *tree, size_t *count);

/* The checkpoint that the machine of now comes from: its id, "" for none. */
const char *tree_now(const json_t *tree);

/* Which file a file continues, as the tree names it; NULL: none. */
const char *tree_parent(const json_t *tree, const char *path);
void tree_set_parent(json_t *tree, const char *path, const char *parent);

/* A file is gone. */
void tree_forget(json_t *tree, const char *path);

/* How many files continue this one, and (if not NULL) one of them. */
size_t tree_children(const json_t *tree, const char *path, const char **one);

/* Whether a checkpoint or the machine of now has this disk. */
bool tree_uses(const json_t *tree, const json_t *config, const char *path);

/* The checkpoint goes; those that come from it come from its parent. */
void tree_remove(json_t *tree, const char *id);

/* In place of disk `path`, which has been merged, all have `parent`. */
void tree_merged(json_t *tree, json_t *config, const char *path, const char *parent);

/* A file that no checkpoint and not the machine has, with at most one that continues it: *child is that, or NULL when
 * the file can go. False: there is none such. */
bool tree_loose(const json_t *tree, const json_t *config, const char **path, const char **child);

/* The files of the tree of a directory, with its own, that the list does not have yet. */
void tree_add_files(const char *directory, json_t *list);

/* tree_check.c: of a directory that somebody else may have made. -EINVAL: it has names of other places (`in_place`: but for the disks that
 * continue none, and those of vm.json), or names twice, a state
 * that is no plain file there, or the machine, whose configuration is `config`, would write what others continue; -ELOOP: what comes from what, or continues what, is a ring. */
int tree_check(const json_t *tree, const json_t *config, const char *directory, bool in_place, struct error *err);
/* -EINVAL: it names files outside the directory; `err` says which. Only what tree_check() has found right. */
int tree_check_inside(const json_t *tree, const json_t *config, const char *directory, struct error *err);
/* -ESTALE: a disk continues another than the tree says, or one that has changed since; or what opening one says that the machine of now
 * would write. Opens them by the names that they have; one that is in use is taken as it is. Unless `outside` is set, each file has to lie in
 * the directory (which has no link in it) and so has all that a disk continues: -EINVAL: a link, or a disk's own locator, leads elsewhere;
 * -EBUSY: a disk is in use, and that cannot be told. Only what tree_check_inside() has found right. -ECANCELED: `job` was. [pool] */
int tree_check_disks(const json_t *tree, const json_t *config, const char *directory, bool outside, struct job *job, struct error *err);

/* tree_pending.c: what vm.json and checkpoints.json are to say, as one file beside them: {"version", "vm", "checkpoints", "state", "remove"}: the
 * state of a checkpoint that the machine goes on from, if any, and files that go. It comes by a rename, and from then on it is what counts, for whatever host; it goes
 * when both are written. */
#define PENDING_FILE "change.json"
bool pending_is_there(const char *directory);
/* The caller owns the reference. -ENOENT: there is none. Its names are not looked at. */
int pending_load(json_t **pending, const char *directory, struct error *err);
int pending_save(json_t **pending, json_t *config, json_t *tree, const char *state, json_t *remove, const char *directory, struct error *err);
/* Writes both, and removes what goes. It may be done again. */
int pending_finish(const json_t *pending, const char *directory, struct error *err);

/* Whether anything in the two names this file. */
bool tree_names(const json_t *tree, const json_t *config, const char *path);

/* Those of the names that are files of the machine's own, but for those that the two name. */
void tree_remove_unnamed(const json_t *tree, const json_t *config, const char *directory, const json_t *names);

/* tree_settle.c: of a machine that nobody runs, whatever host was at it: disks that were merged (or never begun), and that say so themselves, are
 * taken out of the two, as [{"path", "parent", "above": [disks that continue it]}] in `merged`, an empty list; then, when all has been found
 * right (tree_check.c), what continues them continues their parents; and when both files are written they are removed. [pool] */
int tree_settle(json_t *tree, json_t *config, const char *directory, json_t *merged, struct error *err);
int tree_settle_disks(const json_t *merged, const char *directory, struct error *err);
void tree_settle_remove(const json_t *merged, const char *directory);

/* Of a disk that is written: it is part of checkpoints. */
bool tree_is_disk(const json_t *disk);

/* The path of a disk of a configuration; "" of a DVD drive that is empty. */
const char *tree_path(const json_t *disk);
