/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "worker/requests.h"

#include <errno.h>
#include <string.h>

#include "worker/configuration.h"

/* The next descriptor that came, in the order of the keys. */
struct descriptors {
	struct control_call *call;
	unsigned next;
	bool missing;
};

static int take(struct descriptors *d)
{
	if (d->next >= d->call->fd_count) {
		d->missing = true;
		return -1;
	}
	return d->call->fds[d->next++];
}

static int take_if(struct descriptors *d, const json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key)) ? take(d) : -1;
}

/* All of them, or the request is wrong and they stay the call's. */
static int settle(struct descriptors *d, struct error *err)
{
	if (d->missing || d->next != d->call->fd_count)
		return error_set(err, EINVAL, "%s: there came %u",
		    d->missing ? "the command needs more descriptors" : "the command says nothing of some descriptors", d->call->fd_count);
	for (unsigned i = 0; i < d->call->fd_count; i++)
		d->call->fds[i] = -1;
	return 0;
}

int request_address(const json_t *arguments, unsigned *controller, unsigned *lun, struct error *err)
{
	const char *address = json_string_value(json_object_get(arguments, "address"));
	char rest;

	if (!address || sscanf(address, "%u:%u%c", controller, lun, &rest) != 2 || *controller >= WORKER_MAX_CONTROLLERS)
		return error_set(err, EINVAL, "\"address\" is needed as CONTROLLER:LUN, such as 0:1");
	return 0;
}

static int get_path(const json_t *object, const char *key, const char **out, struct error *err)
{
	*out = json_string_value(json_object_get(object, key));
	if (!*out || (*out)[0] != '/')
		return error_set(err, EINVAL, "\"%s\" is needed, as an absolute path", key);
	return 0;
}

static int get_disk(const json_t *value, struct descriptors *d, struct saving_disk *disk, struct error *err)
{
	int r = request_address(value, &disk->controller, &disk->lun, err);

	if (!r)
		r = get_path(value, "path", &disk->files.child_name, err);
	if (!r)
		r = get_path(value, "parent", &disk->files.parent_name, err);
	disk->files.child = take(d);
	disk->files.record = take_if(d, value, "record");
	return r;
}

static int get_files(const json_t *arguments, struct control_call *call, struct vm_files *files, struct error *err)
{
	const json_t *parents = json_object_get(arguments, "parents");
	struct descriptors d = {.call = call};
	size_t count = json_array_size(parents);

	if (parents && (!json_is_array(parents) || count >= VM_FILES_MAX))
		return error_set(err, EINVAL, "\"parents\" must be an array of less than %u names", VM_FILES_MAX);
	for (size_t i = 0; i <= count; i++) {
		const char *name = i ? json_string_value(json_array_get(parents, i - 1))
				     : json_string_value(json_object_get(arguments, "path"));

		if (!name || *name != '/')
			return error_set(err, EINVAL, "\"path\" and \"parents\" must be absolute paths");
		files->names[i] = name;
		files->fds[i] = take(&d);
	}
	if (files->fds[0] < 0)
		return error_set(err, EINVAL, "%s: \"fd\" is said, and no descriptor came with the command", files->names[0]);
	files->record = -1;
	files->count = (unsigned)count + 1;
	return settle(&d, err);
}

int request_disk(const json_t *arguments, struct control_call *call, struct worker_disk *disk, struct vm_files *files, struct error *err)
{
	json_int_t controller = json_integer_value(json_object_get(arguments, "controller"));

	*disk = (struct worker_disk){.path = json_string_value(json_object_get(arguments, "path")),
	    .read_only = json_is_true(json_object_get(arguments, "read_only")),
	    .dvd = json_is_true(json_object_get(arguments, "dvd"))};
	files->count = 0;
	if (!disk->path && (!disk->dvd || json_is_true(json_object_get(arguments, "fd"))))
		return error_set(err, EINVAL, "add-disk needs \"path\"");
	if (controller < 0 || controller >= (json_int_t)WORKER_MAX_CONTROLLERS)
		return error_set(err, EINVAL, "there is no controller %lld: choose 0 to %u", (long long)controller, WORKER_MAX_CONTROLLERS - 1);
	disk->controller = (unsigned)controller;
	return json_is_true(json_object_get(arguments, "fd")) ? get_files(arguments, call, files, err) : 0;
}

int request_medium(const json_t *arguments, struct control_call *call, struct medium_request *request, struct vm_files *files,
    struct error *err)
{
	int r = request_address(arguments, &request->controller, &request->lun, err);

	request->force = json_is_true(json_object_get(arguments, "force"));
	request->path = NULL;
	files->count = 0;
	if (r || !json_object_get(arguments, "path"))
		return r;
	r = get_path(arguments, "path", &request->path, err);
	if (!r && json_object_get(arguments, "parents"))
		r = error_set(err, EINVAL, "a medium continues no other");
	return r || !json_is_true(json_object_get(arguments, "fd")) ? r : get_files(arguments, call, files, err);
}

int request_checkpoint(const json_t *arguments, struct control_call *call, struct saving_request *request, struct error *err)
{
	const json_t *disks = json_object_get(arguments, "disks");
	struct descriptors d = {.call = call};
	int r = 0;

	*request = (struct saving_request){.checkpoint = true, .fd = take_if(&d, arguments, "fd")};
	if (disks && (!json_is_array(disks) || json_array_size(disks) > WORKER_MAX_DISKS))
		return error_set(err, EINVAL, "\"disks\" must be an array of up to %u disks", WORKER_MAX_DISKS);
	request->disk_count = (unsigned)json_array_size(disks);
	if (!request->disk_count && request->fd < 0)
		return error_set(err, EINVAL, "checkpoint needs a descriptor for the machine's state, \"disks\", or both");
	for (unsigned i = 0; i < request->disk_count && !r; i++) {
		r = get_disk(json_array_get(disks, i), &d, &request->disks[i], err);
		for (unsigned j = 0; j < i && !r; j++)
			if (request->disks[j].controller == request->disks[i].controller &&
			    request->disks[j].lun == request->disks[i].lun)
				r = error_set(err, EINVAL, "the disk at controller %u, LUN %u comes twice", request->disks[i].controller,
				    request->disks[i].lun);
	}
	return r ? r : settle(&d, err);
}

int request_merge(const json_t *arguments, struct control_call *call, struct disk_merge_files *files, unsigned *controller,
    unsigned *lun, struct error *err)
{
	struct descriptors d = {.call = call};
	int r = request_address(arguments, controller, lun, err);

	*files = (struct disk_merge_files){.child = take_if(&d, arguments, "child"), .parent = take_if(&d, arguments, "parent"),
	    .above = take_if(&d, arguments, "above"), .record = take_if(&d, arguments, "record")};
	if (!r && json_is_true(json_object_get(arguments, "above"))) {
		r = get_path(arguments, "above_path", &files->above_name, err);
		if (!r)
			r = get_path(arguments, "parent_path", &files->parent_name, err);
	}
	return r ? r : settle(&d, err);
}

int request_mac(const json_t *arguments, uint8_t mac[6], struct error *err)
{
	const char *text = json_string_value(json_object_get(arguments, "mac"));

	return text && configuration_mac(text, mac) ? 0 : error_set(err, EINVAL, "\"mac\" is needed, such as 00:15:5d:01:02:03");
}

static int get_forwarded(const json_t *arguments, struct worker_adapter *adapter, struct error *err)
{
	const json_t *list = json_object_get(arguments, "forwarded");

	if (list && (!json_is_array(list) || json_array_size(list) > WORKER_MAX_FORWARDS))
		return error_set(err, EINVAL, "\"forwarded\" must be a list of up to %u ports", WORKER_MAX_FORWARDS);
	for (size_t i = 0; i < json_array_size(list); i++) {
		json_int_t port = json_integer_value(json_array_get(list, i));

		if (port < 1 || port > UINT16_MAX)
			return error_set(err, EINVAL, "\"forwarded\" must have ports, 1 to 65535");
		adapter->forwarded[adapter->forwarded_count++] = (uint16_t)port;
	}
	return 0;
}

int request_adapter(const json_t *arguments, struct control_call *call, struct worker_adapter *adapter, struct error *err)
{
	const char *port = json_string_value(json_object_get(arguments, "port"));
	const char *label = json_string_value(json_object_get(arguments, "label"));
	struct descriptors d = {.call = call};
	int r;

	*adapter = (struct worker_adapter){.fd = -1, .any_mac = json_is_true(json_object_get(arguments, "any_mac"))};
	r = request_mac(arguments, adapter->mac, err);
	if (!r)
		r = get_forwarded(arguments, adapter, err);
	if (r)
		return r;
	if (!port || (strcmp(port, "descriptor") && strcmp(port, "none")))
		return error_set(err, EINVAL, "\"port\" must be descriptor, with one that comes along, or none");
	if (label && strlen(label) >= sizeof(adapter->label))
		return error_set(err, EINVAL, "\"label\" is longer than %zu bytes", sizeof(adapter->label) - 1);
	if (label)
		strcpy(adapter->label, label);
	if (!strcmp(port, "descriptor")) {
		adapter->kind = WORKER_PORT_DESCRIPTOR;
		adapter->fd = take(&d);
	}
	return settle(&d, err);
}
