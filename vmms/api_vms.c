/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_vms.c - the REST interface's routes of machines. */
#include <errno.h>
#include <string.h>

#include "vmms/api.h"

#define REGISTER_SECONDS 300

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct machine *const *)a)->name, (*(struct machine *const *)b)->name);
}

static void list_vms(struct vmms *vmms, struct http_request *request)
{
	const char *after = api_text(request, "after");
	size_t limit = (size_t)api_number(request, "limit");
	bool brief = !strcmp(api_text(request, "view"), "brief");
	json_t *list = json_array(), *next = NULL;

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
		json_array_append_new(list, brief ? machine_json_brief(machine) : machine_json(machine));
	}
	api_reply_list(request, "vms", list, next);
}

static void create_vm(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	struct job *job = NULL;
	int r = machine_create(vmms, api_body(request), &job, &err);

	api_reply_job(request, job, r, &err);
}

/* It may be gone again by now. */
static void registered(struct job *job, struct http_request *request)
{
	const struct machine *machine = vmms_find(job->vmms, job->made);
	struct error err = job->error;

	if (job->ended && !err.code && machine) {
		api_reply_machine(machine, request, 201);
		return;
	}
	if (!job->ended)
		error_set(&err, job->vmms->closing ? ESHUTDOWN : ETIMEDOUT, "its disks are still being looked at: job %lld tells how that "
			  "ends", (long long)job->id);
	else if (!err.code)
		error_set(&err, ENOENT, "it was registered, and is gone again");
	http_fail(request, &err);
}

static void register_vm(struct vmms *vmms, struct http_request *request)
{
	const char *directory = json_string_value(json_object_get(api_body(request), "directory"));
	struct error err = {0};
	struct job *job;

	if (machine_register(vmms, directory, NULL, true, "vm.register", &job, &err))
		http_fail(request, &err);
	else
		job_wait_for(job, request, REGISTER_SECONDS, registered);
}

static void get_vm(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);

	if (!machine)
		return;
	machine_refresh(machine);
	api_reply_machine(machine, request, 200);
}

static void change_vm(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};

	if (!machine)
		return;
	if (machine_change(machine, api_body(request), &err))
		http_fail(request, &err);
	else
		api_reply_machine(machine, request, 200);
}

static void delete_vm(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);
	const char *files = api_text(request, "files");
	struct error err = {0};
	struct job *job = NULL;
	int r;

	if (!machine)
		return;
	r = machine_delete(machine, files && !strcmp(files, "keep"), &job, &err);
	api_reply_job(request, job, r, &err);
}

static const struct form form_file_names = {.kind = FORM_LIST, .text = "in the directory, or from the root on", .max = INT64_MAX, .items = &answer_text};
static const struct form form_own_directory = {.kind = FORM_BOOLEAN, .text = "made by the daemon, and goes with the machine"};
static const struct form files_answer = {.kind = FORM_OBJECT,
					 .fields = (const struct form_field[]){
					     {"directory", &answer_text, NULL, true},
					     {"files", &form_file_names, NULL, true},
					     {"own_directory", &form_own_directory, NULL, true},
					     {0},
					 }};

static void get_files(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);

	if (!machine)
		return;
	/* What its worker had begun under another daemon may have ended. */
	machine_refresh(machine);
	http_reply(request, 200,
		   json_pack("{s:s, s:o, s:b}", "directory", machine->directory, "files", machine_files(machine), "own_directory",
			     machine->own_directory));
}

static void start_vm(struct vmms *vmms, struct http_request *request)
{
	api_run(vmms, request, machine_start);
}

static void turn_off_vm(struct vmms *vmms, struct http_request *request)
{
	api_run(vmms, request, machine_turn_off);
}

static void pause_vm(struct vmms *vmms, struct http_request *request)
{
	api_run(vmms, request, machine_pause);
}

static void resume_vm(struct vmms *vmms, struct http_request *request)
{
	api_run(vmms, request, machine_resume);
}

static void reset_vm(struct vmms *vmms, struct http_request *request)
{
	api_run(vmms, request, machine_reset);
}

static void shut_down_vm(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};
	struct job *job = NULL;
	int r;

	if (!machine)
		return;
	r = machine_shut_down(machine, (unsigned)api_number(request, "timeout"), &job, &err);
	api_reply_job(request, job, r, &err);
}

/* --- the table -------------------------------------------------------------------------------------------- */

static const char *const files_words[] = {"keep", "delete", NULL};
static const struct form form_files = {.kind = FORM_WORD, .text = "of what the daemon made itself", .words = files_words};
static const struct form form_timeout = {.kind = FORM_INTEGER, .text = "seconds for the guest", .min = 0, .max = 86400};
static const struct form form_directory = {.kind = FORM_STRING, .text = "where a vm.json is", .min = 1, .max = 4095};
static const struct form register_form = {.kind = FORM_OBJECT,
					  .fields = (const struct form_field[]){{"directory", &form_directory, NULL, true}, {0}}};
static const char *const view_words[] = {"full", "brief", NULL};
static const struct form form_view = {.kind = FORM_WORD, .text = "brief: only what a table shows", .words = view_words};
static const struct form_field list_query[] = {
    LIMIT_FIELD, {"after", &form_cursor, NULL, false}, {"view", &form_view, "\"full\"", false}, {0}};
static const struct form_field delete_query[] = {WAIT_FIELD, {"files", &form_files, "\"delete\"", false}, {0}};
static const struct form_field shut_down_query[] = {WAIT_FIELD, {"timeout", &form_timeout, "120", false}, {0}};

static const struct form form_listed = {.kind = FORM_EITHER, .either = (const struct form *const[]){&machine_form, &machine_brief_form, NULL}};
static const struct form form_list = {.kind = FORM_LIST, .max = 1000, .items = &form_listed};
static const struct form list_answer = {.kind = FORM_OBJECT,
					.fields = (const struct form_field[]){{"vms", &form_list, NULL, true}, NEXT_NAME_FIELD, {0}}};

const struct route vm_routes[] = {
    {"GET", "/v1/vms", "listVms", "Machines, by name", ROLE_VIEWER, NULL, list_query, 200, 0, list_vms, &list_answer},
    {"POST", "/v1/vms", "createVm", "Make a machine", ROLE_ADMINISTRATOR, &vm_create_form, wait_query, 202, 0, create_vm, &job_form},
    {"POST", "/v1/vms/register", "registerVm", "Take in a machine whose directory is there", ROLE_ADMINISTRATOR,
     &register_form, NULL, 201, 0, register_vm, &machine_form},
    {"GET", "/v1/vms/{vm}", "getVm", "One machine, by name or id", ROLE_VIEWER, NULL, NULL, 200, 0, get_vm, &machine_form},
    {"PATCH", "/v1/vms/{vm}", "changeVm", "Change its settings", ROLE_ADMINISTRATOR, &vm_change_form, NULL, 200,
     ROUTE_IF_MATCH, change_vm, &machine_form},
    {"DELETE", "/v1/vms/{vm}", "deleteVm", "Delete it; ?files=keep leaves its files", ROLE_ADMINISTRATOR, NULL, delete_query,
     202, ROUTE_IF_MATCH, delete_vm, &job_form},
    {"GET", "/v1/vms/{vm}/files", "getVmFiles", "Its files", ROLE_VIEWER, NULL, NULL, 200, 0, get_files, &files_answer},
    {"POST", "/v1/vms/{vm}/start", "startVm", "Turn it on", ROLE_OPERATOR, NULL, wait_query, 202, 0, start_vm, &job_form},
    {"POST", "/v1/vms/{vm}/shut-down", "shutDownVm", "Ask the guest to shut down", ROLE_OPERATOR, NULL, shut_down_query, 202,
     0, shut_down_vm, &job_form},
    {"POST", "/v1/vms/{vm}/turn-off", "turnOffVm", "Cut its power", ROLE_OPERATOR, NULL, wait_query, 202, ROUTE_AT_ONCE, turn_off_vm, &job_form},
    {"POST", "/v1/vms/{vm}/reset", "resetVm", "Reset it", ROLE_OPERATOR, NULL, wait_query, 202, 0, reset_vm, &job_form},
    {"POST", "/v1/vms/{vm}/pause", "pauseVm", "Hold its processors", ROLE_OPERATOR, NULL, wait_query, 202, 0, pause_vm, &job_form},
    {"POST", "/v1/vms/{vm}/resume", "resumeVm", "Let them go on", ROLE_OPERATOR, NULL, wait_query, 202, 0, resume_vm, &job_form},
    {0},
};
