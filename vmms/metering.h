/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * metering.h - what machines take of the host, since each was started. Private to vmms/. On the loop's thread.
 *
 * Processor time and resident memory are the kernel's figures of the machine's process, disk and network traffic is what its worker
 * counted; a guest that resets begins at zero there.
 */
#pragma once

#include "vmms/daemon.h"

struct meter {
	char *name;
	char id[GUID_TEXT_SIZE];
	const char *state;
	int64_t state_since;
	bool runs, has_process, has_disk; /* has_…: it is known */
	uint64_t processors, memory_assigned, memory_resident;
	double cpu_seconds;
	uint64_t guest_seconds; /* that the guest has run, known with the disks */
	uint64_t disk_requests, disk_read, disk_written, disk_errors;
	/* By the guest, to it, and lost either way; known with the disks. */
	uint64_t network_sent_frames, network_sent, network_received_frames, network_received, network_dropped;
	json_t *adapters; /* as the worker tells of them; NULL: it is not known */
	json_t *guest, *heartbeat; /* likewise: what the guest says of itself, and whether it is alive */
	bool metered;     /* resource metering is enabled, or was when it was asked */
	json_t *report;   /* then: as measure_report(); NULL: it is not enabled any more */
};

/* Bytes of the host's memory that a machine, which has a worker, has been given. 0: none, or it cannot be told. */
uint64_t metering_resident(const struct machine *machine);

/* What the host could give without taking it from somebody; 0: it does not tell. */
uint64_t host_memory_available(void);

/* The process of a machine that has a worker: its processor time in microseconds, and the bytes of it that are in the host's memory. -ESRCH:
 * it is not there any more. */
int metering_process(const struct machine *machine, int64_t *cpu_us, int64_t *resident);

/* Measures a machine, or all if `machine` is NULL, asking their workers; `done` is called once, perhaps before this
 * returns, within two seconds: the meters of whoever did not answer by then have no figures of disks and networks. They are gone when it
 * returns. -ENOMEM: it is not called. */
int metering_take(struct vmms *vmms, const struct machine *machine,
    void (*done)(void *context, const struct meter *meters, size_t count), void *context, struct error *err);
