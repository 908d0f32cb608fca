/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_adapters.c - the REST interface's routes of machines' network adapters. */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "vmms/adapters.h"
#include "vmms/api.h"
#include "vmms/metering.h"
#include "vmms/switches.h"

/* --- what there is -------------------------------------------------------------------------------------- */

#define ADDRESSES_MAX 16u
#define ADDRESS_SIZE  64u

struct listing {
	struct http_request *request;
	json_t *list;
};

/* What the worker knows: addresses that the guest uses, ports that lead to it. */
static void add_told(json_t *list, const json_t *told)
{
	json_t *adapter, *other, *address;
	size_t i, k, n;

	json_array_foreach(list, i, adapter) {
		json_object_set_new(adapter, "addresses", json_array());
		json_array_foreach((json_t *)(uintptr_t)told, k, other) {
			const char *a = json_string_value(json_object_get(adapter, "mac")), *b = json_string_value(json_object_get(other, "mac"));

			if (!a || !b || strcasecmp(a, b))
				continue;
			json_object_set_new(adapter, "forwards", adapter_forwards(adapter, json_object_get(other, "forwarded")));
			/* The worker may be anyone's. */
			json_array_foreach(json_object_get(other, "addresses"), n, address)
				if (n < ADDRESSES_MAX && json_is_string(address) && json_string_length(address) < ADDRESS_SIZE)
					json_array_append(json_object_get(adapter, "addresses"), address);
		}
	}
}

static void add_lost(struct vmms *vmms, json_t *list)
{
	json_t *adapter;
	size_t i;

	json_array_foreach(list, i, adapter)
		json_object_set_new(adapter, "network_lost", json_boolean(switches_port_lost(vmms, adapter)));
}

/* A worker that does not answer soon knows of no addresses. */
static void measured(void *context, const struct meter *meters, size_t count)
{
	struct listing *listing = context;

	(void)count;
	add_told(listing->list, meters->adapters);
	api_reply_list(listing->request, "adapters", listing->list, NULL);
	free(listing);
}

static void list_adapters(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};
	struct listing *listing;

	if (!machine)
		return;
	machine_refresh(machine);
	listing = calloc(1, sizeof(*listing));
	if (listing) {
		*listing = (struct listing){request, json_deep_copy(json_object_get(machine->config, "adapters"))};
		if (!listing->list)
			listing->list = json_array();
		add_lost(vmms, listing->list);
		if (!metering_take(vmms, machine, measured, listing, &err))
			return;
		json_decref(listing->list);
		free(listing);
	}
	error_set(&err, ENOMEM, "no memory for a list of adapters");
	http_fail(request, &err);
}

/* --- changes -------------------------------------------------------------------------------------------- */

static void add_adapter(struct vmms *vmms, struct http_request *request)
{
	api_run_body(vmms, request, machine_add_adapter);
}

static void remove_adapter(struct vmms *vmms, struct http_request *request)
{
	api_run_part(vmms, request, machine_remove_adapter);
}

static void set_adapter(struct vmms *vmms, struct http_request *request)
{
	api_run_part_body(vmms, request, machine_set_adapter);
}

/* --- the table ------------------------------------------------------------------------------------------ */

static const struct form form_list = {.kind = FORM_LIST, .max = VM_ADAPTERS_MAX, .items = &vm_shown_adapter_form};
static const struct form list_answer = {.kind = FORM_OBJECT,
					.fields = (const struct form_field[]){{"adapters", &form_list, NULL, true}, NEXT_NAME_FIELD, {0}}};

const struct route adapter_routes[] = {
    {"GET", "/v1/vms/{vm}/adapters", "listAdapters", "Its network adapters, with the addresses that the guest uses", ROLE_VIEWER, NULL, NULL,
     200, 0, list_adapters, &list_answer},
    {"POST", "/v1/vms/{vm}/adapters", "addAdapter", "Give it a network adapter more, also while it runs", ROLE_ADMINISTRATOR,
     &vm_new_adapter_form, wait_query, 202, ROUTE_IF_MATCH, add_adapter, &job_form},
    {"PATCH", "/v1/vms/{vm}/adapters/{adapter}", "setAdapter", "Plug an adapter, named by its address or its place, into something else",
     ROLE_ADMINISTRATOR, &vm_some_adapter_form, wait_query, 202, ROUTE_IF_MATCH, set_adapter, &job_form},
    {"DELETE", "/v1/vms/{vm}/adapters/{adapter}", "removeAdapter", "Take an adapter from it, also while it runs", ROLE_ADMINISTRATOR, NULL,
     wait_query, 202, ROUTE_IF_MATCH, remove_adapter, &job_form},
    {0},
};
