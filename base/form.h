/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * form.h - saved state as bytes and back: tables that name every field of a struct, and sections.
 *
 * The bytes are little-endian, each number by its own width, with nothing between them. A table is the form: a
 * change to it is a new version of whatever it is part of. What is read comes from outside and is not trusted: a
 * reader that met something wrong keeps what it was first and where, and gives zeros from then on, so that
 * code reads on to its end and looks once. Whether values make sense is for their owner to say.
 *
 * A section is a piece with a name, a number (which of several), a version, a length and a checksum.
 */
#pragma once

#include "base/base.h"

/* `count` numbers of `width` bytes at `offset` of a struct. A flag is a byte that is 0 or 1. */
struct form_field {
	uint16_t offset, count;
	uint8_t width;
	bool flag;
};

#define FORM_MEMBER(type, member) (((type *)0)->member)
#define FORM_FIELD(type, member)                                                                             \
	{                                                                                                    \
		offsetof(type, member), 1, sizeof(FORM_MEMBER(type, member)), false                          \
	}
#define FORM_FLAG(type, member)                                                                              \
	{                                                                                                    \
		offsetof(type, member), 1, sizeof(FORM_MEMBER(type, member)), true                           \
	}
#define FORM_ARRAY(type, member)                                                                             \
	{                                                                                                    \
		offsetof(type, member), ARRAY_SIZE(FORM_MEMBER(type, member)),                               \
		    sizeof(FORM_MEMBER(type, member)[0]), false                                              \
	}

/* --- writing ------------------------------------------------------------------------------------------ */

struct form_writer {
	uint8_t *bytes; /* the caller's to free() */
	size_t size, room;
	bool failed; /* no memory; nothing is written from then on */
};

/* Room for `size` bytes at the end, NULL when there is no memory. Valid until the next call. */
uint8_t *form_reserve(struct form_writer *w, size_t size);
void form_put(struct form_writer *w, const void *from, size_t size);
void form_put32(struct form_writer *w, uint32_t value);
void form_put64(struct form_writer *w, uint64_t value);
void form_put_fields(struct form_writer *w, const void *from, const struct form_field *fields, unsigned count);

#define FORM_PUT(w, from, fields) form_put_fields(w, from, fields, ARRAY_SIZE(fields))

/* --- reading ------------------------------------------------------------------------------------------ */

struct form_reader {
	const uint8_t *bytes; /* what comes next */
	size_t left;
	uint64_t at;     /* where `bytes` lies in the whole */
	const char *bad; /* what was wrong first, NULL: nothing; a constant text */
	uint64_t bad_at; /* and where */
	uint32_t version; /* of the section */
	char section[24]; /* its name; empty outside of any */
};

/* NULL when there are fewer than `size` bytes. */
const uint8_t *form_take(struct form_reader *r, size_t size);
uint32_t form_get32(struct form_reader *r);
uint64_t form_get64(struct form_reader *r);

/* A count of at most `max`, of things that take at least `least` bytes each; 0 and an error when it is more. */
uint32_t form_get_count(struct form_reader *r, uint32_t max, size_t least, const char *bad);
void form_get_fields(struct form_reader *r, void *to, const struct form_field *fields, unsigned count);

#define FORM_GET(r, to, fields) form_get_fields(r, to, fields, ARRAY_SIZE(fields))

/* Something is wrong with what was read last. The first that is said counts. */
void form_bad(struct form_reader *r, const char *what);

/* --- sections ----------------------------------------------------------------------------------------- */

/* Returns where it begins, for form_section_end(). `name`: up to 8 characters of ASCII. */
size_t form_section_begin(struct form_writer *w, const char *name, uint32_t number, uint32_t version);
void form_section_end(struct form_writer *w, size_t begin);

/* A reader of the next section, which must be that one, of a version up to `version`. */
struct form_reader form_section(struct form_reader *r, const char *name, uint32_t number, uint32_t version);

/* Nothing may be left of it. What is wrong in the section is wrong in the whole. */
void form_section_done(struct form_reader *r, struct form_reader *section);

/* 0, or -EBADMSG with section, place and what is wrong; `whole` is what the bytes are ("the saved machine"). */
int form_error(const struct form_reader *r, const char *whole, struct error *err);
