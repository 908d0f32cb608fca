/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "cli/remote.h"
#include "cli/version.h"

static const char usage[] =
    "Usage: bulkhead [OPTION …] COMMAND …\n"
    "\n"
    "  run                    start a virtual machine in this terminal\n"
    "  control SOCKET VERB    talk to a running machine (run --control)\n"
    "  image VERB             guest images: build, list, import, delete; seed: settings for a first boot\n"
    "  disk VERB              make, look at and change virtual disks\n"
    "  vm VERB                machines that the daemon keeps: create, start, list …\n"
    "  job, event, host VERB  what it is doing, what happened, what there is\n"
    "\n"
    "Before vm, job, event and host, for a daemon on another host:\n"
    "  --host https://NAME:PORT  --token-file FILE  or  --certificate FILE --key FILE\n"
    "  --fingerprint sha256//…   the host's key, as bulkhead host show has it there\n"
    "  --ca-file FILE            or who vouches for it\n"
    "or in the environment: BULKHEAD_HOST, BULKHEAD_TOKEN_FILE and so on.\n"
    "\n"
    "bulkhead COMMAND --help tells the rest. --version says which this is.\n";

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

/* The daemon's clients are a program of their own: what they are linked to (libcurl, and all behind it) is no
 * business of a process in which a guest runs. */
int command_manage(int argc, char **argv)
{
	static const char *const places[] = {"bulkhead-manage", "../libexec/bulkhead-manage"};
	char self[4096], *path;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	(void)argc;
	if (n <= 0)
		return fail(1, "/proc/self/exe: %s", strerror(errno));
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	if (!strncmp(argv[0], "bulkhead: ", 10))
		argv[0] += 10;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		if (asprintf(&path, "%s/%s", self, places[i]) < 0)
			return fail(1, "no memory");
		execv(path, argv);
		free(path);
	}
	return fail(1, "bulkhead-manage is not beside bulkhead: install all of it");
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} commands[] = {{"run", command_run},
			{"control", command_control},
			{"disk", command_disk},
			{"image", command_image},
			{"vm", command_manage},
			{"job", command_manage},
			{"event", command_manage},
			{"host", command_manage}};
	struct error err = {0};

	fill_standard_descriptors();
	if (remote_take_options(&argc, &argv, &err))
		return fail(EXIT_USAGE, "%s", err.text);
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		fputs(usage, argc < 2 ? stderr : stdout);
		return argc < 2 ? EXIT_USAGE : 0;
	}
	if (!strcmp(argv[1], "--version")) {
		puts("bulkhead " BULKHEAD_VERSION);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		char name[32]; /* how getopt_long() begins what it says */

		if (strcmp(argv[1], commands[i].name))
			continue;
		snprintf(name, sizeof(name), "bulkhead: %s", argv[1]);
		argv[1] = name;
		return commands[i].run(argc - 1, argv + 1);
	}
	return fail(EXIT_USAGE, "there is no command \"%s\": see bulkhead --help", argv[1]);
}
