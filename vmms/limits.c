/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* From Linux Documentation/admin-guide/cgroup-v2.rst. */

#define WEIGHT_DEFAULT 100
#define PERIOD         100000 /* microseconds */
#define TASKS_MAX      4352u  /* 4096 threads of the worker (worker/sandbox.c), its keeper, default switches */

static json_int_t limit_of(const json_t *config, const char *key)
{
	return json_integer_value(json_object_get(json_object_get(config, "limits"), key));
}

static bool weight_is_set(const json_t *config)
{
	return limit_of(config, "processor_weight") != WEIGHT_DEFAULT || limit_of(config, "processor_reserve");
}

static bool maximum_is_set(const json_t *config)
{
	return limit_of(config, "processor_maximum") != 100;
}

static bool memory_is_set(const json_t *config)
{
	return limit_of(config, "memory_extra") > 0;
}

/* Of one that nobody has set, which a guest that behaves never comes near (docs/manage.md): the software processor, the default switch, and the
 * allocation tables of many files of disks, 8 MiB each at most (disk/vhdx.h); channels and stacks of each virtual processor; tables of the
 * guest's pages, the kernel's too. */
static json_int_t usual_extra(json_int_t memory, json_int_t processors)
{
	return (1ll << 30) + (processors * 32ll << 20) + memory / 32;
}

bool limits_are_set(const json_t *config)
{
	return weight_is_set(config) || maximum_is_set(config) || memory_is_set(config);
}

static int put(const char *group, const char *file, const char *text, const char *what, bool is_set, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;

	if (asprintf(&path, "%s/%s", group, file) < 0)
		return error_set(err, ENOMEM, "no memory");
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 && !is_set)
		return 0;
	if (fd < 0)
		return error_set(err, errno == ENOENT ? ENOTSUP : errno, "limits.%s is not in force: %s: %s", what, path,
				 errno == ENOENT ? "the control group has no such controller" : strerror(errno));
	if (write(fd, text, strlen(text)) < 0)
		return error_set(err, errno, "limits.%s is not in force: %s: %s", what, path, strerror(errno));
	return 0;
}

int limits_apply(const char *group, const json_t *config, struct error *err)
{
	json_int_t processors = json_integer_value(json_object_get(json_object_get(config, "processors"), "count"));
	json_int_t memory = json_integer_value(json_object_get(config, "memory"));
	struct error later;
	char text[64];
	json_int_t extra = limit_of(config, "memory_extra");
	int r, first;

	snprintf(text, sizeof(text), "%lld\n", (long long)limit_of(config, "processor_weight"));
	first = put(group, "cpu.weight", text, limit_of(config, "processor_reserve") ? "processor_reserve" : "processor_weight", weight_is_set(config),
		    err);
	if (maximum_is_set(config))
		snprintf(text, sizeof(text), "%lld %d\n", (long long)(limit_of(config, "processor_maximum") * processors * PERIOD / 100),
			 PERIOD);
	else
		snprintf(text, sizeof(text), "max %d\n", PERIOD);
	r = put(group, "cpu.max", text, "processor_maximum", maximum_is_set(config), first ? &later : err);
	first = first ? first : r;
	if (extra)
		snprintf(text, sizeof(text), "%lld\n", (long long)(memory + (extra > 0 ? extra : usual_extra(memory, processors))));
	else
		snprintf(text, sizeof(text), "max\n");
	r = put(group, "memory.max", text, "memory_extra", memory_is_set(config), first ? &later : err);
	first = first ? first : r;
	/* No more of the host's swap than it could have all in all; and whoever takes too much goes as a whole. */
	r = put(group, "memory.swap.max", text, "memory_extra", false, first ? &later : err);
	first = first ? first : r;
	r = put(group, "memory.oom.group", "1\n", "memory_extra", false, first ? &later : err);
	first = first ? first : r;
	snprintf(text, sizeof(text), "%u\n", TASKS_MAX);
	r = put(group, "pids.max", text, "processors", false, first ? &later : err);
	return first ? first : r;
}

/* --- what the kernel says of memory ----------------------------------------------------------------------- */

/* "oom" is of the group's own limit, and not of one above it. */
struct kills {
	long oom, oom_kill;
};

static long count_of(const char *events, const char *name)
{
	const char *at = strstr(events, name);

	return at ? strtol(at + strlen(name), NULL, 10) : 0;
}

static struct kills kills_of(const char *directory, const char *file)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	char text[512] = "";

	if (asprintf(&path, "%s/%s", directory, file) < 0)
		return (struct kills){0};
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return (struct kills){0};
	return (struct kills){count_of(text, "\noom "), count_of(text, "\noom_kill ")};
}

int limits_note_kills(const char *group, const char *runtime, struct error *err)
{
	struct kills before = group ? kills_of(group, "memory.events") : (struct kills){0};
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;

	if (asprintf(&path, "%s/" LIMITS_KILLS, runtime) < 0)
		return error_set(err, ENOMEM, "no memory");
	if (!before.oom && !before.oom_kill)
		return unlink(path) && errno != ENOENT ? error_set(err, errno, "%s: %s", path, strerror(errno)) : 0;
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || dprintf(fd, "\noom %ld\noom_kill %ld\n", before.oom, before.oom_kill) < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	return 0;
}

const char *limits_blame(const char *group, const char *runtime)
{
	struct kills now, before;

	if (!group)
		return "";
	now = kills_of(group, "memory.events");
	before = kills_of(runtime, LIMITS_KILLS);
	if (now.oom_kill <= before.oom_kill)
		return "";
	return now.oom > before.oom ? "its process needs more memory than limits.memory_extra leaves it: "
				    : "the kernel ended it, as there was no memory for it: ";
}
