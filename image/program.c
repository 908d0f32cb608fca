// SPDX-License-Identifier: GPL-2.0-or-later
/* program.c - the programs that do the work: found, run, and their words kept. */
#include "image/build.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

#define SBIN ":/usr/local/sbin:/usr/sbin:/sbin" /* where mke2fs is, and a user's path is not */

static char *search_path(void)
{
	const char *path = getenv("PATH");

	return format_string("%s" SBIN, path && *path ? path : "/usr/local/bin:/usr/bin:/bin");
}

int find_program(const char *program, const char *package, struct error *err)
{
	_cleanup_free_ char *path = search_path();
	char *state = NULL;

	for (char *dir = strtok_r(path, ":", &state); dir; dir = strtok_r(NULL, ":", &state)) {
		_cleanup_free_ char *full = format_string("%s/%s", dir, program);

		if (access(full, X_OK) == 0)
			return 0;
	}
	return error_set(err, ENOENT,
			 "the program %s is not installed: install the package %s (apt-get install %s)",
			 program, package, package);
}

/* The environment with our search path and the plain language that error messages are looked for in. */
static char **make_environment(void)
{
	_cleanup_free_ char *path = search_path();
	size_t n = 0, count = 0;
	char **result;

	while (environ[n])
		n++;
	result = calloc(n + 4, sizeof(*result));
	if (!result)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (strncmp(environ[i], "PATH=", 5) != 0 && strncmp(environ[i], "LC_ALL=", 7) != 0)
			result[count++] = format_string("%s", environ[i]);
	result[count++] = format_string("PATH=%s", path);
	result[count++] = format_string("LC_ALL=C.UTF-8");
	return result;
}

static void free_environment(char **environment)
{
	for (size_t i = 0; environment && environment[i]; i++)
		free(environment[i]);
	free(environment);
}

static int spawn(pid_t *child, char *const argv[], const char *out, const char *log)
{
	char **environment = make_environment();
	posix_spawn_file_actions_t actions;
	int r;

	if (!environment)
		return -ENOMEM;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log,
					 O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0666);
	if (out)
		posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out, O_WRONLY | O_CREAT | O_TRUNC,
						 0666);
	else
		posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
	/* The lookup of argv[0] is ours to do: a child's new PATH counts only for its own children. */
	r = posix_spawn(child, "/bin/sh", &actions, NULL, argv, environment);
	posix_spawn_file_actions_destroy(&actions);
	free_environment(environment);
	return -r;
}

int run_program(char *const argv[], const char *out, const char *log, struct error *err)
{
	char *wrapped[64] = {(char *)"sh", (char *)"-c", (char *)"exec \"$@\"", (char *)"sh"};
	unsigned n = 4;
	pid_t child;
	int r, status;

	while (argv[n - 4] && n < ARRAY_SIZE(wrapped) - 1) {
		wrapped[n] = argv[n - 4];
		n++;
	}
	r = spawn(&child, wrapped, out, log);
	if (r < 0)
		return error_set(err, -r, "cannot start %s: %s", argv[0], strerror(-r));
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return error_set(err, errno, "lost sight of %s: %s", argv[0], strerror(errno));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
