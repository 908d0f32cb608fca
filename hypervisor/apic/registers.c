// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The registers as the guest reads and writes them: the xAPIC page, the x2APIC MSRs, IA32_APIC_BASE.
 * Source: Intel SDM volume 3, "The Local APIC Block Diagram" (register address map), "Extended XAPIC
 * (x2APIC)" (MSR address space, state changes, reserved bits).
 */
#include "hypervisor/apic/internal.h"

/* Integrated APIC, six LVT entries, no EOI-broadcast suppression. */
#define VERSION ((APIC_LVT_COUNT - 1u) << 16 | 0x14u)

#define ICR_RESERVED        0xfff32000u /* of the low half, x2APIC */
#define ICR_DELIVERY_STATUS 0x1000u

/* Registers 0x320 to 0x370 in address order are numbered as enum apic_lvt. */
static const uint32_t lvt_writable[APIC_LVT_COUNT] = {
    [APIC_LVT_TIMER] = LVT_VECTOR | LVT_MASKED | LVT_PERIODIC,
    [APIC_LVT_THERMAL] = LVT_VECTOR | 0x700u | LVT_MASKED,
    [APIC_LVT_PERF] = LVT_VECTOR | 0x700u | LVT_MASKED,
    [APIC_LVT_LINT0] = LVT_VECTOR | 0x700u | 0xa000u | LVT_MASKED,
    [APIC_LVT_LINT1] = LVT_VECTOR | 0x700u | 0xa000u | LVT_MASKED,
    [APIC_LVT_ERROR] = LVT_VECTOR | LVT_MASKED,
};

static void write_lvt(struct apic *apic, enum apic_lvt which, uint32_t value)
{
	uint32_t writable = lvt_writable[which];

	if (which == APIC_LVT_TIMER && apic->bus->config.tsc_deadline)
		writable |= LVT_DEADLINE;
	value &= writable;
	if (!(atomic_load(&apic->svr) & SVR_ENABLE))
		value |= LVT_MASKED;
	if (which == APIC_LVT_TIMER) {
		apic_timer_set_lvt(apic, value);
		return;
	}
	atomic_store(&apic->lvt[which], value);
	/* An 8259 that waits already is heard when LINT0 opens. */
	if (which == APIC_LVT_LINT0 && (atomic_load(&apic->lint_level) & 1) && apic_accepts_extint(apic))
		apic_lint_signal(apic, 0);
}

static void write_svr(struct apic *apic, uint32_t value)
{
	atomic_store(&apic->svr, value & SVR_WRITABLE);
	if (!(value & SVR_ENABLE))
		for (int i = 0; i < APIC_LVT_COUNT; i++)
			atomic_fetch_or(&apic->lvt[i], LVT_MASKED);
}

static uint32_t bitmap_word(const _Atomic uint64_t *words, unsigned index)
{
	return (uint32_t)(atomic_load(&words[index / 2]) >> (index % 2 * 32));
}

/* Registers of 32 bits that both modes share. Unknown ones read as zero. */
static uint32_t read_register(struct apic *apic, uint32_t reg)
{
	unsigned index = reg >> 4 & 7;

	if (reg >= REG_ISR && reg < REG_TMR)
		return (uint32_t)(apic->isr[index / 2] >> (index % 2 * 32));
	if (reg >= REG_TMR && reg < REG_IRR)
		return bitmap_word(apic->tmr, index);
	if (reg >= REG_IRR && reg < REG_IRR_END)
		return bitmap_word(apic->irr, index);
	if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR)
		return atomic_load(&apic->lvt[(reg - REG_LVT_TIMER) >> 4]);
	switch (reg) {
	case REG_ID:
		return apic_in_x2apic(apic) ? apic->id : apic->id << 24;
	case REG_VERSION:
		return VERSION;
	case REG_TPR:
		return atomic_load(&apic->tpr);
	case REG_PPR:
		return apic_processor_priority(apic);
	case REG_LDR:
		return atomic_load(&apic->ldr);
	case REG_DFR:
		return atomic_load(&apic->dfr);
	case REG_SVR:
		return atomic_load(&apic->svr);
	case REG_ESR:
		return apic->esr;
	case REG_ICR:
		return (uint32_t)apic->icr;
	case REG_ICR_HIGH:
		return (uint32_t)(apic->icr >> 32);
	case REG_INITIAL_COUNT:
		return apic->initial_count;
	case REG_CURRENT_COUNT:
		return apic_timer_current(apic);
	case REG_DIVIDE:
		return apic->divide;
	default:
		return 0;
	}
}

/* Writes that mean the same in both modes. */
static void write_register(struct apic *apic, uint32_t reg, uint32_t value)
{
	if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR) {
		write_lvt(apic, (enum apic_lvt)((reg - REG_LVT_TIMER) >> 4), value);
		return;
	}
	switch (reg) {
	case REG_TPR:
		apic_set_tpr(apic, (uint8_t)value);
		break;
	case REG_EOI:
		apic_eoi(apic);
		break;
	case REG_SVR:
		write_svr(apic, value);
		break;
	case REG_ESR:
		apic->esr = atomic_exchange(&apic->esr_pending, 0);
		break;
	case REG_INITIAL_COUNT:
		apic_timer_set_initial(apic, value);
		break;
	case REG_DIVIDE:
		apic_timer_set_divide(apic, value);
		break;
	default:
		break;
	}
}

/* --- xAPIC page ------------------------------------------------------------------------------- */

uint64_t apic_mmio_read(struct apic *apic, uint32_t offset, unsigned size)
{
	unsigned byte = offset & 15;
	uint64_t value;

	if (offset >= APIC_PAGE_SIZE || byte >= 4)
		return 0;
	value = (uint64_t)read_register(apic, offset & ~15u) >> (byte * 8);
	return size >= 4 ? value : value & ((1ull << (size * 8)) - 1);
}

void apic_mmio_write(struct apic *apic, uint32_t offset, unsigned size, uint64_t value)
{
	uint32_t low = (uint32_t)value;

	if (offset & 15 || size < 4 || offset >= APIC_PAGE_SIZE)
		return;
	switch (offset) {
	case REG_LDR:
		atomic_store(&apic->ldr, low & 0xff000000);
		break;
	case REG_DFR:
		atomic_store(&apic->dfr, low | 0x0fffffff);
		break;
	case REG_ICR_HIGH:
		apic->icr = (uint32_t)apic->icr | (uint64_t)(low & 0xff000000) << 32;
		break;
	case REG_ICR:
		apic->icr = (apic->icr & ~0xffffffffull) | (low & ~(ICR_RESERVED | ICR_DELIVERY_STATUS));
		apic_send(apic, (uint32_t)apic->icr, (uint32_t)(apic->icr >> 56));
		break;
	default:
		write_register(apic, offset, low);
	}
}

uint64_t apic_get_icr(struct apic *apic)
{
	if (!apic_in_x2apic(apic))
		return apic->icr;
	return (uint32_t)apic->icr | (apic->icr >> 32 & 0xff) << 56;
}

bool apic_set_icr(struct apic *apic, uint64_t value)
{
	uint32_t destination = (uint32_t)(value >> 56);

	if (value & (ICR_RESERVED | 0x00ffffff00000000ull))
		return false;
	value &= ~(uint64_t)ICR_DELIVERY_STATUS;
	if (apic_in_x2apic(apic)) {
		if (destination == 0xff)
			destination = 0xffffffff;
		value = (uint32_t)value | (uint64_t)destination << 32;
	}
	apic->icr = value;
	apic_send(apic, (uint32_t)value, destination);
	return true;
}

/* --- x2APIC MSRs ------------------------------------------------------------------------------ */

static bool x2apic_readable(uint32_t reg)
{
	if (reg >= REG_ISR && reg <= REG_ESR)
		return true;
	if (reg >= REG_LVT_TIMER && reg <= REG_CURRENT_COUNT)
		return true;
	return reg == REG_ID || reg == REG_VERSION || reg == REG_TPR || reg == REG_PPR || reg == REG_LDR ||
	       reg == REG_SVR || reg == REG_ICR || reg == REG_DIVIDE;
}

static bool x2apic_read(struct apic *apic, uint32_t reg, uint64_t *value)
{
	if (!x2apic_readable(reg))
		return false;
	*value = reg == REG_ICR ? apic->icr : read_register(apic, reg);
	return true;
}

static bool x2apic_write(struct apic *apic, uint32_t reg, uint64_t value)
{
	if (reg == REG_ICR) {
		if (value & (ICR_RESERVED | ICR_DELIVERY_STATUS))
			return false;
		apic->icr = value;
		apic_send(apic, (uint32_t)value, (uint32_t)(value >> 32));
		return true;
	}
	if (value >> 32)
		return false;
	if (reg >= REG_LVT_TIMER && reg <= REG_INITIAL_COUNT) {
		write_register(apic, reg, (uint32_t)value);
		return true;
	}
	switch (reg) {
	case REG_EOI:
	case REG_ESR:
		if (value)
			return false;
		break;
	case REG_TPR:
		if (value > 0xff)
			return false;
		break;
	case REG_SELF_IPI:
		if (value > 0xff)
			return false;
		apic_send(apic, (uint32_t)value, apic->id);
		return true;
	case REG_SVR:
	case REG_DIVIDE:
		break;
	default:
		return false;
	}
	write_register(apic, reg, (uint32_t)value);
	return true;
}

/* --- IA32_APIC_BASE --------------------------------------------------------------------------- */

static bool write_base(struct apic *apic, uint64_t value)
{
	const struct apic_bus *bus = apic->bus;
	unsigned width = bus->config.physical_address_bits;
	uint64_t before = atomic_load(&apic->base);
	uint64_t reserved = 0x2ff | (width < 64 ? ~0ull << width : 0);
	bool enable = value & APIC_BASE_ENABLE, extended = value & APIC_BASE_X2APIC;

	if (!bus->config.x2apic)
		reserved |= APIC_BASE_X2APIC;
	if (value & reserved || (extended && !enable))
		return false;
	/* From x2APIC the only way is off; into it the only way is from xAPIC. */
	if (before & APIC_BASE_X2APIC ? enable && !extended : extended && !(before & APIC_BASE_ENABLE))
		return false;
	value = (value & ~(uint64_t)APIC_BASE_BSP) | (before & APIC_BASE_BSP);
	atomic_store(&apic->base, value);
	if (!enable && before & APIC_BASE_ENABLE)
		apic_reset(apic, true);
	if (extended && !(before & APIC_BASE_X2APIC))
		atomic_store(&apic->ldr, apic_x2apic_ldr(apic->id));
	if (value != before && bus->ops->base_changed)
		bus->ops->base_changed(bus->context, apic->vp, value);
	return true;
}

bool apic_read_msr(struct apic *apic, uint32_t msr, uint64_t *value)
{
	*value = 0;
	if (msr == APIC_MSR_BASE) {
		*value = atomic_load(&apic->base);
		return true;
	}
	if (msr == APIC_MSR_TSC_DEADLINE) {
		*value = apic_timer_get_tsc_deadline(apic);
		return apic->bus->config.tsc_deadline;
	}
	if (msr < APIC_MSR_X2APIC_FIRST || msr > APIC_MSR_X2APIC_LAST || !apic_in_x2apic(apic))
		return false;
	return x2apic_read(apic, (msr - APIC_MSR_X2APIC_FIRST) << 4, value);
}

bool apic_write_msr(struct apic *apic, uint32_t msr, uint64_t value)
{
	if (msr == APIC_MSR_BASE)
		return write_base(apic, value);
	if (msr == APIC_MSR_TSC_DEADLINE) {
		apic_timer_set_tsc_deadline(apic, value);
		return apic->bus->config.tsc_deadline;
	}
	if (msr < APIC_MSR_X2APIC_FIRST || msr > APIC_MSR_X2APIC_LAST || !apic_in_x2apic(apic))
		return false;
	return x2apic_write(apic, (msr - APIC_MSR_X2APIC_FIRST) << 4, value);
}
