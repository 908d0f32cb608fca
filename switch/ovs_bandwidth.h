/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ovs_bandwidth.h - how much a machine's port may send, can always send, and is sent, in Open vSwitch's terms. 
 *
 * What is sent beyond a maximum is dropped by a meter. What a machine is sent waits in the queue of its tap. What it can always send is the
 * rate of a class of its own in the queue of the uplink (linux-htb), which its flows choose: the kernel's datapath alone knows of such a choice.
 *
 * A queue is {"max": bits in a second, "queues": {NUMBER: bits in a second that it always has}}, the "qos" of a port (ovs.h). Descriptions are
 * those of ovs_rules.h. Any thread.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

/* Kilobits in a second that it may send; 0: there is no limit. */
json_int_t ovs_bandwidth_maximum(const json_t *settings);

/* {NUMBER of the port: meter}. */
json_t *ovs_bandwidth_meters(const json_t *description);

/* The queue of a machine's tap; NULL: it needs none. */
json_t *ovs_bandwidth_tap(const json_t *settings);

/* It is promised something. */
bool ovs_bandwidth_has_part(const json_t *settings);

/* The queue of the uplink, with one for each port that has a part of it; NULL: none has, or none can have. */
json_t *ovs_bandwidth_uplink(const json_t *description);

/* Whether this port, one of the description's, can have what its settings promise, beside what the others are promised. -EINVAL: the switch has no
 * uplink; -ENOTSUP: not in this datapath; -EALREADY: what the uplink can send is not known; -EBUSY: it is not enough. */
int ovs_bandwidth_check(const json_t *description, const json_t *port, struct error *err);

/* Whether the kernel has a port's queue on each of its interfaces; Open vSwitch does not say. An interface that is not there needs none. -EIO: it has not. */
int ovs_bandwidth_in_force(const json_t *port, struct error *err);
