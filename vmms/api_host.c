/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_host.c - the REST interface's routes of the host: itself, images, jobs, events. */
#include <errno.h>
#include <string.h>

#include "vmms/api.h"
#include "vmms/host_config.h"
#include "vmms/images.h"
#include "vmms/version.h"

static const struct form form_you = {.kind = FORM_OBJECT,
				     .text = "who asks",
				     .fields = (const struct form_field[]){{"name", &answer_text, NULL, true}, {"role", &form_role, NULL, true}, {0}}};
static const struct form form_https = {.kind = FORM_OBJECT,
				       .text = "where it is listened for, and the fingerprint of the key, as curl --pinnedpubkey has it",
				       .fields = (const struct form_field[]){
					   {"listen", &answer_text, NULL, true},
					   {"fingerprint", &answer_text, NULL, true},
					   {0},
				       }};
static const struct form host_answer = {.kind = FORM_OBJECT,
					.name = "Host",
					.fields = (const struct form_field[]){
					    {"version", &answer_text, NULL, true},
					    {"state", &answer_text, NULL, true},
					    {"runtime", &answer_text, NULL, true},
					    {"machines", &answer_count, NULL, true},
					    {"running", &answer_count, NULL, true},
					    {"memory", &answer_count, NULL, true},
					    {"processors", &answer_count, NULL, true},
					    {"you", &form_you, NULL, true},
					    {"https", &form_https, NULL, false},
					    {0},
					}};

static void get_host(struct vmms *vmms, struct http_request *request)
{
	size_t running = 0;
	json_t *host;

	for (size_t i = 0; i < vmms->machine_count; i++)
		running += vmms->machines[i]->link != NULL;
	host = json_pack("{s:s, s:s, s:s, s:i, s:i, s:I, s:i, s:{s:s, s:s}}", "version", BULKHEAD_VERSION, "state",
			 vmms->options->state, "runtime", vmms->options->runtime, "machines", (int)vmms->machine_count,
			 "running", (int)running, "memory", (json_int_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE),
			 "processors", (int)sysconf(_SC_NPROCESSORS_ONLN), "you", "name", http_state(request)->principal.who, "role",
			 role_word(http_state(request)->principal.role));
	if (*vmms->https)
		json_object_set_new(host, "https", json_pack("{s:s, s:s}", "listen", vmms->https, "fingerprint",
							     vmms->tls.fingerprint));
	http_reply(request, 200, host);
}

/* Documents of other standards. */
static const struct form form_anything = {.kind = FORM_ANY};
static const struct form document_answer = {.kind = FORM_OBJECT, .text = "of OpenAPI 3.1", .rest = &form_anything};
static const struct form schema_answer = {.kind = FORM_OBJECT, .text = "JSON Schema 2020-12", .rest = &form_anything};

static const char *const restart_words[] = {"https", "open_vswitch", NULL};
static const struct form form_restart_key = {.kind = FORM_WORD, .words = restart_words};
static const struct form form_restart = {.kind = FORM_LIST, .text = "keys that are others by now, for which the daemon has to be restarted", .max = 2, .items = &form_restart_key};
static const struct form reload_answer = {.kind = FORM_OBJECT, .fields = (const struct form_field[]){{"restart", &form_restart, NULL, true}, {0}}};

static void reload_host(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	json_t *restart;

	if (vmms_reload(vmms, &restart, &err))
		http_fail(request, &err);
	else
		http_reply(request, 200, json_pack("{s:o}", "restart", restart));
}

static void get_document(struct vmms *vmms, struct http_request *request)
{
	(void)vmms;
	http_reply(request, 200, api_document());
}

static void reply_schema(struct http_request *request, const struct form *form)
{
	http_reply(request, 200, form_document(form));
}

static void get_schema(struct vmms *vmms, struct http_request *request)
{
	(void)vmms;
	reply_schema(request, &vm_config_form);
}

static void get_host_schema(struct vmms *vmms, struct http_request *request)
{
	(void)vmms;
	reply_schema(request, &host_config_form);
}

/* --- images ----------------------------------------------------------------------------------------------- */

static void list_images(struct vmms *vmms, struct http_request *request)
{
	const char *after = api_text(request, "after");
	size_t limit = (size_t)api_number(request, "limit");
	json_t *list, *page = json_array(), *next = NULL, *image;
	struct error err = {0};
	size_t i;

	if (images_list(vmms, &list, &err)) {
		json_decref(page);
		http_fail(request, &err);
		return;
	}
	json_array_foreach(list, i, image) {
		const char *name = json_string_value(json_object_get(image, "name"));

		if (after && strcmp(name, after) <= 0)
			continue;
		if (limit && json_array_size(page) == limit) {
			next = json_incref(json_object_get(json_array_get(page, limit - 1), "name"));
			break;
		}
		json_array_append(page, image);
	}
	json_decref(list);
	api_reply_list(request, "images", page, next);
}

static void add_image(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	struct job *job = NULL;
	int r = image_add(vmms, api_body(request), &job, &err);

	api_reply_job(request, job, r, &err);
}

static void delete_image(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};

	if (image_delete(vmms, api_part(request), &err))
		http_fail(request, &err);
	else
		http_reply(request, 204, NULL);
}

/* --- jobs and events -------------------------------------------------------------------------------------- */

static void list_jobs(struct vmms *vmms, struct http_request *request)
{
	size_t limit = (size_t)api_number(request, "limit");
	struct error err = {0};
	json_t *list, *next = NULL;

	if (store_job_list(vmms->store, 0, api_number(request, "before"), (unsigned)limit, &list, &err)) {
		http_fail(request, &err);
		return;
	}
	if (limit && json_array_size(list) == limit)
		next = json_incref(json_object_get(json_array_get(list, limit - 1), "id"));
	api_reply_list(request, "jobs", list, next);
}

static bool job_number(struct http_request *request, int64_t *id)
{
	const char *text = api_part(request);
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
	json_t *json;
	int64_t id;

	if (!job_number(request, &id))
		return;
	job = job_find(vmms, id);
	if (job) {
		job_wait(job, request, (unsigned)api_number(request, "wait"), 200);
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
	} else if (!job->work && !job->cancel) {
		error_set(&err, EALREADY, "job %lld (%s) cannot be cancelled", (long long)id, job->kind);
		http_fail(request, &err);
	} else if (job->cancel && job->cancel(job, &err)) {
		http_fail(request, &err);
	} else {
		job->stop = true;
		job_wait(job, request, 0, 202);
	}
}

static void list_events(struct vmms *vmms, struct http_request *request)
{
	const char *vm = api_text(request, "vm");
	const struct machine *machine = vm ? vmms_find(vmms, vm) : NULL;
	int64_t after = api_number(request, "after");
	unsigned limit = (unsigned)api_number(request, "limit");
	json_t *list = NULL, *next = NULL;
	struct error err = {0};
	int r;

	if (machine)
		vm = machine->id;
	r = after >= 0 ? store_event_list(vmms->store, after, vm, limit, &list, &err)
		       : store_event_tail(vmms->store, vm, limit, &list, &err);
	if (r) {
		http_fail(request, &err);
		return;
	}
	if (json_array_size(list))
		next = json_incref(json_object_get(json_array_get(list, json_array_size(list) - 1), "id"));
	api_reply_list(request, "events", list, next);
}

/* --- the table -------------------------------------------------------------------------------------------- */

static const struct form form_images = {.kind = FORM_LIST, .max = 1000, .items = &image_form};
static const struct form images_answer = {.kind = FORM_OBJECT,
					  .fields = (const struct form_field[]){{"images", &form_images, NULL, true}, NEXT_NAME_FIELD, {0}}};
static const struct form form_jobs = {.kind = FORM_LIST, .max = 1000, .items = &job_form};
static const struct form jobs_answer = {.kind = FORM_OBJECT,
					.fields = (const struct form_field[]){{"jobs", &form_jobs, NULL, true}, NEXT_NUMBER_FIELD, {0}}};
static const struct form form_events = {.kind = FORM_LIST, .max = 1000, .items = &store_event_form};
static const struct form events_answer = {.kind = FORM_OBJECT,
					  .fields = (const struct form_field[]){{"events", &form_events, NULL, true}, NEXT_NUMBER_FIELD, {0}}};

static const struct form form_after_event = {.kind = FORM_INTEGER, .text = "an event's id; -1: the newest", .min = -1,
					     .max = INT64_MAX};
static const struct form_field images_query[] = {LIMIT_FIELD, {"after", &form_cursor, NULL, false}, {0}};
static const struct form_field jobs_query[] = {LIMIT_FIELD, {"before", &form_number, "0", false}, {0}};
static const struct form_field events_query[] = {
    LIMIT_FIELD, {"after", &form_after_event, "-1", false}, {"vm", &form_cursor, NULL, false}, {0}};

const struct route host_routes[] = {
    {"GET", "/v1/host", "getHost", "This host", ROLE_VIEWER, NULL, NULL, 200, 0, get_host, &host_answer},
    {"POST", "/v1/host/reload", "reloadHost", "Read host.json anew: roles are what it says from here on", ROLE_ADMINISTRATOR, NULL, NULL, 200, 0,
     reload_host, &reload_answer},
    {"GET", "/v1/openapi.json", "getDocument", "This document", ROLE_VIEWER, NULL, NULL, 200, 0, get_document, &document_answer},
    {"GET", "/v1/schema/vm.json", "getSchema", "The JSON schema of vm.json", ROLE_VIEWER, NULL, NULL, 200, 0, get_schema, &schema_answer},
    {"GET", "/v1/schema/host.json", "getHostSchema", "The JSON schema of host.json", ROLE_VIEWER, NULL, NULL, 200, 0,
     get_host_schema, &schema_answer},
    {"GET", "/v1/images", "listImages", "The library's images", ROLE_VIEWER, NULL, images_query, 200, 0, list_images, &images_answer},
    {"POST", "/v1/images", "addImage", "Build one, or copy one from a directory", ROLE_ADMINISTRATOR, &image_add_form,
     wait_query, 202, 0, add_image, &job_form},
    {"DELETE", "/v1/images/{image}", "deleteImage", "Delete one; machines have copies of their own", ROLE_ADMINISTRATOR,
     NULL, NULL, 204, 0, delete_image, NULL},
    {"GET", "/v1/jobs", "listJobs", "Jobs, newest first", ROLE_VIEWER, NULL, jobs_query, 200, 0, list_jobs, &jobs_answer},
    {"GET", "/v1/jobs/{job}", "getJob", "One job", ROLE_VIEWER, NULL, wait_query, 200, 0, get_job, &job_form},
    {"DELETE", "/v1/jobs/{job}", "cancelJob", "Cancel it", ROLE_OPERATOR, NULL, NULL, 202, 0, cancel_job, &job_form},
    {"GET", "/v1/events", "listEvents", "The newest events, or those behind an id; of one machine, or of all", ROLE_VIEWER,
     NULL, events_query, 200, 0, list_events, &events_answer},
    {0},
};
