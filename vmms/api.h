/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * api.h - the REST interface: what a route says of itself, and what the handlers of routes have in common.
 * Private to vmms/.
 *
 * The tables of routes are all there is: from them come what is answered, who may ask, what a request may say, and
 * the OpenAPI document. A handler runs on the loop's thread when role, query and body have been checked; it answers
 * the request with http_reply() or http_fail(), now or later.
 */
#pragma once

#include "vmms/access.h"
#include "vmms/daemon.h"
#include "vmms/form.h"

/* ROUTE_SECRET: the answer holds what may be kept nowhere. ROUTE_STREAM: it has no end. ROUTE_TEXT: it is
 * no JSON. ROUTE_AT_ONCE: it waits for nothing that the machine's worker is at. */
enum route_extra { ROUTE_IF_MATCH = 1, ROUTE_SECRET = 2, ROUTE_STREAM = 4, ROUTE_TEXT = 8, ROUTE_AT_ONCE = 16 };

struct route {
	const char *method, *path, *name, *text;
	enum role role;                 /* the least that may ask */
	const struct form *body;        /* NULL: it takes none */
	const struct form_field *query; /* NULL: no parameter */
	unsigned status;                /* when it goes well */
	unsigned extra;
	void (*run)(struct vmms *vmms, struct http_request *request);
	const struct form *answer; /* what it answers with when it goes well. NULL: with nothing, or with no JSON */
};

/* Each ends with an entry with no path. Of two that match the first is taken. */
extern const struct route host_routes[], vm_routes[], adapter_routes[], life_routes[], checkpoint_routes[], token_routes[],
    stream_routes[], metrics_routes[], switch_routes[], inspect_routes[], guest_routes[];
/* All tables; ends with NULL. */
extern const struct route *const api_routes[];

/* Query parameters that many have: ?wait=, and ?limit= with the cursors of lists. */
extern const struct form_field wait_query[];
extern const struct form form_limit, form_number, form_wait, form_cursor;
#define LIMIT_FIELD {"limit", &form_limit, "100", false}
#define WAIT_FIELD  {"wait", &form_wait, "0", false}

/* Of answers: a list, whose cursor is a name or a number; null: there is no more. */
extern const struct form form_next_name, form_next_number;
#define NEXT_NAME_FIELD   {"next", &form_next_name, NULL, true}
#define NEXT_NUMBER_FIELD {"next", &form_next_number, NULL, true}

/* The request's body; a parameter of its query, which has its default where it was not given. NULL, 0: not there. */
const json_t *api_body(struct http_request *request);
int64_t api_number(struct http_request *request, const char *name);
const char *api_text(struct http_request *request, const char *name);

/* What stands in the path for the first {…}. */
const char *api_part(struct http_request *request);

/* The machine that the path names. NULL: there is none, or the route takes If-Match and its configuration is another by
 * now; that has been answered. */
struct machine *api_machine(struct vmms *vmms, struct http_request *request);

/* Has a job begun for it, with the request's body or without, and answers with the job. */
void api_run(struct vmms *vmms, struct http_request *request,
    int (*run)(struct machine *machine, struct job **job, struct error *err));
void api_run_body(struct vmms *vmms, struct http_request *request,
    int (*run)(struct machine *machine, const json_t *body, struct job **job, struct error *err));

/* The same for a part of a machine, which the route names behind it: /v1/vms/{vm}/…/{part}. */
void api_run_part(struct vmms *vmms, struct http_request *request,
    int (*run)(struct machine *machine, const char *which, struct job **job, struct error *err));
void api_run_part_body(struct vmms *vmms, struct http_request *request,
    int (*run)(struct machine *machine, const char *which, const json_t *body, struct job **job, struct error *err));

void api_reply_machine(const struct machine *machine, struct http_request *request, unsigned status);

/* {NAME: [...], "next": ...}: takes the references; `next` is the cursor that gives what comes behind, or NULL. */
void api_reply_list(struct http_request *request, const char *name, json_t *list, json_t *next);

/* Answers with the job, after as long as ?wait= says; with `err` if `r` is not 0. */
void api_reply_job(struct http_request *request, struct job *job, int r, const struct error *err);

/* api_keys.c. False: a POST with the same Idempotency-Key came before, and that has been answered. */
bool api_is_first(struct vmms *vmms, const struct route *route, struct http_request *request);
/* What the first one began: answers to all that follow. */
void api_note_job(struct http_request *request, const struct job *job);

/* The OpenAPI 3.1 document. */
json_t *api_document(void);
