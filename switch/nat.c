/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/nat.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define ARGUMENTS_MAX (NAT_FORWARDS_MAX * 2 + 8)
#define BUFFER_SIZE   (4 << 20) /* as much as the host allows */

/* Ports that are tried first: of those that neither a service is known by nor the kernel gives to whoever asks for any. */
#define PREFERRED_FIRST 20000u
#define PREFERRED_COUNT 10000u

/* --- what is forwarded --------------------------------------------------------------------------------- */

static bool parse_port(const char *text, unsigned *port)
{
	char *rest;
	unsigned long value = strtoul(text, &rest, 10);

	if (text[0] < '0' || text[0] > '9' || *rest || value < 1 || value > 65535)
		return false;
	*port = (unsigned)value;
	return true;
}

int nat_forward_parse(struct nat_forward *out, const char *text, struct error *err)
{
	char copy[128], *at = copy, *guest, *host;
	struct in_addr address;

	*out = (struct nat_forward){.host = "127.0.0.1"};
	if (strlen(text) >= sizeof(copy))
		return error_set(err, EINVAL, "%.100s: write [udp:][ADDRESS:]HOSTPORT:GUESTPORT", text);
	strcpy(copy, text);
	if (!strncmp(at, "udp:", 4) || !strncmp(at, "tcp:", 4)) {
		out->udp = *at == 'u';
		at += 4;
	}
	guest = strrchr(at, ':');
	if (!guest)
		return error_set(err, EINVAL, "%s: write [udp:][ADDRESS:]HOSTPORT:GUESTPORT", text);
	*guest++ = '\0';
	host = strrchr(at, ':');
	if (host) {
		*host++ = '\0';
		if (inet_pton(AF_INET, at, &address) != 1)
			return error_set(err, EINVAL, "%s: \"%s\" is no IPv4 address", text, at);
		inet_ntop(AF_INET, &address, out->host, sizeof(out->host));
	} else {
		host = at;
	}
	out->any = !strcmp(host, "auto");
	if ((!out->any && !parse_port(host, &out->host_port)) || !parse_port(guest, &out->guest_port))
		return error_set(err, EINVAL, "%s: a port is a number from 1 to 65535, or of the host auto", text);
	return 0;
}

void nat_prefer_ports(struct nat_config *config, const uint8_t mac[6])
{
	unsigned number = (unsigned)mac[3] << 16 | (unsigned)mac[4] << 8 | mac[5];

	for (unsigned i = 0; i < config->forward_count; i++)
		if (config->forwards[i].any)
			config->forwards[i].host_port = PREFERRED_FIRST + (number + i) % PREFERRED_COUNT;
}

/* --- the process ------------------------------------------------------------------------------------------ */

/* Beside this program, or where it lies in a build tree or an installation. */
static int find_program(char *path, size_t size, struct error *err)
{
	static const char *const places[] = {"bulkhead-nat", "../switch/bulkhead-nat", "../libexec/bulkhead-nat"};
	char own[PATH_MAX], *slash;
	ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);

	if (n > 0) {
		own[n] = '\0';
		slash = strrchr(own, '/');
		*slash = '\0';
		for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
			snprintf(path, size, "%.2000s/%s", own, places[i]);
			if (access(path, X_OK) == 0)
				return 0;
		}
	}
	return error_set(err, ENOENT, "the program bulkhead-nat, which is the default switch, is not beside this one");
}

struct arguments {
	char *list[ARGUMENTS_MAX];
	unsigned count;
	bool failed;
};

static void __attribute__((format(printf, 2, 3))) add(struct arguments *a, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	if (a->count + 1 >= ARGUMENTS_MAX || vasprintf(&a->list[a->count], format, list) < 0)
		a->failed = true;
	else
		a->count++;
	va_end(list);
}

static void build(struct arguments *a, const struct nat_config *config)
{
	add(a, "bulkhead-nat");
	if (config->host_loopback)
		add(a, "--host-loopback");
	if (config->outlives)
		add(a, "--outlive");
	if (config->has_user)
		add(a, "--user=%u:%u", config->uid, config->gid);
	for (unsigned i = 0; i < config->forward_count; i++) {
		const struct nat_forward *f = &config->forwards[i];

		if (f->host_port || f->any)
			add(a, "--forward%s=%s:%s:%u:%u", f->any ? "-any" : "", f->udp ? "udp" : "tcp", f->host, f->host_port, f->guest_port);
		else
			add(a, "--forward-unix=%u:%s", f->guest_port, f->path);
	}
}

/* Only what may be called between fork() and exec(). Descriptor 3 is the socket, 4 tells how it went. */
static void become(const char *path, char **arguments, int socket, int status)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	sigset_t none;

	/* Nobody waits for the end of our output because of it; its log is ours. */
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0)
		_exit(127);
	/* Above what is overwritten. */
	socket = fcntl(socket, F_DUPFD, 10);
	status = fcntl(status, F_DUPFD, 10);
	if (socket < 0 || status < 0 || dup2(socket, 3) < 0 || dup2(status, 4) < 0)
		_exit(127);
	close_range(5, UINT_MAX, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(path, arguments);
	_exit(127);
}

/* "ok", and a number for each `any`. */
static bool take_ports(const char *text, struct nat_config *config)
{
	char *rest;

	if (strncmp(text, "ok", 2))
		return false;
	text += 2;
	for (unsigned i = 0; i < config->forward_count; i++) {
		if (!config->forwards[i].any)
			continue;
		if (*text != ' ')
			return false;
		config->forwards[i].host_port = (unsigned)strtoul(text + 1, &rest, 10);
		text = rest;
	}
	return !strcmp(text, "\n");
}

/* Nothing when all is well, else the sentence. */
static int read_status(int fd, pid_t pid, struct nat_config *config, struct error *err)
{
	char text[400];
	size_t used = 0;
	ssize_t n;

	while (used < sizeof(text) - 1 && (n = read(fd, text + used, sizeof(text) - 1 - used)) != 0) {
		if (n < 0 && errno != EINTR)
			break;
		if (n > 0)
			used += (size_t)n;
	}
	text[used] = '\0';
	if (take_ports(text, config))
		return 0;
	waitpid(pid, NULL, 0);
	text[strcspn(text, "\n")] = '\0';
	return error_set(err, EIO, "the default switch does not start: %s", used ? text : "bulkhead-nat ended at once");
}

/* Here, and not by who uses the port: it may have no right to. */
static void set_buffer(int fd)
{
	int size = BUFFER_SIZE;

	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static int run(const char *path, struct arguments *a, const int *pair, const int *status, pid_t *pid, struct error *err)
{
	*pid = fork();
	if (*pid < 0)
		return error_set(err, errno, "no process for the default switch: %s", strerror(errno));
	if (*pid == 0)
		become(path, a->list, pair[1], status[1]);
	return 0;
}

int nat_start(int *fd, pid_t *pid, struct nat_config *config, struct error *err)
{
	int pair[2] = {-1, -1}, status[2] = {-1, -1}, r;
	struct arguments a = {0};
	char path[PATH_MAX];

	build(&a, config);
	r = a.failed ? error_set(err, ENOMEM, "no memory for the default switch") : find_program(path, sizeof(path), err);
	if (!r && (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) || pipe2(status, O_CLOEXEC)))
		r = error_set(err, errno, "no way to the default switch: %s", strerror(errno));
	if (!r)
		r = run(path, &a, pair, status, pid, err);
	if (status[1] >= 0)
		close(status[1]);
	if (!r)
		r = read_status(status[0], *pid, config, err);
	if (!r)
		set_buffer(pair[0]);
	if (status[0] >= 0)
		close(status[0]);
	if (pair[1] >= 0)
		close(pair[1]);
	if (r && pair[0] >= 0)
		close(pair[0]);
	while (a.count)
		free(a.list[--a.count]);
	*fd = r ? -1 : pair[0];
	return r;
}
