/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * switch_watch.c - addresses that somebody gives to a switch's adapters while the host is on the switch.
 *
 * An adapter that has come late after the host's start is given what its configuration says; whoever was told the adapter's name gives it more. Such
 * addresses, and routes, follow the others to the switch's interface, with how long they are good for.
 */
#include <string.h>

#include "switch/host_link.h"
#include "vmms/switches_private.h"

static bool is_home(struct vmms *vmms, const char *adapter)
{
	const struct vswitch *s;

	for (size_t i = 0; (s = switches_at(vmms, i)); i++)
		if (!*adapter || switch_is_home(s, adapter))
			return true;
	return false;
}

/* The routes come behind the addresses, so there is a moment for them. While something is wrong it is tried again anyhow, and each time that may give the
 * adapter its addresses back. */
static void heard(uv_poll_t *poll, int status, int events)
{
	struct vmms *vmms = poll->data;
	bool any = false;
	char name[16];

	(void)status;
	(void)events;
	while (host_link_heard(vmms->switches->addresses.fd, name)) {
		any |= is_home(vmms, name);
		if (!*name)
			break;
	}
	if (any && !vmms->switches->failing)
		switches_see_to_soon(vmms);
}

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
