/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * systemd.h - what a service manager hands over and wants to be told: sd_listen_fds(3) and sd_notify(3), whose
 * protocols are a few variables and a datagram. Without such a manager both do nothing. Private to vmms/.
 */
#pragma once

/* The first listening socket that was handed over to this process, or -1. To be called before any thread starts:
 * the variables go, so that no child takes the socket for its own. */
int systemd_listener(void);

/* Tells "READY=1": whoever waits for the service goes on. */
void systemd_ready(void);
