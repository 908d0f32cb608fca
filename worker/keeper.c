/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "worker/result_file.h"
#include "worker/sandbox.h"

enum message_kind { MESSAGE_OPEN = 1, MESSAGE_RESTORING, MESSAGE_STARTED, MESSAGE_END };

struct message {
	enum message_kind kind;
	enum worker_result result;
	struct error why;
	uint64_t done, total; /* of MESSAGE_RESTORING */
	struct worker_end end; /* of its last text only what there is goes over the channel */
};

#define MESSAGE_SIZE_LEAST (offsetof(struct message, end) + offsetof(struct worker_end, metering))
_Static_assert(MESSAGE_SIZE_LEAST + WORKER_METERING_SIZE <= sizeof(struct message), "the text is the last of all");

struct keeper {
	const struct configuration *configuration;
	pid_t child;
	int channel, signals;
	bool open, started, ended, stopped;
	uint64_t cpu_us;     /* of the child, when it has ended */
	struct message last; /* MESSAGE_END, once `ended` */
};

/* --- in the machine's process ------------------------------------------------------------------------------ */

static int send_message(int fd, const struct message *m)
{
	size_t size = MESSAGE_SIZE_LEAST + strnlen(m->end.metering, sizeof(m->end.metering) - 1) + 1;
	ssize_t n;

	do
		n = write(fd, m, size); /* SIGPIPE is ignored */
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

static int receive_message(int fd, struct message *m)
{
	ssize_t n;

	memset(m, 0, sizeof(*m));
	do
		n = read(fd, m, sizeof(*m));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n <= (ssize_t)MESSAGE_SIZE_LEAST)
		return -EPIPE;
	m->end.text[sizeof(m->end.text) - 1] = '\0';
	m->end.metering[sizeof(m->end.metering) - 1] = '\0';
	m->why.text[sizeof(m->why.text) - 1] = '\0';
	return 0;
}

void keeper_tell_open(int keeper)
{
	(void)send_message(keeper, &(struct message){.kind = MESSAGE_OPEN});
}

void keeper_tell_restoring(int keeper, uint64_t done, uint64_t total)
{
	(void)send_message(keeper, &(struct message){.kind = MESSAGE_RESTORING, .done = done, .total = total});
}

int keeper_tell_started(int keeper, struct error *err)
{
	struct message m = {.kind = MESSAGE_STARTED};
	int r = send_message(keeper, &m);

	if (!r)
		r = receive_message(keeper, &m);
	if (r)
		return error_set(err, -r, "the process that watches over the machine is gone: %s", strerror(-r));
	return m.why.code ? error_set(err, m.why.code, "%s", m.why.text) : 0;
}

void keeper_tell_end(int keeper, enum worker_result result, const struct worker_end *end, const struct error *why)
{
	struct message m = {.kind = MESSAGE_END, .result = result, .end = *end};

	if (why)
		m.why = *why;
	(void)send_message(keeper, &m);
}

/* --- outside ------------------------------------------------------------------------------------------------- */

/* The channel does not wait: with nothing more in it, it is closed. */
static void take_message(struct keeper *k)
{
	struct message m, reply = {.kind = MESSAGE_STARTED};

	if (receive_message(k->channel, &m)) {
		close(k->channel);
		k->channel = -1;
		return;
	}
	if (m.kind == MESSAGE_OPEN) {
		k->open = true;
	} else if (m.kind == MESSAGE_RESTORING && !k->started && k->configuration->tell_progress) {
		tell_restoring(min_u64(m.done, INT64_MAX), min_u64(m.total, INT64_MAX));
	} else if (m.kind == MESSAGE_STARTED && !k->started) {
		k->started = !tell_started(&reply.why);
		(void)send_message(k->channel, &reply);
	} else if (m.kind == MESSAGE_END) {
		k->last = m;
		k->ended = true;
	}
}

/* Returns whether the child has ended; *status is of waitpid(). */
static bool take_signal(struct keeper *k, int *status)
{
	struct signalfd_siginfo info;
	struct rusage usage;

	if (read(k->signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo != SIGCHLD) {
		if (info.ssi_signo != SIGUSR1)
			kill(k->child, SIGTERM);
		else if (k->configuration->worker.restore && !k->started)
			k->stopped = !kill(k->child, SIGKILL);
	}
	if (wait4(k->child, status, WNOHANG, &usage) != k->child)
		return false;
	k->cpu_us = (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000u + (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
	return true;
}

static int watch(struct keeper *k)
{
	int status = 0;

	for (;;) {
		struct pollfd fds[] = {{.fd = k->signals, .events = POLLIN}, {.fd = k->channel, .events = POLLIN}};

		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			take_message(k);
		if (fds[0].revents && take_signal(k, &status))
			break;
	}
	while (k->channel >= 0)
		take_message(k);
	return status;
}

/* What there is to say of a process that did not. */
static void explain(struct keeper *k, int status)
{
	char text[200];

	if (k->ended)
		return;
	if (k->stopped)
		snprintf(text, sizeof(text), "restoring was stopped, as was asked");
	else if (WIFSIGNALED(status))
		snprintf(text, sizeof(text), "the machine's process was killed by signal %d (%s)", WTERMSIG(status),
		    strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) == SANDBOX_EXIT)
		snprintf(text, sizeof(text), "the machine's process did what its sandbox forbids, and was stopped; its log says what");
	else
		snprintf(text, sizeof(text), "the machine's process ended with status %d and said nothing", WEXITSTATUS(status));
	k->last = (struct message){.kind = MESSAGE_END, .result = k->started ? WORKER_GUEST_FAILED : WORKER_NOT_STARTED};
	snprintf(k->last.end.text, sizeof(k->last.end.text), "%s", text);
	error_set(&k->last.why, ECHILD, "%s", text);
	if (k->started)
		log_write(LOG_LEVEL_ERROR, "%s", text);
}

static void remove_sockets(const struct configuration *c)
{
	if (c->worker.control_path)
		unlink(c->worker.control_path);
	for (unsigned i = 0; i < WORKER_SERIAL_PORTS; i++)
		if (c->worker.serial[i].kind == WORKER_SERIAL_UNIX)
			unlink(c->worker.serial[i].path);
}

/* The result first, then the line: whoever reads the line may look into the file. */
static int conclude(struct keeper *k)
{
	const char *result = k->configuration->result;
	struct message *m = &k->last;
	struct error err = {0};

	if (k->open)
		remove_sockets(k->configuration);
	if (m->result == WORKER_NOT_STARTED || !k->started) {
		if (!m->why.code)
			error_set(&m->why, ECHILD, "the machine's process did not say why it does not start");
		return not_started(result, &m->why);
	}
	if (m->result != WORKER_POWERED_OFF && m->result != WORKER_GUEST_FAILED && m->result != WORKER_POWER_CUT &&
	    m->result != WORKER_SAVED)
		m->result = WORKER_GUEST_FAILED;
	m->end.cpu_us = k->cpu_us;
	if (result_file_write(result, m->result, &m->end, m->end.text, &err))
		log_write(LOG_LEVEL_ERROR, "%s", err.text);
	return (int)m->result;
}

/* The child's first steps; it does not return. */
static void become_machine(const struct configuration *c, int channel, const sigset_t *mask,
    int (*machine)(const struct configuration *configuration, int keeper))
{
	struct pollfd keeper = {.fd = channel};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	/* It may have gone before that. */
	if (poll(&keeper, 1, 0) > 0 && keeper.revents & POLLHUP)
		_exit(WORKER_NOT_STARTED);
	if (null >= 0) {
		dup2(null, STDOUT_FILENO);
		close(null);
	}
	sigprocmask(SIG_SETMASK, mask, NULL);
	exit(machine(c, channel));
}

static void note_ports(struct worker_adapter *a, const struct nat_config *nat)
{
	_Static_assert(NAT_FORWARDS_MAX <= WORKER_MAX_FORWARDS, "each has its place");
	for (unsigned i = 0; i < nat->forward_count; i++)
		a->forwarded[i] = (uint16_t)nat->forwards[i].host_port;
	a->forwarded_count = nat->forward_count;
}

/* Before anything is given up: what is behind the adapters is outside of the sandbox, in a process of its own that ends
 * with this one. */
static int start_switches(struct configuration *c, struct error *err)
{
	for (unsigned i = 0; i < c->worker.adapter_count; i++) {
		pid_t pid;
		int r;

		if (c->worker.adapters[i].kind != WORKER_PORT_SOCKET)
			continue;
		c->nats[i].has_user = c->has_user;
		c->nats[i].uid = c->uid;
		c->nats[i].gid = c->gid;
		nat_prefer_ports(&c->nats[i], c->worker.adapters[i].mac);
		r = nat_start(&c->worker.adapters[i].fd, &pid, &c->nats[i], err);
		if (r)
			return r;
		note_ports(&c->worker.adapters[i], &c->nats[i]);
	}
	return 0;
}

static void close_switches(const struct configuration *c)
{
	for (unsigned i = 0; i < c->worker.adapter_count; i++)
		if (c->worker.adapters[i].kind == WORKER_PORT_SOCKET)
			close(c->worker.adapters[i].fd);
}

static int open_channel(struct keeper *k, int *child_end, const sigset_t *taken, struct error *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return error_set(err, errno, "no way to the machine's process: %s", strerror(errno));
	k->channel = pair[0];
	*child_end = pair[1];
	fcntl(k->channel, F_SETFL, O_NONBLOCK);
	k->signals = signalfd(-1, taken, SFD_CLOEXEC);
	return k->signals >= 0 ? 0 : error_set(err, errno, "signals cannot be taken: %s", strerror(errno));
}

int keeper_run(struct configuration *configuration, struct lock_file *lock,
    int (*machine)(const struct configuration *configuration, int keeper))
{
	struct keeper k = {.configuration = configuration};
	struct error err = {0};
	sigset_t taken, before;
	int child_end = -1;

	sigemptyset(&taken);
	sigaddset(&taken, SIGTERM);
	sigaddset(&taken, SIGINT);
	sigaddset(&taken, SIGCHLD);
	sigaddset(&taken, SIGUSR1);
	sigprocmask(SIG_BLOCK, &taken, &before);
	if (open_channel(&k, &child_end, &taken, &err) || start_switches(configuration, &err))
		return not_started(configuration->result, &err);
	sandbox_prepare();
	k.child = fork();
	if (k.child < 0) {
		error_set(&err, errno, "the machine's process cannot be started: %s", strerror(errno));
		return not_started(configuration->result, &err);
	}
	if (k.child == 0) {
		close(k.channel);
		close(k.signals);
		lock_file_keep(lock, true);
		become_machine(configuration, child_end, &before, machine);
	}
	close(child_end);
	lock_file_keep(lock, false);
	close_switches(configuration);
	configuration_close_named(configuration);
	explain(&k, watch(&k));
	return conclude(&k);
}
