/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bulkhead_worker.c - the program that is one virtual machine for a manager: docs/worker.md.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/configuration.h"
#include "worker/lock_file.h"
#include "worker/result_file.h"

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
    "3 the guest crashed; 4 the power was cut.\n";

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

/* Tells whoever started it, the log and the result file, which has a path once the lock is ours. */
static int not_started(const char *result_path, const struct error *why)
{
	struct worker_end end = {0};
	struct error err = {0};

	fprintf(stderr, "bulkhead: %s\n", why->text);
	/* First: whoever reads the line may look into the file. */
	if (result_path && result_file_write(result_path, WORKER_NOT_STARTED, &end, why->text, &err))
		fprintf(stderr, "bulkhead: %s\n", err.text);
	tell_not_started(why);
	return WORKER_NOT_STARTED;
}

static int on_ready(void *context, struct error *err)
{
	(void)context;
	return tell_started(err);
}

static int run(struct configuration *c)
{
	enum worker_result result;
	struct error err = {0};
	struct worker_end end;

	c->worker.detached = true;
	c->worker.ready = on_ready;
	result = worker_run(&c->worker, &end, &err);
	if (result == WORKER_NOT_STARTED)
		return not_started(c->result, &err);
	if (result_file_write(c->result, result, &end, end.text, &err))
		fprintf(stderr, "bulkhead: %s\n", err.text);
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
	int lock, status;

	fill_standard_descriptors();
	if (argc > 1)
		return look_at_options(argc, argv);
	if (configuration_read(&configuration, STDIN_FILENO, &err))
		return not_started(NULL, &err);
	detach();
	lock = lock_file_take(configuration.lock, &err);
	if (lock < 0) {
		configuration_free(&configuration);
		return not_started(NULL, &err);
	}
	status = run(&configuration);
	close(lock);
	configuration_free(&configuration);
	return status;
}
