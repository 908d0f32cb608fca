/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz_bzimage.c - kernel files of any content. The first byte picks what goes with the kernel; the rest is
 * the file. Whatever comes out, a machine that says it is loaded has registers that lie in its memory.
 */
#include <stdint.h>
#include <stdlib.h>

#include "machine/machine.h"
#include "tests/double/board.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t discard(void *context, unsigned port, const uint8_t *bytes, size_t size)
{
	return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct machine_config config = {.memory = MACHINE_MEMORY_MIN,
					      .serial = {{.present = true, .output = discard}}};
	const struct boot_file extra = {.name = "initrd", .bytes = "initrd", .size = 6};
	const struct boot_module module = {.file = {.name = "module", .bytes = "module", .size = 6}};
	struct boot_config boot = {.kernel = {.name = "kernel"}};
	struct partition *p;
	struct machine *m;
	struct error err;

	if (!size)
		return 0;
	boot.kernel.bytes = data + 1;
	boot.kernel.size = size - 1;
	boot.initrd = data[0] & 1 ? &extra : NULL;
	boot.append = data[0] & 2 ? "console=ttyS0" : NULL;
	boot.modules = data[0] & 4 ? &module : NULL;
	boot.module_count = data[0] & 4 ? 1 : 0;
	p = board_create(1);
	if (machine_create(&m, p, &config, &err))
		abort();
	if (!machine_load(m, &boot, &err)) {
		const struct vp_registers *r = board_registers(p);

		if (!r || !partition_memory(p, r->rip, 1))
			abort();
	}
	machine_destroy(m);
	board_destroy(p);
	return 0;
}
