/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch/ovsdb.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#define ANSWER_MAX (64u << 20)

struct ovsdb {
	int fd;
	json_int_t last_id;
	char *buffer;
	size_t used, room;
	bool late, unsent; /* the last request was not answered in time; not even taken as a whole */
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

int ovsdb_open(struct ovsdb **out, const char *socket_path, struct error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct ovsdb *db;
	int fd;

	if (strlen(socket_path) >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG, "%s: a socket's path has at most 107 bytes", socket_path);
	strcpy(address.sun_path, socket_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		int code = errno;

		if (fd >= 0)
			close(fd);
		return error_set(err, code, "Open vSwitch's database does not answer at %s: %s", socket_path, strerror(code));
	}
	db = calloc(1, sizeof(*db));
	if (!db) {
		close(fd);
		return error_set(err, ENOMEM, "no memory for a connection to Open vSwitch");
	}
	db->fd = fd;
	*out = db;
	return 0;
}

void ovsdb_close(struct ovsdb *db)
{
	if (!db)
		return;
	close(db->fd);
	free(db->buffer);
	free(db);
}

bool ovsdb_is_late(const struct ovsdb *db)
{
	return db->late;
}

bool ovsdb_is_silent(const struct ovsdb *db)
{
	struct pollfd p = {.fd = db->fd, .events = db->unsent ? POLLIN | POLLOUT : POLLIN};

	return poll(&p, 1, 0) == 0;
}

/* --- messages ------------------------------------------------------------------------------------------ */

static int late(struct error *err)
{
	return error_set(err, ETIMEDOUT, "Open vSwitch's database (ovsdb-server) has not answered for %u s", OVSDB_SECONDS);
}

static int wait_until(const struct ovsdb *db, short events, int64_t deadline, struct error *err)
{
	struct pollfd p = {.fd = db->fd, .events = events};

	for (;;) {
		int64_t left = deadline - now_ms();
		int n = left > 0 ? poll(&p, 1, (int)left) : 0;

		if (n > 0)
			return 0;
		if (n == 0)
			return late(err);
		if (errno != EINTR)
			return error_set(err, errno, "Open vSwitch's database: %s", strerror(errno));
	}
}

static int gone(struct error *err)
{
	return error_set(err, EPIPE, "Open vSwitch's database (ovsdb-server) has ended the connection");
}

static int send_message(struct ovsdb *db, json_t *message, int64_t deadline, struct error *err)
{
	_cleanup_free_ char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
	size_t size = text ? strlen(text) : 0, sent = 0;
	int r;

	json_decref(message);
	if (!text)
		return error_set(err, ENOMEM, "no memory to ask Open vSwitch");
	while (sent < size) {
		ssize_t n = send(db->fd, text + sent, size - sent, MSG_NOSIGNAL);

		if (n >= 0)
			sent += (size_t)n;
		else if (errno != EAGAIN && errno != EINTR)
			return gone(err);
		else if ((r = wait_until(db, POLLOUT, deadline, err)))
			return r;
	}
	return 0;
}

/* The first whole message of the buffer, which is taken out of it; NULL: there is none yet. */
static int cut_message(struct ovsdb *db, json_t **message, struct error *err)
{
	json_error_t why;

	*message = NULL;
	while (db->used && strchr(" \t\r\n", db->buffer[0]))
		memmove(db->buffer, db->buffer + 1, --db->used);
	if (!db->used)
		return 0;
	*message = json_loadb(db->buffer, db->used, JSON_DISABLE_EOF_CHECK, &why);
	if (*message) {
		db->used -= (size_t)why.position;
		memmove(db->buffer, db->buffer + why.position, db->used);
		return 0;
	}
	if (json_error_code(&why) == json_error_premature_end_of_input && db->used < ANSWER_MAX)
		return 0;
	return error_set(err, EPROTO, "Open vSwitch's database answers what is no JSON: %s", why.text);
}

static int receive_message(struct ovsdb *db, json_t **message, int64_t deadline, struct error *err)
{
	for (;;) {
		ssize_t n;
		int r = cut_message(db, message, err);

		if (r || *message)
			return r;
		if (now_ms() > deadline)
			return late(err);
		if (db->used == db->room) {
			size_t room = db->room ? db->room * 2 : 65536;
			char *more = realloc(db->buffer, room);

			if (!more)
				return error_set(err, ENOMEM, "no memory for what Open vSwitch answers");
			db->buffer = more;
			db->room = room;
		}
		n = recv(db->fd, db->buffer + db->used, db->room - db->used, 0);
		if (n > 0)
			db->used += (size_t)n;
		else if (n == 0 || (errno != EAGAIN && errno != EINTR))
			return gone(err);
		else if ((r = wait_until(db, POLLIN, deadline, err)))
			return r;
	}
}

/* The server asks whether we are there (RFC 7047, 4.1.11); what else it tells unasked we have not asked for. */
static int answer_request(struct ovsdb *db, const json_t *message, int64_t deadline, struct error *err)
{
	const char *method = json_string_value(json_object_get(message, "method"));

	if (!method || strcmp(method, "echo"))
		return 0;
	return send_message(db, json_pack("{s:O, s:n, s:O}", "result", json_object_get(message, "params"), "error", "id",
				    json_object_get(message, "id")), deadline, err);
}

static int failure(const json_t *error, struct error *err)
{
	const char *word = json_string_value(json_object_get(error, "error"));
	const char *details = json_string_value(json_object_get(error, "details"));

	if (!word)
		word = json_string_value(error);
	return error_set(err, EIO, "Open vSwitch's database refuses: %.60s%s%.300s", word ? word : "it does not say why", details ? ": " : "",
	    details ? details : "");
}

int ovsdb_call(struct ovsdb *db, const char *method, json_t *params, json_t **result, struct error *err)
{
	int64_t deadline = now_ms() + OVSDB_SECONDS * 1000;
	json_int_t id = ++db->last_id;
	json_t *message = NULL;
	int r = send_message(db, json_pack("{s:s, s:o, s:I}", "method", method, "params", params, "id", id), deadline, err);

	db->late = db->unsent = r == -ETIMEDOUT;
	while (!r) {
		r = receive_message(db, &message, deadline, err);
		db->late = r == -ETIMEDOUT;
		if (r)
			return r;
		if (json_integer_value(json_object_get(message, "id")) == id && !json_object_get(message, "method"))
			break;
		r = now_ms() > deadline ? late(err) : answer_request(db, message, deadline, err);
		db->late = r == -ETIMEDOUT;
		json_decref(message);
	}
	if (r)
		return r;
	if (!json_object_get(message, "result"))
		r = error_set(err, EPROTO, "Open vSwitch's database answers \"%.40s\" with no result", method);
	else if (json_object_get(message, "error") && !json_is_null(json_object_get(message, "error")))
		r = failure(json_object_get(message, "error"), err);
	else if (result)
		*result = json_incref(json_object_get(message, "result"));
	json_decref(message);
	return r;
}

int ovsdb_transact(struct ovsdb *db, json_t *operations, json_t **results, struct error *err)
{
	size_t count = json_array_size(operations), i;
	json_t *params = json_pack("[s]", "Open_vSwitch"), *list = NULL, *entry;
	int r = !operations || json_array_extend(params, operations);

	json_decref(operations);
	if (r) {
		json_decref(params);
		return error_set(err, ENOMEM, "no memory to ask Open vSwitch");
	}
	r = ovsdb_call(db, "transact", params, &list, err);
	if (r)
		return r;
	/* An error of one is in its place; one of all, such as a constraint, comes behind. */
	json_array_foreach(list, i, entry)
		if (!r && json_object_get(entry, "error"))
			r = failure(entry, err);
	if (!r && json_array_size(list) != count)
		r = error_set(err, EPROTO, "Open vSwitch's database answers %zu operations with %zu results", count, json_array_size(list));
	if (!r && results)
		*results = json_incref(list);
	json_decref(list);
	return r;
}

/* --- forms --------------------------------------------------------------------------------------------- */

json_t *ovsdb_set(json_t *array)
{
	return json_pack("[s, o]", "set", array);
}

json_t *ovsdb_map(const json_t *object)
{
	json_t *pairs = json_array(), *value;
	const char *key;

	json_object_foreach((json_t *)(uintptr_t)object, key, value)
		json_array_append_new(pairs, json_pack("[s, O]", key, value));
	return json_pack("[s, o]", "map", pairs);
}

json_t *ovsdb_uuid(const char *uuid)
{
	return json_pack("[s, s]", "uuid", uuid);
}

json_t *ovsdb_named(const char *name)
{
	return json_pack("[s, s]", "named-uuid", name);
}

json_t *ovsdb_where(const char *column, json_t *value)
{
	return json_pack("[[s, s, o]]", column, "==", value);
}

static bool is_form(const json_t *value, const char *word)
{
	const char *first = json_string_value(json_array_get(value, 0));

	return json_array_size(value) == 2 && first && !strcmp(first, word);
}

const char *ovsdb_uuid_text(const json_t *value)
{
	return is_form(value, "uuid") ? json_string_value(json_array_get(value, 1)) : NULL;
}

json_t *ovsdb_members(const json_t *value)
{
	if (is_form(value, "set") && json_is_array(json_array_get(value, 1)))
		return json_incref(json_array_get(value, 1));
	return value ? json_pack("[O]", value) : json_array();
}

const char *ovsdb_map_text(const json_t *value, const char *key)
{
	json_t *pair;
	size_t i;

	if (!is_form(value, "map"))
		return NULL;
	json_array_foreach(json_array_get(value, 1), i, pair) {
		const char *name = json_string_value(json_array_get(pair, 0));

		if (name && !strcmp(name, key))
			return json_string_value(json_array_get(pair, 1));
	}
	return NULL;
}
