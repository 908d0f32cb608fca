/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vp.c - one thread a virtual processor: run, halt, start and stop, pause and resume.
 *
 * A halted VP sleeps on the futex `wake`. Whoever has something for it sets the fact first, then
 * changes `wake` (vp_wake); the sleeper reads `wake`, looks for facts, and sleeps only if `wake` has
 * not changed since: no wake-up is lost.
 */
#include "hypervisor/partition.h"

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/thread.h"

static int64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void vp_init_all(struct partition *p)
{
	pthread_mutex_init(&p->run_lock, NULL);
	pthread_cond_init(&p->run_cond, NULL);
	for (unsigned i = 0; i < p->config.vp_count; i++) {
		struct vp *vp = &p->vps[i];

		vp->partition = p;
		vp->index = i;
		atomic_store(&vp->startup, i ? VP_WAITS_FOR_SIPI : VP_STARTED);
		pthread_mutex_init(&vp->apic_lock, NULL);
		pthread_mutex_init(&vp->tlfs_lock, NULL);
	}
}

/* Where INIT and SIPI are the processor's, all of them run as far as we know. */
void vp_choose_start(struct partition *p)
{
	for (unsigned i = 0; p->traits.own_apic && i < p->config.vp_count; i++)
		atomic_store(&p->vps[i].startup, VP_STARTED);
}

void vp_destroy_all(struct partition *p)
{
	for (unsigned i = 0; i < p->config.vp_count; i++) {
		pthread_mutex_destroy(&p->vps[i].apic_lock);
		pthread_mutex_destroy(&p->vps[i].tlfs_lock);
	}
	pthread_cond_destroy(&p->run_cond);
	pthread_mutex_destroy(&p->run_lock);
}

void vp_wake(struct vp *vp)
{
	atomic_fetch_add(&vp->wake, 1);
	if (atomic_load(&vp->sleeping))
		syscall(SYS_futex, &vp->wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	else
		vp->partition->processor->notify(vp);
}

/* Where halts are the processor's, the time of its thread is what it has run. */
uint64_t vp_runtime_ns(struct vp *vp)
{
	uint64_t ns = atomic_load_explicit(&vp->runtime, memory_order_relaxed);
	struct timespec t;
	clockid_t clock;

	if (!vp->partition->traits.own_apic || !vp->thread_started || pthread_getcpuclockid(vp->thread, &clock) ||
	    clock_gettime(clock, &t))
		return ns;
	return ns + (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t vp_runtime_100ns(struct vp *vp)
{
	uint64_t ns = vp_runtime_ns(vp);

	if (vp->run_since)
		ns += (uint64_t)(monotonic_ns() - vp->run_since);
	return ns / 100;
}

void vp_report_event(struct vp *vp, struct partition_event *event)
{
	struct partition *p = vp->partition;

	event->vp_index = vp->index;
	/* A crash does not end the partition; of what does, only the first is told. */
	if (event->kind != PARTITION_EVENT_CRASH && atomic_exchange(&p->end_reported, true))
		return;
	if (p->config.on_event)
		p->config.on_event(p->config.context, event);
}

static void describe_state(struct vp *vp, char *text, size_t size)
{
	struct vp_registers r;
	uint8_t code[16];
	int n;

	if (vp->partition->processor->get_registers(vp, &r))
		return;
	n = snprintf(text, size,
	    "RIP %04x:%016llx RFLAGS %llx CR0 %llx CR2 %llx CR3 %llx CR4 %llx EFER %llx\n"
	    "RAX %llx RBX %llx RCX %llx RDX %llx RSP %llx RBP %llx RSI %llx RDI %llx",
	    r.cs.selector, (unsigned long long)r.rip, (unsigned long long)r.rflags, (unsigned long long)r.cr0,
	    (unsigned long long)r.cr2, (unsigned long long)r.cr3, (unsigned long long)r.cr4,
	    (unsigned long long)r.efer, (unsigned long long)r.gpr[0], (unsigned long long)r.gpr[3],
	    (unsigned long long)r.gpr[1], (unsigned long long)r.gpr[2], (unsigned long long)r.gpr[4],
	    (unsigned long long)r.gpr[5], (unsigned long long)r.gpr[6], (unsigned long long)r.gpr[7]);
	/* Without paging the bytes at RIP can be had with no walk. */
	if (!(r.cr0 >> 31) && !partition_read(vp->partition, r.cs.base + r.rip, code, sizeof(code)) && n > 0)
		for (unsigned i = 0; i < sizeof(code) && (size_t)n + 4 < size; i++)
			n += snprintf(text + n, size - (size_t)n, "%s%02x", i ? " " : "\nbytes ", code[i]);
}

static void end_by_fault(struct vp *vp, enum partition_event_kind kind)
{
	struct partition_event event = {.kind = kind};
	struct vp_registers r;
	size_t used = 0;

	vp->dead = true;
	if (!vp->partition->processor->get_registers(vp, &r))
		event.rip = r.rip;
	vp->partition->processor->report(vp, event.text, sizeof(event.text) / 2);
	used = strlen(event.text);
	if (used)
		event.text[used++] = '\n';
	describe_state(vp, event.text + used, sizeof(event.text) - used);
	vp_report_event(vp, &event);
}

static bool has_request(struct vp *vp)
{
	return atomic_load(&vp->stop_requested) || atomic_load(&vp->partition->paused) ||
	       (!vp->dead && atomic_load(&vp->init_requested));
}

/* Sleep until there is a request, or `ready` says that the VP can go on. */
static void sleep_until(struct vp *vp, bool (*ready)(struct vp *vp))
{
	for (;;) {
		uint32_t seen = atomic_load(&vp->wake);
		bool done;

		atomic_store(&vp->sleeping, true);
		done = has_request(vp) || ready(vp);
		if (!done)
			syscall(SYS_futex, &vp->wake, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
		atomic_store(&vp->sleeping, false);
		if (done)
			return;
	}
}

static bool never(struct vp *vp)
{
	(void)vp;
	return false;
}

static bool sipi_came(struct vp *vp)
{
	return atomic_load(&vp->startup) >= 0;
}

static bool interrupt_came(struct vp *vp)
{
	struct partition *p = vp->partition;

	if (atomic_load(&vp->nmi_pending))
		return true;
	return apic_pending_vector(&p->apics[vp->index]) >= 0 && p->processor->interruptible(vp);
}

/* Whatever RFLAGS.IF says: a paravirtual spin lock waits with interrupts disabled. */
static bool vector_came(struct vp *vp)
{
	return atomic_load(&vp->nmi_pending) || apic_pending_vector(&vp->partition->apics[vp->index]) >= 0;
}

static void runtime_begin(struct vp *vp)
{
	if (!vp->partition->traits.own_apic)
		vp->run_since = monotonic_ns();
}

static void runtime_end(struct vp *vp)
{
	if (vp->run_since)
		atomic_fetch_add_explicit(&vp->runtime, (uint64_t)(monotonic_ns() - vp->run_since), memory_order_relaxed);
	vp->run_since = 0;
}

void vp_idle(struct vp *vp)
{
	bool running = vp->run_since;

	atomic_fetch_add_explicit(&vp->halts, 1, memory_order_relaxed);
	if (running)
		runtime_end(vp);
	sleep_until(vp, vector_came);
	if (running)
		runtime_begin(vp);
}

static void rest_while_paused(struct vp *vp)
{
	struct partition *p = vp->partition;

	pthread_mutex_lock(&p->run_lock);
	p->resting++;
	pthread_cond_broadcast(&p->run_cond);
	while (atomic_load(&p->paused) && !atomic_load(&vp->stop_requested))
		pthread_cond_wait(&p->run_cond, &p->run_lock);
	p->resting--;
	pthread_mutex_unlock(&p->run_lock);
}

static void take_init(struct vp *vp)
{
	struct partition *p = vp->partition;

	/* Whoever asked for INIT has set `startup`; a SIPI may stand there already. */
	atomic_store(&vp->init_requested, false);
	apic_reset(&p->apics[vp->index], true);
	p->processor->init(vp);
}

static void start_from_sipi(struct vp *vp)
{
	int vector = atomic_load(&vp->startup);

	/* An INIT that comes in between wins: the VP waits for the SIPI that follows it. */
	if (vector >= 0 && atomic_compare_exchange_strong(&vp->startup, &vector, VP_STARTED))
		vp->partition->processor->sipi(vp, (uint8_t)vector);
}

void vp_settle(struct vp *vp)
{
	if (vp->partition->processor == &processor_none)
		return;
	if (atomic_load(&vp->init_requested))
		take_init(vp);
	if (atomic_load(&vp->startup) >= 0)
		start_from_sipi(vp);
}

static void run_once(struct vp *vp)
{
	struct partition *p = vp->partition;
	enum vp_run_result result;

	atomic_store(&vp->nmi_pending, false);
	runtime_begin(vp);
	result = p->processor->run(vp);
	runtime_end(vp);
	switch (result) {
	case VP_RUN_HALT:
		atomic_fetch_add_explicit(&vp->halts, 1, memory_order_relaxed);
		sleep_until(vp, interrupt_came);
		break;
	case VP_RUN_KICK:
		break;
	case VP_RUN_TRIPLE_FAULT:
		end_by_fault(vp, PARTITION_EVENT_TRIPLE_FAULT);
		break;
	case VP_RUN_ERROR:
		end_by_fault(vp, PARTITION_EVENT_PROCESSOR_ERROR);
		break;
	}
}

static void *vp_main(void *argument)
{
	struct vp *vp = argument;
	char name[16];

	snprintf(name, sizeof(name), "vp/%u", vp->index % 1000);
	thread_begin(THREAD_VP, name);
	while (!atomic_load(&vp->stop_requested)) {
		if (atomic_load(&vp->partition->paused))
			rest_while_paused(vp);
		else if (vp->dead)
			sleep_until(vp, never);
		else if (atomic_load(&vp->init_requested))
			take_init(vp);
		else if (atomic_load(&vp->startup) == VP_STARTED)
			run_once(vp);
		else if (sipi_came(vp))
			start_from_sipi(vp);
		else
			sleep_until(vp, sipi_came);
	}
	return NULL;
}

static void renew_reference_page(struct partition *p)
{
	if (!p->traits.own_reference_page)
		tlfs_clock_changed(&p->tlfs);
}

int partition_start(struct partition *p, struct error *err)
{
	int r = p->processor->start(p, err);

	if (r)
		return r;
	p->started = true;
	if (!atomic_load(&p->paused)) {
		clock_thaw(p);
		renew_reference_page(p); /* of a guest that was saved elsewhere */
	}
	r = clock_start(p, err);
	if (r || p->processor == &processor_none)
		return r;
	for (unsigned i = 0; i < p->config.vp_count; i++) {
		struct vp *vp = &p->vps[i];

		r = pthread_create(&vp->thread, NULL, vp_main, vp);
		if (r) {
			partition_stop(p);
			return error_set(err, r, "the thread of virtual processor %u cannot be started: %s", i,
			    strerror(r));
		}
		vp->thread_started = true;
	}
	return 0;
}

static void disturb(struct vp *vp)
{
	vp->partition->processor->kick(vp);
	vp_wake(vp);
}

void partition_pause(struct partition *p)
{
	unsigned threads = 0;

	pthread_mutex_lock(&p->run_lock);
	atomic_store(&p->paused, true);
	for (unsigned i = 0; i < p->config.vp_count; i++)
		if (p->vps[i].thread_started) {
			threads++;
			disturb(&p->vps[i]);
		}
	while (p->resting < threads && !p->stopped)
		pthread_cond_wait(&p->run_cond, &p->run_lock);
	if (p->started) {
		clock_freeze(p);
		if (p->processor->paused)
			p->processor->paused(p);
	}
	pthread_mutex_unlock(&p->run_lock);
}

bool vp_all_rest(struct partition *p)
{
	unsigned threads = 0;
	bool rest;

	pthread_mutex_lock(&p->run_lock);
	for (unsigned i = 0; i < p->config.vp_count; i++)
		threads += p->vps[i].thread_started;
	rest = p->resting == threads && atomic_load(&p->frozen_at) >= 0;
	pthread_mutex_unlock(&p->run_lock);
	return rest;
}

void partition_resume(struct partition *p)
{
	pthread_mutex_lock(&p->run_lock);
	if (p->started && !p->stopped && atomic_load(&p->paused)) {
		if (p->processor->resumed)
			p->processor->resumed(p);
		clock_thaw(p);
		renew_reference_page(p);
	}
	atomic_store(&p->paused, false);
	pthread_cond_broadcast(&p->run_cond);
	pthread_mutex_unlock(&p->run_lock);
}

void partition_stop(struct partition *p)
{
	pthread_mutex_lock(&p->run_lock);
	p->stopped = true;
	for (unsigned i = 0; i < p->config.vp_count; i++) {
		atomic_store(&p->vps[i].stop_requested, true);
		if (p->vps[i].thread_started)
			disturb(&p->vps[i]);
	}
	pthread_cond_broadcast(&p->run_cond);
	pthread_mutex_unlock(&p->run_lock);
	for (unsigned i = 0; i < p->config.vp_count; i++) {
		if (p->vps[i].thread_started)
			pthread_join(p->vps[i].thread, NULL);
		p->vps[i].thread_started = false;
	}
	clock_stop(p);
	clock_freeze(p);
	if (p->started && p->processor->paused)
		p->processor->paused(p);
}
