// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rndis.c - control messages of Remote NDIS.
 *
 * Source: [MS-RNDIS] 2.2; Linux drivers/net/hyperv/rndis_filter.c.
 */
#include <string.h>

#include "vsp/network/nic.h"

#define RNDIS_MAX_TRANSFER 0x4000u /* what Linux names itself; nobody is bound by it on this bus */
#define RNDIS_ALIGNMENT    3u      /* 8 bytes */

uint8_t *nic_reply_begin(struct nic *nic)
{
	unsigned i;

	/* A driver may ask more in one go than wait here. */
	if (nic->reply_count == NIC_REPLIES)
		receive_replies(nic);
	i = (nic->reply_first + nic->reply_count) % NIC_REPLIES;
	if (nic->reply_count == NIC_REPLIES) {
		nic_break(nic, "control messages are sent, and their answers not taken");
		return NULL;
	}
	memset(nic->replies[i].bytes, 0, NIC_REPLY_MAX);
	return nic->replies[i].bytes;
}

void nic_reply_queue(struct nic *nic, size_t size)
{
	unsigned i = (nic->reply_first + nic->reply_count) % NIC_REPLIES;

	nic->replies[i].size = (uint32_t)size;
	nic->reply_count++;
}

void rndis_indicate_link(struct nic *nic, bool up)
{
	struct rndis_indicate message = {.header = {RNDIS_INDICATE_STATUS, sizeof(message)},
	    .status = up ? RNDIS_STATUS_MEDIA_CONNECT : RNDIS_STATUS_MEDIA_DISCONNECT};
	uint8_t *reply = nic_reply_begin(nic);

	if (!reply)
		return;
	memcpy(reply, &message, sizeof(message));
	nic_reply_queue(nic, sizeof(message));
}

static void reply_initialize(struct nic *nic, const uint8_t *message)
{
	struct rndis_initialize request;
	struct rndis_initialize_complete answer = {.header = {RNDIS_INITIALIZE | RNDIS_COMPLETE, sizeof(answer)},
	    .major = 1,
	    .device_flags = 1,
	    .max_packets = TX_MESSAGES,
	    .max_transfer = RNDIS_MAX_TRANSFER,
	    .alignment = RNDIS_ALIGNMENT};
	uint8_t *reply = nic_reply_begin(nic);

	if (!reply)
		return;
	memcpy(&request, message, sizeof(request));
	answer.request_id = request.request_id;
	answer.status = request.major == 1 ? RNDIS_STATUS_SUCCESS : RNDIS_STATUS_FAILURE;
	memcpy(reply, &answer, sizeof(answer));
	nic_reply_queue(nic, sizeof(answer));
	/* The driver asks for the link itself, and is told of changes. */
	nic->rndis.initialized = request.major == 1;
	nic->link = nic_port(nic) != NULL;
}

static void forget(struct nic *nic)
{
	memset(&nic->rndis, 0, sizeof(nic->rndis));
	memcpy(nic->rndis.mac, nic->network->mac, sizeof(nic->rndis.mac));
	memset(&nic->scaling, 0, sizeof(nic->scaling));
	receive_choose_offloads(nic);
}

static void reply_query(struct nic *nic, const struct rndis_request *request)
{
	struct rndis_query_complete answer = {.header = {RNDIS_QUERY | RNDIS_COMPLETE, 0}, .request_id = request->request_id};
	uint8_t *reply = nic_reply_begin(nic);
	size_t size = 0;

	if (!reply)
		return;
	answer.status = oid_query(nic, request->oid, reply + sizeof(answer), NIC_REPLY_MAX - sizeof(answer), &size);
	if (answer.status != RNDIS_STATUS_SUCCESS)
		size = 0;
	answer.info_length = (uint32_t)size;
	answer.info_offset = sizeof(answer) - sizeof(answer.header);
	answer.header.length = (uint32_t)(sizeof(answer) + size);
	memcpy(reply, &answer, sizeof(answer));
	nic_reply_queue(nic, answer.header.length);
}

static void reply_complete(struct nic *nic, uint32_t type, uint32_t request_id, uint32_t status)
{
	struct rndis_complete answer = {.header = {type | RNDIS_COMPLETE, sizeof(answer)}, .request_id = request_id, .status = status};
	uint8_t *reply = nic_reply_begin(nic);

	if (!reply)
		return;
	if (type == RNDIS_RESET) {
		answer.request_id = RNDIS_STATUS_SUCCESS;
		answer.status = 1;
	}
	memcpy(reply, &answer, sizeof(answer));
	nic_reply_queue(nic, sizeof(answer));
}

/* QUERY and SET, with the value that they carry. */
static bool on_request(struct nic *nic, const uint8_t *message, size_t size, uint32_t type)
{
	struct rndis_request request;
	uint64_t offset;

	if (size < sizeof(request))
		return false;
	memcpy(&request, message, sizeof(request));
	offset = (uint64_t)request.info_offset + sizeof(request.header);
	if (request.info_length == 0)
		offset = size;
	if (!range_fits_u64(offset, request.info_length, size))
		return false;
	if (type == RNDIS_QUERY)
		reply_query(nic, &request);
	else
		reply_complete(nic, type, request.request_id, oid_set(nic, request.oid, message + offset, request.info_length));
	return true;
}

bool rndis_control(struct nic *nic, const uint8_t *message, size_t size)
{
	struct rndis_header header;
	uint32_t request_id = 0;

	if (size < sizeof(header))
		return false;
	memcpy(&header, message, sizeof(header));
	if (header.length < sizeof(header) || header.length > size)
		return false;
	size = header.length;
	if (size >= sizeof(header) + sizeof(request_id))
		request_id = le32_get(message + sizeof(header));
	switch (header.type) {
	case RNDIS_INITIALIZE:
		if (size < sizeof(struct rndis_initialize))
			return false;
		reply_initialize(nic, message);
		return true;
	case RNDIS_HALT:
		forget(nic);
		return true;
	case RNDIS_RESET:
		nic->rndis.filter = 0;
		reply_complete(nic, RNDIS_RESET, 0, 0);
		return true;
	case RNDIS_KEEPALIVE:
		reply_complete(nic, RNDIS_KEEPALIVE, request_id, RNDIS_STATUS_SUCCESS);
		return true;
	case RNDIS_QUERY:
	case RNDIS_SET:
		return on_request(nic, message, size, header.type);
	default:
		return false;
	}
}
