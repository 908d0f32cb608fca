/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_port.h - options of `bulkhead vm adapter` for an adapter's port on a switch. Private to cli/. */
#pragma once

#include "cli/vm.h"

enum { OPT_VLAN = 512, OPT_TRUNK, OPT_PRIVATE_VLAN, OPT_MAXIMUM, OPT_MAXIMUM_IN, OPT_MINIMUM, OPT_WEIGHT, OPT_DHCP_GUARD, OPT_ROUTER_GUARD, OPT_PROTECTED, OPT_MIRROR, OPT_ACL };

/* One of these with its text becomes a part of `changes`; an exit status, 0: go on. */
int vm_port_option(struct manage *manage, json_t *changes, int option, const char *text);

/* All settings that the adapter ("0", or its address) is to have: what it has, but for the changes. The next change that is asked for is
 * refused if the machine has another configuration by then. NULL: `err` says why. */
json_t *vm_port_settings(struct manage *manage, const char *name, const char *adapter, const json_t *changes, struct error *err);
