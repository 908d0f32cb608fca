// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Hostile saved state. A sound one of two VPs is patched as the input says, or the input itself is one; its
 * size and checksum are made right. What is decoded must encode to the same bytes; what can be loaded is
 * loaded, where it is only kept and where it runs for a moment, and must be saved again.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/crc32c.h"
#include "hypervisor/saved_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VPS       2u
#define RAM       (256u << 10)
#define STATE_MAX (1u << 20)

static uint8_t *template;
static size_t template_size;

static void require(bool good)
{
	if (!good)
		abort();
}

static struct partition *create(enum processor_kind kind)
{
	struct partition_config config = {.processor = kind, .vp_count = VPS};
	struct partition *p;

	require(!partition_create(&p, &config, NULL));
	require(!partition_add_memory(p, 0, RAM, NULL));
	return p;
}

/* Both VPs have something in every part: SynIC pages, a timer, messages that wait, an APIC that is used. */
static void make_template(void)
{
	struct partition *p = create(PROCESSOR_SOFT);
	struct saved_partition *s;
	uint8_t *bytes;
	size_t size;

	require(!partition_post_message(p, 1, 2, 1, "message", 7));
	require(!partition_save_state(p, &bytes, &size, NULL));
	partition_destroy(p);
	require(!saved_decode(&s, bytes, size, NULL));
	free(bytes);
	for (unsigned i = 0; i < VPS; i++) {
		struct vp_state *state = &s->vps[i].state;

		state->activity = VP_ACTIVITY_RUNNING;
		state->registers.cs.base = 0x1000;
		state->registers.cs.selector = 0x100;
		state->registers.rip = 0;
		state->apic.svr = 0x1ff;
		state->apic.lvt[APIC_LVT_TIMER] = 0x20040;
		state->apic.initial_count = 1000;
		state->apic.timer_deadline = 5000;
		state->tlfs.scontrol = 1;
		state->tlfs.simp = 0x2000 * (i + 2) + 1;
		state->tlfs.sint[2] = 0x50;
		state->tlfs.timers[0] =
		    (struct tlfs_timer_state){.config = 0x20003, .count = 100, .deadline = 100};
	}
	s->tlfs.guest_os_id = 0x8100ull << 48;
	s->tlfs.hypercall = 0x8001;
	s->tlfs.reference_tsc = 0x9001;
	require(!saved_encode(s, &template, &template_size, NULL));
	saved_free(s);
}

/* The input: wishes, then patches of place, count and bytes; or a state after its header. */
static size_t build(uint8_t *bytes, const uint8_t *data, size_t size)
{
	size_t length = template_size, at = 1;

	if (data[0] & 1) {
		length = min_u64(SAVED_HEADER + size - 1, STATE_MAX);
		memcpy(bytes, template, SAVED_HEADER);
		memcpy(bytes + SAVED_HEADER, data + 1, length - SAVED_HEADER);
	} else {
		memcpy(bytes, template, template_size);
		while (size - at >= 3) {
			size_t place = SAVED_HEADER + le16_get(data + at) % (template_size - SAVED_HEADER);
			size_t count = min_u64(1 + data[at + 2] % 16u, size - at - 3);

			count = min_u64(count, template_size - place);
			memcpy(bytes + place, data + at + 3, count);
			at += 3 + count;
		}
	}
	le64_put(bytes + SAVED_SIZE_AT, length);
	le32_put(bytes + SAVED_CHECKSUM_AT, 0);
	le32_put(bytes + SAVED_CHECKSUM_AT, crc32c(0, bytes, length));
	return length;
}

static bool decodes(const uint8_t *bytes, size_t size)
{
	struct saved_partition *s;
	struct error err = {0};
	uint8_t *again;
	size_t again_size;
	bool good;

	if (saved_decode(&s, bytes, size, &err)) {
		require(err.text[0] && err.code);
		return false;
	}
	require(!saved_encode(s, &again, &again_size, NULL));
	require(again_size == size && !memcmp(bytes, again, size));
	good = s->vp_count == VPS && !saved_check(s, NULL);
	saved_free(s);
	free(again);
	return good;
}

static void load(enum processor_kind kind, const uint8_t *bytes, size_t size)
{
	static const struct timespec moment = {.tv_nsec = 200000};
	struct partition *p = create(kind);
	struct error err = {0};
	uint8_t *again;
	size_t again_size;

	if (partition_load_state(p, bytes, size, &err)) {
		require(err.text[0] && err.code);
		partition_destroy(p);
		return;
	}
	require(!partition_start(p, &err));
	nanosleep(&moment, NULL);
	partition_pause(p);
	/* A VP may have come to its end, and says so. */
	if (partition_save_state(p, &again, &again_size, &err))
		require(err.text[0]);
	else
		free(again);
	partition_destroy(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[STATE_MAX];
	size_t length;

	if (!template)
		make_template();
	if (!size)
		return 0;
	length = build(bytes, data, size);
	if (!decodes(bytes, length))
		return 0;
	load(PROCESSOR_NONE, bytes, length);
	load(PROCESSOR_SOFT, bytes, length);
	return 0;
}
