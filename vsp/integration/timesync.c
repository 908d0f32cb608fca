// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * timesync.c - tells the guest the host's time: to be set (SYNC) after open and after resume, as
 * samples for its clock discipline (Linux: /dev/ptp_hyperv) in between.
 */
#include <time.h>

#include "vsp/integration/ic.h"

/* From 1601 to 1970 in 100 ns. */
#define EPOCH_DIFFERENCE 116444736000000000u

static const struct ic_version versions[] = {{1, 0}, {3, 0}, {4, 0}};

static uint64_t host_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 10000000u + (uint64_t)now.tv_nsec / 100u + EPOCH_DIFFERENCE;
}

static int send_time(struct ic *ic, uint8_t flags)
{
	struct ic_timesync_reference reference = {.flags = flags, .stratum = 1};
	struct ic_timesync plain = {.flags = flags};

	if (!ic_version_at_least(ic, 4, 0)) {
		plain.parent_time = host_time();
		return ic_request(ic, &plain, sizeof(plain));
	}
	/* Both clocks at one moment, as near as can be. */
	reference.reference_time = partition_reference_time(ic->integration->partition);
	reference.parent_time = host_time();
	return ic_request(ic, &reference, sizeof(reference));
}

void timesync_flush(struct timesync *timesync)
{
	if (timesync->sync_wanted && !timesync->ic.integration->paused &&
	    send_time(&timesync->ic, IC_TIMESYNC_SYNC) == 0)
		timesync->sync_wanted = false;
}

static unsigned period_ms(const struct integration *integration)
{
	return integration->options.timesync_ms;
}

static void ready(struct ic *ic)
{
	struct timesync *timesync = (struct timesync *)ic;

	timesync->sync_wanted = true;
	timesync_flush(timesync);
}

static void answer(struct ic *ic, uint32_t status, const void *body, size_t size)
{
	timesync_flush((struct timesync *)ic);
}

static void tick(struct ic *ic)
{
	struct timesync *timesync = (struct timesync *)ic;

	if (ic->integration->paused)
		return;
	if (timesync->sync_wanted)
		timesync_flush(timesync);
	else
		send_time(ic, IC_TIMESYNC_SAMPLE);
}

static void closed(struct ic *ic)
{
	((struct timesync *)ic)->sync_wanted = false;
}

const struct ic_service timesync_service = {
    .name = "timesync",
    .interface = GUID_INIT(0x9527e630, 0xd0ae, 0x497b, 0xad, 0xce, 0xe8, 0x0a, 0xb0, 0x17, 0x5c, 0xaf),
    .instance = GUID_INIT(0x2dd1ce17, 0x079e, 0x403c, 0xb3, 0x52, 0xa1, 0x92, 0x1e, 0xe2, 0x07, 0xee),
    .type = IC_TIMESYNC,
    .versions = versions,
    .version_count = ARRAY_SIZE(versions),
    .period_ms = period_ms,
    .ready = ready,
    .answer = answer,
    .tick = tick,
    .closed = closed,
};

void integration_sync_time(struct integration *integration)
{
	pthread_mutex_lock(&integration->lock);
	if (integration->timesync.ic.state == IC_READY) {
		integration->timesync.sync_wanted = true;
		timesync_flush(&integration->timesync);
	}
	pthread_mutex_unlock(&integration->lock);
}
