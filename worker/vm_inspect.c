/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_inspect.c - what there is to see of a machine: the live tree of its insides. */
#include "worker/control.h"
#include "worker/vm.h"

struct tree {
	json_t *stack[16];
	unsigned depth;
	unsigned skipped; /* objects nested deeper than the stack */
};

static void tree_begin(void *context, const char *name)
{
	struct tree *t = context;
	json_t *object;

	if (t->depth + 1 >= ARRAY_SIZE(t->stack)) {
		t->skipped++;
		return;
	}
	object = json_object();
	json_object_set_new(t->stack[t->depth], name, object);
	t->stack[++t->depth] = object;
}

static void tree_end(void *context)
{
	struct tree *t = context;

	if (t->skipped)
		t->skipped--;
	else if (t->depth)
		t->depth--;
}

static void tree_text(void *context, const char *name, const char *value)
{
	struct tree *t = context;

	if (!t->skipped)
		json_object_set_new(t->stack[t->depth], name, control_text(value));
}

static void tree_number(void *context, const char *name, uint64_t value)
{
	struct tree *t = context;

	if (!t->skipped)
		json_object_set_new(t->stack[t->depth], name, json_integer((json_int_t)value));
}

static json_t *inspect_processors(struct vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < partition_vp_count(vm->partition); i++) {
		struct vp_counters c;

		vp_get_counters(vm->partition, i, &c);
		json_array_append_new(list,
		    json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "instructions", (json_int_t)c.instructions, "exits",
			(json_int_t)c.exits,
			"io_exits", (json_int_t)c.io_exits, "mmio_exits", (json_int_t)c.mmio_exits, "msr_exits",
			(json_int_t)c.msr_exits, "cpuid_exits", (json_int_t)c.cpuid_exits, "hypercalls",
			(json_int_t)c.hypercalls, "halts", (json_int_t)c.halts, "interrupts", (json_int_t)c.interrupts));
	}
	return list;
}

/* The files of a disk, from the one that is written on down. */
static json_t *inspect_chain(const struct disk *disk)
{
	json_t *list = json_array();

	for (; disk; disk = disk_parent(disk)) {
		struct disk_info info;

		disk_get_info(disk, &info);
		json_array_append_new(list, json_pack("{s:o,s:I}", "path", control_text(disk_path(disk)), "file_size",
					    (json_int_t)info.file_size));
	}
	return list;
}

void vm_keep_chain(struct vm *vm, const struct vm_disk *disk)
{
	json_decref(vm->kept_chain);
	vm->kept = disk;
	vm->kept_chain = disk ? inspect_chain(disk->disk) : NULL;
}

static json_t *inspect_disks(struct vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < WORKER_MAX_DISKS; i++) {
		const struct vm_disk *d = &vm->disks[i];
		struct disk_info info = {.read_only = true};

		if (!d->used)
			continue;
		if (d->disk)
			disk_get_info(d->disk, &info);
		/* A drive with no medium has no path. */
		json_array_append_new(list,
		    json_pack("{s:o*,s:i,s:i,s:I,s:b,s:b,s:o}", "path", d->config.path ? control_text(d->config.path) : NULL,
			"controller", (int)d->config.controller, "lun", (int)d->lun, "size", (json_int_t)info.size, "read_only",
			info.read_only, "dvd", d->config.dvd, "chain",
			d == vm->kept ? json_incref(vm->kept_chain) : inspect_chain(d->disk)));
	}
	return list;
}

/* What the guest says of itself, by the names that Hyper-V gives it. */
static json_t *inspect_guest(struct vm *vm)
{
	json_t *items = json_object();
	char text[GUEST_TEXT_MAX];

	for (unsigned i = 0; i < GUEST_ITEMS; i++)
		if (integration_item(vm->integration, (enum guest_item)i, text))
			json_object_set_new(items, integration_item_key((enum guest_item)i), json_string(text));
	return items;
}

json_t *vm_inspect(struct vm *vm)
{
	static const struct vmbus_inspector inspector = {tree_begin, tree_end, tree_text, tree_number};
	json_t *root = json_object();
	struct tree tree = {.stack = {root}};
	uint32_t version;
	char text[16];

	json_object_set_new(root, "name", control_text(vm->config->name));
	json_object_set_new(root, "state", json_string(!vm->running ? "off" : vm->paused ? "paused" : "running"));
	json_object_set_new(root, "guest_crashed", json_boolean(atomic_load(&vm->guest_crashed)));
	json_object_set_new(root, "disks", inspect_disks(vm));
	json_object_set_new(root, "adapters", vm_inspect_adapters(vm));
	json_object_set_new(root, "metering", vm_metering(vm));
	if (!vm->running)
		return root;
	version = vmbus_version(vm->bus);
	snprintf(text, sizeof(text), "%u.%u", version >> 16, version & 0xffff);
	json_object_set_new(root, "vmbus_version", version ? json_string(text) : json_null());
	json_object_set_new(root, "heartbeat", json_string(heartbeat_state_name(integration_heartbeat(vm->integration, NULL))));
	json_object_set_new(root, "guest", inspect_guest(vm));
	json_object_set_new(root, "processor", json_string(partition_processor_name(vm->partition)));
	json_object_set_new(root, "memory", json_integer((json_int_t)partition_memory_size(vm->partition)));
	json_object_set_new(root, "reference_time_100ns", json_integer((json_int_t)partition_reference_time(vm->partition)));
	json_object_set_new(root, "processors", inspect_processors(vm));
	vmbus_inspect(vm->bus, &inspector, &tree);
	integration_inspect(vm->integration, &inspector, &tree);
	for (unsigned c = 0; c < WORKER_MAX_CONTROLLERS; c++)
		if (vm->controllers[c])
			storage_inspect(vm->controllers[c], &inspector, &tree);
	for (unsigned i = 0; i < vm->adapter_count; i++)
		network_inspect(vm->adapters[i].network, &inspector, &tree);
	return root;
}
