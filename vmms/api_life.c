/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_life.c - the REST interface's routes of what a machine lives through beside its power: with the host. */
#include "vmms/api.h"
#include "vmms/automatic.h"

static void stop_machines(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};
	struct job *job = NULL;
	int r = automatic_stop(vmms, (unsigned)api_number(request, "timeout"), &job, &err);

	api_reply_job(request, job, r, &err);
}

static const struct form form_timeout = {
    .kind = FORM_INTEGER, .text = "seconds, then their power is cut", .min = 0, .max = 86400};
static const struct form_field stop_query[] = {WAIT_FIELD, {"timeout", &form_timeout, "120", false}, {0}};

const struct route life_routes[] = {
    {"POST", "/v1/host/stop-machines", "stopMachines", "Stop all machines, each as its automatic.stop says",
     ROLE_ADMINISTRATOR, NULL, stop_query, 202, 0, stop_machines},
    {0},
};
