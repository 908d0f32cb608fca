/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ports, memory-mapped registers, MSRs and interrupts of devices: the ways out of the processor, each way
 * there is. */
#include "devices.h"

/* May come at any time (SDM volume 3, 11.9), and wants no EOI. */
static void on_spurious(struct frame *frame)
{
}

void guest_main(void)
{
	static const struct test tests[] = {
	    {"port-sizes", port_sizes},
	    {"port-unclaimed", port_unclaimed},
	    {"port-strings-out", port_strings_out},
	    {"port-strings-in", port_strings_in},
	    {"port-string-forms", port_string_forms},
	    {"port-string-faults", port_string_faults},
	    {"port-timer", port_timer},
	    {"mmio-sizes", mmio_sizes},
	    {"mmio-instructions", mmio_instructions},
	    {"mmio-modify", mmio_modify},
	    {"mmio-addressing", mmio_addressing},
	    {"mmio-strings", mmio_strings},
	    {"mmio-unclaimed", mmio_unclaimed},
	    {"mmio-crossing", mmio_crossing},
	    {"ram-end", ram_end},
	    {"msr-time", msr_time},
	    {"msr-system-calls", msr_system_calls},
	    {"msr-bases", msr_bases},
	    {"msr-memory-types", msr_memory_types},
	    {"msr-efer", msr_efer},
	    {"msr-unknown", msr_unknown},
	    {"pin-edge", pin_edge},
	    {"pin-masked", pin_masked},
	    {"pin-level", pin_level},
	    {"pin-level-masked", pin_level_masked},
	    {"pin-directed-eoi", pin_directed_eoi},
	    {"pin-destinations", pin_destinations},
	    {"pin-nmi", pin_nmi},
	    {"clock-interrupts", clock_interrupts},
	    {"power-registers", power_registers},
	};

	set_handler(0xff, on_spurious);
	apic_enable();
	apic_write(APIC_LVT_LINT0, LVT_MASKED);
	run_tests(tests, sizeof(tests) / sizeof(tests[0]));
}
