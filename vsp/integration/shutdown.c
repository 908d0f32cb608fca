// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * shutdown.c - asks the guest to power off, restart or hibernate.
 */
#include <errno.h>
#include <string.h>

#include "vsp/integration/ic.h"

/* How long the guest may wait for programs that do not end by themselves. */
#define TIMEOUT_SECONDS 60u

static const struct ic_version versions[] = {{1, 0}, {3, 0}, {3, 1}, {3, 2}};

static void ready(struct ic *ic)
{
}

static void finish(struct shutdown *shutdown, int result)
{
	if (!shutdown->asked)
		return;
	shutdown->asked = false;
	shutdown->answered = true;
	shutdown->result = result;
}

static void answer(struct ic *ic, uint32_t status, const void *body, size_t size)
{
	finish((struct shutdown *)ic, status == IC_STATUS_OK ? 0 : -EIO);
}

static void tick(struct ic *ic)
{
}

static void closed(struct ic *ic)
{
	finish((struct shutdown *)ic, -ESHUTDOWN);
}

const struct ic_service shutdown_service = {
    .name = "shutdown",
    .interface = GUID_INIT(0x0e0b6031, 0x5213, 0x4934, 0x81, 0x8b, 0x38, 0xd9, 0x0c, 0xed, 0x39, 0xdb),
    .instance = GUID_INIT(0xb6650ff7, 0x33bc, 0x4840, 0x80, 0x48, 0xe0, 0x67, 0x67, 0x86, 0xf3, 0x93),
    .type = IC_SHUTDOWN,
    .versions = versions,
    .version_count = ARRAY_SIZE(versions),
    .ready = ready,
    .answer = answer,
    .tick = tick,
    .closed = closed,
};

/* One character of UTF-8, U+FFFD for what is none. Advances *at by at least one byte. */
static uint32_t next_character(const uint8_t **at)
{
	static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
	const uint8_t *p = *at;
	unsigned more = p[0] < 0x80 ? 0 : p[0] >= 0xf0 && p[0] < 0xf8 ? 3 : p[0] >= 0xe0 ? 2 : 1;
	uint32_t c = p[0];

	*at = p + 1;
	if (more == 0)
		return c;
	if (c < 0xc0 || c >= 0xf8)
		return 0xfffd;
	c &= 0x3fu >> more;
	for (unsigned i = 1; i <= more; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0xfffd;
		c = c << 6 | (p[i] & 0x3f);
		*at = p + i + 1;
	}
	return c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0xfffd : c;
}

static void put_text(uint16_t *to, size_t capacity, const char *text)
{
	const uint8_t *at = (const uint8_t *)text;
	size_t count = 0;

	while (*at) {
		uint32_t c = next_character(&at);
		size_t units = c >= 0x10000 ? 2 : 1;

		if (count + units >= capacity)
			break;
		if (units == 2) {
			to[count++] = (uint16_t)(0xd800 + ((c - 0x10000) >> 10));
			to[count++] = (uint16_t)(0xdc00 + (c & 0x3ff));
		} else {
			to[count++] = (uint16_t)c;
		}
	}
	to[count] = 0;
}

static int request(struct shutdown *shutdown, enum shutdown_action action, const struct ic_shutdown *body)
{
	int r;

	if (shutdown->ic.state != IC_READY)
		return -ENOTCONN;
	if ((action == SHUTDOWN_RESTART && !ic_version_at_least(&shutdown->ic, 3, 1)) ||
	    (action == SHUTDOWN_HIBERNATE && !ic_version_at_least(&shutdown->ic, 3, 2)))
		return -EOPNOTSUPP;
	r = ic_request(&shutdown->ic, body, sizeof(*body));
	if (r == 0)
		shutdown->asked = true;
	return r;
}

static const char *explain(int r)
{
	switch (r) {
	case -ENOTCONN:
		return "its shutdown service is not running (yet); wait for it to boot, or turn it off";
	case -EOPNOTSUPP:
		return "its shutdown driver is too old for this action; power off instead";
	case -EBUSY:
		return "it has not answered the request before this one; wait, or turn it off";
	case -EAGAIN:
		return "it does not read its requests; try again, or turn it off";
	default:
		return strerror(-r);
	}
}

int integration_request_shutdown(struct integration *integration, enum shutdown_action action, bool force,
				 const char *reason, struct error *err)
{
	struct ic_shutdown body = {
	    .reason = IC_SHUTDOWN_PLANNED,
	    .timeout_seconds = TIMEOUT_SECONDS,
	    .flags = (force ? IC_SHUTDOWN_FORCE : 0) |
		     (action == SHUTDOWN_RESTART ? IC_SHUTDOWN_RESTART : 0) |
		     (action == SHUTDOWN_HIBERNATE ? IC_SHUTDOWN_HIBERNATE : 0),
	};
	uint16_t text[ARRAY_SIZE(body.text)] = {0};
	int r;

	put_text(text, ARRAY_SIZE(text), reason ? reason : "");
	memcpy(body.text, text, sizeof(text));
	pthread_mutex_lock(&integration->lock);
	r = integration->shutdown.ic.channel ? request(&integration->shutdown, action, &body) : -ENOTCONN;
	pthread_mutex_unlock(&integration->lock);
	if (r < 0)
		error_set(err, -r, "cannot ask the guest to shut down: %s", explain(r));
	return r;
}

bool integration_shutdown_ready(struct integration *integration)
{
	bool is_ready;

	pthread_mutex_lock(&integration->lock);
	is_ready = integration->shutdown.ic.state == IC_READY && !integration->shutdown.ic.waiting;
	pthread_mutex_unlock(&integration->lock);
	return is_ready;
}
