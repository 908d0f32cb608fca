// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * addresses.c - which IP addresses the guest uses, from what it tells its neighbours: ARP, and IPv6 neighbour discovery.
 *
 * Source: RFC 826, RFC 4861.
 */
#include <arpa/inet.h>
#include <string.h>
#include <time.h>

#include "vsp/network/nic.h"

#define ETHERTYPE_ARP          0x0806u
#define ARP_SIZE               28u
#define ICMPV6                 58u
#define NEIGHBOR_SOLICITATION  135u
#define NEIGHBOR_ADVERTISEMENT 136u

static void note(struct network *network, bool ipv6, const uint8_t *bytes)
{
	struct network_address address = {.ipv6 = ipv6};
	struct timespec now;
	unsigned i;

	memcpy(address.bytes, bytes, ipv6 ? 16 : 4);
	clock_gettime(CLOCK_MONOTONIC, &now);
	address.seen_ms = (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
	pthread_mutex_lock(&network->lock);
	for (i = 0; i < network->address_count; i++)
		if (network->addresses[i].ipv6 == ipv6 && !memcmp(network->addresses[i].bytes, address.bytes, sizeof(address.bytes)))
			break;
	if (i == network->address_count && i < NETWORK_ADDRESSES)
		network->address_count++;
	if (i == NETWORK_ADDRESSES)
		i--;
	memmove(network->addresses + 1, network->addresses, i * sizeof(address));
	network->addresses[0] = address;
	pthread_mutex_unlock(&network->lock);
}

static void look_at_arp(struct network *network, const uint8_t *arp, size_t size)
{
	static const uint8_t ethernet_ipv4[] = {0, 1, 8, 0, 6, 4}, nobody[4];

	if (size >= ARP_SIZE && !memcmp(arp, ethernet_ipv4, sizeof(ethernet_ipv4)) && memcmp(arp + 14, nobody, 4))
		note(network, false, arp + 14);
}

static void look_at_ipv6(struct network *network, const uint8_t *ip, size_t size)
{
	static const uint8_t nobody[16];

	if (size < 40 + 24 || ip[6] != ICMPV6)
		return;
	/* From nobody: it asks whether somebody else has the address that it is about to use. */
	if (ip[40] == NEIGHBOR_ADVERTISEMENT || (ip[40] == NEIGHBOR_SOLICITATION && !memcmp(ip + 8, nobody, sizeof(nobody))))
		note(network, true, ip + 48);
	else if (ip[40] == NEIGHBOR_SOLICITATION)
		note(network, true, ip + 8);
}

void addresses_learn(struct network *network, const uint8_t *headers, size_t size, const struct frame_layout *layout)
{
	if (layout->ethertype == ETHERTYPE_ARP && layout->ip <= size)
		look_at_arp(network, headers + layout->ip, size - layout->ip);
	else if (layout->ipv6 && !layout->protocol)
		look_at_ipv6(network, headers + layout->ip, size - layout->ip);
}

unsigned network_addresses(struct network *network, struct network_seen *seen, unsigned capacity)
{
	unsigned count;

	pthread_mutex_lock(&network->lock);
	count = network->address_count < capacity ? network->address_count : capacity;
	for (unsigned i = 0; i < count; i++) {
		inet_ntop(network->addresses[i].ipv6 ? AF_INET6 : AF_INET, network->addresses[i].bytes, seen[i].address,
		    NETWORK_ADDRESS_MAX);
		seen[i].seen_ms = network->addresses[i].seen_ms;
	}
	pthread_mutex_unlock(&network->lock);
	return count;
}
