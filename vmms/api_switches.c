/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_switches.c - the REST interface's routes of virtual switches. */
#include <errno.h>
#include <string.h>

#include "vmms/api.h"
#include "vmms/config.h"
#include "vmms/errand.h"
#include "vmms/switches.h"

/* A request that waits for Open vSwitch. */
struct asked {
	struct vmms *vmms;
	struct http_request *request;
	int (*verb)(struct asked *asked, struct error *err);
	unsigned status;
	struct error err;
	json_t *answer, *next;
	char etag[24]; /* of the one switch that is the answer; "": there is none */
};

/* NULL: there is none. */
static struct vswitch *find(struct asked *asked, struct error *err)
{
	const char *name = api_part(asked->request);
	struct vswitch *s = switches_find(asked->vmms, name);

	if (s)
		return s;
	if (!strcmp(name, "nat"))
		error_set(err, ENOENT, "\"nat\", the default switch, is each machine's own: there is nothing to be set");
	else
		error_set(err, ENOENT, "there is no switch \"%.100s\"", name);
	return NULL;
}

static void run(void *context)
{
	struct asked *asked = context;

	asked->verb(asked, &asked->err);
}

static void done(void *context)
{
	struct asked *asked = context;

	if (*asked->etag)
		http_add_header(asked->request, "ETag", asked->etag);
	if (asked->err.code)
		http_fail(asked->request, &asked->err);
	else if (json_is_array(asked->answer))
		api_reply_list(asked->request, "switches", asked->answer, asked->next);
	else
		http_reply(asked->request, asked->status, asked->answer);
	free(asked);
}

static void ask(struct vmms *vmms, struct http_request *request, unsigned status, int (*verb)(struct asked *asked, struct error *err))
{
	struct asked *asked = calloc(1, sizeof(*asked));
	struct error err;

	if (asked) {
		*asked = (struct asked){.vmms = vmms, .request = request, .verb = verb, .status = status};
		if (!errand_start(vmms, run, done, asked, &err))
			return;
	}
	free(asked);
	error_set(&err, ENOMEM, "no memory");
	http_fail(request, &err);
}

/* --- verbs: errands ------------------------------------------------------------------------------------------- */

/* The ETag is that of what is answered, and not of what the switch is by the time at which that is made: making it lets the loop go on. */
static void answer_with(struct asked *asked, struct vswitch *s)
{
	const char *etag;

	asked->answer = switch_json(asked->vmms, s);
	etag = json_string_value(json_object_get(asked->answer, "etag"));
	snprintf(asked->etag, sizeof(asked->etag), "%s", etag ? etag : "");
}

static int list_verb(struct asked *asked, struct error *err)
{
	const char *after = api_text(asked->request, "after");
	size_t limit = (size_t)api_number(asked->request, "limit");
	json_t *page = json_array(), *json;
	struct vswitch *s;

	(void)err;
	for (size_t i = 0; (s = switches_at(asked->vmms, i)); i++) {
		if (after && strcmp(s->name, after) <= 0)
			continue;
		if (json_array_size(page) == limit) {
			asked->next = json_incref(json_object_get(json_array_get(page, limit - 1), "name"));
			break;
		}
		json = switch_json(asked->vmms, s);
		json_array_append_new(page, json);
	}
	asked->answer = page;
	return 0;
}

static int create_verb(struct asked *asked, struct error *err)
{
	struct vswitch *s;
	int r = switch_create(asked->vmms, api_body(asked->request), &s, err);

	if (!r)
		answer_with(asked, s);
	return r;
}

static int get_verb(struct asked *asked, struct error *err)
{
	struct vswitch *s = find(asked, err);

	if (!s)
		return -ENOENT;
	answer_with(asked, s);
	return 0;
}

/* If-Match, where it is given. */
static struct vswitch *find_same(struct asked *asked, struct error *err)
{
	const char *wanted = http_header(asked->request, "If-Match");
	struct vswitch *s = find(asked, err);
	char etag[24];

	if (!s || !wanted || !strcmp(wanted, "*"))
		return s;
	config_etag(s->config, etag);
	if (!strcmp(wanted, etag))
		return s;
	error_set(err, ESTALE, "switch \"%s\" was changed meanwhile: look at it again", s->name);
	return NULL;
}

static int change_verb(struct asked *asked, struct error *err)
{
	struct vswitch *s = find_same(asked, err);
	int r = s ? switch_change(asked->vmms, s, api_body(asked->request), err) : -ENOENT;

	if (!r)
		answer_with(asked, s);
	return r;
}

static int delete_verb(struct asked *asked, struct error *err)
{
	struct vswitch *s = find_same(asked, err);

	return s ? switch_delete(asked->vmms, s, err) : -ENOENT;
}

/* --- routes --------------------------------------------------------------------------------------------------- */

static void list_switches(struct vmms *vmms, struct http_request *request)
{
	ask(vmms, request, 200, list_verb);
}

static void add_switch(struct vmms *vmms, struct http_request *request)
{
	ask(vmms, request, 201, create_verb);
}

static void get_switch(struct vmms *vmms, struct http_request *request)
{
	ask(vmms, request, 200, get_verb);
}

static void change_switch(struct vmms *vmms, struct http_request *request)
{
	ask(vmms, request, 200, change_verb);
}

static void delete_switch(struct vmms *vmms, struct http_request *request)
{
	ask(vmms, request, 204, delete_verb);
}

static const struct form form_list = {.kind = FORM_LIST, .max = 1000, .items = &switch_shown_form};
static const struct form list_answer = {.kind = FORM_OBJECT,
					.fields = (const struct form_field[]){{"switches", &form_list, NULL, true}, NEXT_NAME_FIELD, {0}}};
static const struct form_field list_query[] = {LIMIT_FIELD, {"after", &form_cursor, NULL, false}, {0}};

const struct route switch_routes[] = {
    {"GET", "/v1/switches", "listSwitches", "Virtual switches, by name", ROLE_VIEWER, NULL, list_query, 200, 0, list_switches, &list_answer},
    {"POST", "/v1/switches", "addSwitch", "Make one", ROLE_ADMINISTRATOR, &switch_form, NULL, 201, 0, add_switch, &switch_shown_form},
    {"GET", "/v1/switches/{switch}", "getSwitch", "One switch, and what is on it", ROLE_VIEWER, NULL, NULL, 200, 0, get_switch, &switch_shown_form},
    {"PATCH", "/v1/switches/{switch}", "changeSwitch", "Change its settings, or its team", ROLE_ADMINISTRATOR, &switch_change_form, NULL, 200, ROUTE_IF_MATCH,
     change_switch, &switch_shown_form},
    {"DELETE", "/v1/switches/{switch}", "deleteSwitch", "Delete it: the host's adapters are as they were", ROLE_ADMINISTRATOR, NULL, NULL, 204, ROUTE_IF_MATCH,
     delete_switch, NULL},
    {0},
};
