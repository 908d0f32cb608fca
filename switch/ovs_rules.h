/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ovs_rules.h - what a virtual switch is in Open vSwitch's terms (docs/network.md): its bridge, and one more for each
 * adapter of a machine for which what goes *to* it has to be looked at.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

/* Six bytes as 00:15:5d:01:02:03. */
bool ovs_is_mac(const char *text);

/* A name of an interface, from an address "00:15:5d:01:02:03"; and another one, for a tap that comes while the one before is still there. */
#define OVS_NAME_SIZE 16
void ovs_tap_name(char name[OVS_NAME_SIZE], const char *mac, bool other);

/* Adds to `bridges`, for ovs_apply(), those of a switch:
 *
 *   {"name": "bs1", "datapath", "mac" (of the host's adapter; none: Open vSwitch's choice), "host": whether the host is on it,
 *    "vlan": of the host, 0 none, "mtu": of the host, "members": [adapters of the host], "team", "rate": bits in a second that a
 *    member can send, 0 unknown,
 *    "ports": [{"name": its tap, "number", "mac", "any_mac", "settings", "must"}]}
 *
 * -ENOMEM; of a port that "must" be as it is told, as ovs_bandwidth_check(). */
int ovs_rules(json_t *bridges, const json_t *description, struct error *err);

#define OVS_METERS_MAX 32u /* rules of action meter that an adapter can have */

/* What "settings" says and can be on no switch: -EINVAL, -ENOTSUP. `where` begins the sentence. */
int ovs_settings_check(const json_t *settings, const char *where, struct error *err);
