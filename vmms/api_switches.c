/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_switches.c - the REST interface's routes of virtual switches. */
#include <errno.h>
#include <string.h>

#include "vmms/api.h"
#include "vmms/switches.h"

/* NULL: there is none, and that has been answered. */
static struct vswitch *find(struct vmms *vmms, struct http_request *request)
{
	const char *name = api_part(request);
	struct vswitch *s = switches_find(vmms, name);
	struct error err;

	if (s)
		return s;
	if (!strcmp(name, "nat"))
		error_set(&err, ENOENT, "\"nat\", the default switch, is each machine's own: there is nothing to be set");
	else
		error_set(&err, ENOENT, "there is no switch \"%.100s\"", name);
	http_fail(request, &err);
	return NULL;
}

static void reply(struct vmms *vmms, struct http_request *request, struct vswitch *s, unsigned status)
{
	http_reply(request, status, switch_json(vmms, s));
}

static void list_switches(struct vmms *vmms, struct http_request *request)
{
	const char *after = api_text(request, "after");
	size_t limit = (size_t)api_number(request, "limit");
	json_t *page = json_array(), *next = NULL;
	struct vswitch *s;

	for (size_t i = 0; (s = switches_at(vmms, i)); i++) {
		if (after && strcmp(s->name, after) <= 0)
			continue;
		if (json_array_size(page) == limit) {
			next = json_incref(json_object_get(json_array_get(page, limit - 1), "name"));
			break;
		}
		json_array_append_new(page, switch_json(vmms, s));
	}
	api_reply_list(request, "switches", page, next);
}

static void add_switch(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	struct vswitch *s;

	if (switch_create(vmms, api_body(request), &s, &err))
		http_fail(request, &err);
	else
		reply(vmms, request, s, 201);
}

static void get_switch(struct vmms *vmms, struct http_request *request)
{
	struct vswitch *s = find(vmms, request);

	if (s)
		reply(vmms, request, s, 200);
}

static void change_switch(struct vmms *vmms, struct http_request *request)
{
	struct vswitch *s = find(vmms, request);
	struct error err = {0};

	if (!s)
		return;
	if (switch_change(vmms, s, api_body(request), &err))
		http_fail(request, &err);
	else
		reply(vmms, request, s, 200);
}

static void delete_switch(struct vmms *vmms, struct http_request *request)
{
	struct vswitch *s = find(vmms, request);
	struct error err = {0};

	if (!s)
		return;
	if (switch_delete(vmms, s, &err))
		http_fail(request, &err);
	else
		http_reply(request, 204, NULL);
}

static const struct form_field list_query[] = {LIMIT_FIELD, {"after", &form_cursor, NULL, false}, {0}};

const struct route switch_routes[] = {
    {"GET", "/v1/switches", "listSwitches", "Virtual switches, by name", ROLE_VIEWER, NULL, list_query, 200, 0, list_switches},
    {"POST", "/v1/switches", "addSwitch", "Make one", ROLE_ADMINISTRATOR, &switch_form, NULL, 201, 0, add_switch},
    {"GET", "/v1/switches/{switch}", "getSwitch", "One switch, and what is on it", ROLE_VIEWER, NULL, NULL, 200, 0, get_switch},
    {"PATCH", "/v1/switches/{switch}", "changeSwitch", "Change its settings, or its team", ROLE_ADMINISTRATOR, &switch_change_form, NULL, 200, 0,
     change_switch},
    {"DELETE", "/v1/switches/{switch}", "deleteSwitch", "Delete it: the host's adapters are as they were", ROLE_ADMINISTRATOR, NULL, NULL, 204, 0,
     delete_switch},
    {0},
};
