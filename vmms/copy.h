/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * copy.h - the files of a machine copied into a new directory: what a clone, an export and an import are made of.
 * Private to vmms/.
 *
 * A plan is made of a configuration, on the loop's thread; then it is carried out on the pool. The configuration is
 * changed to name the copies.
 */
#pragma once

#include "vmms/daemon.h"

enum copy_kind {
	COPY_LINK,   /* as a clone, but each disk continues the one that it is of */
	COPY_CLONE,  /* each disk becomes one of its own, with the contents of now; what lies elsewhere and is not written
			stays there */
	COPY_EXPORT, /* all that the machine has, wherever it lies, with its checkpoints */
	COPY_IMPORT, /* what lies in the directory, which somebody else has made */
};

struct copy_plan {
	enum copy_kind kind;
	json_t *config;
	json_t *tree; /* NULL: it has no checkpoints, or they stay behind */
	json_t *chain; /* the disks that `tree` had at first, by name: what each continues, "" for none of it */
	json_t *by_from, *by_to; /* `files` by these */
	json_t *files; /* [{"from", "to", "flatten", "disk", "linked", "bytes", "of"}], "from" below `source` or from the root on; "of": the
			  checkpoint that alone has it */
	char *source, *directory;
	json_t *before; /* `config` as it was */
	bool saved; /* it has a saved state */
	bool made; /* the directory */
	uint64_t bytes, done;
	struct job *job;
};

/* Takes the references to `config` and `tree` (NULL: none), which are of `source`. The caller frees it. NULL: no memory. */
struct copy_plan *copy_plan_new(enum copy_kind kind, json_t *config, json_t *tree, const char *source, const char *directory);
void copy_plan_free(struct copy_plan *plan);

/* A file more, which is copied as it is. -ENOMEM. */
int copy_plan_file(struct copy_plan *plan, const char *from, const char *to);

/* What the machine goes on from: `state` becomes its saved state. Of its own, SAVED_FILE, what its disks were then goes along, if that is
 * known. -ENOMEM. */
int copy_plan_state(struct copy_plan *plan, const char *state);

/* Makes the directory with all files in it, the checkpoints and the configuration, synced. Disks of checkpoints are copied as they
 * are, and then told where the copies of those are that they continue; -ESTALE: one is not what it was. Of an import none may continue
 * any other disk. [pool] */
int copy_carry_out(struct copy_plan *plan, struct job *job, struct error *err);
