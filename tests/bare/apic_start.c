/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "apic.h"

#define TRAMPOLINE 0x8000ul

extern char trampoline[], trampoline_end[];
void processor_main(unsigned number);

volatile unsigned processors_running;
static void (*volatile processor_code)(unsigned number);

void processor_main(unsigned number)
{
	const struct table_register r = {sizeof(idt) - 1, (unsigned long)idt};

	lidt(&r);
	apic_enable();
	__atomic_add_fetch(&processors_running, 1, __ATOMIC_SEQ_CST);
	processor_code(number);
}

unsigned start_processors(void (*code)(unsigned number))
{
	unsigned count = processor_count();

	if (count > MAX_PROCESSORS)
		count = MAX_PROCESSORS;
	memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	processor_code = code;
	processors_running = 1;
	apic_enable();
	apic_send(0, ICR_OTHERS | ICR_INIT | ICR_ASSERT);
	spin(10000);
	apic_send(0, ICR_OTHERS | ICR_STARTUP | TRAMPOLINE >> 12);
	spin(10000);
	/* A second one, as firmware does: who runs already ignores it. */
	apic_send(0, ICR_OTHERS | ICR_STARTUP | TRAMPOLINE >> 12);
	wait_for(&processors_running, count);
	return processors_running;
}

/* --- workers ------------------------------------------------------------------------------------ */

#define WAKE 0x5f

unsigned processors = 1;
static volatile unsigned work_round, workers_done;
static void (*volatile work)(unsigned number);

static void on_wake(struct frame *frame)
{
	apic_eoi();
}

static void worker(unsigned number)
{
	for (unsigned round = 1;; round++) {
		while (work_round != round)
			halt_once();
		work(number);
		__atomic_add_fetch(&workers_done, 1, __ATOMIC_SEQ_CST);
	}
}

void start_workers(void)
{
	set_handler(WAKE, on_wake);
	processors = start_processors(worker);
}

void begin_others(void (*code)(unsigned number))
{
	work = code;
	workers_done = 0;
	__atomic_add_fetch(&work_round, 1, __ATOMIC_SEQ_CST);
	if (processors > 1)
		apic_send(0, ICR_OTHERS | WAKE);
}

bool end_others(void)
{
	return CHECK(wait_for(&workers_done, processors - 1));
}
