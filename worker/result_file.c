/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/result_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>

#include "worker/control.h"

#define RESULT_VERSION 1

static int write_all(int fd, const char *text, size_t size)
{
	while (size) {
		ssize_t n = write(fd, text, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		size -= (size_t)n;
	}
	return 0;
}

/* As one line; takes over the reference. */
static int write_line(int fd, json_t *value)
{
	_cleanup_free_ char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
	int r;

	json_decref(value);
	if (!text)
		return -ENOMEM;
	r = write_all(fd, text, strlen(text));
	return r ? r : write_all(fd, "\n", 1);
}

/* Whoever reads the line sees the end of the pipe behind it. */
static int answer(json_t *line)
{
	int r = write_line(STDOUT_FILENO, line), null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, STDOUT_FILENO) < 0)
		r = r ? r : -errno;
	if (null >= 0)
		close(null);
	return r;
}

void tell_restoring(uint64_t done, uint64_t total)
{
	(void)write_line(STDOUT_FILENO, json_pack("{s:{s:I,s:I}}", "restoring", "done", (json_int_t)done, "total", (json_int_t)total));
}

int tell_started(struct error *err)
{
	int r = answer(json_pack("{s:b,s:I}", "ok", 1, "pid", (json_int_t)getpid()));

	return r ? error_set(err, -r, "nobody reads on standard output that the machine starts: %s", strerror(-r)) : 0;
}

static void tell_not_started(const struct error *why)
{
	const char *code = strerrorname_np(why->code);

	/* Nobody may be there to read it; the log and the result have it too. */
	(void)answer(json_pack("{s:b,s:o,s:s}", "ok", 0, "error", control_text(why->text), "code", code ? code : "EIO"));
}

static const char *result_name(enum worker_result result, const struct worker_end *end)
{
	switch (result) {
	case WORKER_POWERED_OFF:
		return end->reset ? "reset" : "powered-off";
	case WORKER_GUEST_FAILED:
		return "guest-failed";
	case WORKER_POWER_CUT:
		return "power-cut";
	case WORKER_SAVED:
		return "saved";
	case WORKER_NOT_STARTED:
		break;
	}
	return "not-started";
}

static int sync_directory(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);
	_cleanup_close_ int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	/* Some file systems sync no directories, and say so. */
	return fd >= 0 && (fsync(fd) == 0 || errno == EINVAL) ? 0 : -errno;
}

static int replace_file(const char *path, json_t *content)
{
	char temporary[PATH_MAX + 8];
	_cleanup_close_ int fd = -1;
	int r;

	snprintf(temporary, sizeof(temporary), "%s.new", path);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		r = -errno;
		json_decref(content);
		return r;
	}
	r = write_line(fd, content);
	if (!r && (fsync(fd) || rename(temporary, path)))
		r = -errno;
	if (r)
		unlink(temporary);
	return r ? r : sync_directory(path);
}

int result_file_write(const char *path, enum worker_result result, const struct worker_end *end, const char *error,
    struct error *err)
{
	json_t *content = json_pack("{s:i,s:s}", "version", RESULT_VERSION, "result", result_name(result, end));
	int r;

	if (error && error[0])
		json_object_set_new(content, "error", control_text(error));
	if (end->guest_code)
		json_object_set_new(content, "guest_code", json_integer(end->guest_code));
	if (end->cpu_us)
		json_object_set_new(content, "cpu_us", json_integer((json_int_t)end->cpu_us));
	/* A text: who reads it looks at what the machine's process says as at all else that comes from there. */
	if (end->metering[0])
		json_object_set_new(content, "metering", control_text(end->metering));
	r = replace_file(path, content);
	return r ? error_set(err, -r, "%s: the result cannot be written: %s", path, strerror(-r)) : 0;
}

int not_started(const char *result_path, const struct error *why)
{
	struct worker_end end = {0};
	struct error err = {0};

	fprintf(stderr, "bulkhead: %s\n", why->text);
	/* First: whoever reads the line may look into the file. */
	if (result_path && result_file_write(result_path, WORKER_NOT_STARTED, &end, why->text, &err))
		fprintf(stderr, "bulkhead: %s\n", err.text);
	tell_not_started(why);
	return WORKER_NOT_STARTED;
}
