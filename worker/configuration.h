/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * configuration.h - what bulkhead-worker is told on its standard input. Private to worker/.
 *
 * One JSON object (docs/worker.md). Nothing is guessed: a key that is not known, twice there, of the wrong type or out
 * of range is refused by its path, such as disks[1].path; so is a path that is not absolute.
 */
#pragma once

#include <jansson.h>

#include "switch/nat.h"
#include "worker/worker.h"

#define CONFIGURATION_MAX_BYTES (1u << 20)
#define CONFIGURATION_DESCRIPTORS 4096u

struct configuration {
	struct worker_config worker; /* its texts belong to `tree` */
	const char *result, *lock;
	bool tell_progress; /* of restoring */
	bool has_user; /* "sandbox" names one */
	unsigned uid, gid;
	struct nat_config nats[WORKER_MAX_ADAPTERS]; /* of adapters behind one */
	struct vm_files *files[WORKER_MAX_DISKS];
	uint64_t named[CONFIGURATION_DESCRIPTORS / 64]; /* descriptors that it names, a bit for each */
	json_t *tree;
};

/* -EINVAL with a sentence, and nothing to free; else configuration_free(). */
int configuration_parse(struct configuration *out, const char *text, size_t size, struct error *err);

/* The same from a file to its end; -EFBIG over CONFIGURATION_MAX_BYTES. */
int configuration_read(struct configuration *out, int fd, struct error *err);

void configuration_free(struct configuration *configuration);

/* The address of one adapter. False: it is none. */
bool configuration_mac(const char *text, uint8_t mac[6]);

/* All descriptors from 3 on are closed, but those that it names, which no program that we start gets. -EINVAL: one is not open. */
int configuration_close_others(const struct configuration *configuration, struct error *err);

/* Those that it names are closed: the machine has them, in a process of its own. */
void configuration_close_named(const struct configuration *configuration);
