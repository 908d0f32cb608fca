/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * time.c - the clock that partition time is measured by, and the guest's TSC over a pause.
 *
 * The reference time, in the reference TSC page and in its MSR, must come from one clock, or they drift apart
 * by what the host corrects its own by. In the kernel way that is KVM's clock, which we set; in the own way
 * it is the host's TSC, scaled.
 */
#include "hypervisor/kvm/kvm.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "hypervisor/host.h"

#define MSR_TSC 0x10

static struct kvm_device_attr offset_attribute(uint64_t *offset)
{
	return (struct kvm_device_attr){
	    .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};
}

/* Before Linux 5.16 the offset can be measured but not set to the tick. */
static int measure_offset(struct kvm_machine *m)
{
	uint64_t value, before, after;
	int r;

	before = __rdtsc();
	r = kvm_get_msr(&m->vps[0], MSR_TSC, &value);
	after = __rdtsc();
	m->tsc_offset = (int64_t)(value - (before + (after - before) / 2));
	return r;
}

static int find_offset(struct kvm_machine *m)
{
	uint64_t offset = 0;
	struct kvm_device_attr attribute = offset_attribute(&offset);

	if (kvm_ioctl(m->vps[0].fd, KVM_HAS_DEVICE_ATTR, &attribute) ||
	    kvm_ioctl(m->vps[0].fd, KVM_GET_DEVICE_ATTR, &attribute))
		return measure_offset(m);
	m->has_tsc_offset = true;
	m->tsc_offset = (int64_t)offset;
	return 0;
}

int kvm_time_init(struct partition *p, struct error *err)
{
	struct kvm_machine *m = kvm_of(p);
	int r = find_offset(m);

	if (r)
		return error_set(err, -r, "the TSC of a virtual processor cannot be read: %s", strerror(-r));
	r = kvm_ioctl(m->vps[0].fd, KVM_GET_TSC_KHZ, NULL);
	if (r <= 0)
		return error_set(err, ENOTSUP,
				 "KVM does not know the frequency of this host's TSC: use --processor soft");
	m->tsc_khz = (uint64_t)r;
	m->tsc_stable = host_trusts_tsc(p->config.host);
	m->tsc_to_ns = (uint64_t)(((unsigned __int128)1000000 << 60) / m->tsc_khz);
	return 0;
}

static uint64_t tsc_ns(const struct kvm_machine *m, uint64_t host_tsc)
{
	return (uint64_t)((unsigned __int128)host_tsc * m->tsc_to_ns >> 60);
}

uint64_t kvm_counter_ns(struct partition *p)
{
	struct kvm_machine *m = kvm_of(p);
	struct kvm_clock_data clock = {0};
	struct timespec t;

	if (m->kernel_hyperv && !kvm_ioctl(m->vm, KVM_GET_CLOCK, &clock))
		return clock.clock;
	if (m->tsc_stable)
		return tsc_ns(m, __rdtsc());
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void kvm_set_counter(struct partition *p, uint64_t ns)
{
	struct kvm_clock_data clock = {.clock = ns};

	if (kvm_of(p)->kernel_hyperv)
		kvm_ioctl(kvm_of(p)->vm, KVM_SET_CLOCK, &clock);
}

void kvm_sample_clock(struct partition *p, uint64_t *tsc, uint64_t *reference)
{
	struct kvm_machine *m = kvm_of(p);
	uint64_t host = __rdtsc();

	*tsc = host + (uint64_t)m->tsc_offset;
	*reference = m->kernel_hyperv ? clock_now(p) / 100 : clock_at(p, tsc_ns(m, host)) / 100;
}

void kvm_time_pause(struct partition *p)
{
	if (!kvm_of(p)->paused_at)
		kvm_of(p)->paused_at = __rdtsc();
}

/* Shift one VP's TSC. Equal offsets stay equal, which KVM takes for "synchronized". */
static void shift_tsc(struct kvm_vp *k, uint64_t by)
{
	uint64_t offset;
	struct kvm_device_attr attribute = offset_attribute(&offset);

	if (kvm_ioctl(k->fd, KVM_GET_DEVICE_ATTR, &attribute))
		return;
	offset += by;
	kvm_ioctl(k->fd, KVM_SET_DEVICE_ATTR, &attribute);
}

/* The TSCs go on from where they were, each by its own offset. */
void kvm_time_resume(struct partition *p)
{
	struct kvm_machine *m = kvm_of(p);
	uint64_t by = m->paused_at - __rdtsc();

	if (!m->paused_at || !m->has_tsc_offset)
		return;
	m->paused_at = 0;
	for (unsigned i = 0; i < p->config.vp_count; i++)
		shift_tsc(&m->vps[i], by);
	m->tsc_offset += (int64_t)by;
}

/* While the partition is paused its TSC stands where resume will let it go on. */
int kvm_get_tsc(struct vp *vp, uint64_t *tsc)
{
	struct kvm_machine *m = kvm_of(vp->partition);
	uint64_t offset, host = m->paused_at ? m->paused_at : __rdtsc();
	struct kvm_device_attr attribute = offset_attribute(&offset);
	int r;

	if (!m->has_tsc_offset)
		return kvm_get_msr(kvm_vp_of(vp), MSR_TSC, tsc);
	r = kvm_ioctl(kvm_vp_of(vp)->fd, KVM_GET_DEVICE_ATTR, &attribute);
	*tsc = host + offset;
	return r;
}

void kvm_time_load(struct partition *p)
{
	struct kvm_machine *m = kvm_of(p);
	uint64_t host = __rdtsc();

	/* One that is started paused stands still until it is resumed. */
	if (atomic_load(&p->paused))
		m->paused_at = host;
	for (unsigned i = 0; i < p->config.vp_count; i++) {
		uint64_t offset = m->vps[i].loaded_tsc - host;
		struct kvm_device_attr attribute = offset_attribute(&offset);

		if (m->has_tsc_offset)
			kvm_ioctl(m->vps[i].fd, KVM_SET_DEVICE_ATTR, &attribute);
		else
			kvm_set_msr(&m->vps[i], MSR_TSC, m->vps[i].loaded_tsc);
		if (i == 0)
			m->tsc_offset = (int64_t)offset;
	}
}

/* Nothing is scaled: a guest that moves to a host of another frequency learns it from the reference TSC page.
 */
bool kvm_set_tsc_frequency(struct partition *p, uint64_t hz)
{
	return hz == kvm_of(p)->tsc_khz * 1000;
}
