// SPDX-License-Identifier: GPL-2.0-or-later
/* The default switch's process, in its sandbox; the test is the guest before it and the host behind it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "switch/frame.h"
#include "switch/nat.h"

#define WAIT_MS   20000
#define STATUS_FD 4 /* of the process: closed by then */
#define GUEST_UDP 5000u
#define HEADER    sizeof(struct virtio_net_hdr)
#define UDP_AT    (FRAME_ETHERNET_SIZE + 20u)
#define TEXT_AT   (UDP_AT + 8u)

static const uint8_t mac[6] = {0x00, 0x15, 0x5d, 1, 2, 3};
static const uint8_t guest_address[4] = {10, 0, 2, 15}, gateway[4] = {10, 0, 2, 2};

struct fixture {
	int fd; /* the guest's end */
	pid_t pid;
	int host; /* a UDP socket at the host's loopback address */
	uint16_t port;
	uint8_t gateway_mac[6];
	uint8_t frame[2000]; /* behind the header */
	size_t size;
};

static void put_frame(struct fixture *f, const uint8_t *frame, size_t size)
{
	struct virtio_net_hdr none = {0};
	struct iovec iov[2] = {{&none, HEADER}, {(void *)(uintptr_t)frame, size}};

	assert_int_equal(writev(f->fd, iov, 2), HEADER + size);
}

static void take_frame(struct fixture *f)
{
	struct virtio_net_hdr header;
	struct iovec iov[2] = {{&header, HEADER}, {f->frame, sizeof(f->frame)}};
	struct pollfd fd = {.fd = f->fd, .events = POLLIN};
	ssize_t n;

	assert_int_equal(poll(&fd, 1, WAIT_MS), 1);
	n = readv(f->fd, iov, 2);
	assert_true(n >= (ssize_t)(HEADER + FRAME_ETHERNET_SIZE));
	f->size = (size_t)n - HEADER;
}

/* Ask for the gateway's hardware address, and take its answer: all that was sent before is dealt with then. */
static void ask_gateway(struct fixture *f)
{
	static const uint8_t request[8] = {0, 1, 8, 0, 6, 4, 0, 1};
	uint8_t frame[42] = {0};

	memset(frame, 0xff, 6);
	memcpy(frame + 6, mac, 6);
	be16_put(frame + 12, 0x0806);
	memcpy(frame + 14, request, 8);
	memcpy(frame + 22, mac, 6);
	memcpy(frame + 28, guest_address, 4);
	memcpy(frame + 38, gateway, 4);
	put_frame(f, frame, sizeof(frame));
	do
		take_frame(f);
	while (f->size < 42 || be16_get(f->frame + 12) != 0x0806 || be16_get(f->frame + 20) != 2 || memcmp(f->frame + 28, gateway, 4));
	memcpy(f->gateway_mac, f->frame + 22, 6);
}

/* A datagram to the host's socket, by the gateway's address. */
static void put_datagram(struct fixture *f, const char *text)
{
	uint8_t frame[200] = {0};
	size_t length = strlen(text);
	struct frame_layout layout;

	memcpy(frame, f->gateway_mac, 6);
	memcpy(frame + 6, mac, 6);
	be16_put(frame + 12, 0x0800);
	frame[14] = 0x45;
	be16_put(frame + 16, (uint16_t)(28 + length));
	frame[22] = 64;
	frame[23] = FRAME_PROTOCOL_UDP;
	memcpy(frame + 26, guest_address, 4);
	memcpy(frame + 30, gateway, 4);
	be16_put(frame + UDP_AT, GUEST_UDP);
	be16_put(frame + UDP_AT + 2, f->port);
	be16_put(frame + UDP_AT + 4, (uint16_t)(8 + length)); /* no checksum: IPv4 allows it */
	memcpy(frame + TEXT_AT, text, length);
	assert_true(frame_parse(frame, TEXT_AT + length, &layout));
	frame_fill_ip4_checksum(frame, &layout);
	put_frame(f, frame, TEXT_AT + length);
}

static void start(struct fixture *f, bool host_loopback)
{
	struct nat_config config = {.host_loopback = host_loopback};
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t size = sizeof(address);
	struct error err = {0};

	f->host = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(f->host, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(f->host, (struct sockaddr *)&address, &size), 0);
	f->port = ntohs(address.sin_port);
	if (nat_start(&f->fd, &f->pid, &config, &err))
		fail_msg("%s", err.text);
	ask_gateway(f);
}

/* It ends when the adapter does. */
static void stop(struct fixture *f)
{
	int status;

	close(f->fd);
	close(f->host);
	assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
	assert_true(WIFEXITED(status));
}

static void test_datagrams(void **state)
{
	struct fixture f;
	struct sockaddr_in peer;
	socklen_t size = sizeof(peer);
	char text[20], answer[20];

	(void)state;
	start(&f, true);
	for (unsigned i = 0; i < 50; i++) {
		struct pollfd fd = {.fd = f.host, .events = POLLIN};
		int length = snprintf(text, sizeof(text), "question %u", i);

		put_datagram(&f, text);
		assert_int_equal(poll(&fd, 1, WAIT_MS), 1);
		assert_int_equal(recvfrom(f.host, answer, sizeof(answer), 0, (struct sockaddr *)&peer, &size), length);
		assert_memory_equal(answer, text, length);
		length = snprintf(text, sizeof(text), "answer %u", i);
		assert_int_equal(sendto(f.host, text, (size_t)length, 0, (struct sockaddr *)&peer, size), length);
		do
			take_frame(&f);
		while (f.size < TEXT_AT + (size_t)length || f.frame[23] != FRAME_PROTOCOL_UDP || be16_get(f.frame + UDP_AT + 2) != GUEST_UDP);
		assert_memory_equal(f.frame + TEXT_AT, text, length);
	}
	stop(&f);
}

static void test_loopback_is_out_of_reach(void **state)
{
	struct fixture f;
	char text[20];

	(void)state;
	start(&f, false);
	put_datagram(&f, "question");
	ask_gateway(&f);
	assert_int_equal(recv(f.host, text, sizeof(text), MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	stop(&f);
}

static uint16_t free_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof(address);

	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
	close(fd);
	return ntohs(address.sin_port);
}

static int connect_to(uint16_t port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* The guest is asked for a connection. */
static void wait_for_connection(struct fixture *f)
{
	do
		take_frame(f);
	while (f->size < 54 || be16_get(f->frame + 12) != 0x0800 || f->frame[23] != FRAME_PROTOCOL_TCP || !(f->frame[47] & 2));
}

/* A socket of the host's file system that leads to a port of the guest. */
static void test_forwarded_unix_socket(void **state)
{
	char directory[] = "/tmp/bulkhead-nat-XXXXXX";
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct nat_config config = {.forward_count = 1};
	struct error err = {0};
	struct fixture f;
	int client;

	(void)state;
	assert_non_null(mkdtemp(directory));
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", directory);
	config.forwards[0] = (struct nat_forward){.path = address.sun_path, .guest_port = 80};
	if (nat_start(&f.fd, &f.pid, &config, &err))
		fail_msg("%s", err.text);
	f.host = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ask_gateway(&f);
	client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
	wait_for_connection(&f);
	close(client);
	stop(&f);
	/* Where it may remove nothing any more it stays. */
	unlink(address.sun_path);
	assert_int_equal(rmdir(directory), 0);
}

/* Clock ticks that a process has taken. */
static unsigned long ticks_of(pid_t pid)
{
	unsigned long user = 0, system = 0;
	char path[40];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	assert_non_null(file);
	assert_int_equal(fscanf(file, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system), 2);
	fclose(file);
	return user + system;
}

/* Out of descriptors it neither turns in a circle nor ends, and takes who waits when there are some again. */
static void test_out_of_descriptors(void **state)
{
	struct rlimit none = {STATUS_FD, 1024}, many = {1024, 1024}; /* the lowest that is free */
	const uint16_t port = free_port();
	struct nat_config config = {.forward_count = 1, .forwards = {{.host = "127.0.0.1", .host_port = port, .guest_port = 80}}};
	struct timespec before, now;
	struct error err = {0};
	struct fixture f;
	int client;
	unsigned long used;

	(void)state;
	if (nat_start(&f.fd, &f.pid, &config, &err))
		fail_msg("%s", err.text);
	f.host = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	ask_gateway(&f);
	assert_int_equal(prlimit(f.pid, RLIMIT_NOFILE, &none, NULL), 0);
	client = connect_to(port);
	used = ticks_of(f.pid);
	clock_gettime(CLOCK_MONOTONIC, &before);
	/* It serves the guest meanwhile. */
	do {
		poll(NULL, 0, 20);
		ask_gateway(&f);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - before.tv_sec + (now.tv_nsec - before.tv_nsec) / 1e9 < 1.0);
	used = ticks_of(f.pid) - used;
	if (used > (unsigned long)sysconf(_SC_CLK_TCK) / 4)
		fail_msg("%lu ticks in a second: it turns in a circle", used);
	assert_int_equal(prlimit(f.pid, RLIMIT_NOFILE, &many, NULL), 0);
	wait_for_connection(&f);
	close(client);
	stop(&f);
}

static void start_any(struct fixture *f, struct nat_config *config, const uint8_t address[6])
{
	struct error err = {0};

	*config = (struct nat_config){.forward_count = 4};
	for (unsigned i = 0; i < config->forward_count; i++)
		assert_int_equal(nat_forward_parse(&config->forwards[i], i == 2 ? "udp:127.0.0.1:auto:53" : "auto:22", NULL), 0);
	config->forwards[1].any = false;
	config->forwards[1].host_port = free_port();
	nat_prefer_ports(config, address);
	if (nat_start(&f->fd, &f->pid, config, &err))
		fail_msg("%s", err.text);
	f->host = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(config->forwards[2].udp && config->forwards[2].host_port);
	for (unsigned i = 0; i < config->forward_count; i++)
		if (!config->forwards[i].udp)
			close(connect_to((uint16_t)config->forwards[i].host_port));
}

/* The port that follows from the adapter's address, if nobody has it; else another, which is told, and leads there too. */
static void test_any_port(void **state)
{
	uint8_t address[6] = {0x00, 0x15, 0x5d};
	struct nat_config wanted, one, other;
	bool others = true;
	struct fixture f, g;

	(void)state;
	/* Another program may have those of one address. */
	while (others) {
		assert_int_equal(getrandom(address + 3, 3, 0), 3);
		start_any(&f, &one, address);
		wanted = one;
		nat_prefer_ports(&wanted, address);
		others = false;
		for (unsigned i = 0; i < one.forward_count; i++)
			others |= wanted.forwards[i].host_port != one.forwards[i].host_port;
		if (others)
			stop(&f);
	}
	start_any(&g, &other, address);
	for (unsigned i = 0; i < other.forward_count; i++)
		assert_int_not_equal(other.forwards[i].host_port, one.forwards[i].host_port);
	assert_int_not_equal(other.forwards[0].host_port, other.forwards[3].host_port);
	stop(&g);
	stop(&f);
	start_any(&f, &other, address);
	assert_int_equal(other.forwards[0].host_port, one.forwards[0].host_port);
	stop(&f);
}

static void test_forward_text(void **state)
{
	static const char *const bad[] = {"auto", "auto:auto", ":22", "0:22", "autos:22", "auto:0", "22:auto", "udp:auto:"};
	struct nat_forward f;

	(void)state;
	assert_int_equal(nat_forward_parse(&f, "udp:0.0.0.0:auto:53", NULL), 0);
	assert_true(f.any && f.udp && !f.host_port && f.guest_port == 53);
	assert_string_equal(f.host, "0.0.0.0");
	assert_int_equal(nat_forward_parse(&f, "2222:22", NULL), 0);
	assert_true(!f.any && f.host_port == 2222);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		if (!nat_forward_parse(&f, bad[i], NULL))
			fail_msg("%s", bad[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_datagrams),
	    cmocka_unit_test(test_loopback_is_out_of_reach),
	    cmocka_unit_test(test_forwarded_unix_socket),
	    cmocka_unit_test(test_out_of_descriptors),
	    cmocka_unit_test(test_any_port),
	    cmocka_unit_test(test_forward_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
