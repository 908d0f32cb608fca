/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker.h - one virtual machine, from its configuration to its end: `bulkhead run`, and bulkhead-worker.
 *
 * worker_run() builds the machine, runs it in this process, serves its console and its control
 * socket, and returns when it is over. It takes SIGTERM, SIGINT and SIGHUP for the time it runs, and ignores
 * SIGPIPE from then on; one worker a process.
 */
#pragma once

#include "base/base.h"
#include "hypervisor/hypervisor.h"

#define WORKER_MAX_DISKS       64u
#define WORKER_MAX_CONTROLLERS 4u /* as many as Hyper-V gives a machine */
#define WORKER_MAX_MODULES     8u
#define WORKER_SERIAL_PORTS    2u
#define WORKER_MAX_ADAPTERS    8u /* as many as Hyper-V gives a machine */

/* The files of a disk that are open, from the one that is written down to the lowest that it continues. None: they are opened by
 * name. */
#define VM_FILES_MAX 64u
struct vm_files {
	int fds[VM_FILES_MAX];
	const char *names[VM_FILES_MAX];
	unsigned count;
	int record; /* of its changed blocks, with `count`; -1: none came */
};

struct worker_disk {
	const char *path; /* NULL: a DVD drive with no medium */
	bool read_only;
	bool dvd;
	unsigned controller;
	const struct vm_files *files; /* taken over; NULL: they are opened by name */
};

enum worker_serial_kind { WORKER_SERIAL_NONE, WORKER_SERIAL_STDIO, WORKER_SERIAL_UNIX, WORKER_SERIAL_FILE };

struct worker_serial {
	enum worker_serial_kind kind;
	const char *path;
};

/* What an adapter is plugged into: nothing, a process behind a socket (switch/port.h), a tap interface of the host, or
 * whichever of the two a descriptor is of. */
enum worker_port_kind { WORKER_PORT_NONE, WORKER_PORT_SOCKET, WORKER_PORT_TAP, WORKER_PORT_DESCRIPTOR };

#define WORKER_LABEL_SIZE   64u
#define WORKER_MAX_FORWARDS 32u

struct worker_adapter {
	uint8_t mac[6]; /* no other adapter of the machine has it */
	bool any_mac;   /* the guest may use others */
	enum worker_port_kind kind;
	int fd;          /* WORKER_PORT_SOCKET, WORKER_PORT_DESCRIPTOR; taken over */
	const char *tap; /* WORKER_PORT_TAP: its name */
	char label[WORKER_LABEL_SIZE]; /* what the manager calls the port; may be empty */
	uint16_t forwarded[WORKER_MAX_FORWARDS]; /* the host's ports that lead to the guest, for the manager to know */
	unsigned forwarded_count;
};

struct worker_config {
	const char *name;
	enum processor_kind processor;
	const char *processor_options;
	bool compatible; /* the guest sees only what every kind of processor serves */
	unsigned vp_count;
	uint64_t memory; /* bytes */
	const char *kernel, *initrd, *append;
	int kernel_fd, initrd_fd; /* open already, and taken over; 0: they are opened by name */
	const char *modules[WORKER_MAX_MODULES];
	unsigned module_count;
	struct worker_disk disks[WORKER_MAX_DISKS];
	unsigned disk_count;
	struct worker_adapter adapters[WORKER_MAX_ADAPTERS];
	unsigned adapter_count;
	struct worker_serial serial[WORKER_SERIAL_PORTS];
	const char *control_path; /* NULL: no control socket */
	const char *restore;      /* file of a saved machine, with which it begins; NULL: it boots */
	int restore_fd;           /* as kernel_fd */
	bool exit_port;           /* bare test guests end by port 0xf4 */
	bool no_reboot;           /* a reset ends the run */
	bool detached;            /* no terminal is behind it: SIGHUP is not taken */
	bool confined;            /* after `opened`, nothing can be opened by name, and no ring of io_uring made */

	/* On the thread of worker_run(); an error ends the run as not started. NULL: nobody asks. */
	int (*opened)(void *context, unsigned files, struct error *err); /* all is open, so many files of disks; there is one thread, and no machine yet */
	int (*ready)(void *context, struct error *err);  /* the guest's first instruction comes next */
	/* How much of a saved machine's memory is there again, in bytes; on a thread of its own. NULL: nobody asks. */
	void (*restoring)(void *context, uint64_t done, uint64_t total);
	void *context; /* of all three */
};

/* The kind of processor and its options, from "kvm", "soft,translate=off" and the like. `text` must live as long as
 * the configuration. */
int worker_set_processor(struct worker_config *config, const char *text, struct error *err);

/* How a run ended; also the exit status of `bulkhead run`. */
enum worker_result {
	WORKER_POWERED_OFF = 0, /* the guest turned itself off (or was asked to) */
	WORKER_NOT_STARTED = 1, /* `err` says why */
	WORKER_GUEST_FAILED = 3, /* triple fault, processor error, or it reported a crash before it ended */
	WORKER_POWER_CUT = 4,   /* from outside: second SIGTERM, console key, control command */
	WORKER_SAVED = 5        /* its state is in the file that came with the control command */
};

#define WORKER_METERING_SIZE 32768u

struct worker_end {
	uint32_t guest_code; /* with exit_port, what a bare guest ended by ((v << 1) | 1 for a write of v), else 0 */
	bool reset;          /* with no_reboot: it was a reset */
	char text[512];      /* on WORKER_GUEST_FAILED, what there is to say about it */
	uint64_t cpu_us;     /* processor time of its process; 0: it is not known */
	char metering[WORKER_METERING_SIZE]; /* what it did, in JSON as docs/worker.md has it; "": it is not known */
};

/* On WORKER_NOT_STARTED nothing ran and the files are as they were. */
enum worker_result worker_run(const struct worker_config *config, struct worker_end *end, struct error *err);

/* Send one command to the control socket of a running worker and print the answer: the text for a
 * person, or the JSON as it came. Returns 0, or a negative errno with `err` set. */
int worker_control(const char *path, int argc, char *const argv[], bool json, FILE *out, struct error *err);
