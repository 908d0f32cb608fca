/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bulkhead_worker.c - the program that is one virtual machine for a manager: docs/worker.md.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/configuration.h"
#include "worker/keeper.h"
#include "worker/lock_file.h"
#include "worker/needs.h"
#include "worker/result_file.h"
#include "worker/sandbox.h"

#define EXIT_USAGE 2

static const char usage[] =
    "Usage: bulkhead-worker < CONFIGURATION\n"
    "\n"
    "Runs one virtual machine for a manager, apart from any terminal. The configuration is a JSON object on\n"
    "standard input. One line on standard output says whether the guest runs; a file tells the end.\n"
    "By hand, use bulkhead run.\n"
    "\n"
    "  --help, --version\n"
    "\n"
    "Exit status: 0 the guest turned itself off; 1 the machine could not be started; 2 wrong options;\n"
    "3 the guest crashed; 4 the power was cut; 5 it was saved.\n";

/* Whoever starts us with a standard descriptor closed must not find a disk or a socket in its place. */
static void fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

/* No terminal and no parent takes the machine along when it goes. */
static void detach(void)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	/* The leader of a process group cannot; who made it one has seen to its session. */
	(void)setsid();
	umask(077);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		close(null);
	}
}

struct machine {
	struct configuration configuration;
	int keeper;
};

static int on_opened(void *context, unsigned files, struct error *err)
{
	const struct machine *m = context;
	const struct configuration *c = &m->configuration;
	const struct sandbox_config sandbox = {.has_user = c->has_user,
	    .uid = c->uid,
	    .gid = c->gid,
	    .kvm = c->worker.processor != PROCESSOR_SOFT,
	    .memory = needs_memory(&c->worker, files),
	    .addresses = needs_addresses(&c->worker, files),
	    .stack = NEEDS_STACK};

	keeper_tell_open(m->keeper);
	return sandbox_enter(&sandbox, err);
}

static void on_restoring(void *context, uint64_t done, uint64_t total)
{
	const struct machine *m = context;

	keeper_tell_restoring(m->keeper, done, total);
}

static int on_ready(void *context, struct error *err)
{
	const struct machine *m = context;

	return keeper_tell_started(m->keeper, err);
}

/* In a process of its own. */
static int run_machine(const struct configuration *configuration, int keeper)
{
	struct machine m = {*configuration, keeper};
	struct worker_config *w = &m.configuration.worker;
	enum worker_result result;
	struct error err = {0};
	struct worker_end end;

	w->detached = w->confined = true;
	w->opened = on_opened;
	w->ready = on_ready;
	w->restoring = m.configuration.tell_progress ? on_restoring : NULL;
	w->context = &m;
	result = worker_run(w, &end, &err);
	keeper_tell_end(keeper, result, &end, &err);
	return (int)result;
}

static int look_at_options(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--help")) {
		fputs(usage, stdout);
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		puts("bulkhead-worker " BULKHEAD_VERSION);
		return 0;
	}
	fprintf(stderr, "bulkhead-worker: \"%s\" is not an option: see bulkhead-worker --help\n", argv[1]);
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	struct configuration configuration;
	struct error err = {0};
	struct lock_file lock;
	int status;

	fill_standard_descriptors();
	if (argc > 1)
		return look_at_options(argc, argv);
	if (configuration_read(&configuration, STDIN_FILENO, &err))
		return not_started(NULL, &err);
	/* Nothing of the manager's is handed down to a guest, but what it names. */
	if (configuration_close_others(&configuration, &err)) {
		configuration_free(&configuration);
		return not_started(NULL, &err);
	}
	detach();
	if (lock_file_take(&lock, configuration.lock, configuration.worker.control_path, &err)) {
		configuration_free(&configuration);
		return not_started(NULL, &err);
	}
	status = keeper_run(&configuration, &lock, run_machine);
	close(lock.keeper);
	configuration_free(&configuration);
	return status;
}
