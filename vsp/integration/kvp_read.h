/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kvp_read.h - what answers of the Key-Value Pair Exchange service say. Private to vsp/integration/.
 *
 * The bytes are a copy of what the guest wrote, of any length and content. What comes out is UTF-8 with no control
 * characters, and addresses that are some.
 */
#pragma once

#include "vsp/integration/integration.h"
#include "vsp/integration/kvp_protocol.h"

/* Copies at most `units` of UTF-16 up to a 0 into `text` of `room` bytes, with its end. What is no character, and what a screen would
 * obey or hide (controls, marks of direction), becomes U+FFFD; what has no room is left out, by whole characters, and so are
 * blanks at the end. */
void kvp_text(char *text, size_t room, const uint8_t *utf16, size_t units);

/* The answer to KVP_ENUMERATE. False: it is none, or an item that is not known (integration_item_key()). */
bool kvp_read_item(const void *body, size_t size, enum guest_item *item, char text[GUEST_TEXT_MAX]);

/* The answer to KVP_GET_IP_INFO: addresses by which others can reach the guest, in the usual form, no more than `capacity`, none twice.
 * Returns how many; -1: it is none. */
int kvp_read_addresses(const void *body, size_t size, char (*addresses)[GUEST_ADDRESS_MAX], unsigned capacity);
