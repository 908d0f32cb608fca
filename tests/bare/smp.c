/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Several processors: starting them, interrupts between them, atomic operations, order of stores, TLB and
 * code. */
#include "apic.h"
#include "paging.h"

static void on_all(void (*code)(unsigned number))
{
	begin_others(code);
	code(cpuid(1, 0).b >> 24);
	end_others();
}

static bool alone(void)
{
	if (processors == 1)
		skip("one processor only");
	return processors == 1;
}

static volatile unsigned seen_number[MAX_PROCESSORS];

static void note_number(unsigned number)
{
	seen_number[number]++;
}

static void started(void)
{
	if (alone())
		return;
	CHECK_EQ(processors, processor_count());
	on_all(note_number);
	for (unsigned i = 0; i < processors; i++)
		CHECK_EQ(seen_number[i], 1);
}

/* --- interrupts --------------------------------------------------------------------------------- */

static volatile unsigned taken[MAX_PROCESSORS], taken_all;

static void on_ipi(struct frame *frame)
{
	taken[cpuid(1, 0).b >> 24]++;
	__atomic_add_fetch(&taken_all, 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static volatile unsigned listening, stop_listening;

static void listen_halted(unsigned number)
{
	__atomic_add_fetch(&listening, 1, __ATOMIC_SEQ_CST);
	while (!stop_listening)
		halt_once();
}

static void begin_listening(void (*code)(unsigned number))
{
	listening = stop_listening = taken_all = 0;
	memset((void *)taken, 0, sizeof(taken));
	set_handler(0x50, on_ipi);
	begin_others(code);
	CHECK(wait_for(&listening, processors - 1));
}

static void end_listening(void)
{
	unsigned sent = taken_all + processors - 1;

	stop_listening = 1;
	apic_send(0, ICR_OTHERS | 0x50);
	/* One that stopped before it came takes it while it waits for work. */
	CHECK(wait_for(&taken_all, sent));
	end_others();
	set_handler(0x50, NULL);
}

static void interprocessor(void)
{
	if (alone())
		return;
	begin_listening(listen_halted);
	for (unsigned round = 1; round <= 100; round++) {
		for (unsigned i = 1; i < processors; i++)
			apic_send(i, ICR_FIXED | 0x50);
		if (!CHECK(wait_for(&taken_all, round * (processors - 1))))
			break;
	}
	for (unsigned i = 1; i < processors; i++)
		CHECK_EQ(taken[i], 100);
	CHECK_EQ(taken[0], 0);
	apic_send(0, ICR_OTHERS | 0x50);
	CHECK(wait_for(&taken_all, 101 * (processors - 1)));
	interrupts_on();
	apic_send(0, ICR_ALL | 0x50);
	CHECK(wait_for(&taken_all, 102 * (processors - 1) + 1));
	interrupts_off();
	CHECK_EQ(taken[0], 1);
	end_listening();
}

static volatile unsigned nmi_taken;

static void on_nmi(struct frame *frame)
{
	__atomic_add_fetch(&nmi_taken, 1, __ATOMIC_SEQ_CST);
}

static void spin_closed(unsigned number)
{
	__atomic_add_fetch(&listening, 1, __ATOMIC_SEQ_CST);
	while (!stop_listening)
		cpu_relax();
}

static void nmi_to_others(void)
{
	if (alone())
		return;
	nmi_taken = 0;
	set_handler(VEC_NMI, on_nmi);
	begin_listening(spin_closed); /* interrupts are off there */
	apic_send(0, ICR_OTHERS | ICR_NMI | ICR_ASSERT);
	CHECK(wait_for(&nmi_taken, processors - 1));
	stop_listening = 1;
	end_others();
	set_handler(VEC_NMI, NULL);
	set_handler(0x50, NULL);
}

/* A ping that is answered by an interrupt back: what was stored before an IPI is seen by its handler. */
static volatile unsigned ball, pongs;

static void on_ping(struct frame *frame)
{
	if (ball % 2 == 0)
		print("FAIL message-passing: stale value %u\n", ball);
	ball++;
	apic_eoi();
	apic_send(0, ICR_FIXED | 0x52);
}

static void on_pong(struct frame *frame)
{
	pongs++;
	apic_eoi();
}

static void ping_pong(void)
{
	if (alone())
		return;
	ball = pongs = 0;
	set_handler(0x51, on_ping);
	set_handler(0x52, on_pong);
	begin_listening(listen_halted);
	for (unsigned i = 0; i < 200; i++) {
		ball = 2 * i + 1;
		apic_send(1, ICR_FIXED | 0x51);
		interrupts_on();
		if (!CHECK(wait_for(&pongs, i + 1)))
			break;
		interrupts_off();
		if (!CHECK_EQ(ball, 2 * i + 2))
			break;
	}
	interrupts_off();
	end_listening();
	set_handler(0x51, NULL);
	set_handler(0x52, NULL);
}

/* --- atomic operations -------------------------------------------------------------------------- */

#define ROUNDS 20000u

static struct {
	uint64_t add, cmpxchg, inc, xadd;
	uint8_t byte_add;
	uint64_t bits;
	uint64_t pair[2] __attribute__((aligned(16)));
	char split[128] __attribute__((aligned(64)));
	uint64_t lock, guarded[2];
} shared;

static void lock_cmpxchg16b(void)
{
	uint64_t low = shared.pair[0], high = shared.pair[1];
	uint8_t done;

	do {
		asm volatile("lock cmpxchg16b %0; sete %1"
			     : "+m"(shared.pair), "=q"(done), "+a"(low), "+d"(high)
			     : "b"(low + 1), "c"(high + 2)
			     : "memory", "cc");
	} while (!done);
}

static void atomics(unsigned number)
{
	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t one = 1, old;

		asm volatile("lock addq $3, %0" : "+m"(shared.add) : : "cc", "memory");
		asm volatile("lock incq %0" : "+m"(shared.inc) : : "cc", "memory");
		asm volatile("lock xaddq %1, %0" : "+m"(shared.xadd), "+r"(one) : : "cc", "memory");
		asm volatile("lock addb $1, %0" : "+m"(shared.byte_add) : : "cc", "memory");
		if (i % 100 == 0) /* across two cache lines: hosts make that very slow */
			asm volatile("lock addq $1, %0"
				     : "+m"(*(uint64_t *)(shared.split + 60))
				     :
				     : "cc", "memory");
		asm volatile("lock btcq %1, %0" : "+m"(shared.bits) : "r"((uint64_t)number) : "cc", "memory");
		old = shared.cmpxchg;
		while (!__atomic_compare_exchange_n(&shared.cmpxchg, &old, old + 1, false, __ATOMIC_SEQ_CST,
						    __ATOMIC_SEQ_CST))
			cpu_relax();
		lock_cmpxchg16b();
		while (__atomic_exchange_n(&shared.lock, 1, __ATOMIC_ACQUIRE))
			cpu_relax();
		shared.guarded[0]++;
		shared.guarded[1] += shared.guarded[0] & 1;
		__atomic_store_n(&shared.lock, 0, __ATOMIC_RELEASE);
	}
}

static void atomic_operations(void)
{
	uint64_t n = (uint64_t)ROUNDS * processors;

	memset(&shared, 0, sizeof(shared));
	on_all(atomics);
	CHECK_EQ(shared.add, 3 * n);
	CHECK_EQ(shared.inc, n);
	CHECK_EQ(shared.xadd, n);
	CHECK_EQ(shared.byte_add, (uint8_t)n);
	CHECK_EQ(*(uint64_t *)(shared.split + 60), n / 100);
	CHECK_EQ(shared.bits, 0);
	CHECK_EQ(shared.cmpxchg, n);
	CHECK_EQ(shared.pair[0], n);
	CHECK_EQ(shared.pair[1], 2 * n);
	CHECK_EQ(shared.guarded[0], n);
	CHECK_EQ(shared.guarded[1], n / 2);
}

/* --- memory order (SDM volume 3, 9.2.3) --------------------------------------------------------- */

/* Fewer: each hands over to the other, who may have to be scheduled first. */
#define HANDOVERS 1000u

static volatile unsigned gate_a, gate_b, x, y, saw_x, saw_y, impossible;

static void meet(volatile unsigned *mine, volatile unsigned *theirs, unsigned round)
{
	*mine = round;
	while (*theirs < round)
		cpu_relax();
}

static void other_side(unsigned number)
{
	if (number != 1)
		return;
	for (unsigned i = 1; i <= HANDOVERS; i++) {
		meet(&gate_b, &gate_a, 2 * i - 1);
		y = 1;
		asm volatile("mfence" : : : "memory");
		saw_x = x;
		meet(&gate_b, &gate_a, 2 * i);
	}
}

/* Store, fence, load on both sides: one of them sees the other's store. */
static void store_fence_load(void)
{
	if (alone())
		return;
	gate_a = gate_b = impossible = 0;
	begin_others(other_side);
	for (unsigned i = 1; i <= HANDOVERS; i++) {
		x = y = 0;
		asm volatile("mfence" : : : "memory");
		meet(&gate_a, &gate_b, 2 * i - 1);
		x = 1;
		asm volatile("mfence" : : : "memory");
		saw_y = y;
		meet(&gate_a, &gate_b, 2 * i);
		impossible += !saw_x && !saw_y;
	}
	end_others();
	CHECK_EQ(impossible, 0);
}

static volatile uint64_t message, flag;

static void reader(unsigned number)
{
	if (number != 1)
		return;
	for (uint64_t i = 1; i <= HANDOVERS; i++) {
		while (flag != i)
			cpu_relax();
		impossible += message != i * 3;
		flag = 0;
	}
}

/* Stores are seen in their order, loads are made in theirs, and 8 bytes come as a whole. */
static void message_passing(void)
{
	if (alone())
		return;
	impossible = 0;
	flag = 0;
	begin_others(reader);
	for (uint64_t i = 1; i <= HANDOVERS; i++) {
		message = i * 3;
		flag = i;
		while (flag)
			cpu_relax();
	}
	end_others();
	CHECK_EQ(impossible, 0);
}

static volatile uint64_t whole __attribute__((aligned(8)));
static volatile unsigned tear_stop;

static void tear_reader(unsigned number)
{
	while (!tear_stop) {
		uint64_t value = whole;

		if (value != 0 && value != ~0ull)
			__atomic_add_fetch(&impossible, 1, __ATOMIC_SEQ_CST);
	}
}

static void whole_words(void)
{
	if (alone())
		return;
	impossible = tear_stop = 0;
	begin_others(tear_reader);
	for (unsigned i = 0; i < 10 * ROUNDS; i++)
		whole = i & 1 ? ~0ull : 0;
	tear_stop = 1;
	end_others();
	CHECK_EQ(impossible, 0);
}

/* --- TLB shootdown and code of another ---------------------------------------------------------- */

static volatile unsigned shot, reads[MAX_PROCESSORS];

static void on_shootdown(struct frame *frame)
{
	invlpg((void *)TEST_VA);
	__atomic_add_fetch(&shot, 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static void look(unsigned number)
{
	__atomic_add_fetch(&listening, 1, __ATOMIC_SEQ_CST);
	while (!stop_listening) {
		interrupts_on();
		reads[number] = *(volatile unsigned *)TEST_VA;
		interrupts_off();
	}
}

static void shootdown(void)
{
	unsigned *pages[2] = {page_alloc(), page_alloc()};

	if (alone())
		return;
	*pages[0] = 100;
	*pages[1] = 101;
	map(TEST_VA, pages[0], PTE_P | PTE_W);
	set_handler(0x53, on_shootdown);
	begin_listening(look);
	for (unsigned i = 1; i <= 60; i++) {
		shot = 0;
		map(TEST_VA, pages[i & 1], PTE_P | PTE_W);
		apic_send(0, ICR_OTHERS | 0x53);
		if (!CHECK(wait_for(&shot, processors - 1)))
			break;
		*pages[!(i & 1)] = 666; /* nobody may look at this one now */
		for (unsigned p = 1; p < processors; p++) {
			reads[p] = 0;
			while (!reads[p])
				cpu_relax();
			reads[p] = 0;
			while (!reads[p])
				cpu_relax();
			CHECK_EQ(reads[p], 100 + (i & 1));
		}
		*pages[!(i & 1)] = 100 + !(i & 1);
	}
	stop_listening = 1;
	end_others();
	set_handler(0x50, NULL);
	set_handler(0x53, NULL);
}

static uint8_t *patched;
static volatile unsigned version, ran_version;

static void run_patched(unsigned number)
{
	if (number != 1)
		return;
	for (unsigned i = 1; i <= 2000; i++) {
		uint32_t result;

		while (version != i)
			cpu_relax();
		cpuid(0, 0); /* serialize, as the manual asks for (9.1.3) */
		asm volatile("call *%1" : "=a"(result) : "r"(patched) : "memory");
		impossible += result != i;
		ran_version = i;
	}
}

static void code_of_another(void)
{
	if (alone())
		return;
	patched = page_alloc();
	patched[0] = 0xb8;
	patched[5] = 0xc3;
	version = ran_version = impossible = 0;
	begin_others(run_patched);
	for (unsigned i = 1; i <= 2000; i++) {
		memcpy(patched + 1, &i, 4);
		version = i;
		if (!CHECK(wait_for(&ran_version, i)))
			break;
	}
	end_others();
	CHECK_EQ(impossible, 0);
}

/* A jump whose target is switched under the feet of who runs it: an aligned store of 4 bytes is seen whole.
 */
static volatile unsigned jump_stop, strange;

static void run_switched(unsigned number)
{
	while (!jump_stop) {
		uint32_t result;

		asm volatile("call *%1" : "=a"(result) : "r"(patched) : "memory");
		if (result != 0x11111111 && result != 0x22222222)
			__atomic_add_fetch(&strange, 1, __ATOMIC_SEQ_CST);
	}
}

static void switched_immediate(void)
{
	if (alone())
		return;
	patched = (uint8_t *)page_alloc() + 3; /* the immediate is aligned */
	patched[0] = 0xb8;
	memset(patched + 1, 0x11, 4);
	patched[5] = 0xc3;
	jump_stop = strange = 0;
	begin_others(run_switched);
	for (unsigned i = 0; i < 5000; i++) {
		*(volatile uint32_t *)(patched + 1) = i & 1 ? 0x11111111 : 0x22222222;
		spin(1);
	}
	jump_stop = 1;
	end_others();
	CHECK_EQ(strange, 0);
}

/* Time-stamp counters that do not run backwards from one processor to the next. */
static volatile uint64_t tsc_latest;
static volatile unsigned tsc_turn;

static void read_tsc(unsigned number)
{
	for (unsigned i = 0; i < 100; i++) {
		uint64_t now;

		while (tsc_turn % processors != number)
			cpu_relax();
		asm volatile("lfence" : : : "memory");
		now = rdtsc();
		impossible += now < tsc_latest;
		tsc_latest = now;
		tsc_turn++;
	}
}

static void time_stamps(void)
{
	tsc_latest = tsc_turn = impossible = 0;
	on_all(read_tsc);
	CHECK_EQ(impossible, 0);
}

/* INIT takes a processor out of whatever it does, and it starts again. The last test: its worker is gone. */
static volatile unsigned restarted;

static void restart(unsigned number)
{
	if (number == 1)
		restarted = 1;
}

static void init_again(void)
{
	if (alone())
		return;
	restarted = 0;
	CHECK_EQ(start_processors(restart), processors);
	CHECK(wait_for(&restarted, 1));
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"started", started},
	    {"interprocessor-interrupts", interprocessor},
	    {"nmi-to-others", nmi_to_others},
	    {"ping-pong", ping_pong},
	    {"atomic-operations", atomic_operations},
	    {"store-fence-load", store_fence_load},
	    {"message-passing", message_passing},
	    {"whole-words", whole_words},
	    {"tlb-shootdown", shootdown},
	    {"code-of-another", code_of_another},
	    {"switched-immediate", switched_immediate},
	    {"time-stamps", time_stamps},
	    {"init-again", init_again},
	};

	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	apic_write(APIC_LVT_LINT0, LVT_MASKED);
	start_workers();
	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
