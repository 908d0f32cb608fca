/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * run.c - the worker's loop: signals, console keys, control commands and what the machine itself tells
 * meet on one thread, which alone starts, pauses and ends the machine.
 */
#include "worker/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <uv.h>

#include "worker/changing.h"
#include "worker/console.h"
#include "worker/control.h"
#include "worker/merging.h"
#include "worker/requests.h"
#include "worker/saving.h"
#include "worker/terminal.h"
#include "worker/vm.h"

#define REPORTS_MAX 8u

struct worker {
	const struct worker_config *config;
	uv_loop_t loop;
	uv_async_t wake;
	uv_signal_t signals[3];
	struct console *consoles[WORKER_SERIAL_PORTS];
	struct control *control;
	struct vm *vm;
	struct saving *saving; /* NULL: the machine is not being saved */
	struct merging *merging; /* of a disk; NULL: none is */
	struct vm_disk *merged;
	struct changing *changing; /* of a medium; NULL: none is */
	uint64_t saving_ticket, merging_ticket, changing_ticket;
	bool checkpoint;         /* what the saving is for */
	bool shutdown_asked, finished;
	struct log_limit restarts;
	bool started;
	enum worker_result result;
	struct worker_end end;

	/* Said by other threads, read by the loop's. */
	_Atomic unsigned ended; /* bits of enum vm_end */
	_Atomic uint32_t exit_code;
	pthread_mutex_t report_lock;
	char *reports[REPORTS_MAX];
	unsigned report_count;
};

/* A line for the person at the terminal. */
static void say(const char *text)
{
	fprintf(terminal_messages(), "bulkhead: %s\n", text);
}

static void finish(struct worker *w, enum worker_result result)
{
	w->finished = true;
	w->result = result;
	uv_stop(&w->loop);
}

/* --- from other threads --------------------------------------------------------------------------- */

static void vm_ended(void *context, enum vm_end end, uint32_t code)
{
	struct worker *w = context;

	if (end == VM_END_EXIT_PORT)
		atomic_store(&w->exit_code, code);
	atomic_fetch_or(&w->ended, (unsigned)end);
	uv_async_send(&w->wake);
}

static void vm_reports(void *context, const char *text)
{
	struct worker *w = context;

	pthread_mutex_lock(&w->report_lock);
	if (w->report_count < REPORTS_MAX)
		w->reports[w->report_count++] = strdup(text);
	pthread_mutex_unlock(&w->report_lock);
	uv_async_send(&w->wake);
}

static size_t vm_output(void *context, unsigned port, const uint8_t *bytes, size_t size)
{
	struct worker *w = context;

	return w->consoles[port] ? console_output(w->consoles[port], bytes, size) : size;
}

static void vm_input_room(void *context, unsigned port)
{
	struct worker *w = context;

	if (w->consoles[port])
		console_input_room(w->consoles[port]);
}

/* --- the machine's end, and its rebirth ------------------------------------------------------------ */

/* Once: a machine that restarts was ready before. */
static int ready(void *context, struct error *err)
{
	struct worker *w = context;
	int r = w->started || !w->config->ready ? 0 : w->config->ready(w->config->context, err);

	w->started = !r;
	return r;
}

static int power_up(struct worker *w, struct error *err)
{
	int r = vm_power_up(w->vm, err);

	for (unsigned i = 0; i < WORKER_SERIAL_PORTS && !r; i++) {
		if (!w->consoles[i])
			continue;
		machine_serial_set_connected(w->vm->machine, i, console_is_connected(w->consoles[i]));
		/* What the machine before did not take is for this one; one that was saved may have something to say. */
		console_input_room(w->consoles[i]);
		machine_serial_output_ready(w->vm->machine, i);
	}
	return r;
}

static void restart(struct worker *w)
{
	struct error err = {0};

	/* A guest that does nothing else must not fill the terminal. */
	if (log_limit_pass(&w->restarts, 5))
		say("the guest restarts");
	vm_power_down(w->vm);
	atomic_store(&w->ended, 0);
	w->shutdown_asked = false;
	if (power_up(w, &err)) {
		say(err.text);
		snprintf(w->end.text, sizeof(w->end.text), "%s", err.text);
		finish(w, WORKER_GUEST_FAILED);
	}
}

static void show_reports(struct worker *w)
{
	pthread_mutex_lock(&w->report_lock);
	for (unsigned i = 0; i < w->report_count; i++) {
		if (w->reports[i]) {
			say(w->reports[i]);
			snprintf(w->end.text, sizeof(w->end.text), "%s", w->reports[i]);
		}
		free(w->reports[i]);
	}
	w->report_count = 0;
	pthread_mutex_unlock(&w->report_lock);
}

static void woken(uv_async_t *handle)
{
	struct worker *w = handle->data;
	unsigned ended = atomic_load(&w->ended);
	bool crashed = atomic_load(&w->vm->guest_crashed);

	show_reports(w);
	if (ended && w->saving)
		saving_cancel(w->saving);
	if (!ended || w->finished || w->saving)
		return;
	if (ended & VM_END_EXIT_PORT) {
		w->end.guest_code = atomic_load(&w->exit_code);
		finish(w, WORKER_POWERED_OFF);
	} else if (ended & VM_END_FAILURE) {
		finish(w, WORKER_GUEST_FAILED);
	} else if (ended & VM_END_POWER_OFF || w->config->no_reboot) {
		w->end.reset = !(ended & VM_END_POWER_OFF);
		finish(w, crashed ? WORKER_GUEST_FAILED : WORKER_POWERED_OFF);
	} else {
		restart(w);
	}
}

static void ask_shutdown(struct worker *w)
{
	char text[160];
	const char *how;

	vm_ask_shutdown(w->vm, &how);
	snprintf(text, sizeof(text), "the guest is asked to shut down, through %s; once more cuts the power", how);
	say(text);
	w->shutdown_asked = true;
}

static void on_signal(uv_signal_t *handle, int number)
{
	struct worker *w = handle->data;

	(void)number;
	if (w->shutdown_asked) {
		say("the power is cut");
		finish(w, WORKER_POWER_CUT);
	} else if (w->saving) {
		say("the machine is being saved; once more cuts the power");
		w->shutdown_asked = true;
	} else {
		ask_shutdown(w);
	}
}

/* Nothing reaches a machine that is held, nor comes out of it. */
static bool is_held(const struct worker *w)
{
	return w->saving && saving_holds(w->saving);
}

/* --- console --------------------------------------------------------------------------------------- */

static size_t console_gives(void *context, unsigned port, const uint8_t *bytes, size_t size)
{
	struct worker *w = context;

	return w->vm && w->vm->machine && !is_held(w) ? machine_serial_receive(w->vm->machine, port, bytes, size) : 0;
}

static void console_takes(void *context, unsigned port)
{
	struct worker *w = context;

	if (w->vm && w->vm->machine && !is_held(w))
		machine_serial_output_ready(w->vm->machine, port);
}

static void console_connected(void *context, unsigned port, bool connected)
{
	struct worker *w = context;

	if (w->vm && w->vm->machine)
		machine_serial_set_connected(w->vm->machine, port, connected);
}

static void toggle_pause(struct worker *w)
{
	if (w->vm->paused) {
		vm_resume(w->vm);
		say("the machine runs again");
	} else {
		vm_pause(w->vm);
		say("the machine is paused; Ctrl-] p resumes it");
	}
}

static void console_key(void *context, char key)
{
	struct worker *w = context;

	if (w->saving && key != 'x') {
		say("the machine is being saved");
		return;
	}
	switch (key) {
	case 'x':
		say("the power is cut");
		finish(w, WORKER_POWER_CUT);
		break;
	case 's':
		ask_shutdown(w);
		break;
	case 'b':
		if (w->vm->machine)
			machine_power_button(w->vm->machine);
		break;
	case 'p':
		toggle_pause(w);
		break;
	default:
		say("after Ctrl-]: s shuts the guest down, x cuts the power, p pauses and resumes, b presses the "
		       "power button, Ctrl-] sends itself");
		break;
	}
}

static const struct console_ops console_ops = {
    .input = console_gives,
    .output_ready = console_takes,
    .connected = console_connected,
    .key = console_key,
};

/* --- control commands ------------------------------------------------------------------------------ */

static json_t *answer(int r, const struct error *err)
{
	return r ? control_refuse(err->code, err->text) : json_pack("{s:b}", "ok", 1);
}

/* Whether a file that is named can be opened, where it did not come along. */
static int check_opened(const struct worker *w, const char *path, const struct vm_files *files, struct error *err)
{
	if (!path || files->count || !w->config->confined)
		return 0;
	return error_set(err, EACCES, "%s: the machine is in its sandbox and can open no file: pass its descriptor along, and say "
	    "\"fd\": true", path);
}

static json_t *command_add_disk(struct worker *w, const json_t *arguments, struct control_call *call)
{
	struct vm_files files;
	struct worker_disk disk;
	struct error err = {0};
	unsigned lun = 0;
	json_t *result;
	int r = request_disk(arguments, call, &disk, &files, &err);

	if (!r)
		r = check_opened(w, disk.path, &files, &err);
	if (!r)
		r = vm_add_disk(w->vm, &disk, &files, &lun, &err);
	result = answer(r, &err);
	if (!r) {
		json_object_set_new(result, "controller", json_integer(disk.controller));
		json_object_set_new(result, "lun", json_integer(lun));
	}
	return result;
}

static void medium_changed(void *context, int result, const struct error *err)
{
	struct worker *w = context;

	w->changing = NULL;
	control_answer(w->control, w->changing_ticket, answer(result, err));
}

static json_t *command_change_medium(struct worker *w, const json_t *arguments, struct control_call *call)
{
	struct changing_ops ops = {.done = medium_changed, .context = w};
	struct medium_request request;
	struct vm_files files = {.count = 0};
	struct error err = {0};
	int r = w->changing ? error_set(&err, EBUSY, "another medium is being changed: wait") : 0;

	if (!r)
		r = request_medium(arguments, call, &request, &files, &err);
	if (!r)
		r = check_opened(w, request.path, &files, &err);
	if (!r)
		r = changing_start(&w->changing, &w->loop, w->vm, &request, &files, &ops, &err);
	if (!w->changing || r)
		return answer(r, &err);
	w->changing_ticket = call->ticket;
	call->later = true;
	return NULL;
}

static json_t *command_remove_disk(struct worker *w, const json_t *arguments)
{
	const char *address = json_string_value(json_object_get(arguments, "address"));
	struct error err = {0};
	unsigned controller, lun;
	char rest;

	if (!address || sscanf(address, "%u:%u%c", &controller, &lun, &rest) != 2 || controller >= WORKER_MAX_CONTROLLERS)
		return answer(error_set(&err, EINVAL, "remove-disk needs \"address\" as CONTROLLER:LUN, such as 0:1"), &err);
	return answer(vm_remove_disk(w->vm, controller, lun, &err), &err);
}

static json_t *command_resize_disk(struct worker *w, const json_t *arguments)
{
	const char *address = json_string_value(json_object_get(arguments, "address"));
	json_int_t size = json_integer_value(json_object_get(arguments, "size"));
	struct error err = {0};
	unsigned controller, lun;
	char rest;

	if (!address || sscanf(address, "%u:%u%c", &controller, &lun, &rest) != 2 || controller >= WORKER_MAX_CONTROLLERS ||
	    size <= 0)
		return answer(error_set(&err, EINVAL, "resize-disk needs \"address\" as CONTROLLER:LUN, such as 0:1, and \"size\" "
				  "in bytes"), &err);
	return answer(vm_resize_disk(w->vm, controller, lun, (uint64_t)size, &err), &err);
}

/* Descriptors that the request names are taken over. */
static json_t *command_adapter(struct worker *w, const char *command, const json_t *arguments, struct control_call *call)
{
	struct worker_adapter adapter;
	struct error err = {0};
	int r;

	if (!strcmp(command, "remove-adapter")) {
		r = request_mac(arguments, adapter.mac, &err);
		return answer(r ? r : vm_remove_adapter(w->vm, adapter.mac, &err), &err);
	}
	r = request_adapter(arguments, call, &adapter, &err);
	if (!r && !strcmp(command, "add-adapter"))
		r = vm_add_adapter(w->vm, &adapter, &err);
	else if (!r)
		r = vm_plug_adapter(w->vm, &adapter, &err);
	return answer(r, &err);
}

/* The ports of the machine were held meanwhile. */
static void go_on_after_saving(struct worker *w)
{
	for (unsigned i = 0; i < WORKER_SERIAL_PORTS; i++) {
		if (!w->consoles[i] || !w->vm->machine)
			continue;
		console_input_room(w->consoles[i]);
		machine_serial_output_ready(w->vm->machine, i);
	}
	/* What the machine told meanwhile was not looked at. */
	uv_async_send(&w->wake);
	if (w->shutdown_asked)
		ask_shutdown(w);
}

static bool guest_ended(void *context)
{
	struct worker *w = context;

	return atomic_load(&w->ended);
}

static void saving_done(void *context, const struct saving_end *end)
{
	struct worker *w = context;

	w->saving = NULL;
	if (end->result) {
		say(end->err.text);
		control_answer(w->control, w->saving_ticket, answer(end->result, &end->err));
		go_on_after_saving(w);
		return;
	}
	control_answer(w->control, w->saving_ticket, json_pack("{s:b,s:I,s:I}", "ok", 1, "bytes", (json_int_t)end->bytes,
	    "pause_us", (json_int_t)end->pause_us));
	if (w->checkpoint)
		go_on_after_saving(w);
	else
		finish(w, WORKER_SAVED);
}

/* Takes the request's descriptors over. */
static int start_saving(struct worker *w, const struct saving_request *request, struct error *err)
{
	struct saving_ops ops = {.guest_ended = guest_ended, .done = saving_done, .context = w};

	w->checkpoint = request->checkpoint;
	return saving_start(&w->saving, &w->loop, w->vm, request, &ops, err);
}

static int save(struct worker *w, struct control_call *call, struct error *err)
{
	struct saving_request request = {.fd = call->fds[0]};

	if (call->fd_count != 1)
		return error_set(err, EINVAL, "save needs one descriptor, of the file for the machine's state, and \"fd\": true");
	call->fds[0] = -1;
	return start_saving(w, &request, err);
}

static int checkpoint(struct worker *w, const json_t *arguments, struct control_call *call, struct error *err)
{
	struct saving_request request;
	int r = request_checkpoint(arguments, call, &request, err);

	return r ? r : start_saving(w, &request, err);
}

/* save and checkpoint. */
static json_t *command_save(struct worker *w, bool is_checkpoint, const json_t *arguments, struct control_call *call)
{
	struct error err = {0};
	int r = 0;

	if (!w->vm->running || atomic_load(&w->ended))
		r = error_set(&err, EAGAIN, "the machine is ending or restarting, and cannot be saved now");
	else if (w->merging)
		r = error_set(&err, EBUSY, "a disk of the machine is being merged: wait, or cancel that");
	else if (w->changing)
		r = error_set(&err, EBUSY, "a medium of the machine is being changed: wait");
	else
		r = is_checkpoint ? checkpoint(w, arguments, call, &err) : save(w, call, &err);
	if (r)
		return answer(r, &err);
	w->saving_ticket = call->ticket;
	call->later = true;
	return NULL;
}

static void merging_done(void *context, int result, const struct error *err)
{
	struct worker *w = context;

	w->merging = NULL;
	vm_keep_chain(w->vm, NULL);
	if (result)
		say(err->text);
	else
		(void)vm_rename_disk(w->vm, w->merged, disk_path(w->merged->disk));
	control_answer(w->control, w->merging_ticket, answer(result, err));
}

static int merge(struct worker *w, const json_t *arguments, struct control_call *call, struct error *err)
{
	struct merging_ops ops = {.done = merging_done, .context = w};
	struct disk_merge_files files;
	unsigned controller, lun;
	struct vm_disk *disk;
	int r = w->merging ? error_set(err, EBUSY, "a disk of the machine is being merged: wait, or cancel that")
			   : request_address(arguments, &controller, &lun, err);

	if (r)
		return r;
	disk = vm_disk_at(w->vm, controller, lun, err);
	if (!disk)
		return -ENOENT;
	w->merged = disk;
	r = request_merge(arguments, call, &files, &controller, &lun, err);
	if (r)
		return r;
	vm_keep_chain(w->vm, disk);
	r = merging_start(&w->merging, &w->loop, disk->disk, &files, &ops, err);
	if (r)
		vm_keep_chain(w->vm, NULL);
	return r;
}

static json_t *command_merge(struct worker *w, const json_t *arguments, struct control_call *call)
{
	struct error err = {0};
	int r = merge(w, arguments, call, &err);

	if (r)
		return answer(r, &err);
	w->merging_ticket = call->ticket;
	call->later = true;
	return NULL;
}

/* Disks stay as they are while one is merged. */
static bool is_about_disks(const char *command)
{
	return !strcmp(command, "add-disk") || !strcmp(command, "remove-disk") || !strcmp(command, "resize-disk") ||
	       !strcmp(command, "change-medium");
}

static bool is_about_adapters(const char *command)
{
	return !strcmp(command, "add-adapter") || !strcmp(command, "plug-adapter") || !strcmp(command, "remove-adapter");
}

/* What can be done with a machine that is being saved. */
static json_t *command_while_saving(struct worker *w, const char *command)
{
	struct error err = {0};

	if (!strcmp(command, "cancel"))
		saving_cancel(w->saving);
	else if (!strcmp(command, "power-off"))
		finish(w, WORKER_POWER_CUT);
	else
		return answer(error_set(&err, EBUSY, "the machine is being saved: wait, or cancel that"), &err);
	return answer(0, &err);
}

static void add_progress(const struct worker *w, json_t *tree)
{
	uint64_t done, total;

	if (w->merging) {
		merging_progress(w->merging, &done, &total);
		json_object_set_new(tree, "merging", json_pack("{s:I,s:I}", "done", (json_int_t)done, "total", (json_int_t)total));
	}
	if (!w->saving)
		return;
	saving_progress(w->saving, &done, &total);
	if (!w->checkpoint)
		json_object_set_new(tree, "state", json_string("saving"));
	json_object_set_new(tree, "progress", json_pack("{s:I,s:I}", "done", (json_int_t)done, "total", (json_int_t)total));
}

static json_t *command_inspect(struct worker *w, bool whole)
{
	json_t *tree = vm_inspect(w->vm);

	add_progress(w, tree);
	if (!whole)
		json_object_del(tree, "vmbus");
	json_object_set_new(tree, "ok", json_true());
	return tree;
}

static json_t *command_meter(struct worker *w, const json_t *arguments)
{
	struct error err = {0};
	json_t *result = answer(vm_set_meters(w->vm, json_object_get(arguments, "adapters"), &err), &err);

	if (!err.code)
		json_object_set_new(result, "metering", vm_metering(w->vm));
	return result;
}

static json_t *on_command(void *context, const char *command, const json_t *arguments, struct control_call *call)
{
	struct worker *w = context;
	struct error err = {0};

	if (!strcmp(command, "status"))
		return command_inspect(w, false);
	if (!strcmp(command, "inspect"))
		return command_inspect(w, true);
	if (!strcmp(command, "meter"))
		return command_meter(w, arguments);
	if (w->saving)
		return command_while_saving(w, command);
	if (!strcmp(command, "save") || !strcmp(command, "checkpoint"))
		return command_save(w, !strcmp(command, "checkpoint"), arguments, call);
	if (!strcmp(command, "merge-disk"))
		return command_merge(w, arguments, call);
	if (w->merging && is_about_disks(command))
		return answer(error_set(&err, EBUSY, "a disk of the machine is being merged: wait, or cancel that"), &err);
	if (!strcmp(command, "add-disk"))
		return command_add_disk(w, arguments, call);
	if (!strcmp(command, "remove-disk"))
		return command_remove_disk(w, arguments);
	if (!strcmp(command, "change-medium"))
		return command_change_medium(w, arguments, call);
	if (!strcmp(command, "resize-disk"))
		return command_resize_disk(w, arguments);
	if (is_about_adapters(command))
		return command_adapter(w, command, arguments, call);
	if (!strcmp(command, "pause"))
		vm_pause(w->vm);
	else if (!strcmp(command, "resume"))
		vm_resume(w->vm);
	else if (!strcmp(command, "shutdown"))
		ask_shutdown(w);
	else if (!strcmp(command, "power-button") && w->vm->machine)
		machine_power_button(w->vm->machine);
	else if (!strcmp(command, "reset"))
		vm_ended(w, VM_END_RESET, 0);
	else if (!strcmp(command, "power-off"))
		finish(w, WORKER_POWER_CUT);
	else if (!strcmp(command, "cancel") && w->merging)
		merging_cancel(w->merging);
	else
		return answer(error_set(&err, EINVAL,
				  "there is no command \"%s\": use status, inspect, meter, pause, resume, shutdown, power-button, "
				  "reset, power-off, add-disk, resize-disk, remove-disk, change-medium, add-adapter, plug-adapter, remove-adapter, save, checkpoint, "
				  "merge-disk or cancel", command), &err);
	return answer(0, &err);
}

/* --- from start to end ------------------------------------------------------------------------------ */

static int check_host(const struct worker_config *config, struct error *err)
{
	uint64_t host = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

	if (config->memory > host)
		return error_set(err, ENOMEM, "--memory %llu MiB is more than this host has (%llu MiB): ask for less",
		    (unsigned long long)(config->memory >> 20), (unsigned long long)(host >> 20));
	return 0;
}

static int open_fronts(struct worker *w, struct error *err)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
	int r = 0;

	uv_async_init(&w->loop, &w->wake, woken);
	w->wake.data = w;
	signal(SIGPIPE, SIG_IGN);
	for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
		if (w->config->detached && numbers[i] == SIGHUP) {
			signal(SIGHUP, SIG_IGN);
			continue;
		}
		uv_signal_init(&w->loop, &w->signals[i]);
		w->signals[i].data = w;
		uv_signal_start(&w->signals[i], on_signal, numbers[i]);
	}
	for (unsigned i = 0; i < WORKER_SERIAL_PORTS && !r; i++)
		if (w->config->serial[i].kind != WORKER_SERIAL_NONE)
			r = console_open(&w->consoles[i], &w->loop, i, &w->config->serial[i], &console_ops, w, err);
	if (!r && w->config->control_path)
		r = control_open(&w->control, &w->loop, w->config->control_path, on_command, w, err);
	return r;
}

static void close_fronts(struct worker *w)
{
	for (unsigned i = 0; i < WORKER_SERIAL_PORTS; i++)
		console_close(w->consoles[i]);
	control_close(w->control);
}

/* What it did in all: nothing more is done by it. */
static void note_metering(struct worker *w)
{
	json_t *metering = vm_metering(w->vm);
	char *text = json_dumps(metering, JSON_COMPACT);

	if (text && strlen(text) < sizeof(w->end.metering))
		memcpy(w->end.metering, text, strlen(text) + 1);
	free(text);
	json_decref(metering);
}

/* Last of all: until here signals are taken and change nothing, so none cuts off the closing of disks. */
static void close_signals(struct worker *w)
{
	for (unsigned i = 0; i < ARRAY_SIZE(w->signals); i++)
		if (w->signals[i].loop)
			uv_close((uv_handle_t *)&w->signals[i], NULL);
	uv_close((uv_handle_t *)&w->wake, NULL);
	uv_run(&w->loop, UV_RUN_DEFAULT);
}

enum worker_result worker_run(const struct worker_config *config, struct worker_end *end, struct error *err)
{
	struct worker *w = calloc(1, sizeof(*w));
	struct vm_events events = {ready, vm_ended, vm_reports, vm_output, vm_input_room, w};
	struct error closing = {0};
	enum worker_result result;
	int r;

	*end = (struct worker_end){0};
	if (!w) {
		error_set(err, ENOMEM, "no memory for a worker");
		return WORKER_NOT_STARTED;
	}
	w->config = config;
	pthread_mutex_init(&w->report_lock, NULL);
	uv_loop_init(&w->loop);
	r = check_host(config, err);
	if (!r)
		r = vm_create(&w->vm, config, &events, err);
	if (!r) {
		r = open_fronts(w, err);
		if (!r && config->opened)
			r = config->opened(config->context, vm_disk_files(w->vm), err);
		if (!r)
			r = power_up(w, err);
		if (!r)
			uv_run(&w->loop, UV_RUN_DEFAULT);
		saving_abandon(w->saving);
		merging_abandon(w->merging);
		changing_abandon(w->changing);
		vm_power_down(w->vm);
		note_metering(w);
		close_fronts(w);
		show_reports(w);
		vm_destroy(w->vm, &closing);
		close_signals(w);
	}
	uv_loop_close(&w->loop);
	result = r ? WORKER_NOT_STARTED : w->result;
	if (closing.code && !r)
		log_write(LOG_LEVEL_ERROR, "%s", closing.text);
	if (result != WORKER_GUEST_FAILED)
		w->end.text[0] = '\0';
	*end = w->end;
	pthread_mutex_destroy(&w->report_lock);
	free(w);
	return result;
}
