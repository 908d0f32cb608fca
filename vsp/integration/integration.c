// SPDX-License-Identifier: GPL-2.0-or-later
#include "vsp/integration/integration.h"

#include <errno.h>

#include "vsp/integration/ic.h"

#define HEARTBEAT_MS 2000u
#define TIMESYNC_MS  5000u
#define KVP_MS       2000u
#define KVP_TIMEOUT  60000u /* Linux itself gives its daemon 30 s */

static unsigned or_else(unsigned value, unsigned preset)
{
	return value ? value : preset;
}

int integration_create(struct integration **out, struct vmbus *bus, const struct integration_options *options,
		       struct error *err)
{
	struct integration *integration = calloc(1, sizeof(*integration));
	int r = 0;

	*out = NULL;
	if (!integration)
		return error_set(err, ENOMEM, "no memory for the integration services");
	integration->bus = bus;
	integration->partition = vmbus_partition(bus);
	integration->options = *options;
	integration->options.heartbeat_ms = or_else(options->heartbeat_ms, HEARTBEAT_MS);
	integration->options.timesync_ms = or_else(options->timesync_ms, TIMESYNC_MS);
	integration->options.kvp_ms = or_else(options->kvp_ms, KVP_MS);
	integration->options.kvp_timeout_ms = or_else(options->kvp_timeout_ms, KVP_TIMEOUT);
	pthread_mutex_init(&integration->lock, NULL);
	integration->heartbeat.ic.timer_fd = -1;
	integration->shutdown.ic.timer_fd = -1;
	integration->timesync.ic.timer_fd = -1;
	integration->kvp.ic.timer_fd = -1;
	if (!options->no_heartbeat)
		r = ic_create(&integration->heartbeat.ic, integration, &heartbeat_service, err);
	if (r == 0 && !options->no_shutdown)
		r = ic_create(&integration->shutdown.ic, integration, &shutdown_service, err);
	if (r == 0 && !options->no_timesync)
		r = ic_create(&integration->timesync.ic, integration, &timesync_service, err);
	if (r == 0 && !options->no_kvp)
		r = ic_create(&integration->kvp.ic, integration, &kvp_service, err);
	if (r < 0) {
		integration_destroy(integration);
		return r;
	}
	*out = integration;
	return 0;
}

void integration_destroy(struct integration *integration)
{
	if (!integration)
		return;
	ic_destroy(&integration->kvp.ic);
	ic_destroy(&integration->timesync.ic);
	ic_destroy(&integration->shutdown.ic);
	ic_destroy(&integration->heartbeat.ic);
	pthread_mutex_destroy(&integration->lock);
	free(integration);
}

void integration_notify(struct integration *integration)
{
	const struct integration_options *options = &integration->options;
	struct heartbeat heartbeat;
	struct shutdown shutdown;

	pthread_mutex_lock(&integration->lock);
	heartbeat = integration->heartbeat;
	shutdown = integration->shutdown;
	integration->heartbeat.changed = false;
	integration->shutdown.answered = false;
	pthread_mutex_unlock(&integration->lock);
	if (heartbeat.changed && options->on_heartbeat)
		options->on_heartbeat(options->context, heartbeat.state, heartbeat.applications);
	if (shutdown.answered && options->on_shutdown)
		options->on_shutdown(options->context, shutdown.result);
}

void integration_paused(struct integration *integration)
{
	pthread_mutex_lock(&integration->lock);
	integration->paused = true;
	pthread_mutex_unlock(&integration->lock);
}

void integration_resumed(struct integration *integration)
{
	pthread_mutex_lock(&integration->lock);
	integration->paused = false;
	integration->heartbeat.missed = 0;
	kvp_resumed(&integration->kvp);
	pthread_mutex_unlock(&integration->lock);
	integration_sync_time(integration);
}

static void inspect_version(const char *name, const struct ic_version *version, const struct vmbus_inspector *inspector, void *context)
{
	char text[16];

	snprintf(text, sizeof(text), "%u.%u", version->major, version->minor);
	inspector->text(context, name, text);
}

static void inspect_service(const struct ic *ic, const struct vmbus_inspector *inspector, void *context)
{
	static const char *const states[] = {[IC_CLOSED] = "closed",
					     [IC_NEGOTIATING] = "negotiating",
					     [IC_READY] = "ready",
					     [IC_INCOMPATIBLE] = "no common version"};

	if (!ic->channel)
		return;
	inspector->begin(context, ic->service->name);
	inspector->text(context, "state", states[ic->state]);
	if (ic->state == IC_READY) {
		inspect_version("framework", &ic->framework, inspector, context);
		inspect_version("version", &ic->message, inspector, context);
	}
	if (ic->service->inspect)
		ic->service->inspect(ic, inspector, context);
	inspector->end(context);
}

void integration_inspect(struct integration *integration, const struct vmbus_inspector *inspector, void *context)
{
	pthread_mutex_lock(&integration->lock);
	inspector->begin(context, "integration");
	inspect_service(&integration->heartbeat.ic, inspector, context);
	inspect_service(&integration->shutdown.ic, inspector, context);
	inspect_service(&integration->timesync.ic, inspector, context);
	inspect_service(&integration->kvp.ic, inspector, context);
	inspector->end(context);
	pthread_mutex_unlock(&integration->lock);
}
