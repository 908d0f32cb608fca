/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/config.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/text.h"
#include "switch/nat.h"
#include "switch/ovs_rules.h"
#include "vmms/switches.h"
#include "vmms/adapters.h"
#include "vmms/worker_link.h"

#define CONFIG_MAX_BYTES (1u << 20)
#define OTHER_MAX_BYTES  (16u << 20) /* the checkpoints' configurations are together in one file */

static int check_name(const char *name, struct error *err)
{
	return vm_name_check(name, err);
}

/* What a name has always had to be. */
static int check_name_there(const char *name, struct error *err)
{
	size_t length = strlen(name);
	struct guid guid;

	if (!length || !strcmp(name, ".") || !strcmp(name, ".."))
		return error_set(err, EINVAL, "is no name");
	if (name[0] == ' ' || name[0] == '-' || name[length - 1] == ' ')
		return error_set(err, EINVAL, "may not begin with a space or a dash, nor end with a space");
	if (!guid_parse(&guid, name))
		return error_set(err, EINVAL, "may not look like an id");
	for (const char *c = name; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f || *c == '/')
			return error_set(err, EINVAL, "may not have a slash or a control character in it");
	return 0;
}

static int check_guid(const char *text, struct error *err)
{
	struct guid guid;

	return guid_parse(&guid, text) ? error_set(err, EINVAL, "is no GUID") : 0;
}

static int check_mac(const char *text, struct error *err)
{
	/* The first byte's lowest bit says that it is a group's. */
	if (!ovs_is_mac(text) || strchr("13579bBdDfF", text[1]))
		return error_set(err, EINVAL, "is not the address of one adapter, such as 00:15:5d:01:02:03");
	return 0;
}

static int check_forward(const char *text, struct error *err)
{
	struct nat_forward forward;

	return nat_forward_parse(&forward, text, NULL) ? error_set(err, EINVAL, "is not of the form [udp:][ADDRESS:]HOSTPORT:GUESTPORT; HOSTPORT may be auto") : 0;
}

static const char *const kind_words[] = {"disk", "dvd", NULL};
static const char *const port_words[] = {"nat", "tap", "switch", "none", NULL};
static const char *const start_words[] = {"nothing", "if-was-running", "always", NULL};
static const char *const stop_words[] = {"save", "shut-down", "turn-off", NULL};
static const char *const recovery_words[] = {"nothing", "restart", NULL};

static const struct form form_boolean = {.kind = FORM_BOOLEAN};
static const struct form form_version = {
    .kind = FORM_INTEGER, .text = "of the form of this file", .min = VM_CONFIG_VERSION, .max = VM_CONFIG_VERSION};
static const struct form form_id = {.kind = FORM_STRING, .text = "kept for the machine's life", .min = 36, .max = 36,
				    .check = check_guid};
static const struct form form_name = {
    .kind = FORM_STRING, .text = "no other machine of the host has it", .min = 1, .max = 100, .check = check_name};
/* Machines have been made with names of which not all is seen: they are there, and can be renamed. */
static const struct form form_name_there = {
    .kind = FORM_STRING, .text = "no other machine of the host has it", .min = 1, .max = 100, .check = check_name_there};
static const struct form form_notes = {.kind = FORM_STRING, .text = "for people", .min = 0, .max = 65536};
static const struct form form_tag = {.kind = FORM_STRING, .min = 1, .max = 64};
static const struct form form_tags = {.kind = FORM_LIST, .min = 0, .max = 64, .items = &form_tag};
static const struct form form_groups = {
    .kind = FORM_LIST, .text = "of machines that belong together", .min = 0, .max = 64, .items = &form_tag};
static const struct form form_path = {.kind = FORM_STRING, .text = "absolute, or relative to the machine's directory",
				      .min = 1, .max = 4095};
static const struct form form_append = {.kind = FORM_STRING, .text = "the kernel's command line", .min = 0, .max = 2047};
/* As many, and as much memory, as a generation 1 machine of Hyper-V may have. */
static const struct form form_count = {.kind = FORM_INTEGER, .text = "virtual processors", .min = 1, .max = 64};
static const struct form form_processor = {
    .kind = FORM_STRING, .text = "auto, kvm or soft, with options behind a comma", .min = 3, .max = 200};
#define MEMORY_MIN (32ll << 20)
#define MEMORY_MAX (1ll << 40)
static const struct form form_memory = {
    .kind = FORM_INTEGER, .text = "in bytes, a multiple of 2 MiB", .min = MEMORY_MIN, .max = MEMORY_MAX, .multiple = 2 << 20};
/* Machines have been made with other multiples of 1 MiB. */
static const struct form form_memory_there = {
    .kind = FORM_INTEGER, .text = "in bytes, a multiple of 2 MiB", .min = MEMORY_MIN, .max = MEMORY_MAX};
static const struct form form_controller = {.kind = FORM_INTEGER, .text = "SCSI controller", .min = 0, .max = 3};
static const struct form form_kind = {.kind = FORM_WORD, .words = kind_words};
static const struct form form_start = {.kind = FORM_WORD, .text = "when the host starts", .words = start_words};
static const struct form form_stop = {.kind = FORM_WORD, .text = "when the host stops", .words = stop_words};
static const struct form form_delay = {
    .kind = FORM_INTEGER, .text = "seconds from the host's start", .min = 0, .max = 86400};
static const struct form form_order = {
    .kind = FORM_INTEGER, .text = "those with a lower one have started before", .min = 0, .max = 1000};
static const struct form form_recovery = {.kind = FORM_WORD, .text = "when it has crashed", .words = recovery_words};

static const struct form form_processors = {
    .kind = FORM_OBJECT,
    .fields = (const struct form_field[]){
	{"count", &form_count, "1", false},
	{"kind", &form_processor, "\"auto\"", false},
	{"compatible", &form_boolean, "false", false},
	{0},
    }};

static const struct form form_boot = {.kind = FORM_OBJECT,
				      .text = "direct boot of a kernel",
				      .fields = (const struct form_field[]){
					  {"kernel", &form_path, NULL, true},
					  {"initrd", &form_path, NULL, false},
					  {"append", &form_append, "\"\"", false},
					  {0},
				      }};

/* Only a DVD drive may be empty. */
static const char *missing_path(const json_t *disk)
{
	const char *kind = json_string_value(json_object_get(disk, "kind"));

	return json_object_get(disk, "path") || (kind && !strcmp(kind, "dvd")) ? NULL : "path";
}

const struct form vm_disk_form = {.kind = FORM_OBJECT,
				      .text = "a disk; or a DVD drive, which has no path if it has no medium",
				      .missing = missing_path,
				      .fields = (const struct form_field[]){
					  {"path", &form_path, NULL, false},
					  {"kind", &form_kind, "\"disk\"", false},
					  {"controller", &form_controller, "0", false},
					  {"read_only", &form_boolean, "false", false},
					  {0},
				      }};
static const struct form form_disks = {.kind = FORM_LIST, .min = 0, .max = VM_DISKS_MAX, .items = &vm_disk_form};

static const struct form form_mac = {.kind = FORM_STRING, .text = "kept; of no other adapter", .min = 17, .max = 17, .check = check_mac,
				     .pattern = "^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$"};
static const struct form form_port = {
    .kind = FORM_WORD, .text = "what it is plugged into: the default switch, a tap interface of the host, a switch, or nothing", .words = port_words};
static const struct form form_interface = {.kind = FORM_STRING, .text = "of port tap", .min = 1, .max = 15};
static const struct form form_switch = {.kind = FORM_STRING, .text = "of port switch: its name", .min = 1, .max = 50};
static const struct form form_forward = {
    .kind = FORM_STRING, .text = "[udp:][ADDRESS:]HOSTPORT:GUESTPORT; HOSTPORT may be auto: one that is free", .min = 3, .max = 100, .check = check_forward};
static const struct form form_forwards = {
    .kind = FORM_LIST, .text = "ports of the host that lead to the guest, of port nat", .min = 0, .max = NAT_FORWARDS_MAX, .items = &form_forward};
static const struct form form_adapter = {.kind = FORM_OBJECT,
					 .fields = (const struct form_field[]){
					     {"mac", &form_mac, NULL, true},
					     {"port", &form_port, "\"nat\"", false},
					     {"interface", &form_interface, NULL, false},
					     {"switch", &form_switch, NULL, false},
					     {"forwards", &form_forwards, "[]", false},
					     {"any_mac", &form_boolean, "false", false},
					     {"settings", &adapter_settings_form, NULL, false},
					     {0},
					 }};
static const struct form form_addresses = {.kind = FORM_LIST, .text = "that the guest uses, by its own word, or as far as its frames tell", .min = 0, .max = 16,
					   .items = &answer_text};
static const struct form form_network_lost = {.kind = FORM_BOOLEAN, .text = "it is protected, and the network of its switch is lost"};
const struct form vm_shown_adapter_form = {.kind = FORM_OBJECT,
					   .text = "a network adapter",
					   .fields = (const struct form_field[]){
					       {"mac", &form_mac, NULL, true},
					       {"port", &form_port, NULL, true},
					       {"interface", &form_interface, NULL, false},
					       {"switch", &form_switch, NULL, false},
					       {"forwards", &form_forwards, NULL, true},
					       {"any_mac", &form_boolean, NULL, true},
					       {"settings", &adapter_settings_form, NULL, false},
					       {"addresses", &form_addresses, NULL, true},
					       {"network_lost", &form_network_lost, NULL, true},
					       {0},
					   }};
static const struct form form_adapters = {.kind = FORM_LIST, .min = 0, .max = VM_ADAPTERS_MAX, .items = &form_adapter};
/* In requests: what has no address gets one. */
const struct form vm_new_adapter_form = {.kind = FORM_OBJECT,
					     .fields = (const struct form_field[]){
						 {"mac", &form_mac, NULL, false},
						 {"port", &form_port, "\"nat\"", false},
						 {"interface", &form_interface, NULL, false},
						 {"switch", &form_switch, NULL, false},
						 {"forwards", &form_forwards, "[]", false},
						 {"any_mac", &form_boolean, "false", false},
						 {"settings", &adapter_settings_form, NULL, false},
						 {0},
					     }};
const struct form vm_some_adapter_form = {.kind = FORM_OBJECT,
					  .text = "what is to change; keys that are not there stay as they are",
					  .fields = (const struct form_field[]){
					      {"mac", &form_mac, NULL, false},
					      {"port", &form_port, NULL, false},
					      {"interface", &form_interface, NULL, false},
					      {"switch", &form_switch, NULL, false},
					      {"forwards", &form_forwards, NULL, false},
					      {"any_mac", &form_boolean, NULL, false},
					      {"settings", &adapter_settings_form, NULL, false},
					      {0},
					  }};
static const struct form form_new_adapters = {.kind = FORM_LIST, .min = 0, .max = VM_ADAPTERS_MAX, .items = &vm_new_adapter_form};

static const struct form form_automatic = {.kind = FORM_OBJECT,
					   .fields = (const struct form_field[]){
					       {"start", &form_start, "\"if-was-running\"", false},
					       {"delay", &form_delay, "0", false},
					       {"order", &form_order, "0", false},
					       {"stop", &form_stop, "\"shut-down\"", false},
					       {"recovery", &form_recovery, "\"nothing\"", false},
					       {0},
					   }};

static const struct form form_weight = {
    .kind = FORM_INTEGER, .text = "of its processor time against other machines'", .min = 1, .max = 10000};
static const struct form form_percent = {
    .kind = FORM_INTEGER, .text = "percent of its virtual processors", .min = 1, .max = 100};
static const struct form form_reserve = {
    .kind = FORM_INTEGER, .text = "percent of its virtual processors that it can always have", .min = 0, .max = 100};
static const struct form form_priority = {
    .kind = FORM_INTEGER, .text = "of its memory: of those that start with the host at one time the highest comes first", .min = 0, .max = 100};
static const struct form form_extra = {
    .kind = FORM_INTEGER, .text = "bytes that its processes may take beyond the guest's memory; -1: what a machine of its size may need; 0: no limit", .min = -1, .max = 1ll << 40};

static int check_limits(const json_t *limits, struct error *err)
{
	json_int_t reserve = json_integer_value(json_object_get(limits, "processor_reserve"));
	json_int_t maximum = json_integer_value(json_object_get(limits, "processor_maximum"));

	return reserve > maximum ? error_set(err, EINVAL, "has a processor_reserve of %lld: it may be at most its processor_maximum, %lld",
					     (long long)reserve, (long long)maximum)
				 : 0;
}

static const struct form form_limits = {.kind = FORM_OBJECT,
					.text = "what it may take of the host, and what it can always have",
					.check_object = check_limits,
					.fields = (const struct form_field[]){
					    {"processor_weight", &form_weight, "100", false},
					    {"processor_maximum", &form_percent, "100", false},
					    {"processor_reserve", &form_reserve, "0", false},
					    {"memory_priority", &form_priority, "50", false},
					    {"memory_extra", &form_extra, "-1", false},
					    {0},
					}};

const struct form vm_config_form = {.kind = FORM_OBJECT,
				    .name = "VmConfig",
				    .text = "a virtual machine of Bulkhead: vm.json",
				    .fields = (const struct form_field[]){
					{"version", &form_version, NULL, true},
					{"id", &form_id, NULL, true},
					{"name", &form_name_there, NULL, true},
					{"notes", &form_notes, "\"\"", false},
					{"tags", &form_tags, "[]", false},
					{"groups", &form_groups, "[]", false},
					{"processors", &form_processors, "{}", false},
					{"memory", &form_memory_there, "1073741824", false},
					{"boot", &form_boot, NULL, true},
					{"disks", &form_disks, "[]", false},
					{"adapters", &form_adapters, "[]", false},
					{"automatic", &form_automatic, "{}", false},
					{"limits", &form_limits, "{}", false},
					{0},
				    }};

static const struct form form_image = {.kind = FORM_STRING, .text = "an image of the library", .min = 1, .max = 100};
static const struct form form_word = {.kind = FORM_STRING, .min = 1, .max = 255};
static const struct form form_key = {.kind = FORM_STRING, .text = "a line of authorized_keys", .min = 1, .max = 16384};
static const struct form form_seed = {.kind = FORM_OBJECT,
				      .text = "settings for an image's first boot",
				      .fields = (const struct form_field[]){
					  {"hostname", &form_word, NULL, false},
					  {"user", &form_word, NULL, false},
					  {"password", &form_word, NULL, false},
					  {"ssh_key", &form_key, NULL, false},
					  {0},
				      }};

const struct form vm_create_form = {.kind = FORM_OBJECT,
				    .text = "a new machine: from an image, or with a kernel and disks that are there; with an adapter on the default switch",
				    .fields = (const struct form_field[]){
					{"name", &form_name, NULL, true},
					{"notes", &form_notes, "\"\"", false},
					{"tags", &form_tags, "[]", false},
					{"groups", &form_groups, "[]", false},
					{"processors", &form_processors, "{}", false},
					{"memory", &form_memory, "1073741824", false},
					{"image", &form_image, NULL, false},
					{"seed", &form_seed, NULL, false},
					{"boot", &form_boot, NULL, false},
					{"disks", &form_disks, "[]", false},
					{"adapters", &form_new_adapters, "[{}]", false},
					{"automatic", &form_automatic, "{}", false},
					{"limits", &form_limits, "{}", false},
					{0},
				    }};

static const struct form form_some_processors = {.kind = FORM_OBJECT,
						 .fields = (const struct form_field[]){
						     {"count", &form_count, NULL, false},
						     {"kind", &form_processor, NULL, false},
						     {"compatible", &form_boolean, NULL, false},
						     {0},
						 }};
static const struct form form_some_boot = {.kind = FORM_OBJECT,
					   .fields = (const struct form_field[]){
					       {"kernel", &form_path, NULL, false},
					       {"initrd", &form_path, NULL, false},
					       {"append", &form_append, NULL, false},
					       {0},
					   }};
static const struct form form_some_limits = {.kind = FORM_OBJECT,
					     .fields = (const struct form_field[]){
						 {"processor_weight", &form_weight, NULL, false},
						 {"processor_maximum", &form_percent, NULL, false},
						 {"processor_reserve", &form_reserve, NULL, false},
						 {"memory_priority", &form_priority, NULL, false},
						 {"memory_extra", &form_extra, NULL, false},
						 {0},
					     }};
static const struct form form_some_automatic = {.kind = FORM_OBJECT,
						.fields = (const struct form_field[]){
						    {"start", &form_start, NULL, false},
						    {"delay", &form_delay, NULL, false},
						    {"order", &form_order, NULL, false},
						    {"stop", &form_stop, NULL, false},
						    {"recovery", &form_recovery, NULL, false},
						    {0},
						}};

const struct form vm_change_form = {.kind = FORM_OBJECT,
				    .text = "what is to change; keys that are not there stay as they are",
				    .fields = (const struct form_field[]){
					{"name", &form_name, NULL, false},
					{"notes", &form_notes, NULL, false},
					{"tags", &form_tags, NULL, false},
					{"groups", &form_groups, NULL, false},
					{"processors", &form_some_processors, NULL, false},
					{"memory", &form_memory, NULL, false},
					{"boot", &form_some_boot, NULL, false},
					{"disks", &form_disks, NULL, false},
					{"adapters", &form_new_adapters, NULL, false},
					{"automatic", &form_some_automatic, NULL, false},
					{"limits", &form_some_limits, NULL, false},
					{0},
				    }};

int vm_name_check(const char *name, struct error *err)
{
	int r = check_name_there(name, err);

	return r ? r : text_check_name(name, err);
}

/* --- the file --------------------------------------------------------------------------------------- */

/* What nobody would read is not written, either. */
static int check_file_size(const char *directory, const char *name, size_t size, struct error *err)
{
	size_t most = strcmp(name, VM_CONFIG_FILE) ? OTHER_MAX_BYTES : CONFIG_MAX_BYTES;

	return size <= most ? 0
			    : error_set(err, EFBIG, "%s/%s has, or would have, over %zu MiB: that is no configuration", directory, name,
					most >> 20);
}

static int read_file(char **text, size_t *size, const char *directory, const char *name, const char *path, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st))
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return error_set(err, EBADMSG, "%s is no plain file", path);
	if (check_file_size(directory, name, (size_t)st.st_size, err))
		return -EFBIG;
	*text = malloc((size_t)st.st_size + 1);
	if (!*text)
		return error_set(err, ENOMEM, "no memory to read %s", path);
	n = pread(fd, *text, (size_t)st.st_size, 0);
	if (n < 0)
		return error_set(err, errno, "%s: %s", path, strerror(errno));
	*size = (size_t)n;
	return 0;
}

static int check_version(const json_t *config, const char *path, struct error *err)
{
	json_t *version = json_object_get(config, "version");

	if (json_is_integer(version) && json_integer_value(version) > VM_CONFIG_VERSION)
		return error_set(err, ENOTSUP, "%s has version %lld, this bulkhead reads up to %d: upgrade it", path,
				 (long long)json_integer_value(version), VM_CONFIG_VERSION);
	return 0;
}

int vm_json_load(json_t **out, const char *directory, const char *name, struct error *err)
{
	_cleanup_free_ char *text = NULL, *path = NULL;
	json_error_t why;
	size_t size = 0;
	int r;

	if (asprintf(&path, "%s/%s", directory, name) < 0)
		return error_set(err, ENOMEM, "no memory");
	r = read_file(&text, &size, directory, name, path, err);
	if (r)
		return r;
	*out = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
	return *out ? check_version(*out, path, err) : error_set(err, EBADMSG, "%s, line %d: %s", path, why.line, why.text);
}

int vm_config_load(json_t **out, const char *directory, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	json_t *config = NULL;
	int r = vm_json_load(&config, directory, VM_CONFIG_FILE, err);

	if (!r && asprintf(&path, "%s/" VM_CONFIG_FILE, directory) < 0)
		r = error_set(err, ENOMEM, "no memory");
	if (!r && form_check(&vm_config_form, config, err))
		r = error_prefix(err, "%s", path);
	if (r)
		json_decref(config);
	else
		*out = config;
	return r;
}

static int write_synced(int fd, const char *text)
{
	size_t size = strlen(text), done = 0;

	while (done < size) {
		ssize_t n = write(fd, text + done, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
	}
	return fsync(fd) ? -errno : 0;
}

static int replace_file(int directory, const char *name, const char *text)
{
	char temporary[64];
	int fd, r;

	snprintf(temporary, sizeof(temporary), "%.40s.new", name);
	/* A new one always: what lies there may be a pipe, or another name of another's file. */
	unlinkat(directory, temporary, 0);
	fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
	if (fd < 0)
		return -errno;
	r = write_synced(fd, text);
	close(fd);
	if (!r && renameat(directory, temporary, directory, name))
		r = -errno;
	if (r)
		unlinkat(directory, temporary, 0);
	else if (fsync(directory))
		r = -errno;
	return r;
}

int vm_config_save(const json_t *config, const char *directory, struct error *err)
{
	return vm_json_save(config, directory, VM_CONFIG_FILE, err);
}

int vm_json_save(const json_t *config, const char *directory, const char *name, struct error *err)
{
	_cleanup_close_ int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ char *text = NULL, *whole = NULL;
	int r;

	if (fd < 0)
		return error_set(err, errno, "%s: %s", directory, strerror(errno));
	text = json_dumps(config, JSON_INDENT(2));
	if (!text || asprintf(&whole, "%s\n", text) < 0)
		return error_set(err, ENOMEM, "no memory to write %s/%s", directory, name);
	if (check_file_size(directory, name, strlen(whole), err))
		return -EFBIG;
	r = replace_file(fd, name, whole);
	return r ? error_set(err, -r, "%s/%s cannot be written: %s", directory, name, strerror(-r)) : 0;
}

/* --- new, changed, for the worker --------------------------------------------------------------------- */

json_t *vm_config_new(const json_t *request)
{
	static const char *const taken[] = {"name", "notes", "tags", "groups", "processors", "memory", "boot", "disks", "adapters",
	    "automatic", "limits"};
	char text[GUID_TEXT_SIZE];
	struct guid id;
	json_t *config;

	guid_random(&id);
	config = json_pack("{s:i, s:s}", "version", VM_CONFIG_VERSION, "id", guid_format(&id, text));
	for (size_t i = 0; config && i < ARRAY_SIZE(taken); i++) {
		json_t *value = json_object_get(request, taken[i]);

		if (value)
			json_object_set_new(config, taken[i], json_deep_copy(value));
	}
	return config;
}

int vm_config_changed(json_t **out, const json_t *config, const json_t *request, struct error *err)
{
	json_t *changed = json_deep_copy(config), *copy = json_deep_copy(request);
	int r;

	if (!changed || !copy || json_object_update_recursive(changed, copy))
		r = error_set(err, ENOMEM, "no memory");
	else
		r = form_check(&vm_config_form, changed, err);
	json_decref(copy);
	if (r)
		json_decref(changed);
	else
		*out = changed;
	return r;
}

char *vm_config_path(const char *path, const char *directory)
{
	char *whole;

	if (!path)
		return NULL;
	if (*path == '/')
		return strdup(path);
	return asprintf(&whole, "%s/%s", directory, path) < 0 ? NULL : whole;
}

static json_t *absolute(const json_t *path, const char *directory)
{
	const char *text = json_string_value(path);
	_cleanup_free_ char *whole = text ? vm_config_path(text, directory) : NULL;

	return whole ? json_string(whole) : NULL;
}

static json_t *disks_for_worker(const json_t *config, const char *directory)
{
	json_t *disks = json_array(), *disk;
	size_t i;

	json_array_foreach(json_object_get(config, "disks"), i, disk)
		json_array_append_new(
		    disks, json_pack("{s:o*, s:b, s:b, s:O}", "path", absolute(json_object_get(disk, "path"), directory),
				     "read_only", json_is_true(json_object_get(disk, "read_only")), "dvd",
				     !strcmp(json_string_value(json_object_get(disk, "kind")), "dvd"), "controller",
				     json_object_get(disk, "controller")));
	return disks;
}

/* The ports of switches are handed down, in their order. */
static json_t *adapters_for_worker(const json_t *config)
{
	json_t *adapters = json_array(), *adapter;
	int descriptor = WORKER_FIRST_FD;
	char label[ADAPTER_LABEL_SIZE];
	size_t i;

	json_array_foreach(json_object_get(config, "adapters"), i, adapter) {
		const char *port = adapter_port(adapter);
		bool is_switch = !strcmp(port, "switch");
		json_t *for_worker = json_pack("{s:O, s:s, s:O*, s:O, s:s}", "mac", json_object_get(adapter, "mac"), "port",
					       is_switch ? "descriptor" : port, "interface", json_object_get(adapter, "interface"), "any_mac",
					       json_object_get(adapter, "any_mac"), "label", adapter_label(adapter, label));

		if (is_switch)
			json_object_set_new(for_worker, "descriptor", json_integer(descriptor++));
		if (!strcmp(port, "nat"))
			json_object_set(for_worker, "forwards", json_object_get(adapter, "forwards"));
		json_array_append_new(adapters, for_worker);
	}
	return adapters;
}

json_t *vm_config_for_worker(const json_t *config, const char *directory, const char *runtime)
{
	const json_t *boot = json_object_get(config, "boot"), *processors = json_object_get(config, "processors");
	json_t *worker_boot;

	worker_boot = json_pack("{s:o, s:o*, s:O}", "kernel", absolute(json_object_get(boot, "kernel"), directory), "initrd",
				absolute(json_object_get(boot, "initrd"), directory), "append",
				json_object_get(boot, "append"));
	return json_pack("{s:i, s:O, s:O, s:O, s:O, s:O, s:o, s:o, s:o, s:[{s:s, s:o}], s:o, s:o, s:o}", "version", 1, "name",
			 json_object_get(config, "name"), "processor", json_object_get(processors, "kind"), "compatible",
			 json_object_get(processors, "compatible"), "cpus", json_object_get(processors, "count"), "memory",
			 json_object_get(config, "memory"), "boot", worker_boot, "disks",
			 disks_for_worker(config, directory), "adapters", adapters_for_worker(config), "serial", "kind", "unix", "path",
			 json_sprintf("%s/console", runtime), "control", json_sprintf("%s/control", runtime), "result",
			 json_sprintf("%s/result", runtime), "lock", json_sprintf("%s/worker.lock", directory));
}

void config_etag(const json_t *config, char text[24])
{
	char *dump = config ? json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */

	for (const char *c = dump; c && *c; c++)
		hash = (hash ^ (uint8_t)*c) * 0x100000001b3;
	free(dump);
	snprintf(text, 24, "\"%016" PRIx64 "\"", hash);
}
