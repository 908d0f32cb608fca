/* SPDX-License-Identifier: GPL-2.0-or-later */
/* main.c - the program bulkheadd. */
#include <errno.h>
#include <getopt.h>
#include <linux/capability.h>
#include <string.h>

#include "base/privileges.h"
#include "vmms/config.h"
#include "vmms/host_config.h"
#include "vmms/systemd.h"
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
    "  --cgroup DIR      a control group (version 2) that is ours to use: each machine gets one of its own in it\n"
    "  --schema NAME     print the JSON schema of vm.json or host.json and end\n"
    "  --verbose         tell on standard error what happens\n"
    "\n"
    "SIGTERM ends it; SIGHUP has it read host.json anew, as bulkhead host reload does. Under systemd it says when it is ready, and takes the socket that it is given.\n";

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

/* What the manager that root runs has of root's rights, with all that it starts; packaging/systemd has the same list. */
static const unsigned char capabilities[] = {
    CAP_DAC_OVERRIDE, /* disks and directories of any user */
    CAP_CHOWN, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP, CAP_SYS_CHROOT, /* root file systems of images, by mmdebstrap */
    CAP_NET_ADMIN, CAP_NET_RAW, /* tap interfaces and switches, which Open vSwitch has in packet sockets, too */
    CAP_NET_BIND_SERVICE, /* ports below 1024: its own, and those that are forwarded to a machine */
    CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID, CAP_SETPCAP, /* namespaces and a user for each machine, which has no capability */
    CAP_KILL, /* a machine of another user */
    CAP_SYS_PTRACE, /* a worker is known by what it has open, also one that has more rights: a manager of before has started it */
};

static int complain(int status, const char *text)
{
	fprintf(stderr, "bulkheadd: %s\n", text);
	return status;
}

static int print_schema(const char *name)
{
	const struct form *form = !strcmp(name, "vm.json") ? &vm_config_form : !strcmp(name, "host.json") ? &host_config_form : NULL;
	json_t *schema;
	int r;

	if (!form)
		return complain(EXIT_USAGE, "--schema: choose vm.json or host.json");
	schema = form_document(form);
	r = json_dumpf(schema, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(schema);
	return r || fflush(stdout) ? complain(1, "the schema cannot be printed") : 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"user", no_argument, NULL, 'u'},     {"state", required_argument, NULL, 's'},
						{"runtime", required_argument, NULL, 'r'}, {"worker", required_argument, NULL, 'w'},
						{"config", required_argument, NULL, 'c'},
						{"cgroup", required_argument, NULL, 'g'},
						{"schema", required_argument, NULL, 'S'},
						{"verbose", no_argument, NULL, 'v'},  {"help", no_argument, NULL, 'h'},
						{"version", no_argument, NULL, 'V'},  {NULL, 0, NULL, 0}};
	_cleanup_free_ char *state = NULL, *runtime = NULL, *worker = NULL, *config = NULL;
	struct vmms_options o = {.listener = systemd_listener(), .ready = systemd_ready};
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
		case 'g':
			o.cgroup = optarg;
			break;
		case 'S':
			return print_schema(optarg);
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
	if (!o.config) {
		o.config = config = vmms_default_config(user);
		o.config_may_miss = true;
	}
	if (!o.worker)
		o.worker = worker = find_worker();
	if (!o.worker)
		return complain(1, "bulkhead-worker is not beside this program: name it by --worker");
	if (getuid() == 0 && privileges_keep(capabilities, ARRAY_SIZE(capabilities), &err))
		complain(0, err.text);
	return vmms_run(&o, &err) ? complain(1, err.text) : 0;
}
