/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * base.h - what every room needs and no library gives: one way to report errors, a log, GUIDs.
 *
 * Errors: a function that can fail returns 0 or a negative errno, and where a person should read
 * why, it fills a `struct error` that the caller owns (NULL: the caller does not want the text).
 * The text is one sentence: what is wrong, where, and what to do about it; the caller that shows it
 * adds nothing but the program's name. All functions here may be called from any thread.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/types.h"

/* Fill `err` (may be NULL) and return -code, so that `return error_set(err, EINVAL, …)` reads well. */
int error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Put `format: ` before the text that is there already, to say where it happened. Returns -err->code. */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Messages above `level` are dropped. Default: LOG_LEVEL_WARNING. */
void log_set_level(enum log_level level);

/* Where messages go; NULL for standard error, the default. The stream stays the caller's. */
void log_set_stream(FILE *stream);

/* One line: "bulkhead: warning: text". A guest must not be able to flood it: log what a guest does
 * once per channel or device, or through log_limit_pass(). */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Lets `burst` messages through in each ten seconds. Zero-initialised; one per message site and object. */
struct log_limit {
	int64_t window_start;
	unsigned count;
};

bool log_limit_pass(struct log_limit *limit, unsigned burst);

_Static_assert(sizeof(struct guid) == 16, "guid is a wire layout");

#define GUID_TEXT_SIZE 37

/* Writes "f8615163-df3e-46c5-913f-f2d2f965ed0e" and returns `text`. */
const char *guid_format(const struct guid *guid, char text[GUID_TEXT_SIZE]);

/* Accepts the form of guid_format(), with or without braces, either case. -EINVAL otherwise. */
int guid_parse(struct guid *guid, const char *text);

/* A random (version 4) GUID. */
void guid_random(struct guid *guid);

bool guid_equal(const struct guid *a, const struct guid *b);
bool guid_is_zero(const struct guid *guid);

/* Builds a guid from the usual written form: GUID_INIT(0xf8615163, 0xdf3e, 0x46c5, 0x91, 0x3f, 0xf2, …). */
#define GUID_INIT(a, b, c, d0, d1, d2, d3, d4, d5, d6, d7)                                                   \
	{                                                                                                    \
		{                                                                                            \
			(a) & 0xff, ((a) >> 8) & 0xff, ((a) >> 16) & 0xff, ((a) >> 24) & 0xff, (b)&0xff,     \
			    ((b) >> 8) & 0xff, (c)&0xff, ((c) >> 8) & 0xff, d0, d1, d2, d3, d4, d5, d6, d7   \
		}                                                                                            \
	}

/* Cleanup attributes: `_cleanup_free_ char *path = NULL;` */
static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define _cleanup_free_  __attribute__((cleanup(cleanup_free)))
#define _cleanup_close_ __attribute__((cleanup(cleanup_close)))
