/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/utf16.h"

#include <errno.h>
#include <stdlib.h>

#include "base/base.h"

/* One character of UTF-16. 0: `units` is not well-formed there, or it is NUL. */
static uint32_t decode_unit(const uint8_t *text, size_t units, size_t *at)
{
	uint32_t c = le16_get(text + 2 * (*at)++), low;

	if (c < 0xd800 || c > 0xdfff)
		return c;
	if (c > 0xdbff || *at == units)
		return 0;
	low = le16_get(text + 2 * (*at)++);
	return low >= 0xdc00 && low <= 0xdfff ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00) : 0;
}

static char *put_utf8(char *to, uint32_t c)
{
	if (c < 0x80) {
		*to++ = (char)c;
	} else if (c < 0x800) {
		*to++ = (char)(0xc0 | c >> 6);
		*to++ = (char)(0x80 | (c & 0x3f));
	} else if (c < 0x10000) {
		*to++ = (char)(0xe0 | c >> 12);
		*to++ = (char)(0x80 | (c >> 6 & 0x3f));
		*to++ = (char)(0x80 | (c & 0x3f));
	} else {
		*to++ = (char)(0xf0 | c >> 18);
		*to++ = (char)(0x80 | (c >> 12 & 0x3f));
		*to++ = (char)(0x80 | (c >> 6 & 0x3f));
		*to++ = (char)(0x80 | (c & 0x3f));
	}
	return to;
}

char *utf16_to_utf8(const uint8_t *text, size_t units)
{
	char *out, *to;

	/* Some writers count a terminating NUL. */
	if (units > 0 && le16_get(text + 2 * (units - 1)) == 0)
		units--;
	out = to = malloc(3 * units + 1);
	for (size_t at = 0; out && at < units;) {
		uint32_t c = decode_unit(text, units, &at);

		if (c == 0) {
			free(out);
			errno = EINVAL;
			return NULL;
		}
		to = put_utf8(to, c);
	}
	if (out)
		*to = '\0';
	return out;
}

/* One character of UTF-8, which must be well-formed; 0 otherwise. */
static uint32_t decode_utf8(const char **text)
{
	static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
	const uint8_t *p = (const uint8_t *)*text;
	unsigned more = p[0] < 0x80   ? 0
			: p[0] < 0xc0 ? 9
			: p[0] < 0xe0 ? 1
			: p[0] < 0xf0 ? 2
			: p[0] < 0xf8 ? 3
				      : 9;
	uint32_t c = more ? p[0] & (0x3fu >> more) : p[0];

	if (more == 9)
		return 0;
	for (unsigned i = 1; i <= more; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	*text += more + 1;
	return c < least[more] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff) ? 0 : c;
}

size_t utf16_put(uint8_t *out, size_t max, const char *text)
{
	size_t n = 0;

	while (*text) {
		uint32_t c = decode_utf8(&text);

		if (c == 0 || n + 2 > max)
			return 0;
		if (c >= 0x10000) {
			le16_put(out + 2 * n++, (uint16_t)(0xd800 + ((c - 0x10000) >> 10)));
			c = 0xdc00 + ((c - 0x10000) & 0x3ff);
		}
		le16_put(out + 2 * n++, (uint16_t)c);
	}
	return n;
}
