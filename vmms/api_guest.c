/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_guest.c - the REST interface's route of what a machine's guest says of itself. */
#include <errno.h>
#include <string.h>

#include "vmms/api.h"
#include "vmms/metering.h"

#define ITEMS_MAX 32u
#define KEY_SIZE 64u
#define TEXT_SIZE 1100u

/* The worker may be anyone's: names of letters, and texts that are no longer than it has room for. */
static bool is_item(const char *name, const json_t *text)
{
	size_t length = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789");

	return length && length < KEY_SIZE && !name[length] && json_is_string(text) && json_string_length(text) < TEXT_SIZE;
}

static json_t *items_of(json_t *told)
{
	json_t *items = json_object(), *text;
	const char *name;

	json_object_foreach(told, name, text)
		if (json_object_size(items) < ITEMS_MAX && is_item(name, text))
			json_object_set(items, name, text);
	return items;
}

static const char *const heartbeats[] = {"no contact", "ok", "lost", "paused", NULL};

static const char *heartbeat_of(const json_t *told)
{
	for (size_t i = 0; heartbeats[i]; i++)
		if (json_is_string(told) && !strcmp(json_string_value(told), heartbeats[i]))
			return heartbeats[i];
	return NULL;
}

static void measured(void *context, const struct meter *meters, size_t count)
{
	(void)count;
	http_reply(context, 200, json_pack("{s:s?, s:o}", "heartbeat", heartbeat_of(meters->heartbeat), "items", items_of(meters->guest)));
}

static void get_guest(struct vmms *vmms, struct http_request *request)
{
	const struct machine *machine = api_machine(vmms, request);
	struct error err = {0};

	if (machine && metering_take(vmms, machine, measured, request, &err))
		http_fail(request, &err);
}

static const struct form form_heartbeat = {.kind = FORM_WORD, .text = "null: it does not run", .words = heartbeats, .or_null = true};
static const struct form form_item = {.kind = FORM_STRING, .max = TEXT_SIZE};
static const struct form form_items = {.kind = FORM_OBJECT, .text = "the guest's word: OSName, FullyQualifiedDomainName, …", .rest = &form_item};
static const struct form guest_answer = {.kind = FORM_OBJECT,
					 .name = "Guest",
					 .text = "what a guest says of itself",
					 .fields = (const struct form_field[]){
					     {"heartbeat", &form_heartbeat, NULL, true},
					     {"items", &form_items, NULL, true},
					     {0},
					 }};

const struct route guest_routes[] = {
    {"GET", "/v1/vms/{vm}/guest", "getGuest", "What its guest says of itself: the integration services' heartbeat, and items by Hyper-V's names",
     ROLE_VIEWER, NULL, NULL, 200, 0, get_guest, &guest_answer},
    {0},
};
