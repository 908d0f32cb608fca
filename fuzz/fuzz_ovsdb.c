/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Open vSwitch's database, were it hostile: any bytes as its answers, to those who ask what there is and say what is to be. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "switch/ovs_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* All of it fits into a socket, so that nobody waits. */
#define ANSWERS_MAX 65536u

static const char *const wanted_text =
    "{\"bridges\": [{\"name\": \"bs1\", \"columns\": {\"fail_mode\": \"secure\"}, \"ports\": [{\"name\": \"bs1-team\", \"columns\": {}, \"interfaces\": ["
    "{\"name\": \"eth1\", \"columns\": {}, \"must\": true}]}], \"mirrors\": [{\"name\": \"m\", \"sources\": [\"bs1-team\"], \"target\": \"bs1-team\"}]}]}";

static struct {
	int listener;
	char directory[32];
	char answers[ANSWERS_MAX];
	size_t size;
} server;

/* Says all that it will ever say at once, and nothing more: so each call ends. What it is asked does not matter. */
static void *serve(void *unused)
{
	(void)unused;
	for (;;) {
		int fd = accept(server.listener, NULL, NULL);
		char sink[4096];

		if (fd < 0)
			abort();
		if (send(fd, server.answers, server.size, MSG_NOSIGNAL) < 0)
			server.size = 0;
		shutdown(fd, SHUT_WR);
		while (read(fd, sink, sizeof(sink)) > 0)
			;
		close(fd);
	}
	return NULL;
}

static void end(void)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/db.sock", server.directory);
	unlink(path);
	rmdir(server.directory);
}

static void begin(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	pthread_t thread;

	strcpy(server.directory, "/tmp/fuzz_ovsdb.XXXXXX");
	if (!mkdtemp(server.directory))
		abort();
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/db.sock", server.directory);
	server.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server.listener < 0 || bind(server.listener, (struct sockaddr *)&address, sizeof(address)) || listen(server.listener, 8) ||
	    pthread_create(&thread, NULL, serve, NULL) || atexit(end))
		abort();
}

/* Lines are results, in the order of requests; or, where the first byte is '!', all of it is as it is. */
static void take_answers(const uint8_t *data, size_t size)
{
	FILE *to = fmemopen(server.answers, sizeof(server.answers), "w");
	unsigned id = 1;

	if (!to)
		abort();
	setvbuf(to, NULL, _IOFBF, 4096);
	if (size && *data == '!') {
		fwrite(data + 1, 1, size - 1, to);
	} else {
		for (size_t at = 0, end; at < size; at = end + 1) {
			const uint8_t *line = memchr(data + at, '\n', size - at);

			end = line ? (size_t)(line - data) : size;
			fprintf(to, "{\"id\":%u,\"error\":null,\"result\":", id++);
			fwrite(data + at, 1, end - at, to);
			fputc('}', to);
		}
	}
	fflush(to);
	server.size = (size_t)ftell(to);
	fclose(to);
}

static void check(int r, const struct error *err)
{
	if (r > 0 || (r < 0 && (err->code != -r || !*err->text)))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ovs_place place = {.directory = server.directory, .owner = "owner", .own = true};
	json_t *wanted = json_loads(wanted_text, 0, NULL), *state = NULL;
	struct error err = {0};
	struct ovs *ovs;
	int r;

	if (!server.listener)
		begin();
	if (size > ANSWERS_MAX / 4 || !wanted || ovs_new(&ovs, &place, &err))
		return -1;
	take_answers(data, size);
	r = ovs_port_state(ovs, "bs1-team", &state, &err);
	check(r, &err);
	if (!r)
		json_decref(state);
	free(ovs_bridge_of(ovs, "eth1"));
	ovs_bridges_datapath(ovs);
	check(ovs_apply(ovs, wanted, &err), &err);
	ovs_free(ovs);
	json_decref(wanted);
	return 0;
}
