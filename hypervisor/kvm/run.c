/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * run.c - run a VP until it is kicked or cannot go on; every exit that comes to us in between.
 *
 * An exit for port or memory input is only complete when KVM_RUN is called again. So a kick does not leave
 * the loop by itself: it makes the next KVM_RUN finish what is open and come back with EINTR.
 */
#include "hypervisor/kvm/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum next { NEXT_RUN, NEXT_TRIPLE_FAULT, NEXT_ERROR };

/* --- ports and memory ----------------------------------------------------------------------------- */

static uint64_t load_value(const uint8_t *from, unsigned size)
{
	uint64_t value = 0;

	memcpy(&value, from, size);
	return value;
}

static void port_exit(struct vp *vp, struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	bool out = run->io.direction == KVM_EXIT_IO_OUT;

	if (out && run->io.port == KVM_HYPERCALL_PORT && run->io.size == 4 &&
	    !kvm_of(vp->partition)->kernel_hyperv) {
		kvm_hypercall_port(vp);
		return;
	}
	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (out) {
			intercept_io_write(vp, run->io.port, run->io.size, load_value(data, run->io.size));
		} else {
			uint64_t value = intercept_io_read(vp, run->io.port, run->io.size);

			memcpy(data, &value, run->io.size);
		}
	}
}

/* KVM cuts accesses at page ends, so any length up to 8 may come: devices know powers of two. */
static void memory_exit(struct vp *vp, struct kvm_run *run)
{
	unsigned length = (unsigned)min_u64(run->mmio.len, sizeof(run->mmio.data));

	for (unsigned done = 0, size; done < length; done += size) {
		uint8_t *data = run->mmio.data + done;
		gpa_t gpa = run->mmio.phys_addr + done;

		for (size = 8; size > length - done;)
			size /= 2;
		if (run->mmio.is_write) {
			intercept_mmio_write(vp, gpa, size, load_value(data, size));
		} else {
			uint64_t value = intercept_mmio_read(vp, gpa, size);

			memcpy(data, &value, size);
		}
	}
}

/* --- what ends a machine -------------------------------------------------------------------------- */

static const char *internal_error(uint32_t suberror)
{
	switch (suberror) {
	case KVM_INTERNAL_ERROR_EMULATION:
		return "an instruction that KVM cannot emulate";
	case KVM_INTERNAL_ERROR_SIMUL_EX:
		return "an exception while an exception was delivered";
	case KVM_INTERNAL_ERROR_DELIVERY_EV:
		return "an exit that KVM did not expect while an event was delivered";
	case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
		return "an exit that KVM does not know";
	default:
		return "of a kind that is not known here";
	}
}

static enum next internal_error_exit(struct kvm_vp *k)
{
	const struct kvm_run *run = k->run;
	size_t n =
	    (size_t)snprintf(k->error, sizeof(k->error), "KVM reports internal error %u: %s; exit data",
			     run->internal.suberror, internal_error(run->internal.suberror));

	for (uint32_t i = 0;
	     i < min_u64(run->internal.ndata, ARRAY_SIZE(run->internal.data)) && n < sizeof(k->error); i++)
		n += (size_t)snprintf(k->error + n, sizeof(k->error) - n, " %llx",
				      (unsigned long long)run->internal.data[i]);
	return NEXT_ERROR;
}

/* SVM forgets the guest's state at a triple fault, and KVM shows that of INIT instead. */
static enum next shutdown_exit(struct vp *vp)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	const struct kvm_regs *r = &k->last;
	struct vp_registers now;

	if (!kvm_get_registers(vp, &now) && now.rip == 0xfff0 && now.cs.base == 0xffff0000 &&
	    !(now.cr0 & 1) && r->rip != 0xfff0)
		snprintf(
		    k->error, sizeof(k->error),
		    "this host's processor loses the registers at a triple fault; at the exit before it:\n"
		    "RIP %llx RFLAGS %llx RAX %llx RBX %llx RCX %llx RDX %llx RSP %llx RBP %llx RSI %llx RDI "
		    "%llx\nafter it:",
		    r->rip, r->rflags, r->rax, r->rbx, r->rcx, r->rdx, r->rsp, r->rbp, r->rsi, r->rdi);
	return NEXT_TRIPLE_FAULT;
}

static enum next unknown_exit(struct kvm_vp *k)
{
	const struct kvm_run *run = k->run;

	switch (run->exit_reason) {
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(k->error, sizeof(k->error),
			 "the host's processor refuses to enter the guest: reason 0x%llx, CPU %u",
			 (unsigned long long)run->fail_entry.hardware_entry_failure_reason,
			 run->fail_entry.cpu);
		break;
	case KVM_EXIT_UNKNOWN:
		snprintf(k->error, sizeof(k->error),
			 "the host's processor left the guest for a reason that KVM does not know: 0x%llx",
			 (unsigned long long)run->hw.hardware_exit_reason);
		break;
	case KVM_EXIT_EXCEPTION:
		snprintf(k->error, sizeof(k->error), "KVM hands over exception %u, error code 0x%x",
			 run->ex.exception, run->ex.error_code);
		break;
	default:
		snprintf(k->error, sizeof(k->error),
			 "KVM left the guest for reason %u, which this version does not serve",
			 run->exit_reason);
		break;
	}
	return NEXT_ERROR;
}

/* KVM_RUN itself fails: the host has no page for the guest, or no longer runs this VP. */
static enum vp_run_result run_failed(struct kvm_vp *k, int error)
{
	if (error == EFAULT)
		snprintf(k->error, sizeof(k->error),
			 "the host cannot give the guest a page of its memory (KVM_RUN: %s): the host may be "
			 "out of memory",
			 strerror(error));
	else
		snprintf(k->error, sizeof(k->error), "KVM_RUN fails: %s", strerror(error));
	return VP_RUN_ERROR;
}

/* The bytes at RIP when paging is on: without it the caller finds them. */
static void describe_code(struct vp *vp, char *text, size_t size)
{
	struct kvm_translation t = {0};
	struct vp_registers r;
	uint8_t code[16];
	size_t n = 0;

	if (kvm_get_registers(vp, &r) || !(r.cr0 >> 31))
		return;
	t.linear_address = r.rip + (r.efer >> 10 & 1 && r.cs.attributes >> 13 & 1 ? 0 : r.cs.base);
	if (kvm_ioctl(kvm_vp_of(vp)->fd, KVM_TRANSLATE, &t) || !t.valid)
		return;
	n = min_u64(sizeof(code), GUEST_PAGE_SIZE - (t.physical_address & (GUEST_PAGE_SIZE - 1)));
	if (partition_read(vp->partition, t.physical_address, code, n))
		return;
	for (size_t i = 0, at = 0; i < n && at + 16 < size; i++)
		at += (size_t)snprintf(text + at, size - at, "%s%02x", i ? " " : "\nbytes at RIP ", code[i]);
}

void kvm_report(struct vp *vp, char *text, size_t size)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	size_t n = (size_t)snprintf(text, size, "%s", k->error);

	if (n + 1 < size)
		describe_code(vp, text + n, size - n);
}

/* --- the loop ------------------------------------------------------------------------------------- */

static enum next handle_exit(struct vp *vp)
{
	struct kvm_vp *k = kvm_vp_of(vp);
	struct kvm_run *run = k->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		port_exit(vp, run);
		return NEXT_RUN;
	case KVM_EXIT_MMIO:
		memory_exit(vp, run);
		return NEXT_RUN;
	case KVM_EXIT_HYPERV:
		kvm_hyperv_exit(vp);
		return NEXT_RUN;
	case KVM_EXIT_X86_RDMSR: {
		uint64_t value = 0;

		run->msr.error = !kvm_hyperv_read_msr(vp, run->msr.index, &value);
		run->msr.data = value;
		return NEXT_RUN;
	}
	case KVM_EXIT_X86_WRMSR:
		run->msr.error = !kvm_hyperv_write_msr(vp, run->msr.index, run->msr.data);
		return NEXT_RUN;
	case KVM_EXIT_IOAPIC_EOI:
		if (vp->partition->eoi_handler)
			vp->partition->eoi_handler(vp->partition->eoi_context, run->eoi.vector);
		return NEXT_RUN;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_SET_TPR:
		return NEXT_RUN;
	case KVM_EXIT_SHUTDOWN:
		return shutdown_exit(vp);
	case KVM_EXIT_INTERNAL_ERROR:
		return internal_error_exit(k);
	default:
		return unknown_exit(k);
	}
}

enum vp_run_result kvm_vp_run(struct vp *vp)
{
	struct kvm_vp *k = kvm_vp_of(vp);

	for (;;) {
		enum next next;

		if (ioctl(k->fd, KVM_RUN, NULL) < 0) {
			int error = errno;

			/* EAGAIN: a VP that waited for its SIPI got it. */
			if (error == EAGAIN)
				continue;
			if (error != EINTR)
				return run_failed(k, error);
			k->run->immediate_exit = 0;
			if (atomic_exchange(&k->kicked, false))
				return VP_RUN_KICK;
			continue;
		}
		next = handle_exit(vp);
		k->last = k->run->s.regs.regs;
		if (next == NEXT_TRIPLE_FAULT)
			return VP_RUN_TRIPLE_FAULT;
		if (next == NEXT_ERROR)
			return VP_RUN_ERROR;
	}
}
