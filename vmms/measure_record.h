/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * measure_record.h - the account of one machine's resource metering: what it took since metering was enabled, or reset. Private to vmms/.
 *
 * Workers tell counters that begin with each run and only grow; the account has sums over runs, and for the present run what was told
 * last, so that nothing is counted twice, whoever noted it. Both are saved together. A counter that is told lower than before adds
 * nothing. What a worker tells is not trusted: a lie harms its own machine's account.
 *
 * Times are milliseconds. How long something took is told by the time since the host's boot, and over a boot by its clock.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"
#include "vmms/form.h"

enum measure_counter { MEASURE_CPU, MEASURE_OPERATIONS, MEASURE_NORMALIZED, MEASURE_READ, MEASURE_WRITTEN, MEASURE_LATENCY, MEASURE_SENT,
		       MEASURE_RECEIVED, MEASURE_COUNTERS };

struct measure_time {
	char boot[40];
	int64_t up, real;
};

struct measure {
	int64_t since;    /* by the host's clock */
	int64_t duration, ran; /* of all, and while it ran */
	int64_t sum[MEASURE_COUNTERS]; /* microseconds, bytes, operations */
	struct measure_time at; /* up to when all is accounted for, but counters */
	/* The present run, or the last. */
	char run[GUID_TEXT_SIZE];
	int64_t told[MEASURE_COUNTERS];
	bool begins; /* what is told next was before: it is no part of the sums */
	/* Bytes: assigned is what the guest has, resident what of the process was in the host's memory when it was looked at last. 0: it does not run. */
	int64_t assigned, resident;
	int64_t assigned_least, assigned_most, resident_least, resident_most; /* while it ran; 0: it did not */
	double assigned_sum, resident_sum; /* bytes times milliseconds */
	bool has_allocation;
	int64_t allocation, taken; /* of hard disks, as known last */
	json_t *remotes; /* by mac, direction and remote address: {"mac", "direction", "remote", "bytes", "told"} */
	bool changed; /* since it was saved; for whoever saves it */
};

/* An empty account that begins now. NULL: no memory. */
struct measure *measure_new(const struct measure_time *now);
void measure_free(struct measure *m);

/* Everything is zero and begins now; of a run that goes on, what was is no part of it. */
void measure_reset(struct measure *m, const struct measure_time *now);

/* As kept in host.db; the caller's. */
json_t *measure_save(const struct measure *m);
/* NULL: no memory, or it is of a later version or damaged. */
struct measure *measure_load(const json_t *saved);

/* Time has passed, in the state it was in. */
void measure_advance(struct measure *m, const struct measure_time *now);
/* It runs from now on, with that much memory. `anew`: a run begins; else it is found running. */
void measure_runs(struct measure *m, const struct measure_time *now, int64_t assigned, bool anew);
/* It runs no more, since `end` by the host's clock, if that is later than what is accounted for. */
void measure_stops(struct measure *m, const struct measure_time *now, int64_t end);

/* What a worker tells ("metering" of docs/worker.md; may be anything, or NULL), with its process's time in microseconds (-1: not known). `rules` as
 * measure_rules(): no other remote address is believed. */
void measure_note(struct measure *m, const json_t *told, int64_t cpu_us, const json_t *rules);
/* What of its process is in the host's memory now. */
void measure_note_resident(struct measure *m, int64_t bytes);

/* What adapters of this configuration are metered by, for the worker: [{"mac", "rules": [{"direction", "remote"}]}]; the caller's. An adapter with no
 * rule of action "meter" has two: any, in and out, as on Hyper-V. */
json_t *measure_rules(const json_t *config);

/* As REST shows it (measure_report_form); the caller's. `mhz` of the host's processors; 0: it is not known. */
json_t *measure_report(const struct measure *m, double mhz);
extern const struct form measure_report_form;
