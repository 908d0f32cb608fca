/* SPDX-License-Identifier: GPL-2.0-or-later */
/* intercept.c - which device, local APIC or synthetic register stands behind what a VP touched. */
#include "hypervisor/partition.h"

#include <errno.h>

static void count(_Atomic uint64_t *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

int partition_add_ports(struct partition *p, uint16_t first, unsigned ports, const struct io_ops *ops,
    void *device, const char *name)
{
	if (!ports || first + ports > 65536)
		return -EINVAL;
	if (p->port_count == PARTITION_MAX_RANGES || p->started)
		return -ENOSPC;
	for (unsigned i = 0; i < ports; i++)
		if (p->port_owner[first + i])
			return -EEXIST;
	p->ports[p->port_count++] = (struct io_range){first, ports, ops, device, name};
	for (unsigned i = 0; i < ports; i++)
		p->port_owner[first + i] = (uint8_t)p->port_count;
	return 0;
}

int partition_add_mmio(struct partition *p, gpa_t gpa, uint64_t size, const struct io_ops *ops, void *device,
    const char *name)
{
	if (!size || gpa + size < gpa)
		return -EINVAL;
	if (p->mmio_count == PARTITION_MAX_RANGES || p->started)
		return -ENOSPC;
	for (unsigned i = 0; i < p->mmio_count; i++)
		if (gpa < p->mmio[i].first + p->mmio[i].count && p->mmio[i].first < gpa + size)
			return -EEXIST;
	p->mmio[p->mmio_count++] = (struct io_range){gpa, size, ops, device, name};
	return 0;
}

static uint64_t all_ones(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (1ull << (8 * size)) - 1;
}

static const struct io_range *find_port(struct partition *p, uint16_t port, unsigned size)
{
	unsigned owner = p->port_owner[port];
	const struct io_range *r;

	if (!owner)
		return NULL;
	r = &p->ports[owner - 1];
	return range_fits_u64(port - r->first, size, r->count) ? r : NULL;
}

/* An access that nobody claims as a whole is made byte by byte, as the ISA bus does. */
uint64_t intercept_io_read(struct vp *vp, uint16_t port, unsigned size)
{
	const struct io_range *r = find_port(vp->partition, port, size);
	uint64_t value = 0;

	count(&vp->io_exits);
	if (r)
		return r->ops->read(r->device, port - r->first, size) & all_ones(size);
	for (unsigned i = 0; i < size; i++) {
		uint64_t byte = 0xff;

		r = find_port(vp->partition, (uint16_t)(port + i), 1);
		if (r)
			byte = r->ops->read(r->device, (uint16_t)(port + i) - r->first, 1) & 0xff;
		value |= byte << (8 * i);
	}
	return value;
}

void intercept_io_write(struct vp *vp, uint16_t port, unsigned size, uint64_t value)
{
	const struct io_range *r = find_port(vp->partition, port, size);

	count(&vp->io_exits);
	if (r) {
		r->ops->write(r->device, port - r->first, size, value & all_ones(size));
		return;
	}
	for (unsigned i = 0; i < size; i++) {
		r = find_port(vp->partition, (uint16_t)(port + i), 1);
		if (r)
			r->ops->write(r->device, (uint16_t)(port + i) - r->first, 1, value >> (8 * i) & 0xff);
	}
}

static const struct io_range *find_mmio(struct partition *p, gpa_t gpa, unsigned size)
{
	for (unsigned i = 0; i < p->mmio_count; i++) {
		const struct io_range *r = &p->mmio[i];

		if (gpa >= r->first && range_fits_u64(gpa - r->first, size, r->count))
			return r;
	}
	return NULL;
}

/* The APIC page of this very VP comes before everything else (SDM volume 3, 11.4.1). */
static bool in_apic_page(struct vp *vp, gpa_t gpa, unsigned size, uint32_t *offset)
{
	uint64_t base = apic_mmio_base(&vp->partition->apics[vp->index]);

	if (vp->partition->traits.own_apic || !base || gpa < base || !range_fits_u64(gpa - base, size, APIC_PAGE_SIZE))
		return false;
	*offset = (uint32_t)(gpa - base);
	return true;
}

/* What a VP does to its own APIC may uncover an interrupt that had to wait. */
static void look_for_interrupts(struct vp *vp)
{
	if (apic_has_attention(&vp->partition->apics[vp->index]))
		vp->partition->processor->notify(vp);
}

void intercept_cr8_write(struct vp *vp, uint64_t value)
{
	apic_set_cr8(&vp->partition->apics[vp->index], value);
	look_for_interrupts(vp);
}

uint64_t intercept_mmio_read(struct vp *vp, gpa_t gpa, unsigned size)
{
	const struct io_range *r;
	uint32_t offset;

	count(&vp->mmio_exits);
	if (in_apic_page(vp, gpa, size, &offset))
		return apic_mmio_read(&vp->partition->apics[vp->index], offset, size);
	r = find_mmio(vp->partition, gpa, size);
	return r ? r->ops->read(r->device, gpa - r->first, size) & all_ones(size) : all_ones(size);
}

void intercept_mmio_write(struct vp *vp, gpa_t gpa, unsigned size, uint64_t value)
{
	const struct io_range *r;
	uint32_t offset;

	count(&vp->mmio_exits);
	if (in_apic_page(vp, gpa, size, &offset)) {
		apic_mmio_write(&vp->partition->apics[vp->index], offset, size, value);
		look_for_interrupts(vp);
		return;
	}
	r = find_mmio(vp->partition, gpa, size);
	if (r)
		r->ops->write(r->device, gpa - r->first, size, value & all_ones(size));
}

bool intercept_msr_read(struct vp *vp, uint32_t msr, uint64_t *value)
{
	struct partition *p = vp->partition;

	count(&vp->msr_exits);
	if (apic_owns_msr(msr))
		return apic_read_msr(&p->apics[vp->index], msr, value);
	return tlfs_read_msr(&p->tlfs, vp->index, msr, value) == TLFS_MSR_OK;
}

bool intercept_msr_write(struct vp *vp, uint32_t msr, uint64_t value)
{
	struct partition *p = vp->partition;
	bool done;

	count(&vp->msr_exits);
	if (apic_owns_msr(msr))
		done = apic_write_msr(&p->apics[vp->index], msr, value);
	else
		done = tlfs_write_msr(&p->tlfs, vp->index, msr, value) == TLFS_MSR_OK;
	look_for_interrupts(vp);
	return done;
}

static unsigned bits_for(unsigned n)
{
	unsigned bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

/* Topology: one socket, one thread a core (SDM volume 2, CPUID leaf 0BH). */
static void topology_leaf(struct vp *vp, uint32_t subleaf, uint32_t r[4])
{
	unsigned vps = vp->partition->config.vp_count;

	r[0] = r[1] = 0;
	r[2] = subleaf & 0xff;
	r[3] = vp->index;
	if (subleaf == 0) {
		r[1] = 1;
		r[2] |= 1u << 8; /* SMT level */
	} else if (subleaf == 1) {
		r[0] = bits_for(vps);
		r[1] = vps;
		r[2] |= 2u << 8; /* core level */
	}
}

static bool hypervisor_leaf(struct partition *p, uint32_t leaf, uint32_t r[4])
{
	if (!tlfs_cpuid(&p->tlfs, leaf, r))
		return false;
	if (p->processor->hypervisor_leaf)
		p->processor->hypervisor_leaf(p, leaf, r);
	return true;
}

/* `r` holds the processor's own answer: EAX, EBX, ECX, EDX. */
void intercept_amend_cpuid(struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	struct partition *p = vp->partition;
	struct apic *apic = &p->apics[vp->index];
	unsigned vps = p->config.vp_count;
	bool synthetic = hypervisor_leaf(p, leaf, r);

	if (p->config.compatibility)
		cpuid_restrict(p->hardware_cpuid, leaf, subleaf, r);
	if (p->loaded_cpuid)
		cpuid_recall(p->loaded_cpuid, leaf, subleaf, r);
	if (synthetic)
		return;
	switch (leaf) {
	case 1:
		r[1] = (r[1] & 0xffff) | (uint32_t)vps << 16 | vp->index << 24;
		r[2] |= 1u << 31; /* a hypervisor is present (TLFS 2.2) */
		if (!p->loaded_cpuid) {
			r[2] = (r[2] & ~(1u << 21)) | (uint32_t)p->apic_bus.config.x2apic << 21;
			r[2] = (r[2] & ~(1u << 24)) | (uint32_t)p->apic_bus.config.tsc_deadline << 24;
		}
		r[3] = (r[3] & ~(1u << 9)) | (uint32_t)apic_enabled(apic) << 9;
		r[3] = (r[3] & ~(1u << 28)) | (uint32_t)(vps > 1) << 28; /* HTT: EBX[23:16] is valid */
		break;
	case 4:
		if (r[0] & 0x1f)
			r[0] = (r[0] & 0x03ffffff) | ((1u << bits_for(vps)) - 1) << 26;
		break;
	case 0xb:
		topology_leaf(vp, subleaf, r);
		break;
	default:
		break;
	}
}

void intercept_cpuid(struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	count(&vp->cpuid_exits);
	intercept_amend_cpuid(vp, leaf, subleaf, r);
}

void partition_cpuid(struct vp *vp, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	vp->partition->processor->cpuid(vp, leaf, subleaf, r);
	intercept_amend_cpuid(vp, leaf, subleaf, r);
}
