/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/metering.h"

#include <errno.h>
#include <string.h>

#include "vmms/measure.h"

#define ANSWER_MILLISECONDS 2000u

struct taking {
	struct vmms *vmms;
	struct meter *meters;
	size_t count;
	unsigned asked; /* workers that have not answered, and the timer */
	bool told;
	uv_timer_t timer;
	void (*done)(void *context, const struct meter *meters, size_t count);
	void *context;
};

/* A worker that is asked: its answer may come when the machine is gone. */
struct question {
	struct taking *taking;
	size_t index;
};

static void release(struct taking *taking)
{
	if (--taking->asked)
		return;
	for (size_t i = 0; i < taking->count; i++) {
		free(taking->meters[i].name);
		json_decref(taking->meters[i].adapters);
		json_decref(taking->meters[i].report);
		json_decref(taking->meters[i].guest);
		json_decref(taking->meters[i].heartbeat);
	}
	free(taking->meters);
	free(taking);
}

static void timer_closed(uv_handle_t *handle)
{
	release(handle->data);
}

/* It may be gone by now, and is mostly where it was. */
static struct machine *machine_of(const struct taking *taking, size_t index)
{
	struct vmms *vmms = taking->vmms;
	const char *id = taking->meters[index].id;

	if (index < vmms->machine_count && !strcmp(vmms->machines[index]->id, id))
		return vmms->machines[index];
	return vmms_find(vmms, id);
}

static void report(struct taking *taking)
{
	for (size_t i = 0; i < taking->count; i++) {
		struct machine *machine = taking->meters[i].metered ? machine_of(taking, i) : NULL;

		if (machine)
			taking->meters[i].report = measure_now(machine);
	}
}

static void tell(struct taking *taking)
{
	if (taking->told)
		return;
	taking->told = true;
	report(taking);
	taking->done(taking->context, taking->meters, taking->count);
	uv_close((uv_handle_t *)&taking->timer, timer_closed);
}

static void late(uv_timer_t *timer)
{
	tell(timer->data);
}

/* --- disks: what the worker counted --------------------------------------------------------------------- */

#define NUMBER_MAX (INT64_C(1) << 53)

/* The worker may be anyone's: the sum of all that it tells is no less than 0, and a number that JSON has. */
static uint64_t number(const json_t *object, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(object, key));

	return n < 0 ? 0 : n > NUMBER_MAX ? (uint64_t)NUMBER_MAX : (uint64_t)n;
}

static void add_controller(struct meter *meter, json_t *controller)
{
	const char *name;
	json_t *channel;

	json_object_foreach(controller, name, channel) {
		if (strncmp(name, "channel ", 8))
			continue;
		meter->disk_requests += number(channel, "requests");
		meter->disk_read += number(channel, "read_bytes");
		meter->disk_written += number(channel, "written_bytes");
		meter->disk_errors += number(channel, "errors");
	}
}

static void add_adapters(struct meter *meter, json_t *adapters)
{
	json_t *adapter;
	size_t i;

	meter->adapters = json_incref(adapters);
	json_array_foreach(adapters, i, adapter) {
		const json_t *counters = json_object_get(adapter, "counters");

		meter->network_sent_frames += number(counters, "sent_frames");
		meter->network_sent += number(counters, "sent_bytes");
		meter->network_received_frames += number(counters, "received_frames");
		meter->network_received += number(counters, "received_bytes");
		meter->network_dropped += number(counters, "sent_dropped") + number(counters, "received_dropped");
	}
}

static void answered(void *context, const json_t *answer, const struct error *err)
{
	struct question *question = context;
	struct taking *taking = question->taking;
	struct meter *meter = &taking->meters[question->index];
	struct machine *machine = !err && meter->metered ? machine_of(taking, question->index) : NULL;
	const char *name;
	json_t *value;

	if (machine && meter->has_process)
		measure_heard(machine, json_object_get(answer, "metering"), (int64_t)(meter->cpu_seconds * 1e6));
	if (!err && !taking->told) {
		meter->has_disk = true;
		add_adapters(meter, json_object_get(answer, "adapters"));
		meter->guest = json_incref(json_object_get(answer, "guest"));
		meter->heartbeat = json_incref(json_object_get(answer, "heartbeat"));
		meter->guest_seconds = number(answer, "reference_time_100ns") / 10000000;
		json_object_foreach((json_t *)(uintptr_t)answer, name, value)
			if (!strncmp(name, "scsi", 4))
				add_controller(meter, value);
	}
	free(question);
	/* The timer's share is left: all have answered. */
	if (taking->asked == 2)
		tell(taking);
	release(taking);
}

/* --- the process ---------------------------------------------------------------------------------------- */

/* Whether a process is called so. */
static bool is_called(int pid, const char *name)
{
	char path[64], text[32] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	if (!fgets(text, sizeof(text), file))
		text[0] = '\0';
	fclose(file);
	text[strcspn(text, "\n")] = '\0';
	return !strcmp(text, name);
}

/* The machine is its keeper's child (docs/worker.md), and has its name; the default switch is another. 0: it cannot be told. */
static int machine_process(int keeper)
{
	char path[64];
	int child = 0, found = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", keeper, keeper);
	file = fopen(path, "re");
	if (!file)
		return 0;
	while (!found && fscanf(file, "%d", &child) == 1)
		if (is_called(child, "bulkhead-worker"))
			found = child;
	fclose(file);
	return found;
}

/* Of proc(5)'s stat: behind the name, which may have anything in it, come the fields from the third on. */
static void read_process(struct meter *meter, int pid)
{
	unsigned long long user, system;
	char path[64], text[1024];
	const char *rest;
	size_t size;
	long pages;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = pid ? fopen(path, "re") : NULL;
	if (!file)
		return;
	size = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[size] = '\0';
	rest = strrchr(text, ')');
	if (!rest || sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %*u %*u %ld", &user,
			    &system, &pages) != 3)
		return;
	meter->has_process = true;
	meter->cpu_seconds = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
	meter->memory_resident = (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

int metering_process(const struct machine *machine, int64_t *cpu_us, int64_t *resident)
{
	struct meter meter = {.runs = true};

	read_process(&meter, machine_process(worker_link_pid(machine->link)));
	*cpu_us = (int64_t)(meter.cpu_seconds * 1e6);
	*resident = (int64_t)meter.memory_resident;
	return meter.has_process ? 0 : -ESRCH;
}

uint64_t metering_resident(const struct machine *machine)
{
	int64_t cpu_us, resident;

	return metering_process(machine, &cpu_us, &resident) ? 0 : (uint64_t)resident;
}

/* "MemAvailable:   1234 kB" */
uint64_t host_memory_available(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return (uint64_t)kib * 1024;
}

/* --- all of it ------------------------------------------------------------------------------------------ */

static void begin(struct taking *taking, const struct machine *machine)
{
	size_t index = taking->count++;
	struct meter *meter = &taking->meters[index];
	struct question *question;

	meter->name = strdup(machine->name);
	memcpy(meter->id, machine->id, sizeof(meter->id));
	meter->state = machine_state_word(machine->state);
	meter->state_since = machine->state_since;
	meter->processors = number(json_object_get(machine->config, "processors"), "count");
	meter->metered = machine->measure != NULL;
	if (!machine->link)
		return;
	meter->runs = true;
	meter->memory_assigned = number(machine->config, "memory");
	read_process(meter, machine_process(worker_link_pid(machine->link)));
	question = calloc(1, sizeof(*question));
	if (!question)
		return;
	*question = (struct question){taking, index};
	taking->asked++;
	worker_link_command(machine->link, json_pack("{s:s}", "command", "status"), answered, question);
}

int metering_take(struct vmms *vmms, const struct machine *machine,
    void (*done)(void *context, const struct meter *meters, size_t count), void *context, struct error *err)
{
	struct taking *taking = calloc(1, sizeof(*taking));
	size_t room = machine ? 1 : vmms->machine_count;

	if (taking)
		taking->meters = calloc(room + 1, sizeof(*taking->meters));
	if (!taking || !taking->meters) {
		free(taking);
		return error_set(err, ENOMEM, "no memory to measure machines");
	}
	taking->vmms = vmms;
	taking->done = done;
	taking->context = context;
	/* The timer's share, and ours: nobody is told before all were asked. */
	taking->asked = 2;
	taking->timer.data = taking;
	uv_timer_init(&vmms->loop, &taking->timer);
	uv_timer_start(&taking->timer, late, ANSWER_MILLISECONDS, 0);
	if (machine)
		begin(taking, machine);
	for (size_t i = 0; !machine && i < room; i++)
		begin(taking, vmms->machines[i]);
	if (taking->asked == 2)
		tell(taking);
	release(taking);
	return 0;
}
