/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the hypervisor offers to a guest that knows it, by the words of the TLFS: numbers are written out here
 * again, so that a wrong one on the other side shows.
 *
 * Hyper-V may be Bulkhead's own or the Linux kernel's (arch/x86/kvm/hyperv.c). What CPUID does not offer is
 * not asked for. Where the two answer a bad call with different statuses, each of which a guest could get,
 * both pass.
 */
#include "apic.h"
#include "paging.h"

enum {
	MSR_OS_ID = 0x40000000,
	MSR_HYPERCALL = 0x40000001,
	MSR_VP_INDEX = 0x40000002,
	MSR_VP_RUNTIME = 0x40000010,
	MSR_REF_COUNT = 0x40000020,
	MSR_REF_TSC = 0x40000021,
	MSR_TSC_FREQUENCY = 0x40000022,
	MSR_APIC_FREQUENCY = 0x40000023,
	MSR_HV_EOI = 0x40000070,
	MSR_HV_ICR = 0x40000071,
	MSR_HV_TPR = 0x40000072,
	MSR_ASSIST = 0x40000073,
	MSR_SCONTROL = 0x40000080,
	MSR_SVERSION = 0x40000081,
	MSR_SIEFP = 0x40000082,
	MSR_SIMP = 0x40000083,
	MSR_EOM = 0x40000084,
	MSR_SINT0 = 0x40000090,
	MSR_STIMER0_CONFIG = 0x400000b0,
	MSR_STIMER0_COUNT = 0x400000b1,
	MSR_CRASH_P0 = 0x40000100
};

enum {
	SUCCESS = 0,
	INVALID_CODE = 2,
	INVALID_INPUT = 3,
	INVALID_ALIGNMENT = 4,
	INVALID_PARAMETER = 5,
	INVALID_CONNECTION = 0x12
};

enum {
	CALL_FLUSH = 2,
	CALL_FLUSH_LIST = 3,
	CALL_SPIN_WAIT = 8,
	CALL_IPI = 0xb,
	CALL_FLUSH_EX = 0x13,
	CALL_IPI_EX = 0x15,
	CALL_POST_MESSAGE = 0x5c,
	CALL_SIGNAL_EVENT = 0x5d,
	CALL_VP_INDEX = 0x9a
};

#define FAST        (1ul << 16)
#define REPS(n)     ((uint64_t)(n) << 32)
#define VARIABLE(n) ((uint64_t)(n) << 17) /* 8-byte words of a variable header */

#define MESSAGE_TIMER 0x80000010u

struct message { /* 11.3 */
	uint32_t type;
	uint8_t size, flags;
	uint16_t reserved;
	uint64_t sender;
	uint64_t payload[30];
};

struct timer_payload { /* 12.3.6 */
	uint32_t index, reserved;
	uint64_t expiration, delivery;
};

static uint8_t *hypercall_page;
static volatile struct message *messages;
/* CPUID 0x40000003 EAX, EBX and EDX, and 0x40000004 EAX (TLFS 2.4.4, 2.4.5). */
static uint32_t features_a, features_b, features_d, recommended;

enum {
	ACCESS_RUNTIME = 1 << 0,
	ACCESS_APIC_MSRS = 1 << 4,
	ACCESS_REFERENCE_TSC = 1 << 9,
	ACCESS_FREQUENCIES = 1 << 11,
	START_PROCESSOR = 1 << 21, /* EBX; HvCallGetVpIndexFromApicId comes with it */
	CRASH_MSRS = 1 << 10,      /* EDX */
	DIRECT_TIMERS = 1 << 19,
	REMOTE_FLUSH = 1 << 2, /* recommended */
	CLUSTER_IPI = 1 << 10,
	SPARSE_SETS = 1 << 11
};

static uint64_t hypercall(uint64_t input, uint64_t in, uint64_t out)
{
	uint64_t status;
	register uint64_t r8 asm("r8") = out;

	asm volatile("call *%4"
		     : "=a"(status), "+c"(input), "+d"(in), "+r"(r8)
		     : "r"(hypercall_page)
		     : "memory", "cc", "r9", "r10", "r11");
	return status;
}

static bool is_one_of(uint64_t status, uint64_t a, uint64_t b)
{
	return (status & 0xffff) == a || (status & 0xffff) == b;
}

static uint64_t now(void)
{
	return rdmsr(MSR_REF_COUNT);
}

/* --- who is there ------------------------------------------------------------------------------- */

static bool is_hyperv(void)
{
	struct cpuid vendor = cpuid(0x40000000, 0);

	return cpuid(1, 0).c >> 31 && vendor.b == 0x7263694d && vendor.c == 0x666f736f &&
	       vendor.d == 0x76482074;
}

static void leaves(void)
{
	CHECK(cpuid(0x40000000, 0).a >= 0x40000005);
	CHECK_EQ(cpuid(0x40000001, 0).a, 0x31237648); /* "Hv#1" */
	/* What every guest needs: reference counter, SynIC, timers, hypercalls, VP index. */
	CHECK_EQ(features_a & 0x6e, 0x6e);
	CHECK(cpuid(0x40000005, 0).a >= processors);
}

static void hypercall_page_life(void)
{
	CHECK_EQ(rdmsr(MSR_OS_ID), 0x8100000000000000);
	CHECK_EQ(rdmsr(MSR_HYPERCALL) & 1, 1);
	CHECK_EQ(rdmsr(MSR_HYPERCALL) & ~0xffful, (unsigned long)hypercall_page);
	/* Without an OS id there are no hypercalls. */
	wrmsr(MSR_OS_ID, 0);
	CHECK_EQ(rdmsr(MSR_HYPERCALL) & 1, 0);
	wrmsr(MSR_HYPERCALL, (unsigned long)hypercall_page | 1);
	CHECK_EQ(rdmsr(MSR_HYPERCALL) & 1, 0);
	wrmsr(MSR_OS_ID, 0x8100000000000000);
	wrmsr(MSR_HYPERCALL, (unsigned long)hypercall_page | 1);
	CHECK_EQ(rdmsr(MSR_HYPERCALL) & 1, 1);
	CHECK_EQ(hypercall(CALL_SPIN_WAIT | FAST, 1, 0) & 0xffff, SUCCESS);
}

static void bad_calls(void)
{
	uint64_t *page = page_alloc();

	CHECK_EQ(hypercall(0x3fff, 0, 0) & 0xffff, INVALID_CODE);
	CHECK_EQ(hypercall(0x3fff | FAST, 0, 0) & 0xffff, INVALID_CODE);
	CHECK_EQ(hypercall(CALL_SPIN_WAIT | FAST | 1ul << 31, 1, 0) & 0xffff, INVALID_INPUT);
	CHECK_EQ(hypercall(CALL_SPIN_WAIT | FAST | REPS(1), 1, 0) & 0xffff,
		 INVALID_INPUT); /* no repeated call */
	CHECK_EQ(hypercall(CALL_POST_MESSAGE, (unsigned long)page + 4, 0) & 0xffff, INVALID_ALIGNMENT);
	CHECK_EQ(hypercall(CALL_SIGNAL_EVENT | FAST, 0x00abcdef, 0) & 0xffff, INVALID_CONNECTION);
	page[0] = 0x00abcdef;      /* connection id */
	page[1] = 1ul | 8ul << 32; /* type, size */
	CHECK_EQ(hypercall(CALL_POST_MESSAGE, (unsigned long)page, 0) & 0xffff, INVALID_CONNECTION);
	page[1] = 1ul | 241ul << 32;
	CHECK_EQ(hypercall(CALL_POST_MESSAGE, (unsigned long)page, 0) & 0xffff, INVALID_PARAMETER);
}

static void registers(void)
{
	CHECK_EQ(rdmsr(MSR_VP_INDEX), 0);
	EXPECT_FAULT(VEC_GP, 0, wrmsr(MSR_VP_INDEX, 1));
	EXPECT_FAULT(VEC_GP, 0, wrmsr(MSR_REF_COUNT, 1));
	EXPECT_FAULT(VEC_GP, 0, rdmsr(0x400001fe));
	if (features_d & CRASH_MSRS) {
		wrmsr(MSR_CRASH_P0, 0x1234567890);
		CHECK_EQ(rdmsr(MSR_CRASH_P0), 0x1234567890);
	}
	if (features_a & ACCESS_RUNTIME) {
		uint64_t before = rdmsr(MSR_VP_RUNTIME), begin = now();

		/* A kernel may count in ticks of its own. */
		while (rdmsr(MSR_VP_RUNTIME) <= before && now() - begin < 10000000)
			spin(1000);
		CHECK(rdmsr(MSR_VP_RUNTIME) > before);
	}
}

/* --- time --------------------------------------------------------------------------------------- */

static void reference_counter(void)
{
	uint64_t last = now();

	for (unsigned i = 0; i < 1000; i++) {
		uint64_t next = now();

		if (!CHECK(next >= last))
			return;
		last = next;
	}
	CHECK(now() > 0);
}

/* Both clocks over 30 ms agree to a hundredth, in one of some tries: another program may take the processor
 * away between two readings. */
static void frequencies(void)
{
	uint64_t tsc_hz;
	bool agree = false;

	if (!(features_a & ACCESS_FREQUENCIES)) {
		skip("no frequency MSRs");
		return;
	}
	tsc_hz = rdmsr(MSR_TSC_FREQUENCY);
	CHECK(tsc_hz > 1000000);
	CHECK(rdmsr(MSR_APIC_FREQUENCY) > 1000000);
	for (unsigned i = 0; i < 30 && !agree; i++) {
		uint64_t ref = now(), tsc = rdtsc(), ref_ticks, tsc_ticks, expected;

		while (now() - ref < 300000)
			cpu_relax();
		tsc_ticks = rdtsc() - tsc;
		ref_ticks = now() - ref;
		expected = ref_ticks * (tsc_hz / 1000) / 10000;
		agree = tsc_ticks > expected - expected / 100 && tsc_ticks < expected + expected / 100;
	}
	CHECK(agree);
}

static volatile struct {
	uint32_t sequence, reserved;
	uint64_t scale;
	int64_t offset;
} * tsc_page;

static uint64_t page_time(void)
{
	uint32_t sequence;
	uint64_t time;

	do {
		sequence = tsc_page->sequence;
		asm volatile("lfence" : : : "memory");
		time = (uint64_t)((unsigned __int128)rdtsc() * tsc_page->scale >> 64) +
		       (uint64_t)tsc_page->offset;
	} while (tsc_page->sequence != sequence);
	return time;
}

static void reference_tsc(void)
{
	uint64_t last = 0;

	if (!(features_a & ACCESS_REFERENCE_TSC)) {
		skip("no reference TSC page");
		return;
	}
	tsc_page = page_alloc();
	wrmsr(MSR_REF_TSC, (unsigned long)tsc_page | 1);
	CHECK_EQ(rdmsr(MSR_REF_TSC), (unsigned long)tsc_page | 1);
	/* Sequence 0 sends guests to the reference counter (TLFS 12.7): the host's own TSC is not good
	 * enough. */
	if (!tsc_page->sequence) {
		skip("the reference TSC page says that it cannot be used");
		wrmsr(MSR_REF_TSC, 0);
		return;
	}
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t before = now(), time = page_time(), after = now();

		/* The same clock, to a microsecond, and never backwards. */
		if (!CHECK(time + 10 >= before) || !CHECK(time <= after + 10) || !CHECK(time >= last))
			return;
		last = time;
	}
	wrmsr(MSR_REF_TSC, 0);
}

/* --- SynIC and timers --------------------------------------------------------------------------- */

#define SINT        2u
#define VECTOR      0x70u
#define MS          10000ull /* in 100 ns */
#define TIMER(n, r) (MSR_STIMER0_##r + 2 * (n))
#define ENABLE      1u
#define PERIODIC    2u
#define AUTO_ENABLE 8u
#define ON_SINT     (SINT << 16)
#define DIRECT(v)   (1u << 12 | (v) << 4)

static volatile unsigned interrupts;

static void on_message(struct frame *frame)
{
	interrupts++;
	apic_eoi();
}

static void on_auto_eoi(struct frame *frame)
{
	interrupts++;
}

static void synic_on(uint64_t sint)
{
	wrmsr(MSR_SCONTROL, 1);
	wrmsr(MSR_SIMP, (unsigned long)messages | 1);
	wrmsr(MSR_SINT0 + SINT, sint);
	interrupts = 0;
	set_handler(VECTOR, on_message);
	messages[SINT].type = 0;
}

static void synic_off(void)
{
	for (unsigned i = 0; i < 4; i++)
		wrmsr(TIMER(i, CONFIG), 0);
	messages[SINT].type = 0;
	wrmsr(MSR_EOM, 0);
	wrmsr(MSR_SINT0 + SINT, 0x10000);
	interrupts_on(); /* take what came meanwhile */
	spin(1);
	interrupts_off();
	set_handler(VECTOR, NULL);
}

static volatile struct timer_payload *payload(void)
{
	return (volatile struct timer_payload *)messages[SINT].payload;
}

static void free_slot(void)
{
	messages[SINT].type = 0;
	asm volatile("mfence" : : : "memory");
	if (messages[SINT].flags & 1)
		wrmsr(MSR_EOM, 0);
}

static void synic_registers(void)
{
	CHECK_EQ(rdmsr(MSR_SVERSION), 1);
	for (unsigned i = 0; i < 16; i++)
		CHECK_EQ(rdmsr(MSR_SINT0 + i) & 0x10000, 0x10000); /* masked after reset */
	EXPECT_FAULT(VEC_GP, 0, wrmsr(MSR_SINT0 + SINT, 0x05));    /* vectors below 16 are no interrupts */
	EXPECT_FAULT(VEC_GP, 0, wrmsr(MSR_SVERSION, 1));
	wrmsr(MSR_SIEFP, (unsigned long)page_alloc() | 1);
	CHECK_EQ(rdmsr(MSR_SIEFP) & 1, 1);
	wrmsr(MSR_SIEFP, 0);
}

static void timer_one_shot(void)
{
	uint64_t due;

	synic_on(VECTOR);
	due = now() + 2 * MS;
	wrmsr(TIMER(0, COUNT), due);
	wrmsr(TIMER(0, CONFIG), ENABLE | ON_SINT);
	interrupts_on();
	CHECK(wait_for(&interrupts, 1));
	interrupts_off();
	CHECK_EQ(messages[SINT].type, MESSAGE_TIMER);
	CHECK_EQ(messages[SINT].size, sizeof(struct timer_payload));
	CHECK_EQ(payload()->index, 0);
	CHECK_EQ(payload()->expiration, due);
	CHECK(payload()->delivery >= due);
	CHECK(payload()->delivery <= now());
	CHECK_EQ(rdmsr(TIMER(0, CONFIG)) & ENABLE, 0); /* it is spent */
	free_slot();
	/* The past is now. */
	wrmsr(TIMER(0, COUNT), 1);
	wrmsr(TIMER(0, CONFIG), ENABLE | ON_SINT);
	interrupts_on();
	CHECK(wait_for(&interrupts, 2));
	interrupts_off();
	free_slot();
	synic_off();
}

/* A disabled one stays silent. On a slow host it may be due before it is disabled: then once more, for longer. */
static void timer_disabled(void)
{
	bool in_time = false;

	for (uint64_t length = 50 * MS; !in_time; length *= 2) {
		uint64_t due;

		synic_on(VECTOR);
		due = now() + length;
		wrmsr(TIMER(0, COUNT), due);
		wrmsr(TIMER(0, CONFIG), ENABLE | ON_SINT);
		wrmsr(TIMER(0, CONFIG), ON_SINT);
		in_time = now() < due;
		interrupts_on();
		while (now() < due + 10 * MS)
			cpu_relax();
		interrupts_off();
		synic_off();
	}
	CHECK_EQ(interrupts, 0);
}

static void timer_auto_enable(void)
{
	bool in_time = false;

	synic_on(VECTOR);
	wrmsr(TIMER(1, CONFIG), AUTO_ENABLE | ON_SINT);
	CHECK_EQ(rdmsr(TIMER(1, CONFIG)) & ENABLE, 0);
	/* It is on until it is due, which it is looked at for in time, or once more. */
	for (uint64_t length = 50 * MS; !in_time; length *= 2) {
		uint64_t due = now() + length, config;

		interrupts = 0;
		wrmsr(TIMER(1, COUNT), due);
		config = rdmsr(TIMER(1, CONFIG));
		in_time = now() < due;
		if (in_time)
			CHECK_EQ(config & ENABLE, ENABLE);
		interrupts_on();
		CHECK(wait_for(&interrupts, 1));
		interrupts_off();
		CHECK_EQ(payload()->index, 1);
		free_slot();
	}
	wrmsr(TIMER(1, COUNT), now() + 3600000 * MS);
	wrmsr(TIMER(1, COUNT), 0); /* 0 disables */
	CHECK_EQ(rdmsr(TIMER(1, CONFIG)) & ENABLE, 0);
	synic_off();
}

static void timer_periodic(void)
{
	uint64_t begin, last = 0;

	synic_on(VECTOR);
	begin = now();
	wrmsr(TIMER(2, COUNT), 1 * MS);
	wrmsr(TIMER(2, CONFIG), ENABLE | PERIODIC | ON_SINT);
	for (unsigned i = 1; i <= 10; i++) {
		while (!messages[SINT].type)
			halt_once();
		CHECK_EQ(payload()->index, 2);
		CHECK(payload()->expiration > last);
		last = payload()->expiration;
		free_slot();
	}
	CHECK(now() - begin >= 9 * MS);
	CHECK_EQ(rdmsr(TIMER(2, CONFIG)) & ENABLE, ENABLE);
	synic_off();
}

static void timer_direct(void)
{
	if (!(features_d & DIRECT_TIMERS)) {
		skip("no direct timers");
		return;
	}
	interrupts = 0;
	set_handler(0x71, on_message);
	wrmsr(TIMER(3, CONFIG), AUTO_ENABLE | DIRECT(0x71));
	for (unsigned i = 1; i <= 3; i++) {
		wrmsr(TIMER(3, COUNT), now() + 1 * MS);
		while (interrupts < i)
			halt_once();
	}
	wrmsr(TIMER(3, CONFIG), 0);
	CHECK_EQ(interrupts, 3);
	set_handler(0x71, NULL);
}

/* Two messages for one slot: the second waits, says so, and comes with EOM. */
static void busy_slot(void)
{
	synic_on(VECTOR);
	wrmsr(TIMER(0, COUNT), 1);
	wrmsr(TIMER(0, CONFIG), ENABLE | ON_SINT);
	interrupts_on();
	CHECK(wait_for(&interrupts, 1));
	interrupts_off();
	CHECK_EQ(payload()->index, 0);
	wrmsr(TIMER(1, COUNT), 1);
	wrmsr(TIMER(1, CONFIG), ENABLE | ON_SINT);
	for (uint64_t begin = now(); !(messages[SINT].flags & 1) && now() - begin < 50000 * MS;)
		cpu_relax();
	CHECK_EQ(messages[SINT].flags & 1, 1);
	CHECK_EQ(payload()->index, 0);
	free_slot();
	for (uint64_t begin = now(); !messages[SINT].type && now() - begin < 50000 * MS;)
		cpu_relax();
	CHECK_EQ(messages[SINT].type, MESSAGE_TIMER);
	CHECK_EQ(payload()->index, 1);
	free_slot();
	interrupts_on();
	CHECK(wait_for(&interrupts, 2));
	interrupts_off();
	synic_off();
}

static void auto_eoi(void)
{
	synic_on(VECTOR | 0x20000);
	set_handler(VECTOR, on_auto_eoi);
	for (unsigned i = 1; i <= 3; i++) {
		wrmsr(TIMER(0, COUNT), 1);
		wrmsr(TIMER(0, CONFIG), ENABLE | ON_SINT);
		interrupts_on();
		if (!CHECK(wait_for(&interrupts, i)))
			break;
		interrupts_off();
		CHECK(!apic_bit(APIC_ISR, VECTOR));
		free_slot();
	}
	interrupts_off();
	synic_off();
}

static void apic_registers(void)
{
	if (!(features_a & ACCESS_APIC_MSRS)) {
		skip("no APIC MSRs");
		return;
	}
	interrupts = 0;
	set_handler(0x72, on_message);
	wrmsr(MSR_HV_ICR, ICR_SELF | 0x72);
	CHECK(apic_bit(APIC_IRR, 0x72));
	interrupts_on();
	CHECK(wait_for(&interrupts, 1));
	interrupts_off();
	wrmsr(MSR_HV_TPR, 0x80);
	CHECK_EQ(apic_read(APIC_TPR), 0x80);
	CHECK_EQ(rdmsr(MSR_HV_TPR), 0x80);
	CHECK_EQ(read_cr8(), 8);
	wrmsr(MSR_HV_TPR, 0);
	set_handler(0x72, NULL);
	wrmsr(MSR_ASSIST, (unsigned long)page_alloc() | 1);
	CHECK_EQ(rdmsr(MSR_ASSIST) & 1, 1);
	wrmsr(MSR_ASSIST, 0);
}

/* --- several processors ------------------------------------------------------------------------- */

static volatile unsigned indices[MAX_PROCESSORS], listening, stop, taken;

static void read_index(unsigned number)
{
	indices[number] = (unsigned)rdmsr(MSR_VP_INDEX);
}

static void vp_indices(void)
{
	struct {
		uint64_t partition;
		uint8_t vtl, reserved[7];
		uint32_t apic[4];
	} *in = page_alloc();
	volatile uint32_t *out = page_alloc();
	uint64_t seen = 0, status;

	begin_others(read_index);
	read_index(0);
	end_others();
	for (unsigned i = 0; i < processors; i++)
		seen |= 1ul << indices[i];
	CHECK_EQ(seen, processors == 64 ? ~0ul : (1ul << processors) - 1);
	in->partition = ~0ul;
	for (unsigned i = 0; i < 4; i++)
		in->apic[i] = i < processors ? i : 0;
	status = hypercall(CALL_VP_INDEX | REPS(4), (unsigned long)in, (unsigned long)out);
	if (!(features_b & START_PROCESSOR)) {
		CHECK_EQ(status & 0xffff, INVALID_CODE);
		return;
	}
	CHECK_EQ(status & 0xffff, SUCCESS);
	CHECK_EQ(status >> 32 & 0xfff, 4); /* repetitions done */
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(out[i], indices[i < processors ? i : 0]);
}

static void on_cluster(struct frame *frame)
{
	__atomic_add_fetch(&taken, 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static void listen(unsigned number)
{
	__atomic_add_fetch(&listening, 1, __ATOMIC_SEQ_CST);
	while (!stop)
		halt_once();
}

static void cluster_ipi(void)
{
	uint64_t mask = (processors == 64 ? ~0ul : (1ul << processors) - 1) & ~1ul;
	uint64_t *in = page_alloc();
	unsigned expected = 0;

	if (processors == 1 || !(recommended & CLUSTER_IPI)) {
		skip(processors == 1 ? "one processor only" : "no cluster IPI");
		return;
	}
	taken = listening = stop = 0;
	set_handler(0x73, on_cluster);
	begin_others(listen);
	CHECK(wait_for(&listening, processors - 1));
	/* Fast, by memory, by sparse set, and to all. */
	CHECK_EQ(hypercall(CALL_IPI | FAST, 0x73, mask) & 0xffff, SUCCESS);
	CHECK(wait_for(&taken, expected += processors - 1));
	in[0] = 0x73;
	in[1] = mask;
	CHECK_EQ(hypercall(CALL_IPI, (unsigned long)in, 0) & 0xffff, SUCCESS);
	CHECK(wait_for(&taken, expected += processors - 1));
	if (recommended & SPARSE_SETS) {
		in[1] = 0; /* sparse */
		in[2] = 1; /* bank 0 */
		in[3] = mask;
		CHECK_EQ(hypercall(CALL_IPI_EX | VARIABLE(1), (unsigned long)in, 0) & 0xffff, SUCCESS);
		CHECK(wait_for(&taken, expected += processors - 1));
		in[1] = 1; /* all of them */
		in[2] = 0;
		interrupts_on();
		CHECK_EQ(hypercall(CALL_IPI_EX, (unsigned long)in, 0) & 0xffff, SUCCESS);
		CHECK(wait_for(&taken, expected += processors));
		interrupts_off();
	}
	/* The TLFS says that it is the parameter, Linux that it is the input. */
	CHECK(is_one_of(hypercall(CALL_IPI | FAST, 0x05, mask), INVALID_PARAMETER, INVALID_INPUT));
	stop = 1;
	CHECK_EQ(hypercall(CALL_IPI | FAST, 0x73, mask) & 0xffff, SUCCESS);
	end_others();
	set_handler(0x73, NULL);
}

static volatile unsigned reads[MAX_PROCESSORS];

static void look(unsigned number)
{
	__atomic_add_fetch(&listening, 1, __ATOMIC_SEQ_CST);
	while (!stop)
		reads[number] = *(volatile unsigned *)TEST_VA;
}

/* The three forms take turns; none needs the other processors to take an interrupt. */
static uint64_t flush(unsigned form, uint64_t *in)
{
	in[0] = read_cr3();
	in[1] = 0;
	in[2] = ~0ul >> (64 - processors);
	if (form == 0)
		return hypercall(CALL_FLUSH, (unsigned long)in, 0);
	if (form == 1) {
		in[3] = TEST_VA;
		return hypercall(CALL_FLUSH_LIST | REPS(1), (unsigned long)in, 0);
	}
	in[4] = in[2];
	in[2] = 0; /* sparse */
	in[3] = 1; /* bank 0 */
	return hypercall(CALL_FLUSH_EX | VARIABLE(1), (unsigned long)in, 0);
}

static void remote_flush(void)
{
	unsigned *pages[2] = {page_alloc(), page_alloc()};
	uint64_t *in = page_alloc();
	const unsigned forms = recommended & SPARSE_SETS ? 3 : 2;

	if (!(recommended & REMOTE_FLUSH)) {
		skip("no remote TLB flush");
		return;
	}
	*pages[0] = 100;
	*pages[1] = 101;
	map(TEST_VA, pages[0], PTE_P | PTE_W);
	listening = stop = 0;
	begin_others(look);
	CHECK(wait_for(&listening, processors - 1));
	for (unsigned i = 1; i <= 60; i++) {
		*pte_at(read_cr3(), TEST_VA, 1) = (unsigned long)pages[i & 1] | PTE_P | PTE_W;
		if (!CHECK_EQ(flush(i % forms, in) & 0xffff, SUCCESS))
			break;
		*pages[!(i & 1)] = 666; /* nobody may look at this one now */
		CHECK_EQ(*(volatile unsigned *)TEST_VA, 100 + (i & 1));
		for (unsigned p = 1; p < processors; p++) {
			/* What is read twice from now on was read from now on. */
			for (unsigned twice = 0; twice < 2; twice++) {
				reads[p] = 0;
				while (!reads[p])
					cpu_relax();
			}
			CHECK_EQ(reads[p], 100 + (i & 1));
		}
		*pages[!(i & 1)] = 100 + !(i & 1);
	}
	stop = 1;
	end_others();
	in[0] = read_cr3();
	in[1] = 1ul << 40; /* an undefined flag, which Linux does not look at */
	in[2] = 1;
	CHECK(is_one_of(hypercall(CALL_FLUSH, (unsigned long)in, 0), INVALID_PARAMETER, SUCCESS));
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"leaves", leaves},
	    {"hypercall-page", hypercall_page_life},
	    {"bad-calls", bad_calls},
	    {"registers", registers},
	    {"reference-counter", reference_counter},
	    {"frequencies", frequencies},
	    {"reference-tsc", reference_tsc},
	    {"synic-registers", synic_registers},
	    {"timer-one-shot", timer_one_shot},
	    {"timer-disabled", timer_disabled},
	    {"timer-auto-enable", timer_auto_enable},
	    {"timer-periodic", timer_periodic},
	    {"timer-direct", timer_direct},
	    {"busy-slot", busy_slot},
	    {"auto-eoi", auto_eoi},
	    {"apic-registers", apic_registers},
	    {"vp-indices", vp_indices},
	    {"cluster-ipi", cluster_ipi},
	    {"remote-flush", remote_flush},
	};

	if (!is_hyperv()) {
		print("SKIP hyperv: the hypervisor is another one\n0 tests, 0 failed\n");
		machine_exit(0);
	}
	features_a = cpuid(0x40000003, 0).a;
	features_b = cpuid(0x40000003, 0).b;
	features_d = cpuid(0x40000003, 0).d;
	recommended = cpuid(0x40000004, 0).a;
	hypercall_page = page_alloc();
	messages = page_alloc();
	wrmsr(MSR_OS_ID, 0x8100000000000000);
	wrmsr(MSR_HYPERCALL, (unsigned long)hypercall_page | 1);
	start_workers();
	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
