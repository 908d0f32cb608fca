/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vm.h - what the files of `bulkhead vm` and `bulkhead checkpoint` have in common. Private to cli/.
 */
#pragma once

#include "cli/manage.h"

/* A string of an object; "" if it is not there. */
const char *vm_text_of(const json_t *object, const char *key);

/* The one argument that most verbs take. NULL: that is not what was given, and has been said. */
const char *vm_only_name(struct manage *manage, int argc, char **argv);

/* What the daemon knows of a machine; *vm is the caller's. */
int vm_get(struct manage *manage, const char *name, json_t **vm, struct error *err);

/* A path for the daemon, which is elsewhere: from the root on. */
json_t *vm_real_path(const char *path);

/* The same for a directory that the daemon may have to make: absolute in any case. */
json_t *vm_directory_path(const char *path);

/* "FILE[,ro][,controller=N]", which is changed; *disk is the caller's in any case. Returns an exit status. */
int vm_parse_disk(struct manage *manage, char *text, bool dvd, json_t **disk);

/* As client_path(), for two names. */
char *vm_path(struct manage *manage, const char *format, const char *first, const char *second);

/* A request for machine `name`, which stands for %s in `format`, that makes a job; waits for its end. */
int vm_job(struct manage *manage, const char *method, const char *format, const char *name, json_t *body,
	   const char *label, struct error *err);

/* What a verb leaves: "NAME TEXT", with --json the machine. Returns an exit status. */
int vm_show_result(struct manage *manage, const char *name, const char *text);

/* vm_adapters.c: --network and --forward, into a request; an exit status. */
int vm_add_network(struct manage *manage, json_t *body, const char *text);
int vm_add_forward(struct manage *manage, json_t *body, const char *text);
/* A port of the host that leads to the guest's ssh server, if there is none in the request and an adapter is plugged into nat. */
int vm_add_way_in(struct manage *manage, json_t *body);
/* Where one of a machine's adapters is reached by ssh: a port of the host. False: nowhere, or it is not known. */
bool vm_find_ssh(const json_t *adapters, char *host, size_t size, char *port, size_t port_size);
/* What one adapter is plugged into, into its object. */
int vm_parse_network(struct manage *manage, json_t *adapter, const char *text);
/* A machine's, with the addresses that the guest uses; NULL: `err` says why. The caller's. */
json_t *vm_adapters(struct manage *manage, const char *name, struct error *err);
/* "nat", "tap t0": a string of the caller's. */
json_t *vm_adapter_place(const json_t *adapter);
void vm_print_adapters(const json_t *adapters);
int vm_ssh(struct manage *manage, int argc, char **argv);

/* vm_create.c: in a request, who is to log in has a name, and with a key a way in; an exit status. */
int vm_complete_seed(struct manage *manage, json_t *body);
/* What a machine just made can be asked for; `user`, who may be NULL, has a key to it. An exit status. */
int vm_show_created(struct manage *manage, const char *name, const char *user, bool runs);

/* vm_adapter.c */
int vm_adapter(struct manage *manage, int argc, char **argv);

/* vm_show.c */
int vm_list(struct manage *manage, int argc, char **argv);
int vm_show(struct manage *manage, int argc, char **argv);

/* vm_disks.c */
int vm_add_disk(struct manage *manage, int argc, char **argv);
int vm_remove_disk(struct manage *manage, int argc, char **argv);
int vm_insert_dvd(struct manage *manage, int argc, char **argv);
int vm_eject_dvd(struct manage *manage, int argc, char **argv);

/* vm_copy.c */
int vm_clone(struct manage *manage, int argc, char **argv);
int vm_export(struct manage *manage, int argc, char **argv);
int vm_import(struct manage *manage, int argc, char **argv);
