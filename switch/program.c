/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

bool program_find(const char *name, char path[64])
{
	static const char *const places[] = {"/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/sbin", "/bin"};

	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		snprintf(path, 64, "%s/%s", places[i], name);
		if (!access(path, X_OK))
			return true;
	}
	return false;
}

/* A file in memory: it takes all of what is said without anybody reading, and gives all of what is to be read. */
static int memory_file(const char *text)
{
	int fd = memfd_create("bulkhead", MFD_CLOEXEC);
	size_t size = text ? strlen(text) : 0;

	if (fd >= 0 && size && (write(fd, text, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET))) {
		close(fd);
		return -1;
	}
	return fd;
}

static int start(pid_t *pid, const char *path, const char *const *argv, const char *const *environment, int input, int output)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, defaults;
	int r;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
	posix_spawn_file_actions_addclosefrom_np(&actions, 3);
	posix_spawnattr_init(&attributes);
	sigemptyset(&none);
	sigfillset(&defaults);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &defaults);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	r = posix_spawn(pid, path, &actions, &attributes, (char *const *)(uintptr_t)argv, (char *const *)(uintptr_t)environment);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return r;
}

static int wait_for(pid_t pid, unsigned seconds, int *status)
{
	_cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	bool late = fd >= 0 && poll(&p, 1, (int)seconds * 1000) == 0;

	if (late)
		kill(pid, SIGKILL);
	while (waitpid(pid, status, 0) < 0 && errno == EINTR)
		;
	return late ? -ETIMEDOUT : 0;
}

/* Its last line, for a sentence. */
static void last_words(int output, char text[300])
{
	off_t size = lseek(output, 0, SEEK_END), from = size > 299 ? size - 299 : 0;
	ssize_t n = pread(output, text, 299, from);
	char *line;

	text[n > 0 ? n : 0] = '\0';
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
		text[--n] = '\0';
	line = strrchr(text, '\n');
	if (line)
		memmove(text, line + 1, strlen(line + 1) + 1);
}

int program_run(const char *const *argv, const char *input, const char *const *environment, unsigned seconds, struct error *err)
{
	_cleanup_close_ int in = memory_file(input), out = memory_file(NULL);
	char path[64], words[300];
	int status = 0, r;
	pid_t pid;

	if (!program_find(argv[0], path))
		return error_set(err, ENOENT, "%s is not installed", argv[0]);
	if (in < 0 || out < 0)
		return error_set(err, ENOMEM, "no memory to run %s", argv[0]);
	r = start(&pid, path, argv, environment, in, out);
	if (r)
		return error_set(err, r, "%s cannot be started: %s", path, strerror(r));
	r = wait_for(pid, seconds, &status);
	if (r)
		return error_set(err, ETIMEDOUT, "%s has not ended for %u s", argv[0], seconds);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	last_words(out, words);
	return error_set(err, EIO, "%s failed: %s", argv[0], *words ? words : "it does not say why");
}
