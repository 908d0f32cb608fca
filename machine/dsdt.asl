/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dsdt.asl - the devices of the direct-boot machine, as the operating system in it is told of them.
 *
 * What differs between machines stands in the machine block (acpi_format.h, struct machine_block), which
 * the loader fills and the methods here read.
 */
DefinitionBlock ("dsdt.aml", "DSDT", 2, "BLKHD", "DIRECT", 0x00000001)
{
	OperationRegion (BLCK, SystemMemory, 0x000EF000, 0x28)
	Field (BLCK, DWordAcc, NoLock, Preserve)
	{
		CPUS, 32,       // virtual processors
		COM1, 8,        // present?
		COM2, 8,
		, 16,
		LOWB, 32,       // low window of address space: base, size
		LOWS, 32,
		HIBL, 32,       // high window: base, last address and size, low and high halves
		HIBH, 32,
		HIEL, 32,
		HIEH, 32,
		HISL, 32,
		HISH, 32
	}

	// Soft-off is the one sleep state.
	Name (\_S5, Package () { 5, 5, 0, 0 })

	Scope (\_SB)
	{
		// The bus that VMBus devices hang on: a module that owns the address space they may use.
		Device (VMOD)
		{
			Name (_HID, "ACPI0004")
			Name (_UID, Zero)

			Name (WIND, ResourceTemplate ()
			{
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,
					0, 0, 0, 0, 0, , , LOW0)
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,
					0, 0, 0, 0, 0, , , HIG0)
			})
			Method (_CRS, 0, Serialized)
			{
				CreateDWordField (WIND, \_SB.VMOD.LOW0._MIN, LMIN)
				CreateDWordField (WIND, \_SB.VMOD.LOW0._MAX, LMAX)
				CreateDWordField (WIND, \_SB.VMOD.LOW0._LEN, LLEN)
				LMIN = LOWB
				LMAX = LOWB + LOWS - 1
				LLEN = LOWS
				CreateQWordField (WIND, \_SB.VMOD.HIG0._MIN, HMIN)
				CreateQWordField (WIND, \_SB.VMOD.HIG0._MAX, HMAX)
				CreateQWordField (WIND, \_SB.VMOD.HIG0._LEN, HLEN)
				HMIN = HIBL | (HIBH << 32)
				HMAX = HIEL | (HIEH << 32)
				HLEN = HISL | (HISH << 32)
				Return (WIND)
			}

			Device (VMBS)
			{
				// The name that every guest knows. It is shorter than ACPI allows, which only a
				// compiler minds, so it is returned and not named.
				Method (_HID) { Return ("VMBus") }
				Name (_UID, Zero)
				Name (_DDN, "VMBUS")
				Method (_STA) { Return (0x0F) }
			}
		}

		Device (RTC0)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x70, 0x70, 1, 2)
				IRQNoFlags () { 8 }
			})
		}

		Device (UAR1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, One)
			Name (_DDN, "COM1")
			Method (_STA)
			{
				If (COM1) { Return (0x0F) }
				Return (Zero)
			}
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x3F8, 0x3F8, 1, 8)
				IRQNoFlags () { 4 }
			})
		}

		Device (UAR2)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 2)
			Name (_DDN, "COM2")
			Method (_STA)
			{
				If (COM2) { Return (0x0F) }
				Return (Zero)
			}
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x2F8, 0x2F8, 1, 8)
				IRQNoFlags () { 3 }
			})
		}

		// What no driver claims but is taken: ACPI's own ports, I/O APIC, local APICs.
		Device (MBRS)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, Zero)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x400, 0x400, 1, 0x10)
				Memory32Fixed (ReadWrite, 0xFEC00000, 0x1000)
				Memory32Fixed (ReadWrite, 0xFEE00000, 0x1000)
			})
		}

		// Whether processor Arg0 exists.
		Method (CSTA, 1)
		{
			If (Arg0 < CPUS) { Return (0x0F) }
			Return (Zero)
		}

		#include "processors.asl"
	}
}
