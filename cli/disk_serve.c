/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_serve.c - `bulkhead disk serve`: nbdkit with our plug-in, on a socket that is made here. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "cli/disk_tool.h"
#include "cli/version.h"

#define PLUGIN_NAME "nbdkit-bulkhead-plugin.so"

enum { LISTEN_FD = 3, READY_FD = 4 }; /* in nbdkit; 3 is what socket activation asks for */

struct service {
	const char *file, *socket, *address, *format;
	unsigned port;
	bool read_only, with_port;
	char *default_socket, *uri;
	char plugin[4096];
	int listener;
	bool bound; /* the socket's file is ours to remove */
	pid_t server;
};

/* Beside this program: where it was built, or where it was installed. */
static int find_plugin(struct service *s, struct error *err)
{
	static const char *const places[] = {"../disk/" PLUGIN_NAME, "../" BULKHEAD_PLUGINS "/" PLUGIN_NAME};
	char self[2048], *slash;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		return error_set(err, errno, "/proc/self/exe cannot be read: %s", strerror(errno));
	self[n] = '\0';
	slash = strrchr(self, '/');
	*slash = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		snprintf(s->plugin, sizeof(s->plugin), "%s/%s", self, places[i]);
		if (access(s->plugin, R_OK) == 0)
			return 0;
	}
	return error_set(err, ENOENT, "%s is missing: build all of it (scripts/build release), or install it with this program", s->plugin);
}

static int busy_or(struct service *s, const char *place, struct error *err)
{
	if (errno == EADDRINUSE)
		return error_set(err, EADDRINUSE, "%s: something is there already; choose another place%s",
				 place, s->with_port ? "" : ", or remove it if nobody serves there");
	return error_set(err, errno, "%s: cannot be listened on: %s", place, strerror(errno));
}

static int listen_locally(struct service *s, struct error *err)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};

	if (strlen(s->socket) >= sizeof(name.sun_path))
		return error_set(err, ENAMETOOLONG, "%s: too long for a socket; choose one by --socket", s->socket);
	strcpy(name.sun_path, s->socket);
	s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->listener < 0 || bind(s->listener, (struct sockaddr *)&name, sizeof(name)) < 0)
		return busy_or(s, s->socket, err);
	s->bound = true;
	if (listen(s->listener, SOMAXCONN) < 0)
		return busy_or(s, s->socket, err);
	return asprintf(&s->uri, "nbd+unix:///?socket=%s", s->socket) < 0 ? error_set(err, ENOMEM, "no memory") : 0;
}

static int listen_on_port(struct service *s, struct error *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	struct addrinfo *found;
	bool six = strchr(s->address, ':') != NULL;
	const int one = 1;
	char port[8];
	int r;

	snprintf(port, sizeof(port), "%u", s->port);
	r = getaddrinfo(s->address, port, &hints, &found);
	if (r != 0)
		return error_set(err, EINVAL, "--address %s: %s", s->address, gai_strerror(r));
	s->listener = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->listener >= 0)
		setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (s->listener < 0 || bind(s->listener, found->ai_addr, found->ai_addrlen) < 0 ||
	    listen(s->listener, SOMAXCONN) < 0)
		r = busy_or(s, port, err);
	freeaddrinfo(found);
	if (r == 0 && asprintf(&s->uri, six ? "nbd://[%s]:%u" : "nbd://%s:%u", s->address, s->port) < 0)
		r = error_set(err, ENOMEM, "no memory");
	return r;
}

/* In the child: becomes nbdkit. It ends by itself when this program is killed. */
static void become_server(const struct service *s, int ready)
{
	char file[4200], read_only[32], format[64], pid[16];
	const char *const arguments[] = {"nbdkit",  "--foreground", "--exit-with-parent", "--pidfile", "/dev/fd/4",
					 s->plugin, file,	    read_only,		  format,      NULL};

	snprintf(file, sizeof(file), "file=%s", s->file);
	snprintf(read_only, sizeof(read_only), "read-only=%s", s->read_only ? "true" : "false");
	snprintf(format, sizeof(format), "format=%s", s->format);
	snprintf(pid, sizeof(pid), "%d", getpid());
	/* Neither may be in the other's place; what is duplicated is not closed by exec. */
	ready = fcntl(ready, F_DUPFD_CLOEXEC, 10);
	if (ready < 0 || dup2(s->listener, LISTEN_FD) < 0 || dup2(ready, READY_FD) < 0)
		_exit(126);
	if (s->listener == LISTEN_FD)
		fcntl(LISTEN_FD, F_SETFD, 0);
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_PID", pid, 1);
	unsetenv("LISTEN_FDNAMES");
	execvp(arguments[0], (char *const *)arguments);
	fail(127, "nbdkit, which serves disks, cannot be started: %s; install it (Debian: nbdkit)",
	     strerror(errno));
	_exit(127);
}

/* Waits until nbdkit has opened the disk and begins to serve. */
static int wait_ready(struct service *s, int ready, struct error *err)
{
	char text[32];
	ssize_t n;

	do
		n = read(ready, text, sizeof(text));
	while (n < 0 && errno == EINTR && !tool_interrupted());
	if (n > 0)
		return 0;
	if (n < 0)
		return error_set(err, ECANCELED, "%s: stopped before it was served", s->file);
	return error_set(err, EIO, "%s: is not served; nbdkit has said why", s->file);
}

static int start_server(struct service *s, struct error *err)
{
	int ready[2], r;

	if (pipe2(ready, O_CLOEXEC) < 0)
		return error_set(err, errno, "no pipe to nbdkit: %s", strerror(errno));
	s->server = fork();
	if (s->server == 0)
		become_server(s, ready[1]);
	r = s->server < 0 ? error_set(err, errno, "nbdkit cannot be started: %s", strerror(errno)) : 0;
	close(ready[1]);
	if (r == 0)
		r = wait_ready(s, ready[0], err);
	close(ready[0]);
	return r;
}

/* Until nbdkit ends, which it does when we are told to. */
static int wait_server(struct service *s, struct error *err)
{
	_cleanup_close_ int server = pidfd_open(s->server, 0);
	struct pollfd fd = {.fd = server, .events = POLLIN};
	sigset_t stops, before;
	bool told = false;
	int status = 0;

	/* Signals come while ppoll() waits, and not between the question and the wait. */
	sigemptyset(&stops);
	sigaddset(&stops, SIGINT);
	sigaddset(&stops, SIGTERM);
	sigprocmask(SIG_BLOCK, &stops, &before);
	do {
		if (tool_interrupted() && !told) {
			kill(s->server, SIGTERM);
			told = true;
		}
	} while (server >= 0 && ppoll(&fd, 1, NULL, told ? NULL : &before) < 0 && errno == EINTR);
	if (waitpid(s->server, &status, 0) < 0)
		status = 0;
	sigprocmask(SIG_SETMASK, &before, NULL);
	s->server = 0;
	if ((WIFEXITED(status) && WEXITSTATUS(status) == 0) || (told && WIFSIGNALED(status)))
		return 0;
	return error_set(err, EIO, "%s: nbdkit has ended with status %#x", s->file, (unsigned)status);
}

static int serve(struct tool *tool, struct service *s, struct error *err)
{
	int r = find_plugin(s, err);

	if (r == 0)
		r = s->with_port ? listen_on_port(s, err) : listen_locally(s, err);
	if (r == 0)
		r = start_server(s, err);
	if (r == 0) {
		json_object_set_new(tool->result, "file", json_string(s->file));
		json_object_set_new(tool->result, "uri", json_string(s->uri));
		if (!tool->json)
			printf("%s is served at %s\n", s->file, s->uri);
		fflush(stdout);
		tool_print_now(tool);
		return wait_server(s, err);
	}
	if (s->server > 0) {
		kill(s->server, SIGTERM);
		wait_server(s, NULL);
	}
	return r;
}

static int take_options(struct tool *tool, int argc, char **argv, struct service *s)
{
	static const struct option options[] = {
	    {"socket", required_argument, NULL, 's'},  {"port", required_argument, NULL, 'p'},
	    {"address", required_argument, NULL, 'a'}, {"read-only", no_argument, NULL, 'r'},
	    {"raw", no_argument, NULL, 'w'},	       {NULL, 0, NULL, 0}};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?')
			return EXIT_USAGE;
		if (option == 's')
			s->socket = optarg;
		else if (option == 'a')
			s->address = optarg;
		else if (option == 'r')
			s->read_only = true;
		else if (option == 'w')
			s->format = "raw";
		else if (!parse_number(optarg, 65535, &s->port) || s->port == 0)
			return tool_usage(tool, "--port: choose from 1 to 65535 (NBD's own is 10809)");
		else
			s->with_port = true;
	}
	if (argc - optind != 1)
		return tool_usage(tool, "say which file: see bulkhead disk serve --help");
	if (s->with_port && s->socket)
		return tool_usage(tool, "--socket and --port: choose one of them");
	s->file = argv[optind];
	return 0;
}

static int run_serve(struct tool *tool, int argc, char **argv)
{
	struct service s = {.address = "127.0.0.1", .format = "auto", .listener = -1};
	int r, status = take_options(tool, argc, argv, &s);
	struct error err = {0};

	if (status)
		return status;
	if (!s.socket && asprintf(&s.default_socket, "%s.nbd", s.file) < 0)
		return fail(1, "no memory");
	if (!s.socket)
		s.socket = s.default_socket;
	tool_catch_signals();
	r = serve(tool, &s, &err);
	if (s.listener >= 0)
		close(s.listener);
	if (s.bound)
		unlink(s.socket);
	free(s.default_socket);
	free(s.uri);
	return r < 0 ? tool_fail(tool, &err) : 0;
}

const struct disk_verb disk_verb_serve = {
    .name = "serve",
    .summary = "let any NBD client use a disk",
    .arguments = "FILE [OPTION…]",
    .text = "Serves FILE by the protocol NBD until it is interrupted (Ctrl-C), which is no failure. Says where, or\n"
	    "with --json prints an object with \"uri\", as soon as clients may come. nbdkit has to be installed.\n"
	    "\n"
	    "  --socket PATH      a local socket (FILE.nbd); whoever may open it may use the disk\n"
	    "  --port N           TCP instead, without encryption: for hosts that trust each other\n"
	    "  --address ADDRESS  where the port is (127.0.0.1)\n"
	    "  --read-only        nothing is changed, and others may read FILE meanwhile\n"
	    "  --raw              the bytes of FILE, whatever they are\n",
    .run = run_serve,
};
