/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host_link.h - network interfaces of the host: what they are, and how the host's addresses and routes go from one
 * to another, and back.
 *
 * What an interface has is kept as the kernel tells it (rtnetlink messages), so that nothing of it is lost on the way: lifetimes, metrics, scopes, tables.
 * Any thread. Errors: negative errno with a sentence.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

struct host_link {
	int index, master; /* 0: it is in nothing */
	int of;            /* the interface that it is made of, as one of a VLAN is; 0: none that is known */
	bool up, promiscuous, loopback, has_mac;
	bool carrier; /* it is up, and there is somebody at the other end of its cable */
	uint8_t mac[6];
	uint32_t mtu;
};

/* -ENODEV: there is none of this name. */
int host_link_get(const char *name, struct host_link *link, struct error *err);
/* The name of one that is made of this one, as those of its VLANs are; "": there is none. */
int host_link_above(int index, char name[16], struct error *err);
int host_link_set_up(const char *name, bool up, struct error *err);
/* Whoever is killed while he listens leaves it so. */
int host_link_set_promiscuous(const char *name, bool on, struct error *err);

/* IPv6 on this interface on or off, as the kernel's disable_ipv6 has it. Without IPv6 in the kernel nothing is done. */
int host_link_set_ipv6(const char *name, bool on, struct error *err);

/* How it is: false also without IPv6 in the kernel. */
bool host_link_has_ipv6(const char *name);

/* The settings of the kernel's IPv4 and IPv6 (/proc/sys/net/…/conf) that `from` has, but for whether it has IPv6 at all. One that cannot be set stays. */
void host_link_copy_settings(const char *from, const char *to);

enum host_link_news {
	HOST_LINK_NOTHING, /* by now */
	HOST_LINK_ADDRESS, /* it has been given one */
	HOST_LINK_STATE,   /* it is there, or not any more, or has another state */
	HOST_LINK_MUCH,    /* more than could be told */
};

/* A descriptor that is readable when there is news of interfaces of the host; -errno. */
int host_link_listen(void);
/* The next of these, and whose; "": it is gone. */
enum host_link_news host_link_heard(int fd, char name[16]);

int host_link_set_mtu(const char *name, uint32_t mtu, struct error *err);

/* Whatever comes in by this interface is for packet sockets alone: the host itself neither sees nor answers it, as a switch's ports
 * are none of the host's. But for what DHCP servers answer to IPv4 clients: one that the host had there goes on. `made` of host_link_unseal(): the hook was not there before, and goes too. */
int host_link_seal(const char *name, struct error *err);
void host_link_unseal(const char *name, bool made);
/* Whether the hook (clsact) is there. */
int host_link_has_hook(const char *name, bool *hook, struct error *err);

/* Lets a DHCP client of the host that listens by `adapter` hear its answers, though the kernel's datapath of Open vSwitch takes what comes in there before any
 * socket but those of all protocols. What is for a client with the adapter's own address gets, on its way in, a tag of `listener`, which is made: a VLAN interface
 * of the adapter, without a part in any network. So the kernel takes it for that one's before Open vSwitch sees it, and gives it to packet sockets of the adapter by
 * which it came all the same. Interface `also` (NULL: none) gets what Open vSwitch would have given it. It can be said again. -ENOENT, -EIO: the host
 * has not what this takes (iproute2; the kernel's 8021q, cls_bpf, act_vlan, act_mirred). */
int host_link_listen_for_leases(const char *adapter, const char *listener, const char *also, struct error *err);
/* `made` as with host_link_unseal(). */
void host_link_end_listening(const char *adapter, const char *listener, bool made);

/* The classes of its htb, where its queue is one: {MINOR: {"min", "max"}}, bytes in a second, MINOR a decimal number; empty: it is none. The caller's. */
int host_link_classes(const char *name, json_t **out, struct error *err);

/* Bits in a second that it can send, as its driver tells; 0: it does not, as without a link. */
int64_t host_link_speed(const char *name);

/* All that the host has on this interface: {"up", "ipv6", "addresses": ["HEX", …], "routes": ["HEX", …]}; the caller's. -ENOTSUP: it
 * has a route that cannot be moved (over several interfaces, or by a nexthop object). */
int host_network_get(const char *name, json_t **out, struct error *err);

/* Gives interface `name` these addresses and routes: what is there already stays, and those of IPv6 are left out where it has IPv6 off. On
 * failure all that could be added is there. */
int host_network_put(const char *name, const json_t *network, struct error *err);

/* Takes these routes and addresses from it; what is not there any more is no failure. */
int host_network_drop(const char *name, const json_t *network, struct error *err);

/* Gives interface `to` what `from` has, then takes that from `from`. Whatever fails, one of the two has all of it. *network (may be NULL)
 * is what was moved; the caller's. */
int host_network_move(const char *from, const char *to, json_t **network, struct error *err);

/* Whether an address of this family (AF_INET, AF_INET6) in it is good for a time alone, and nothing says that the kernel renews it, as it does what it has by router
 * advertisements: then it is a client's. */
bool host_network_needs_client(const json_t *network, int family);

/* "192.0.2.1/24" or "2001:db8::1/64". -EINVAL: it is none; `err` has the end of a sentence. */
int host_address_check(const char *text, struct error *err);
/* The interface has these addresses (strings), and none of `gone` that is not among them; what others have given it stays. */
int host_addresses_set(const char *name, const json_t *addresses, const json_t *gone, struct error *err);
