/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A partition with no processor: memory, intercepts by port and page, SynIC both ways, time, timers. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>

#include <cmocka.h>

#include "hypervisor/partition.h"

#define SIMP_GPA  0x10000
#define SIEFP_GPA 0x11000
#define IN_GPA    0x12000
#define SINT      2
#define VECTOR    0xf3

static struct partition *make(unsigned vps)
{
	struct partition_config config = {.processor = PROCESSOR_NONE, .vp_count = vps};
	struct partition *p;

	assert_int_equal(partition_create(&p, &config, NULL), 0);
	assert_int_equal(partition_add_memory(p, 0, 1 << 20, NULL), 0);
	return p;
}

/* As much as a machine may have, on whatever host: nothing of it is there before it is written. */
static void test_memory_of_a_tebibyte(void **state)
{
	struct partition_config config = {.processor = PROCESSOR_NONE, .vp_count = 1, .memory_max = 1ull << 40};
	const uint64_t low = 3ull << 30, top = (4ull << 30) + (1ull << 40) - low;
	struct partition *p;
	uint8_t buffer[8];
	struct error err;

#ifdef __SANITIZE_THREAD__
	skip(); /* it has no such piece of the address space to give */
#endif
	(void)state;
	assert_int_equal(partition_create(&p, &config, NULL), 0);
	assert_int_equal(partition_add_memory(p, 0, low, &err), 0);
	assert_int_equal(partition_add_memory(p, 4ull << 30, (1ull << 40) - low, &err), 0);
	assert_true(partition_memory_size(p) == 1ull << 40);
	assert_int_equal(partition_write(p, top - 8, "12345678", 8), 0);
	assert_int_equal(partition_read(p, top - 8, buffer, 8), 0);
	assert_memory_equal(buffer, "12345678", 8);
	assert_int_equal(partition_write(p, top - 7, buffer, 8), -EFAULT);
	assert_true(partition_memory_used(p, top - 4096, 4096));
	assert_false(partition_memory_used(p, 4ull << 30, 1ull << 39));
	assert_int_equal(partition_add_memory(p, 2ull << 40, 4096, &err), -ENOMEM);
	partition_destroy(p);
}

/* What a guest's driver does before it can be told anything. */
static void enable_synic(struct partition *p, unsigned vp)
{
	assert_int_equal(vp_write_msr(p, vp, 0x40000000, 0x8100ull << 48), 0);
	assert_int_equal(vp_write_msr(p, vp, 0x40000001, 0x13000 | 1), 0);
	assert_int_equal(vp_write_msr(p, vp, 0x1b, 0xfee00000 | 0x800 | (vp ? 0 : 0x100)), 0);
	intercept_mmio_write(&p->vps[vp], 0xfee000f0, 4, 0x1ff);
	assert_int_equal(vp_write_msr(p, vp, 0x40000083, SIMP_GPA | 1), 0);
	assert_int_equal(vp_write_msr(p, vp, 0x40000082, SIEFP_GPA | 1), 0);
	assert_int_equal(vp_write_msr(p, vp, 0x40000090 + SINT, VECTOR), 0);
	assert_int_equal(vp_write_msr(p, vp, 0x40000080, 1), 0);
}

static void test_memory(void **state)
{
	struct partition *p = make(1);
	struct error err;
	uint8_t buffer[8];

	(void)state;
	assert_int_equal(partition_add_memory(p, 0x80000, 0x100000, &err), -EEXIST);
	assert_int_equal(partition_add_memory(p, 0x200001, 0x1000, &err), -EINVAL);
	assert_int_equal(partition_add_memory(p, 0x100000000, 0x1000, &err), 0);
	assert_non_null(partition_memory(p, 0xff000, 0x1000));
	assert_null(partition_memory(p, 0xff000, 0x1001));
	assert_null(partition_memory(p, 0x100000, 1));
	assert_null(partition_memory(p, UINT64_MAX, 1));
	assert_null(partition_memory(p, 0x1000, UINT64_MAX));
	assert_int_equal(partition_write(p, 0x100000ff8, "12345678", 8), 0);
	assert_int_equal(partition_read(p, 0x100000ff8, buffer, 8), 0);
	assert_memory_equal(buffer, "12345678", 8);
	assert_int_equal(partition_read(p, 0x100000ffc, buffer, 8), -EFAULT);
	assert_int_equal(partition_memory_size(p), (1 << 20) + 0x1000);
	partition_destroy(p);
}

static uint64_t last_offset, last_value;

static uint64_t device_read(void *device, uint64_t offset, unsigned size)
{
	(void)size;
	last_offset = offset;
	return *(uint64_t *)device;
}

static void device_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
	(void)device;
	(void)size;
	last_offset = offset;
	last_value = value;
}

static void test_intercepts(void **state)
{
	static const struct io_ops ops = {device_read, device_write};
	struct partition *p = make(1);
	struct vp *vp = &p->vps[0];
	uint64_t value = 0x1122334455667788;

	(void)state;
	assert_int_equal(partition_add_ports(p, 0x60, 2, &ops, &value, "a"), 0);
	assert_int_equal(partition_add_ports(p, 0x61, 1, &ops, &value, "b"), -EEXIST);
	assert_int_equal(partition_add_ports(p, 0xffff, 2, &ops, &value, "c"), -EINVAL);
	assert_int_equal(partition_add_mmio(p, 0xfec00000, 0x1000, &ops, &value, "d"), 0);
	assert_int_equal(partition_add_mmio(p, 0xfec00ff8, 0x1000, &ops, &value, "e"), -EEXIST);
	assert_int_equal(intercept_io_read(vp, 0x60, 2), 0x7788);
	assert_int_equal(intercept_io_read(vp, 0x61, 1), 0x88);
	/* The second byte belongs to nobody: the bus floats high. */
	assert_int_equal(intercept_io_read(vp, 0x61, 2), 0xff88);
	assert_int_equal(intercept_io_read(vp, 0x70, 4), 0xffffffff);
	intercept_io_write(vp, 0x61, 1, 0x5aa5);
	assert_int_equal(last_offset, 1);
	assert_int_equal(last_value, 0xa5);
	assert_true(intercept_mmio_read(vp, 0xfec00010, 8) == value);
	assert_int_equal(last_offset, 0x10);
	assert_true(intercept_mmio_read(vp, 0xfec00ffc, 8) == UINT64_MAX);
	assert_true(intercept_mmio_read(vp, UINT64_MAX, 1) == 0xff);
	partition_destroy(p);
}

static void test_messages_queue_in_order(void **state)
{
	struct partition *p = make(1);
	volatile uint8_t *slot = partition_memory(p, SIMP_GPA + SINT * 256, 256);

	(void)state;
	/* Posted before the guest is ready: kept for it. */
	assert_int_equal(partition_post_message(p, 0, SINT, 1, "a", 1), 0);
	enable_synic(p, 0);
	assert_int_equal(slot[16], 'a');
	assert_int_equal(vp_take_interrupt(p, 0), VECTOR);
	assert_int_equal(partition_post_message(p, 0, SINT, 1, "b", 1), 0);
	assert_int_equal(partition_post_message(p, 0, SINT, 1, "c", 1), 0);
	assert_int_equal(slot[16], 'a');
	assert_int_equal(slot[5] & 1, 1); /* message pending */
	for (const char *next = "bc"; *next; next++) {
		*(volatile uint32_t *)slot = 0;
		assert_int_equal(vp_write_msr(p, 0, 0x40000084, 0), 0);
		assert_int_equal(slot[16], *next);
	}
	assert_int_equal(partition_post_message(p, 1, SINT, 1, "x", 1), -EINVAL);
	assert_int_equal(partition_post_message(p, 0, SYNIC_SINT_COUNT, 1, "x", 1), -EINVAL);
	for (unsigned i = 0; i < SYNIC_QUEUE_MAX; i++)
		assert_int_equal(partition_post_message(p, 0, SINT, 1, "d", 1), 0);
	assert_int_equal(partition_post_message(p, 0, SINT, 1, "e", 1), -ENOBUFS);
	partition_destroy(p);
}

static void test_events_to_the_guest(void **state)
{
	struct partition *p = make(1);
	uint8_t *flags = partition_memory(p, SIEFP_GPA + SINT * 256, 256);

	(void)state;
	assert_int_equal(partition_signal_event(p, 0, SINT, 9), -ENXIO);
	enable_synic(p, 0);
	assert_int_equal(partition_signal_event(p, 0, SINT, 9), 0);
	assert_int_equal(flags[1], 2);
	assert_int_equal(vp_take_interrupt(p, 0), VECTOR);
	assert_int_equal(partition_signal_event(p, 0, SINT, 9), 0);
	assert_int_equal(vp_take_interrupt(p, 0), -1);
	assert_int_equal(partition_signal_event(p, 0, SINT, SYNIC_EVENT_FLAGS), -EINVAL);
	partition_destroy(p);
}

static char heard[8];

static int hear(void *context, unsigned vp, uint32_t type, const void *payload, size_t size)
{
	(void)vp;
	assert_int_equal(type, 1);
	memcpy(heard, payload, size < sizeof(heard) ? size : sizeof(heard));
	return *(int *)context;
}

static void test_ports_from_the_guest(void **state)
{
	struct partition *p = make(1);
	int fd = eventfd(0, EFD_NONBLOCK), result = 0;
	uint8_t *in = partition_memory(p, IN_GPA, 256);
	uint64_t count;

	(void)state;
	enable_synic(p, 0);
	assert_int_equal(partition_open_message_port(p, 4, hear, &result), 0);
	assert_int_equal(partition_open_message_port(p, 4, hear, &result), -EEXIST);
	assert_int_equal(partition_open_message_port(p, 1 << 24, hear, &result), -EINVAL);
	assert_int_equal(partition_open_event_port(p, 0x10001, fd), 0);
	le32_put(in, 4);
	le32_put(in + 8, 1);
	le32_put(in + 12, 5);
	memcpy(in + 16, "hello", 5);
	assert_int_equal(vp_hypercall(p, 0, 0x5c, IN_GPA, 0), HV_STATUS_SUCCESS);
	assert_string_equal(heard, "hello");
	result = -ENOBUFS;
	assert_int_equal(vp_hypercall(p, 0, 0x5c, IN_GPA, 0), HV_STATUS_INSUFFICIENT_BUFFERS);
	partition_close_message_port(p, 4);
	assert_int_equal(vp_hypercall(p, 0, 0x5c, IN_GPA, 0), HV_STATUS_INVALID_CONNECTION_ID);
	/* Signal event, fast: connection id in the low, flag in the next 16 bits. */
	assert_int_equal(vp_hypercall(p, 0, 0x5d | 1 << 16, 0x10001, 0), HV_STATUS_SUCCESS);
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 1);
	assert_int_equal(vp_hypercall(p, 0, 0x5d | 1 << 16, 0x10002, 0), HV_STATUS_INVALID_CONNECTION_ID);
	partition_close_event_port(p, 0x10001);
	close(fd);
	partition_destroy(p);
}

static void test_time_stands_still_while_paused(void **state)
{
	struct partition *p = make(1);
	uint64_t at;

	(void)state;
	assert_int_equal(partition_reference_time(p), 0);
	assert_int_equal(partition_start(p, NULL), 0);
	while (partition_reference_time(p) < 10000)
		;
	partition_pause(p);
	at = partition_reference_time(p);
	poll(NULL, 0, 5);
	assert_int_equal(partition_reference_time(p), at);
	partition_resume(p);
	while (partition_reference_time(p) == at)
		;
	assert_true(partition_reference_time(p) - at < 50000000);
	partition_destroy(p);
}

/* A direct-mode synthetic timer must interrupt by the timer thread alone. */
static void test_synthetic_timer_fires(void **state)
{
	struct partition *p = make(1);
	int vector = -1;

	(void)state;
	enable_synic(p, 0);
	assert_int_equal(partition_start(p, NULL), 0);
	assert_int_equal(vp_write_msr(p, 0, 0x400000b0, 1 | 1 << 3 | 0xecull << 4 | 1 << 12), 0);
	assert_int_equal(vp_write_msr(p, 0, 0x400000b1, partition_reference_time(p) + 20000), 0);
	for (int i = 0; vector < 0 && i < 10000; i++) {
		poll(NULL, 0, 1);
		vector = vp_take_interrupt(p, 0);
	}
	assert_int_equal(vector, 0xec);
	partition_destroy(p);
}

static void test_config_is_checked(void **state)
{
	struct partition_config config = {.processor = PROCESSOR_NONE, .vp_count = 0};
	struct partition *p;
	struct error err;

	(void)state;
	assert_int_equal(partition_create(&p, &config, &err), -EINVAL);
	config.vp_count = PARTITION_MAX_VPS + 1;
	assert_int_equal(partition_create(&p, &config, &err), -EINVAL);
	config.vp_count = PARTITION_MAX_VPS;
	assert_int_equal(partition_create(&p, &config, &err), 0);
	partition_destroy(p);
	config.processor = PROCESSOR_KVM;
	assert_int_equal(partition_create(&p, &config, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "kvm"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory),
	    cmocka_unit_test(test_memory_of_a_tebibyte), cmocka_unit_test(test_intercepts),
	    cmocka_unit_test(test_messages_queue_in_order), cmocka_unit_test(test_events_to_the_guest),
	    cmocka_unit_test(test_ports_from_the_guest), cmocka_unit_test(test_time_stands_still_while_paused),
	    cmocka_unit_test(test_synthetic_timer_fires), cmocka_unit_test(test_config_is_checked)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
