/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/access.h"

#include <sys/socket.h>
#include <unistd.h>

const char *role_word(enum role role)
{
	static const char *const words[] = {[ROLE_NONE] = "none",
					    [ROLE_VIEWER] = "viewer",
					    [ROLE_OPERATOR] = "operator",
					    [ROLE_ADMINISTRATOR] = "administrator"};

	return words[role];
}

enum role access_of_peer(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		return ROLE_NONE;
	return !peer.uid || peer.uid == getuid() ? ROLE_ADMINISTRATOR : ROLE_NONE;
}
