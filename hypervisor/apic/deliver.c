// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Interrupt messages: who is meant, and what it does there. Everything here may run on any thread.
 * Source: Intel SDM volume 3, "Issuing Interprocessor Interrupts", "Determining IPI Destination",
 * "Interrupt Acceptance for Fixed Interrupts", "Error Handling", x2APIC "Logical Destination Mode".
 */
#include "hypervisor/apic/internal.h"

#define ICR_LOGICAL         0x800u
#define ICR_ASSERT          0x4000u
#define ICR_LEVEL           0x8000u
#define ICR_SHORTHAND_SHIFT 18

enum shorthand { TO_DESTINATION, TO_SELF, TO_ALL, TO_OTHERS };

/* What "everybody" is in destination fields of 8 and 32 bits. */
#define BROADCAST_8  0xffu
#define BROADCAST_32 0xffffffffu

void apic_pend(struct apic *apic, uint8_t vector, bool level)
{
	uint64_t bit = 1ull << (vector & 63);
	unsigned word = vector >> 6;

	if (level)
		atomic_fetch_or(&apic->tmr[word], bit);
	else if (atomic_load(&apic->tmr[word]) & bit)
		atomic_fetch_and(&apic->tmr[word], ~bit);
	/* Whoever finds the bit set leaves the wake-up to the one who set it. */
	if (atomic_fetch_or(&apic->irr[word], bit) & bit)
		return;
	atomic_store(&apic->attention, 1);
	apic->bus->ops->kick(apic->bus->context, apic->vp);
}

bool apic_request(struct apic *apic, uint8_t vector)
{
	if (vector < 16 || !apic_accepts(apic))
		return false;
	apic_pend(apic, vector, false);
	return true;
}

void apic_report_error(struct apic *apic, uint32_t bit)
{
	uint32_t lvt = apic_lvt_read(apic, APIC_LVT_ERROR);

	if (atomic_fetch_or(&apic->esr_pending, bit) & bit)
		return;
	if (!(lvt & LVT_MASKED))
		apic_request(apic, (uint8_t)(lvt & LVT_VECTOR));
}

/* Hand one message to one APIC that it names. */
static bool accept_message(struct apic *apic, const struct apic_message *message)
{
	const struct apic_bus *bus = apic->bus;
	enum apic_event event;

	if (!apic_enabled(apic))
		return false;
	switch (message->delivery) {
	case APIC_FIXED:
	case APIC_LOWEST_PRIORITY:
		if (!apic_accepts(apic))
			return false;
		if (message->vector < 16) {
			apic_report_error(apic, ESR_RECEIVE_ILLEGAL_VECTOR);
			return false;
		}
		apic_pend(apic, message->vector, message->level);
		return true;
	case APIC_NMI:
		event = APIC_EVENT_NMI;
		break;
	case APIC_INIT:
		event = APIC_EVENT_INIT;
		break;
	case APIC_SIPI:
		event = APIC_EVENT_SIPI;
		break;
	case APIC_SMI:
		event = APIC_EVENT_SMI;
		break;
	case APIC_EXTINT:
		event = APIC_EVENT_EXTINT;
		break;
	default:
		return false;
	}
	bus->ops->event(bus->context, apic->vp, event, message->vector);
	return true;
}

static bool logical_match(struct apic *apic, uint32_t destination)
{
	uint32_t ldr = atomic_load_explicit(&apic->ldr, memory_order_relaxed);
	uint32_t dfr = atomic_load_explicit(&apic->dfr, memory_order_relaxed);

	if (destination == BROADCAST_32)
		return true;
	if (apic_in_x2apic(apic))
		return ldr >> 16 == destination >> 16 && (ldr & destination & 0xffff);
	if (destination > 0xff)
		return false;
	ldr >>= 24;
	if (dfr >> 28 == 0xf)
		return ldr & destination;
	if (dfr >> 28 != 0)
		return false;
	return (destination >> 4 == 0xf || destination >> 4 == ldr >> 4) && (ldr & destination & 0xf);
}

/* Only the destination with the lowest task priority takes it; equals take turns. */
static bool deliver_lowest(struct apic_bus *bus, const struct apic_message *message, uint32_t broadcast)
{
	uint32_t turn = atomic_fetch_add_explicit(&bus->arbitration, 1, memory_order_relaxed);
	unsigned count = bus->config.vp_count;
	struct apic *best = NULL;
	uint32_t best_priority = 0;

	for (unsigned i = 0; i < count; i++) {
		struct apic *apic = &bus->apics[(turn + i) % count];
		uint32_t priority = atomic_load_explicit(&apic->tpr, memory_order_relaxed) >> 4;

		if (!apic_accepts(apic) || (best && priority >= best_priority))
			continue;
		if (message->logical
			? logical_match(apic, message->destination)
			: message->destination == apic->id || message->destination == broadcast) {
			best = apic;
			best_priority = priority;
		}
	}
	return best && accept_message(best, message);
}

/* `broadcast` is the physical destination that means everybody, which depends on the sender. */
static bool route(struct apic_bus *bus, const struct apic_message *message, uint32_t broadcast)
{
	bool accepted = false;

	if (!message->logical && message->destination < bus->config.vp_count &&
	    message->destination != broadcast)
		return accept_message(&bus->apics[message->destination], message);
	if (message->delivery == APIC_LOWEST_PRIORITY)
		return deliver_lowest(bus, message, broadcast);
	for (unsigned vp = 0; vp < bus->config.vp_count; vp++) {
		struct apic *apic = &bus->apics[vp];

		if (message->logical ? logical_match(apic, message->destination)
				     : message->destination == broadcast)
			accepted |= accept_message(apic, message);
	}
	return accepted;
}

bool apic_deliver(struct apic_bus *bus, const struct apic_message *message)
{
	/* Devices have a destination of 8 bits unless the sender knows of more. */
	return route(bus, message, message->destination > BROADCAST_8 ? BROADCAST_32 : BROADCAST_8);
}

void apic_send(struct apic *apic, uint32_t command, uint32_t destination)
{
	struct apic_bus *bus = apic->bus;
	struct apic_message message = {
	    .vector = (uint8_t)command,
	    .delivery = (enum apic_delivery)(command >> 8 & 7),
	    .logical = command & ICR_LOGICAL,
	    .destination = destination,
	};
	enum shorthand shorthand = command >> ICR_SHORTHAND_SHIFT & 3;

	/* The INIT level de-assert of old does nothing since the Pentium 4. Modes 3 and 7 are reserved. */
	if (message.delivery == APIC_INIT && (command & (ICR_LEVEL | ICR_ASSERT)) == ICR_LEVEL)
		return;
	if (message.delivery == 3 || message.delivery == APIC_EXTINT)
		return;
	if (message.delivery <= APIC_LOWEST_PRIORITY && message.vector < 16) {
		apic_report_error(apic, ESR_SEND_ILLEGAL_VECTOR);
		return;
	}
	if (shorthand == TO_DESTINATION) {
		route(bus, &message, apic_in_x2apic(apic) ? BROADCAST_32 : BROADCAST_8);
		return;
	}
	for (unsigned vp = 0; vp < bus->config.vp_count; vp++) {
		bool self = vp == apic->vp;

		if (shorthand == TO_ALL || self == (shorthand == TO_SELF))
			accept_message(&bus->apics[vp], &message);
	}
}

/* --- local interrupt pins --------------------------------------------------------------------- */

void apic_lint_signal(struct apic *apic, unsigned pin)
{
	uint32_t lvt = apic_lvt_read(apic, pin == 0 ? APIC_LVT_LINT0 : APIC_LVT_LINT1);
	struct apic_message message = {
	    .vector = (uint8_t)(lvt & LVT_VECTOR),
	    .delivery = (enum apic_delivery)(lvt >> LVT_MODE_SHIFT & 7),
	};

	/* With the APIC off, the pins are INTR and NMI as on a processor that has none. */
	if (!apic_enabled(apic))
		apic->bus->ops->event(apic->bus->context, apic->vp,
				      pin == 0 ? APIC_EVENT_EXTINT : APIC_EVENT_NMI, 0);
	else if (!(lvt & LVT_MASKED) && message.delivery != APIC_SIPI &&
		 message.delivery != APIC_LOWEST_PRIORITY)
		accept_message(apic, &message);
}

void apic_set_lint(struct apic *apic, unsigned pin, bool asserted)
{
	uint32_t bit = 1u << (pin & 1);
	uint32_t before;

	if (!asserted) {
		atomic_fetch_and(&apic->lint_level, ~bit);
		return;
	}
	before = atomic_fetch_or(&apic->lint_level, bit);
	if (!(before & bit))
		apic_lint_signal(apic, pin & 1);
}

bool apic_accepts_extint(struct apic *apic)
{
	uint32_t lvt = apic_lvt_read(apic, APIC_LVT_LINT0);

	if (!apic_enabled(apic))
		return true;
	return !(lvt & LVT_MASKED) && (lvt >> LVT_MODE_SHIFT & 7) == APIC_EXTINT;
}
