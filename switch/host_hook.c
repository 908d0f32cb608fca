/* SPDX-License-Identifier: GPL-2.0-or-later */
/* host_hook.c - who of the host hears what comes in by an adapter of a switch: hooks of traffic control. */
#include <errno.h>
#include <linux/pkt_sched.h>
#include <string.h>
#include <sys/socket.h>

#include "switch/host_link.h"
#include "switch/program.h"
#include "switch/rtnetlink.h"

#define SEAL_PREFERENCE "49000"

static int run_program(const char *const *argv, struct error *err)
{
	static const char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};

	return program_run(argv, NULL, environment, 5, err);
}

/*
 * Packet sockets of all protocols get frames before this hook; those of one protocol, and the host's own, behind it. The filter is classic BPF, as kernels have
 * the interpreter of that where they lack the more special classifiers. -1: whatever other filters say; 2: drop. A load beyond the frame's end is as good as
 * 0, "pass": such a frame has no whole UDP header, so nobody takes it.
 */
static const char seal_filter[] = "13,"
				  "32 0 0 4294963248,21 0 10 0," /* no VLAN tag beside the frame, and */
				  "40 0 0 12,21 0 8 2048,"       /* IPv4 */
				  "48 0 0 23,21 0 6 17,"         /* UDP */
				  "40 0 0 20,69 4 0 16383,"      /* in one piece */
				  "177 0 0 14,72 0 0 16,21 0 1 68," /* to port 68: a DHCP client's */
				  "6 0 0 4294967295,"
				  "6 0 0 2";

int host_link_seal(const char *name, struct error *err)
{
	const char *const hook[] = {"tc", "qdisc", "add", "dev", name, "clsact", NULL};
	const char *const filter[] = {"tc", "filter", "replace", "dev", name, "ingress", "protocol", "all", "pref", SEAL_PREFERENCE, "handle", "1", "bpf",
	    "direct-action", "bytecode", seal_filter, NULL};
	bool new_hook = !run_program(hook, NULL);
	int r = run_program(filter, err);

	if (!r)
		return 0;
	if (new_hook)
		host_link_unseal(name, true);
	error_prefix(err, "%s cannot be kept from the host's own traffic", name);
	return r;
}

void host_link_unseal(const char *name, bool made)
{
	const char *const hook[] = {"tc", "qdisc", "del", "dev", name, "clsact", NULL};
	const char *const filter[] = {"tc", "filter", "del", "dev", name, "ingress", "pref", SEAL_PREFERENCE, NULL};

	run_program(made ? hook : filter, NULL);
}

struct hook_search {
	int index;
	bool found;
};

static int take_hook(void *context, const struct nlmsghdr *message)
{
	struct hook_search *s = context;
	const struct tcmsg *info = NLMSG_DATA(message);
	const struct rtattr *kind;

	if (message->nlmsg_type != RTM_NEWQDISC || message->nlmsg_len < NLMSG_LENGTH(sizeof(*info)) || info->tcm_ifindex != s->index)
		return 0;
	kind = rtnetlink_find(message, sizeof(*info), TCA_KIND);
	s->found |= kind && RTA_PAYLOAD(kind) == sizeof("clsact") && !memcmp(RTA_DATA(kind), "clsact", sizeof("clsact"));
	return 0;
}

int host_link_has_hook(const char *name, bool *hook, struct error *err)
{
	struct hook_search search = {0};
	struct host_link link;
	int r = host_link_get(name, &link, err);

	if (r)
		return r;
	search.index = link.index;
	r = rtnetlink_dump(RTM_GETQDISC, AF_UNSPEC, take_hook, &search);
	if (r)
		return error_set(err, -r, "traffic control of %s cannot be looked at: %s", name, strerror(-r));
	*hook = search.found;
	return 0;
}

/* --- a client's ear ------------------------------------------------------------------------------------------ */

/* Of service tags (IEEE 802.1ad), of which a host's own network seldom has any, and the last there is. What comes in with it from outside is, but for what
 * the seal lets pass, not heard. */
#define LISTENER_VLAN     "4094"
#define LISTENER_PROTOCOL "802.1ad"

static int remove_link(const char *name, struct error *err)
{
	struct ifinfomsg info = {0};
	struct rtnetlink_request request;
	struct host_link link;
	int r = host_link_get(name, &link, err);

	if (r)
		return r == -ENODEV ? 0 : r;
	info.ifi_index = link.index;
	rtnetlink_begin(&request, RTM_DELLINK, 0, &info, sizeof(info));
	r = rtnetlink_do(&request);
	return r ? error_set(err, -r, "%s cannot be removed: %s", name, strerror(-r)) : 0;
}

/* It has no part in any network of its own: no address, so it sends nothing, and what it hears is what the seal lets pass. */
static int make_listener(const char *listener, const char *adapter, const struct host_link *of, struct error *err)
{
	const char *const add[] = {"ip", "link", "add", "link", adapter, "name", listener, "type", "vlan", "proto", LISTENER_PROTOCOL, "id", LISTENER_VLAN, NULL};
	struct host_link link;
	int r = host_link_get(listener, &link, NULL);

	if (!r && link.of != of->index)
		r = remove_link(listener, err) ? -EBUSY : -ENODEV;
	if (r == -ENODEV)
		r = run_program(add, err);
	if (!r)
		r = host_link_set_ipv6(listener, false, err);
	if (!r)
		r = host_link_seal(listener, err);
	return r ? r : host_link_set_up(listener, true, err);
}

/* As seal_filter, and the client's own hardware address in the message: 14 bytes of Ethernet, IPv4's header, 8 of UDP, 28 of the message before it. -1: it is
 * one; 0: it is none, as also when the frame ends before. */
static void listener_filter(char text[512], const uint8_t mac[6])
{
	uint32_t first = (uint32_t)mac[0] << 24 | (uint32_t)mac[1] << 16 | (uint32_t)mac[2] << 8 | mac[3];
	unsigned rest = (unsigned)mac[4] << 8 | mac[5];

	snprintf(text, 512,
	    "17,"
	    "32 0 0 4294963248,21 0 14 0,"    /* no VLAN tag beside the frame, and */
	    "40 0 0 12,21 0 12 2048,"         /* IPv4 */
	    "48 0 0 23,21 0 10 17,"           /* UDP */
	    "40 0 0 20,69 8 0 16383,"         /* in one piece */
	    "177 0 0 14,72 0 0 16,21 0 5 68," /* to port 68, */
	    "64 0 0 50,21 0 3 %u,"            /* for a client with this address */
	    "72 0 0 54,21 0 1 %u,"
	    "6 0 0 4294967295,"
	    "6 0 0 0",
	    (unsigned)first, rest);
}

int host_link_listen_for_leases(const char *adapter, const char *listener, const char *also, struct error *err)
{
	const char *const hook[] = {"tc", "qdisc", "add", "dev", adapter, "clsact", NULL};
	char bytecode[512];
	const char *filter[32] = {"tc", "filter", "replace", "dev", adapter, "ingress", "protocol", "all", "pref", SEAL_PREFERENCE, "handle", "1", "bpf",
	    "bytecode", bytecode};
	const char *const mirror[] = {"action", "mirred", "ingress", "mirror", "dev", also};
	const char *const push[] = {"action", "vlan", "push", "id", LISTENER_VLAN, "protocol", LISTENER_PROTOCOL, "pass"};
	size_t n = 15;
	struct host_link link;
	int r = host_link_get(adapter, &link, err);

	if (!r)
		r = make_listener(listener, adapter, &link, err);
	if (r)
		return r;
	listener_filter(bytecode, link.mac);
	for (size_t i = 0; also && i < ARRAY_SIZE(mirror); i++)
		filter[n++] = mirror[i];
	for (size_t i = 0; i < ARRAY_SIZE(push); i++)
		filter[n++] = push[i];
	run_program(hook, NULL);
	return run_program(filter, err);
}

void host_link_end_listening(const char *adapter, const char *listener, bool made)
{
	host_link_unseal(adapter, made);
	remove_link(listener, NULL);
}
