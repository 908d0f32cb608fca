/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * access.h - who may do what. Private to vmms/.
 */
#pragma once

/* Each may do what those before it may. */
enum role { ROLE_NONE, ROLE_VIEWER, ROLE_OPERATOR, ROLE_ADMINISTRATOR };

/* "viewer", "operator", "administrator"; ROLE_NONE: "none". */
const char *role_word(enum role role);

/* Of who is at the other end of a Unix socket: root and the daemon's own user may do everything, all others nothing. */
enum role access_of_peer(int fd);
