/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/form.h"

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"

/* name, number, version, length of what follows, CRC-32C of that and of these fields before it */
#define SECTION_NAME     8u
#define SECTION_NUMBER   8u
#define SECTION_VERSION  12u
#define SECTION_SIZE     16u
#define SECTION_CHECKSUM 20u
#define SECTION_HEADER   24u

/* --- writing ------------------------------------------------------------------------------------------ */

uint8_t *form_reserve(struct form_writer *w, size_t size)
{
	size_t room = w->room ? w->room : 4096;
	uint8_t *bytes;

	if (w->failed)
		return NULL;
	while (room - w->size < size)
		room *= 2;
	if (room != w->room) {
		bytes = realloc(w->bytes, room);
		if (!bytes) {
			w->failed = true;
			return NULL;
		}
		w->bytes = bytes;
		w->room = room;
	}
	w->size += size;
	return w->bytes + w->size - size;
}

void form_put(struct form_writer *w, const void *from, size_t size)
{
	uint8_t *to = form_reserve(w, size);

	if (to && size)
		memcpy(to, from, size);
}

void form_put32(struct form_writer *w, uint32_t value)
{
	uint8_t *to = form_reserve(w, 4);

	if (to)
		le32_put(to, value);
}

void form_put64(struct form_writer *w, uint64_t value)
{
	uint8_t *to = form_reserve(w, 8);

	if (to)
		le64_put(to, value);
}

static void put_number(uint8_t *to, const uint8_t *from, unsigned width)
{
	switch (width) {
	case 1:
		*to = *from;
		break;
	case 2:
		le16_put(to, *(const uint16_t *)from);
		break;
	case 4:
		le32_put(to, *(const uint32_t *)from);
		break;
	default:
		le64_put(to, *(const uint64_t *)from);
		break;
	}
}

void form_put_fields(struct form_writer *w, const void *from, const struct form_field *fields, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		const struct form_field *f = &fields[i];
		uint8_t *to = form_reserve(w, (size_t)f->count * f->width);

		for (size_t n = 0; to && n < f->count; n++)
			put_number(to + n * f->width, (const uint8_t *)from + f->offset + n * f->width,
				   f->width);
	}
}

/* --- reading ------------------------------------------------------------------------------------------ */

void form_bad(struct form_reader *r, const char *what)
{
	if (r->bad)
		return;
	r->bad = what;
	r->bad_at = r->at;
}

const uint8_t *form_take(struct form_reader *r, size_t size)
{
	const uint8_t *at = r->bytes;

	if (r->bad)
		return NULL;
	if (size > r->left) {
		form_bad(r, "it ends too early");
		return NULL;
	}
	r->bytes += size;
	r->left -= size;
	r->at += size;
	return at;
}

uint32_t form_get32(struct form_reader *r)
{
	const uint8_t *from = form_take(r, 4);

	return from ? le32_get(from) : 0;
}

uint64_t form_get64(struct form_reader *r)
{
	const uint8_t *from = form_take(r, 8);

	return from ? le64_get(from) : 0;
}

uint32_t form_get_count(struct form_reader *r, uint32_t max, size_t least, const char *bad)
{
	uint32_t count = form_get32(r);

	if (count > max)
		form_bad(r, bad);
	else if (least && count > r->left / least)
		form_bad(r, "it ends before all that is counted");
	return r->bad ? 0 : count;
}

static void get_number(uint8_t *to, const uint8_t *from, unsigned width)
{
	switch (width) {
	case 1:
		*to = *from;
		break;
	case 2:
		*(uint16_t *)to = le16_get(from);
		break;
	case 4:
		*(uint32_t *)to = le32_get(from);
		break;
	default:
		*(uint64_t *)to = le64_get(from);
		break;
	}
}

void form_get_fields(struct form_reader *r, void *to, const struct form_field *fields, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		const struct form_field *f = &fields[i];
		const uint8_t *from = form_take(r, (size_t)f->count * f->width);

		if (from && f->flag && *from > 1) {
			form_bad(r, "a flag is neither 0 nor 1");
			return;
		}
		for (size_t n = 0; from && n < f->count; n++)
			get_number((uint8_t *)to + f->offset + n * f->width, from + n * f->width, f->width);
	}
}

/* --- sections ----------------------------------------------------------------------------------------- */

size_t form_section_begin(struct form_writer *w, const char *name, uint32_t number, uint32_t version)
{
	size_t begin = w->size;
	uint8_t *header = form_reserve(w, SECTION_HEADER);

	if (!header)
		return begin;
	memset(header, 0, SECTION_HEADER);
	memcpy(header, name, strnlen(name, SECTION_NAME));
	le32_put(header + SECTION_NUMBER, number);
	le32_put(header + SECTION_VERSION, version);
	return begin;
}

static uint32_t checksum(const uint8_t *header, const uint8_t *content, size_t size)
{
	return crc32c(crc32c(0, header, SECTION_CHECKSUM), content, size);
}

void form_section_end(struct form_writer *w, size_t begin)
{
	uint8_t *header = w->bytes + begin;
	size_t size = w->size - begin - SECTION_HEADER;

	if (w->failed)
		return;
	if (size > UINT32_MAX) {
		w->failed = true;
		return;
	}
	le32_put(header + SECTION_SIZE, (uint32_t)size);
	le32_put(header + SECTION_CHECKSUM, checksum(header, header + SECTION_HEADER, size));
}

struct form_reader form_section(struct form_reader *r, const char *name, uint32_t number, uint32_t version)
{
	struct form_reader inner = {.bad = r->bad, .bad_at = r->bad_at};
	uint64_t at = r->at;
	const uint8_t *header;
	char wanted[SECTION_NAME] = {0};

	memcpy(inner.section, r->section, sizeof(inner.section));
	if (r->bad)
		return inner;
	snprintf(inner.section, sizeof(inner.section), number ? "%.8s %u" : "%.8s", name, number);
	header = form_take(r, SECTION_HEADER);
	memcpy(wanted, name, strnlen(name, SECTION_NAME));
	if (!header || memcmp(header, wanted, SECTION_NAME) != 0 || le32_get(header + SECTION_NUMBER) != number) {
		inner.bad = "the section is missing";
		inner.bad_at = at;
		return inner;
	}
	inner.version = le32_get(header + SECTION_VERSION);
	inner.at = r->at;
	inner.left = le32_get(header + SECTION_SIZE);
	inner.bytes = form_take(r, inner.left);
	if (inner.version < 1 || inner.version > version)
		inner.bad = "the section is of a version that this Bulkhead does not know";
	else if (!inner.bytes)
		inner.bad = "the section is longer than what is there";
	else if (checksum(header, inner.bytes, inner.left) != le32_get(header + SECTION_CHECKSUM))
		inner.bad = "the checksum of the section is wrong";
	if (inner.bad) {
		inner.left = 0;
		inner.bad_at = at;
	}
	return inner;
}

void form_section_done(struct form_reader *r, struct form_reader *section)
{
	if (section->left)
		form_bad(section, "the section is longer than what it holds");
	if (!section->bad || (r->bad && r->section[0]))
		return;
	r->bad = section->bad;
	r->bad_at = section->bad_at;
	memcpy(r->section, section->section, sizeof(r->section));
}

int form_error(const struct form_reader *r, const char *whole, struct error *err)
{
	if (!r->bad)
		return 0;
	return error_set(err, EBADMSG, "%s is damaged or foreign: %s%s%sat byte %llu: %s", whole,
			 r->section[0] ? "section \"" : "", r->section, r->section[0] ? "\", " : "",
			 (unsigned long long)r->bad_at, r->bad);
}
