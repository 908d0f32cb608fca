/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/port.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>

/* The driver takes one frame a call. What it refuses (the interface is down, a header it does not like) is lost, as on a
 * cable that is not plugged in. */
static int tap_send(struct port *port, struct port_frame *frames, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		ssize_t n;

		frames[i].iov[0] = (struct iovec){.iov_base = &frames[i].todo, .iov_len = sizeof(frames[i].todo)};
		port_count_call(port);
		do
			n = writev(port->fd, frames[i].iov, (int)frames[i].iov_count);
		while (n < 0 && errno == EINTR);
		if (n < 0 && errno == EAGAIN)
			return (int)i;
		if (n < 0 && errno == EBADFD)
			return -EPIPE;
	}
	return (int)count;
}

static int tap_receive(struct port *port, struct port_frame *frames, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		size_t capacity = 0;
		ssize_t n;

		frames[i].iov[0] = (struct iovec){.iov_base = &frames[i].todo, .iov_len = sizeof(frames[i].todo)};
		for (unsigned k = 0; k < frames[i].iov_count; k++)
			capacity += frames[i].iov[k].iov_len;
		port_count_call(port);
		do
			n = readv(port->fd, frames[i].iov, (int)frames[i].iov_count);
		while (n < 0 && errno == EINTR);
		if (n < 0)
			return i > 0 || errno == EAGAIN ? (int)i : -EPIPE;
		/* The driver tells how long the frame is, and gives what has room. */
		frames[i].size = (size_t)n > sizeof(frames[i].todo) && (size_t)n <= capacity ? (size_t)n - sizeof(frames[i].todo) : 0;
	}
	return (int)count;
}

static int tap_set_receive(struct port *port, unsigned offloads)
{
	unsigned long flags = 0;

	if (offloads & PORT_CHECKSUM)
		flags = TUN_F_CSUM;
	if (flags && offloads & PORT_LARGE)
		flags |= TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
	return ioctl(port->fd, TUNSETOFFLOAD, flags) ? -errno : 0;
}

static void tap_close(struct port *port)
{
	close(port->fd);
	free(port);
}

static int attach(int fd, const char *name, struct error *err)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};

	if (!*name || strlen(name) >= sizeof(request.ifr_name))
		return error_set(err, EINVAL, "\"%s\" is no name of an interface: 1 to %zu characters", name,
		    sizeof(request.ifr_name) - 1);
	strcpy(request.ifr_name, name);
	if (ioctl(fd, TUNSETIFF, &request) == 0)
		return 0;
	if (errno == EBUSY)
		return error_set(err, EBUSY, "the tap interface %s is in use by another program", name);
	if (errno == EINVAL)
		return error_set(err, EINVAL, "%s is no tap interface", name);
	return error_set(err, errno, "the tap interface %s cannot be used: %s", name, strerror(errno));
}

int port_make_tap(int *out, const char *name, struct error *err)
{
	int fd, r;

	if (if_nametoindex(name))
		return error_set(err, EBUSY, "the host has an interface %s already", name);
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return error_set(err, errno, "/dev/net/tun, by which tap interfaces are used, cannot be opened: %s", strerror(errno));
	r = attach(fd, name, err);
	if (r)
		close(fd);
	else
		*out = fd;
	return r;
}

int port_attach_tap(int *fd, const char *name, struct error *err)
{
	int r;

	*fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (*fd < 0)
		return error_set(err, errno, "/dev/net/tun, by which tap interfaces are used, cannot be opened: %s", strerror(errno));
	r = attach(*fd, name, err);
	if (r) {
		close(*fd);
		*fd = -1;
	}
	return r;
}

int port_open_tap(struct port **out, const char *name, struct error *err)
{
	int fd, r = port_attach_tap(&fd, name, err);

	return r ? r : port_open_tap_fd(out, fd, err);
}

int port_open_tap_fd(struct port **out, int fd, struct error *err)
{
	static const struct port_ops ops = {tap_send, tap_receive, tap_set_receive, tap_close};
	int header = sizeof(struct virtio_net_hdr), yes = 1;
	struct port *port = calloc(1, sizeof(*port));
	struct ifreq request = {0};
	int r = 0;

	if (!port)
		r = error_set(err, ENOMEM, "no memory for a network port");
	else if (ioctl(fd, TUNGETIFF, &request) || !(request.ifr_flags & IFF_TAP) || !(request.ifr_flags & IFF_VNET_HDR))
		r = error_set(err, EINVAL, "the descriptor is of no tap interface with IFF_VNET_HDR");
	else if (ioctl(fd, FIONBIO, &yes) || ioctl(fd, TUNSETVNETHDRSZ, &header) ||
		 ioctl(fd, TUNSETOFFLOAD, 0))
		r = error_set(err, errno, "the tap interface %s cannot be set up: %s", request.ifr_name, strerror(errno));
	if (r) {
		close(fd);
		free(port);
		return r;
	}
	*port = (struct port){.ops = &ops, .fd = fd, .offloads = PORT_CHECKSUM | PORT_LSO | PORT_LARGE};
	*out = port;
	return 0;
}
