/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * interrupt.c - interrupt messages to the kernel's local APICs.
 *
 * Every message is an MSI (SDM volume 3, 11.11). For a level-triggered one the kernel must tell us of the
 * EOI: it does for vectors in the routes of the I/O APIC's pins, so a pin's route follows what the pin sends.
 */
#include "hypervisor/kvm/kvm.h"

#include <errno.h>
#include <string.h>

#define MSI_ADDRESS 0xfee00000u

static struct kvm_msi msi_of(const struct interrupt_message *m)
{
	return (struct kvm_msi){
	    .address_lo = MSI_ADDRESS | (m->destination & 0xff) << 12 | (uint32_t)m->logical << 2,
	    .data =
		m->vector | (uint32_t)m->delivery << 8 | (uint32_t)m->level << 14 | (uint32_t)m->level << 15,
	};
}

static int set_routes(struct kvm_machine *m)
{
	union {
		uint8_t bytes[sizeof(struct kvm_irq_routing) +
			      KVM_LEVEL_ROUTES * sizeof(struct kvm_irq_routing_entry)];
		struct kvm_irq_routing table;
	} u = {0};

	for (unsigned i = 0; i < KVM_LEVEL_ROUTES; i++)
		if (m->routes[i].used)
			u.table.entries[u.table.nr++] = (struct kvm_irq_routing_entry){
			    .gsi = i, .type = KVM_IRQ_ROUTING_MSI, .u.msi = m->routes[i].msi};
	return kvm_ioctl(m->vm, KVM_SET_GSI_ROUTING, &u.table);
}

static void ensure_level_route(struct kvm_machine *m, unsigned pin, const struct kvm_msi *msi)
{
	struct kvm_level_route *r = &m->routes[pin];

	if (r->used && r->msi.address_lo == msi->address_lo && r->msi.data == msi->data)
		return;
	*r =
	    (struct kvm_level_route){.used = true, .msi = {.address_lo = msi->address_lo, .data = msi->data}};
	set_routes(m);
}

void kvm_assert_interrupt(struct partition *p, const struct interrupt_message *message)
{
	struct kvm_machine *m = kvm_of(p);
	struct kvm_msi msi = msi_of(message);

	if (message->delivery == INTERRUPT_EXTINT || message->delivery == INTERRUPT_SMI)
		return; /* there is no 8259 and no system management mode */
	if (message->level && message->pin < KVM_LEVEL_ROUTES) {
		pthread_mutex_lock(&m->route_lock);
		ensure_level_route(m, message->pin, &msi);
		pthread_mutex_unlock(&m->route_lock);
	}
	/* 0: every APIC it names is disabled or does not exist; hardware drops it too. */
	kvm_ioctl(m->vm, KVM_SIGNAL_MSI, &msi);
}

void kvm_request_interrupt(struct vp *vp, uint8_t vector)
{
	struct kvm_msi msi = {.address_lo = MSI_ADDRESS | vp->index << 12, .data = vector};

	if (vector >= 16)
		kvm_ioctl(kvm_of(vp->partition)->vm, KVM_SIGNAL_MSI, &msi);
}
