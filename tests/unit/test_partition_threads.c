/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Virtual processors as threads: sleep and wake, INIT and SIPI, pause and stop, ports that close under
 * fire. The guest is a page of real-mode code on the software processor; each test is a game of ping-pong
 * that stops at the first wake-up that gets lost.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "hypervisor/partition.h"

#define CODE_PAGE 2 /* also the vector of the SIPI */
#define SPIN_PAGE 3
#define VECTOR    0x40

/* Counters of the guest, one 32-bit word a VP each. */
#define COUNT_INTERRUPTS 0x8000
#define COUNT_STARTS     0x8100
#define COUNT_NMIS       0x8200
#define COUNT_SPINS      0x8300

/* Enables the x2APIC, counts its start, and halts between interrupts. */
extern const uint8_t guest_code[], guest_interrupt[], guest_nmi[], guest_spin[], guest_end[];
__asm__(".pushsection .rodata\n"
	".code16\n"
	"guest_code:\n"
	"	movl $0x1b, %ecx\n"
	"	rdmsr\n"
	"	orl $0xc00, %eax\n"
	"	wrmsr\n"
	"	movl $0x80f, %ecx\n"
	"	movl $0x1ff, %eax\n"
	"	xorl %edx, %edx\n"
	"	wrmsr\n"
	"	movl $0x802, %ecx\n"
	"	rdmsr\n"
	"	movw %ax, %sp\n" /* a stack of its own */
	"	shlw $9, %sp\n"
	"	addw $0x5000, %sp\n"
	"	movw %ax, %bx\n"
	"	shlw $2, %bx\n"
	"	lock incl 0x8100(%bx)\n"
	"	sti\n"
	"1:	hlt\n"
	"	jmp 1b\n"
	"guest_interrupt:\n"
	"	lock incl 0x8000(%bx)\n"
	"	movl $0x80b, %ecx\n"
	"	xorl %eax, %eax\n"
	"	xorl %edx, %edx\n"
	"	wrmsr\n"
	"	iretw\n"
	"guest_nmi:\n"
	"	lock incl 0x8200(%bx)\n"
	"	iretw\n"
	"guest_spin:\n"
	"	lock incl 0x8300\n"
	"	jmp guest_spin\n"
	"guest_end:\n"
	".code64\n"
	".popsection\n");

static uint32_t count(struct partition *p, gpa_t counter, unsigned vp)
{
	_Atomic uint32_t *word = partition_memory(p, counter + 4 * vp, 4);

	return atomic_load(word);
}

static void wait_for_count(struct partition *p, gpa_t counter, unsigned vp, uint32_t wanted)
{
	time_t start = time(NULL);

	while (count(p, counter, vp) != wanted) {
		if (time(NULL) - start > 40 || count(p, counter, vp) > wanted)
			fail_msg("counter 0x%x of VP %u is %u, not %u", (unsigned)counter, vp, count(p, counter, vp), wanted);
		sched_yield();
	}
}

static void set_vector(struct partition *p, unsigned vector, const uint8_t *handler)
{
	uint8_t entry[4];

	le16_put(entry, (uint16_t)(handler - guest_code));
	le16_put(entry + 2, CODE_PAGE << 8);
	assert_int_equal(partition_write(p, 4 * vector, entry, sizeof(entry)), 0);
}

/* VP 0 starts at `page`, the others wait. */
static struct partition *make(unsigned vps, unsigned page)
{
	struct partition_config config = {.processor = PROCESSOR_SOFT, .vp_count = vps};
	struct vp_registers r;
	struct partition *p;

	assert_int_equal(partition_create(&p, &config, NULL), 0);
	assert_int_equal(partition_add_memory(p, 0, 1 << 20, NULL), 0);
	assert_int_equal(partition_write(p, CODE_PAGE << 12, guest_code, (size_t)(guest_end - guest_code)), 0);
	assert_int_equal(partition_write(p, SPIN_PAGE << 12, guest_spin, (size_t)(guest_end - guest_spin)), 0);
	set_vector(p, VECTOR, guest_interrupt);
	set_vector(p, 2, guest_nmi);
	assert_int_equal(vp_get_registers(p, 0, &r), 0);
	r.cs.selector = (uint16_t)(page << 8);
	r.cs.base = page << 12;
	r.rip = 0;
	assert_int_equal(vp_set_registers(p, 0, &r), 0);
	return p;
}

static void send(struct partition *p, unsigned vp, enum interrupt_delivery delivery, uint8_t vector)
{
	struct interrupt_message m = {.vector = vector, .delivery = delivery, .destination = vp};

	partition_assert_interrupt(p, &m);
}

static void start_others(struct partition *p, unsigned vps)
{
	wait_for_count(p, COUNT_STARTS, 0, 1);
	for (unsigned vp = 1; vp < vps; vp++) {
		send(p, vp, INTERRUPT_INIT, 0);
		send(p, vp, INTERRUPT_SIPI, CODE_PAGE);
	}
	for (unsigned vp = 1; vp < vps; vp++)
		wait_for_count(p, COUNT_STARTS, vp, 1);
}

static void test_interrupts_wake_a_halted_vp(void **state)
{
	struct partition *p = make(2, CODE_PAGE);

	(void)state;
	assert_int_equal(partition_start(p, NULL), 0);
	start_others(p, 2);
	for (uint32_t i = 1; i <= 3000; i++) {
		send(p, i & 1, INTERRUPT_FIXED, VECTOR);
		wait_for_count(p, COUNT_INTERRUPTS, i & 1, (i + 1) / 2);
	}
	partition_destroy(p);
}

static void test_nmis_wake_a_halted_vp(void **state)
{
	struct partition *p = make(1, CODE_PAGE);

	(void)state;
	assert_int_equal(partition_start(p, NULL), 0);
	wait_for_count(p, COUNT_STARTS, 0, 1);
	for (uint32_t i = 1; i <= 3000; i++) {
		send(p, 0, INTERRUPT_NMI, 0);
		wait_for_count(p, COUNT_NMIS, 0, i);
	}
	partition_destroy(p);
}

/* Linux sends every SIPI twice: the second finds the VP started, or waiting, and must start it once only. */
static void test_each_sipi_starts_once(void **state)
{
	struct partition *p = make(2, CODE_PAGE);

	(void)state;
	assert_int_equal(partition_start(p, NULL), 0);
	for (uint32_t i = 1; i <= 1000; i++) {
		send(p, 1, INTERRUPT_INIT, 0);
		send(p, 1, INTERRUPT_SIPI, CODE_PAGE);
		send(p, 1, INTERRUPT_SIPI, CODE_PAGE);
		wait_for_count(p, COUNT_STARTS, 1, i);
	}
	/* It was the last INIT's SIPI that counted: it still runs and takes interrupts. */
	send(p, 1, INTERRUPT_FIXED, VECTOR);
	wait_for_count(p, COUNT_INTERRUPTS, 1, 1);
	partition_destroy(p);
}

struct sender {
	struct partition *p;
	_Atomic bool stop;
};

static void *send_always(void *argument)
{
	struct sender *s = argument;

	while (!atomic_load(&s->stop)) {
		send(s->p, 1, INTERRUPT_FIXED, VECTOR);
		partition_reference_time(s->p);
		sched_yield();
	}
	return NULL;
}

static void test_nothing_runs_while_paused(void **state)
{
	struct sender s = {.p = make(2, SPIN_PAGE)};
	struct partition *p = s.p;
	pthread_t thread;

	(void)state;
	assert_int_equal(partition_start(p, NULL), 0);
	send(p, 1, INTERRUPT_INIT, 0);
	send(p, 1, INTERRUPT_SIPI, CODE_PAGE);
	wait_for_count(p, COUNT_STARTS, 1, 1);
	assert_int_equal(pthread_create(&thread, NULL, send_always, &s), 0);
	for (unsigned i = 0; i < 200; i++) {
		uint32_t spins, taken;
		uint64_t at;

		partition_pause(p);
		spins = count(p, COUNT_SPINS, 0);
		taken = count(p, COUNT_INTERRUPTS, 1);
		at = partition_reference_time(p);
		for (unsigned j = 0; j < 50; j++)
			sched_yield();
		assert_int_equal(count(p, COUNT_SPINS, 0), spins);
		assert_int_equal(count(p, COUNT_INTERRUPTS, 1), taken);
		assert_int_equal(partition_reference_time(p), at);
		partition_resume(p);
		while (count(p, COUNT_SPINS, 0) == spins || count(p, COUNT_INTERRUPTS, 1) == taken)
			sched_yield();
	}
	atomic_store(&s.stop, true);
	pthread_join(thread, NULL);
	partition_destroy(p);
}

static void test_pause_before_start_holds(void **state)
{
	struct partition *p = make(1, SPIN_PAGE);

	(void)state;
	partition_pause(p);
	assert_int_equal(partition_start(p, NULL), 0);
	partition_pause(p); /* returns when the VP's thread stands still */
	assert_int_equal(count(p, COUNT_SPINS, 0), 0);
	assert_int_equal(partition_reference_time(p), 0);
	partition_resume(p);
	while (!count(p, COUNT_SPINS, 0) || !partition_reference_time(p))
		sched_yield();
	partition_destroy(p);
}

/* Running, halted, waiting for a SIPI, paused: all of them end. */
static void test_stop_in_any_state(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		struct partition *p = make(3, i & 1 ? SPIN_PAGE : CODE_PAGE);

		assert_int_equal(partition_start(p, NULL), 0);
		send(p, 1, INTERRUPT_INIT, 0);
		send(p, 1, INTERRUPT_SIPI, CODE_PAGE);
		if (i & 2)
			wait_for_count(p, COUNT_STARTS, 1, 1);
		if (i & 4)
			partition_pause(p);
		partition_stop(p);
		partition_stop(p);
		partition_pause(p);
		partition_resume(p);
		partition_destroy(p);
	}
}

/* --- ports that close while guests post ------------------------------------------------------------- */

#define IN_GPA 0x12000

struct poster {
	struct partition *p;
	unsigned vp;
	_Atomic bool *stop;
};

static int slow_hear(void *context, unsigned vp, uint32_t type, const void *payload, size_t size)
{
	(void)vp;
	(void)type;
	(void)payload;
	(void)size;
	for (unsigned i = 0; i < 200; i++)
		__builtin_ia32_pause();
	atomic_fetch_add((_Atomic unsigned *)context, 1);
	return 0;
}

static void *post_always(void *argument)
{
	struct poster *poster = argument;

	while (!atomic_load(poster->stop))
		vp_hypercall(poster->p, poster->vp, 0x5c, IN_GPA, 0);
	return NULL;
}

static void test_a_port_closes_while_guests_flood_it(void **state)
{
	struct partition_config config = {.processor = PROCESSOR_NONE, .vp_count = 4};
	_Atomic unsigned heard = 0;
	_Atomic bool stop = false;
	struct poster posters[4];
	pthread_t threads[4];
	struct partition *p;
	uint8_t *in;

	(void)state;
	assert_int_equal(partition_create(&p, &config, NULL), 0);
	assert_int_equal(partition_add_memory(p, 0, 1 << 20, NULL), 0);
	assert_int_equal(vp_write_msr(p, 0, 0x40000000, 0x8100ull << 48), 0);
	assert_int_equal(vp_write_msr(p, 0, 0x40000001, 0x13000 | 1), 0);
	in = partition_memory(p, IN_GPA, 256);
	le32_put(in, 4);
	le32_put(in + 8, 1);
	le32_put(in + 12, 8);
	for (unsigned i = 0; i < 4; i++) {
		posters[i] = (struct poster){p, i, &stop};
		assert_int_equal(pthread_create(&threads[i], NULL, post_always, &posters[i]), 0);
	}
	for (unsigned i = 0; i < 50; i++) {
		unsigned seen = atomic_load(&heard);

		assert_int_equal(partition_open_message_port(p, 4, slow_hear, &heard), 0);
		while (atomic_load(&heard) == seen)
			sched_yield();
		partition_close_message_port(p, 4);
		/* close has waited for the last handler. */
		seen = atomic_load(&heard);
		sched_yield();
		assert_int_equal(atomic_load(&heard), seen);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	partition_destroy(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_interrupts_wake_a_halted_vp),
	    cmocka_unit_test(test_nmis_wake_a_halted_vp), cmocka_unit_test(test_each_sipi_starts_once),
	    cmocka_unit_test(test_nothing_runs_while_paused), cmocka_unit_test(test_pause_before_start_holds),
	    cmocka_unit_test(test_stop_in_any_state), cmocka_unit_test(test_a_port_closes_while_guests_flood_it)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
