/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/base.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

/* Position in `bytes` of each pair of digits of the written form. */
static const uint8_t text_order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};

static bool dash_before(int byte)
{
	return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

const char *guid_format(const struct guid *guid, char text[GUID_TEXT_SIZE])
{
	static const char digits[] = "0123456789abcdef";
	char *out = text;

	for (int i = 0; i < 16; i++) {
		uint8_t byte = guid->bytes[text_order[i]];

		if (dash_before(i))
			*out++ = '-';
		*out++ = digits[byte >> 4];
		*out++ = digits[byte & 15];
	}
	*out = '\0';
	return text;
}

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int guid_parse(struct guid *guid, const char *text)
{
	bool brace = *text == '{';

	text += brace;
	for (int i = 0; i < 16; i++) {
		int high, low;

		if (dash_before(i) && *text++ != '-')
			return -EINVAL;
		high = digit_value(text[0]);
		low = high < 0 ? -1 : digit_value(text[1]);
		if (low < 0)
			return -EINVAL;
		guid->bytes[text_order[i]] = (uint8_t)(high << 4 | low);
		text += 2;
	}
	if (brace && *text++ != '}')
		return -EINVAL;
	return *text ? -EINVAL : 0;
}

void guid_random(struct guid *guid)
{
	size_t done = 0;

	while (done < sizeof(guid->bytes)) {
		ssize_t n = getrandom(guid->bytes + done, sizeof(guid->bytes) - done, 0);

		if (n > 0)
			done += (size_t)n;
	}
	guid->bytes[7] = (uint8_t)((guid->bytes[7] & 0x0f) | 0x40);
	guid->bytes[8] = (uint8_t)((guid->bytes[8] & 0x3f) | 0x80);
}

bool guid_equal(const struct guid *a, const struct guid *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

bool guid_is_zero(const struct guid *guid)
{
	static const struct guid zero;

	return guid_equal(guid, &zero);
}
