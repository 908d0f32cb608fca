/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "base/bitmap.h"
#include "base/text.h"

static void test_error_says_and_returns(void **state)
{
	struct error err;

	(void)state;
	assert_int_equal(error_set(&err, ENOENT, "%s: no disk %d", "a.vhdx", 7), -ENOENT);
	assert_string_equal(err.text, "a.vhdx: no disk 7");
	assert_int_equal(error_prefix(&err, "vm %s", "web"), -ENOENT);
	assert_string_equal(err.text, "vm web: a.vhdx: no disk 7");
	assert_int_equal(error_set(NULL, EIO, "nobody listens"), -EIO);
}

static void test_error_is_cut_not_overrun(void **state)
{
	struct error err;
	char text[2000];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	error_set(&err, EINVAL, "%s", text);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	error_prefix(&err, "%s", text);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

static void test_guid_text(void **state)
{
	const struct guid network =
	    GUID_INIT(0xf8615163u, 0xdf3e, 0x46c5, 0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e);
	struct guid parsed;
	char text[GUID_TEXT_SIZE];

	(void)state;
	assert_string_equal(guid_format(&network, text), "f8615163-df3e-46c5-913f-f2d2f965ed0e");
	assert_int_equal(network.bytes[0], 0x63);
	assert_int_equal(guid_parse(&parsed, "{F8615163-DF3E-46C5-913F-F2D2F965ED0E}"), 0);
	assert_true(guid_equal(&parsed, &network));
	assert_int_equal(guid_parse(&parsed, "f8615163-df3e-46c5-913f-f2d2f965ed0"), -EINVAL);
	assert_int_equal(guid_parse(&parsed, "f8615163-df3e-46c5-913f-f2d2f965ed0e0"), -EINVAL);
	assert_int_equal(guid_parse(&parsed, "f8615163 df3e-46c5-913f-f2d2f965ed0e"), -EINVAL);
	assert_int_equal(guid_parse(&parsed, ""), -EINVAL);
}

static void test_guid_random(void **state)
{
	struct guid a, b;

	(void)state;
	guid_random(&a);
	guid_random(&b);
	assert_false(guid_equal(&a, &b));
	assert_false(guid_is_zero(&a));
	assert_int_equal(a.bytes[7] >> 4, 4);
}

static void test_bytes(void **state)
{
	uint8_t b[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8};

	(void)state;
	assert_int_equal(le16_get(b + 1), 0x0201);
	assert_int_equal(be32_get(b + 1), 0x01020304);
	assert_int_equal(be64_get(b + 1), 0x0102030405060708);
	be16_put(b, 0xabcd);
	assert_int_equal(b[0], 0xab);
	assert_true(range_fits_u64(4, 4, 8));
	assert_false(range_fits_u64(4, 5, 8));
	assert_false(range_fits_u64(UINT64_MAX, 1, 8));
	assert_false(range_fits_u64(1, UINT64_MAX, 8));
}

/* Any range, into words that begin elsewhere: the same as bit by bit. */
static void test_bitmap(void **state)
{
	struct atomic_bitmap b;
	uint64_t seed = 12345;

	(void)state;
	for (unsigned round = 0; round < 2000; round++) {
		uint64_t bits = seed % 300 + 1, first = (seed >> 20) % bits,
			 count = (seed >> 30) % (bits - first + 1);
		uint64_t to[6] = {0}, rest[6] = {0};
		bool any = false, was[300] = {false};

		assert_int_equal(atomic_bitmap_create(&b, bits), 0);
		for (uint64_t i = 0; i < bits; i++) {
			seed = seed * 6364136223846793005 + 1442695040888963407;
			was[i] = (seed >> 60) < (round & 15);
			if (was[i])
				atomic_bitmap_set(&b, i);
			any |= was[i] && i >= first && i - first < count;
		}
		assert_int_equal(atomic_bitmap_take(&b, first, count, to), any);
		atomic_bitmap_take(&b, 0, bits, rest);
		for (uint64_t i = 0; i < 384; i++)
			assert_int_equal(to[i / 64] >> (i % 64) & 1, i < count && was[first + i]);
		for (uint64_t i = 0; i < bits; i++)
			assert_int_equal(rest[i / 64] >> (i % 64) & 1,
					 was[i] && !(i >= first && i - first < count));
		atomic_bitmap_set(&b, bits - 1);
		assert_true(atomic_bitmap_test(&b, bits - 1));
		atomic_bitmap_clear(&b);
		assert_false(atomic_bitmap_test(&b, bits - 1));
		atomic_bitmap_destroy(&b);
	}
}

static void test_text(void **state)
{
	static const struct {
		const char *text;
		enum text_kind kind;
		size_t size;
	} cases[] = {
	    {"a", TEXT_SEEN, 1}, {" ", TEXT_SEEN, 1}, {"\x1b[2J", TEXT_COMMAND, 1}, {"\x7f", TEXT_COMMAND, 1}, {"\xc2\x9b" "2J", TEXT_COMMAND, 2}, {"\xc2\xa0", TEXT_HIDDEN, 2},
	    {"\xc3\xa9", TEXT_SEEN, 2}, {"\xe2\x80\x8b", TEXT_HIDDEN, 3}, {"\xe2\x80\xae" "a", TEXT_TURNS, 3}, {"\xe2\x81\xa6", TEXT_TURNS, 3}, {"\xe2\x82\xac", TEXT_SEEN, 3},
	    {"\xef\xbb\xbf", TEXT_HIDDEN, 3}, {"\xf3\xa0\x81\x81", TEXT_HIDDEN, 4}, {"\xf0\x9f\x90\xa7", TEXT_SEEN, 4},
	    /* No UTF-8: cut off, too long for what it says, no beginning. */
	    {"\xe2\x80", TEXT_SEEN, 1}, {"\xf3", TEXT_SEEN, 1}, {"\xc1\xbf", TEXT_SEEN, 1}, {"\xe0\x82\xa0", TEXT_SEEN, 1}, {"\x8b", TEXT_SEEN, 1}, {"\xff\xff", TEXT_SEEN, 1}};
	struct error err;
	size_t size;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		assert_int_equal(text_kind(cases[i].text, &size), cases[i].kind);
		assert_int_equal(size, cases[i].size);
	}
	assert_int_equal(text_check_name("Büro 3, №7 🐧", &err), 0);
	assert_int_equal(text_check_name("web\xe2\x80\x8b", &err), -EINVAL);
	assert_non_null(strstr(err.text, "not seen"));
	assert_int_equal(text_check_name("web\n", NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_error_says_and_returns),
					   cmocka_unit_test(test_error_is_cut_not_overrun),
					   cmocka_unit_test(test_guid_text),
					   cmocka_unit_test(test_guid_random),
					   cmocka_unit_test(test_bytes),
					   cmocka_unit_test(test_bitmap),
					   cmocka_unit_test(test_text)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
