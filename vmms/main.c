/* SPDX-License-Identifier: GPL-2.0-or-later */
/* main.c - the program bulkheadd. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <string.h>

#include "vmms/version.h"
#include "vmms/vmms.h"

static const char usage[] =
    "Usage: bulkheadd [--user] [OPTION …]\n"
    "\n"
    "Keeps the machines of this host and answers bulkhead and REST clients. Machines go on running when it\n"
    "ends, and are taken over when it is back.\n"
    "\n"
    "  --user            for this user alone, with no privilege: state in ~/.local/share/bulkhead, sockets in\n"
    "                    $XDG_RUNTIME_DIR/bulkhead. The default for whoever is not root\n"
    "  --state DIR       where machines, images and host.db are (/var/lib/bulkhead)\n"
    "  --runtime DIR     where sockets are (/run/bulkhead); the interface is DIR/api\n"
    "  --config FILE     what this host is to be, host.json (/etc/bulkhead/host.json if it is there, with --user\n"
    "                    ~/.config/bulkhead/host.json): HTTPS, and who may do what\n"
    "  --worker FILE     the program bulkhead-worker (beside this one)\n"
    "  --verbose         tell on standard error what happens\n"
    "\n"
    "SIGTERM ends it. Under systemd it says when it is ready, and takes the socket that it is given.\n";

#define EXIT_USAGE 2

/* Beside this program, or, where it was built, in the room next door. */
static char *find_worker(void)
{
	static const char *const places[] = {"bulkhead-worker", "../worker/bulkhead-worker", "../libexec/bulkhead-worker"};
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *path;

	if (n <= 0)
		return NULL;
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		if (asprintf(&path, "%s/%s", self, places[i]) < 0)
			return NULL;
		if (!access(path, X_OK))
			return path;
		free(path);
	}
	return NULL;
}

/* sd_listen_fds(3): the first descriptor is 3. */
static int handed_over(void)
{
	const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");

	if (!pid || !count || atoi(pid) != getpid() || atoi(count) < 1)
		return -1;
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	fcntl(3, F_SETFD, FD_CLOEXEC);
	return 3;
}

static int complain(int status, const char *text)
{
	fprintf(stderr, "bulkheadd: %s\n", text);
	return status;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"user", no_argument, NULL, 'u'},     {"state", required_argument, NULL, 's'},
						{"runtime", required_argument, NULL, 'r'}, {"worker", required_argument, NULL, 'w'},
						{"config", required_argument, NULL, 'c'},
						{"verbose", no_argument, NULL, 'v'},  {"help", no_argument, NULL, 'h'},
						{"version", no_argument, NULL, 'V'},  {NULL, 0, NULL, 0}};
	_cleanup_free_ char *state = NULL, *runtime = NULL, *worker = NULL, *config = NULL;
	struct vmms_options o = {.listener = handed_over()};
	bool user = getuid() != 0;
	struct error err = {0};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'u':
			user = true;
			break;
		case 's':
			o.state = optarg;
			break;
		case 'r':
			o.runtime = optarg;
			break;
		case 'c':
			o.config = optarg;
			break;
		case 'w':
			o.worker = optarg;
			break;
		case 'v':
			log_set_level(LOG_LEVEL_INFO);
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		case 'V':
			puts("bulkheadd " BULKHEAD_VERSION);
			return 0;
		default:
			return EXIT_USAGE;
		}
	}
	if (optind < argc)
		return complain(EXIT_USAGE, "it takes no arguments, only options: see --help");
	if (!(o.state && o.runtime) && vmms_default_places(user, &state, &runtime, &err))
		return complain(1, err.text);
	if (!o.state)
		o.state = state;
	if (!o.runtime)
		o.runtime = runtime;
	if (!o.config)
		o.config = config = vmms_default_config(user);
	if (!o.worker)
		o.worker = worker = find_worker();
	if (!o.worker)
		return complain(1, "bulkhead-worker is not beside this program: name it by --worker");
	return vmms_run(&o, &err) ? complain(1, err.text) : 0;
}
