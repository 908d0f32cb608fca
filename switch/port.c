/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/port.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>

int port_open_fd(struct port **out, int fd, struct error *err)
{
	socklen_t size = sizeof(int);
	struct stat st;
	int type = 0;

	if (fstat(fd, &st) || !S_ISSOCK(st.st_mode))
		return port_open_tap_fd(out, fd, err);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET)
		return port_open_socket(out, fd, err);
	close(fd);
	return error_set(err, EINVAL, "the descriptor of a network port is a socket, but none that keeps frames apart (SOCK_SEQPACKET)");
}
