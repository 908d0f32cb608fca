/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host_config.h - host.json, what an administrator says about this host. Private to vmms/.
 *
 * A configuration in memory is a JSON object that has passed `host_config_form`, so that every key with a default is
 * there. Paths in it are absolute.
 */
#pragma once

#include "vmms/access.h"
#include "vmms/form.h"

extern const struct form host_config_form;
/* A role by its word. */
extern const struct form form_role;

/* Reads it; the caller owns the reference. `path` NULL: all defaults; so it is, too, if it is not there and may miss.
 * -ENOENT: it is not there; -EBADMSG: not JSON; -EINVAL: a key is wrong. `err` names the file. */
int host_config_load(json_t **out, const char *path, bool may_miss, struct error *err);
