/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nic.h - what the files of vsp/network share; private to it.
 *
 *  network.c    the adapter: its offer, the port it is plugged into
 *  nvsp.c       an open channel: the thread, its messages, the two buffers
 *  rndis.c      control messages; oid.c what can be asked and set by them
 *  transmit.c   frames of the guest to the port
 *  receive.c    frames of the port to the guest
 *  saved.c      an adapter at rest, saved and loaded
 *  addresses.c  which IP addresses the guest uses
 *  meter.c      how much goes to whom
 *  scaling.c    which channel a frame comes by
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/form.h"
#include "vsp/network/network.h"
#include "vsp/network/nvsp_protocol.h"
#include "vsp/network/rndis_protocol.h"

#define NIC_MULTICAST_MAX 32u
#define NIC_CHANNELS_MAX  16u

struct network {
	struct vmbus *bus;
	struct partition *partition;
	struct channel *channel;
	struct guid instance;
	char name[32];
	uint8_t mac[FRAME_MAC_SIZE]; /* permanent */
	bool any_mac;

	unsigned channel_max; /* that the guest may have, the primary counted */
	struct log_limit log_limit;

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t plugged;
	/* Sub-channels by their index; there is none at 0. Offered by the channel's thread, removed when that has ended. */
	struct sub_channel {
		struct network *network;
		struct channel *channel;
		bool open;
	} subs[NIC_CHANNELS_MAX];
	atomic_bool subs_changed; /* the thread has not looked at `open` yet */
	struct nic *nic;   /* NULL while the channel is not open */
	struct port *port; /* the thread's while there is one, but for `replug` */
	struct port *next;
	atomic_bool replug;
	atomic_bool paused;
	atomic_bool removed; /* it is being taken from the guest */
	struct network_meter *meter; /* NULL: none */
	struct saved_nic *restored; /* for the channel when it opens next; NULL: it begins anew */
	struct network_address {
		bool ipv6;
		uint8_t bytes[16];
		uint64_t seen_ms;
	} addresses[NETWORK_ADDRESSES]; /* newest first */
	unsigned address_count;

	struct {
		atomic_ulong tx_frames, tx_bytes, tx_dropped, tx_large, tx_checksums;
		atomic_ulong rx_frames, rx_bytes, rx_dropped, rx_filtered, rx_large;
		atomic_ulong tx_packets, rx_packets, rounds, port_full, ring_full;
		atomic_ulong copied_bytes; /* of frames, by us: the rest moves between guest and port */
	} count;
};

/* What the guest chose by RNDIS. */
struct rndis_state {
	bool initialized;
	uint32_t filter;
	uint8_t mac[FRAME_MAC_SIZE]; /* current */
	uint8_t multicast[NIC_MULTICAST_MAX][FRAME_MAC_SIZE];
	unsigned multicast_count;
	bool tcp4, udp4, tcp6, udp6; /* it wants to be told of good checksums */
	bool rsc4, rsc6;             /* it takes coalesced segments */
};

#define SCALING_TABLE_MAX 128u
#define SCALING_KEY_SIZE  40u

/* Which channel a frame comes by, as the guest chose. */
struct scaling {
	bool on;
	uint32_t hash;       /* NDIS_HASH_… */
	uint32_t table_size; /* a power of two, as it is on the wire; or whatever the guest says: a remainder is taken */
	uint8_t table[SCALING_TABLE_MAX];
	uint8_t key[SCALING_KEY_SIZE];
};

/* Room in front of a frame in the receive buffer: message, and all the information that can be there. */
#define RX_ROOM         128u
#define RX_RANGES       64u /* frames, or pieces of frames, in one packet: what the oldest guests take */
#define RX_RESERVE      4u  /* sections that frames leave to control messages */
#define RX_PIECES_MAX   20u /* sections of one coalesced packet */
#define RX_FRAME_IOVECS 96u
#define RX_NO_SECTION   UINT16_MAX

struct receive {
	struct gpadl *gpadl; /* NULL: no buffer */
	uint32_t handle;
	uint16_t set_id;
	unsigned section_size, section_count, pieces_each;
	struct iovec *pieces;   /* pieces_each for each section */
	uint8_t *piece_count;   /* used of them */
	uint16_t *next;         /* sections of one packet are chained; by section */
	bool *head;             /* section begins a packet that the guest has */
	uint16_t *free;         /* a stack */
	unsigned free_count;
	bool large;             /* the port was told to give coalesced segments */
	bool untold;            /* it had no room to be told what the guest takes */
	uint16_t packet_id;     /* of coalesced packets */

	/* The packet that is being filled, for each channel; when the ring has no room it waits here. */
	struct receive_packet {
		struct vmbus_transfer_page_range ranges[RX_RANGES];
		unsigned count;
		uint16_t first, last;
		bool control;
	} packets[NIC_CHANNELS_MAX];
	unsigned range_count; /* of all */

	unsigned batch; /* frames that room is made ready for: as many as came lately */
	struct port_frame frames[PORT_BATCH];
	struct iovec iov[PORT_BATCH][RX_FRAME_IOVECS];
};

#define TX_PACKETS     32u /* of the guest in one batch */
#define TX_MESSAGES    8u  /* frames in one packet */
#define TX_RAW_IOVECS  288u
#define TX_IOVECS      2048u
#define TX_INFO_MAX    256u
#define TX_SECTION     6144u
#define TX_LSO_MAX     62000u
#define TX_HEADER_ROOM (FRAME_HEADERS_MAX + FRAME_VLAN_SIZE)

struct transmit {
	struct gpadl *gpadl; /* NULL: no buffer */
	uint32_t handle;
	uint16_t id;
	unsigned section_count;

	struct port_frame frames[PORT_BATCH];
	uint8_t headers[PORT_BATCH][TX_HEADER_ROOM];
	uint8_t owner[PORT_BATCH]; /* packet of the frame */
	unsigned frame_first, frame_count;
	struct {
		uint64_t transaction_id;
		uint32_t status;
		uint8_t channel;
		bool wanted;
		bool patient; /* its bytes were copied by the guest, which waits for nothing */
	} packets[TX_PACKETS];
	unsigned packet_first, packet_count;
	struct iovec iov[TX_IOVECS];
	unsigned iov_used;
	bool blocked; /* the port has no room */
	bool stuck;   /* the ring has no room for completions */

	struct iovec raw[TX_RAW_IOVECS];
};

#define NIC_REPLY_MAX 512u
#define NIC_REPLIES   16u

/* An open channel. All but what is atomic belongs to its thread. */
struct nic {
	struct network *network;
	struct channel *channels[NIC_CHANNELS_MAX]; /* the primary first; NULL: not open */
	unsigned serving; /* whose packet is looked at */
	unsigned turn;    /* whose come first */
	pthread_t thread;
	int wake;
	atomic_bool stop;
	bool rests; /* under the adapter's lock */

	bool broken;
	bool began; /* it has rested no more since it was started */
	bool link; /* as last told to the guest */
	bool port_gone;
	bool prompt;   /* something that the guest waits for was sent in this round */
	unsigned late; /* answers that it does not wait for, of which it was not told */
	uint64_t late_since;
	bool readable; /* the port had frames when it was looked at last */
	atomic_uint version; /* NVSP_VERSION, 0 before */
	unsigned ndis_minor;
	unsigned mtu;
	bool vlan;
	struct rndis_state rndis;
	struct scaling scaling;
	struct receive rx;
	struct transmit tx;

	/* Control messages that wait for a section or for room in the ring. */
	struct {
		uint32_t size;
		uint8_t bytes[NIC_REPLY_MAX];
	} replies[NIC_REPLIES];
	unsigned reply_first, reply_count;

	uint8_t payload[4096];
};

/* What is saved of an open channel. */
struct saved_nic {
	uint8_t permanent_mac[FRAME_MAC_SIZE];
	bool open;
	uint32_t version, ndis_minor, mtu;
	bool vlan, link;
	struct rndis_state rndis;
	struct scaling scaling;
	uint32_t sub_count; /* offered */
	bool has_receive_buffer;
	uint32_t receive_handle, section_size;
	uint16_t receive_id, packet_id;
	bool has_send_buffer;
	uint32_t send_handle;
	uint16_t send_id;

	uint32_t *held; /* sections that the guest has */
	uint32_t held_count;
	struct {
		uint64_t transaction_id;
		uint32_t status, channel;
	} completions[TX_PACKETS];
	uint32_t completion_count;
	struct {
		uint32_t size;
		uint8_t bytes[NIC_REPLY_MAX];
	} replies[NIC_REPLIES];
	uint32_t reply_count;
};

static inline void nic_count(atomic_ulong *counter, unsigned long n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* --- nvsp.c ---------------------------------------------------------------------------------------- */

int nic_start(struct nic **out, struct network *network, struct channel *channel, struct error *err);
void nic_stop(struct nic *nic); /* the thread is gone and the buffers are given back; then nic_free() */
void nic_free(struct nic *nic);
void nic_wake(struct nic *nic);

/* The channel is broken off: a driver would not do that. */
void nic_break(struct nic *nic, const char *reason);
extern const char nic_channel_lost[]; /* why, when sending or receiving fails: a sub-channel takes the others with it */

/* The port it is plugged into, NULL: none, or nobody is behind it any more. */
struct port *nic_port(const struct nic *nic);
void nic_lose_port(struct nic *nic);

bool nvsp_version_known(uint32_t version);

/* --- network.c ------------------------------------------------------------------------------------------- */

/* Offer sub-channels 1 to `count`; how many there are then. [the channel's thread, or before there is one] */
unsigned network_offer_subs(struct network *network, unsigned count);
unsigned network_sub_count(struct network *network);

/* --- scaling.c ------------------------------------------------------------------------------------------- */

/* The hash of [MS-RSS]: of `size` bytes, at most 36. */
uint32_t scaling_toeplitz(const uint8_t key[SCALING_KEY_SIZE], const uint8_t *bytes, size_t size);

/* By which channel the frame goes that `layout` is of. */
unsigned scaling_channel(const struct scaling *scaling, const uint8_t *headers, const struct frame_layout *layout);

/* OID_GEN_RECEIVE_SCALE_PARAMETERS: an RNDIS_STATUS. */
uint32_t scaling_set(struct scaling *scaling, const uint8_t *value, size_t size);

/* --- saved.c --------------------------------------------------------------------------------------------- */

/* Into a channel that was just opened, before its thread runs. -EBADMSG, -ENOMEM. */
int nic_restore(struct nic *nic, const struct saved_nic *saved);
void saved_nic_free(struct saved_nic *saved);

/* --- rndis.c, oid.c ------------------------------------------------------------------------------------ */

/* A control message; what there is to answer is queued. False: no such message, or it lies about itself. */
bool rndis_control(struct nic *nic, const uint8_t *message, size_t size);

/* Tell the guest whether the cable is plugged in. */
void rndis_indicate_link(struct nic *nic, bool up);

/* The value of an object into `value`, of at most `capacity` bytes; *size of it. An RNDIS_STATUS. */
uint32_t oid_query(struct nic *nic, uint32_t oid, uint8_t *value, size_t capacity, size_t *size);
uint32_t oid_set(struct nic *nic, uint32_t oid, const uint8_t *value, size_t size);

/* A place for a message to the guest, of NIC_REPLY_MAX bytes; nic_reply_queue() says how long it became. NULL, and the
 * channel is broken: the guest asks and does not take answers. */
uint8_t *nic_reply_begin(struct nic *nic);
void nic_reply_queue(struct nic *nic, size_t size);

/* --- transmit.c ---------------------------------------------------------------------------------------- */

/* Take over the guest's send buffer, held. */
void transmit_set_buffer(struct transmit *tx, struct gpadl *gpadl, uint32_t handle, uint16_t id);
void transmit_drop_buffer(struct transmit *tx);

/* What the port has not taken is lost; answers go out as far as there is room. */
void transmit_abandon(struct nic *nic);
/* A channel is about to be closed: no frame waits that may lie in its packets, and none of its packets for an answer. */
void transmit_leave(struct nic *nic, unsigned channel);

/* Whether another packet can be taken. */
bool transmit_ready(const struct nic *nic);

/* A packet of frames or of control; it is answered when its frames are gone. */
void transmit_packet(struct nic *nic, const struct channel_packet *packet, const struct nvsp_rndis_packet *rndis);
void transmit_refuse(struct nic *nic, const struct channel_packet *packet, uint32_t status);

/* Send what is there, and answer what was sent. */
void transmit_flush(struct nic *nic);

/* --- receive.c ------------------------------------------------------------------------------------------ */

/* Sections for a buffer of that size, and frames of that length; whether a size that was saved is one. */
unsigned receive_section_size(size_t buffer, unsigned mtu);
bool receive_section_size_good(unsigned size, unsigned mtu);

/* Take over the guest's receive buffer, held. -EINVAL: too small. -ENOMEM. */
int receive_set_buffer(struct receive *rx, struct gpadl *gpadl, uint32_t handle, uint16_t id, unsigned section_size);
void receive_drop_buffer(struct receive *rx);

/* Whether frames can be taken from the port. */
bool receive_ready(const struct nic *nic);

/* Frames from the port to the guest. True: there may be more. */
bool receive_frames(struct nic *nic);

/* Queued control messages to the guest. */
void receive_replies(struct nic *nic);

/* The packet that waits for room in the ring. False: there is none yet. */
bool receive_send(struct nic *nic);

/* What could not be sent is lost, and its sections are free. */
void receive_abandon(struct nic *nic);

/* The guest has done with a packet. False: it has no such packet. */
bool receive_completed(struct nic *nic, uint64_t transaction_id);

/* Frames that came while nobody listened are of no use any more. */
void receive_discard(struct nic *nic);

/* Tell the port what the guest takes: anew for each port, each receive buffer, and each choice of the guest. */
void receive_choose_offloads(struct nic *nic);

/* --- addresses.c ------------------------------------------------------------------------------------------ */

/* Looks at a frame of the guest that `layout` is of. */
void addresses_learn(struct network *network, const uint8_t *headers, size_t size, const struct frame_layout *layout);

/* --- meter.c ----------------------------------------------------------------------------------------------- */

/* Whether frames are to be looked at. [any] */
bool meter_is_on(struct network_meter *meter);
/* A frame of `bytes`, whose beginning is in `headers`. */
void meter_count(struct network_meter *meter, bool inbound, const uint8_t *headers, const struct frame_layout *layout, size_t available, size_t bytes);
/* Its adapter goes. */
void meter_keep(struct network_meter *meter, const struct network_counters *counters);
