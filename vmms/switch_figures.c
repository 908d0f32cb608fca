/* SPDX-License-Identifier: GPL-2.0-or-later */
/* switch_figures.c - what the ports of switches have carried, and how they are. */
#include <errno.h>
#include <string.h>

#include "vmms/errand.h"
#include "vmms/switches_private.h"

#define ANSWER_MS 2000u

struct asking {
	struct vmms *vmms;
	switch_figures_told told;
	void *context;
	json_t *figures;
	uv_timer_t timer;
	unsigned parts; /* the errand and the timer, as long as they are there */
};

static void part_over(struct asking *asking)
{
	if (--asking->parts)
		return;
	json_decref(asking->figures);
	free(asking);
}

static void closed(uv_handle_t *handle)
{
	part_over(handle->data);
}

/* Once: whoever comes first. */
static void tell(struct asking *asking, const json_t *figures)
{
	if (uv_is_closing((uv_handle_t *)&asking->timer))
		return;
	uv_close((uv_handle_t *)&asking->timer, closed);
	asking->told(asking->context, figures);
}

static void late(uv_timer_t *timer)
{
	tell(timer->data, NULL);
}

/* --- the errand ----------------------------------------------------------------------------------------------- */

static void add(json_t *list, const json_t *known, const struct vswitch *s, const char *interface, const char *kind, const char *vm)
{
	const json_t *state = json_object_get(known, interface);

	if (state)
		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:O}", "switch", s->name, "interface", interface, "kind", kind, "vm", vm,
						      "state", state));
}

static void add_switch(struct vmms *vmms, json_t *list, const json_t *known, const struct vswitch *s)
{
	json_t *ports = switches_plugged(vmms, s), *entry;
	size_t i;

	if (switch_has_host(s))
		add(list, known, s, s->interface, "host", "");
	json_array_foreach(json_object_get(s->config, "adapters"), i, entry)
		add(list, known, s, json_string_value(entry), "adapter", "");
	json_array_foreach(ports, i, entry)
		add(list, known, s, json_string_value(json_object_get(entry, "interface")), "vm", json_string_value(json_object_get(entry, "vm")));
	json_decref(ports);
}

static void look(void *context)
{
	struct asking *asking = context;
	struct vmms *vmms = asking->vmms;
	json_t *known = NULL;
	struct vswitch *s;
	int r;

	if (vmms->closing || uv_is_closing((uv_handle_t *)&asking->timer))
		return;
	errand_leave(vmms);
	r = ovs_figures(switches_ovs(vmms), &known, NULL);
	errand_enter(vmms);
	if (r)
		return;
	asking->figures = json_array();
	for (size_t i = 0; (s = switches_at(vmms, i)); i++)
		add_switch(vmms, asking->figures, known, s);
	json_decref(known);
}

static void looked(void *context)
{
	struct asking *asking = context;

	tell(asking, asking->figures);
	part_over(asking);
}

void switches_figures(struct vmms *vmms, switch_figures_told told, void *context)
{
	struct asking *asking = switches_at(vmms, 0) ? calloc(1, sizeof(*asking)) : NULL;
	struct error err;

	if (!asking) {
		told(context, NULL);
		return;
	}
	*asking = (struct asking){.vmms = vmms, .told = told, .context = context, .parts = 2};
	asking->timer.data = asking;
	uv_timer_init(&vmms->loop, &asking->timer);
	uv_timer_start(&asking->timer, late, ANSWER_MS, 0);
	if (errand_start(vmms, look, looked, asking, &err)) {
		tell(asking, NULL);
		part_over(asking);
	}
}
