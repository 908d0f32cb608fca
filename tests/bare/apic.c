/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The local APIC of one processor, its timer, and interrupts through the I/O APIC. */
#include "apic.h"

static volatile unsigned count, order_count, order[8];
static volatile unsigned long at_ip;

static void on_interrupt(struct frame *frame)
{
	at_ip = frame->ip;
	count++;
	if (order_count < 8)
		order[order_count++] = (unsigned)frame->vector;
	apic_eoi();
}

static void begin(unsigned vector)
{
	count = order_count = 0;
	set_handler(vector, on_interrupt);
}

static void identity(void)
{
	CHECK_EQ(rdmsr(MSR_APIC_BASE) & ~0xffful, 0xfee00000);
	CHECK_EQ(rdmsr(MSR_APIC_BASE) & 0x900, 0x900); /* enabled; this is the boot processor */
	CHECK_EQ(apic_read(APIC_ID) >> 24, cpuid(1, 0).b >> 24);
	CHECK_EQ(apic_read(APIC_VERSION) & 0xf0, 0x10);
	CHECK((apic_read(APIC_VERSION) >> 16 & 0xff) >= 4);
}

static void self_interrupt(void)
{
	begin(0x40);
	apic_send(0, ICR_SELF | 0x40);
	CHECK_EQ(count, 0); /* held: interrupts are off */
	CHECK(apic_bit(APIC_IRR, 0x40));
	interrupts_on();
	CHECK(wait_for(&count, 1));
	interrupts_off();
	CHECK(!apic_bit(APIC_IRR, 0x40));
	CHECK(!apic_bit(APIC_ISR, 0x40));
	/* By id, and logical. */
	interrupts_on();
	apic_send(apic_read(APIC_ID) >> 24, ICR_FIXED | 0x40);
	CHECK(wait_for(&count, 2));
	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_LDR, 1u << 24);
	apic_send(1, ICR_LOGICAL | 0x40);
	CHECK(wait_for(&count, 3));
	interrupts_off();
	/* The same vector twice while pending is once. */
	apic_send(0, ICR_SELF | 0x40);
	apic_send(0, ICR_SELF | 0x40);
	interrupts_on();
	CHECK(wait_for(&count, 4));
	spin(1000);
	CHECK_EQ(count, 4);
	interrupts_off();
	set_handler(0x40, NULL);
}

static void priorities(void)
{
	begin(0x41);
	set_handler(0x51, on_interrupt);
	set_handler(0x61, on_interrupt);
	apic_send(0, ICR_SELF | 0x41);
	apic_send(0, ICR_SELF | 0x61);
	apic_send(0, ICR_SELF | 0x51);
	interrupts_on();
	CHECK(wait_for(&count, 3));
	interrupts_off();
	CHECK_EQ(order[0], 0x61);
	CHECK_EQ(order[1], 0x51);
	CHECK_EQ(order[2], 0x41);
	/* CR8 holds its class and below back. */
	begin(0x41);
	write_cr8(5);
	CHECK_EQ(apic_read(APIC_TPR), 0x50);
	CHECK_EQ(apic_read(APIC_PPR), 0x50);
	apic_send(0, ICR_SELF | 0x41);
	apic_send(0, ICR_SELF | 0x51);
	apic_send(0, ICR_SELF | 0x61);
	interrupts_on();
	CHECK(wait_for(&count, 1));
	spin(1000);
	CHECK_EQ(count, 1);
	CHECK_EQ(order[0], 0x61);
	write_cr8(4);
	CHECK(wait_for(&count, 2));
	apic_write(APIC_TPR, 0);
	CHECK(wait_for(&count, 3));
	CHECK_EQ(read_cr8(), 0);
	interrupts_off();
	set_handler(0x41, NULL);
	set_handler(0x51, NULL);
	set_handler(0x61, NULL);
}

static void on_low(struct frame *frame)
{
	CHECK(apic_bit(APIC_ISR, 0x42));
	apic_send(0, ICR_SELF | 0x43); /* the same class: waits */
	apic_send(0, ICR_SELF | 0x52); /* above: comes at once */
	interrupts_on();
	spin(100);
	interrupts_off();
	CHECK_EQ(count, 1);
	apic_eoi();
}

static void nesting(void)
{
	begin(0x52);
	set_handler(0x43, on_interrupt);
	set_handler(0x42, on_low);
	apic_send(0, ICR_SELF | 0x42);
	interrupts_on();
	CHECK(wait_for(&count, 2));
	interrupts_off();
	CHECK_EQ(order[0], 0x52);
	CHECK_EQ(order[1], 0x43);
	set_handler(0x42, NULL);
	set_handler(0x43, NULL);
	set_handler(0x52, NULL);
}

extern char shadow_after[];

static void shadows(void)
{
	begin(0x44);
	apic_send(0, ICR_SELF | 0x44);
	/* STI lets one more instruction pass. */
	asm volatile("sti; nop; shadow_after: nop; cli" : : : "memory");
	CHECK_EQ(count, 1);
	CHECK_EQ(at_ip, (unsigned long)shadow_after);
	apic_send(0, ICR_SELF | 0x44);
	asm volatile("sti; cli" : : : "memory");
	CHECK_EQ(count, 1);
	/* HLT with one pending does not sleep. */
	halt_once();
	CHECK_EQ(count, 2);
	/* MOV SS shuts interrupts out for one instruction too. */
	apic_send(0, ICR_SELF | 0x44);
	asm volatile("pushf; orl $0x200, (%%rsp); mov %0, %%eax; popf; mov %%eax, %%ss; cli"
		     :
		     : "i"(SEL_DATA)
		     : "eax", "memory", "cc");
	CHECK(count == 2 || count == 3);
	interrupts_on();
	CHECK(wait_for(&count, 3));
	interrupts_off();
	set_handler(0x44, NULL);
}

static volatile unsigned nmis;

static void on_nmi(struct frame *frame)
{
	nmis++;
	if (nmis == 1) {
		apic_send(0xff, ICR_NMI); /* blocked until IRET */
		spin(100);
		CHECK_EQ(nmis, 1);
	}
}

static void nmi(void)
{
	uint32_t self = apic_read(APIC_ID) >> 24;

	nmis = 0;
	set_handler(VEC_NMI, on_nmi);
	apic_send(self, ICR_NMI);
	CHECK(wait_for(&nmis, 2)); /* with interrupts off */
	set_handler(VEC_NMI, NULL);
}

static void timer_one_shot(void)
{
	begin(0x45);
	apic_write(APIC_TIMER_DIVIDE, 3); /* by 16 */
	apic_write(APIC_LVT_TIMER, 0x45);
	apic_write(APIC_TIMER_INITIAL, 100000);
	CHECK(apic_read(APIC_TIMER_CURRENT) <= 100000);
	interrupts_on();
	CHECK(wait_for(&count, 1));
	CHECK_EQ(apic_read(APIC_TIMER_CURRENT), 0);
	spin(2000);
	CHECK_EQ(count, 1);
	/* Masked, it counts and says nothing. */
	apic_write(APIC_LVT_TIMER, LVT_MASKED | 0x45);
	apic_write(APIC_TIMER_INITIAL, 1000);
	while (apic_read(APIC_TIMER_CURRENT))
		cpu_relax();
	CHECK_EQ(count, 1);
	/* Stopped by a 0. */
	apic_write(APIC_LVT_TIMER, 0x45);
	apic_write(APIC_TIMER_INITIAL, 0xffffffff);
	apic_write(APIC_TIMER_INITIAL, 0);
	CHECK_EQ(apic_read(APIC_TIMER_CURRENT), 0);
	interrupts_off();
	set_handler(0x45, NULL);
}

static void timer_periodic(void)
{
	begin(0x46);
	apic_write(APIC_TIMER_DIVIDE, 11); /* by 1 */
	apic_write(APIC_LVT_TIMER, LVT_PERIODIC | 0x46);
	apic_write(APIC_TIMER_INITIAL, 1000000);
	for (unsigned i = 0; i < 5; i++)
		halt_once();
	CHECK(count >= 5);
	CHECK(apic_read(APIC_TIMER_CURRENT) <= 1000000);
	apic_write(APIC_TIMER_INITIAL, 0);
	apic_write(APIC_LVT_TIMER, LVT_MASKED);
	interrupts_on();
	spin(1000);
	interrupts_off();
	set_handler(0x46, NULL);
}

/* In time, which a slow host may make long. */
static void disarmed(void)
{
	bool in_time = false;

	for (uint64_t length = ticks_of(200000); !in_time; length *= 2) {
		uint64_t deadline = rdtsc() + length;

		count = 0;
		wrmsr(MSR_TSC_DEADLINE, deadline);
		wrmsr(MSR_TSC_DEADLINE, 0);
		in_time = rdtsc() < deadline;
		interrupts_on();
		while (rdtsc() < deadline + ticks_of(100000))
			cpu_relax();
		interrupts_off();
	}
	CHECK_EQ(count, 0);
}

static void timer_deadline(void)
{
	uint64_t deadline;

	if (!(cpuid(1, 0).c & 1 << 24)) {
		skip("no TSC deadline timer");
		return;
	}
	begin(0x47);
	apic_write(APIC_LVT_TIMER, LVT_TSC_DEADLINE | 0x47);
	asm volatile("mfence" : : : "memory");
	/* So far off that it is still to come when it is read, however long the host stops us in between. */
	deadline = rdtsc() + ticks_of(3600 * 1000000ul);
	wrmsr(MSR_TSC_DEADLINE, deadline);
	CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), deadline);
	deadline = rdtsc() + ticks_of(5000);
	wrmsr(MSR_TSC_DEADLINE, deadline);
	interrupts_on();
	CHECK(wait_for(&count, 1));
	CHECK(rdtsc() >= deadline);
	CHECK_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
	wrmsr(MSR_TSC_DEADLINE, 1); /* long gone: at once */
	CHECK(wait_for(&count, 2));
	interrupts_off();
	disarmed();
	apic_write(APIC_LVT_TIMER, LVT_MASKED);
	set_handler(0x47, NULL);
}

/* --- I/O APIC: the serial port's interrupt on pin 4 --------------------------------------------- */

#define IOAPIC 0xfec00000ul

static void ioapic_write(uint8_t index, uint32_t value)
{
	*(volatile uint32_t *)IOAPIC = index;
	*(volatile uint32_t *)(IOAPIC + 0x10) = value;
}

static void serial_interrupt(void)
{
	uint32_t self = apic_read(APIC_ID) >> 24;

	while (!(inb(0x3f8 + 5) & 0x40))
		cpu_relax();
	begin(0x48);
	ioapic_write(0x19, self << 24);
	ioapic_write(0x18, 0x48);
	outb(0x3f8 + 4, 8);
	interrupts_on();
	outb(0x3f8 + 1, 2); /* the transmitter is empty */
	CHECK(wait_for(&count, 1));
	CHECK_EQ(inb(0x3f8 + 2) & 15, 2);
	CHECK_EQ(inb(0x3f8 + 2) & 15, 1);
	interrupts_off();
	outb(0x3f8 + 1, 0);
	outb(0x3f8 + 4, 0);
	ioapic_write(0x18, 0x10000);
	set_handler(0x48, NULL);
}

/* May come at any time (11.9), and wants no EOI. */
static void on_spurious(struct frame *frame)
{
}

static void disabled(void)
{
	apic_write(APIC_SPURIOUS, 0xff); /* software disable masks the LVTs */
	CHECK_EQ(apic_read(APIC_LVT_TIMER) & LVT_MASKED, LVT_MASKED);
	apic_enable();
	CHECK_EQ(apic_read(APIC_LVT_TIMER) & LVT_MASKED, LVT_MASKED);
}

/* --- x2APIC ------------------------------------------------------------------------------------- */

static void on_x2(struct frame *frame)
{
	count++;
	wrmsr(MSR_X2APIC + APIC_EOI / 16, 0);
}

/* The last test: there is no way back to xAPIC mode but through a disabled APIC. */
static void x2apic(void)
{
	uint32_t id = apic_read(APIC_ID) >> 24;

	if (!(cpuid(1, 0).c & 1 << 21)) {
		skip("no x2APIC");
		return;
	}
	EXPECT_FAULT(VEC_GP, 0, rdmsr(MSR_X2APIC + APIC_ID / 16));
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0x400);
	CHECK_EQ(rdmsr(MSR_X2APIC + APIC_ID / 16), id);
	CHECK_EQ(rdmsr(MSR_X2APIC + APIC_LDR / 16), (id & 0xfffff0) << 12 | 1u << (id & 15));
	count = 0;
	set_handler(0x49, on_x2);
	interrupts_on();
	wrmsr(MSR_X2APIC + 0x3f, 0x49); /* SELF IPI */
	CHECK(wait_for(&count, 1));
	wrmsr(MSR_X2APIC + APIC_ICR / 16, (uint64_t)id << 32 | 0x49);
	CHECK(wait_for(&count, 2));
	wrmsr(MSR_X2APIC + APIC_ICR / 16,
	      (uint64_t)rdmsr(MSR_X2APIC + APIC_LDR / 16) << 32 | ICR_LOGICAL | 0x49);
	CHECK(wait_for(&count, 3));
	interrupts_off();
	EXPECT_FAULT(VEC_GP, 0, wrmsr(MSR_X2APIC + APIC_ID / 16, 0));
	/* Only a 0 may be written (SDM volume 3, table 11-6). KVM's local APIC takes everything for it. */
	CATCH(wrmsr(MSR_X2APIC + APIC_EOI / 16, 1));
	CHECK(is_software() ? fault.count == 1 : true);
	CHECK(!fault.count || (fault.vector == VEC_GP && !fault.error));
	EXPECT_FAULT(VEC_GP, 0, rdmsr(MSR_X2APIC + APIC_DFR / 16));
	EXPECT_FAULT(VEC_GP, 0, wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~0x400ul));
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) & ~0xc00ul);
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0x800);
	apic_enable();
	CHECK_EQ(apic_read(APIC_ID) >> 24, id);
	set_handler(0x49, NULL);
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"identity", identity},
	    {"self-interrupt", self_interrupt},
	    {"priorities", priorities},
	    {"nesting", nesting},
	    {"interrupt-shadows", shadows},
	    {"nmi", nmi},
	    {"timer-one-shot", timer_one_shot},
	    {"timer-periodic", timer_periodic},
	    {"timer-deadline", timer_deadline},
	    {"serial-interrupt", serial_interrupt},
	    {"disabled", disabled},
	    {"x2apic", x2apic},
	};

	/* Nothing else may interrupt: the PC's old controllers, where there are any, are masked. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	set_handler(0xff, on_spurious);
	apic_enable();
	apic_write(APIC_LVT_LINT0, LVT_MASKED);
	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
