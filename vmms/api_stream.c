/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * api_stream.c - events as they happen: Server-Sent Events, as the HTML standard has them.
 *
 * host.db has the events, so a client is no more than a place in them: nothing is kept for one that is slow but the few
 * that it is being sent. It is dropped when it takes nothing for a minute (http_server.c), and goes on by Last-Event-ID.
 */
#include <errno.h>
#include <string.h>

#include "vmms/api.h"

#define STREAMS_MAX       64u
#define BATCH             16u
#define HEARTBEAT_SECONDS 15u

struct stream {
	struct vmms *vmms;
	struct http_request *request;
	struct stream *next;
	char vm[GUID_TEXT_SIZE]; /* "": all */
	int64_t after;           /* the last event that was taken out of host.db */
	char *text;              /* being sent */
	size_t at, size;
	bool heartbeat, over;
};

struct streams {
	struct stream *first;
	unsigned count;
	uv_timer_t timer;
	bool timer_used;
};

/* --- what is sent --------------------------------------------------------------------------------------- */

static void set_text(struct stream *stream, char *text)
{
	free(stream->text);
	stream->text = text;
	stream->at = 0;
	stream->size = text ? strlen(text) : 0;
}

static char *event_text(const json_t *event)
{
	char *data = json_dumps(event, JSON_COMPACT), *text = NULL;

	if (data && asprintf(&text, "id: %lld\nevent: %s\ndata: %s\n\n",
			     (long long)json_integer_value(json_object_get(event, "id")),
			     json_string_value(json_object_get(event, "kind")), data) < 0)
		text = NULL;
	free(data);
	return text;
}

static char *joined(char *first, char *second)
{
	char *whole = NULL;

	if (!first || !second)
		return first ? first : second;
	if (asprintf(&whole, "%s%s", first, second) < 0)
		whole = NULL;
	free(first);
	free(second);
	return whole;
}

/* The next few events, if there are any. */
static void take_events(struct stream *stream)
{
	json_t *list = NULL, *event;
	struct error err = {0};
	char *text = NULL;
	size_t i;

	if (store_event_list(stream->vmms->store, stream->after, *stream->vm ? stream->vm : NULL, BATCH, &list, &err)) {
		log_write(LOG_LEVEL_ERROR, "events cannot be told: %s", err.text);
		stream->over = true;
		return;
	}
	json_array_foreach(list, i, event) {
		text = joined(text, event_text(event));
		stream->after = json_integer_value(json_object_get(event, "id"));
	}
	json_decref(list);
	set_text(stream, text);
}

static ssize_t more(void *context, char *to, size_t size)
{
	struct stream *stream = context;
	size_t n;

	if (stream->at == stream->size)
		take_events(stream);
	if (stream->at == stream->size && stream->heartbeat)
		set_text(stream, strdup(": still here\n\n"));
	stream->heartbeat = false;
	if (stream->over)
		return -1;
	n = stream->size - stream->at < size ? stream->size - stream->at : size;
	if (n)
		memcpy(to, stream->text + stream->at, n);
	stream->at += n;
	return (ssize_t)n;
}

/* --- who listens ---------------------------------------------------------------------------------------- */

static void closed(void *context)
{
	struct stream *stream = context;
	struct streams *streams = stream->vmms->streams;
	struct stream **at = &streams->first;

	while (*at != stream)
		at = &(*at)->next;
	*at = stream->next;
	if (!--streams->count)
		uv_timer_stop(&streams->timer);
	free(stream->text);
	free(stream);
}

/* Whoever may listen no more, since his token has ended or was revoked, is sent away. */
static void heartbeat(uv_timer_t *timer)
{
	struct vmms *vmms = timer->data;

	for (struct stream *stream = vmms->streams->first; stream; stream = stream->next) {
		struct principal who;
		struct error err;

		if (access_of(vmms->access, stream->request, &who, &err) || who.role < ROLE_VIEWER)
			stream->over = true;
		stream->heartbeat = true;
		http_stream_wake(stream->request);
	}
}

void api_streams_wake(struct vmms *vmms)
{
	for (struct stream *stream = vmms->streams ? vmms->streams->first : NULL; stream; stream = stream->next)
		http_stream_wake(stream->request);
}

static void timer_closed(uv_handle_t *handle)
{
	struct streams *streams = (struct streams *)((char *)handle - offsetof(struct streams, timer));

	free(streams);
}

int api_streams_open(struct vmms *vmms, struct error *err)
{
	vmms->streams = calloc(1, sizeof(*vmms->streams));
	if (!vmms->streams)
		return error_set(err, ENOMEM, "no memory for streams of events");
	uv_timer_init(&vmms->loop, &vmms->streams->timer);
	vmms->streams->timer.data = vmms;
	return 0;
}

void api_streams_close(struct vmms *vmms)
{
	if (vmms->streams)
		uv_close((uv_handle_t *)&vmms->streams->timer, timer_closed);
	vmms->streams = NULL;
}

/* --- the route ------------------------------------------------------------------------------------------ */

static int64_t newest_event(struct vmms *vmms)
{
	json_t *list = NULL;
	int64_t id = 0;

	if (!store_event_tail(vmms->store, NULL, 1, &list, NULL))
		id = json_integer_value(json_object_get(json_array_get(list, 0), "id"));
	json_decref(list);
	return id;
}

/* Last-Event-ID goes before ?after=: a client that comes back has its first URL still. */
static int begin_at(struct vmms *vmms, struct http_request *request, int64_t *after, struct error *err)
{
	const char *last = http_header(request, "Last-Event-ID");
	char *end;

	*after = api_number(request, "after");
	if (last && *last) {
		errno = 0;
		*after = strtoll(last, &end, 10);
		if (*end || errno || *after < 0)
			return error_set(err, EINVAL, "Last-Event-ID: \"%.40s\" is no event's id", last);
	}
	if (*after < 0)
		*after = newest_event(vmms);
	return 0;
}

static int check_room(const struct vmms *vmms, struct error *err)
{
	if (vmms->streams->count < STREAMS_MAX)
		return 0;
	return error_set(err, EUSERS, "%u clients are told of events already, and that is as many as may be: ask for "
			 "/v1/events now and then", STREAMS_MAX);
}

static void stream_events(struct vmms *vmms, struct http_request *request)
{
	static const struct http_stream ops = {.more = more, .closed = closed};
	const char *vm = api_text(request, "vm");
	const struct machine *machine = vm ? vmms_find(vmms, vm) : NULL;
	struct streams *streams = vmms->streams;
	struct stream *stream = NULL;
	struct error err = {0};
	int64_t after = 0;
	char *text;
	int r = check_room(vmms, &err);

	if (!r && vm && !machine)
		r = error_set(&err, ENOENT, "there is no machine \"%.100s\": bulkhead vm list shows what there is", vm);
	if (!r)
		r = begin_at(vmms, request, &after, &err);
	if (!r && !(stream = calloc(1, sizeof(*stream))))
		r = error_set(&err, ENOMEM, "no memory for a stream of events");
	if (r) {
		http_fail(request, &err);
		return;
	}
	stream->vmms = vmms;
	stream->request = request;
	stream->after = after;
	/* At once it gets its headers, and the place to go on from, should nothing happen until it comes back. */
	if (asprintf(&text, "id: %lld\n\n", (long long)after) >= 0)
		set_text(stream, text);
	if (machine)
		snprintf(stream->vm, sizeof(stream->vm), "%s", machine->id);
	stream->next = streams->first;
	streams->first = stream;
	if (!streams->count++)
		uv_timer_start(&streams->timer, heartbeat, HEARTBEAT_SECONDS * 1000ull, HEARTBEAT_SECONDS * 1000ull);
	http_reply_stream(request, "text/event-stream", &ops, stream);
}

static const struct form form_after = {.kind = FORM_INTEGER, .text = "an event's id; -1: from now on", .min = -1, .max = INT64_MAX};
static const struct form_field stream_query[] = {{"after", &form_after, "-1", false}, {"vm", &form_cursor, NULL, false}, {0}};

const struct route stream_routes[] = {
    {"GET", "/v1/events/stream", "streamEvents",
     "Events as they happen, as text/event-stream; Last-Event-ID goes on behind one", ROLE_VIEWER, NULL, stream_query, 200,
     ROUTE_STREAM, stream_events, NULL},
    {0},
};
