/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/ports.h"

#include <errno.h>
#include <string.h>
#include <sys/wait.h>

#include "switch/nat.h"
#include "switch/port.h"
#include "vmms/adapters.h"
#include "vmms/cgroup.h"
#include "vmms/switches.h"

/* How long a default switch that was unplugged may take to end: its ports of the host may be wanted again. */
#define NAT_TRIES 20u
#define NAT_PAUSE 50000u /* us */

static bool is_switch(const json_t *adapter)
{
	return !strcmp(adapter_port(adapter), "switch");
}

/* --- machines that start ------------------------------------------------------------------------------ */

bool ports_are_slow(const struct machine *machine)
{
	json_t *adapter;
	size_t i;

	json_array_foreach(json_object_get(machine->config, "adapters"), i, adapter)
		if (is_switch(adapter))
			return true;
	return false;
}

int ports_open(struct machine *machine, int fds[VM_ADAPTERS_MAX], size_t *count, struct error *err)
{
	/* Notes may be changed meanwhile. */
	json_t *adapters = json_incref(json_object_get(machine->config, "adapters")), *adapter;
	size_t i;
	int r = 0;

	*count = 0;
	json_array_foreach(adapters, i, adapter) {
		if (!is_switch(adapter))
			continue;
		r = port_open(machine, adapter, &fds[*count], NULL, err);
		if (r)
			break;
		++*count;
	}
	json_decref(adapters);
	if (!r)
		return 0;
	while (*count)
		close(fds[--*count]);
	ports_closed(machine);
	return r;
}

void ports_closed(struct machine *machine)
{
	json_t *adapter;
	size_t i;

	json_array_foreach(json_object_get(machine->config, "adapters"), i, adapter)
		port_closed(machine, adapter);
}

/* --- one port ----------------------------------------------------------------------------------------- */

static void put_into_group(const struct machine *machine, pid_t pid)
{
	_cleanup_close_ int group = -1;
	struct error err = {0};

	if (!machine->cgroup)
		return;
	group = cgroup_open(machine->cgroup, &err);
	if (group < 0 || cgroup_put(group, pid, &err))
		log_write(LOG_LEVEL_WARNING, "machine \"%s\": %s", machine->name, err.text);
}

static void remember(struct vmms *vmms, pid_t pid)
{
	pid_t *list;

	uv_mutex_lock(&vmms->children_lock);
	list = realloc(vmms->children, (vmms->child_count + 1) * sizeof(*list));
	if (list) {
		list[vmms->child_count++] = pid;
		vmms->children = list;
	}
	uv_mutex_unlock(&vmms->children_lock);
}

void ports_reap(struct vmms *vmms)
{
	uv_mutex_lock(&vmms->children_lock);
	for (size_t i = 0; i < vmms->child_count;)
		if (waitpid(vmms->children[i], NULL, WNOHANG))
			vmms->children[i] = vmms->children[--vmms->child_count];
		else
			i++;
	uv_mutex_unlock(&vmms->children_lock);
}

static json_t *ports_of(const struct nat_config *config)
{
	json_t *list = config->forward_count ? json_array() : NULL;

	for (unsigned i = 0; i < config->forward_count; i++)
		json_array_append_new(list, json_integer(config->forwards[i].host_port));
	return list;
}

static int nat_open(struct machine *machine, const json_t *adapter, int *fd, json_t **ports, struct error *err)
{
	struct nat_config config = {.outlives = true, .has_user = getuid() == 0};
	json_t *forward;
	uint8_t mac[6];
	pid_t pid;
	size_t i;
	int r = 0;

	config.uid = config.gid = (uid_t)machine_own_user(machine);
	json_array_foreach(json_object_get(adapter, "forwards"), i, forward) {
		r = nat_forward_parse(&config.forwards[config.forward_count++], json_string_value(forward), err);
		if (r)
			return r;
	}
	if (adapter_mac(adapter, mac))
		nat_prefer_ports(&config, mac);
	for (unsigned i_try = 0; i_try < NAT_TRIES; i_try++) {
		r = nat_start(fd, &pid, &config, err);
		if (!r || !config.forward_count)
			break;
		usleep(NAT_PAUSE);
	}
	if (r)
		return r;
	if (ports)
		*ports = ports_of(&config);
	put_into_group(machine, pid);
	remember(machine->vmms, pid);
	return 0;
}

bool port_is_slow(const json_t *adapter)
{
	return !is_switch(adapter);
}

bool port_waits(const json_t *adapter)
{
	return is_switch(adapter);
}

int port_open(struct machine *machine, const json_t *adapter, int *fd, json_t **ports, struct error *err)
{
	const char *port = adapter_port(adapter);

	*fd = -1;
	if (ports)
		*ports = NULL;
	if (!strcmp(port, "nat"))
		return nat_open(machine, adapter, fd, ports, err);
	if (!strcmp(port, "tap"))
		return port_attach_tap(fd, json_string_value(json_object_get(adapter, "interface")), err);
	return is_switch(adapter) ? switches_port_open(machine, adapter, fd, err) : 0;
}

void port_closed(struct machine *machine, const json_t *adapter)
{
	if (is_switch(adapter))
		switches_port_closed(machine, adapter);
	ports_reap(machine->vmms);
}
