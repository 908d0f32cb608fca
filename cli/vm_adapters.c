/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_adapters.c - `bulkhead vm create|set --network --forward`, what `vm show` tells of adapters, and `vm ssh`. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "cli/vm.h"

#define SSH_ARGUMENTS 100
#define SSH_WAIT      180  /* seconds; a machine starts meanwhile */
#define SSH_BANNER    3000 /* milliseconds */
#define SSH_AGAIN     500

static bool is_nat(const json_t *adapter)
{
	const char *port = json_string_value(json_object_get(adapter, "port"));

	return !port || !strcmp(port, "nat");
}

/* The list of a request's adapters, made if it is not there. */
static json_t *adapters_of(json_t *body)
{
	json_t *list = json_object_get(body, "adapters");

	if (list)
		return list;
	list = json_array();
	json_object_set_new(body, "adapters", list);
	return list;
}

int vm_parse_network(struct manage *manage, json_t *adapter, const char *text)
{
	const char *key = NULL, *port = text, *name = strchr(text, ':');

	if (!strncmp(text, "tap:", 4) && text[4]) {
		port = "tap";
		key = "interface";
	} else if (!strncmp(text, "switch:", 7) && text[7]) {
		port = "switch";
		key = "switch";
	} else if (strcmp(text, "nat") && strcmp(text, "none")) {
		return manage_usage(manage, "\"%s\" is no network: write nat, tap:NAME, switch:NAME or none", text);
	}
	json_object_set_new(adapter, "port", json_string(port));
	if (key && json_object_set_new(adapter, key, json_string(name + 1)))
		return manage_usage(manage, "\"%s\" is no UTF-8", text);
	return 0;
}

int vm_add_network(struct manage *manage, json_t *body, const char *text)
{
	json_t *list = adapters_of(body), *adapter;
	int status;

	if (!strcmp(text, "none"))
		return json_array_size(list) ? manage_usage(manage, "--network none: an adapter was asked for before") : 0;
	adapter = json_object();
	status = vm_parse_network(manage, adapter, text);
	/* A tap interface is the host's own, and what is behind it may bridge. */
	if (!strncmp(text, "tap:", 4))
		json_object_set_new(adapter, "any_mac", json_true());
	json_array_append_new(list, adapter);
	return status;
}

int vm_add_forward(struct manage *manage, json_t *body, const char *text)
{
	json_t *list = adapters_of(body), *adapter, *forwards;
	size_t i;

	if (!json_array_size(list))
		json_array_append_new(list, json_pack("{s:s}", "port", "nat"));
	json_array_foreach(list, i, adapter) {
		if (!is_nat(adapter))
			continue;
		forwards = json_object_get(adapter, "forwards");
		if (!forwards) {
			forwards = json_array();
			json_object_set_new(adapter, "forwards", forwards);
		}
		return json_array_append_new(forwards, json_string(text)) ? manage_usage(manage, "\"%s\" is no UTF-8", text) : 0;
	}
	return manage_usage(manage, "--forward %s: none of the adapters is plugged into nat", text);
}

static bool is_for_ssh(const char *forward)
{
	const char *guest = strrchr(forward, ':');

	return strncmp(forward, "udp:", 4) && guest && !strcmp(guest, ":22");
}

int vm_add_way_in(struct manage *manage, json_t *body)
{
	const json_t *list = json_object_get(body, "adapters");
	json_t *adapter, *forward;
	bool any = !list;
	size_t i, k;

	json_array_foreach(list, i, adapter) {
		any |= is_nat(adapter);
		json_array_foreach(json_object_get(adapter, "forwards"), k, forward)
			if (is_for_ssh(json_string_value(forward)))
				return 0;
	}
	return any ? vm_add_forward(manage, body, "auto:22") : 0;
}

json_t *vm_adapters(struct manage *manage, const char *name, struct error *err)
{
	_cleanup_free_ char *path = client_path(manage->client, "/v1/vms/%s/adapters", name);
	json_t *page, *list;

	if (client_call(manage->client, "GET", path, NULL, &page, err))
		return NULL;
	list = json_incref(json_object_get(page, "adapters"));
	json_decref(page);
	return list;
}

json_t *vm_adapter_place(const json_t *adapter)
{
	const char *tap = vm_text_of(adapter, "interface"), *name = *tap ? tap : vm_text_of(adapter, "switch");

	return json_sprintf("%s%s%s", vm_text_of(adapter, "port"), *name ? " " : "", name);
}

void vm_print_adapters(const json_t *adapters)
{
	json_t *adapter, *forward, *address;
	size_t i, k;

	json_array_foreach((json_t *)(uintptr_t)adapters, i, adapter) {
		json_t *place = vm_adapter_place(adapter);
		_cleanup_free_ char *text = NULL;

		if (asprintf(&text, "%s at %s", vm_text_of(adapter, "mac"), json_string_value(place)) < 0)
			text = NULL;
		json_decref(place);
		manage_put_field(i ? "" : "adapters", text ? text : "?");
		if (json_is_true(json_object_get(adapter, "network_lost")))
			manage_put_field("", "  its network is lost");
		json_array_foreach(json_object_get(adapter, "addresses"), k, address) {
			_cleanup_free_ char *line = NULL;

			if (asprintf(&line, "  address %s", json_string_value(address)) > 0)
				manage_put_field("", line);
		}
		json_array_foreach(json_object_get(adapter, "forwards"), k, forward) {
			_cleanup_free_ char *line = NULL;

			if (asprintf(&line, "  forward %s", json_string_value(forward)) > 0)
				manage_put_field("", line);
		}
	}
}

/* --- ssh ---------------------------------------------------------------------------------------------- */

/* "[tcp:][ADDRESS:]PORT:22". False: another port's, or of UDP; "auto", of a machine that is off or does not answer. */
static bool leads_to_ssh(const char *forward, char *host, size_t size, char *port, size_t port_size)
{
	const char *at = strncmp(forward, "tcp:", 4) ? forward : forward + 4, *guest = strrchr(at, ':'), *colon;

	if (!is_for_ssh(forward))
		return false;
	colon = memchr(at, ':', (size_t)(guest - at));
	snprintf(host, size, "%.*s", colon ? (int)(colon - at) : 9, colon ? at : "127.0.0.1");
	if (colon)
		at = colon + 1;
	snprintf(port, port_size, "%.*s", (int)(guest - at), at);
	if (!strcmp(host, "0.0.0.0"))
		snprintf(host, size, "127.0.0.1");
	return strcmp(port, "auto") != 0;
}

bool vm_find_ssh(const json_t *adapters, char *host, size_t size, char *port, size_t port_size)
{
	json_t *adapter, *forward;
	size_t i, k;

	json_array_foreach((json_t *)(uintptr_t)adapters, i, adapter)
		json_array_foreach(json_object_get(adapter, "forwards"), k, forward)
			if ((is_nat(adapter) || !strstr(json_string_value(forward), "auto:")) &&
			    leads_to_ssh(json_string_value(forward), host, size, port, port_size))
				return true;
	return false;
}

/* Milliseconds that are left, at most `limit`. */
static int time_left(int64_t end, int limit)
{
	struct timespec now;
	int64_t left;

	clock_gettime(CLOCK_MONOTONIC, &now);
	left = end - (now.tv_sec * 1000ll + now.tv_nsec / 1000000);
	return left < 0 ? 0 : left < limit ? (int)left : limit;
}

/* -1: nobody is there to take the connection, or nobody in time. */
static int connect_to(const char *host, const char *port)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
	struct pollfd wait = {.events = POLLOUT};
	struct addrinfo *found;
	socklen_t size = sizeof(int);
	int failed = 0;

	if (getaddrinfo(host, port, &hints, &found))
		return -1;
	wait.fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (wait.fd >= 0 && connect(wait.fd, found->ai_addr, found->ai_addrlen) &&
	    (errno != EINPROGRESS || poll(&wait, 1, SSH_BANNER) != 1 || getsockopt(wait.fd, SOL_SOCKET, SO_ERROR, &failed, &size) || failed)) {
		close(wait.fd);
		wait.fd = -1;
	}
	freeaddrinfo(found);
	return wait.fd;
}

/* The port takes a connection before the guest does, and drops it then: only what the server says counts, a line that begins
 * with "SSH-", before which there may be others (RFC 4253, 4.2). False: it says none. */
static bool ssh_answers(int fd, int64_t end)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	char said[8192] = "\n";
	size_t size = 1;

	while (size < sizeof(said) - 1 && poll(&wait, 1, time_left(end, SSH_BANNER)) == 1) {
		ssize_t n = recv(fd, said + size, sizeof(said) - 1 - size, 0);

		if (n <= 0)
			return false;
		size += (size_t)n;
		if (memmem(said, size, "\nSSH-", 5))
			return true;
	}
	return false;
}

/* What the guest says of itself, so it may be anything: it has to be an address of one host that is not this one. */
static bool is_address(const char *text)
{
	struct in6_addr v6;
	uint8_t v4[4];

	if (inet_pton(AF_INET, text, v4) == 1)
		return v4[0] != 0 && v4[0] != 127 && v4[0] < 224 && (v4[0] != 169 || v4[1] != 254);
	return inet_pton(AF_INET6, text, &v6) == 1 && !IN6_IS_ADDR_UNSPECIFIED(&v6) && !IN6_IS_ADDR_LOOPBACK(&v6) && !IN6_IS_ADDR_LINKLOCAL(&v6) &&
	       !IN6_IS_ADDR_MULTICAST(&v6) && !IN6_IS_ADDR_V4MAPPED(&v6);
}

/* Whether the host is where this adapter is plugged in. */
static bool has_host(struct manage *manage, const json_t *adapter)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};
	json_t *s;
	bool has;

	if (strcmp(vm_text_of(adapter, "port"), "switch"))
		return !strcmp(vm_text_of(adapter, "port"), "tap");
	path = client_path(manage->client, "/v1/switches/%s", vm_text_of(adapter, "switch"));
	if (client_call(manage->client, "GET", path, NULL, &s, &err))
		return false;
	has = strcmp(vm_text_of(s, "type"), "private") && (strcmp(vm_text_of(s, "type"), "external") || json_is_true(json_object_get(s, "host")));
	json_decref(s);
	return has;
}

/* One of IPv4 goes before the others. *any: there may be one later. */
static bool find_guest(struct manage *manage, const char *name, char *host, size_t size, bool *any)
{
	struct error err = {0};
	json_t *adapters = vm_adapters(manage, name, &err), *adapter, *address;
	size_t i, k;

	*any = false;
	*host = '\0';
	json_array_foreach(adapters, i, adapter) {
		if (!has_host(manage, adapter))
			continue;
		*any = true;
		json_array_foreach(json_object_get(adapter, "addresses"), k, address) {
			const char *text = json_string_value(address);

			if (is_address(text) && (!*host || (strchr(host, ':') && !strchr(text, ':'))))
				snprintf(host, size, "%s", text);
		}
	}
	json_decref(adapters);
	return *host;
}

/* The same, when the guest has told it. */
static bool wait_for_guest(struct manage *manage, const char *name, char *host, size_t size, bool wait)
{
	struct timespec now;
	bool told = false, any;
	int64_t end;

	clock_gettime(CLOCK_MONOTONIC, &now);
	end = (now.tv_sec + SSH_WAIT) * 1000ll;
	while (!find_guest(manage, name, host, size, &any)) {
		if (!any || !wait || !time_left(end, 1))
			return false;
		if (!told && isatty(STDERR_FILENO))
			fprintf(stderr, "waiting for an address of %s\n", name);
		told = true;
		poll(NULL, 0, SSH_AGAIN);
	}
	return true;
}

/* The same, when its worker has told which port it is that could be any. */
static bool wait_for_port(struct manage *manage, const char *name, char *host, size_t size, char *port, size_t port_size, bool wait)
{
	struct timespec now;
	bool found, unknown;
	int64_t end;

	clock_gettime(CLOCK_MONOTONIC, &now);
	end = (now.tv_sec + SSH_WAIT) * 1000ll;
	for (;;) {
		struct error err = {0};
		json_t *adapters = vm_adapters(manage, name, &err);

		snprintf(port, port_size, "22");
		found = vm_find_ssh(adapters, host, size, port, port_size);
		unknown = !strcmp(port, "auto");
		json_decref(adapters);
		if (found || !unknown || !wait || !time_left(end, 1))
			break;
		poll(NULL, 0, SSH_AGAIN);
	}
	if (!found)
		snprintf(port, port_size, "22");
	return found;
}

/* Until the guest's ssh server answers, or it is of no use to wait: then ssh says why. A port that is forwarded takes connections as long as the machine
 * runs; the guest's own as soon as the server does. */
static void wait_for_ssh(const char *name, const char *host, const char *port, bool forwarded)
{
	struct timespec now;
	bool told = false;
	int64_t end;

	clock_gettime(CLOCK_MONOTONIC, &now);
	end = (now.tv_sec + SSH_WAIT) * 1000ll;
	while (time_left(end, 1)) {
		int fd = connect_to(host, port);
		bool answers = fd >= 0 && ssh_answers(fd, end);

		if (fd < 0 && forwarded)
			return;
		if (fd >= 0)
			close(fd);
		if (answers)
			return;
		if (!told && isatty(STDERR_FILENO))
			fprintf(stderr, "waiting for the ssh server of %s\n", name);
		told = true;
		poll(NULL, 0, SSH_AGAIN);
	}
}

/* It becomes ssh; it returns only if that cannot be. */
static int become_ssh(const json_t *vm, const char *user, const char *host, const char *port, int argc, char **argv,
    struct error *err)
{
	_cleanup_free_ char *alias = NULL;
	const char *list[SSH_ARGUMENTS + 12] = {"ssh", "-p", port, "-o"};
	int n = 4;

	/* Its key is the machine's, whatever port leads there. */
	if (asprintf(&alias, "HostKeyAlias=bulkhead-%s", vm_text_of(vm, "id")) < 0)
		return error_set(err, ENOMEM, "no memory");
	list[n++] = alias;
	if (user) {
		list[n++] = "-l";
		list[n++] = user;
	}
	list[n++] = host;
	for (int i = 0; i < argc; i++)
		list[n++] = argv[i];
	execvp("ssh", (char *const *)(uintptr_t)list); /* it changes none */
	return error_set(err, errno, "ssh cannot be started: %s", strerror(errno));
}

int vm_ssh(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL, *user = NULL;
	bool wait = argc < 2 || strcmp(argv[1], "--no-wait") != 0, forwarded = false;
	char host[64], port[16] = "22", *name;
	struct error err = {0};
	json_t *vm;

	if (!wait) {
		argc--;
		argv++;
	}
	if (argc < 2 || argc - 2 > SSH_ARGUMENTS)
		return manage_usage(manage, argc < 2 ? "the machine's name is missing" : "too many arguments for ssh");
	name = strrchr(argv[1], '@');
	if (name)
		user = strndup(argv[1], (size_t)(name - argv[1]));
	name = name ? name + 1 : argv[1];
	path = client_path(manage->client, "/v1/vms/%s", name);
	if (client_call(manage->client, "GET", path, NULL, &vm, &err))
		return manage_fail(manage, &err);
	if (client_is_remote(manage->client))
		error_set(&err, ENOTSUP, "ports of the default switch are forwarded, and switches are, on the machine's own host: ssh there first");
	else if (strcmp(vm_text_of(vm, "state"), "running") != 0)
		error_set(&err, EALREADY, "%s is %s: start it first", name, vm_text_of(vm, "state"));
	else if (!(forwarded = wait_for_port(manage, name, host, sizeof(host), port, sizeof(port), wait)) && !wait_for_guest(manage, name, host, sizeof(host), wait))
		error_set(&err, ENOENT, "no port of the host leads to the ssh server of %s, nor is an address of it known on a switch that the host is on: "
			  "bulkhead vm set %s --forward 2222:22 gives it a port of the default switch", name, name);
	else {
		if (wait)
			wait_for_ssh(name, host, port, forwarded);
		become_ssh(vm, user, host, port, argc - 2, argv + 2, &err);
	}
	json_decref(vm);
	return manage_fail(manage, &err);
}
