/* SPDX-License-Identifier: GPL-2.0-or-later */
/* processor_soft.c - joins the software processor (soft/) to a partition. */
#include "hypervisor/cpuid_features.h"
#include "hypervisor/host.h"
#include "hypervisor/partition.h"
#include "hypervisor/soft/soft.h"

#include <errno.h>
#include <string.h>

static struct soft_vp *soft_of(struct vp *vp)
{
	return soft_vp(vp->partition->processor_state, vp->index);
}

static uint64_t host_io_read(void *context, unsigned vp, uint16_t port, unsigned size)
{
	struct partition *p = context;

	return intercept_io_read(&p->vps[vp], port, size);
}

static void host_io_write(void *context, unsigned vp, uint16_t port, unsigned size, uint64_t value)
{
	struct partition *p = context;

	intercept_io_write(&p->vps[vp], port, size, value);
}

static uint64_t host_mmio_read(void *context, unsigned vp, gpa_t gpa, unsigned size)
{
	struct partition *p = context;

	return intercept_mmio_read(&p->vps[vp], gpa, size);
}

static void host_mmio_write(void *context, unsigned vp, gpa_t gpa, unsigned size, uint64_t value)
{
	struct partition *p = context;

	intercept_mmio_write(&p->vps[vp], gpa, size, value);
}

static bool host_msr_read(void *context, unsigned vp, uint32_t msr, uint64_t *value)
{
	struct partition *p = context;

	return intercept_msr_read(&p->vps[vp], msr, value);
}

static bool host_msr_write(void *context, unsigned vp, uint32_t msr, uint64_t value)
{
	struct partition *p = context;

	return intercept_msr_write(&p->vps[vp], msr, value);
}

static void host_cpuid(void *context, unsigned vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4])
{
	struct partition *p = context;

	intercept_cpuid(&p->vps[vp], leaf, subleaf, registers);
}

/* The calling convention of TLFS 3.7: who the registers are depends on the caller's mode. */
static bool host_hypercall(void *context, unsigned vp, struct soft_hypercall *r)
{
	struct partition *p = context;
	struct tlfs_hypercall call = {.input = r->rcx, .in = r->rdx, .out = r->r8};
	uint64_t gpr[8] = {r->rax, r->rcx, r->rdx, r->rbx, 0, 0, r->rsi, r->rdi};

	if (r->cpl != 0 || !tlfs_hypercall_enabled(&p->tlfs))
		return false;
	atomic_fetch_add_explicit(&p->vps[vp].hypercalls, 1, memory_order_relaxed);
	memcpy(call.xmm, r->xmm, sizeof(call.xmm));
	if (!r->long_mode)
		tlfs_hypercall_load32(&call, gpr);
	tlfs_hypercall(&p->tlfs, vp, &call);
	if (r->long_mode) {
		r->rax = call.result;
	} else {
		tlfs_hypercall_store32(&call, gpr);
		r->rax = gpr[0];
		r->rdx = gpr[2];
	}
	return true;
}

static int host_take_interrupt(void *context, unsigned vp)
{
	struct partition *p = context;
	int vector;

	if (!apic_has_attention(&p->apics[vp]))
		return -1;
	vector = apic_acknowledge(&p->apics[vp]);
	if (vector >= 0)
		atomic_fetch_add_explicit(&p->vps[vp].interrupts, 1, memory_order_relaxed);
	return vector;
}

static uint64_t host_cr8_read(void *context, unsigned vp)
{
	struct partition *p = context;

	return apic_get_cr8(&p->apics[vp]);
}

static void host_cr8_write(void *context, unsigned vp, uint64_t value)
{
	struct partition *p = context;

	intercept_cr8_write(&p->vps[vp], value);
}

static uint64_t host_tsc(void *context)
{
	return clock_tsc(context);
}

static int host_code_file(void *context)
{
	const struct partition *p = context;

	return p->config.host ? p->config.host->code : -1;
}

static const struct soft_host host_ops = {
    .io_read = host_io_read,
    .io_write = host_io_write,
    .mmio_read = host_mmio_read,
    .mmio_write = host_mmio_write,
    .msr_read = host_msr_read,
    .msr_write = host_msr_write,
    .cpuid = host_cpuid,
    .hypercall = host_hypercall,
    .take_interrupt = host_take_interrupt,
    .cr8_read = host_cr8_read,
    .cr8_write = host_cr8_write,
    .tsc = host_tsc,
    .code_file = host_code_file,
};

static int soft_processor_create(struct partition *p, const char *options, struct error *err)
{
	struct soft *soft;
	int r = soft_create(&soft, &host_ops, p, p->config.vp_count, options, err);

	if (!r)
		p->processor_state = soft;
	return r;
}

static void soft_processor_destroy(struct partition *p)
{
	soft_destroy(p->processor_state);
}

/* A guest that is not to rely on protection keys, or began without, has none. */
static void show_keys(struct vp *vp)
{
	uint32_t r[4];

	soft_vp_cpuid(soft_of(vp), 7, 0, r);
	intercept_amend_cpuid(vp, 7, 0, r);
	soft_vp_show_keys(soft_of(vp), r[2] & LEAF7_ECX_PKU, r[2] & LEAF7_ECX_PKS);
}

static int soft_processor_start(struct partition *p, struct error *err)
{
	struct soft_range ranges[PARTITION_MAX_REGIONS];

	for (unsigned i = 0; i < p->region_count; i++)
		ranges[i] = (struct soft_range){p->regions[i].gpa, p->regions[i].size, p->regions[i].offset};
	for (unsigned i = 0; i < p->config.vp_count; i++)
		show_keys(&p->vps[i]);
	return soft_set_memory(p->processor_state, p->base, p->memory_size, ranges, p->region_count, err);
}

static enum vp_run_result soft_processor_run(struct vp *vp)
{
	switch (soft_vp_run(soft_of(vp))) {
	case SOFT_STOP_HALT:
		return VP_RUN_HALT;
	case SOFT_STOP_KICK:
		return VP_RUN_KICK;
	case SOFT_STOP_TRIPLE_FAULT:
		return VP_RUN_TRIPLE_FAULT;
	case SOFT_STOP_ERROR:
		break;
	}
	return VP_RUN_ERROR;
}

static void soft_processor_init(struct vp *vp)
{
	soft_vp_init(soft_of(vp));
}

static void soft_processor_sipi(struct vp *vp, uint8_t vector)
{
	soft_vp_sipi(soft_of(vp), vector);
}

static bool soft_processor_interruptible(struct vp *vp)
{
	return soft_vp_interruptible(soft_of(vp));
}

static int soft_processor_get(struct vp *vp, struct vp_registers *registers)
{
	soft_vp_get_registers(soft_of(vp), registers);
	return 0;
}

static int soft_processor_set(struct vp *vp, const struct vp_registers *registers)
{
	return soft_vp_set_registers(soft_of(vp), registers);
}

static uint64_t soft_processor_instructions(struct vp *vp)
{
	return soft_vp_instructions(soft_of(vp));
}

static void soft_processor_report(struct vp *vp, char *text, size_t size)
{
	snprintf(text, size, "%s", soft_vp_error(soft_of(vp)));
}

static void soft_processor_notify(struct vp *vp)
{
	soft_vp_notify(soft_of(vp));
}

static void soft_processor_kick(struct vp *vp)
{
	soft_vp_kick(soft_of(vp));
}

static void soft_processor_nmi(struct vp *vp)
{
	soft_vp_nmi(soft_of(vp));
}

/* Beyond this many pages it is cheaper to refill a whole TLB. */
#define FLUSH_PAGES_MAX 64

static unsigned flush_pages(const struct tlfs_flush *flush)
{
	unsigned pages = 0;

	for (unsigned i = 0; i < flush->range_count && pages <= FLUSH_PAGES_MAX; i++)
		pages += (flush->ranges[i] & 0xfff) + 1;
	return pages;
}

static void soft_processor_flush_tlb(struct vp *self, const struct tlfs_flush *flush)
{
	struct partition *p = self->partition;
	uint64_t pages[FLUSH_PAGES_MAX];
	unsigned count = 0;

	if (flush_pages(flush) <= FLUSH_PAGES_MAX)
		for (unsigned i = 0; i < flush->range_count; i++)
			for (uint64_t page = 0; page <= (flush->ranges[i] & 0xfff); page++)
				pages[count++] = (flush->ranges[i] & ~0xfffull) + page * GUEST_PAGE_SIZE;
	soft_flush_tlbs(p->processor_state, soft_of(self), flush->vps.bits, pages, count);
}

static void soft_processor_memory_written(struct partition *p, gpa_t gpa, uint64_t size)
{
	if (p->started)
		soft_memory_written(p->processor_state, gpa, size);
}

static int soft_processor_track_dirty(struct partition *p, bool on, struct error *err)
{
	return soft_track_dirty(p->processor_state, on, err);
}

static int soft_processor_fetch_dirty(struct partition *p, unsigned region, uint64_t first_page, uint64_t pages,
    uint64_t *bitmap)
{
	soft_fetch_dirty(p->processor_state, (p->regions[region].offset >> GUEST_PAGE_SHIFT) + first_page, pages, bitmap);
	return 0;
}

static void soft_processor_write_hypercall_page(struct partition *p, uint8_t *page)
{
	static const uint8_t vmcall_ret[] = {0x0f, 0x01, 0xc1, 0xc3};

	(void)p;
	memcpy(page, vmcall_ret, sizeof(vmcall_ret));
}

static void soft_processor_traits(struct partition *p, struct processor_traits *t)
{
	(void)p;
	*t = (struct processor_traits){.x2apic = true,
	    .tsc_deadline = true,
	    .tsc_frequency = SOFT_TSC_HZ,
	    .apic_frequency = APIC_TIMER_HZ,
	    .physical_bits = PARTITION_PHYSICAL_BITS};
}

static int soft_processor_save(struct vp *vp, struct vp_state *state, struct error *err)
{
	(void)err;
	soft_vp_save(soft_of(vp), state);
	return 0;
}

#define VENDOR_AUTH 0x68747541u /* "Auth" of AuthenticAMD */

static int soft_processor_load(struct vp *vp, const struct vp_state *state, struct error *err)
{
	if (cpuid_table_register(vp->partition->loaded_cpuid, 0, 0, 1) == VENDOR_AUTH)
		soft_vp_take_for_amd(soft_of(vp));
	show_keys(vp);
	return soft_vp_load(soft_of(vp), state, err);
}

static void soft_processor_cpuid(struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t registers[4])
{
	soft_vp_cpuid(soft_of(vp), leaf, subleaf, registers);
}

const struct processor_ops processor_soft = {
    .name = "soft",
    .create = soft_processor_create,
    .destroy = soft_processor_destroy,
    .start = soft_processor_start,
    .run = soft_processor_run,
    .init = soft_processor_init,
    .sipi = soft_processor_sipi,
    .interruptible = soft_processor_interruptible,
    .get_registers = soft_processor_get,
    .set_registers = soft_processor_set,
    .instructions = soft_processor_instructions,
    .report = soft_processor_report,
    .notify = soft_processor_notify,
    .kick = soft_processor_kick,
    .nmi = soft_processor_nmi,
    .flush_tlb = soft_processor_flush_tlb,
    .memory_written = soft_processor_memory_written,
    .write_hypercall_page = soft_processor_write_hypercall_page,
    .traits = soft_processor_traits,
    .save_vp = soft_processor_save,
    .load_vp = soft_processor_load,
    .cpuid = soft_processor_cpuid,
    .track_dirty = soft_processor_track_dirty,
    .fetch_dirty = soft_processor_fetch_dirty,
};
