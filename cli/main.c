/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "cli/remote.h"
#include "cli/version.h"

static const struct {
	const char *name, *arguments, *summary;
	int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "", "start a virtual machine in this terminal", command_run},
    {"control", "SOCKET VERB", "talk to a running machine (run --control)", command_control},
    {"disk", "VERB", "make, look at and change virtual disks", command_disk},
    {"image", "VERB", "what machines are made from: build, list, import, delete; settings for a first boot", command_image},
    {"vm", "VERB", "machines that the daemon keeps: create, start, list …", command_manage},
    {"checkpoint", "VERB", "what machines were at some time, to go back to", command_manage},
    {"switch", "VERB", "virtual switches that machines are plugged into", command_manage},
    {"job", "VERB", "what the daemon is doing", command_manage},
    {"event", "VERB", "what happened", command_manage},
    {"host", "VERB", "this host and its daemon", command_manage},
};

static const char text[] = "Virtual machines made for Hyper-V, on Linux.\n";

static const char remote_text[] =
    "Before vm, checkpoint, switch, image, job, event and host, for a daemon on another host:\n"
    "\n"
    "  --host https://NAME:PORT  it\n"
    "  --token-file FILE         who asks; or\n"
    "  --certificate FILE --key FILE\n"
    "  --fingerprint sha256//…   the host's key, as bulkhead host show has it there; or\n"
    "  --ca-file FILE            who vouches for it\n"
    "\n"
    "or in the environment: BULKHEAD_HOST, BULKHEAD_TOKEN_FILE and so on.\n";

static void print_usage(FILE *to)
{
	fprintf(to, "Usage: bulkhead COMMAND …\n\n%s\n", text);
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(to, "  %-10s %-13s  %s\n", commands[i].name, commands[i].arguments, commands[i].summary);
	fprintf(to, "\n%s\nbulkhead COMMAND --help tells the rest. --version says which this is.\n" STATUS_TEXT ";\nrun has others.\n", remote_text);
}

static int dump(void)
{
	json_t *all = dump_new("bulkhead", text);

	json_object_set_new(all, "remote", json_string(remote_text));
	json_object_set_new(all, "version", json_string(BULKHEAD_VERSION));
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		dump_verb(all, commands[i].name, commands[i].summary, commands[i].arguments, "");
	return dump_print(all);
}

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
	struct error err = {0};

	fill_standard_descriptors();
	if (argc == 3 && !strcmp(argv[1], "help") && !strcmp(argv[2], "--dump"))
		return dump();
	if (remote_take_options(&argc, &argv, &err))
		return fail(EXIT_USAGE, "%s", err.text);
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		print_usage(argc < 2 ? stderr : stdout);
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
