/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rtnetlink.h - requests to the kernel's rtnetlink(7), each waited for. Private to switch/. Any thread; -errno is the kernel's.
 */
#pragma once

#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include "base/base.h"

#define RTNETLINK_MESSAGE_MAX 4096u

/* A request that is being put together: header, family header and attributes. */
struct rtnetlink_request {
	_Alignas(struct nlmsghdr) uint8_t bytes[RTNETLINK_MESSAGE_MAX];
};

void rtnetlink_begin(struct rtnetlink_request *request, uint16_t type, uint16_t flags, const void *header, size_t size);
/* -EMSGSIZE. */
int rtnetlink_add(struct rtnetlink_request *request, uint16_t type, const void *data, size_t size);
/* A socket, which never blocks, that is told what these groups (RTMGRP_…) are; the caller's. */
int rtnetlink_listen(uint32_t groups);
/* Sends it and waits for the kernel's word. */
int rtnetlink_do(struct rtnetlink_request *request);

/* Calls `take` for each answer to a dump of this type and family until that does not return 0, which is returned then. */
int rtnetlink_dump(uint16_t type, uint8_t family, int (*take)(void *context, const struct nlmsghdr *message), void *context);

/* The same with a family header of one's own. */
int rtnetlink_dump_of(uint16_t type, const void *header, size_t size, int (*take)(void *context, const struct nlmsghdr *message), void *context);

/* The attributes behind a message's family header: the first, or the one behind; NULL: none that is whole. */
const struct rtattr *rtnetlink_next(const struct nlmsghdr *message, size_t header, const struct rtattr *before);
const struct rtattr *rtnetlink_find(const struct nlmsghdr *message, size_t header, uint16_t type);
uint32_t rtnetlink_u32(const struct rtattr *attribute, uint32_t otherwise);
