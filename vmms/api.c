/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api.c - finds the route of a request, looks at who asks and at what, and has it handled. */
#include "vmms/api.h"
#include "vmms/checkpoint.h"

#include <errno.h>
#include <string.h>

#define YIELD_SECONDS 60

const struct route *const api_routes[] = {host_routes, vm_routes, adapter_routes, life_routes, checkpoint_routes, token_routes, stream_routes, metrics_routes,
    switch_routes, inspect_routes, guest_routes, NULL};

const struct form form_limit = {.kind = FORM_INTEGER, .text = "at most so many", .min = 1, .max = 1000};
const struct form form_number = {.kind = FORM_INTEGER, .min = 0, .max = INT64_MAX};
const struct form form_wait = {
    .kind = FORM_INTEGER, .text = "seconds to wait for the job's end", .min = 0, .max = 300};
const struct form form_cursor = {.kind = FORM_STRING, .min = 0, .max = 255};
const struct form form_next_name = {.kind = FORM_STRING, .text = "goes on behind this; null: that is all", .max = INT64_MAX, .or_null = true};
const struct form form_next_number = {.kind = FORM_INTEGER, .text = "goes on behind this; null: that is all", .max = INT64_MAX, .or_null = true};
const struct form_field wait_query[] = {WAIT_FIELD, {0}};

/* --- what handlers have in common ----------------------------------------------------------------------- */

const json_t *api_body(struct http_request *request)
{
	return http_state(request)->json;
}

int64_t api_number(struct http_request *request, const char *name)
{
	return json_integer_value(json_object_get(http_state(request)->query, name));
}

const char *api_text(struct http_request *request, const char *name)
{
	return json_string_value(json_object_get(http_state(request)->query, name));
}

const char *api_part(struct http_request *request)
{
	return http_state(request)->part[0];
}

/* If-Match, where it is given. False: the configuration is another by now, and that has been answered. */
static bool still_matches(struct machine *machine, struct http_request *request)
{
	const char *wanted = http_header(request, "If-Match");
	struct error err;
	char etag[24];

	/* It may have been changed by hand, too. */
	if (wanted)
		machine_refresh(machine);
	machine_etag(machine, etag);
	if (!wanted || !strcmp(wanted, "*") || !strcmp(wanted, etag))
		return true;
	error_set(&err, ESTALE, "machine \"%s\" was changed meanwhile: look at it again", machine->name);
	http_fail(request, &err);
	return false;
}

struct machine *api_machine(struct vmms *vmms, struct http_request *request)
{
	const char *name = api_part(request);
	struct machine *machine = vmms_find(vmms, name);
	const struct route *route = http_state(request)->route;
	struct error err;

	if (!machine) {
		error_set(&err, ENOENT, "there is no machine \"%.100s\": bulkhead vm list shows what there is", name);
		http_fail(request, &err);
		return NULL;
	}
	return !(route->extra & ROUTE_IF_MATCH) || still_matches(machine, request) ? machine : NULL;
}

void api_reply_machine(const struct machine *machine, struct http_request *request, unsigned status)
{
	char etag[24];

	machine_etag(machine, etag);
	http_add_header(request, "ETag", etag);
	http_reply(request, status, machine_json(machine));
}

void api_reply_list(struct http_request *request, const char *name, json_t *list, json_t *next)
{
	http_reply(request, 200, json_pack("{s:o, s:o}", name, list, "next", next ? next : json_null()));
}

void api_reply_job(struct http_request *request, struct job *job, int r, const struct error *err)
{
	if (r) {
		http_fail(request, err);
		return;
	}
	api_note_job(request, job);
	job_wait(job, request, (unsigned)api_number(request, "wait"), 202);
}

void api_run(struct vmms *vmms, struct http_request *request,
    int (*run)(struct machine *machine, struct job **job, struct error *err))
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};
	struct job *job = NULL;
	int r;

	if (!machine)
		return;
	r = run(machine, &job, &err);
	api_reply_job(request, job, r, &err);
}

void api_run_body(struct vmms *vmms, struct http_request *request,
    int (*run)(struct machine *machine, const json_t *body, struct job **job, struct error *err))
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};
	struct job *job = NULL;
	int r;

	if (!machine)
		return;
	r = run(machine, api_body(request), &job, &err);
	api_reply_job(request, job, r, &err);
}

void api_run_part(struct vmms *vmms, struct http_request *request,
    int (*run)(struct machine *machine, const char *which, struct job **job, struct error *err))
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};
	struct job *job = NULL;
	int r;

	if (!machine)
		return;
	r = run(machine, http_state(request)->part[1], &job, &err);
	api_reply_job(request, job, r, &err);
}

void api_run_part_body(struct vmms *vmms, struct http_request *request,
    int (*run)(struct machine *machine, const char *which, const json_t *body, struct job **job, struct error *err))
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};
	struct job *job = NULL;
	int r;

	if (!machine)
		return;
	r = run(machine, http_state(request)->part[1], api_body(request), &job, &err);
	api_reply_job(request, job, r, &err);
}

/* --- the route -------------------------------------------------------------------------------------------- */

/* Whether a path is of a route; what stands for {…} is noted. */
static bool path_matches(const struct route *route, struct http_request *request)
{
	struct http_route_state *state = http_state(request);
	const char *pattern = route->path, *path = http_path(request);
	size_t parts = 0, used = 0;

	while (*pattern && *path) {
		size_t length;

		if (*pattern != '{') {
			if (*pattern++ != *path++)
				return false;
			continue;
		}
		length = strcspn(path, "/");
		if (!length || used + length + 1 > sizeof(state->path) || parts == ARRAY_SIZE(state->part))
			return false;
		memcpy(state->path + used, path, length);
		state->path[used + length] = '\0';
		state->part[parts++] = state->path + used;
		used += length + 1;
		path += length;
		pattern += strcspn(pattern, "}") + 1;
	}
	return !*pattern && !*path;
}

/* What stands where GET does may be asked for by HEAD, too: libmicrohttpd leaves the body out. */
static bool method_fits(const struct route *route, const char *method)
{
	return !strcmp(route->method, method) || (!strcmp(method, "HEAD") && !strcmp(route->method, "GET"));
}

/* NULL: there is none, `err` says why. */
static const struct route *find_route(struct http_request *request, struct error *err)
{
	bool known = false;

	for (const struct route *const *table = api_routes; *table; table++) {
		for (const struct route *route = *table; route->path; route++) {
			/* "/v1/vms/register" is no machine. */
			if (!path_matches(route, request))
				continue;
			known = true;
			if (method_fits(route, http_method(request)))
				return route;
		}
	}
	if (known)
		error_set(err, EPROTOTYPE, "%.20s is not for %.200s: see /v1/openapi.json", http_method(request),
			  http_path(request));
	else
		error_set(err, ENOENT, "there is nothing at %.200s: see /v1/openapi.json", http_path(request));
	return NULL;
}

/* --- the query -------------------------------------------------------------------------------------------- */

struct query_reader {
	const struct route *route;
	json_t *query;
	struct error *err;
	int result;
};

static json_t *query_value(const struct form *form, const char *text)
{
	json_int_t number;
	char *end;

	if (form->kind == FORM_BOOLEAN && (!strcmp(text, "true") || !strcmp(text, "false")))
		return json_boolean(*text == 't');
	if (form->kind == FORM_INTEGER) {
		errno = 0;
		number = strtoll(text, &end, 10);
		if ((*text == '-' || (*text >= '0' && *text <= '9')) && end != text && !*end && !errno)
			return json_integer(number);
	}
	/* Whatever else it is, the form has the last word. */
	return json_string(text);
}

static void take_parameter(void *context, const char *name, const char *text)
{
	struct query_reader *reader = context;
	const struct form_field *field = reader->route->query;
	json_t *value;

	if (reader->result)
		return;
	while (field && field->name && strcmp(field->name, name))
		field++;
	if (!field || !field->name) {
		reader->result = error_set(reader->err, EINVAL, "?%.60s is no parameter of %s %s", name, reader->route->method,
					   reader->route->path);
		return;
	}
	value = query_value(field->form, text ? text : "");
	if (!value)
		reader->result = error_set(reader->err, EINVAL, "?%s is no UTF-8", name);
	else
		json_object_set_new(reader->query, name, value);
}

static int read_query(const struct route *route, struct http_request *request, struct error *err)
{
	static const struct form_field none[] = {{0}};
	const struct form form = {.kind = FORM_OBJECT, .fields = route->query ? route->query : none};
	struct query_reader reader = {.route = route, .query = json_object(), .err = err};

	http_state(request)->query = reader.query;
	http_each_query(request, take_parameter, &reader);
	return reader.result ? reader.result : form_check(&form, reader.query, err);
}

/* --- the request ------------------------------------------------------------------------------------------ */

static int read_body(const struct route *route, struct http_request *request, struct error *err)
{
	json_error_t why;
	const char *text;
	size_t size;

	text = http_body(request, &size);
	if (!route->body)
		return size ? error_set(err, EINVAL, "%s %s takes no body", route->method, route->path) : 0;
	http_state(request)->json = json_loadb(text ? text : "", size, JSON_REJECT_DUPLICATES, &why);
	if (!http_state(request)->json)
		return error_set(err, EINVAL, "the request's body is no JSON (line %d, column %d: %s)", why.line, why.column,
				 why.text);
	return form_check(route->body, http_state(request)->json, err);
}

static int check_role(const struct route *route, struct http_request *request, struct error *err)
{
	const struct http_route_state *state = http_state(request);

	if (state->principal.role >= route->role)
		return 0;
	return error_set(err, EACCES, "%s %s is for the role %s; %s has the role %s", route->method, route->path,
			 role_word(route->role), state->principal.who, role_word(state->principal.role));
}

bool api_admit(void *context, struct http_request *request)
{
	const struct route *route = NULL;
	struct error err = {0};
	int r = access_of(((struct vmms *)context)->access, request, &http_state(request)->principal, &err);

	if (!r) {
		route = find_route(request, &err);
		r = route ? check_role(route, request, &err) : -err.code;
	}
	/* Looked at before anything is done, not only when it is time to wait. */
	if (!r)
		r = read_query(route, request, &err);
	http_state(request)->route = route;
	if (r)
		http_fail(request, &err);
	return !r;
}

static void run_after(struct job *job, struct http_request *request)
{
	const struct route *route = http_state(request)->route;
	struct error err;

	if (!job->vmms->closing) {
		route->run(job->vmms, request);
		return;
	}
	error_set(&err, ESHUTDOWN, "the daemon ends: ask again when it is back");
	http_fail(request, &err);
}

/* What yields is asked to, and waited for. */
static bool has_to_wait(struct vmms *vmms, const struct route *route, struct http_request *request)
{
	struct machine *machine = !strncmp(route->path, "/v1/vms/{vm}", 12) && strcmp(route->method, "GET") ? vmms_find(vmms, api_part(request)) : NULL;

	/* What its worker is at ends with it. */
	if (machine && machine->job && route->extra & ROUTE_AT_ONCE && !machine->job->working)
		return false;
	if (!machine || !checkpoint_make_way(machine))
		return false;
	job_wait_for(machine->job, request, YIELD_SECONDS, run_after);
	return true;
}

void api_handle(void *context, struct http_request *request)
{
	const struct route *route = http_state(request)->route;
	struct error err = {0};

	if (read_body(route, request, &err))
		http_fail(request, &err);
	else if (api_is_first(context, route, request) && !has_to_wait(context, route, request))
		route->run(context, request);
}
