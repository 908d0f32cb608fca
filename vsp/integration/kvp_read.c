// SPDX-License-Identifier: GPL-2.0-or-later
#include "vsp/integration/kvp_read.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <string.h>

#define NO_CHARACTER 0xfffdu

static const char *const item_keys[] = {
    [GUEST_NAME] = "FullyQualifiedDomainName",
    [GUEST_SERVICES_VERSION] = "IntegrationServicesVersion",
    [GUEST_IPV4] = "NetworkAddressIPv4",
    [GUEST_IPV6] = "NetworkAddressIPv6",
    [GUEST_SYSTEM] = "OSName",
    [GUEST_SYSTEM_VERSION] = "OSVersion",
    [GUEST_SYSTEM_MAJOR] = "OSMajorVersion",
    [GUEST_SYSTEM_MINOR] = "OSMinorVersion",
    [GUEST_SYSTEM_BUILD] = "OSBuildNumber",
    [GUEST_SYSTEM_PLATFORM] = "OSPlatformId",
    [GUEST_SYSTEM_PRODUCT] = "ProductType",
    [GUEST_SYSTEM_SUITES] = "SuiteMask",
    [GUEST_SERVICE_PACK] = "CSDVersion",
    [GUEST_SERVICE_PACK_MAJOR] = "ServicePackMajor",
    [GUEST_SERVICE_PACK_MINOR] = "ServicePackMinor",
    [GUEST_PROCESSOR] = "ProcessorArchitecture",
};
_Static_assert(ARRAY_SIZE(item_keys) == GUEST_ITEMS, "each has a name");

const char *integration_item_key(enum guest_item item)
{
	return item_keys[item];
}

/* --- texts ------------------------------------------------------------------------------------------- */

/* One character. Advances *at by at least one unit. */
static uint32_t next_character(const uint8_t *utf16, size_t units, size_t *at)
{
	uint32_t c = le16_get(utf16 + 2 * *at), low;

	(*at)++;
	if (c < 0xd800 || c >= 0xe000)
		return c;
	if (c >= 0xdc00 || *at >= units)
		return NO_CHARACTER;
	low = le16_get(utf16 + 2 * *at);
	if (low < 0xdc00 || low >= 0xe000)
		return NO_CHARACTER;
	(*at)++;
	return 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
}

/* C0 and C1, what has no width, ends a line, or turns the direction of what is around it; and no characters for good. */
static bool is_harmful(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x61c || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
	       (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe;
}

/* Returns how many bytes. */
static size_t put_character(char to[4], uint32_t c)
{
	if (c < 0x80) {
		to[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		to[0] = (char)(0xc0 | c >> 6);
		to[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		to[0] = (char)(0xe0 | c >> 12);
		to[1] = (char)(0x80 | (c >> 6 & 0x3f));
		to[2] = (char)(0x80 | (c & 0x3f));
		return 3;
	}
	to[0] = (char)(0xf0 | c >> 18);
	to[1] = (char)(0x80 | (c >> 12 & 0x3f));
	to[2] = (char)(0x80 | (c >> 6 & 0x3f));
	to[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

/* Before the end: blanks, and the end of a line, which some guests leave there. */
static size_t without_blanks(const uint8_t *utf16, size_t units)
{
	size_t end = 0;

	for (size_t i = 0; i < units; i++) {
		uint16_t c = le16_get(utf16 + 2 * i);

		if (!c)
			break;
		if (c != ' ' && c != '\t' && c != '\r' && c != '\n')
			end = i + 1;
	}
	return end;
}

void kvp_text(char *text, size_t room, const uint8_t *utf16, size_t units)
{
	size_t size = 0;

	units = without_blanks(utf16, units);
	for (size_t at = 0; at < units;) {
		uint32_t c = next_character(utf16, units, &at);
		char bytes[4];
		size_t n = put_character(bytes, is_harmful(c) ? NO_CHARACTER : c);

		if (size + n >= room)
			break;
		memcpy(text + size, bytes, n);
		size += n;
	}
	text[size] = '\0';
}

/* --- items ------------------------------------------------------------------------------------------- */

static bool find_item(const char *key, enum guest_item *item)
{
	for (unsigned i = 0; i < GUEST_ITEMS; i++)
		if (!strcmp(item_keys[i], key)) {
			*item = (enum guest_item)i;
			return true;
		}
	return false;
}

bool kvp_read_item(const void *body, size_t size, enum guest_item *item, char text[GUEST_TEXT_MAX])
{
	struct kvp_enumerate answer;
	char key[64];

	if (size < sizeof(answer))
		return false;
	memcpy(&answer, body, sizeof(answer));
	if (answer.item.key_size > sizeof(answer.item.key) || answer.item.value_size > sizeof(answer.item.value))
		return false;
	kvp_text(key, sizeof(key), answer.item.key, answer.item.key_size / 2);
	if (!find_item(key, item))
		return false;
	switch (answer.item.type) {
	case KVP_VALUE_STRING:
	case KVP_VALUE_EXPAND_STRING:
		kvp_text(text, GUEST_TEXT_MAX, answer.item.value, answer.item.value_size / 2);
		/* Linux' daemon has a sentence there when it cannot find out the name. */
		return *item != GUEST_NAME || !strchr(text, ' ');
	case KVP_VALUE_U32:
		snprintf(text, GUEST_TEXT_MAX, "%" PRIu32, le32_get(answer.item.value));
		return answer.item.value_size == 4;
	case KVP_VALUE_U64:
		snprintf(text, GUEST_TEXT_MAX, "%" PRIu64, le64_get(answer.item.value));
		return answer.item.value_size == 8;
	default:
		return false;
	}
}

/* --- addresses --------------------------------------------------------------------------------------- */

static bool is_of_one_host(const char *text, char address[GUEST_ADDRESS_MAX])
{
	struct in6_addr v6;
	uint8_t v4[4];

	if (inet_pton(AF_INET, text, v4) == 1)
		return v4[0] != 0 && v4[0] != 127 && v4[0] < 224 && inet_ntop(AF_INET, v4, address, GUEST_ADDRESS_MAX);
	return inet_pton(AF_INET6, text, &v6) == 1 && !IN6_IS_ADDR_UNSPECIFIED(&v6) && !IN6_IS_ADDR_LOOPBACK(&v6) && !IN6_IS_ADDR_MULTICAST(&v6) &&
	       !IN6_IS_ADDR_V4MAPPED(&v6) && inet_ntop(AF_INET6, &v6, address, GUEST_ADDRESS_MAX);
}

static unsigned add_address(const char *text, char (*addresses)[GUEST_ADDRESS_MAX], unsigned count)
{
	if (!is_of_one_host(text, addresses[count]))
		return count;
	for (unsigned i = 0; i < count; i++)
		if (!strcmp(addresses[i], addresses[count]))
			return count;
	return count + 1;
}

int kvp_read_addresses(const void *body, size_t size, char (*addresses)[GUEST_ADDRESS_MAX], unsigned capacity)
{
	struct kvp_ip_info answer;
	char text[KVP_ADDRESSES_UNITS + 1], *state = NULL;
	unsigned count = 0;

	if (size < sizeof(answer))
		return -1;
	memcpy(&answer, body, sizeof(answer));
	kvp_text(text, sizeof(text), answer.addresses, KVP_ADDRESSES_UNITS);
	for (char *each = strtok_r(text, ";", &state); each && count < capacity; each = strtok_r(NULL, ";", &state)) {
		/* Of IPv6 the zone is the guest's own business. */
		each[strcspn(each, "%")] = '\0';
		count = add_address(each, addresses, count);
	}
	return (int)count;
}
