/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/automatic.h"

#include <errno.h>
#include <string.h>

#include "vmms/checkpoint.h"

/* More crashes than that within so long, and a machine stays off. */
#define CRASHES_MAX    3u
#define MEMORY_TRIES   60u /* one a second */
#define CRASHES_WITHIN 600000 /* milliseconds */

/* What the order does not hold up: a machine that is started again. */
#define NO_ORDER (-1)

/* A machine that is to start. */
struct start {
	char id[GUID_TEXT_SIZE];
	uint64_t due; /* as uv_now() */
	int order;
	bool begun;
	unsigned tries; /* that met too little memory */
	struct start *next;
};

struct automatic {
	uv_timer_t timer;
	struct start *starts;
	bool booted;
	bool host_started;  /* since a daemon was here */
	bool host_stopped;  /* the machines were stopped, and none was started since */
	bool was_stopping;  /* the daemon before this one did not come to the end of it */
	struct job *stop;   /* the job that stops the machines */
	uint64_t deadline;  /* of shutting down, as uv_now() */
};

/* --- the host's start --------------------------------------------------------------------------------- */

static int read_boot(char boot[GUID_TEXT_SIZE], struct error *err)
{
	static const char path[] = "/proc/sys/kernel/random/boot_id";
	FILE *file = fopen(path, "re");
	bool got = file && fgets(boot, GUID_TEXT_SIZE, file);

	if (file)
		fclose(file);
	return got ? 0 : error_set(err, EIO, "%s cannot be read", path);
}

static void timer_due(uv_timer_t *timer);

int automatic_open(struct vmms *vmms, struct error *err)
{
	_cleanup_free_ char *last = NULL, *stopped = NULL;
	struct automatic *a = calloc(1, sizeof(*a));
	char boot[GUID_TEXT_SIZE] = "";
	int r;

	if (!a)
		return error_set(err, ENOMEM, "no memory");
	vmms->automatic = a;
	uv_timer_init(&vmms->loop, &a->timer);
	a->timer.data = vmms;
	r = read_boot(boot, err);
	if (!r)
		r = store_host_get(vmms->store, "boot", &last, err);
	if (!r)
		r = store_host_get(vmms->store, "stopped", &stopped, err);
	if (r)
		return r;
	a->was_stopping = a->host_stopped = stopped != NULL;
	a->booted = !last || strcmp(last, boot);
	a->host_started = stopped || a->booted;
	return a->host_started ? store_host_set(vmms->store, "boot", boot, err) : 0;
}

static void timer_closed(uv_handle_t *handle)
{
	struct vmms *vmms = handle->data;
	struct automatic *a = vmms->automatic;

	vmms->automatic = NULL;
	while (a->starts) {
		struct start *next = a->starts->next;

		free(a->starts);
		a->starts = next;
	}
	free(a);
}

void automatic_close(struct vmms *vmms)
{
	if (vmms->automatic && !uv_is_closing((uv_handle_t *)&vmms->automatic->timer))
		uv_close((uv_handle_t *)&vmms->automatic->timer, timer_closed);
}

bool automatic_stopping(const struct vmms *vmms)
{
	return vmms->automatic && (vmms->automatic->stop || vmms->automatic->was_stopping);
}

bool automatic_booted(const struct vmms *vmms)
{
	return vmms->automatic && vmms->automatic->booted;
}

void automatic_kick(struct vmms *vmms)
{
	struct automatic *a = vmms->automatic;

	if (a && !vmms->closing && (a->starts || a->stop) && !uv_is_closing((uv_handle_t *)&a->timer))
		uv_timer_start(&a->timer, timer_due, 0, 0);
}

static const json_t *setting(const struct machine *machine, const char *key)
{
	return json_object_get(json_object_get(machine->config, "automatic"), key);
}

static bool setting_is(const struct machine *machine, const char *key, const char *word)
{
	const char *text = json_string_value(setting(machine, key));

	return text && !strcmp(text, word);
}

/* Of those that may start at one time: who comes first finds more of the host's memory. */
static int priority_of(const struct machine *machine)
{
	return machine ? (int)json_integer_value(json_object_get(json_object_get(machine->config, "limits"), "memory_priority")) : 0;
}

static void add_start(struct vmms *vmms, const struct machine *machine, int order, uint64_t milliseconds)
{
	struct start **at = &vmms->automatic->starts, *start = calloc(1, sizeof(*start));

	if (!start)
		return;
	while (*at && priority_of(vmms_find(vmms, (*at)->id)) >= priority_of(machine))
		at = &(*at)->next;
	memcpy(start->id, machine->id, sizeof(start->id));
	start->order = order;
	start->due = uv_now(&vmms->loop) + milliseconds;
	start->next = *at;
	*at = start;
}

static bool is_to_start(const struct automatic *a, const struct machine *machine)
{
	for (const struct start *start = a->starts; start; start = start->next)
		if (!strcmp(start->id, machine->id))
			return true;
	return false;
}

/* As the host has started. */
static void start_if_it_should(struct machine *machine)
{
	if (setting_is(machine, "start", "always") || (setting_is(machine, "start", "if-was-running") && machine->wanted))
		add_start(machine->vmms, machine, (int)json_integer_value(setting(machine, "order")),
			  (uint64_t)json_integer_value(setting(machine, "delay")) * 1000);
}

void automatic_ended(struct machine *machine)
{
	start_if_it_should(machine);
}

void automatic_start(struct vmms *vmms)
{
	struct automatic *a = vmms->automatic;

	for (size_t i = 0; i < vmms->machine_count; i++) {
		struct machine *machine = vmms->machines[i];

		machine->ends_with_host = a->was_stopping && machine->link;
		if (!machine_is_off(machine) || machine->phase != VM_READY || is_to_start(a, machine))
			continue;
		if (!a->host_started)
			machine_end_unseen(machine);
		else
			start_if_it_should(machine);
	}
	a->was_stopping = false;
	automatic_kick(vmms);
}

/* --- starting ----------------------------------------------------------------------------------------- */

/* Whether there is nothing left to do for it: it runs, or it cannot start, or is gone. */
static bool is_over(struct vmms *vmms, const struct start *start)
{
	const struct machine *machine = vmms_find(vmms, start->id);

	if (!machine || machine->phase != VM_READY || machine->state == MACHINE_BROKEN || automatic_stopping(vmms))
		return true;
	return start->begun ? machine->state != MACHINE_STARTING : !machine_is_off(machine);
}

static void drop_those_over(struct vmms *vmms)
{
	struct start **at = &vmms->automatic->starts;

	while (*at) {
		struct start *start = *at;

		if (!is_over(vmms, start)) {
			at = &start->next;
			continue;
		}
		*at = start->next;
		free(start);
	}
}

static int lowest_order(const struct automatic *a)
{
	int lowest = INT32_MAX;

	for (const struct start *start = a->starts; start; start = start->next)
		if (start->order != NO_ORDER && start->order < lowest)
			lowest = start->order;
	return lowest;
}

/* The memory of one that has crashed is free again a while after its process is gone. */
static bool wait_for_memory(struct vmms *vmms, struct start *start, const struct error *err)
{
	if (err->code != ENOBUFS || start->order != NO_ORDER || start->tries >= MEMORY_TRIES)
		return false;
	if (!start->tries++)
		vmms_event(vmms, vmms_find(vmms, start->id), "vm.warning", "it waits for memory, to start again: %s", err->text);
	start->due = uv_now(&vmms->loop) + 1000;
	return true;
}

static void begin(struct vmms *vmms, struct start *start)
{
	struct machine *machine = vmms_find(vmms, start->id);
	struct error err = {0};
	struct job *job;
	int r = machine_start(machine, &job, &err);

	if (r && wait_for_memory(vmms, start, &err))
		return;
	start->begun = true;
	if (r)
		vmms_event(vmms, machine, "vm.failed", "it could not be started: %s", err.text);
}

/* Begins what may begin, and waits for what comes next. */
static void go_on_starting(struct vmms *vmms)
{
	struct automatic *a = vmms->automatic;
	uint64_t now = uv_now(&vmms->loop), next = UINT64_MAX;
	int lowest;

	drop_those_over(vmms);
	lowest = lowest_order(a);
	for (struct start *start = a->starts; start; start = start->next) {
		struct machine *machine = vmms_find(vmms, start->id);

		if (start->begun || (start->order != NO_ORDER && start->order > lowest))
			continue;
		if (start->due <= now && !machine->job && !machine->readers)
			begin(vmms, start);
		else if (start->due <= now)
			checkpoint_make_way(machine); /* its end tells */
		if (start->due > now)
			next = start->due < next ? start->due : next;
	}
	/* One that failed at once is over by now; those that begun tell by the end of their jobs. */
	for (const struct start *start = a->starts; start; start = start->next)
		if (is_over(vmms, start))
			next = now;
	if (next != UINT64_MAX)
		uv_timer_start(&a->timer, timer_due, next - now, 0);
}

/* --- after a crash ------------------------------------------------------------------------------------ */

static bool too_often(struct machine *machine)
{
	int64_t now = (int64_t)uv_now(&machine->vmms->loop);

	if (!machine->crashes || now - machine->first_crash > CRASHES_WITHIN) {
		machine->crashes = 0;
		machine->first_crash = now;
	}
	return ++machine->crashes > CRASHES_MAX;
}

void automatic_crashed(struct machine *machine)
{
	static const uint64_t pauses[CRASHES_MAX] = {0, 1000, 10000};
	struct vmms *vmms = machine->vmms;

	if (automatic_stopping(vmms) || !setting_is(machine, "recovery", "restart")) {
		machine_set_wanted(machine, automatic_stopping(vmms));
		return;
	}
	if (too_often(machine)) {
		machine_set_wanted(machine, false);
		vmms_event(vmms, machine, "vm.failed", "it has crashed %u times within %d minutes: it stays off",
			   machine->crashes, CRASHES_WITHIN / 60000);
		machine->crashes = 0;
		return;
	}
	vmms_event(vmms, machine, "vm.restarting", "it has crashed, and starts again");
	add_start(vmms, machine, NO_ORDER, pauses[machine->crashes - 1]);
	automatic_kick(vmms);
}

/* --- the host's stop ---------------------------------------------------------------------------------- */

/* What is tried on a machine, in this order, until it is off. */
enum { TRY_SAVE, TRY_RESUME, TRY_SHUT_DOWN, TRY_TURN_OFF };

static int first_try(const struct machine *machine)
{
	if (setting_is(machine, "stop", "turn-off"))
		return TRY_TURN_OFF;
	return setting_is(machine, "stop", "save") ? TRY_SAVE : TRY_RESUME;
}

static int try(struct machine *machine, int what, unsigned seconds, struct error *err)
{
	struct job *job;

	switch (what) {
	case TRY_SAVE:
		return machine_save(machine, &job, err);
	case TRY_RESUME:
		return machine->state == MACHINE_PAUSED ? machine_resume(machine, &job, err) : -EALREADY;
	case TRY_SHUT_DOWN:
		return machine_shut_down(machine, seconds, &job, err);
	default:
		return machine_turn_off(machine, &job, err);
	}
}

/* False: it is off. */
static bool stop_machine(struct machine *machine)
{
	struct automatic *a = machine->vmms->automatic;
	uint64_t now = uv_now(&machine->vmms->loop);
	struct error err = {0};

	/* One that waits for its ports (ports.h) has no worker yet, and gets none: its job's end tells. */
	if (!machine->link)
		return machine->state == MACHINE_STARTING;
	/* What is stopped here is taken up again by a daemon that starts. */
	if (machine->job && machine->job->yields)
		checkpoint_stop_job(machine->job);
	/* A job that has its own end is waited for, but not for longer than a guest that shuts down. */
	if (machine->job && (now < a->deadline || !strcmp(machine->job->kind, "vm.save")))
		return true;
	if (machine->stop_try < first_try(machine))
		machine->stop_try = first_try(machine);
	if (now >= a->deadline)
		machine->stop_try = TRY_TURN_OFF;
	if (machine->stop_try == TRY_TURN_OFF && !setting_is(machine, "stop", "turn-off"))
		vmms_event(machine->vmms, machine, "vm.failed", "it could be stopped in no other way: its power is cut");
	while (machine->stop_try <= TRY_TURN_OFF &&
	       try(machine, machine->stop_try++, now < a->deadline ? (unsigned)((a->deadline - now) / 1000) : 0, &err))
		;
	if (machine->stop_try > TRY_TURN_OFF)
		machine->stop_try = TRY_TURN_OFF;
	return true;
}

static void go_on_stopping(struct vmms *vmms)
{
	struct automatic *a = vmms->automatic;
	struct job *job = a->stop;
	uint64_t now = uv_now(&vmms->loop);
	size_t left = 0;

	for (size_t i = 0; i < vmms->machine_count; i++)
		left += stop_machine(vmms->machines[i]);
	if (left) {
		/* What ends tells so; what does not is looked at when its time is over. */
		uv_timer_start(&a->timer, timer_due, now < a->deadline ? a->deadline - now : 1000, 0);
		return;
	}
	a->stop = NULL;
	vmms_event(vmms, NULL, "host.stopped", "the host's machines are off");
	job_end(job, NULL);
}

static void timer_due(uv_timer_t *timer)
{
	struct vmms *vmms = timer->data;

	if (vmms->automatic->stop)
		go_on_stopping(vmms);
	else
		go_on_starting(vmms);
}

int automatic_stop(struct vmms *vmms, unsigned seconds, struct job **job, struct error *err)
{
	struct automatic *a = vmms->automatic;
	int r;

	if (a->stop)
		return error_set(err, EALREADY, "the host's machines are being stopped already: job %lld",
				 (long long)a->stop->id);
	r = job_new(job, vmms, NULL, "host.stop-machines", err);
	if (r)
		return r;
	/* From here on whatever happens counts as the host's end: what runs now is to run at its next start. */
	r = store_host_set(vmms->store, "stopped", "yes", err);
	if (r) {
		job_end(*job, err);
		return 0;
	}
	a->host_stopped = true;
	a->stop = *job;
	a->deadline = uv_now(&vmms->loop) + seconds * 1000ull;
	for (size_t i = 0; i < vmms->machine_count; i++) {
		vmms->machines[i]->stop_try = 0;
		vmms->machines[i]->merge_waits = false;
	}
	automatic_kick(vmms);
	return 0;
}

void automatic_in_use(struct vmms *vmms)
{
	struct automatic *a = vmms->automatic;
	struct error err;

	if (!a->host_stopped || a->stop)
		return;
	a->host_stopped = false;
	if (store_host_set(vmms->store, "stopped", NULL, &err))
		log_write(LOG_LEVEL_ERROR, "%s", err.text);
}
