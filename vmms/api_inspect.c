/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_inspect.c - the REST interface's route of a running machine's insides, which its worker tells. */
#include <errno.h>

#include "vmms/api.h"

/* --- what is told: a worker of another version may tell less -------------------------------------------- */

static const struct form form_file = {.kind = FORM_OBJECT,
				      .fields = (const struct form_field[]){
					  {"path", &answer_text, NULL, true},
					  {"file_size", &answer_count, NULL, true},
					  {0},
				      }};
static const struct form form_chain = {.kind = FORM_LIST, .text = "its files, from the one that is written on down", .max = 1000, .items = &form_file};
static const struct form form_path = {.kind = FORM_STRING, .text = "a drive with no medium has none", .max = INT64_MAX};
static const struct form form_disk = {.kind = FORM_OBJECT,
				      .fields = (const struct form_field[]){
					  {"path", &form_path, NULL, false},
					  {"controller", &answer_count, NULL, true},
					  {"lun", &answer_count, NULL, true},
					  {"size", &answer_count, NULL, true},
					  {"read_only", &answer_flag, NULL, true},
					  {"dvd", &answer_flag, NULL, true},
					  {"chain", &form_chain, NULL, false},
					  {0},
				      }};
static const struct form form_disks = {.kind = FORM_LIST, .max = 1000, .items = &form_disk};

static const struct form form_counters = {.kind = FORM_OBJECT,
					  .text = "since the guest's last reset",
					  .fields = (const struct form_field[]){
					      {"sent_frames", &answer_count, NULL, true},
					      {"sent_bytes", &answer_count, NULL, true},
					      {"sent_dropped", &answer_count, NULL, true},
					      {"received_frames", &answer_count, NULL, true},
					      {"received_bytes", &answer_count, NULL, true},
					      {"received_dropped", &answer_count, NULL, true},
					      {0},
					  }};
static const struct form form_addresses = {.kind = FORM_LIST, .max = 1000, .items = &answer_text};
static const struct form form_forwarded = {.kind = FORM_LIST, .text = "ports of the host that lead to the guest, in the order of forwards", .max = 1000, .items = &answer_count};
static const struct form form_adapter = {.kind = FORM_OBJECT,
					 .fields = (const struct form_field[]){
					     {"mac", &answer_text, NULL, true},
					     {"port", &answer_text, NULL, true},
					     {"label", &answer_text, NULL, false},
					     {"addresses", &form_addresses, NULL, false},
					     {"addresses_from", &answer_text, NULL, false},
					     {"forwarded", &form_forwarded, NULL, false},
					     {"counters", &form_counters, NULL, false},
					     {0},
					 }};
static const struct form form_adapters = {.kind = FORM_LIST, .max = 1000, .items = &form_adapter};

static const struct form form_processor = {.kind = FORM_OBJECT,
					   .fields = (const struct form_field[]){
					       {"instructions", &answer_count, NULL, true},
					       {"exits", &answer_count, NULL, true},
					       {"io_exits", &answer_count, NULL, true},
					       {"mmio_exits", &answer_count, NULL, true},
					       {"msr_exits", &answer_count, NULL, true},
					       {"cpuid_exits", &answer_count, NULL, true},
					       {"hypercalls", &answer_count, NULL, true},
					       {"halts", &answer_count, NULL, true},
					       {"interrupts", &answer_count, NULL, true},
					       {0},
					   }};
static const struct form form_processors = {.kind = FORM_LIST, .max = 1000, .items = &form_processor};

static const struct form form_progress = {.kind = FORM_OBJECT,
					  .text = "bytes",
					  .fields = (const struct form_field[]){
					      {"done", &answer_count, NULL, true},
					      {"total", &answer_count, NULL, true},
					      {0},
					  }};
static const struct form form_guest = {.kind = FORM_OBJECT, .text = "what the guest says of itself", .rest = &answer_text};
static const struct form form_any = {.kind = FORM_ANY};
static const struct form form_part = {.kind = FORM_OBJECT, .text = "a part of it: its bus, services, controllers, adapters, with what each counts", .rest = &form_any};

static const struct form inspect_form = {.kind = FORM_OBJECT,
					 .name = "Insides",
					 .text = "the insides of a machine that runs",
					 .rest = &form_part,
					 .fields = (const struct form_field[]){
					     {"name", &answer_text, NULL, true},
					     {"state", &answer_text, NULL, true},
					     {"guest_crashed", &answer_flag, NULL, false},
					     {"disks", &form_disks, NULL, true},
					     {"adapters", &form_adapters, NULL, true},
					     {"vmbus_version", &answer_text_or_null, NULL, false},
					     {"heartbeat", &answer_text, NULL, false},
					     {"guest", &form_guest, NULL, false},
					     {"processor", &answer_text, NULL, false},
					     {"memory", &answer_count, NULL, false},
					     {"reference_time_100ns", &answer_count, NULL, false},
					     {"processors", &form_processors, NULL, false},
					     {"progress", &form_progress, NULL, false},
					     {"merging", &form_progress, NULL, false},
					     {0},
					 }};

/* --- the route ------------------------------------------------------------------------------------------ */

static void inspected(void *context, const json_t *answer, const struct error *err)
{
	struct http_request *request = context;
	struct error wrong = {0}, told;
	json_t *copy;

	if (err) {
		http_fail(request, err);
		return;
	}
	copy = json_deep_copy(answer);
	json_object_del(copy, "ok");
	/* The worker may be anyone's. */
	if (!form_check(&inspect_form, copy, &wrong)) {
		http_reply(request, 200, copy);
		return;
	}
	json_decref(copy);
	error_set(&told, EBADMSG, "what its worker tells is not what was asked for: %.300s", wrong.text);
	http_fail(request, &told);
}

static void inspect_vm(struct vmms *vmms, struct http_request *request)
{
	struct machine *machine = api_machine(vmms, request);
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

const struct route inspect_routes[] = {
    {"GET", "/v1/vms/{vm}/inspect", "inspectVm", "The insides of a running machine", ROLE_VIEWER, NULL, NULL, 200, 0, inspect_vm, &inspect_form},
    {0},
};
