# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the ASL of the processor devices: one for each virtual processor that a partition can have.

Usage: processors.py COUNT OUTPUT. COUNT is PARTITION_MAX_VPS of hypervisor/hypervisor.h.
"""
import sys

with open(sys.argv[2], "w") as out:
    for n in range(int(sys.argv[1])):
        out.write(f'Device (C{n:03X}) {{ Name (_HID, "ACPI0007") Name (_UID, {n}) '
                  f'Method (_STA) {{ Return (CSTA ({n})) }} }}\n')
