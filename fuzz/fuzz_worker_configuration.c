/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What bulkhead-worker is told on standard input. */
#include "worker/configuration.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct configuration c;
	struct error err = {0};

	if (configuration_parse(&c, (const char *)data, size, &err)) {
		if (!err.code || !err.text[0])
			abort();
		return 0;
	}
	/* What was taken is whole. */
	if (!c.worker.name || !c.worker.kernel || !c.result || !c.lock || !c.worker.vp_count || !c.worker.memory)
		abort();
	for (unsigned i = 0; i < c.worker.disk_count; i++)
		if (c.worker.disks[i].path[0] != '/' || c.worker.disks[i].controller >= WORKER_MAX_CONTROLLERS)
			abort();
	for (unsigned i = 0; i < WORKER_SERIAL_PORTS; i++)
		if ((c.worker.serial[i].kind == WORKER_SERIAL_NONE) != !c.worker.serial[i].path)
			abort();
	configuration_free(&c);
	return 0;
}
