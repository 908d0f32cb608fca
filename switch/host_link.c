/* SPDX-License-Identifier: GPL-2.0-or-later */
/* host_link.c - interfaces as such, and addresses that are told by text. */
#include "switch/host_link.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/pkt_sched.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/socket.h>

#include "switch/rtnetlink.h"

#define LOWER_UP 0x10000u /* IFF_LOWER_UP of linux/if.h, which is not to be had beside net/if.h */

struct link_search {
	const char *name;
	struct host_link *link;
	bool found;
};

static int take_link(void *context, const struct nlmsghdr *message)
{
	struct link_search *s = context;
	const struct ifinfomsg *info = NLMSG_DATA(message);
	const struct rtattr *name, *mac;

	if (message->nlmsg_type != RTM_NEWLINK || message->nlmsg_len < NLMSG_LENGTH(sizeof(*info)))
		return 0;
	name = rtnetlink_find(message, sizeof(*info), IFLA_IFNAME);
	if (!name || strncmp(RTA_DATA(name), s->name, RTA_PAYLOAD(name)) || strlen(s->name) >= RTA_PAYLOAD(name))
		return 0;
	s->found = true;
	*s->link = (struct host_link){.index = info->ifi_index, .up = info->ifi_flags & IFF_UP, .promiscuous = info->ifi_flags & IFF_PROMISC, .loopback = info->ifi_flags & IFF_LOOPBACK,
				      .carrier = (info->ifi_flags & (IFF_UP | LOWER_UP)) == (IFF_UP | LOWER_UP),
				      .master = (int)rtnetlink_u32(rtnetlink_find(message, sizeof(*info), IFLA_MASTER), 0),
				      .of = (int)rtnetlink_u32(rtnetlink_find(message, sizeof(*info), IFLA_LINK), 0),
				      .mtu = rtnetlink_u32(rtnetlink_find(message, sizeof(*info), IFLA_MTU), 0)};
	mac = rtnetlink_find(message, sizeof(*info), IFLA_ADDRESS);
	if (mac && RTA_PAYLOAD(mac) == 6 && info->ifi_type == ARPHRD_ETHER) {
		memcpy(s->link->mac, RTA_DATA(mac), 6);
		s->link->has_mac = true;
	}
	return 0;
}

int host_link_get(const char *name, struct host_link *link, struct error *err)
{
	struct link_search search = {.name = name, .link = link};
	int r = rtnetlink_dump(RTM_GETLINK, AF_UNSPEC, take_link, &search);

	if (r)
		return error_set(err, -r, "the host's network interfaces cannot be looked at: %s", strerror(-r));
	return search.found ? 0 : error_set(err, ENODEV, "the host has no network adapter \"%s\"", name);
}

static const struct rtattr *nested(const struct rtattr *outer, uint16_t type)
{
	const uint8_t *at = RTA_DATA(outer);
	size_t left = RTA_PAYLOAD(outer);

	while (left >= sizeof(struct rtattr)) {
		const struct rtattr *one = (const struct rtattr *)at;

		if (one->rta_len < sizeof(*one) || one->rta_len > left)
			return NULL;
		if ((one->rta_type & NLA_TYPE_MASK) == type)
			return one;
		left -= RTA_ALIGN(one->rta_len) < left ? RTA_ALIGN(one->rta_len) : left;
		at += RTA_ALIGN(one->rta_len);
	}
	return NULL;
}

struct above_search {
	int index;
	char *name;
};

/* A veth interface names its peer the same way, and is not made of it. */
static bool is_veth(const struct nlmsghdr *message)
{
	const struct rtattr *information = rtnetlink_find(message, sizeof(struct ifinfomsg), IFLA_LINKINFO);
	const struct rtattr *kind = information ? nested(information, IFLA_INFO_KIND) : NULL;

	return kind && RTA_PAYLOAD(kind) >= 4 && !memcmp(RTA_DATA(kind), "veth", 4);
}

static int take_above(void *context, const struct nlmsghdr *message)
{
	struct above_search *s = context;
	const struct ifinfomsg *info = NLMSG_DATA(message);
	const struct rtattr *name;

	if (message->nlmsg_type != RTM_NEWLINK || message->nlmsg_len < NLMSG_LENGTH(sizeof(*info)) || info->ifi_index == s->index)
		return 0;
	name = rtnetlink_find(message, sizeof(*info), IFLA_IFNAME);
	/* With a number of a network namespace it is an interface there. */
	if (!name || (int)rtnetlink_u32(rtnetlink_find(message, sizeof(*info), IFLA_LINK), 0) != s->index ||
	    rtnetlink_find(message, sizeof(*info), IFLA_LINK_NETNSID) || is_veth(message))
		return 0;
	snprintf(s->name, 16, "%.*s", (int)RTA_PAYLOAD(name), (const char *)RTA_DATA(name));
	return 0;
}

int host_link_above(int index, char name[16], struct error *err)
{
	struct above_search search = {.index = index, .name = name};
	int r;

	*name = '\0';
	r = rtnetlink_dump(RTM_GETLINK, AF_UNSPEC, take_above, &search);
	return r ? error_set(err, -r, "the host's network interfaces cannot be looked at: %s", strerror(-r)) : 0;
}

static int set_flag(const char *name, unsigned flag, bool on, struct error *err)
{
	struct ifinfomsg info = {.ifi_change = flag, .ifi_flags = on ? flag : 0};
	struct rtnetlink_request request;
	struct host_link link;
	int r = host_link_get(name, &link, err);

	if (r)
		return r;
	info.ifi_index = link.index;
	rtnetlink_begin(&request, RTM_NEWLINK, 0, &info, sizeof(info));
	r = rtnetlink_do(&request);
	return r ? error_set(err, -r, "%s cannot be set %s: %s", name, flag == IFF_PROMISC ? "promiscuous or not" : on ? "up" : "down", strerror(-r)) : 0;
}

int host_link_set_up(const char *name, bool up, struct error *err)
{
	return set_flag(name, IFF_UP, up, err);
}

int host_link_set_promiscuous(const char *name, bool on, struct error *err)
{
	return set_flag(name, IFF_PROMISC, on, err);
}

int host_link_set_mtu(const char *name, uint32_t mtu, struct error *err)
{
	struct ifinfomsg info = {0};
	struct rtnetlink_request request;
	struct host_link link;
	int r = host_link_get(name, &link, err);

	if (r)
		return r;
	info.ifi_index = link.index;
	rtnetlink_begin(&request, RTM_NEWLINK, 0, &info, sizeof(info));
	rtnetlink_add(&request, IFLA_MTU, &mtu, sizeof(mtu));
	r = rtnetlink_do(&request);
	return r ? error_set(err, -r, "%s cannot have an MTU of %u: %s", name, mtu, strerror(-r)) : 0;
}

/* --- queues ---------------------------------------------------------------------------------------------- */

struct class_search {
	int index;
	json_t *classes;
};

/* What does not fit into the 32 bits is in an attribute of its own. */
static json_int_t rate_of(const struct tc_ratespec *spec, const struct rtattr *wide)
{
	uint64_t rate = spec->rate;

	if (wide && RTA_PAYLOAD(wide) == sizeof(rate))
		memcpy(&rate, RTA_DATA(wide), sizeof(rate));
	return (json_int_t)rate;
}

static int take_class(void *context, const struct nlmsghdr *message)
{
	struct class_search *s = context;
	const struct tcmsg *info = NLMSG_DATA(message);
	const struct rtattr *kind, *options, *parameters;
	struct tc_htb_opt htb;
	char number[16];

	if (message->nlmsg_type != RTM_NEWTCLASS || message->nlmsg_len < NLMSG_LENGTH(sizeof(*info)) || info->tcm_ifindex != s->index)
		return 0;
	kind = rtnetlink_find(message, sizeof(*info), TCA_KIND);
	options = rtnetlink_find(message, sizeof(*info), TCA_OPTIONS);
	if (!kind || RTA_PAYLOAD(kind) != sizeof("htb") || memcmp(RTA_DATA(kind), "htb", sizeof("htb")) != 0 || !options)
		return 0;
	parameters = nested(options, TCA_HTB_PARMS);
	if (!parameters || RTA_PAYLOAD(parameters) < sizeof(htb))
		return 0;
	memcpy(&htb, RTA_DATA(parameters), sizeof(htb));
	snprintf(number, sizeof(number), "%u", TC_H_MIN(info->tcm_handle));
	json_object_set_new(s->classes, number, json_pack("{s:I, s:I}", "min", rate_of(&htb.rate, nested(options, TCA_HTB_RATE64)), "max",
						    rate_of(&htb.ceil, nested(options, TCA_HTB_CEIL64))));
	return 0;
}

int host_link_classes(const char *name, json_t **out, struct error *err)
{
	struct tcmsg header = {.tcm_family = AF_UNSPEC};
	struct class_search search = {.classes = json_object()};
	struct host_link link;
	int r = host_link_get(name, &link, err);

	if (!r) {
		search.index = header.tcm_ifindex = link.index;
		r = rtnetlink_dump_of(RTM_GETTCLASS, &header, sizeof(header), take_class, &search);
		if (r)
			error_set(err, -r, "the queue of %s cannot be looked at: %s", name, strerror(-r));
	}
	if (r)
		json_decref(search.classes);
	else
		*out = search.classes;
	return r;
}

int64_t host_link_speed(const char *name)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	char text[24] = "";

	if (strchr(name, '/') || asprintf(&path, "/sys/class/net/%s/speed", name) < 0)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0 || strtol(text, NULL, 10) <= 0)
		return 0;
	return strtol(text, NULL, 10) * 1000000ll;
}

/* --- IPv6 ------------------------------------------------------------------------------------------------ */

/* -ENOENT: the kernel has no IPv6. */
static int open_ipv6(const char *name, int flags, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	int fd;

	if (strchr(name, '/') || asprintf(&path, "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name) < 0)
		return error_set(err, EINVAL, "%s: no such interface", name);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? error_set(err, errno, "%s: %s", path, strerror(errno)) : fd;
}

bool host_link_has_ipv6(const char *name)
{
	_cleanup_close_ int fd = open_ipv6(name, O_RDONLY, NULL);
	char now = '1';

	return fd >= 0 && read(fd, &now, 1) == 1 && now == '0';
}

int host_link_set_ipv6(const char *name, bool on, struct error *err)
{
	struct error why = {0};
	_cleanup_close_ int fd = -1;

	if (host_link_has_ipv6(name) == on)
		return 0;
	fd = open_ipv6(name, O_WRONLY, &why);
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return error_set(err, why.code, "%s", why.text);
	return pwrite(fd, on ? "0" : "1", 1, 0) == 1 ? 0 : error_set(err, errno, "IPv6 of %s cannot be switched: %s", name, strerror(errno));
}

/* --- settings ---------------------------------------------------------------------------------------------- */

static int open_settings(const char *family, const char *name)
{
	_cleanup_free_ char *path = NULL;

	return strchr(name, '/') || asprintf(&path, "/proc/sys/net/%s/conf/%s", family, name) < 0 ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static ssize_t read_setting(int directory, const char *key, char text[64])
{
	_cleanup_close_ int fd = openat(directory, key, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -1 : read(fd, text, 64);
}

static void copy_setting(int from, int to, const char *key)
{
	char wanted[64], has[64];
	ssize_t size = read_setting(from, key, wanted);
	_cleanup_close_ int fd = -1;

	if (size <= 0 || (read_setting(to, key, has) == size && !memcmp(wanted, has, (size_t)size)))
		return;
	fd = openat(to, key, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, wanted, (size_t)size) != size)
		log_write(LOG_LEVEL_DEBUG, "setting %s of an interface cannot be copied: %s", key, strerror(errno));
}

/* How long frames are, and whether there is IPv6, is told otherwise. */
static void copy_family(const char *family, const char *from, const char *to)
{
	_cleanup_close_ int target = open_settings(family, to);
	int source = open_settings(family, from);
	DIR *directory = source < 0 ? NULL : fdopendir(source);
	struct dirent *entry;

	while (directory && target >= 0 && (entry = readdir(directory)))
		if (*entry->d_name != '.' && strcmp(entry->d_name, "disable_ipv6") && strcmp(entry->d_name, "mtu"))
			copy_setting(source, target, entry->d_name);
	if (directory)
		closedir(directory);
	else if (source >= 0)
		close(source);
}

void host_link_copy_settings(const char *from, const char *to)
{
	copy_family("ipv4", from, to);
	copy_family("ipv6", from, to);
}

/* --- who is given addresses ---------------------------------------------------------------------------------- */

int host_link_listen(void)
{
	return rtnetlink_listen(RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR);
}

enum host_link_news host_link_heard(int fd, char name[16])
{
	_Alignas(struct nlmsghdr) uint8_t bytes[RTNETLINK_MESSAGE_MAX];
	const struct nlmsghdr *message = (const struct nlmsghdr *)bytes;
	const struct ifaddrmsg *info = NLMSG_DATA(message);
	const struct ifinfomsg *link = NLMSG_DATA(message);

	*name = '\0';
	for (;;) {
		ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == ENOBUFS ? HOST_LINK_MUCH : HOST_LINK_NOTHING;
		/* The kernel tells each in a datagram of its own, which may be longer than what is looked at. An address of an interface that is gone by now is nothing. */
		if ((size_t)n >= NLMSG_LENGTH(sizeof(*info)) && message->nlmsg_type == RTM_NEWADDR && if_indextoname(info->ifa_index, name))
			return HOST_LINK_ADDRESS;
		if ((size_t)n >= NLMSG_LENGTH(sizeof(*link)) && (message->nlmsg_type == RTM_NEWLINK || message->nlmsg_type == RTM_DELLINK)) {
			if (!if_indextoname((unsigned)link->ifi_index, name))
				*name = '\0';
			return HOST_LINK_STATE;
		}
	}
}

/* --- addresses by text ----------------------------------------------------------------------------------- */

struct address {
	uint8_t family, length;
	uint8_t bytes[16];
};

static size_t address_size(const struct address *a)
{
	return a->family == AF_INET ? 4 : 16;
}

static int parse(const char *text, struct address *out)
{
	const char *slash = strchr(text, '/');
	char host[INET6_ADDRSTRLEN];
	unsigned long length;
	char *end;

	memset(out, 0, sizeof(*out));
	if (!slash || slash - text >= (ptrdiff_t)sizeof(host) || slash[1] < '0' || slash[1] > '9')
		return -EINVAL;
	memcpy(host, text, (size_t)(slash - text));
	host[slash - text] = '\0';
	length = strtoul(slash + 1, &end, 10);
	out->family = strchr(host, ':') ? AF_INET6 : AF_INET;
	if (*end || length < 1 || length > address_size(out) * 8 || inet_pton(out->family, host, out->bytes) != 1)
		return -EINVAL;
	out->length = (uint8_t)length;
	return 0;
}

/* What no interface but the loopback can have. */
static bool is_nobodys(const struct address *a)
{
	struct in6_addr v6;

	if (a->family == AF_INET)
		return a->bytes[0] == 0 || a->bytes[0] == 127 || a->bytes[0] >= 224;
	memcpy(&v6, a->bytes, sizeof(v6));
	return IN6_IS_ADDR_UNSPECIFIED(&v6) || IN6_IS_ADDR_LOOPBACK(&v6) || IN6_IS_ADDR_MULTICAST(&v6);
}

int host_address_check(const char *text, struct error *err)
{
	struct address a;

	if (parse(text, &a))
		return error_set(err, EINVAL, "is no address with its network's length, such as 192.0.2.1/24 or 2001:db8::1/64");
	return is_nobodys(&a) ? error_set(err, EINVAL, "is no address of one host on a network") : 0;
}

struct address_search {
	int index;
	const json_t *wanted, *gone;
	struct rtnetlink_request removals[32];
	size_t count;
};

static bool same(const struct nlmsghdr *message, const char *text)
{
	const struct ifaddrmsg *info = NLMSG_DATA(message);
	const struct rtattr *local = rtnetlink_find(message, sizeof(*info), IFA_LOCAL);
	struct address a;

	if (!local)
		local = rtnetlink_find(message, sizeof(*info), IFA_ADDRESS);
	return local && !parse(text, &a) && a.family == info->ifa_family && a.length == info->ifa_prefixlen &&
	       RTA_PAYLOAD(local) == address_size(&a) && !memcmp(RTA_DATA(local), a.bytes, address_size(&a));
}

static bool is_among(const struct nlmsghdr *message, const json_t *addresses)
{
	json_t *text;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)addresses, i, text)
		if (same(message, json_string_value(text)))
			return true;
	return false;
}

static int take_surplus(void *context, const struct nlmsghdr *message)
{
	struct address_search *s = context;
	const struct ifaddrmsg *info = NLMSG_DATA(message);
	const struct rtattr *local;

	if (message->nlmsg_type != RTM_NEWADDR || message->nlmsg_len < NLMSG_LENGTH(sizeof(*info)) || (int)info->ifa_index != s->index ||
	    !is_among(message, s->gone) || is_among(message, s->wanted))
		return 0;
	local = rtnetlink_find(message, sizeof(*info), IFA_LOCAL);
	if (!local)
		local = rtnetlink_find(message, sizeof(*info), IFA_ADDRESS);
	if (local && s->count < ARRAY_SIZE(s->removals)) {
		rtnetlink_begin(&s->removals[s->count], RTM_DELADDR, 0, info, sizeof(*info));
		rtnetlink_add(&s->removals[s->count++], IFA_LOCAL, RTA_DATA(local), RTA_PAYLOAD(local));
	}
	return 0;
}

static int add(int index, const char *text)
{
	struct ifaddrmsg info = {.ifa_index = (uint32_t)index};
	uint32_t flags = IFA_F_NODAD;
	struct rtnetlink_request request;
	struct address a;
	int r;

	if (parse(text, &a))
		return -EINVAL;
	info.ifa_family = a.family;
	info.ifa_prefixlen = a.length;
	rtnetlink_begin(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof(info));
	rtnetlink_add(&request, IFA_LOCAL, a.bytes, address_size(&a));
	rtnetlink_add(&request, IFA_ADDRESS, a.bytes, address_size(&a));
	if (a.family == AF_INET6) {
		rtnetlink_add(&request, IFA_FLAGS, &flags, sizeof(flags));
	} else if (a.length < 31) {
		uint32_t broadcast;

		memcpy(&broadcast, a.bytes, sizeof(broadcast));
		broadcast |= htonl(UINT32_MAX >> a.length);
		rtnetlink_add(&request, IFA_BROADCAST, &broadcast, sizeof(broadcast));
	}
	r = rtnetlink_do(&request);
	return r == -EEXIST ? 0 : r;
}

int host_addresses_set(const char *name, const json_t *addresses, const json_t *gone, struct error *err)
{
	struct address_search *search = calloc(1, sizeof(*search));
	struct host_link link;
	json_t *text;
	size_t i;
	int r = search ? host_link_get(name, &link, err) : error_set(err, ENOMEM, "no memory");

	if (r) {
		free(search);
		return r;
	}
	search->index = link.index;
	search->wanted = addresses;
	search->gone = gone;
	r = rtnetlink_dump(RTM_GETADDR, AF_UNSPEC, take_surplus, search);
	for (i = 0; i < search->count; i++)
		rtnetlink_do(&search->removals[i]);
	free(search);
	if (r)
		return error_set(err, -r, "the addresses of %s cannot be looked at: %s", name, strerror(-r));
	json_array_foreach(addresses, i, text) {
		r = add(link.index, json_string_value(text));
		if (r)
			return error_set(err, -r, "%s cannot have address %s: %s", name, json_string_value(text), strerror(-r));
	}
	return 0;
}
