/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

/* How long what was sent may be without an answer: a peer whose power is off is not waited for longer. */
#define GIVE_UP_MILLISECONDS 60000

static int split(const char *text, char address[LISTEN_TEXT_SIZE], char port[8], struct error *err)
{
	const char *colon = strrchr(text, ':');
	size_t length = colon ? (size_t)(colon - text) : 0;

	if (length > 2 && text[0] == '[' && text[length - 1] == ']') {
		text++;
		length -= 2;
	} else if (memchr(text, ':', length)) {
		length = 0;
	}
	if (!length || length >= LISTEN_TEXT_SIZE || strlen(colon + 1) > 5)
		return error_set(err, EINVAL, "https.listen: \"%.80s\" is not ADDRESS:PORT, as 0.0.0.0:8443 or [::]:8443", text);
	snprintf(address, LISTEN_TEXT_SIZE, "%.*s", (int)length, text);
	snprintf(port, 8, "%s", colon + 1);
	return 0;
}

static void set_option(int fd, int level, int name, int value)
{
	setsockopt(fd, level, name, &value, sizeof(value));
}

static int open_at(const struct addrinfo *at, const char *text, struct error *err)
{
	int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return error_set(err, errno, "https.listen: no socket: %s", strerror(errno));
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	/* What is accepted has these too. */
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, GIVE_UP_MILLISECONDS);
	if (bind(fd, at->ai_addr, at->ai_addrlen) || listen(fd, 128)) {
		error_set(err, errno, "https.listen: %s: %s", text, strerror(errno));
		close(fd);
		return -err->code;
	}
	return fd;
}

int listen_tcp(const char *text, char address[LISTEN_TEXT_SIZE], char whole[LISTEN_TEXT_SIZE + 8], struct error *err)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE, .ai_socktype = SOCK_STREAM};
	struct sockaddr_storage bound = {0};
	socklen_t size = sizeof(bound);
	struct addrinfo *at = NULL;
	char port[8];
	int fd, r = split(text, address, port, err);

	if (r)
		return r;
	r = getaddrinfo(address, port, &hints, &at);
	if (r)
		return error_set(err, EINVAL, "https.listen: %s: %s", text, gai_strerror(r));
	fd = open_at(at, text, err);
	freeaddrinfo(at);
	if (fd < 0)
		return fd;
	getsockname(fd, (struct sockaddr *)&bound, &size);
	getnameinfo((struct sockaddr *)&bound, size, address, LISTEN_TEXT_SIZE, port, sizeof(port),
		    NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(whole, LISTEN_TEXT_SIZE + 8, strchr(address, ':') ? "[%.60s]:%s" : "%.60s:%s", address, port);
	return fd;
}
