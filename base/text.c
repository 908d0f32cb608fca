/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/text.h"

#include <errno.h>

struct range {
	uint32_t first, last;
	enum text_kind kind;
};

static const struct range ranges[] = {
    {0x0000, 0x001f, TEXT_COMMAND}, {0x007f, 0x009f, TEXT_COMMAND}, {0x00a0, 0x00a0, TEXT_HIDDEN},   {0x00ad, 0x00ad, TEXT_HIDDEN},
    {0x034f, 0x034f, TEXT_HIDDEN},  {0x061c, 0x061c, TEXT_TURNS},   {0x115f, 0x1160, TEXT_HIDDEN},   {0x1680, 0x1680, TEXT_HIDDEN},
    {0x17b4, 0x17b5, TEXT_HIDDEN},  {0x180b, 0x180f, TEXT_HIDDEN},  {0x2000, 0x200d, TEXT_HIDDEN},   {0x200e, 0x200f, TEXT_TURNS},
    {0x2028, 0x202e, TEXT_TURNS},   {0x202f, 0x202f, TEXT_HIDDEN},  {0x205f, 0x2065, TEXT_HIDDEN},   {0x2066, 0x2069, TEXT_TURNS},
    {0x206a, 0x206f, TEXT_HIDDEN},  {0x2800, 0x2800, TEXT_HIDDEN},  {0x3000, 0x3000, TEXT_HIDDEN},   {0x3164, 0x3164, TEXT_HIDDEN},
    {0xfe00, 0xfe0f, TEXT_HIDDEN},  {0xfeff, 0xfeff, TEXT_HIDDEN},  {0xffa0, 0xffa0, TEXT_HIDDEN},   {0xfff0, 0xfffb, TEXT_HIDDEN},
    {0x1bca0, 0x1bca3, TEXT_HIDDEN}, {0x1d173, 0x1d17a, TEXT_HIDDEN}, {0xe0000, 0xe0fff, TEXT_HIDDEN},
};

/* 0: it is no UTF-8. Bytes behind the text's end, which is none that goes on, are not looked at. */
static size_t decode(const char *text, uint32_t *code)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	const uint8_t *c = (const uint8_t *)text;
	size_t size = *c < 0x80 ? 1 : *c >= 0xf0 && *c < 0xf8 ? 4 : *c >= 0xe0 && *c < 0xf0 ? 3 : *c >= 0xc0 && *c < 0xe0 ? 2 : 0;

	if (!size)
		return 0;
	*code = size == 1 ? *c : *c & (0x7fu >> size);
	for (size_t i = 1; i < size; i++) {
		if ((c[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (c[i] & 0x3f);
	}
	return *code < least[size] ? 0 : size;
}

enum text_kind text_kind(const char *c, size_t *size)
{
	uint32_t code = 0;
	size_t n = decode(c, &code);

	if (size)
		*size = n ? n : 1;
	for (size_t i = 0; n && i < ARRAY_SIZE(ranges); i++)
		if (code >= ranges[i].first && code <= ranges[i].last)
			return ranges[i].kind;
	return TEXT_SEEN;
}

int text_check_name(const char *name, struct error *err)
{
	size_t size;

	for (const char *c = name; *c; c += size) {
		enum text_kind kind = text_kind(c, &size);

		if (kind == TEXT_COMMAND)
			return error_set(err, EINVAL, "may not have a control character in it");
		if (kind != TEXT_SEEN)
			return error_set(err, EINVAL, "may not have a character in it that is not seen, or looks like a space and is another");
	}
	return 0;
}
