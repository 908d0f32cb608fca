/* SPDX-License-Identifier: GPL-2.0-or-later */
/* metering.c - `bulkhead vm metering`: what a machine took of the host. */
#include "cli/manage.h"

static double number_of(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

int vm_metering(struct manage *manage, int argc, char **argv)
{
	_cleanup_free_ char *path = NULL;
	struct error err = {0};
	const json_t *disk, *network;
	json_t *meter;

	if (argc != 2)
		return manage_usage(manage, "it takes one machine");
	path = client_path(manage->client, "/v1/vms/%s/metering", argv[1]);
	if (client_call(manage->client, "GET", path, NULL, &meter, &err))
		return manage_fail(manage, &err);
	disk = json_object_get(meter, "disk");
	network = json_object_get(meter, "network");
	if (!manage->json) {
		manage_put_field("state", json_string_value(json_object_get(meter, "state")));
		if (json_object_get(meter, "cpu_seconds"))
			printf("%-12s %.2f s of processor time, by %.0f virtual processors\n", "processors", number_of(meter, "cpu_seconds"),
			       number_of(meter, "processors"));
		if (json_object_get(meter, "memory_assigned"))
			printf("%-12s %.0f MiB assigned\n", "memory", number_of(meter, "memory_assigned") / (1 << 20));
		if (json_object_get(meter, "memory_resident"))
			printf("%-12s %.1f MiB in the host's memory\n", "", number_of(meter, "memory_resident") / (1 << 20));
		if (disk)
			printf("%-12s %.0f requests, %.1f MiB read, %.1f MiB written, %.0f errors\n", "disks", number_of(disk, "requests"),
			       number_of(disk, "read_bytes") / (1 << 20), number_of(disk, "written_bytes") / (1 << 20),
			       number_of(disk, "errors"));
		if (network)
			printf("%-12s %.1f MiB in %.0f frames sent, %.1f MiB in %.0f frames received, %.0f frames lost\n", "network",
			       number_of(network, "sent_bytes") / (1 << 20), number_of(network, "sent_frames"),
			       number_of(network, "received_bytes") / (1 << 20), number_of(network, "received_frames"),
			       number_of(network, "dropped_frames"));
	}
	manage_print_json(manage, meter);
	return 0;
}
