/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/measure.h"

#include <errno.h>
#include <string.h>

#include "vmms/metering.h"

#define SAMPLE_SECONDS 15u
#define STORE_SAMPLES  4u /* every so many samples all are stored */

struct measuring {
	uv_timer_t timer;
	unsigned samples;
};

/* A worker that is asked: the machine may be gone when it answers. */
struct question {
	struct vmms *vmms;
	char id[GUID_TEXT_SIZE];
	int64_t cpu_us;
};

static struct measure_time now(void)
{
	struct measure_time time = {.up = store_uptime(), .real = vmms_now()};

	snprintf(time.boot, sizeof(time.boot), "%s", store_boot_id());
	return time;
}

/* The nominal speed of the host's processors, which Hyper-V's figure is told in, in MHz; 0: it is not known. */
static double host_mhz(void)
{
	static double mhz = -1;
	char line[256];
	FILE *file;

	if (mhz >= 0)
		return mhz;
	mhz = 0;
	file = fopen("/sys/devices/system/cpu/cpu0/cpufreq/base_frequency", "re");
	if (file && fscanf(file, "%lf", &mhz) == 1)
		mhz /= 1000;
	if (file)
		fclose(file);
	file = mhz > 0 ? NULL : fopen("/proc/cpuinfo", "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "cpu MHz : %lf", &mhz) == 1)
			break;
	if (file)
		fclose(file);
	return mhz;
}

/* --- host.db --------------------------------------------------------------------------------------------- */

static int store(struct machine *machine, struct error *err)
{
	json_t *account = measure_save(machine->measure);
	int r = account ? store_metering_set(machine->vmms->store, machine->id, account, err) : error_set(err, ENOMEM, "no memory for metering");

	json_decref(account);
	machine->measure->changed = r != 0;
	return r;
}

static void store_or_tell(struct machine *machine)
{
	struct error err;

	if (store(machine, &err))
		log_write(LOG_LEVEL_ERROR, "machine \"%s\": its metering is not stored: %s", machine->name, err.text);
}

/* In one transaction. */
static void store_all(struct vmms *vmms)
{
	struct error err;
	bool any = false;

	for (size_t i = 0; i < vmms->machine_count; i++)
		any |= vmms->machines[i]->measure && vmms->machines[i]->measure->changed;
	if (!any)
		return;
	store_group_begin(vmms->store);
	for (size_t i = 0; i < vmms->machine_count; i++)
		if (vmms->machines[i]->measure && vmms->machines[i]->measure->changed)
			store_or_tell(vmms->machines[i]);
	if (store_group_end(vmms->store, &err))
		log_write(LOG_LEVEL_ERROR, "metering is not stored: %s", err.text);
}

static void load(void *context, const char *vm, const json_t *account)
{
	struct vmms *vmms = context;
	struct machine *machine = vmms_find(vmms, vm);

	if (!machine)
		return;
	machine->measure = measure_load(account);
	if (!machine->measure)
		vmms_event(vmms, machine, "vm.warning", "the account of its resource metering cannot be read: enable that again");
}

/* --- workers ----------------------------------------------------------------------------------------------- */

void measure_heard(struct machine *machine, const json_t *told, int64_t cpu_us)
{
	struct measure_time time = now();
	json_t *rules;
	bool began;

	if (!machine->measure)
		return;
	rules = measure_rules(machine->config);
	began = machine->measure->begins;
	measure_advance(machine->measure, &time);
	measure_note(machine->measure, told, cpu_us, rules);
	json_decref(rules);
	/* From where on it counts, no daemon that comes later could find out. */
	if (began && !machine->measure->begins)
		store_or_tell(machine);
}

static void answered(void *context, const json_t *answer, const struct error *err)
{
	struct question *question = context;
	struct machine *machine = err ? NULL : vmms_find(question->vmms, question->id);

	if (machine && machine->link)
		measure_heard(machine, json_object_get(answer, "metering"), question->cpu_us);
	free(question);
}

/* `rules` are taken over. */
static void ask(struct machine *machine, json_t *rules)
{
	struct question *question = calloc(1, sizeof(*question));
	int64_t resident;

	if (!question || metering_process(machine, &question->cpu_us, &resident)) {
		free(question);
		json_decref(rules);
		return;
	}
	if (machine->measure)
		measure_note_resident(machine->measure, resident);
	question->vmms = machine->vmms;
	memcpy(question->id, machine->id, sizeof(question->id));
	worker_link_command(machine->link, json_pack("{s:s, s:o}", "command", "meter", "adapters", rules), answered, question);
}

static void sample(uv_timer_t *timer)
{
	struct vmms *vmms = timer->data;

	for (size_t i = 0; i < vmms->machine_count; i++) {
		struct machine *machine = vmms->machines[i];

		if (machine->measure && machine->link && machine->state != MACHINE_STARTING)
			ask(machine, measure_rules(machine->config));
	}
	if (++vmms->measuring->samples % STORE_SAMPLES == 0)
		store_all(vmms);
}

/* --- from start to end ------------------------------------------------------------------------------------- */

int measure_open(struct vmms *vmms, struct error *err)
{
	struct measuring *measuring = calloc(1, sizeof(*measuring));

	if (!measuring)
		return error_set(err, ENOMEM, "no memory for metering");
	vmms->measuring = measuring;
	measuring->timer.data = vmms;
	uv_timer_init(&vmms->loop, &measuring->timer);
	uv_unref((uv_handle_t *)&measuring->timer);
	return store_metering_list(vmms->store, load, vmms, err);
}

void measure_begin(struct vmms *vmms)
{
	uv_timer_start(&vmms->measuring->timer, sample, SAMPLE_SECONDS * 1000ull, SAMPLE_SECONDS * 1000ull);
}

static void closed(uv_handle_t *handle)
{
	free(handle);
}

void measure_close(struct vmms *vmms)
{
	if (!vmms->measuring)
		return;
	store_all(vmms);
	_Static_assert(offsetof(struct measuring, timer) == 0, "the handle is what is freed");
	uv_close((uv_handle_t *)&vmms->measuring->timer, closed);
	vmms->measuring = NULL;
}

/* --- machines ------------------------------------------------------------------------------------------------ */

static int64_t memory_of(const struct machine *machine)
{
	return json_integer_value(json_object_get(machine->config, "memory"));
}

void measure_started(struct machine *machine, bool anew)
{
	struct measure_time time = now();

	if (!machine->measure)
		return;
	measure_runs(machine->measure, &time, memory_of(machine), anew);
	ask(machine, measure_rules(machine->config));
	store_or_tell(machine);
}

void measure_ended(struct machine *machine, const json_t *result, int64_t end)
{
	const char *text = json_string_value(json_object_get(result, "metering"));
	struct measure_time time = now();
	json_t *told, *rules;

	if (!machine->measure || (!machine->measure->assigned && !result))
		return;
	told = text ? json_loads(text, 0, NULL) : NULL;
	rules = measure_rules(machine->config);
	measure_note(machine->measure, told, json_integer_value(json_object_get(result, "cpu_us")), rules);
	json_decref(told);
	json_decref(rules);
	/* With no word of when it ended, it is taken to have run no longer than somebody saw it run. */
	measure_stops(machine->measure, &time, result && !end ? time.real : end);
	store_or_tell(machine);
}

/* --- what is asked for ----------------------------------------------------------------------------------------- */

int measure_enable(struct machine *machine, struct error *err)
{
	struct measure_time time = now();
	int r;

	if (machine->measure)
		return 0;
	machine->measure = measure_new(&time);
	if (!machine->measure)
		return error_set(err, ENOMEM, "no memory for metering");
	if (machine->link && machine->state != MACHINE_STARTING) {
		measure_runs(machine->measure, &time, memory_of(machine), false);
		machine->measure->begins = true;
	}
	r = store(machine, err);
	if (r) {
		measure_free(machine->measure);
		machine->measure = NULL;
		return r;
	}
	if (machine->measure->begins)
		ask(machine, measure_rules(machine->config));
	vmms_event(machine->vmms, machine, "vm.metering", "resource metering is enabled");
	return 0;
}

int measure_disable(struct machine *machine, struct error *err)
{
	int r = machine->measure ? store_metering_set(machine->vmms->store, machine->id, NULL, err) : 0;

	if (r || !machine->measure)
		return r;
	measure_free(machine->measure);
	machine->measure = NULL;
	if (machine->link && machine->state != MACHINE_STARTING)
		ask(machine, json_array());
	vmms_event(machine->vmms, machine, "vm.metering", "resource metering is disabled");
	return 0;
}

int measure_begin_anew(struct machine *machine, struct error *err)
{
	struct measure_time time = now();
	int r;

	if (!machine->measure)
		return error_set(err, EALREADY, "resource metering of machine \"%s\" is not enabled: enable it first", machine->name);
	measure_reset(machine->measure, &time);
	r = store(machine, err);
	if (!r)
		vmms_event(machine->vmms, machine, "vm.metering", "resource metering is reset");
	return r;
}

json_t *measure_now(struct machine *machine)
{
	struct measure_time time = now();
	int64_t cpu_us, resident;

	if (!machine->measure)
		return NULL;
	if (machine->link && machine->measure->assigned && !metering_process(machine, &cpu_us, &resident))
		measure_note_resident(machine->measure, resident);
	measure_advance(machine->measure, &time);
	return measure_report(machine->measure, host_mhz());
}
