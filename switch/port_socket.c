/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/port.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

static void fill(struct mmsghdr *messages, struct port_frame *frames, unsigned count)
{
	memset(messages, 0, count * sizeof(*messages));
	for (unsigned i = 0; i < count; i++) {
		frames[i].iov[0] = (struct iovec){.iov_base = &frames[i].todo, .iov_len = sizeof(frames[i].todo)};
		messages[i].msg_hdr.msg_iov = frames[i].iov;
		messages[i].msg_hdr.msg_iovlen = frames[i].iov_count;
	}
}

static int socket_send(struct port *port, struct port_frame *frames, unsigned count)
{
	struct mmsghdr messages[PORT_BATCH];
	int n;

	if (count > PORT_BATCH)
		count = PORT_BATCH;
	fill(messages, frames, count);
	port_count_call(port);
	do
		n = sendmmsg(port->fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return n;
	if (errno == EAGAIN)
		return 0;
	/* A frame that cannot be sent at all must not stand in the way of the others. */
	return errno == EMSGSIZE || errno == EFAULT || errno == ENOBUFS || errno == ENOMEM ? 1 : -EPIPE;
}

static int socket_receive(struct port *port, struct port_frame *frames, unsigned count)
{
	struct mmsghdr messages[PORT_BATCH];
	int n;

	if (count > PORT_BATCH)
		count = PORT_BATCH;
	fill(messages, frames, count);
	port_count_call(port);
	do
		n = recvmmsg(port->fd, messages, count, MSG_DONTWAIT, NULL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -EPIPE;
	for (int i = 0; i < n; i++) {
		size_t size = messages[i].msg_len;
		bool whole = size > sizeof(frames[i].todo) && !(messages[i].msg_hdr.msg_flags & MSG_TRUNC);

		if (size == 0)
			return i ? i : -EPIPE; /* the other end was closed */
		frames[i].size = whole ? size - sizeof(frames[i].todo) : 0;
	}
	return n;
}

/* In-band, behind the frames: a header alone. Who is behind the socket sends what it is asked for from then on. */
static int socket_set_receive(struct port *port, unsigned offloads)
{
	struct virtio_net_hdr request = {.hdr_len = (uint16_t)offloads};
	ssize_t n = send(port->fd, &request, sizeof(request), MSG_DONTWAIT | MSG_NOSIGNAL);

	return n == sizeof(request) ? 0 : -errno;
}

static void socket_close(struct port *port)
{
	close(port->fd);
	free(port);
}

int port_open_socket(struct port **out, int fd, struct error *err)
{
	static const struct port_ops ops = {socket_send, socket_receive, socket_set_receive, socket_close};
	struct port *port = calloc(1, sizeof(*port));

	if (!port) {
		close(fd);
		return error_set(err, ENOMEM, "no memory for a network port");
	}
	*port = (struct port){.ops = &ops, .fd = fd, .offloads = PORT_CHECKSUM | PORT_LSO | PORT_LARGE};
	*out = port;
	return 0;
}
