/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * switch_watch.c - what others do to a switch's adapters: addresses that somebody gives them while the host is on the switch, and links that go and come.
 *
 * An adapter that has come late after the host's start is given what its configuration says; whoever was told the adapter's name gives it more. Such
 * addresses, and routes, follow the others to the switch's interface, with how long they are good for.
 *
 * A machine's network is lost when none of the adapters of its external switch has a link, or when the switch is not there, as when Open vSwitch is
 * stopped. Who has a cluster moves such a machine; this host tells it.
 */
#include <string.h>

#include "switch/host_link.h"
#include "vmms/switches_private.h"

/* A link that is lost for a shorter time, as when its other end is started anew, or an Open vSwitch that is soon back, is no lost network. */
#define LOST_MS 2000u

static bool is_home(struct vmms *vmms, const char *adapter)
{
	const struct vswitch *s;

	for (size_t i = 0; (s = switches_at(vmms, i)); i++)
		if (switch_is_home(s, adapter))
			return true;
	return false;
}

/* The routes come behind the addresses, so there is a moment for them. While something is wrong it is tried again anyhow, and each time that may give the
 * adapter its addresses back. */
static void heard(uv_poll_t *poll, int status, int events)
{
	struct vmms *vmms = poll->data;
	enum host_link_news news;
	bool any = false;
	char name[16];

	(void)status;
	(void)events;
	while ((news = host_link_heard(vmms->switches->addresses.fd, name)) != HOST_LINK_NOTHING) {
		any |= news == HOST_LINK_MUCH || (news == HOST_LINK_ADDRESS && is_home(vmms, name));
		if (news != HOST_LINK_ADDRESS)
			switches_look_at_links(vmms);
		if (news == HOST_LINK_MUCH)
			break;
	}
	if (any && !vmms->switches->failing)
		switches_see_to_soon(vmms);
}

/* --- lost networks ---------------------------------------------------------------------------------------- */

/* Why a machine on it has no network beyond this host's; "": it has, or was to have none. */
static void see_whether_lost(struct vswitch *s)
{
	struct host_link link;
	json_t *adapter;
	size_t i, used = 0;

	*s->lost = '\0';
	if (strcmp(json_string_value(json_object_get(s->config, "type")), "external"))
		return;
	if (host_link_get(s->interface, &link, NULL)) {
		snprintf(s->lost, sizeof(s->lost), "it is not there, as Open vSwitch is not");
		return;
	}
	json_array_foreach(json_object_get(s->config, "adapters"), i, adapter)
		if (!host_link_get(json_string_value(adapter), &link, NULL) && link.carrier)
			return;
	/* Of at most eight, with names of 15 bytes. */
	json_array_foreach(json_object_get(s->config, "adapters"), i, adapter)
		used += (size_t)snprintf(s->lost + used, sizeof(s->lost) - used, "%s%.15s", i ? ", " : "", json_string_value(adapter));
	snprintf(s->lost + used, sizeof(s->lost) - used, " %s no link", i > 1 ? "have" : "has");
}

static void look_at(struct vmms *vmms, json_t *port)
{
	const struct machine *machine = vmms_find(vmms, json_string_value(json_object_get(port, "machine")));
	const struct vswitch *s = switches_find(vmms, json_string_value(json_object_get(port, "switch")));
	const json_t *adapter = json_object_get(port, "adapter");
	bool was = json_is_true(json_object_get(port, "lost"));
	bool lost = s && *s->lost && !json_is_false(json_object_get(json_object_get(adapter, "settings"), "protected"));

	json_object_set_new(port, "lost", json_boolean(lost));
	if (!machine || lost == was)
		return;
	if (lost)
		vmms_event(vmms, machine, "vm.network-lost", "adapter %s has lost its network: switch \"%s\": %s", json_string_value(json_object_get(adapter, "mac")), s->name, s->lost);
	else
		vmms_event(vmms, machine, "vm.network-back", "adapter %s has its network again", json_string_value(json_object_get(adapter, "mac")));
}

static void links_due(uv_timer_t *timer)
{
	struct vmms *vmms = timer->data;
	struct vswitch *s;
	const char *name;
	json_t *port;

	for (size_t i = 0; (s = switches_at(vmms, i)); i++)
		see_whether_lost(s);
	json_object_foreach(vmms->switches->ports, name, port)
		look_at(vmms, port);
}

void switches_look_at_links(struct vmms *vmms)
{
	uv_timer_t *timer = &vmms->switches->links;

	if (!vmms->closing && !uv_is_active((uv_handle_t *)timer))
		uv_timer_start(timer, links_due, LOST_MS, 0);
}

/* --- from start to end ---------------------------------------------------------------------------------------- */

void switches_watch_addresses(struct vmms *vmms)
{
	struct address_watch *watch = &vmms->switches->addresses;

	watch->fd = host_link_listen();
	if (watch->fd < 0) {
		log_write(LOG_LEVEL_WARNING, "addresses that adapters of switches are given are not noticed: %s", strerror(-watch->fd));
		return;
	}
	watch->poll.data = vmms;
	watch->active = !uv_poll_init(&vmms->loop, &watch->poll, watch->fd);
	if (watch->active)
		uv_poll_start(&watch->poll, UV_READABLE, heard);
	else
		close(watch->fd);
}

static void closed(uv_handle_t *handle)
{
	struct address_watch *watch = (struct address_watch *)(void *)handle;

	close(watch->fd);
	watch->active = false;
}

void switches_watch_end(struct vmms *vmms)
{
	struct address_watch *watch = &vmms->switches->addresses;

	if (watch->active)
		uv_close((uv_handle_t *)&watch->poll, closed);
}
