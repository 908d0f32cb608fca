/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vm_create.c - `bulkhead vm create`: the way into a new machine, and what is said of it. */
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/vm.h"

int vm_complete_seed(struct manage *manage, json_t *body)
{
	json_t *seed = json_object_get(body, "seed");
	const struct passwd *user;

	if (!json_object_get(seed, "ssh_key") && !json_object_get(seed, "password"))
		return 0;
	if (!json_object_get(seed, "user")) {
		user = getpwuid(geteuid());
		if (!user)
			return manage_usage(manage, "whom is the %s for? --user tells", json_object_get(seed, "ssh_key") ? "key" : "password");
		json_object_set_new(seed, "user", json_string(user->pw_name));
	}
	return json_object_get(seed, "ssh_key") ? vm_add_way_in(manage, body) : 0;
}

int vm_show_created(struct manage *manage, const char *name, const char *user, bool runs)
{
	json_t *vm, *adapters = NULL;
	char host[64], port[16];
	struct error err = {0};

	if (vm_get(manage, name, &vm, &err))
		return manage_fail(manage, &err);
	adapters = vm_adapters(manage, name, &err);
	if (!adapters) {
		json_decref(vm);
		return manage_fail(manage, &err);
	}
	if (!manage->json && !runs)
		printf("%s is created: bulkhead vm start turns it on\n", name);
	else if (!manage->json && user && vm_find_ssh(adapters, host, sizeof(host), port, sizeof(port)))
		printf("%s is created and runs: bulkhead vm ssh %s@%s logs in, by port %s of %s; bulkhead vm console shows its console\n", name,
		       user, name, port, host);
	else if (!manage->json)
		printf("%s is created and runs: bulkhead vm console shows its console\n", name);
	json_object_set_new(vm, "adapters", adapters);
	manage_print_json(manage, vm);
	return 0;
}
