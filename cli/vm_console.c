/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_console.c - a machine's serial port on this terminal. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>

#include "cli/manage.h"

#define LEAVE_KEY 0x1d /* Ctrl-] */

static int connect_to(const char *path, struct error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG, "%s: the socket's path is too long", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		error_set(err, errno, "the console does not answer (%s): %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return -err->code;
	}
	return fd;
}

static bool write_all(int fd, const char *bytes, size_t size)
{
	while (size) {
		ssize_t n = write(fd, bytes, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		bytes += n;
		size -= (size_t)n;
	}
	return true;
}

/* False: it is over. */
static bool pass_on(int from, int to, bool keys)
{
	char bytes[4096];
	ssize_t n = read(from, bytes, sizeof(bytes));
	char *leave;

	if (n <= 0)
		return n < 0 && errno == EINTR;
	leave = keys ? memchr(bytes, LEAVE_KEY, (size_t)n) : NULL;
	if (leave) {
		write_all(to, bytes, (size_t)(leave - bytes));
		return false;
	}
	return write_all(to, bytes, (size_t)n);
}

static void pass_all(int console)
{
	struct pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {console, POLLIN, 0}};
	bool terminal = isatty(STDIN_FILENO);

	while (poll(fds, 2, -1) >= 0 || errno == EINTR) {
		if (fds[1].revents && !pass_on(console, STDOUT_FILENO, false))
			return;
		if (!(fds[0].revents & (POLLIN | POLLHUP)))
			continue;
		if (pass_on(STDIN_FILENO, console, terminal))
			continue;
		if (terminal)
			return;
		/* A script's input is over: what the guest says goes on. */
		fds[0].fd = -1;
	}
}

int manage_console(const char *socket, struct error *err)
{
	_cleanup_close_ int fd = connect_to(socket, err);
	struct termios before, raw;
	bool terminal = fd >= 0 && !tcgetattr(STDIN_FILENO, &before);

	if (fd < 0)
		return fd;
	if (terminal) {
		fputs("connected; Ctrl-] leaves\n", stderr);
		raw = before;
		cfmakeraw(&raw);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	pass_all(fd);
	if (terminal) {
		tcsetattr(STDIN_FILENO, TCSANOW, &before);
		fputs("\nleft\n", stderr);
	}
	return 0;
}
