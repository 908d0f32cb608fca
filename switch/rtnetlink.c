/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/rtnetlink.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define DUMP_ROOM 65536u

static int open_socket(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK};
	struct timeval limit = {.tv_sec = 5};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), code;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (!bind(fd, (struct sockaddr *)&address, sizeof(address)))
		return fd;
	code = -errno;
	close(fd);
	return code;
}

int rtnetlink_listen(uint32_t groups)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = groups};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE), code;

	if (fd < 0 || !bind(fd, (struct sockaddr *)&address, sizeof(address)))
		return fd < 0 ? -errno : fd;
	code = -errno;
	close(fd);
	return code;
}

static struct nlmsghdr *header_of(struct rtnetlink_request *request)
{
	return (struct nlmsghdr *)request->bytes;
}

void rtnetlink_begin(struct rtnetlink_request *request, uint16_t type, uint16_t flags, const void *header, size_t size)
{
	memset(request, 0, sizeof(*request));
	*header_of(request) = (struct nlmsghdr){.nlmsg_len = (uint32_t)NLMSG_LENGTH(size), .nlmsg_type = type,
						.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags), .nlmsg_seq = 1};
	memcpy(NLMSG_DATA(header_of(request)), header, size);
}

int rtnetlink_add(struct rtnetlink_request *request, uint16_t type, const void *data, size_t size)
{
	size_t at = NLMSG_ALIGN(header_of(request)->nlmsg_len);
	struct rtattr attribute = {.rta_len = (unsigned short)RTA_LENGTH(size), .rta_type = type};

	if (at + RTA_SPACE(size) > sizeof(request->bytes))
		return -EMSGSIZE;
	memcpy(request->bytes + at, &attribute, sizeof(attribute));
	if (size)
		memcpy(request->bytes + at + RTA_LENGTH(0), data, size);
	header_of(request)->nlmsg_len = (uint32_t)(at + RTA_LENGTH(size));
	return 0;
}

int rtnetlink_do(struct rtnetlink_request *request)
{
	_cleanup_close_ int fd = open_socket();
	_Alignas(struct nlmsghdr) uint8_t answer[RTNETLINK_MESSAGE_MAX + 512];
	const struct nlmsghdr *header = (const struct nlmsghdr *)answer;
	struct nlmsgerr result;
	ssize_t n;

	if (fd < 0)
		return fd;
	if (send(fd, request->bytes, header_of(request)->nlmsg_len, 0) < 0)
		return -errno;
	do
		n = recv(fd, answer, sizeof(answer), 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if ((size_t)n < NLMSG_LENGTH(sizeof(result)) || header->nlmsg_type != NLMSG_ERROR)
		return -EPROTO;
	memcpy(&result, NLMSG_DATA(header), sizeof(result));
	return result.error;
}

/* Of one datagram. *over: it was the last. */
static int take_all(const uint8_t *bytes, size_t size, bool *over, int (*take)(void *context, const struct nlmsghdr *message), void *context)
{
	size_t at = 0;
	int r = 0;

	while (!r && !*over && at + sizeof(struct nlmsghdr) <= size) {
		const struct nlmsghdr *message = (const struct nlmsghdr *)(bytes + at);

		if (message->nlmsg_len < sizeof(*message) || message->nlmsg_len > size - at)
			return -EPROTO;
		if (message->nlmsg_type == NLMSG_DONE)
			*over = true;
		else if (message->nlmsg_type == NLMSG_ERROR)
			return message->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr)) ? -EPROTO
											 : ((const struct nlmsgerr *)NLMSG_DATA(message))->error;
		else
			r = take(context, message);
		at += NLMSG_ALIGN(message->nlmsg_len);
	}
	return r;
}

int rtnetlink_dump(uint16_t type, uint8_t family, int (*take)(void *context, const struct nlmsghdr *message), void *context)
{
	/* Long enough for the header of every type: what is behind the family is zero. */
	size_t size = type == RTM_GETLINK ? sizeof(struct ifinfomsg) : type == RTM_GETQDISC ? sizeof(struct tcmsg) : sizeof(struct rtmsg);
	const uint8_t header[32] = {family};

	return rtnetlink_dump_of(type, header, size, take, context);
}

int rtnetlink_dump_of(uint16_t type, const void *header, size_t size, int (*take)(void *context, const struct nlmsghdr *message), void *context)
{
	struct {
		struct nlmsghdr header;
		uint8_t rest[32];
	} request = {.header = {.nlmsg_len = (uint32_t)NLMSG_LENGTH(size), .nlmsg_type = type,
				.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 1}};
	_cleanup_free_ uint8_t *bytes = malloc(DUMP_ROOM);
	_cleanup_close_ int fd = open_socket();
	bool over = false;
	int r = 0;

	if (!bytes)
		return -ENOMEM;
	if (size > sizeof(request.rest))
		return -EMSGSIZE;
	memcpy(request.rest, header, size);
	if (fd < 0)
		return fd;
	if (send(fd, &request, request.header.nlmsg_len, 0) < 0)
		return -errno;
	while (!r && !over) {
		ssize_t n = recv(fd, bytes, DUMP_ROOM, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		r = take_all(bytes, (size_t)n, &over, take, context);
	}
	return r;
}

const struct rtattr *rtnetlink_next(const struct nlmsghdr *message, size_t header, const struct rtattr *before)
{
	const uint8_t *base = (const uint8_t *)message;
	size_t at = before ? (size_t)((const uint8_t *)before - base) + RTA_ALIGN(before->rta_len) : NLMSG_SPACE(header);
	const struct rtattr *attribute = (const struct rtattr *)(base + at);

	if (at + sizeof(*attribute) > message->nlmsg_len || attribute->rta_len < sizeof(*attribute) ||
	    attribute->rta_len > message->nlmsg_len - at)
		return NULL;
	return attribute;
}

const struct rtattr *rtnetlink_find(const struct nlmsghdr *message, size_t header, uint16_t type)
{
	const struct rtattr *attribute = NULL;

	while ((attribute = rtnetlink_next(message, header, attribute)))
		if ((attribute->rta_type & NLA_TYPE_MASK) == type)
			return attribute;
	return NULL;
}

uint32_t rtnetlink_u32(const struct rtattr *attribute, uint32_t otherwise)
{
	uint32_t value;

	if (!attribute || attribute->rta_len < RTA_LENGTH(sizeof(value)))
		return otherwise;
	memcpy(&value, RTA_DATA(attribute), sizeof(value));
	return value;
}
