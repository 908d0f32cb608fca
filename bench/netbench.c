/* SPDX-License-Identifier: GPL-2.0-or-later */
/* netbench: what a network carries between two machines, by plain sockets.
 * gcc -O2 -static -o netbench netbench.c
 * Usage: netbench server                                     on port 7000
 *        netbench ADDRESS send|receive|request|udp-send|udp-receive STREAMS SECONDS
 * Prints one line: what arrived a second. send and receive: Mbit/s of TCP; request: exchanges of one byte; udp-…: datagrams of 64
 * bytes, headers not counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT     7000
#define CHUNK    65536
#define DATAGRAM 64

static char chunk[CHUNK];

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* What is asked for on a connection, and what was counted in answer. */
struct request {
	uint32_t kind, milliseconds, port;
};
enum kind { SEND = 1, RECEIVE, ECHO, UDP_SEND, UDP_RECEIVE };

static int whole(int fd, void *bytes, size_t size)
{
	return recv(fd, bytes, size, MSG_WAITALL) == (ssize_t)size;
}

/* --- both ends ----------------------------------------------------------------------------------------- */

static uint64_t take_all(int fd)
{
	uint64_t total = 0;
	ssize_t n;

	while ((n = read(fd, chunk, sizeof(chunk))) > 0)
		total += (uint64_t)n;
	return total;
}

static uint64_t give(int fd, double seconds)
{
	double end = now() + seconds;
	uint64_t total = 0;
	ssize_t n;

	while (now() < end && (n = send(fd, chunk, sizeof(chunk), MSG_NOSIGNAL)) > 0)
		total += (uint64_t)n;
	shutdown(fd, SHUT_WR);
	return total;
}

static void flood(int fd, const struct sockaddr_in *to, double seconds)
{
	struct mmsghdr messages[32] = {0};
	struct iovec iov = {chunk, DATAGRAM};
	double end = now() + seconds;

	for (unsigned i = 0; i < 32; i++) {
		messages[i].msg_hdr.msg_iov = &iov;
		messages[i].msg_hdr.msg_iovlen = 1;
		messages[i].msg_hdr.msg_name = (void *)(uintptr_t)to;
		messages[i].msg_hdr.msg_namelen = sizeof(*to);
	}
	while (now() < end)
		sendmmsg(fd, messages, 32, 0);
}

/* Until a second passes with nothing, or the control connection says that it was all. */
static uint64_t count_datagrams(int fd, int control)
{
	struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = control, .events = POLLIN}};
	uint64_t total = 0;

	while (poll(fds, 2, 10000) > 0) {
		if (!(fds[0].revents & POLLIN))
			break;
		while (recv(fd, chunk, sizeof(chunk), MSG_DONTWAIT) > 0)
			total++;
	}
	return total;
}

static int udp_socket(uint32_t *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t size = sizeof(address);
	int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 8 << 20;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || getsockname(fd, (struct sockaddr *)&address, &size))
		die("udp");
	*port = ntohs(address.sin_port);
	return fd;
}

/* --- the server ---------------------------------------------------------------------------------------- */

static void serve(int fd)
{
	struct sockaddr_in peer;
	socklen_t size = sizeof(peer);
	struct request r;
	uint64_t total = 0;
	int udp;
	char c;

	if (!whole(fd, &r, sizeof(r)) || getpeername(fd, (struct sockaddr *)&peer, &size))
		return;
	switch (r.kind) {
	case SEND:
		total = take_all(fd);
		send(fd, &total, sizeof(total), MSG_NOSIGNAL);
		break;
	case RECEIVE:
		give(fd, r.milliseconds / 1e3);
		break;
	case ECHO:
		while (read(fd, &c, 1) == 1 && send(fd, &c, 1, MSG_NOSIGNAL) == 1)
			;
		break;
	case UDP_SEND:
		udp = udp_socket(&r.port);
		send(fd, &r, sizeof(r), MSG_NOSIGNAL);
		total = count_datagrams(udp, fd);
		send(fd, &total, sizeof(total), MSG_NOSIGNAL);
		break;
	case UDP_RECEIVE:
		peer.sin_port = htons((uint16_t)r.port);
		flood(udp_socket(&r.port), &peer, r.milliseconds / 1e3);
		break;
	}
}

static void server(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;

	signal(SIGCHLD, SIG_IGN);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 16))
		die("port 7000");
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
		if (fork() == 0) {
			serve(fd);
			exit(0);
		}
		close(fd);
	}
}

/* --- the client ---------------------------------------------------------------------------------------- */

static double exchange(int fd, double seconds)
{
	double begin = now();
	uint64_t count = 0;
	char c = 'x';

	for (; now() < begin + seconds; count++)
		if (send(fd, &c, 1, MSG_NOSIGNAL) != 1 || read(fd, &c, 1) != 1)
			die("exchange");
	return (double)count / (now() - begin);
}

/* One stream: what it carried a second. */
static double run(struct sockaddr_in to, enum kind kind, double seconds)
{
	struct request r = {kind, (uint32_t)(seconds * 1e3), 0};
	int fd = socket(AF_INET, SOCK_STREAM, 0), udp = -1, yes = 1;
	uint64_t total = 0;
	double begin;

	if (kind == UDP_SEND || kind == UDP_RECEIVE)
		udp = udp_socket(&r.port);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		die("connect");
	begin = now();
	send(fd, &r, sizeof(r), MSG_NOSIGNAL);
	switch (kind) {
	case SEND:
		give(fd, seconds);
		if (!whole(fd, &total, sizeof(total)))
			die("send");
		return (double)total * 8 / 1e6 / (now() - begin);
	case RECEIVE:
		total = take_all(fd);
		return (double)total * 8 / 1e6 / (now() - begin);
	case ECHO:
		return exchange(fd, seconds);
	case UDP_SEND:
		if (!whole(fd, &r, sizeof(r)))
			die("udp-send");
		to.sin_port = htons((uint16_t)r.port);
		flood(udp, &to, seconds);
		shutdown(fd, SHUT_WR);
		if (!whole(fd, &total, sizeof(total)))
			die("udp-send");
		return (double)total / seconds;
	case UDP_RECEIVE:
		return (double)count_datagrams(udp, fd) / seconds;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const names[] = {[SEND] = "send", [RECEIVE] = "receive", [ECHO] = "request", [UDP_SEND] = "udp-send",
	    [UDP_RECEIVE] = "udp-receive"};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	enum kind kind = SEND;
	int streams, arrived = 0;
	double sum = 0, one;
	int results[2];

	if (argc == 2 && !strcmp(argv[1], "server"))
		server();
	if (argc != 5 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1 || pipe(results))
		return 2;
	while (kind <= UDP_RECEIVE && strcmp(names[kind], argv[2]))
		kind++;
	if (kind > UDP_RECEIVE)
		return 2;
	streams = atoi(argv[3]);
	for (int i = 0; i < streams; i++) {
		if (fork())
			continue;
		one = run(to, kind, atof(argv[4]));
		return write(results[1], &one, sizeof(one)) != sizeof(one);
	}
	close(results[1]);
	for (; read(results[0], &one, sizeof(one)) == sizeof(one); arrived++)
		sum += one;
	if (arrived == streams)
		printf("netbench %s %s %.1f\n", argv[2], argv[3], sum);
	else
		printf("netbench %s %s failed\n", argv[2], argv[3]);
	return arrived != streams;
}
