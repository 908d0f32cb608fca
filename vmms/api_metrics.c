/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_metrics.c - /metrics in Prometheus' text format, and a machine's metering. */
#include <errno.h>
#include <string.h>

#include "vmms/api.h"
#include "vmms/measure.h"
#include "vmms/metering.h"
#include "vmms/switches.h"
#include "vmms/version.h"

/* --- the text format ------------------------------------------------------------------------------------ */

static void put_head(FILE *to, const char *name, const char *type, const char *help)
{
	fprintf(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_label(FILE *to, const char *text)
{
	for (const char *c = text ? text : ""; *c; c++) {
		if (*c == '\n')
			fputs("\\n", to);
		else if (*c == '"' || *c == '\\')
			fprintf(to, "\\%c", *c);
		else
			fputc(*c, to);
	}
}

struct vm_metric {
	const char *name, *type, *help;
	bool (*known)(const struct meter *meter);
	double (*value)(const struct meter *meter);
};

static bool is_any(const struct meter *m)
{
	return m->name != NULL;
}

static bool does_run(const struct meter *m)
{
	return m->name && m->runs;
}

static bool has_process(const struct meter *m)
{
	return m->name && m->has_process;
}

static bool has_disk(const struct meter *m)
{
	return m->name && m->has_disk;
}

static double up(const struct meter *m)
{
	return m->runs;
}

static double processors(const struct meter *m)
{
	return (double)m->processors;
}

static double cpu(const struct meter *m)
{
	return m->cpu_seconds;
}

static double assigned(const struct meter *m)
{
	return (double)m->memory_assigned;
}

static double resident(const struct meter *m)
{
	return (double)m->memory_resident;
}

static double requests(const struct meter *m)
{
	return (double)m->disk_requests;
}

static double bytes_read(const struct meter *m)
{
	return (double)m->disk_read;
}

static double bytes_written(const struct meter *m)
{
	return (double)m->disk_written;
}

static double errors(const struct meter *m)
{
	return (double)m->disk_errors;
}

static double sent_frames(const struct meter *m)
{
	return (double)m->network_sent_frames;
}

static double bytes_sent(const struct meter *m)
{
	return (double)m->network_sent;
}

static double received_frames(const struct meter *m)
{
	return (double)m->network_received_frames;
}

static double bytes_received(const struct meter *m)
{
	return (double)m->network_received;
}

static double dropped(const struct meter *m)
{
	return (double)m->network_dropped;
}

static const struct vm_metric vm_metrics[] = {
    {"bulkhead_vm_up", "gauge", "Whether the machine has a worker.", is_any, up},
    {"bulkhead_vm_processors", "gauge", "Virtual processors.", is_any, processors},
    {"bulkhead_vm_cpu_seconds_total", "counter", "Processor time of the machine's process, guest and devices.", has_process, cpu},
    {"bulkhead_vm_memory_assigned_bytes", "gauge", "Memory that the guest has.", does_run, assigned},
    {"bulkhead_vm_memory_resident_bytes", "gauge", "Memory of the machine's process that is in the host's.", has_process, resident},
    {"bulkhead_vm_disk_requests_total", "counter", "Requests to all disks, since the guest's last reset.", has_disk, requests},
    {"bulkhead_vm_disk_read_bytes_total", "counter", "Bytes read of all disks.", has_disk, bytes_read},
    {"bulkhead_vm_disk_written_bytes_total", "counter", "Bytes written to all disks.", has_disk, bytes_written},
    {"bulkhead_vm_disk_errors_total", "counter", "Disk requests that failed.", has_disk, errors},
    {"bulkhead_vm_network_sent_frames_total", "counter", "Frames of the guest, by all adapters, since its last reset.", has_disk, sent_frames},
    {"bulkhead_vm_network_sent_bytes_total", "counter", "Bytes in them.", has_disk, bytes_sent},
    {"bulkhead_vm_network_received_frames_total", "counter", "Frames that the guest was given.", has_disk, received_frames},
    {"bulkhead_vm_network_received_bytes_total", "counter", "Bytes in them.", has_disk, bytes_received},
    {"bulkhead_vm_network_dropped_frames_total", "counter", "Frames that were lost at an adapter, either way.", has_disk, dropped},
};

/* --- resource metering ------------------------------------------------------------------------------------ */

/* Of a machine's report: object and key, NULL where it is at the top; and what makes it Prometheus' unit. */
static const struct report_metric {
	const char *name, *type, *help, *object, *key;
	double unit;
} report_metrics[] = {
    {"bulkhead_vm_metering_seconds", "gauge", "For how long the machine is metered.", NULL, "duration_ms", 1e-3},
    {"bulkhead_vm_metering_running_seconds", "gauge", "For how long of that it ran.", NULL, "ran_ms", 1e-3},
    {"bulkhead_vm_metering_cpu_seconds_total", "counter", "Processor time since it is metered, over all its runs.", "processor", "seconds", 1},
    {"bulkhead_vm_metering_cpu_average_ratio", "gauge", "That, as a part of one of the host's processors.", "processor", "average_percent", 1e-2},
    {"bulkhead_vm_metering_memory_average_bytes", "gauge", "Memory that the guest had, on average; off it has none.", "memory", "average", 1},
    {"bulkhead_vm_metering_memory_minimum_bytes", "gauge", "The least memory that it had while it ran.", "memory", "minimum", 1},
    {"bulkhead_vm_metering_memory_maximum_bytes", "gauge", "The most.", "memory", "maximum", 1},
    {"bulkhead_vm_metering_disk_operations_total", "counter", "Reads and writes of disks since it is metered.", "disk", "operations", 1},
    {"bulkhead_vm_metering_disk_normalized_operations_total", "counter", "The same in units of 8 KiB.", "disk", "normalized_operations", 1},
    {"bulkhead_vm_metering_disk_latency_average_seconds", "gauge", "How long one of them took, on average.", "disk", "average_latency_us", 1e-6},
    {"bulkhead_vm_metering_disk_read_bytes_total", "counter", "Bytes read of disks since it is metered.", "disk", "read_bytes", 1},
    {"bulkhead_vm_metering_disk_written_bytes_total", "counter", "Bytes written to disks since it is metered.", "disk", "written_bytes", 1},
    {"bulkhead_vm_metering_disk_allocation_bytes", "gauge", "What its hard disks may take.", "disk", "allocation", 1},
    {"bulkhead_vm_metering_disk_taken_bytes", "gauge", "What their files take.", "disk", "taken", 1},
    {"bulkhead_vm_metering_network_sent_bytes_total", "counter", "Bytes that the guest sent since it is metered.", "network", "sent_bytes", 1},
    {"bulkhead_vm_metering_network_received_bytes_total", "counter", "Bytes that it was given.", "network", "received_bytes", 1},
};

static void put_vm_labels(FILE *to, const char *name, const struct meter *meter)
{
	fprintf(to, "%s{vm=\"", name);
	put_label(to, meter->name);
	fprintf(to, "\",id=\"%s\"", meter->id);
}

static void put_report_metric(FILE *to, const struct report_metric *metric, const struct meter *meters, size_t count)
{
	put_head(to, metric->name, metric->type, metric->help);
	for (size_t i = 0; i < count; i++) {
		const json_t *object = metric->object ? json_object_get(meters[i].report, metric->object) : meters[i].report;
		const json_t *value = json_object_get(object, metric->key);

		if (!value)
			continue;
		put_vm_labels(to, metric->name, &meters[i]);
		fprintf(to, "} %.17g\n", json_number_value(value) * metric->unit);
	}
}

static void put_remotes(FILE *to, const struct meter *meters, size_t count)
{
	static const char name[] = "bulkhead_vm_metering_network_remote_bytes_total", *const labels[] = {"mac", "direction", "remote"};
	json_t *remote;
	size_t k;

	put_head(to, name, "counter", "Bytes of an adapter from (in), or to (out), these addresses since it is metered.");
	for (size_t i = 0; i < count; i++)
		json_array_foreach(json_object_get(json_object_get(meters[i].report, "network"), "remotes"), k, remote) {
			put_vm_labels(to, name, &meters[i]);
			for (size_t l = 0; l < ARRAY_SIZE(labels); l++) {
				fprintf(to, ",%s=\"", labels[l]);
				put_label(to, json_string_value(json_object_get(remote, labels[l])));
				fputc('"', to);
			}
			fprintf(to, "} %lld\n", (long long)json_integer_value(json_object_get(remote, "bytes")));
		}
}

static void put_reports(FILE *to, const struct meter *meters, size_t count)
{
	for (size_t i = 0; i < ARRAY_SIZE(report_metrics); i++)
		put_report_metric(to, &report_metrics[i], meters, count);
	put_remotes(to, meters, count);
}

static void put_vms(FILE *to, const struct vm_metric *metric, const struct meter *meters, size_t count)
{
	put_head(to, metric->name, metric->type, metric->help);
	for (size_t i = 0; i < count; i++) {
		if (!metric->known(&meters[i]))
			continue;
		put_vm_labels(to, metric->name, &meters[i]);
		fprintf(to, "} %.17g\n", metric->value(&meters[i]));
	}
}

/* --- the host ------------------------------------------------------------------------------------------- */

static void put_states(FILE *to, const struct meter *meters, size_t count)
{
	put_head(to, "bulkhead_host_vms", "gauge", "Machines by state.");
	for (enum machine_state state = MACHINE_OFF; state <= MACHINE_BROKEN; state++) {
		size_t n = 0;

		for (size_t i = 0; i < count; i++)
			n += !strcmp(meters[i].state, machine_state_word(state));
		fprintf(to, "bulkhead_host_vms{state=\"%s\"} %zu\n", machine_state_word(state), n);
	}
}

static void put_number(FILE *to, const char *name, const char *type, const char *help, double value)
{
	put_head(to, name, type, help);
	fprintf(to, "%s %.17g\n", name, value);
}

/* proc(5)'s first line of stat: the time of all processors, by what they did. */
static void put_processors(FILE *to)
{
	static const char *const modes[] = {"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"};
	unsigned long long ticks[ARRAY_SIZE(modes)] = {0};
	FILE *file = fopen("/proc/stat", "re");

	if (!file)
		return;
	if (fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &ticks[0], &ticks[1], &ticks[2], &ticks[3], &ticks[4],
		   &ticks[5], &ticks[6], &ticks[7]) == (int)ARRAY_SIZE(modes)) {
		put_head(to, "bulkhead_host_cpu_seconds_total", "counter", "Time of the host's processors.");
		for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
			fprintf(to, "bulkhead_host_cpu_seconds_total{mode=\"%s\"} %.17g\n", modes[i],
				(double)ticks[i] / (double)sysconf(_SC_CLK_TCK));
	}
	fclose(file);
}

static void put_host(FILE *to, const struct vmms *vmms)
{
	size_t resident_bytes = 0, jobs = 0;
	uv_rusage_t usage = {0};

	for (const struct job *job = vmms->jobs; job; job = job->next)
		jobs += !job->ended;
	uv_resident_set_memory(&resident_bytes);
	uv_getrusage(&usage);
	put_head(to, "bulkhead_build_info", "gauge", "Which bulkhead this is.");
	fputs("bulkhead_build_info{version=\"" BULKHEAD_VERSION "\"} 1\n", to);
	put_number(to, "bulkhead_host_jobs_running", "gauge", "Jobs at work.", (double)jobs);
	put_number(to, "bulkhead_host_processors", "gauge", "Processors of the host.", (double)sysconf(_SC_NPROCESSORS_ONLN));
	put_number(to, "bulkhead_host_memory_bytes", "gauge", "Memory of the host.",
		   (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE));
	put_number(to, "bulkhead_host_memory_available_bytes", "gauge", "Memory of the host that programs can have.",
		   (double)host_memory_available());
	put_processors(to);
	put_number(to, "process_resident_memory_bytes", "gauge", "Memory of the daemon.", (double)resident_bytes);
	put_number(to, "process_cpu_seconds_total", "counter", "Processor time of the daemon.",
		   (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
		       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
}

/* --- switches ------------------------------------------------------------------------------------------- */

struct port_metric {
	const char *name, *help, *key; /* of Interface.statistics */
};

static const struct port_metric port_metrics[] = {
    {"bulkhead_switch_port_received_packets_total", "Packets that came into the switch by this port.", "rx_packets"},
    {"bulkhead_switch_port_received_bytes_total", "Bytes in them.", "rx_bytes"},
    {"bulkhead_switch_port_received_dropped_packets_total", "Packets that were lost on their way in.", "rx_dropped"},
    {"bulkhead_switch_port_received_errors_total", "Packets that came in broken.", "rx_errors"},
    {"bulkhead_switch_port_sent_packets_total", "Packets that left the switch by this port.", "tx_packets"},
    {"bulkhead_switch_port_sent_bytes_total", "Bytes in them.", "tx_bytes"},
    {"bulkhead_switch_port_sent_dropped_packets_total", "Packets that were lost on their way out.", "tx_dropped"},
    {"bulkhead_switch_port_sent_errors_total", "Packets that could not be sent.", "tx_errors"},
};

static const struct port_metric member_metrics[] = {
    {"bulkhead_switch_port_link", "Whether the port has a link.", "link"},
    {"bulkhead_switch_port_active", "Of a team of adapters: whether this is the active one.", "active"},
    {"bulkhead_switch_port_lacp", "Of a team with LACP: whether the partner agrees.", "lacp"},
};

static void put_port(FILE *to, const char *name, const json_t *port, long long value)
{
	static const char *const labels[] = {"switch", "interface", "kind", "vm"};

	fprintf(to, "%s{", name);
	for (size_t i = 0; i < ARRAY_SIZE(labels); i++) {
		fprintf(to, "%s%s=\"", i ? "," : "", labels[i]);
		put_label(to, json_string_value(json_object_get(port, labels[i])));
		fputc('"', to);
	}
	fprintf(to, "} %lld\n", value);
}

static void put_switches(FILE *to, const json_t *figures)
{
	json_t *port, *value;
	size_t i;

	for (size_t k = 0; k < ARRAY_SIZE(port_metrics); k++) {
		put_head(to, port_metrics[k].name, "counter", port_metrics[k].help);
		json_array_foreach(figures, i, port) {
			value = json_object_get(json_object_get(json_object_get(port, "state"), "statistics"), port_metrics[k].key);
			if (value)
				put_port(to, port_metrics[k].name, port, json_integer_value(value));
		}
	}
	for (size_t k = 0; k < ARRAY_SIZE(member_metrics); k++) {
		put_head(to, member_metrics[k].name, "gauge", member_metrics[k].help);
		json_array_foreach(figures, i, port) {
			value = json_object_get(json_object_get(port, "state"), member_metrics[k].key);
			if (value)
				put_port(to, member_metrics[k].name, port, json_is_true(value));
		}
	}
}

/* --- the routes ----------------------------------------------------------------------------------------- */

struct asking {
	struct vmms *vmms;
	struct http_request *request;
	/* The text so far. */
	FILE *to;
	char *text;
	size_t size;
};

static void finish_metrics(void *context, const json_t *figures)
{
	struct asking *asking = context;
	struct error err;

	put_switches(asking->to, figures);
	if (!fclose(asking->to)) {
		http_reply_text(asking->request, 200, "text/plain; version=0.0.4; charset=utf-8", asking->text);
	} else {
		error_set(&err, ENOMEM, "no memory for metrics");
		http_fail(asking->request, &err);
	}
	free(asking);
}

static void reply_metrics(void *context, const struct meter *meters, size_t count)
{
	struct asking *asking = context;
	struct error err;

	asking->to = open_memstream(&asking->text, &asking->size);
	if (!asking->to) {
		error_set(&err, ENOMEM, "no memory for metrics");
		http_fail(asking->request, &err);
		free(asking);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(vm_metrics); i++)
		put_vms(asking->to, &vm_metrics[i], meters, count);
	put_reports(asking->to, meters, count);
	put_states(asking->to, meters, count);
	put_host(asking->to, asking->vmms);
	switches_figures(asking->vmms, finish_metrics, asking);
}

static const struct form form_meter_disk = {.kind = FORM_OBJECT,
					     .text = "of all disks, since the guest's last reset",
					     .fields = (const struct form_field[]){
						 {"requests", &answer_count, NULL, true},
						 {"read_bytes", &answer_count, NULL, true},
						 {"written_bytes", &answer_count, NULL, true},
						 {"errors", &answer_count, NULL, true},
						 {0},
					     }};
static const struct form form_meter_network = {.kind = FORM_OBJECT,
					       .text = "of all adapters, since the guest's last reset",
					       .fields = (const struct form_field[]){
						   {"sent_frames", &answer_count, NULL, true},
						   {"sent_bytes", &answer_count, NULL, true},
						   {"received_frames", &answer_count, NULL, true},
						   {"received_bytes", &answer_count, NULL, true},
						   {"dropped_frames", &answer_count, NULL, true},
						   {0},
					       }};
static const struct form meter_form = {.kind = FORM_OBJECT,
				       .name = "Meter",
				       .text = "what a machine took of the host since it was started; keys of what is not known are not there",
				       .fields = (const struct form_field[]){
					   {"name", &answer_text, NULL, false},
					   {"id", &answer_id, NULL, true},
					   {"state", &machine_state_form, NULL, true},
					   {"state_since", &answer_moment, NULL, true},
					   {"processors", &answer_count, NULL, true},
					   {"memory_assigned", &answer_count, NULL, false},
					   {"memory_resident", &answer_count, NULL, false},
					   {"cpu_seconds", &answer_seconds, NULL, false},
					   {"guest_seconds", &answer_count, NULL, false},
					   {"disk", &form_meter_disk, NULL, false},
					   {"network", &form_meter_network, NULL, false},
					   {"report", &measure_report_form, NULL, false},
					   {0},
				       }};
static const struct form form_meters = {.kind = FORM_LIST, .max = INT64_MAX, .items = &meter_form};
static const struct form meters_answer = {.kind = FORM_OBJECT,
					  .fields = (const struct form_field[]){{"vms", &form_meters, NULL, true}, NEXT_NAME_FIELD, {0}}};

static json_t *meter_json(const struct meter *meter)
{
	json_t *json = json_pack("{s:s*, s:s, s:s, s:I, s:I}", "name", meter->name, "id", meter->id, "state", meter->state,
				 "state_since", (json_int_t)meter->state_since, "processors", (json_int_t)meter->processors);

	if (meter->runs)
		json_object_set_new(json, "memory_assigned", json_integer((json_int_t)meter->memory_assigned));
	if (meter->has_process) {
		json_object_set_new(json, "memory_resident", json_integer((json_int_t)meter->memory_resident));
		json_object_set_new(json, "cpu_seconds", json_real(meter->cpu_seconds));
	}
	if (meter->has_disk) {
		json_object_set_new(json, "guest_seconds", json_integer((json_int_t)meter->guest_seconds));
		json_object_set_new(json, "disk",
				    json_pack("{s:I, s:I, s:I, s:I}", "requests", (json_int_t)meter->disk_requests, "read_bytes",
					      (json_int_t)meter->disk_read, "written_bytes", (json_int_t)meter->disk_written,
					      "errors", (json_int_t)meter->disk_errors));
		json_object_set_new(json, "network",
				    json_pack("{s:I, s:I, s:I, s:I, s:I}", "sent_frames", (json_int_t)meter->network_sent_frames,
					      "sent_bytes", (json_int_t)meter->network_sent, "received_frames",
					      (json_int_t)meter->network_received_frames, "received_bytes",
					      (json_int_t)meter->network_received, "dropped_frames", (json_int_t)meter->network_dropped));
	}
	if (meter->report)
		json_object_set(json, "report", meter->report);
	return json;
}

static void reply_meter(void *context, const struct meter *meters, size_t count)
{
	struct asking *asking = context;

	(void)count;
	http_reply(asking->request, 200, meter_json(meters));
	free(asking);
}

static void reply_meters(void *context, const struct meter *meters, size_t count)
{
	struct asking *asking = context;
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, meter_json(&meters[i]));
	api_reply_list(asking->request, "vms", list, NULL);
	free(asking);
}

static void ask(struct vmms *vmms, struct http_request *request, const struct machine *machine,
    void (*done)(void *context, const struct meter *meters, size_t count))
{
	struct asking *asking = malloc(sizeof(*asking));
	struct error err;

	if (asking) {
		*asking = (struct asking){.vmms = vmms, .request = request};
		if (!metering_take(vmms, machine, done, asking, &err))
			return;
	}
	free(asking);
	error_set(&err, ENOMEM, "no memory for metrics");
	http_fail(request, &err);
}

static void get_metrics(struct vmms *vmms, struct http_request *request)
{
	ask(vmms, request, NULL, reply_metrics);
}

static void get_all_metering(struct vmms *vmms, struct http_request *request)
{
	ask(vmms, request, NULL, reply_meters);
}

static void get_metering(struct vmms *vmms, struct http_request *request)
{
	const struct machine *machine = api_machine(vmms, request);

	if (machine)
		ask(vmms, request, machine, reply_meter);
}

/* Changes the machine's account, and answers with it. */
static void change_metering(struct vmms *vmms, struct http_request *request, int (*change)(struct machine *machine, struct error *err))
{
	struct machine *machine = api_machine(vmms, request);
	struct error err = {0};

	if (!machine)
		return;
	if (machine_check_state(machine, ~0u, "metered", &err) || change(machine, &err))
		http_fail(request, &err);
	else
		ask(vmms, request, machine, reply_meter);
}

static void enable_metering(struct vmms *vmms, struct http_request *request)
{
	change_metering(vmms, request, measure_enable);
}

static void disable_metering(struct vmms *vmms, struct http_request *request)
{
	change_metering(vmms, request, measure_disable);
}

static void reset_metering(struct vmms *vmms, struct http_request *request)
{
	change_metering(vmms, request, measure_begin_anew);
}

const struct route metrics_routes[] = {
    {"GET", "/metrics", "getMetrics", "Of all machines and the host, for Prometheus", ROLE_VIEWER, NULL, NULL, 200, ROUTE_TEXT,
     get_metrics, NULL},
    {"GET", "/v1/metering", "getMetering", "What all machines took of the host since each was started", ROLE_VIEWER, NULL, NULL, 200,
     0, get_all_metering, &meters_answer},
    {"GET", "/v1/vms/{vm}/metering", "getVmMetering", "What a machine took of the host since it was started", ROLE_VIEWER,
     NULL, NULL, 200, 0, get_metering, &meter_form},
    {"POST", "/v1/vms/{vm}/metering/enable", "enableVmMetering", "Keep an account of what it takes, from now on", ROLE_ADMINISTRATOR, NULL, NULL, 200, 0,
     enable_metering, &meter_form},
    {"POST", "/v1/vms/{vm}/metering/disable", "disableVmMetering", "Keep it no more: what was counted is lost", ROLE_ADMINISTRATOR, NULL, NULL, 200, 0,
     disable_metering, &meter_form},
    {"POST", "/v1/vms/{vm}/metering/reset", "resetVmMetering", "Begin the account anew", ROLE_ADMINISTRATOR, NULL, NULL, 200, 0, reset_metering, &meter_form},
    {0},
};
