// SPDX-License-Identifier: GPL-2.0-or-later
/* saved.c - the integration services out of their state and into others. */
#include <string.h>

#include "vsp/integration/ic.h"

#define INTEGRATION_SECTION         "services"
#define INTEGRATION_SECTION_VERSION 2u /* 1 has no Key-Value Pair Exchange */

/* In front of each service: whether it is there. */
static const struct form_field ic_fields[] = {
    FORM_FIELD(struct ic, state),          FORM_FIELD(struct ic, framework.major),
    FORM_FIELD(struct ic, framework.minor), FORM_FIELD(struct ic, message.major),
    FORM_FIELD(struct ic, message.minor),  FORM_FIELD(struct ic, transaction_id),
    FORM_FLAG(struct ic, waiting),         FORM_FLAG(struct ic, negotiation_due),
};

static const struct form_field heartbeat_fields[] = {
    FORM_FIELD(struct heartbeat, sequence),
    FORM_FIELD(struct heartbeat, missed),
    FORM_FIELD(struct heartbeat, state),
    FORM_FIELD(struct heartbeat, applications),
};

static const struct form_field shutdown_fields[] = {FORM_FLAG(struct shutdown, asked)};
static const struct form_field timesync_fields[] = {FORM_FLAG(struct timesync, sync_wanted)};

static void save_ic(const struct ic *ic, struct form_writer *w)
{
	form_put32(w, ic->channel != NULL);
	FORM_PUT(w, ic, ic_fields);
}

void integration_save(struct integration *integration, struct form_writer *w)
{
	size_t section = form_section_begin(w, INTEGRATION_SECTION, 0, INTEGRATION_SECTION_VERSION);

	pthread_mutex_lock(&integration->lock);
	save_ic(&integration->heartbeat.ic, w);
	FORM_PUT(w, &integration->heartbeat, heartbeat_fields);
	save_ic(&integration->shutdown.ic, w);
	FORM_PUT(w, &integration->shutdown, shutdown_fields);
	save_ic(&integration->timesync.ic, w);
	FORM_PUT(w, &integration->timesync, timesync_fields);
	/* What the guest told it tells again. */
	save_ic(&integration->kvp.ic, w);
	pthread_mutex_unlock(&integration->lock);
	form_section_end(w, section);
}

/* A service is closed where its channel is, and only there. */
static void load_ic(struct ic *ic, struct form_reader *r)
{
	bool open = ic->state != IC_CLOSED;

	if (form_get32(r) != (ic->channel != NULL))
		form_bad(r, "the machine has other integration services");
	FORM_GET(r, ic, ic_fields);
	if (ic->state > IC_INCOMPATIBLE || (ic->state != IC_CLOSED) != open)
		form_bad(r, "a service is in a state in which its channel is not");
	if (ic->state == IC_READY && !ic_versions_offered(ic, &ic->framework, &ic->message))
		form_bad(r, "a service has agreed on a version that does not exist");
	if (r->bad)
		ic->state = IC_INCOMPATIBLE;
	else if (ic->state == IC_READY)
		ic_start_timer(ic);
}

void integration_load(struct integration *integration, struct form_reader *whole)
{
	struct form_reader r = form_section(whole, INTEGRATION_SECTION, 0, INTEGRATION_SECTION_VERSION);

	pthread_mutex_lock(&integration->lock);
	integration->paused = true;
	load_ic(&integration->heartbeat.ic, &r);
	FORM_GET(&r, &integration->heartbeat, heartbeat_fields);
	if (integration->heartbeat.state > HEARTBEAT_LOST ||
	    integration->heartbeat.applications > HEARTBEAT_APPLICATIONS_STOPPED) {
		form_bad(&r, "the heartbeat is in a state that there is not");
		integration->heartbeat.state = HEARTBEAT_NO_CONTACT;
	}
	load_ic(&integration->shutdown.ic, &r);
	FORM_GET(&r, &integration->shutdown, shutdown_fields);
	load_ic(&integration->timesync.ic, &r);
	FORM_GET(&r, &integration->timesync, timesync_fields);
	if (r.version >= 2)
		load_ic(&integration->kvp.ic, &r);
	pthread_mutex_unlock(&integration->lock);
	form_section_done(whole, &r);
}
