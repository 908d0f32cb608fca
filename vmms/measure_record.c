/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/measure_record.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>

#define RECORD_VERSION 1
#define REMOTES_MAX    1024u /* rules come and go, and what they counted stays */

/* How a counter is called by the worker, and in host.db. */
static const struct {
	const char *object, *key, *name;
} counters[MEASURE_COUNTERS] = {
    [MEASURE_CPU] = {"", "", "cpu_us"},
    [MEASURE_OPERATIONS] = {"disk", "operations", "operations"},
    [MEASURE_NORMALIZED] = {"disk", "normalized", "normalized"},
    [MEASURE_READ] = {"disk", "read_bytes", "read_bytes"},
    [MEASURE_WRITTEN] = {"disk", "written_bytes", "written_bytes"},
    [MEASURE_LATENCY] = {"disk", "latency_us", "latency_us"},
    [MEASURE_SENT] = {"network", "sent_bytes", "sent_bytes"},
    [MEASURE_RECEIVED] = {"network", "received_bytes", "received_bytes"},
};

/* What else is a number in host.db. */
static const struct {
	const char *name;
	size_t offset;
} numbers[] = {
    {"since", offsetof(struct measure, since)},
    {"duration", offsetof(struct measure, duration)},
    {"ran", offsetof(struct measure, ran)},
    {"up", offsetof(struct measure, at.up)},
    {"real", offsetof(struct measure, at.real)},
    {"assigned", offsetof(struct measure, assigned)},
    {"resident", offsetof(struct measure, resident)},
    {"assigned_least", offsetof(struct measure, assigned_least)},
    {"assigned_most", offsetof(struct measure, assigned_most)},
    {"resident_least", offsetof(struct measure, resident_least)},
    {"resident_most", offsetof(struct measure, resident_most)},
    {"allocation", offsetof(struct measure, allocation)},
    {"taken", offsetof(struct measure, taken)},
};

static int64_t *number_at(struct measure *m, size_t i)
{
	return (int64_t *)(void *)((uint8_t *)m + numbers[i].offset);
}

/* What is no number, or negative, is 0. */
static int64_t number_of(const json_t *object, const char *key)
{
	json_int_t value = json_integer_value(json_object_get(object, key));

	return value < 0 ? 0 : value;
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static void add(int64_t *to, int64_t n)
{
	*to = n > INT64_MAX - *to ? INT64_MAX : *to + n;
}

/* --- life ------------------------------------------------------------------------------------------------ */

struct measure *measure_new(const struct measure_time *now)
{
	struct measure *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->remotes = json_object();
	m->at = *now;
	m->since = now->real;
	m->changed = true;
	return m;
}

void measure_free(struct measure *m)
{
	if (!m)
		return;
	json_decref(m->remotes);
	free(m);
}

void measure_reset(struct measure *m, const struct measure_time *now)
{
	struct measure kept = *m;

	json_object_clear(kept.remotes);
	*m = (struct measure){.since = now->real, .at = *now, .begins = kept.assigned > 0, .assigned = kept.assigned, .resident = kept.resident,
			      .has_allocation = kept.has_allocation, .allocation = kept.allocation, .taken = kept.taken, .remotes = kept.remotes, .changed = true,
			      .assigned_least = kept.assigned, .assigned_most = kept.assigned, .resident_least = kept.resident, .resident_most = kept.resident};
}

/* --- kept ------------------------------------------------------------------------------------------------ */

json_t *measure_save(const struct measure *m)
{
	json_t *json = json_pack("{s:i, s:s, s:s, s:b, s:b, s:f, s:f, s:O, s:{}, s:{}}", "version", RECORD_VERSION, "boot", m->at.boot, "run", m->run,
				 "begins", m->begins, "has_allocation", m->has_allocation, "assigned_sum", m->assigned_sum, "resident_sum", m->resident_sum,
				 "remotes", m->remotes, "sum", "told");

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		json_object_set_new(json, numbers[i].name, json_integer((json_int_t)*number_at((struct measure *)(uintptr_t)m, i)));
	for (size_t i = 0; i < MEASURE_COUNTERS; i++) {
		json_object_set_new(json_object_get(json, "sum"), counters[i].name, json_integer((json_int_t)m->sum[i]));
		json_object_set_new(json_object_get(json, "told"), counters[i].name, json_integer((json_int_t)m->told[i]));
	}
	return json;
}

struct measure *measure_load(const json_t *saved)
{
	static const struct measure_time never = {.up = 0};
	struct measure *m;

	if (json_integer_value(json_object_get(saved, "version")) != RECORD_VERSION || !json_is_object(json_object_get(saved, "remotes")))
		return NULL;
	m = measure_new(&never);
	if (!m)
		return NULL;
	json_decref(m->remotes);
	m->remotes = json_deep_copy(json_object_get(saved, "remotes"));
	snprintf(m->at.boot, sizeof(m->at.boot), "%s", text_of(saved, "boot"));
	snprintf(m->run, sizeof(m->run), "%s", text_of(saved, "run"));
	m->begins = json_is_true(json_object_get(saved, "begins"));
	m->has_allocation = json_is_true(json_object_get(saved, "has_allocation"));
	m->assigned_sum = json_number_value(json_object_get(saved, "assigned_sum"));
	m->resident_sum = json_number_value(json_object_get(saved, "resident_sum"));
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		*number_at(m, i) = number_of(saved, numbers[i].name);
	for (size_t i = 0; i < MEASURE_COUNTERS; i++) {
		m->sum[i] = number_of(json_object_get(saved, "sum"), counters[i].name);
		m->told[i] = number_of(json_object_get(saved, "told"), counters[i].name);
	}
	m->changed = false;
	if (m->remotes)
		return m;
	measure_free(m);
	return NULL;
}

/* --- rules ----------------------------------------------------------------------------------------------- */

static bool is_rule(const json_t *rules, const char *mac, const char *direction, const char *remote)
{
	json_t *adapter, *rule;
	size_t i, k;

	json_array_foreach((json_t *)(uintptr_t)rules, i, adapter) {
		if (strcmp(text_of(adapter, "mac"), mac))
			continue;
		json_array_foreach(json_object_get(adapter, "rules"), k, rule)
			if (!strcmp(text_of(rule, "direction"), direction) && !strcmp(text_of(rule, "remote"), remote))
				return true;
	}
	return false;
}

static bool is_told(const json_t *remotes, const json_t *entry)
{
	json_t *one;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)remotes, i, one)
		if (!strcmp(text_of(one, "mac"), text_of(entry, "mac")) && !strcmp(text_of(one, "direction"), text_of(entry, "direction")) &&
		    !strcmp(text_of(one, "remote"), text_of(entry, "remote")))
			return true;
	return false;
}

/* What the worker counts no more, it would begin anew. NULL: all. */
static void forget_told(struct measure *m, const json_t *remotes)
{
	const char *key;
	json_t *entry;

	json_object_foreach(m->remotes, key, entry)
		if (!is_told(remotes, entry))
			json_object_set_new(entry, "told", json_integer(0));
}

/* --- time ------------------------------------------------------------------------------------------------ */

static int64_t passed(const struct measure_time *from, const struct measure_time *to)
{
	int64_t ms = strcmp(from->boot, to->boot) ? to->real - from->real : to->up - from->up;

	return ms < 0 ? 0 : ms;
}

static void spend(struct measure *m, int64_t ms)
{
	add(&m->duration, ms);
	if (!m->assigned)
		return;
	add(&m->ran, ms);
	m->assigned_sum += (double)m->assigned * (double)ms;
	m->resident_sum += (double)m->resident * (double)ms;
}

void measure_advance(struct measure *m, const struct measure_time *now)
{
	spend(m, passed(&m->at, now));
	m->at = *now;
	m->changed = true;
}

static void bound(int64_t *least, int64_t *most, int64_t value)
{
	if (!*least || value < *least)
		*least = value;
	if (value > *most)
		*most = value;
}

void measure_runs(struct measure *m, const struct measure_time *now, int64_t assigned, bool anew)
{
	measure_advance(m, now);
	m->assigned = assigned;
	bound(&m->assigned_least, &m->assigned_most, assigned);
	if (!anew)
		return;
	m->resident = 0;
	m->begins = false;
	m->run[0] = '\0';
	memset(m->told, 0, sizeof(m->told));
	forget_told(m, NULL);
}

void measure_stops(struct measure *m, const struct measure_time *now, int64_t end)
{
	int64_t all = passed(&m->at, now), ran = end > m->at.real ? end - m->at.real : 0;

	if (ran > all)
		ran = all;
	spend(m, ran);
	m->assigned = m->resident = 0;
	m->begins = false;
	spend(m, all - ran);
	m->at = *now;
	m->changed = true;
}

/* --- counters --------------------------------------------------------------------------------------------- */

/* What a counter adds to its sum. */
static int64_t growth(int64_t *told, int64_t now, bool begins)
{
	int64_t more = now > *told ? now - *told : 0;

	if (now > *told)
		*told = now;
	return begins ? 0 : more;
}

static void note_remote(struct measure *m, const json_t *told, const json_t *rules)
{
	const char *mac = text_of(told, "mac"), *direction = text_of(told, "direction"), *remote = text_of(told, "remote");
	json_t *entry;
	char key[96];
	int64_t sum, before;

	if (!is_rule(rules, mac, direction, remote))
		return;
	snprintf(key, sizeof(key), "%s %s %s", mac, direction, remote);
	entry = json_object_get(m->remotes, key);
	if (!entry) {
		if (json_object_size(m->remotes) >= REMOTES_MAX)
			return;
		entry = json_pack("{s:s, s:s, s:s}", "mac", mac, "direction", direction, "remote", remote);
		if (!entry || json_object_set_new(m->remotes, key, entry))
			return;
	}
	sum = number_of(entry, "bytes");
	before = number_of(entry, "told");
	add(&sum, growth(&before, number_of(told, "bytes"), m->begins));
	json_object_set_new(entry, "bytes", json_integer((json_int_t)sum));
	json_object_set_new(entry, "told", json_integer((json_int_t)before));
}

void measure_note(struct measure *m, const json_t *told, int64_t cpu_us, const json_t *rules)
{
	const char *run = text_of(told, "run");
	const json_t *allocation = json_object_get(told, "allocation");
	json_t *remotes = json_object_get(told, "remotes"), *one;
	size_t k;

	m->changed = true;
	/* A list that no worker of ours makes, and that it would take long to go through, is no word of one. */
	if (json_array_size(remotes) > REMOTES_MAX)
		return;
	/* A process that was killed tells nothing, and the kernel its time. */
	if (strlen(run) + 1 != GUID_TEXT_SIZE) {
		add(&m->sum[MEASURE_CPU], growth(&m->told[MEASURE_CPU], cpu_us, m->begins));
		return;
	}
	if (strcmp(run, m->run)) {
		memcpy(m->run, run, sizeof(m->run));
		memset(m->told, 0, sizeof(m->told));
		forget_told(m, NULL);
	}
	forget_told(m, remotes);
	for (size_t i = 0; i < MEASURE_COUNTERS; i++) {
		int64_t value = i == MEASURE_CPU ? cpu_us : number_of(json_object_get(told, counters[i].object), counters[i].key);

		add(&m->sum[i], growth(&m->told[i], value, m->begins));
	}
	json_array_foreach(remotes, k, one)
		note_remote(m, one, rules);
	m->begins = false;
	if (!json_is_object(allocation))
		return;
	m->has_allocation = true;
	m->allocation = number_of(allocation, "size");
	m->taken = number_of(allocation, "taken");
}

void measure_note_resident(struct measure *m, int64_t bytes)
{
	m->resident = bytes;
	bound(&m->resident_least, &m->resident_most, bytes);
}

/* --- who is metered ----------------------------------------------------------------------------------------- */

static json_t *lower(const char *text)
{
	char copy[24];

	snprintf(copy, sizeof(copy), "%s", text);
	for (char *c = copy; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	return json_string(copy);
}

/* In one form, whoever wrote it: "any", an adapter's address, ADDRESS/LENGTH. It has passed ovs_settings_check(). */
static json_t *remote_form(const char *text)
{
	char host[INET6_ADDRSTRLEN], form[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	uint8_t address[16];
	int family;

	if (!strcmp(text, "any"))
		return json_string("any");
	snprintf(host, sizeof(host), "%.*s", (int)(slash ? slash - text : (ptrdiff_t)strlen(text)), text);
	family = strchr(host, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(family, host, address) != 1)
		return lower(text);
	inet_ntop(family, address, form, sizeof(form));
	return json_sprintf("%s/%lu", form, slash ? strtoul(slash + 1, NULL, 10) : family == AF_INET6 ? 128ul : 32ul);
}

json_t *measure_rules(const json_t *config)
{
	json_t *list = json_array(), *adapter, *acl;
	size_t i, k;

	json_array_foreach(json_object_get(config, "adapters"), i, adapter) {
		json_t *rules = json_array();

		json_array_foreach(json_object_get(json_object_get(adapter, "settings"), "acls"), k, acl)
			if (!strcmp(text_of(acl, "action"), "meter"))
				json_array_append_new(rules, json_pack("{s:s, s:o}", "direction", text_of(acl, "direction"), "remote",
								       remote_form(text_of(acl, "remote"))));
		if (!json_array_size(rules)) {
			json_array_append_new(rules, json_pack("{s:s, s:s}", "direction", "in", "remote", "any"));
			json_array_append_new(rules, json_pack("{s:s, s:s}", "direction", "out", "remote", "any"));
		}
		json_array_append_new(list, json_pack("{s:o, s:o}", "mac", lower(text_of(adapter, "mac")), "rules", rules));
	}
	return list;
}

/* --- the report: its form, and what is told --------------------------------------------------------------------- */

static const struct form form_number = {.kind = FORM_NUMBER};
static const struct form form_processor = {.kind = FORM_OBJECT,
					   .text = "on average over the duration: of one of the host's processors, in percent and in MHz",
					   .fields = (const struct form_field[]){
					       {"seconds", &answer_seconds, NULL, true},
					       {"average_percent", &form_number, NULL, true},
					       {"average_mhz", &form_number, NULL, false},
					       {0},
					   }};
static const struct form form_resident = {.kind = FORM_OBJECT,
					  .text = "bytes of its process that are in the host's memory, as seen now and then",
					  .fields = (const struct form_field[]){
					      {"average", &answer_count, NULL, true},
					      {"minimum", &answer_count, NULL, false},
					      {"maximum", &answer_count, NULL, false},
					      {0},
					  }};
static const struct form form_memory = {.kind = FORM_OBJECT,
					.text = "bytes that the guest is assigned: on average over the duration, and least and most while it ran",
					.fields = (const struct form_field[]){
					    {"average", &answer_count, NULL, true},
					    {"minimum", &answer_count, NULL, false},
					    {"maximum", &answer_count, NULL, false},
					    {"resident", &form_resident, NULL, true},
					    {0},
					}};
static const struct form form_disk = {.kind = FORM_OBJECT,
				      .text = "of all disks; normalized: in units of 8 KiB",
				      .fields = (const struct form_field[]){
					  {"operations", &answer_count, NULL, true},
					  {"normalized_operations", &answer_count, NULL, true},
					  {"average_normalized_iops", &form_number, NULL, true},
					  {"average_latency_us", &form_number, NULL, false},
					  {"read_bytes", &answer_count, NULL, true},
					  {"written_bytes", &answer_count, NULL, true},
					  {"allocation", &answer_count, NULL, false},
					  {"taken", &answer_count, NULL, false},
					  {0},
				      }};
static const struct form form_remote = {.kind = FORM_OBJECT,
					.fields = (const struct form_field[]){
					    {"mac", &answer_text, NULL, true},
					    {"direction", &answer_text, NULL, true},
					    {"remote", &answer_text, NULL, true},
					    {"bytes", &answer_count, NULL, true},
					    {0},
					}};
static const struct form form_remotes = {.kind = FORM_LIST, .text = "by adapter and remote address", .max = REMOTES_MAX, .items = &form_remote};
static const struct form form_network = {.kind = FORM_OBJECT,
					 .fields = (const struct form_field[]){
					     {"sent_bytes", &answer_count, NULL, true},
					     {"received_bytes", &answer_count, NULL, true},
					     {"remotes", &form_remotes, NULL, true},
					     {0},
					 }};
const struct form measure_report_form = {.kind = FORM_OBJECT,
					 .name = "MeteringReport",
					 .text = "of one whose resource metering is enabled: what it took since that was enabled or reset",
					 .fields = (const struct form_field[]){
					     {"since", &answer_moment, NULL, true},
					     {"duration_ms", &answer_count, NULL, true},
					     {"ran_ms", &answer_count, NULL, true},
					     {"processor", &form_processor, NULL, true},
					     {"memory", &form_memory, NULL, true},
					     {"disk", &form_disk, NULL, true},
					     {"network", &form_network, NULL, true},
					     {0},
					 }};

static json_t *memory_json(const struct measure *m, double sum, int64_t least, int64_t most)
{
	json_t *json = json_pack("{s:I}", "average", (json_int_t)(m->duration ? sum / (double)m->duration : 0));

	if (!most)
		return json;
	json_object_set_new(json, "minimum", json_integer((json_int_t)least));
	json_object_set_new(json, "maximum", json_integer((json_int_t)most));
	return json;
}

static json_t *processor_json(const struct measure *m, double mhz)
{
	double seconds = (double)m->sum[MEASURE_CPU] / 1e6, share = m->duration ? seconds * 1000 / (double)m->duration : 0;
	json_t *json = json_pack("{s:f, s:f}", "seconds", seconds, "average_percent", share * 100);

	if (mhz > 0)
		json_object_set_new(json, "average_mhz", json_real(share * mhz));
	return json;
}

static json_t *disk_json(const struct measure *m)
{
	json_t *json = json_pack("{s:I, s:I, s:f, s:I, s:I}", "operations", (json_int_t)m->sum[MEASURE_OPERATIONS], "normalized_operations",
				 (json_int_t)m->sum[MEASURE_NORMALIZED], "average_normalized_iops",
				 m->duration ? (double)m->sum[MEASURE_NORMALIZED] * 1000 / (double)m->duration : 0.0, "read_bytes",
				 (json_int_t)m->sum[MEASURE_READ], "written_bytes", (json_int_t)m->sum[MEASURE_WRITTEN]);

	if (m->sum[MEASURE_OPERATIONS])
		json_object_set_new(json, "average_latency_us", json_real((double)m->sum[MEASURE_LATENCY] / (double)m->sum[MEASURE_OPERATIONS]));
	if (m->has_allocation) {
		json_object_set_new(json, "allocation", json_integer((json_int_t)m->allocation));
		json_object_set_new(json, "taken", json_integer((json_int_t)m->taken));
	}
	return json;
}

static json_t *network_json(const struct measure *m)
{
	json_t *list = json_array(), *entry;
	const char *key;

	json_object_foreach(m->remotes, key, entry)
		json_array_append_new(list, json_pack("{s:O, s:O, s:O, s:I}", "mac", json_object_get(entry, "mac"), "direction",
						      json_object_get(entry, "direction"), "remote", json_object_get(entry, "remote"), "bytes",
						      (json_int_t)number_of(entry, "bytes")));
	return json_pack("{s:I, s:I, s:o}", "sent_bytes", (json_int_t)m->sum[MEASURE_SENT], "received_bytes", (json_int_t)m->sum[MEASURE_RECEIVED],
			 "remotes", list);
}

json_t *measure_report(const struct measure *m, double mhz)
{
	json_t *memory = memory_json(m, m->assigned_sum, m->assigned_least, m->assigned_most);

	json_object_set_new(memory, "resident", memory_json(m, m->resident_sum, m->resident_least, m->resident_most));
	return json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "since", (json_int_t)m->since, "duration_ms", (json_int_t)m->duration, "ran_ms",
			 (json_int_t)m->ran, "processor", processor_json(m, mhz), "memory", memory, "disk", disk_json(m), "network", network_json(m));
}
