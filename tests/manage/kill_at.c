/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kill_at.c - loaded into the daemon by a test: from when the file $KILL_FILE is there, it is killed before call number $KILL_AT of those
 * by which names come and go.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Atomic long calls;

static void step(void)
{
	const char *file = getenv("KILL_FILE"), *at = getenv("KILL_AT");

	if (strcmp(program_invocation_short_name, "bulkheadd") || !file || !at || access(file, F_OK))
		return;
	if (atomic_fetch_add(&calls, 1) + 1 >= atol(at))
		kill(getpid(), SIGKILL);
}

int renameat(int from, const char *old, int to, const char *new)
{
	int (*real)(int, const char *, int, const char *) = dlsym(RTLD_NEXT, "renameat");

	step();
	return real(from, old, to, new);
}

int unlinkat(int directory, const char *path, int flags)
{
	int (*real)(int, const char *, int) = dlsym(RTLD_NEXT, "unlinkat");

	if (!faccessat(directory, path, F_OK, AT_SYMLINK_NOFOLLOW))
		step();
	return real(directory, path, flags);
}

int unlink(const char *path)
{
	int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");

	if (!access(path, F_OK))
		step();
	return real(path);
}
