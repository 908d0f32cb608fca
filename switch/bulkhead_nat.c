/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bulkhead_nat.c - the program that is the default switch of one guest: docs/network.md.
 *
 * Descriptor 3 is a SOCK_SEQPACKET socket to the adapter's port: one frame a message, behind a `struct virtio_net_hdr`; a header
 * alone tells what the guest takes undone. Descriptor 4 gets "ok" when it listens, or why it does not. It ends when the socket does.
 *
 * One thread. What comes from the socket is a guest's: lengths are checked before libslirp sees a frame, and frames that would
 * reach the host's loopback addresses are dropped.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <slirp/libslirp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "switch/nat_frames.h"
#include "switch/nat_sandbox.h"
#include "switch/port.h"

#define SOCKET_FD    3
#define STATUS_FD    4
#define BATCH        32u
#define RUN_MAX      64u        /* segments in one message to the guest */
#define QUEUE_MAX    (8u << 20) /* bytes for the guest that the socket does not take; more is lost, and TCP sends it again */
#define QUEUE_HIGH   (1u << 20) /* above it the host's sockets wait */
#define FORWARDS_MAX 32u
#define TIMERS_MAX   4u
#define DESCRIPTORS  4096u /* sockets of one guest */
#define HEADER       sizeof(struct virtio_net_hdr)
#define ANY_TRIES    10u
#define ANY_PAUSE_US 20000
#define PAUSE_MS     100 /* out of descriptors, nobody who connects is looked at for so long */

struct packet {
	struct packet *next;
	size_t size;
	uint8_t bytes[]; /* header and frame */
};

struct timer {
	bool used;
	SlirpTimerId id;
	void *opaque;
	int64_t due_ms; /* 0: not set */
};

struct forward {
	bool udp;
	bool any; /* what host says first, then whatever is free; from then on it is that one */
	struct sockaddr_in host;
	const char *path; /* a Unix socket instead */
	unsigned guest_port;
};

struct nat {
	Slirp *slirp;
	struct pollfd *fds;
	unsigned fd_count, fd_capacity;
	struct packet *first, **last; /* to the guest */
	size_t queued;
	struct timer timers[TIMERS_MAX];
	struct forward forwards[FORWARDS_MAX];
	unsigned forward_count;
	bool listens[DESCRIPTORS]; /* by descriptor */
	int64_t paused_until;	   /* milliseconds; those do not listen till then */
	bool host_loopback, outlives, has_user;
	bool takes_large; /* the guest, several segments as one */
	unsigned uid, gid;
	uint8_t frames[BATCH][NAT_MESSAGE_MAX + 2];
	struct nat_run runs[BATCH];
	struct iovec iov[BATCH][RUN_MAX + 1];
};

/* --- to the guest ------------------------------------------------------------------------------------------ */

static ssize_t from_slirp(const void *bytes, size_t size, void *opaque)
{
	/* Its own checksums are right. */
	const struct virtio_net_hdr header = {.flags = VIRTIO_NET_HDR_F_DATA_VALID};
	struct nat *nat = opaque;
	struct packet *packet;

	if (nat->queued + size > QUEUE_MAX)
		return (ssize_t)size;
	packet = malloc(sizeof(*packet) + HEADER + size);
	if (!packet)
		return (ssize_t)size;
	packet->next = NULL;
	packet->size = HEADER + size;
	memcpy(packet->bytes, &header, HEADER);
	memcpy(packet->bytes + HEADER, bytes, size);
	*nat->last = packet;
	nat->last = &packet->next;
	nat->queued += size;
	return (ssize_t)size;
}

/* The first of the queue, and those that follow it as one message: how many there are. */
static unsigned make_message(struct nat *nat, struct packet *packet, struct nat_run *run, struct iovec *iov, struct msghdr *message)
{
	unsigned count = 1;
	size_t offset;

	message->msg_iov = iov;
	message->msg_iovlen = 1;
	iov[0] = (struct iovec){packet->bytes, packet->size};
	if (!nat->takes_large || !nat_run_begin(run, packet->bytes + HEADER, packet->size - HEADER))
		return 1;
	for (struct packet *p = packet->next; p && count < RUN_MAX; p = p->next, count++) {
		if (!nat_run_add(run, p->bytes + HEADER, p->size - HEADER, &offset))
			break;
		iov[count + 1] = (struct iovec){p->bytes + HEADER + offset, p->size - HEADER - offset};
	}
	if (count == 1)
		return 1;
	nat_run_end(run);
	iov[0] = (struct iovec){run->head, run->head_size};
	iov[1] = (struct iovec){packet->bytes + run->head_size, packet->size - run->head_size};
	message->msg_iovlen = count + 1;
	return count;
}

static void drop_first(struct nat *nat)
{
	struct packet *packet = nat->first;

	nat->first = packet->next;
	nat->queued -= packet->size - HEADER;
	free(packet);
}

/* False: the adapter is gone. */
static bool send_queued(struct nat *nat)
{
	while (nat->first) {
		struct mmsghdr messages[BATCH] = {0};
		struct packet *packet = nat->first;
		unsigned packets[BATCH], count = 0;
		int n;

		for (; packet && count < BATCH; count++) {
			packets[count] = make_message(nat, packet, &nat->runs[count], nat->iov[count], &messages[count].msg_hdr);
			for (unsigned i = 0; i < packets[count]; i++)
				packet = packet->next;
		}
		n = sendmmsg(SOCKET_FD, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR || errno == ENOBUFS;
		for (int i = 0; i < n; i++)
			while (packets[i]-- > 0)
				drop_first(nat);
		if (!nat->first)
			nat->last = &nat->first;
	}
	return true;
}

/* --- from the guest ---------------------------------------------------------------------------------------- */

/* What the guest takes undone, in its adapter's words. */
static void take_offloads(struct nat *nat, const uint8_t *message)
{
	struct virtio_net_hdr request;

	memcpy(&request, message, HEADER);
	nat->takes_large = request.hdr_len & PORT_LARGE;
}

static void to_slirp(void *context, const uint8_t *frame, size_t size)
{
	struct nat *nat = context;

	slirp_input(nat->slirp, frame, (int)size);
}

/* False: the adapter is gone. */
static bool take_frames(struct nat *nat)
{
	struct mmsghdr messages[BATCH] = {0};
	struct iovec iov[BATCH];
	int n;

	for (unsigned i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){nat->frames[i], sizeof(nat->frames[i])};
		messages[i].msg_hdr.msg_iov = &iov[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	n = recvmmsg(SOCKET_FD, messages, BATCH, MSG_DONTWAIT, NULL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	for (int i = 0; i < n; i++) {
		if (messages[i].msg_len == 0)
			return false;
		if (messages[i].msg_len == HEADER)
			take_offloads(nat, nat->frames[i]);
		else if (!(messages[i].msg_hdr.msg_flags & MSG_TRUNC))
			nat_take_message(nat->frames[i], messages[i].msg_len, to_slirp, nat);
	}
	return true;
}

/* --- what libslirp needs --------------------------------------------------------------------------------------- */

static void guest_error(const char *message, void *opaque)
{
	static struct log_limit limit;

	(void)opaque;
	if (log_limit_pass(&limit, 3))
		log_write(LOG_LEVEL_WARNING, "default switch: %s", message);
}

static int64_t now_ns(void *opaque)
{
	struct timespec ts;

	(void)opaque;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void *timer_new(SlirpTimerId id, void *timer_opaque, void *opaque)
{
	struct nat *nat = opaque;

	for (unsigned i = 0; i < TIMERS_MAX; i++) {
		if (nat->timers[i].used)
			continue;
		nat->timers[i] = (struct timer){true, id, timer_opaque, 0};
		return &nat->timers[i];
	}
	return NULL;
}

static void timer_free(void *timer, void *opaque)
{
	(void)opaque;
	if (timer)
		((struct timer *)timer)->used = false;
}

static void timer_mod(void *timer, int64_t expire_time, void *opaque)
{
	(void)opaque;
	if (timer)
		((struct timer *)timer)->due_ms = expire_time;
}

static void poll_fd_known(int fd, void *opaque)
{
	(void)fd;
	(void)opaque;
}

static void notify(void *opaque)
{
	(void)opaque;
}

static int add_poll(int fd, int events, void *opaque)
{
	struct nat *nat = opaque;
	short wanted = 0;

	if (nat->fd_count == nat->fd_capacity) {
		unsigned capacity = nat->fd_capacity * 2;
		struct pollfd *fds = realloc(nat->fds, capacity * sizeof(*fds));

		if (!fds)
			return -1;
		nat->fds = fds;
		nat->fd_capacity = capacity;
	}
	if (fd >= 0 && (unsigned)fd < DESCRIPTORS && nat->listens[fd] && nat->paused_until)
		events = 0;
	/* With much for the guest already, what would be for it waits in the sockets. */
	if (events & SLIRP_POLL_IN && nat->queued < QUEUE_HIGH)
		wanted |= POLLIN;
	if (events & SLIRP_POLL_OUT)
		wanted |= POLLOUT;
	if (events & SLIRP_POLL_PRI)
		wanted |= POLLPRI;
	nat->fds[nat->fd_count] = (struct pollfd){.fd = wanted ? fd : -1, .events = wanted};
	return (int)nat->fd_count++;
}

static int get_events(int index, void *opaque)
{
	const struct nat *nat = opaque;
	int events = 0;
	short got;

	if (index < 0 || (unsigned)index >= nat->fd_count)
		return 0;
	got = nat->fds[index].revents;
	events |= got & POLLIN ? SLIRP_POLL_IN : 0;
	events |= got & POLLOUT ? SLIRP_POLL_OUT : 0;
	events |= got & POLLPRI ? SLIRP_POLL_PRI : 0;
	events |= got & POLLERR ? SLIRP_POLL_ERR : 0;
	events |= got & POLLHUP ? SLIRP_POLL_HUP : 0;
	return events;
}

/* --- the loop ---------------------------------------------------------------------------------------------------- */

static void run_timers(struct nat *nat, uint32_t *timeout)
{
	int64_t now = now_ns(NULL) / 1000000;

	for (unsigned i = 0; i < TIMERS_MAX; i++) {
		struct timer *t = &nat->timers[i];

		if (!t->used || !t->due_ms)
			continue;
		if (t->due_ms <= now) {
			t->due_ms = 0;
			slirp_handle_timer(nat->slirp, t->id, t->opaque);
		}
		if (t->due_ms && (uint64_t)(t->due_ms - now) < *timeout)
			*timeout = (uint32_t)(t->due_ms - now);
	}
}

/* libslirp leaves a connection that it has no descriptor for where it is, and would be told of it at once again. */
static void look_for_descriptors(struct nat *nat)
{
	bool somebody_came = false;
	int fd;

	for (unsigned i = 1; i < nat->fd_count && !somebody_came; i++)
		somebody_came = nat->fds[i].revents & POLLIN && (unsigned)nat->fds[i].fd < DESCRIPTORS && nat->listens[nat->fds[i].fd];
	if (!somebody_came)
		return;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		close(fd);
	else if (errno == EMFILE || errno == ENFILE)
		nat->paused_until = now_ns(NULL) / 1000000 + PAUSE_MS;
}

static void end_pause(struct nat *nat, uint32_t *timeout)
{
	int64_t left = nat->paused_until - now_ns(NULL) / 1000000;

	if (!nat->paused_until)
		return;
	if (left <= 0)
		nat->paused_until = 0;
	else if (left < *timeout)
		*timeout = (uint32_t)left;
}

static void run(struct nat *nat)
{
	bool good = true;

	while (good) {
		uint32_t timeout = 3600000;
		int n;

		nat->fd_count = 1;
		run_timers(nat, &timeout);
		end_pause(nat, &timeout);
		slirp_pollfds_fill(nat->slirp, &timeout, add_poll, nat);
		nat->fds[0] = (struct pollfd){.fd = SOCKET_FD, .events = (short)(POLLIN | (nat->first ? POLLOUT : 0))};
		n = poll(nat->fds, nat->fd_count, (int)timeout);
		if (n < 0 && errno != EINTR)
			return;
		slirp_pollfds_poll(nat->slirp, n < 0, get_events, nat);
		look_for_descriptors(nat);
		if (n > 0 && nat->fds[0].revents & (POLLIN | POLLHUP | POLLERR))
			good = take_frames(nat);
		good = good && send_queued(nat);
	}
}

/* --- set-up ---------------------------------------------------------------------------------------------------------- */

static int fail(const char *format, const char *what)
{
	char text[300];
	int n = snprintf(text, sizeof(text), format, what);

	if (n > 0 && write(STATUS_FD, text, strlen(text)) < 0)
		perror("bulkhead-nat");
	return 1;
}

static const struct in_addr *address4(const char *text)
{
	static struct in_addr address;

	inet_pton(AF_INET, text, &address);
	return &address;
}

static bool start_slirp(struct nat *nat)
{
	static const SlirpCb callbacks = {.send_packet = from_slirp,
	    .guest_error = guest_error,
	    .clock_get_ns = now_ns,
	    .timer_new_opaque = timer_new,
	    .timer_free = timer_free,
	    .timer_mod = timer_mod,
	    .register_poll_fd = poll_fd_known,
	    .unregister_poll_fd = poll_fd_known,
	    .notify = notify};
	SlirpConfig config = {.version = SLIRP_CONFIG_VERSION_MAX,
	    .in_enabled = true,
	    .vnetwork = *address4("10.0.2.0"),
	    .vnetmask = *address4("255.255.255.0"),
	    .vhost = *address4("10.0.2.2"),
	    .vdhcp_start = *address4("10.0.2.15"),
	    .vnameserver = *address4("10.0.2.3"),
	    .in6_enabled = true,
	    .vprefix_len = 64,
	    .disable_host_loopback = !nat->host_loopback};

	inet_pton(AF_INET6, "fd62:6b68::", &config.vprefix_addr6);
	inet_pton(AF_INET6, "fd62:6b68::2", &config.vhost6);
	inet_pton(AF_INET6, "fd62:6b68::3", &config.vnameserver6);
	nat->slirp = slirp_new(&config, &callbacks, nat);
	return nat->slirp;
}

static int listen_unix(struct nat *nat, const struct forward *f)
{
	struct sockaddr_un host = {.sun_family = AF_UNIX};
	struct sockaddr_in guest = {.sin_family = AF_INET, .sin_addr = *address4("10.0.2.15"), .sin_port = htons((uint16_t)f->guest_port)};
	mode_t mask = umask(0177);
	int r;

	if (strlen(f->path) >= sizeof(host.sun_path))
		return fail("the path of a socket is too long: %s\n", f->path);
	strcpy(host.sun_path, f->path);
	unlink(f->path);
	r = slirp_add_hostxfwd(nat->slirp, (struct sockaddr *)&host, sizeof(host), (struct sockaddr *)&guest, sizeof(guest), 0);
	umask(mask);
	return r ? fail("no socket %s can be made\n", f->path) : 0;
}

static int add_forward(struct nat *nat, const struct forward *f, unsigned port)
{
	return slirp_add_hostfwd(nat->slirp, f->udp, f->host.sin_addr, (int)port, *address4("10.0.2.15"), (int)f->guest_port);
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

/* libslirp does not tell which port a forward has; its socket is the one that was not there before. */
static bool add_any(struct nat *nat, struct forward *f)
{
	unsigned port = ntohs(f->host.sin_port);
	socklen_t size = sizeof(f->host);
	bool before[DESCRIPTORS];
	int failed = -1;

	for (int fd = 0; fd < (int)DESCRIPTORS; fd++)
		before[fd] = is_open(fd);
	/* A moment ago it may have been that of the process before this one, which is ending. */
	for (unsigned i = 0; i < ANY_TRIES && port && failed; i++) {
		if (i)
			usleep(ANY_PAUSE_US);
		failed = add_forward(nat, f, port);
	}
	if (failed)
		failed = add_forward(nat, f, 0);
	for (int fd = STATUS_FD + 1; fd < (int)DESCRIPTORS && !failed; fd++)
		if (!before[fd] && is_open(fd))
			return !getsockname(fd, (struct sockaddr *)&f->host, &size) && f->host.sin_family == AF_INET;
	return false;
}

static int listen_port(struct nat *nat, struct forward *f)
{
	char text[64], address[INET_ADDRSTRLEN];

	if (f->any ? add_any(nat, f) : !add_forward(nat, f, ntohs(f->host.sin_port)))
		return 0;
	inet_ntop(AF_INET, &f->host.sin_addr, address, sizeof(address));
	snprintf(text, sizeof(text), "%s port %u of %s: %s", f->udp ? "UDP" : "TCP", ntohs(f->host.sin_port), address, strerror(errno));
	return fail("%s\n", text);
}

static int start_forwards(struct nat *nat)
{
	for (unsigned i = 0; i < nat->forward_count; i++) {
		struct forward *f = &nat->forwards[i];
		int r = f->path ? listen_unix(nat, f) : listen_port(nat, f);

		if (r)
			return r;
	}
	for (int fd = STATUS_FD + 1; fd < (int)DESCRIPTORS; fd++) {
		socklen_t size = sizeof(int);
		int listens = 0;

		nat->listens[fd] = !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) && listens;
	}
	return 0;
}

/* That all is well, and the port of each that could have any. */
static bool tell_ports(const struct nat *nat)
{
	char text[FORWARDS_MAX * 6 + 8] = "ok";
	size_t used = 2;

	for (unsigned i = 0; i < nat->forward_count; i++)
		if (nat->forwards[i].any)
			used += (size_t)snprintf(text + used, sizeof(text) - used, " %u", ntohs(nat->forwards[i].host.sin_port));
	text[used++] = '\n';
	return write(STATUS_FD, text, used) == (ssize_t)used;
}

/* "tcp:127.0.0.1:2222:22", or "22:/run/…" for a Unix socket: what nat_start() writes. */
static bool parse_forward(struct nat *nat, char *text, int option)
{
	struct forward *f = &nat->forwards[nat->forward_count];
	char protocol[4], address[INET_ADDRSTRLEN];
	unsigned host_port;
	int end = 0;

	if (nat->forward_count == FORWARDS_MAX)
		return false;
	if (option == 'u') {
		if (sscanf(text, "%5u:%n", &f->guest_port, &end) != 1 || !end || !text[end])
			return false;
		f->path = text + end;
	} else if (sscanf(text, "%3[a-z]:%15[0-9.]:%5u:%5u%n", protocol, address, &host_port, &f->guest_port, &end) != 4 || text[end] ||
		   inet_pton(AF_INET, address, &f->host.sin_addr) != 1) {
		return false;
	} else {
		f->host.sin_port = htons((uint16_t)host_port);
		f->udp = !strcmp(protocol, "udp");
		f->any = option == 'a';
	}
	nat->forward_count++;
	return true;
}

static bool parse_options(struct nat *nat, int argc, char **argv)
{
	static const struct option options[] = {{"forward", required_argument, NULL, 'f'}, {"forward-any", required_argument, NULL, 'a'},
	    {"forward-unix", required_argument, NULL, 'u'}, {"host-loopback", no_argument, NULL, 'l'}, {"outlive", no_argument, NULL, 'o'},
	    {"user", required_argument, NULL, 'i'}, {NULL, 0, NULL, 0}};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == 'l')
			nat->host_loopback = true;
		else if (option == 'o')
			nat->outlives = true;
		else if (option == 'i' && sscanf(optarg, "%u:%u", &nat->uid, &nat->gid) == 2 && nat->uid && nat->gid)
			nat->has_user = true;
		else if ((option != 'f' && option != 'a' && option != 'u') || !parse_forward(nat, optarg, option))
			return false;
	}
	return optind == argc;
}

static bool is_started_by_us(void)
{
	int type = 0;
	socklen_t size = sizeof(type);

	return getsockopt(SOCKET_FD, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

int main(int argc, char **argv)
{
	static struct nat nat;
	struct nat_sandbox own = {.descriptors = DESCRIPTORS};
	struct error err = {0};
	int size = 4 << 20;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN); /* of the terminal: it is for the machine */
	signal(SIGHUP, SIG_IGN);
	if (!is_started_by_us()) {
		fputs("bulkhead-nat: it is started by bulkhead run and bulkhead-worker, not by hand\n", stderr);
		return 2;
	}
	nat.last = &nat.first;
	nat.fd_capacity = 64;
	nat.fds = calloc(nat.fd_capacity, sizeof(*nat.fds));
	if (!parse_options(&nat, argc, argv))
		return fail("%s\n", "bulkhead-nat was started with options that it does not know");
	/* Of a parent that has gone before this the socket is closed. */
	if (!nat.outlives)
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (setsockopt(SOCKET_FD, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		setsockopt(SOCKET_FD, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	if (!nat.fds || !start_slirp(&nat))
		return fail("%s\n", "no memory");
	if (start_forwards(&nat))
		return 1;
	own.outlives = nat.outlives;
	own.has_user = nat.has_user;
	own.uid = nat.uid;
	own.gid = nat.gid;
	if (nat_sandbox_enter(&own, &err))
		return fail("%s\n", err.text);
	if (!tell_ports(&nat))
		return 1;
	close(STATUS_FD);
	run(&nat);
	for (unsigned i = 0; i < nat.forward_count; i++)
		if (nat.forwards[i].path)
			unlink(nat.forwards[i].path);
	return 0;
}
