/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nat.h - the default switch: one guest behind network address translation, with no privilege and no set-up of the host.
 *
 * The translation (libslirp) opens sockets for whatever the guest wants to speak to, so it has a process of its own,
 * bulkhead-nat, outside of the machine's sandbox and in one that suits it. The adapter's port is a socket to it (port.h).
 *
 * The guest gets 10.0.2.15 by DHCP and fd62:6b68::/64 by router advertisement; the gateway is 10.0.2.2, the name server,
 * which asks the host's, 10.0.2.3. It cannot reach the host's loopback addresses, unless it is told so.
 */
#pragma once

#include <sys/types.h>

#include "base/base.h"

#define NAT_FORWARDS_MAX 32u

struct nat_forward {
	bool udp;
	bool any;            /* host_port is what is tried first, if it is not 0; then whatever is free */
	char host[46];       /* IPv4 address to listen on */
	unsigned host_port;  /* 0, and not `any`: a Unix socket, `path` */
	const char *path;    /* made for its owner alone; TCP */
	unsigned guest_port;
};

struct nat_config {
	struct nat_forward forwards[NAT_FORWARDS_MAX];
	unsigned forward_count;
	bool host_loopback; /* the gateway's address is the host's loopback */
	bool outlives;      /* it stays when its parent ends */
	bool has_user;      /* root can have it run as somebody else */
	uid_t uid;
	gid_t gid;
};

/* "[udp:][ADDRESS:]HOSTPORT:GUESTPORT"; the address is 127.0.0.1 when none is named, HOSTPORT may be "auto". -EINVAL. */
int nat_forward_parse(struct nat_forward *out, const char *text, struct error *err);

/* Has `any` port tried first that follows from the adapter's address: so it is the same each time, as long as nobody else has it. */
void nat_prefer_ports(struct nat_config *config, const uint8_t mac[6]);

/* Start the process, which ends when the socket's other end is closed or, unless it is to outlive it, its parent ends. *fd is the port's socket. Returns when it
 * listens on what is forwarded, and host_port of each `any` is the port that it is; -EADDRINUSE and the like otherwise. The caller reaps *pid. */
int nat_start(int *fd, pid_t *pid, struct nat_config *config, struct error *err);
