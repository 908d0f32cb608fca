/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"

int fail(int status, const char *format, ...)
{
	va_list args;

	fputs("bulkhead: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return status;
}

int parse_size(const char *text, uint64_t *bytes, struct error *err)
{
	static const char units[] = "KMGT";
	const char *unit;
	unsigned shift = 0;
	uint64_t value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || errno)
		return error_set(err, EINVAL, "\"%s\" is not a size: write a number and K, M, G or T", text);
	unit = *end ? strchr(units, *end & ~0x20) : NULL;
	if (unit) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
		if (*end == 'i')
			end++;
		if (*end == 'B')
			end++;
	}
	if (*end || value > UINT64_MAX >> shift)
		return error_set(err, EINVAL, "\"%s\" is not a size: write a number and K, M, G or T", text);
	*bytes = value << shift;
	return 0;
}

bool parse_number(const char *text, unsigned max, unsigned *number)
{
	unsigned long value;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || *end || value > max)
		return false;
	*number = (unsigned)value;
	return true;
}

bool parse_rate(const char *text, uint64_t *rate)
{
	static const char units[] = "KMG";
	char *rest = NULL;
	unsigned long long value = *text >= '0' && *text <= '9' ? strtoull(text, &rest, 10) : 0;
	const char *unit = rest && *rest ? strchr(units, *rest) : NULL;
	bool good = rest && (!*rest || (unit && !rest[1]));

	for (size_t i = unit ? (size_t)(unit - units) + 1 : 0; good && i; i--) {
		good = value <= RATE_MAX / 1000;
		value *= 1000;
	}
	*rate = value;
	return good && value <= RATE_MAX;
}
