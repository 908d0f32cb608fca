/* SPDX-License-Identifier: GPL-2.0-or-later */
/* host_network.c - addresses and routes that move from one interface to another. */
#include <errno.h>
#include <net/if.h>
#include <linux/if_addr.h>
#include <string.h>
#include <unistd.h>

#include "switch/host_link.h"
#include "switch/rtnetlink.h"

/* --- messages as text ------------------------------------------------------------------------------------ */

static json_t *hex_of(const struct nlmsghdr *message)
{
	const uint8_t *bytes = (const uint8_t *)message;
	char *text = malloc(message->nlmsg_len * 2 + 1);
	json_t *json;

	if (!text)
		return NULL;
	for (size_t i = 0; i < message->nlmsg_len; i++)
		snprintf(text + i * 2, 3, "%02x", bytes[i]);
	json = json_string(text);
	free(text);
	return json;
}

/* It comes from a file of ours, but may be damaged. */
static int message_of(const json_t *hex, struct rtnetlink_request *out, size_t header)
{
	const char *text = json_string_value(hex);
	size_t size = text ? strlen(text) / 2 : 0;
	const struct nlmsghdr *message = (const struct nlmsghdr *)out->bytes;
	unsigned byte;

	memset(out, 0, sizeof(*out));
	if (size < NLMSG_LENGTH(header) || size > sizeof(out->bytes))
		return -EBADMSG;
	for (size_t i = 0; i < size; i++) {
		if (sscanf(text + i * 2, "%2x", &byte) != 1)
			return -EBADMSG;
		out->bytes[i] = (uint8_t)byte;
	}
	return message->nlmsg_len == size ? 0 : -EBADMSG;
}

/* --- what there is --------------------------------------------------------------------------------------- */

struct collection {
	int index;
	json_t *addresses, *routes;
};

static int take_address(void *context, const struct nlmsghdr *message)
{
	struct collection *c = context;
	const struct ifaddrmsg *info = NLMSG_DATA(message);

	if (message->nlmsg_type != RTM_NEWADDR || message->nlmsg_len < NLMSG_LENGTH(sizeof(*info)) || (int)info->ifa_index != c->index)
		return 0;
	return json_array_append_new(c->addresses, hex_of(message)) ? -ENOMEM : 0;
}

static const struct rtattr *hops_of(const struct nlmsghdr *message)
{
	return rtnetlink_find(message, sizeof(struct rtmsg), RTA_MULTIPATH);
}

/* One of a route over several ways; NULL: there is none at `at` or behind. */
static struct rtnexthop *hop_at(void *list, size_t size, size_t at)
{
	struct rtnexthop *hop = (struct rtnexthop *)((uint8_t *)list + at);

	return at + sizeof(*hop) <= size && hop->rtnh_len >= sizeof(*hop) ? hop : NULL;
}

/* How many of a route's ways are by this interface, and by others. */
static void count_hops(const struct rtattr *list, int index, unsigned *own, unsigned *others)
{
	const struct rtnexthop *hop;

	*own = *others = 0;
	for (size_t at = 0; list && (hop = hop_at(RTA_DATA(list), RTA_PAYLOAD(list), at)); at += RTNH_ALIGN(hop->rtnh_len))
		++*(hop->rtnh_ifindex == index ? own : others);
}

/* Those that the kernel makes for addresses come with these. */
static int take_route(void *context, const struct nlmsghdr *message)
{
	struct collection *c = context;
	const struct rtmsg *info = NLMSG_DATA(message);
	unsigned own, others;

	if (message->nlmsg_type != RTM_NEWROUTE || message->nlmsg_len < NLMSG_LENGTH(sizeof(*info)) || info->rtm_protocol == RTPROT_KERNEL ||
	    info->rtm_flags & RTM_F_CLONED)
		return 0;
	count_hops(hops_of(message), c->index, &own, &others);
	if (own && others)
		return -EXDEV;
	if (!own && (int)rtnetlink_u32(rtnetlink_find(message, sizeof(*info), RTA_OIF), 0) != c->index)
		return 0;
	if (rtnetlink_find(message, sizeof(*info), RTA_NH_ID))
		return -EXDEV;
	return json_array_append_new(c->routes, hex_of(message)) ? -ENOMEM : 0;
}

int host_network_get(const char *name, json_t **out, struct error *err)
{
	struct collection c = {.addresses = json_array(), .routes = json_array()};
	struct host_link link;
	int r = host_link_get(name, &link, err);

	if (r) {
		json_decref(c.addresses);
		json_decref(c.routes);
		return r;
	}
	c.index = link.index;
	r = rtnetlink_dump(RTM_GETADDR, AF_UNSPEC, take_address, &c);
	/* The family is told: without it the kernel gives those of other kinds too. */
	if (!r)
		r = rtnetlink_dump(RTM_GETROUTE, AF_INET, take_route, &c);
	if (!r)
		r = rtnetlink_dump(RTM_GETROUTE, AF_INET6, take_route, &c);
	if (r) {
		json_decref(c.addresses);
		json_decref(c.routes);
		return r == -EXDEV ? error_set(err, ENOTSUP, "%s has a route over several interfaces, or by a nexthop object, which cannot be moved: "
							     "remove it first", name)
				   : error_set(err, -r, "the addresses and routes of %s cannot be looked at: %s", name, strerror(-r));
	}
	*out = json_pack("{s:b, s:o, s:o}", "up", link.up, "addresses", c.addresses, "routes", c.routes);
	return *out ? 0 : error_set(err, ENOMEM, "no memory");
}

/* --- put elsewhere ------------------------------------------------------------------------------------------ */

enum address_verb { ADDRESS_ADD, ADDRESS_KEEP, ADDRESS_REMOVE };

/* A label is an IPv4 address's name, which begins with its interface's: it has that of the new one. One that is too long is left to the kernel. */
static void add_label(struct rtnetlink_request *request, const char *name, const struct rtattr *label)
{
	char text[IFNAMSIZ], had[IFNAMSIZ];
	const char *rest;

	snprintf(had, sizeof(had), "%.*s", (int)RTA_PAYLOAD(label), (const char *)RTA_DATA(label));
	rest = strchr(had, ':');
	if (rest && snprintf(text, sizeof(text), "%s%s", name, rest) < (int)sizeof(text))
		rtnetlink_add(request, IFA_LABEL, text, strlen(text) + 1);
}

/* IPv6 would not use the address before it has asked whether another has it: this host had it. ADDRESS_KEEP makes it one that is asked about again. */
static int put_address(const char *name, int index, const json_t *hex, enum address_verb verb)
{
	struct rtnetlink_request saved, request;
	const struct nlmsghdr *message = (const struct nlmsghdr *)saved.bytes;
	const struct rtattr *attribute = NULL;
	struct ifaddrmsg info;
	uint32_t flags;
	int r = message_of(hex, &saved, sizeof(info));

	if (r)
		return r;
	memcpy(&info, NLMSG_DATA(message), sizeof(info));
	flags = rtnetlink_u32(rtnetlink_find(message, sizeof(info), IFA_FLAGS), info.ifa_flags) & ~(uint32_t)(IFA_F_TENTATIVE | IFA_F_PERMANENT | IFA_F_SECONDARY | IFA_F_DADFAILED);
	if (info.ifa_family == AF_INET6 && verb == ADDRESS_ADD)
		flags |= IFA_F_NODAD;
	info.ifa_index = (uint32_t)index;
	info.ifa_flags = (uint8_t)flags;
	rtnetlink_begin(&request, verb == ADDRESS_REMOVE ? RTM_DELADDR : RTM_NEWADDR,
	    verb == ADDRESS_REMOVE ? 0 : NLM_F_CREATE | NLM_F_REPLACE, &info, sizeof(info));
	while ((attribute = rtnetlink_next(message, sizeof(info), attribute))) {
		if (attribute->rta_type == IFA_LABEL && verb != ADDRESS_REMOVE)
			add_label(&request, name, attribute);
		if (attribute->rta_type == IFA_LABEL || attribute->rta_type == IFA_FLAGS)
			continue;
		r = rtnetlink_add(&request, attribute->rta_type, RTA_DATA(attribute), RTA_PAYLOAD(attribute));
		if (r)
			return r;
	}
	if (verb != ADDRESS_REMOVE)
		rtnetlink_add(&request, IFA_FLAGS, &flags, sizeof(flags));
	r = rtnetlink_do(&request);
	if (r == -EACCES && info.ifa_family == AF_INET6)
		return 0; /* IPv6 is off there: it is not to have any */
	return r == (verb == ADDRESS_REMOVE ? -EADDRNOTAVAIL : -EEXIST) ? 0 : r;
}

bool host_network_needs_client(const json_t *network, int family)
{
	const uint32_t lasting = family == AF_INET6 ? IFA_F_PERMANENT | IFA_F_TEMPORARY : IFA_F_PERMANENT;
	struct rtnetlink_request saved;
	const struct nlmsghdr *message = (const struct nlmsghdr *)saved.bytes;
	const struct ifaddrmsg *info = NLMSG_DATA(message);
	json_t *hex;
	size_t i;

	json_array_foreach(json_object_get(network, "addresses"), i, hex) {
		const struct rtattr *by;

		if (message_of(hex, &saved, sizeof(*info)) || info->ifa_family != family ||
		    rtnetlink_u32(rtnetlink_find(message, sizeof(*info), IFA_FLAGS), info->ifa_flags) & lasting)
			continue;
		by = rtnetlink_find(message, sizeof(*info), IFA_PROTO);
		if (!by || !RTA_PAYLOAD(by) || *(const uint8_t *)RTA_DATA(by) != IFAPROT_KERNEL_RA)
			return true;
	}
	return false;
}

/* A route that ends some time says when in a form that cannot be given back: seconds it is. */
static void add_expiry(struct rtnetlink_request *request, const struct nlmsghdr *message)
{
	const struct rtattr *attribute = rtnetlink_find(message, sizeof(struct rtmsg), RTA_CACHEINFO);
	struct rta_cacheinfo cache;
	uint32_t seconds;

	if (!attribute || RTA_PAYLOAD(attribute) < sizeof(cache))
		return;
	memcpy(&cache, RTA_DATA(attribute), sizeof(cache));
	if (cache.rta_expires <= 0)
		return;
	seconds = (uint32_t)(cache.rta_expires / sysconf(_SC_CLK_TCK)) + 1;
	rtnetlink_add(request, RTA_EXPIRES, &seconds, sizeof(seconds));
}

/* The ways of a route, all by one interface, by another one. */
static int add_hops(struct rtnetlink_request *request, int index, const struct rtattr *list)
{
	uint8_t hops[RTNETLINK_MESSAGE_MAX];
	size_t size = RTA_PAYLOAD(list), at = 0;
	struct rtnexthop *hop;

	if (size > sizeof(hops))
		return -EMSGSIZE;
	memcpy(hops, RTA_DATA(list), size);
	for (; (hop = hop_at(hops, size, at)); at += RTNH_ALIGN(hop->rtnh_len)) {
		hop->rtnh_ifindex = index;
		hop->rtnh_flags &= RTNH_F_ONLINK;
	}
	return rtnetlink_add(request, RTA_MULTIPATH, hops, size);
}

/* Those of the same target by other interfaces stay: none is replaced, this one is added (or taken away) beside them. */
static int change_route(uint16_t verb, int index, const json_t *hex)
{
	struct rtnetlink_request saved, request;
	const struct nlmsghdr *message = (const struct nlmsghdr *)saved.bytes;
	const struct rtattr *attribute = NULL;
	struct rtmsg info;
	int r = message_of(hex, &saved, sizeof(info));

	if (r)
		return r;
	memcpy(&info, NLMSG_DATA(message), sizeof(info));
	info.rtm_flags &= RTNH_F_ONLINK;
	rtnetlink_begin(&request, verb, verb == RTM_NEWROUTE ? NLM_F_CREATE | NLM_F_APPEND : 0, &info, sizeof(info));
	while (!r && (attribute = rtnetlink_next(message, sizeof(info), attribute))) {
		if (attribute->rta_type == RTA_OIF || attribute->rta_type == RTA_CACHEINFO || attribute->rta_type == RTA_EXPIRES)
			continue;
		r = attribute->rta_type == RTA_MULTIPATH ? add_hops(&request, index, attribute)
							 : rtnetlink_add(&request, attribute->rta_type, RTA_DATA(attribute), RTA_PAYLOAD(attribute));
	}
	if (r)
		return r;
	if (!hops_of(message))
		rtnetlink_add(&request, RTA_OIF, &index, sizeof(index));
	if (verb == RTM_NEWROUTE)
		add_expiry(&request, message);
	r = rtnetlink_do(&request);
	if (r == -EACCES && info.rtm_family == AF_INET6)
		return 0;
	return r == (verb == RTM_NEWROUTE ? -EEXIST : -ESRCH) ? 0 : r;
}

/* Twice: a route may lead by another one that comes behind it. */
static int put_routes(int index, const json_t *routes)
{
	json_t *route;
	size_t i;
	int r = 0;

	for (unsigned round = 0; round < 2; round++) {
		r = 0;
		json_array_foreach(routes, i, route) {
			int one = change_route(RTM_NEWROUTE, index, route);

			r = r ? r : one;
		}
	}
	return r;
}

/* What cannot be put does not keep the others from being there. */
int host_network_put(const char *name, const json_t *network, struct error *err)
{
	struct host_link link;
	json_t *address;
	size_t i;
	int r = host_link_get(name, &link, err), routes;

	if (r)
		return r;
	json_array_foreach(json_object_get(network, "addresses"), i, address) {
		int one = put_address(name, link.index, address, ADDRESS_ADD);

		if (!one)
			one = put_address(name, link.index, address, ADDRESS_KEEP);
		r = r ? r : one;
	}
	routes = put_routes(link.index, json_object_get(network, "routes"));
	if (r)
		return error_set(err, -r, "%s cannot have one of the host's addresses: %s", name, strerror(-r));
	return routes ? error_set(err, -routes, "%s cannot have one of the host's routes: %s", name, strerror(-routes)) : 0;
}

int host_network_drop(const char *name, const json_t *network, struct error *err)
{
	struct host_link link;
	json_t *one;
	size_t i;
	int r = host_link_get(name, &link, err);

	if (r)
		return r;
	json_array_foreach(json_object_get(network, "routes"), i, one) {
		r = change_route(RTM_DELROUTE, link.index, one);
		if (r)
			return error_set(err, -r, "a route of the host cannot be taken from %s: %s", name, strerror(-r));
	}
	json_array_foreach(json_object_get(network, "addresses"), i, one) {
		r = put_address(name, link.index, one, ADDRESS_REMOVE);
		if (r)
			return error_set(err, -r, "an address of the host cannot be taken from %s: %s", name, strerror(-r));
	}
	return 0;
}

int host_network_move(const char *from, const char *to, json_t **network, struct error *err)
{
	json_t *had = NULL;
	int r = host_network_get(from, &had, err);

	if (r)
		return r;
	r = host_network_put(to, had, err);
	if (!r)
		r = host_network_drop(from, had, err);
	/* What went with the addresses is there again, whichever interface the kernel thought of. */
	if (!r)
		r = host_network_put(to, had, err);
	if (r) {
		host_network_put(from, had, NULL);
		host_network_drop(to, had, NULL);
		host_network_put(from, had, NULL);
	}
	if (!r && network)
		*network = json_incref(had);
	json_decref(had);
	return r;
}
