/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * api.c - the REST interface: one table of what may be asked, from which the OpenAPI document comes too.
 */
#include <errno.h>
#include <string.h>

#include "vmms/daemon.h"
#include "vmms/images.h"
#include "vmms/version.h"

#define LIMIT_DEFAULT 100u
#define LIMIT_MAX     1000u
#define WAIT_MAX      300u

enum route_extra { HAS_WAIT = 1, HAS_PAGES = 2, HAS_IF_MATCH = 4 };

struct route {
	const char *method, *path, *name, *text;
	const struct form *body;
	unsigned status; /* when it goes well */
	unsigned extra;
	void (*run)(struct vmms *vmms, struct http_request *request);
};

/* --- what handlers have in common ----------------------------------------------------------------------- */

static bool query_number(struct http_request *request, const char *name, uint64_t preset, uint64_t max, uint64_t *value)
{
	const char *text = http_query(request, name);
	struct error err;
	char *end;

	*value = preset;
	if (!text)
		return true;
	errno = 0;
	*value = strtoull(text, &end, 10);
	if (*text >= '0' && *text <= '9' && !*end && !errno && *value <= max)
		return true;
	error_set(&err, EINVAL, "?%s=%.40s: it may be 0 to %llu", name, text, (unsigned long long)max);
	http_fail(request, &err);
	return false;
}

static struct machine *machine_of(struct vmms *vmms, struct http_request *request)
{
	const char *name = http_state(request)->part[0];
	struct machine *machine = vmms_find(vmms, name);
	struct error err;

	if (!machine) {
		error_set(&err, ENOENT, "there is no machine \"%.100s\": bulkhead vm list shows what there is", name);
		http_fail(request, &err);
	}
	return machine;
}

/* If-Match, where it is given: false when the configuration is another by now. */
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

static void reply_machine(const struct machine *machine, struct http_request *request, unsigned status)
{
	char etag[24];

	machine_etag(machine, etag);
	http_add_header(request, "ETag", etag);
	http_reply(request, status, machine_json(machine));
}

static void reply_list(struct http_request *request, const char *name, json_t *list, json_t *next)
{
	http_reply(request, 200, json_pack("{s:o, s:o}", name, list, "next", next ? next : json_null()));
}

/* --- the host ------------------------------------------------------------------------------------------- */

static void get_host(struct vmms *vmms, struct http_request *request)
{
	size_t running = 0;

	for (size_t i = 0; i < vmms->machine_count; i++)
		running += vmms->machines[i]->link != NULL;
	http_reply(request, 200,
		   json_pack("{s:s, s:s, s:s, s:i, s:i, s:I, s:i}", "version", BULKHEAD_VERSION, "state",
			     vmms->options->state, "runtime", vmms->options->runtime, "machines", (int)vmms->machine_count,
			     "running", (int)running, "memory",
			     (json_int_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE), "processors",
			     (int)sysconf(_SC_NPROCESSORS_ONLN)));
}

static void get_document(struct vmms *vmms, struct http_request *request)
{
	(void)vmms;
	http_reply(request, 200, api_document());
}

static void get_schema(struct vmms *vmms, struct http_request *request)
{
	json_t *schema = form_schema(&vm_config_form);

	(void)vmms;
	json_object_set_new(schema, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
	http_reply(request, 200, schema);
}

/* --- machines ------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct machine *const *)a)->name, (*(struct machine *const *)b)->name);
}

static void list_vms(struct vmms *vmms, struct http_request *request)
{
	const char *after = http_query(request, "after");
	json_t *list = json_array(), *next = NULL;
	uint64_t limit;

	if (!query_number(request, "limit", LIMIT_DEFAULT, LIMIT_MAX, &limit)) {
		json_decref(list);
		return;
	}
	if (vmms->machine_count)
		qsort(vmms->machines, vmms->machine_count, sizeof(struct machine *), by_name);
	for (size_t i = 0; i < vmms->machine_count; i++) {
		const struct machine *machine = vmms->machines[i];

		if (after && strcmp(machine->name, after) <= 0)
			continue;
		if (json_array_size(list) == limit) {
			const json_t *last = json_array_get(list, json_array_size(list) - 1);

			next = json_incref(json_object_get(last, "name"));
			break;
		}
		json_array_append_new(list, machine_json(machine));
	}
	reply_list(request, "vms", list, next);
}

static void reply_job(struct http_request *request, struct job *job, int r, const struct error *err)
{
	uint64_t wait;

	if (r)
		http_fail(request, err);
	else if (query_number(request, "wait", 0, WAIT_MAX, &wait))
		job_wait(job, request, (unsigned)wait, 202);
}

static void create_vm(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	struct job *job = NULL;
	int r = machine_create(vmms, http_state(request)->json, &job, &err);

	reply_job(request, job, r, &err);
}

static void register_vm(struct vmms *vmms, struct http_request *request)
{
	const char *directory = json_string_value(json_object_get(http_state(request)->json, "directory"));
	struct machine *machine;
	struct error err = {0};

	if (machine_register(vmms, directory, &machine, &err))
		http_fail(request, &err);
	else
		reply_machine(machine, request, 201);
}

static void get_vm(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = machine_of(vmms, request);

	if (!machine)
		return;
	machine_refresh(machine);
	reply_machine(machine, request, 200);
}

static void change_vm(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = machine_of(vmms, request);
	struct error err = {0};

	if (!machine || !still_matches(machine, request))
		return;
	if (machine_change(machine, http_state(request)->json, &err))
		http_fail(request, &err);
	else
		reply_machine(machine, request, 200);
}

static void delete_vm(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = machine_of(vmms, request);
	const char *files = http_query(request, "files");
	struct error err = {0};
	struct job *job = NULL;
	int r;

	if (!machine || !still_matches(machine, request))
		return;
	r = machine_delete(machine, files && !strcmp(files, "keep"), &job, &err);
	reply_job(request, job, r, &err);
}

static void get_files(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = machine_of(vmms, request);

	if (machine)
		http_reply(request, 200,
			   json_pack("{s:s, s:o, s:b}", "directory", machine->directory, "files", machine_files(machine),
				     "own_directory", machine->own_directory));
}

static void verb(struct vmms *vmms, struct http_request *request,
    int (*run)(struct machine *machine, struct job **job, struct error *err))
{
	struct machine *machine = machine_of(vmms, request);
	struct error err = {0};
	struct job *job = NULL;
	int r;

	if (!machine)
		return;
	r = run(machine, &job, &err);
	reply_job(request, job, r, &err);
}

static void start_vm(struct vmms *vmms, struct http_request *request)
{
	verb(vmms, request, machine_start);
}

static void turn_off_vm(struct vmms *vmms, struct http_request *request)
{
	verb(vmms, request, machine_turn_off);
}

static void pause_vm(struct vmms *vmms, struct http_request *request)
{
	verb(vmms, request, machine_pause);
}

static void resume_vm(struct vmms *vmms, struct http_request *request)
{
	verb(vmms, request, machine_resume);
}

static void reset_vm(struct vmms *vmms, struct http_request *request)
{
	verb(vmms, request, machine_reset);
}

static void shut_down_vm(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = machine_of(vmms, request);
	struct error err = {0};
	struct job *job = NULL;
	uint64_t seconds;
	int r;

	if (!machine || !query_number(request, "timeout", 120, 86400, &seconds))
		return;
	r = machine_shut_down(machine, (unsigned)seconds, &job, &err);
	reply_job(request, job, r, &err);
}

static void inspected(void *context, const json_t *answer, const struct error *err)
{
	struct http_request *request = context;
	json_t *copy;

	if (err) {
		http_fail(request, err);
		return;
	}
	copy = json_deep_copy(answer);
	json_object_del(copy, "ok");
	http_reply(request, 200, copy);
}

static void inspect_vm(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = machine_of(vmms, request);
	struct error err;

	if (!machine)
		return;
	if (machine->link) {
		worker_link_command(machine->link, json_pack("{s:s}", "command", "inspect"), inspected, request);
		return;
	}
	error_set(&err, EALREADY, "machine \"%s\" is %s: only one that runs has insides", machine->name,
		  machine_state_word(machine->state));
	http_fail(request, &err);
}

/* --- images ----------------------------------------------------------------------------------------------- */

static void list_images(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	json_t *list;

	if (images_list(vmms, &list, &err))
		http_fail(request, &err);
	else
		reply_list(request, "images", list, NULL);
}

static void add_image(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	struct job *job = NULL;
	int r = image_add(vmms, http_state(request)->json, &job, &err);

	reply_job(request, job, r, &err);
}

static void delete_image(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};

	if (image_delete(vmms, http_state(request)->part[0], &err))
		http_fail(request, &err);
	else
		http_reply(request, 204, NULL);
}

/* --- jobs and events -------------------------------------------------------------------------------------- */

static void list_jobs(struct vmms *vmms, struct http_request *request)
{
	uint64_t limit, before;
	struct error err = {0};
	json_t *list, *next = NULL;

	if (!query_number(request, "limit", LIMIT_DEFAULT, LIMIT_MAX, &limit) ||
	    !query_number(request, "before", 0, INT64_MAX, &before))
		return;
	if (store_job_list(vmms->store, 0, (int64_t)before, (unsigned)limit, &list, &err)) {
		http_fail(request, &err);
		return;
	}
	if (limit && json_array_size(list) == limit)
		next = json_incref(json_object_get(json_array_get(list, limit - 1), "id"));
	reply_list(request, "jobs", list, next);
}

static bool job_number(struct http_request *request, int64_t *id)
{
	const char *text = http_state(request)->part[0];
	struct error err;
	char *end;

	errno = 0;
	*id = strtoll(text, &end, 10);
	if (*text >= '0' && *text <= '9' && !*end && !errno && *id > 0)
		return true;
	error_set(&err, ENOENT, "there is no job \"%.40s\": jobs have numbers", text);
	http_fail(request, &err);
	return false;
}

static void get_job(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	struct job *job;
	uint64_t wait;
	json_t *json;
	int64_t id;

	if (!job_number(request, &id) || !query_number(request, "wait", 0, WAIT_MAX, &wait))
		return;
	job = job_find(vmms, id);
	if (job) {
		job_wait(job, request, (unsigned)wait, 200);
		return;
	}
	json = job_json(vmms, id, &err);
	if (json)
		http_reply(request, 200, json);
	else
		http_fail(request, &err);
}

static void cancel_job(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	struct job *job;
	int64_t id;

	if (!job_number(request, &id))
		return;
	job = job_find(vmms, id);
	if (!job || job->ended) {
		error_set(&err, EALREADY, "job %lld does not run", (long long)id);
		http_fail(request, &err);
	} else if (!job->work) {
		error_set(&err, EALREADY, "job %lld (%s) cannot be cancelled", (long long)id, job->kind);
		http_fail(request, &err);
	} else {
		job->stop = true;
		job_wait(job, request, 0, 202);
	}
}

static void list_events(struct vmms *vmms, struct http_request *request)
{
	const char *vm = http_query(request, "vm"), *after_text = http_query(request, "after");
	const struct machine *machine = vm ? vmms_find(vmms, vm) : NULL;
	json_t *list = NULL, *next = NULL;
	struct error err = {0};
	uint64_t limit, after;
	int r;

	if (!query_number(request, "limit", LIMIT_DEFAULT, LIMIT_MAX, &limit) ||
	    !query_number(request, "after", 0, INT64_MAX, &after))
		return;
	if (machine)
		vm = machine->id;
	r = after_text ? store_event_list(vmms->store, (int64_t)after, vm, (unsigned)limit, &list, &err)
		       : store_event_tail(vmms->store, vm, (unsigned)limit, &list, &err);
	if (r) {
		http_fail(request, &err);
		return;
	}
	if (json_array_size(list))
		next = json_incref(json_object_get(json_array_get(list, json_array_size(list) - 1), "id"));
	reply_list(request, "events", list, next);
}

/* --- the table -------------------------------------------------------------------------------------------- */

static const struct form form_directory = {.kind = FORM_STRING, .text = "where a vm.json is", .min = 1, .max = 4095};
static const struct form register_form = {.kind = FORM_OBJECT,
					  .fields = (const struct form_field[]){{"directory", &form_directory, NULL, true}, {0}}};

static const struct route routes[] = {
    {"GET", "/v1/host", "getHost", "This host", NULL, 200, 0, get_host},
    {"GET", "/v1/openapi.json", "getDocument", "This document", NULL, 200, 0, get_document},
    {"GET", "/v1/schema/vm.json", "getSchema", "The JSON schema of vm.json", NULL, 200, 0, get_schema},
    {"GET", "/v1/vms", "listVms", "Machines, by name", NULL, 200, HAS_PAGES, list_vms},
    {"POST", "/v1/vms", "createVm", "Make a machine", &vm_create_form, 202, HAS_WAIT, create_vm},
    {"POST", "/v1/vms/register", "registerVm", "Take in a machine whose directory is there", &register_form, 201, 0,
     register_vm},
    {"GET", "/v1/vms/{vm}", "getVm", "One machine, by name or id", NULL, 200, 0, get_vm},
    {"PATCH", "/v1/vms/{vm}", "changeVm", "Change its settings", &vm_change_form, 200, HAS_IF_MATCH, change_vm},
    {"DELETE", "/v1/vms/{vm}", "deleteVm", "Delete it; ?files=keep leaves its files", NULL, 202, HAS_WAIT | HAS_IF_MATCH,
     delete_vm},
    {"GET", "/v1/vms/{vm}/files", "getVmFiles", "Its files", NULL, 200, 0, get_files},
    {"GET", "/v1/vms/{vm}/inspect", "inspectVm", "The insides of a running machine", NULL, 200, 0, inspect_vm},
    {"POST", "/v1/vms/{vm}/start", "startVm", "Turn it on", NULL, 202, HAS_WAIT, start_vm},
    {"POST", "/v1/vms/{vm}/shut-down", "shutDownVm", "Ask the guest to shut down; ?timeout=SECONDS (120)", NULL, 202,
     HAS_WAIT, shut_down_vm},
    {"POST", "/v1/vms/{vm}/turn-off", "turnOffVm", "Cut its power", NULL, 202, HAS_WAIT, turn_off_vm},
    {"POST", "/v1/vms/{vm}/reset", "resetVm", "Reset it", NULL, 202, HAS_WAIT, reset_vm},
    {"POST", "/v1/vms/{vm}/pause", "pauseVm", "Hold its processors", NULL, 202, HAS_WAIT, pause_vm},
    {"POST", "/v1/vms/{vm}/resume", "resumeVm", "Let them go on", NULL, 202, HAS_WAIT, resume_vm},
    {"GET", "/v1/images", "listImages", "The library's images", NULL, 200, 0, list_images},
    {"POST", "/v1/images", "addImage", "Build one, or copy one from a directory", &image_add_form, 202, HAS_WAIT, add_image},
    {"DELETE", "/v1/images/{image}", "deleteImage", "Delete one; machines have copies of their own", NULL, 204, 0,
     delete_image},
    {"GET", "/v1/jobs", "listJobs", "Jobs, newest first", NULL, 200, HAS_PAGES, list_jobs},
    {"GET", "/v1/jobs/{job}", "getJob", "One job", NULL, 200, HAS_WAIT, get_job},
    {"DELETE", "/v1/jobs/{job}", "cancelJob", "Cancel it", NULL, 202, 0, cancel_job},
    {"GET", "/v1/events", "listEvents", "The newest events, or those after ?after=ID; of one machine with ?vm=NAME", NULL,
     200, HAS_PAGES, list_events},
};

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

void api_handle(void *context, struct http_request *request)
{
	struct error err = {0};
	bool known = false;
	uint64_t wait;

	for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
		/* "/v1/vms/register" is no machine. */
		if (!path_matches(&routes[i], request))
			continue;
		known = true;
		if (strcmp(routes[i].method, http_method(request)))
			continue;
		/* Looked at before anything is done, not only when it is time to wait. */
		if (routes[i].extra & HAS_WAIT && !query_number(request, "wait", 0, WAIT_MAX, &wait))
			return;
		if (read_body(&routes[i], request, &err))
			http_fail(request, &err);
		else
			routes[i].run(context, request);
		return;
	}
	if (known)
		error_set(&err, EPROTOTYPE, "%.20s is not for %.200s: see /v1/openapi.json", http_method(request),
			  http_path(request));
	else
		error_set(&err, ENOENT, "there is nothing at %.200s: see /v1/openapi.json", http_path(request));
	http_fail(request, &err);
}

/* --- the document ------------------------------------------------------------------------------------------- */

static json_t *parameter(const char *name, const char *where, bool required, const char *type)
{
	return json_pack("{s:s, s:s, s:b, s:{s:s}}", "name", name, "in", where, "required", required, "schema", "type", type);
}

static json_t *parameters(const struct route *route)
{
	json_t *list = json_array();
	const char *open = route->path;

	while ((open = strchr(open, '{'))) {
		char name[32];

		snprintf(name, sizeof(name), "%.*s", (int)strcspn(open + 1, "}"), open + 1);
		json_array_append_new(list, parameter(name, "path", true, "string"));
		open++;
	}
	if (route->extra & HAS_WAIT)
		json_array_append_new(list, parameter("wait", "query", false, "integer"));
	if (route->extra & HAS_PAGES)
		json_array_append_new(list, parameter("limit", "query", false, "integer"));
	if (route->extra & HAS_IF_MATCH)
		json_array_append_new(list, parameter("If-Match", "header", false, "string"));
	return list;
}

static json_t *operation(const struct route *route)
{
	char status[8];
	json_t *operation;

	snprintf(status, sizeof(status), "%u", route->status);
	operation = json_pack("{s:s, s:s, s:o, s:{s:{s:s}, s:{s:s, s:{s:{s:{s:s}}}}}}", "operationId", route->name, "summary",
			      route->text, "parameters", parameters(route), "responses", status, "description", route->text,
			      "default", "description", "It went wrong", "content", "application/json", "schema", "$ref",
			      "#/components/schemas/Error");
	if (route->body)
		json_object_set_new(operation, "requestBody",
				    json_pack("{s:b, s:{s:{s:o}}}", "required", 1, "content", "application/json", "schema",
					      form_schema(route->body)));
	return operation;
}

json_t *api_document(void)
{
	json_t *paths = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
		json_t *path = json_object_get(paths, routes[i].path);
		char method[8];

		if (!path) {
			path = json_object();
			json_object_set_new(paths, routes[i].path, path);
		}
		snprintf(method, sizeof(method), "%s", routes[i].method);
		for (char *c = method; *c; c++)
			*c |= 0x20;
		json_object_set_new(path, method, operation(&routes[i]));
	}
	return json_pack("{s:s, s:{s:s, s:s}, s:o, s:{s:{s:{s:s, s:{s:{s:s, s:{s:{s:s}, s:{s:s}}}}}}}}", "openapi", "3.1.0",
			 "info", "title", "Bulkhead", "version", BULKHEAD_VERSION, "paths", paths, "components", "schemas",
			 "Error", "type", "object", "properties", "error", "type", "object", "properties", "code", "type",
			 "string", "message", "type", "string");
}
