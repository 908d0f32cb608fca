/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_checkpoints.c - the REST interface's routes of checkpoints. */
#include "vmms/api.h"
#include "vmms/checkpoint.h"

static const char *which(struct http_request *request)
{
	return http_state(request)->part[1];
}

static void list_checkpoints(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};
	json_t *list;

	if (!machine)
		return;
	if (checkpoint_list(machine, &list, &err))
		http_fail(request, &err);
	else
		api_reply_list(request, "checkpoints", list, NULL);
}

static void create_checkpoint(struct vmms *vmms, struct http_request *request)
{
	api_run_body(vmms, request, checkpoint_create);
}

static void apply_checkpoint(struct vmms *vmms, struct http_request *request)
{
	api_run_part(vmms, request, checkpoint_apply);
}

static void delete_checkpoint(struct vmms *vmms, struct http_request *request)
{
	api_run_part(vmms, request, checkpoint_delete);
}

static void merge_checkpoints(struct vmms *vmms, struct http_request *request)
{
	api_run(vmms, request, checkpoint_merge);
}

static void rename_checkpoint(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};

	if (!machine)
		return;
	if (checkpoint_rename(machine, which(request), json_string_value(json_object_get(api_body(request), "name")), &err))
		http_fail(request, &err);
	else
		http_reply(request, 204, NULL);
}

static void export_checkpoint(struct vmms *vmms, struct http_request *request)
{
	api_run_part_body(vmms, request, checkpoint_export);
}

static const struct form form_list = {.kind = FORM_LIST, .max = INT64_MAX, .items = &checkpoint_form};
static const struct form list_answer = {.kind = FORM_OBJECT,
					.fields = (const struct form_field[]){{"checkpoints", &form_list, NULL, true}, NEXT_NAME_FIELD, {0}}};

const struct route checkpoint_routes[] = {
    {"GET", "/v1/vms/{vm}/checkpoints", "listCheckpoints", "Its checkpoints, oldest first; each says which it comes from",
     ROLE_VIEWER, NULL, NULL, 200, 0, list_checkpoints, &list_answer},
    {"POST", "/v1/vms/{vm}/checkpoints", "createCheckpoint", "Keep what it is now", ROLE_OPERATOR, &checkpoint_create_form,
     wait_query, 202, 0, create_checkpoint, &job_form},
    {"PATCH", "/v1/vms/{vm}/checkpoints/{checkpoint}", "renameCheckpoint", "Give it another name", ROLE_OPERATOR,
     &checkpoint_change_form, NULL, 204, ROUTE_IF_MATCH, rename_checkpoint, NULL},
    {"DELETE", "/v1/vms/{vm}/checkpoints/{checkpoint}", "deleteCheckpoint",
     "Delete it, and merge its disks with what comes from it", ROLE_ADMINISTRATOR, NULL, wait_query, 202, ROUTE_IF_MATCH,
     delete_checkpoint, &job_form},
    {"POST", "/v1/vms/{vm}/checkpoints/{checkpoint}/apply", "applyCheckpoint", "Make the machine what it was",
     ROLE_ADMINISTRATOR, NULL, wait_query, 202, ROUTE_IF_MATCH, apply_checkpoint, &job_form},
    {"POST", "/v1/vms/{vm}/checkpoints/{checkpoint}/export", "exportCheckpoint",
     "Copy all of the machine as it was into a directory, from which it can be imported", ROLE_ADMINISTRATOR, &vm_export_form,
     wait_query, 202, 0, export_checkpoint, &job_form},
    {"POST", "/v1/vms/{vm}/merge", "mergeCheckpoints",
     "Merge what deleted checkpoints have left, where that could not be done then: there was no room, or it was cancelled",
     ROLE_ADMINISTRATOR, NULL, wait_query, 202, ROUTE_IF_MATCH, merge_checkpoints, &job_form},
    {0},
};
