/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/frame.h"

#include <errno.h>
#include <string.h>

#define ETHERTYPE_IPV4   0x0800u
#define ETHERTYPE_IPV6   0x86ddu
#define ETHERTYPE_VLAN   0x8100u
#define ETHERTYPE_S_VLAN 0x88a8u
#define VLAN_TAGS_MAX    2u

#define IPV4_HEADER_MIN     20u
#define IPV6_HEADER_SIZE    40u
#define IPV6_EXTENSIONS_MAX 8u
#define TCP_HEADER_MIN      20u
#define UDP_HEADER_SIZE     8u

#define TCP_CHECKSUM_OFFSET 16u
#define UDP_CHECKSUM_OFFSET 6u
#define TCP_FLAGS_OFFSET    13u
#define TCP_FLAG_CWR        0x80u

#define MSS_MIN 48u /* smaller segments nobody makes who is not out for harm */

/* --- where headers lie ----------------------------------------------------------------------------------- */

static void find_transport(const uint8_t *frame, size_t available, unsigned protocol, unsigned offset,
    struct frame_layout *out)
{
	unsigned size = UDP_HEADER_SIZE;

	if (protocol == FRAME_PROTOCOL_TCP) {
		if (offset + TCP_HEADER_MIN > available)
			return;
		size = (frame[offset + 12] >> 4) * 4u;
		if (size < TCP_HEADER_MIN)
			return;
	} else if (protocol != FRAME_PROTOCOL_UDP) {
		return;
	}
	if (offset + size > available)
		return;
	out->protocol = (uint8_t)protocol;
	out->transport = offset;
	out->payload = offset + size;
}

static void find_ipv4(const uint8_t *frame, size_t available, struct frame_layout *out)
{
	const uint8_t *ip = frame + out->ip;
	unsigned size;

	if (out->ip + IPV4_HEADER_MIN > available || ip[0] >> 4 != 4)
		return;
	size = (ip[0] & 15) * 4u;
	if (size < IPV4_HEADER_MIN || out->ip + size > available)
		return;
	out->ipv4 = true;
	/* A fragment, be it the first, is no packet with a checksum of its own. */
	if (!(be16_get(ip + 6) & 0x3fff))
		find_transport(frame, available, ip[9], out->ip + size, out);
}

static bool is_extension(unsigned header)
{
	return header == 0 || header == 43 || header == 60; /* hop-by-hop, routing, destination options */
}

static void find_ipv6(const uint8_t *frame, size_t available, struct frame_layout *out)
{
	unsigned offset = out->ip + IPV6_HEADER_SIZE, next;

	if (offset > available || frame[out->ip] >> 4 != 6)
		return;
	out->ipv6 = true;
	next = frame[out->ip + 6];
	for (unsigned n = 0; is_extension(next); n++) {
		if (n == IPV6_EXTENSIONS_MAX || offset + 8 > available)
			return;
		next = frame[offset];
		offset += (frame[offset + 1] + 1u) * 8u;
	}
	find_transport(frame, available, next, offset, out);
}

bool frame_parse(const uint8_t *frame, size_t available, struct frame_layout *out)
{
	unsigned offset = FRAME_ETHERNET_SIZE;

	memset(out, 0, sizeof(*out));
	if (available < FRAME_ETHERNET_SIZE)
		return false;
	out->ethertype = be16_get(frame + 12);
	for (unsigned tags = 0; tags < VLAN_TAGS_MAX; tags++) {
		if (out->ethertype != ETHERTYPE_VLAN && out->ethertype != ETHERTYPE_S_VLAN)
			break;
		if (offset + FRAME_VLAN_SIZE > available)
			return true;
		out->ethertype = be16_get(frame + offset + 2);
		offset += FRAME_VLAN_SIZE;
	}
	out->ip = offset;
	if (out->ethertype == ETHERTYPE_IPV4)
		find_ipv4(frame, available, out);
	else if (out->ethertype == ETHERTYPE_IPV6)
		find_ipv6(frame, available, out);
	return true;
}

/* --- checksums ---------------------------------------------------------------------------------------------- */

/* The sum may be made of words in the host's order: it comes out with its bytes swapped, as they lie in memory. */
uint64_t frame_sum(uint64_t sum, const uint8_t *bytes, size_t size, bool odd)
{
	uint64_t part = 0, carry = 0;

	for (; size >= 4; bytes += 4, size -= 4)
		part += le32_get(bytes);
	if (size >= 2) {
		part += le16_get(bytes);
		bytes += 2;
		size -= 2;
	}
	if (size)
		part += *bytes;
	while (part >> 16)
		part = (part & 0xffff) + (part >> 16);
	if (odd)
		part = (part & 0xff) << 8 | part >> 8;
	carry = sum + part;
	while (carry >> 32)
		carry = (carry & 0xffffffff) + (carry >> 32);
	return carry;
}

uint16_t frame_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

void frame_fill_ip4_checksum(uint8_t *headers, const struct frame_layout *layout)
{
	uint8_t *ip = headers + layout->ip;

	le16_put(ip + 10, 0);
	le16_put(ip + 10, frame_fold(frame_sum(0, ip, (ip[0] & 15) * 4u, false)));
}

uint64_t frame_pseudo_sum(const uint8_t *headers, const struct frame_layout *layout, size_t length)
{
	const uint8_t *ip = headers + layout->ip;
	uint8_t rest[8] = {0};

	be32_put(rest, (uint32_t)length);
	rest[7] = layout->protocol;
	return frame_sum(layout->ipv4 ? frame_sum(0, ip + 12, 8, false) : frame_sum(0, ip + 8, 32, false), rest, 8, false);
}

static unsigned checksum_offset(const struct frame_layout *layout)
{
	return layout->protocol == FRAME_PROTOCOL_TCP ? TCP_CHECKSUM_OFFSET : UDP_CHECKSUM_OFFSET;
}

static void defer(uint8_t *headers, const struct frame_layout *layout, size_t size, struct virtio_net_hdr *todo)
{
	uint64_t sum = frame_pseudo_sum(headers, layout, size - layout->transport);

	le16_put(headers + layout->transport + checksum_offset(layout), (uint16_t)~frame_fold(sum));
	todo->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	todo->csum_start = (uint16_t)layout->transport;
	todo->csum_offset = (uint16_t)checksum_offset(layout);
}

int frame_defer_checksum(uint8_t *headers, const struct frame_layout *layout, size_t size, struct virtio_net_hdr *todo)
{
	const uint8_t *ip = headers + layout->ip;
	size_t told;

	if (!layout->protocol || size < layout->payload)
		return -EINVAL;
	/* An Ethernet frame may be padded behind its packet; a checksum would then be over more than the receiver looks at. */
	told = layout->ipv4 ? be16_get(ip + 2) : be16_get(ip + 4) + (size_t)IPV6_HEADER_SIZE;
	if (layout->ip + told != size)
		return -EINVAL;
	defer(headers, layout, size, todo);
	return 0;
}

int frame_defer_segmentation(uint8_t *headers, const struct frame_layout *layout, size_t size, unsigned mss,
    struct virtio_net_hdr *todo)
{
	uint8_t *ip = headers + layout->ip;
	size_t length = size - layout->ip;

	if (layout->protocol != FRAME_PROTOCOL_TCP || size < layout->payload || length > 65535 || mss < MSS_MIN || mss > 65535)
		return -EINVAL;
	if (layout->ipv4) {
		be16_put(ip + 2, (uint16_t)length);
		frame_fill_ip4_checksum(headers, layout);
	} else {
		be16_put(ip + 4, (uint16_t)(length - IPV6_HEADER_SIZE));
	}
	defer(headers, layout, size, todo);
	if (size - layout->payload <= mss)
		return 0;
	todo->gso_type = layout->ipv4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	if (headers[layout->transport + TCP_FLAGS_OFFSET] & TCP_FLAG_CWR)
		todo->gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	todo->gso_size = (uint16_t)mss;
	todo->hdr_len = (uint16_t)layout->payload;
	return 0;
}

/* --- scattered bytes ------------------------------------------------------------------------------------------ */

size_t frame_copy_out(const struct iovec *iov, unsigned count, size_t offset, void *to, size_t size)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < size; i++) {
		size_t n;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		n = min_u64(iov[i].iov_len - offset, size - done);
		memcpy((uint8_t *)to + done, (const uint8_t *)iov[i].iov_base + offset, n);
		done += n;
		offset = 0;
	}
	return done;
}

size_t frame_copy_in(const struct iovec *iov, unsigned count, size_t offset, const void *from, size_t size)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < size; i++) {
		size_t n;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		n = min_u64(iov[i].iov_len - offset, size - done);
		memcpy((uint8_t *)iov[i].iov_base + offset, (const uint8_t *)from + done, n);
		done += n;
		offset = 0;
	}
	return done;
}

bool frame_complete_iov(const struct iovec *iov, unsigned count, size_t size, const struct virtio_net_hdr *todo)
{
	size_t offset = todo->csum_start, at = offset + todo->csum_offset, done = 0;
	uint64_t sum = 0;
	uint16_t value;

	if (!(todo->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return true;
	if (at + 2 > size || offset >= size)
		return false;
	for (unsigned i = 0; i < count && done < size - todo->csum_start; i++) {
		size_t n;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		n = min_u64(iov[i].iov_len - offset, size - todo->csum_start - done);
		sum = frame_sum(sum, (const uint8_t *)iov[i].iov_base + offset, n, done & 1);
		done += n;
		offset = 0;
	}
	value = frame_fold(sum);
	/* Of UDP zero would mean that there is none. */
	if (!value && todo->csum_offset == UDP_CHECKSUM_OFFSET)
		value = 0xffff;
	return frame_copy_in(iov, count, at, &value, sizeof(value)) == sizeof(value);
}

bool frame_complete(uint8_t *frame, size_t size, const struct virtio_net_hdr *todo)
{
	struct iovec iov = {.iov_base = frame, .iov_len = size};

	return frame_complete_iov(&iov, 1, size, todo);
}
