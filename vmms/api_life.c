/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_life.c - the REST interface's routes of what a machine lives through beside its power: with the host, disks. */
#include "vmms/api.h"
#include "vmms/automatic.h"

static void stop_machines(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	struct job *job = NULL;
	int r = automatic_stop(vmms, (unsigned)api_number(request, "timeout"), &job, &err);

	api_reply_job(request, job, r, &err);
}

/* --- saved states --------------------------------------------------------------------------------------- */

static void save_vm(struct vmms *vmms, struct http_request *request)
{
	api_run(vmms, request, machine_save);
}

static void discard_saved(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};

	if (!machine)
		return;
	if (machine_discard_saved(machine, &err))
		http_fail(request, &err);
	else
		http_reply(request, 204, NULL);
}

/* --- disks ---------------------------------------------------------------------------------------------- */

static void add_disk(struct vmms *vmms, struct http_request *request)
{
	api_run_body(vmms, request, machine_add_disk);
}

static void remove_disk(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};
	struct job *job = NULL;
	int r;

	if (!machine)
		return;
	r = machine_remove_disk(machine, api_text(request, "path"), &job, &err);
	api_reply_job(request, job, r, &err);
}

static void change_medium(struct vmms *vmms, struct http_request *request)
{
	api_run_part_body(vmms, request, machine_change_medium);
}

static void remove_drive(struct vmms *vmms, struct http_request *request)
{
	api_run_part(vmms, request, machine_remove_drive);
}

/* --- copies --------------------------------------------------------------------------------------------- */

static void clone_vm(struct vmms *vmms, struct http_request *request)
{
	api_run_body(vmms, request, machine_clone);
}

static void export_vm(struct vmms *vmms, struct http_request *request)
{
	api_run_body(vmms, request, machine_export);
}

static void import_vm(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	struct job *job = NULL;
	int r = machine_import(vmms, api_body(request), &job, &err);

	api_reply_job(request, job, r, &err);
}

/* --- the table ------------------------------------------------------------------------------------------ */

static const struct form form_timeout = {
    .kind = FORM_INTEGER, .text = "seconds, then their power is cut", .min = 0, .max = 86400};
static const struct form_field stop_query[] = {WAIT_FIELD, {"timeout", &form_timeout, "120", false}, {0}};

static const struct form form_path = {.kind = FORM_STRING, .text = "as vm.json has it, or from the root on", .min = 1, .max = 4095};
static const struct form_field disk_query[] = {WAIT_FIELD, {"path", &form_path, NULL, true}, {0}};

static const struct form form_medium = {
    .kind = FORM_STRING, .text = "a file, from the root on or relative to the machine's directory; empty: none", .min = 0, .max = 4095};
static const struct form form_force = {.kind = FORM_BOOLEAN, .text = "also if the guest has locked in what is there"};
static const struct form medium_form = {
    .kind = FORM_OBJECT,
    .text = "what is in a DVD drive",
    .fields = (const struct form_field[]){{"medium", &form_medium, NULL, true}, {"force", &form_force, "false", false}, {0}}};

const struct route life_routes[] = {
    {"POST", "/v1/host/stop-machines", "stopMachines", "Stop all machines, each as its automatic.stop says",
     ROLE_ADMINISTRATOR, NULL, stop_query, 202, 0, stop_machines, &job_form},
    {"POST", "/v1/vms/{vm}/save", "saveVm", "Save it to a file; its next start goes on from there", ROLE_OPERATOR, NULL,
     wait_query, 202, 0, save_vm, &job_form},
    {"DELETE", "/v1/vms/{vm}/saved-state", "discardSavedState", "Discard its saved state: it is off, as if its power was cut",
     ROLE_OPERATOR, NULL, NULL, 204, 0, discard_saved, NULL},
    {"POST", "/v1/vms/{vm}/disks", "addDisk", "Give it a disk more, also while it runs", ROLE_ADMINISTRATOR, &vm_disk_form,
     wait_query, 202, ROUTE_IF_MATCH, add_disk, &job_form},
    {"DELETE", "/v1/vms/{vm}/disks", "removeDisk", "Take a disk from it, also while it runs; its file stays",
     ROLE_ADMINISTRATOR, NULL, disk_query, 202, ROUTE_IF_MATCH, remove_disk, &job_form},
    {"PATCH", "/v1/vms/{vm}/dvd-drives/{drive}", "changeMedium", "Change, or take out, the medium of a DVD drive, named by its place among them",
     ROLE_ADMINISTRATOR, &medium_form, wait_query, 202, ROUTE_IF_MATCH, change_medium, &job_form},
    {"DELETE", "/v1/vms/{vm}/dvd-drives/{drive}", "removeDvdDrive", "Take a DVD drive from it, also while it runs", ROLE_ADMINISTRATOR,
     NULL, wait_query, 202, ROUTE_IF_MATCH, remove_drive, &job_form},
    {"POST", "/v1/vms/import", "importVm", "Take in a machine from a directory", ROLE_ADMINISTRATOR, &vm_import_form,
     wait_query, 202, 0, import_vm, &job_form},
    {"POST", "/v1/vms/{vm}/clone", "cloneVm", "Make another one like it", ROLE_ADMINISTRATOR, &vm_clone_form, wait_query, 202,
     0, clone_vm, &job_form},
    {"POST", "/v1/vms/{vm}/export", "exportVm", "Copy all of it into a directory", ROLE_ADMINISTRATOR, &vm_export_form,
     wait_query, 202, 0, export_vm, &job_form},
    {0},
};
