/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/unix_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define DRAIN_MAX (1u << 20)

static int set_address(struct sockaddr_un *address, const char *path, struct error *err)
{
	size_t size = strlen(path) + 1;

	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (size > sizeof(address->sun_path))
		return error_set(err, ENAMETOOLONG, "%s: a socket path has at most %zu bytes", path,
		    sizeof(address->sun_path) - 1);
	if (size == 1)
		return error_set(err, EINVAL, "the path of a socket is empty");
	memcpy(address->sun_path, path, size);
	return 0;
}

/* Makes room for a socket at `path`: whatever is there stays unless it is a socket without a listener. A
 * connection to a plain file is refused too, so the kind is looked at first. */
static int remove_stale(int fd, const struct sockaddr_un *address, struct error *err)
{
	const char *path = address->sun_path;
	struct stat st;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : error_set(err, errno, "%s: cannot listen there: %s", path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, EEXIST, "%s: there is a file that is no socket: choose another path", path);
	/* EAGAIN: somebody listens who has more connections waiting than he takes. */
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN)
		return error_set(err, EADDRINUSE, "%s: another process listens there: choose another path", path);
	if (errno != ECONNREFUSED)
		return error_set(err, errno, "%s: cannot listen there: %s", path, strerror(errno));
	if (unlink(path) && errno != ENOENT)
		return error_set(err, errno, "%s: the old socket cannot be removed: %s", path, strerror(errno));
	return 0;
}

int unix_listen(const char *path, struct error *err)
{
	struct sockaddr_un address;
	_cleanup_close_ int fd = -1;
	int result = set_address(&address, path, err);

	if (result)
		return result;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	result = remove_stale(fd, &address, err);
	if (result)
		return result;
	/* On Linux the file takes over the mode of the descriptor: no moment in which others may connect. */
	if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 4))
		return error_set(err, errno, "%s: cannot listen there: %s", path, strerror(errno));
	result = fd;
	fd = -1;
	return result;
}

void unix_drain(int fd)
{
	char bytes[4096];

	for (unsigned i = 0; i < DRAIN_MAX / sizeof(bytes) && read(fd, bytes, sizeof(bytes)) > 0; i++)
		;
}

int unix_connect(const char *path, struct error *err)
{
	struct sockaddr_un address;
	_cleanup_close_ int fd = -1;
	int result = set_address(&address, path, err);

	if (result)
		return result;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return error_set(err, errno, "%s: no machine answers there (%s): was it started with --control?", path,
		    strerror(errno));
	result = fd;
	fd = -1;
	return result;
}
