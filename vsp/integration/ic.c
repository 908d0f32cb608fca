// SPDX-License-Identifier: GPL-2.0-or-later
#include "vsp/integration/ic.h"

#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>

/* Framework versions that we speak, lowest first. */
static const struct ic_version framework_versions[] = {{1, 0}, {3, 0}};

/* --- messages out ---------------------------------------------------------------------------------- */

static int send_message(struct ic *ic, enum ic_message_type type, const void *body, size_t size)
{
	struct {
		struct vmbus_pipe_header pipe;
		struct ic_header header;
		uint8_t body[IC_MAX_MESSAGE - sizeof(struct vmbus_pipe_header) - sizeof(struct ic_header)];
	} __attribute__((packed)) message = {0};
	int r;

	if (size > sizeof(message.body))
		return -EMSGSIZE;
	message.pipe.type = VMBUS_PIPE_MESSAGE_DATA;
	message.pipe.size = (uint32_t)(sizeof(message.header) + size);
	message.header.framework = ic->framework;
	message.header.message = ic->message;
	message.header.type = (uint16_t)type;
	message.header.size = (uint16_t)size;
	message.header.transaction_id = ++ic->transaction_id;
	message.header.flags = IC_FLAG_TRANSACTION | IC_FLAG_REQUEST;
	memcpy(message.body, body, size);
	r = channel_send(ic->channel, 0, &message, sizeof(message.pipe) + sizeof(message.header) + size,
			 false);
	if (r == 0)
		ic->waiting = true;
	return r;
}

int ic_request(struct ic *ic, const void *body, size_t size)
{
	if (ic->state != IC_READY)
		return -ENOTCONN;
	if (ic->waiting)
		return -EBUSY;
	return send_message(ic, ic->service->type, body, size);
}

static void negotiate(struct ic *ic)
{
	struct {
		struct ic_negotiate negotiate;
		struct ic_version versions[16];
	} __attribute__((packed)) body = {0};
	unsigned count = 0;

	ic->framework = framework_versions[0];
	ic->message = ic->service->versions[0];
	body.negotiate.framework_count = ARRAY_SIZE(framework_versions);
	body.negotiate.message_count = (uint16_t)ic->service->version_count;
	for (unsigned i = 0; i < ARRAY_SIZE(framework_versions); i++)
		body.versions[count++] = framework_versions[i];
	for (unsigned i = 0; i < ic->service->version_count; i++)
		body.versions[count++] = ic->service->versions[i];
	ic->negotiation_due =
	    send_message(ic, IC_NEGOTIATE, &body,
			 sizeof(body.negotiate) + count * sizeof(body.versions[0])) == -EAGAIN;
}

/* --- messages in ----------------------------------------------------------------------------------- */

static bool offered(const struct ic_version *list, unsigned count, const struct ic_version *version)
{
	for (unsigned i = 0; i < count; i++)
		if (list[i].major == version->major && list[i].minor == version->minor)
			return true;
	return false;
}

bool ic_versions_offered(const struct ic *ic, const struct ic_version *framework, const struct ic_version *message)
{
	return offered(framework_versions, ARRAY_SIZE(framework_versions), framework) &&
	       offered(ic->service->versions, ic->service->version_count, message);
}

static void take_negotiation(struct ic *ic, const uint8_t *body, size_t size)
{
	struct ic_negotiate negotiate;
	struct ic_version versions[2];

	ic->state = IC_INCOMPATIBLE;
	if (size < sizeof(negotiate) + sizeof(versions))
		return;
	memcpy(&negotiate, body, sizeof(negotiate));
	memcpy(versions, body + sizeof(negotiate), sizeof(versions));
	if (negotiate.framework_count != 1 || negotiate.message_count != 1 ||
	    !ic_versions_offered(ic, &versions[0], &versions[1])) {
		log_write(LOG_LEVEL_INFO, "%s: the guest's driver knows no version that we offer",
			  ic->service->name);
		return;
	}
	ic->framework = versions[0];
	ic->message = versions[1];
	ic->state = IC_READY;
	ic->service->ready(ic);
	ic_start_timer(ic);
}

/* Answers to what was not asked, and what is too short to be one, are dropped. */
static void take_message(struct ic *ic, const uint8_t *payload, size_t size)
{
	struct vmbus_pipe_header pipe;
	struct ic_header header;

	if (size < sizeof(pipe) + sizeof(header))
		return;
	memcpy(&pipe, payload, sizeof(pipe));
	memcpy(&header, payload + sizeof(pipe), sizeof(header));
	if (pipe.type != VMBUS_PIPE_MESSAGE_DATA || pipe.size < sizeof(header) ||
	    pipe.size > size - sizeof(pipe))
		return;
	if (!(header.flags & IC_FLAG_RESPONSE) || header.transaction_id != ic->transaction_id || !ic->waiting)
		return;
	payload += sizeof(pipe) + sizeof(header);
	size = pipe.size - sizeof(header);
	ic->waiting = false;
	if (header.type == IC_NEGOTIATE && ic->state == IC_NEGOTIATING)
		take_negotiation(ic, payload, size);
	else if (header.type == ic->service->type && ic->state == IC_READY)
		ic->service->answer(ic, header.status, payload, size);
}

/* --- the channel ----------------------------------------------------------------------------------- */

static int on_open(void *provider, struct channel *channel, const struct channel_open *open)
{
	struct ic *ic = provider;

	/* The guest hears that it is open first; the event that follows every open negotiates. */
	pthread_mutex_lock(&ic->integration->lock);
	ic->state = IC_NEGOTIATING;
	ic->waiting = false;
	ic->negotiation_due = true;
	pthread_mutex_unlock(&ic->integration->lock);
	return 0;
}

static void on_close(void *provider, struct channel *channel)
{
	struct ic *ic = provider;

	pthread_mutex_lock(&ic->integration->lock);
	ic->state = IC_CLOSED;
	ic->waiting = ic->negotiation_due = false;
	ic_set_timer(ic, 0, 0);
	ic->service->closed(ic);
	pthread_mutex_unlock(&ic->integration->lock);
	integration_notify(ic->integration);
}

static void on_event(void *provider, struct channel *channel)
{
	struct ic *ic = provider;
	uint8_t payload[IC_MAX_MESSAGE];
	struct channel_packet packet = {.payload = payload, .payload_capacity = sizeof(payload)};
	int r;

	pthread_mutex_lock(&ic->integration->lock);
	while ((r = channel_receive(channel, &packet)) == 1 || r == -EMSGSIZE || r == -EFAULT)
		if (r == 1 && packet.type == VMBUS_PACKET_IN_BAND)
			take_message(ic, payload, packet.payload_size);
	if (ic->negotiation_due)
		negotiate(ic);
	pthread_mutex_unlock(&ic->integration->lock);
	integration_notify(ic->integration);
}

static const struct channel_ops channel_ops = {.open = on_open, .close = on_close, .event = on_event};

/* --- the timer ------------------------------------------------------------------------------------- */

static void on_timer(void *context)
{
	struct ic *ic = context;
	uint64_t expired;

	if (read(ic->timer_fd, &expired, sizeof(expired)) < 0)
		return;
	pthread_mutex_lock(&ic->integration->lock);
	if (ic->state == IC_READY)
		ic->service->tick(ic);
	pthread_mutex_unlock(&ic->integration->lock);
	integration_notify(ic->integration);
}

void ic_set_timer(struct ic *ic, unsigned first_ms, unsigned period_ms)
{
	struct itimerspec spec = {
	    .it_value = {.tv_sec = first_ms / 1000, .tv_nsec = first_ms % 1000 * 1000000l},
	    .it_interval = {.tv_sec = period_ms / 1000, .tv_nsec = period_ms % 1000 * 1000000l},
	};

	timerfd_settime(ic->timer_fd, 0, &spec, NULL);
}

void ic_start_timer(struct ic *ic)
{
	unsigned period = ic->service->period_ms ? ic->service->period_ms(ic->integration) : 0;

	if (period)
		ic_set_timer(ic, period, period);
}

/* --- life ------------------------------------------------------------------------------------------ */

int ic_create(struct ic *ic, struct integration *integration, const struct ic_service *service,
	      struct error *err)
{
	struct channel_offer offer = {
	    .interface = service->interface,
	    .instance = service->instance,
	    .name = service->name,
	    .pipe = true,
	};
	int r;

	ic->integration = integration;
	ic->service = service;
	ic->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (ic->timer_fd < 0)
		return error_set(err, errno, "%s: cannot create a timer: %s", service->name, strerror(errno));
	r = vmbus_watch(integration->bus, ic->timer_fd, on_timer, ic);
	if (r < 0) {
		close(ic->timer_fd);
		ic->timer_fd = -1;
		return error_set(err, -r, "%s: cannot watch a timer: %s", service->name, strerror(-r));
	}
	return vmbus_offer(integration->bus, &offer, &channel_ops, ic, &ic->channel, err);
}

void ic_destroy(struct ic *ic)
{
	if (ic->channel)
		channel_remove(ic->channel);
	if (ic->timer_fd >= 0) {
		vmbus_unwatch(ic->integration->bus, ic->timer_fd);
		close(ic->timer_fd);
	}
}

bool ic_version_at_least(const struct ic *ic, uint16_t major, uint16_t minor)
{
	return ic->message.major > major || (ic->message.major == major && ic->message.minor >= minor);
}
