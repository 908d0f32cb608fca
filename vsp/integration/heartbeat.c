// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * heartbeat.c - asks the guest every two seconds whether it is alive.
 */
#include <string.h>

#include "vsp/integration/ic.h"

#define MISSED_UNTIL_LOST 3u

static const struct ic_version versions[] = {{1, 0}, {3, 0}};

static void set_state(struct heartbeat *heartbeat, enum heartbeat_state state,
		      enum heartbeat_applications applications)
{
	if (heartbeat->state == state && heartbeat->applications == applications)
		return;
	heartbeat->state = state;
	heartbeat->applications = applications;
	heartbeat->changed = true;
}

static void beat(struct heartbeat *heartbeat)
{
	struct ic_heartbeat body = {.sequence = heartbeat->sequence};

	if (ic_request(&heartbeat->ic, &body, sizeof(body)) == 0)
		heartbeat->sequence++;
}

static unsigned period_ms(const struct integration *integration)
{
	return integration->options.heartbeat_ms;
}

static void ready(struct ic *ic)
{
	struct heartbeat *heartbeat = (struct heartbeat *)ic;

	heartbeat->missed = 0;
	beat(heartbeat);
}

static void answer(struct ic *ic, uint32_t status, const void *body, size_t size)
{
	struct heartbeat *heartbeat = (struct heartbeat *)ic;
	struct ic_heartbeat copy = {0};

	memcpy(&copy, body, min_u64(size, sizeof(copy)));
	heartbeat->missed = 0;
	if (!ic->integration->paused)
		set_state(heartbeat, HEARTBEAT_OK,
			  copy.application_state <= HEARTBEAT_APPLICATIONS_STOPPED
			      ? (enum heartbeat_applications)copy.application_state
			      : HEARTBEAT_APPLICATIONS_UNKNOWN);
}

/* The next question only after the last was answered: a guest that hangs must not find a queue. */
static void tick(struct ic *ic)
{
	struct heartbeat *heartbeat = (struct heartbeat *)ic;

	if (ic->integration->paused)
		return;
	if (!ic->waiting) {
		beat(heartbeat);
		return;
	}
	if (++heartbeat->missed >= MISSED_UNTIL_LOST)
		set_state(heartbeat, HEARTBEAT_LOST, HEARTBEAT_APPLICATIONS_UNKNOWN);
}

static void closed(struct ic *ic)
{
	set_state((struct heartbeat *)ic, HEARTBEAT_NO_CONTACT, HEARTBEAT_APPLICATIONS_UNKNOWN);
}

const struct ic_service heartbeat_service = {
    .name = "heartbeat",
    .interface = GUID_INIT(0x57164f39, 0x9115, 0x4e78, 0xab, 0x55, 0x38, 0x2f, 0x3b, 0xd5, 0x42, 0x2d),
    .instance = GUID_INIT(0xfd149e91, 0x82e0, 0x4a7d, 0xaf, 0xa6, 0x2a, 0x41, 0x66, 0xcb, 0xd7, 0xc0),
    .type = IC_HEARTBEAT,
    .versions = versions,
    .version_count = ARRAY_SIZE(versions),
    .period_ms = period_ms,
    .ready = ready,
    .answer = answer,
    .tick = tick,
    .closed = closed,
};

const char *heartbeat_state_name(enum heartbeat_state state)
{
	switch (state) {
	case HEARTBEAT_NO_CONTACT:
		return "no contact";
	case HEARTBEAT_OK:
		return "ok";
	case HEARTBEAT_LOST:
		return "lost";
	case HEARTBEAT_PAUSED:
		return "paused";
	}
	return "";
}

enum heartbeat_state integration_heartbeat(struct integration *integration,
					   enum heartbeat_applications *applications)
{
	enum heartbeat_state state;

	pthread_mutex_lock(&integration->lock);
	state = integration->paused && integration->heartbeat.state != HEARTBEAT_NO_CONTACT
		    ? HEARTBEAT_PAUSED
		    : integration->heartbeat.state;
	if (applications)
		*applications = integration->heartbeat.applications;
	pthread_mutex_unlock(&integration->lock);
	return state;
}
