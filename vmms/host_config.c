/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/host_config.h"

#include <errno.h>
#include <string.h>

#define HOST_CONFIG_VERSION 1

static int check_absolute(const char *path, struct error *err)
{
	return *path == '/' ? 0 : error_set(err, EINVAL, "has to be a path from the root on");
}

static const char *const role_words[] = {"viewer", "operator", "administrator", NULL};
const struct form form_role = {.kind = FORM_WORD, .text = "each may do what those before it may", .words = role_words};
static const struct form form_version = {
    .kind = FORM_INTEGER, .text = "of the form of this file", .min = HOST_CONFIG_VERSION, .max = HOST_CONFIG_VERSION};
static const struct form form_listen = {.kind = FORM_STRING, .text = "ADDRESS:PORT, as 0.0.0.0:8443 or [::]:8443", .min = 3,
					.max = 100};
static const struct form form_file = {.kind = FORM_STRING, .text = "absolute", .min = 1, .max = 4095, .check = check_absolute};
static const struct form form_name = {.kind = FORM_STRING, .min = 1, .max = 255};

static const struct form form_https = {.kind = FORM_OBJECT,
				       .text = "the interface over TLS 1.3; without it there is the Unix socket alone",
				       .fields = (const struct form_field[]){
					   {"listen", &form_listen, NULL, true},
					   {"certificate", &form_file, NULL, false},
					   {"key", &form_file, NULL, false},
					   {"client_authority", &form_file, NULL, false},
					   {0},
				       }};
static const struct form form_grant = {
    .kind = FORM_OBJECT,
    .fields = (const struct form_field[]){{"name", &form_name, NULL, true}, {"role", &form_role, NULL, true}, {0}}};
static const struct form form_groups = {.kind = FORM_LIST,
					.text = "groups of this host whose members may use the Unix socket",
					.min = 0, .max = 64, .items = &form_grant};
static const struct form form_certificates = {.kind = FORM_LIST,
					      .text = "client certificates, by common name or alternative name; the first that fits",
					      .min = 0, .max = 1024, .items = &form_grant};

static const struct form form_overcommit = {
    .kind = FORM_BOOLEAN, .text = "machines are started, too, whose memory the host has not: for guests that never use all of theirs"};
static const struct form form_revoked = {.kind = FORM_STRING,
					 .text = "a file of revocation lists (PEM) of https.client_authority: certificates in them are refused",
					 .min = 1, .max = 4095, .check = check_absolute};

static const char *const vswitch_words[] = {"any", "own", NULL};
static const struct form form_vswitch = {
    .kind = FORM_WORD, .text = "for switches: the host's own Open vSwitch where it runs, else daemons of ours; or ours in any case", .words = vswitch_words};

const struct form host_config_form = {.kind = FORM_OBJECT,
				      .text = "a host of Bulkhead: host.json",
				      .fields = (const struct form_field[]){
					  {"version", &form_version, NULL, true},
					  {"https", &form_https, NULL, false},
					  {"groups", &form_groups, "[]", false},
					  {"certificates", &form_certificates, "[]", false},
					  {"overcommit_memory", &form_overcommit, "false", false},
					  {"revoked", &form_revoked, NULL, false},
					  {"open_vswitch", &form_vswitch, "\"any\"", false},
					  {0},
				      }};

static int check_pair(const json_t *https, struct error *err)
{
	if (!json_object_get(https, "certificate") != !json_object_get(https, "key"))
		return error_set(err, EINVAL, "https.certificate and https.key belong together: one of them is missing");
	return 0;
}

int host_config_load(json_t **out, const char *path, bool may_miss, struct error *err)
{
	json_t *config;
	json_error_t why;
	int r;

	if (path && may_miss && access(path, F_OK) && errno == ENOENT)
		path = NULL;
	config = path ? json_load_file(path, JSON_REJECT_DUPLICATES, &why) : json_pack("{s:i}", "version", HOST_CONFIG_VERSION);
	if (!config && path && access(path, R_OK))
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (!config)
		return error_set(err, EBADMSG, "%s, line %d: %s", path, why.line, why.text);
	r = form_check(&host_config_form, config, err);
	if (!r)
		r = check_pair(json_object_get(config, "https"), err);
	if (r && path)
		r = error_prefix(err, "%s", path);
	if (r)
		json_decref(config);
	else
		*out = config;
	return r;
}
