/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/base.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* The process has one log: the level and the stream are the only state that virtual machines share. */
static _Atomic int log_level = LOG_LEVEL_WARNING;
static FILE *_Atomic log_stream;

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

void log_set_stream(FILE *stream)
{
	atomic_store(&log_stream, stream);
}

void log_write(enum log_level level, const char *format, ...)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};
	FILE *stream = atomic_load(&log_stream);
	char line[1024];
	va_list args;

	if ((int)level > atomic_load_explicit(&log_level, memory_order_relaxed))
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	fprintf(stream ? stream : stderr, "bulkhead: %s: %s\n", names[level], line);
}

bool log_limit_pass(struct log_limit *limit, unsigned burst)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (limit->count == 0 || now.tv_sec - limit->window_start >= 10) {
		limit->window_start = now.tv_sec;
		limit->count = 0;
	}
	return limit->count++ < burst;
}
