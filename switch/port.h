/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * port.h - what an adapter is plugged into: frames go in and out, with what is left undone to them (frame.h).
 *
 * A port is used by one thread at a time, the adapter's, but for port_close(). It never blocks: whoever uses it
 * waits for port_fd() to be readable (frames from the network) or writable (room for frames to it).
 *
 * Two kinds: a socket, behind which another process does the networking (nat.h), and a tap interface of the host's
 * kernel. Both carry `struct virtio_net_hdr` in front of each frame.
 */
#pragma once

#include <stdatomic.h>

#include "switch/frame.h"

struct port;

/* What a port takes from the guest, undone; and, for PORT_LARGE, would give it. */
#define PORT_CHECKSUM 1u
#define PORT_LSO      2u /* TCP over IPv4 and IPv6 */
#define PORT_LARGE    4u /* gives coalesced TCP segments when asked to */

struct port_frame {
	struct virtio_net_hdr todo;
	/* iov[0] is the port's own; the frame is in the iovecs behind it. */
	struct iovec *iov;
	unsigned iov_count;
	size_t size; /* received: bytes of the frame; 0: it did not fit, or was damaged, and is lost */
};

#define PORT_BATCH 32u /* frames in one call, at most */

struct port_ops {
	int (*send)(struct port *port, struct port_frame *frames, unsigned count);
	int (*receive)(struct port *port, struct port_frame *frames, unsigned count);
	int (*set_receive)(struct port *port, unsigned offloads);
	void (*close)(struct port *port);
};

struct port {
	const struct port_ops *ops;
	int fd;
	unsigned offloads;
	atomic_ulong calls; /* of the system that moved frames, or found none; any thread may read it */
};

/* A SOCK_SEQPACKET socket, taken over. */
int port_open_socket(struct port **out, int fd, struct error *err);

/* The tap interface `name`, which is made if there is none; it needs the right to do that, or to be its owner.
 * -EBUSY: somebody has it open. Or its descriptor, taken over, of /dev/net/tun attached with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR. */
int port_open_tap(struct port **out, const char *name, struct error *err);
/* The first half of that: the descriptor, for another process. */
int port_attach_tap(int *fd, const char *name, struct error *err);
int port_open_tap_fd(struct port **out, int fd, struct error *err);

/* Whichever of the two a descriptor is of, taken over. -EINVAL: of neither. */
int port_open_fd(struct port **out, int fd, struct error *err);

/* A new tap interface, which is there as long as somebody has the descriptor, for port_open_tap_fd() in another process. The
 * descriptor is the caller's. -EBUSY: there is an interface of this name. */
int port_make_tap(int *fd, const char *name, struct error *err);

/* NULL is fine. */
static inline void port_close(struct port *port)
{
	if (port)
		port->ops->close(port);
}

static inline int port_fd(const struct port *port)
{
	return port->fd;
}

static inline unsigned port_offloads(const struct port *port)
{
	return port->offloads;
}

static inline unsigned long port_calls(const struct port *port)
{
	return atomic_load_explicit(&port->calls, memory_order_relaxed);
}

/* For the ports themselves. */
static inline void port_count_call(struct port *port)
{
	atomic_fetch_add_explicit(&port->calls, 1, memory_order_relaxed);
}

/* Frames to the network: how many were taken, the first ones; what the port cannot take is dropped and counts as taken.
 * Less than `count`: there is no room, wait for the descriptor to be writable. -EPIPE: nobody is behind the port any more. */
static inline int port_send(struct port *port, struct port_frame *frames, unsigned count)
{
	return port->ops->send(port, frames, count);
}

/* Frames from the network into frames[i].iov, todo and size set: how many, 0 when there are none now. -EPIPE. */
static inline int port_receive(struct port *port, struct port_frame *frames, unsigned count)
{
	return port->ops->receive(port, frames, count);
}

/* What may be left undone to received frames: PORT_CHECKSUM, PORT_LARGE. None at first. */
static inline int port_set_receive(struct port *port, unsigned offloads)
{
	return port->ops->set_receive(port, offloads);
}
