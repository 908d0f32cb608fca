/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bios_code.S - the calls of a PC's BIOS that iPXE makes, and the way there. All between bios_begin and bios_end is copied to BIOS_BASE. Registers that
 * a call does not answer in are kept. Numbers of calls: Ralf Brown's Interrupt List.
 */
#include "bios.h"

#define OFFSET(label) (label - bios_begin)
#define SMAP 0x534d4150

/* void bios_enter(void): to real mode, and to the entry point of what lies at SETUP_SEGMENT. */
	.text
	.code32
	.globl bios_enter
bios_enter:
	lidt real_idt
	movl $0x40, %ecx		/* SEL_DATA16: limits of 64 KiB go with us */
	movl %ecx, %ds
	movl %ecx, %es
	movl %ecx, %fs
	movl %ecx, %gs
	movl %ecx, %ss
	ljmp $BIOS_CODE_SEL, $OFFSET(enter)
	.balign 4
real_idt:
	.word 0x3ff
	.long 0

	.data
	.balign 16
	.globl bios_begin, bios_end, bios_vectors, bios_map
	.code16
bios_begin:
enter:
	movl %cr0, %eax
	andl $~1, %eax
	movl %eax, %cr0
	ljmp $BIOS_SEGMENT, $OFFSET(real)
real:
	movw $SETUP_SEGMENT, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %fs
	movw %ax, %gs
	movw %ax, %ss
	movw $0xfff0, %sp
	cld
	ljmp $SETUP_SEGMENT + 0x20, $0

/* Vector and handler of each that is more than a return. */
	.balign 4
bios_vectors:
	.word TICK_VECTOR, OFFSET(tick)
	.word 0x10, OFFSET(video)
	.word 0x11, OFFSET(equipment)
	.word 0x12, OFFSET(memory_size)
	.word 0x13, OFFSET(failed)
	.word 0x15, OFFSET(system)
	.word 0x16, OFFSET(keyboard)
	.word 0x18, OFFSET(nothing_left)
	.word 0x19, OFFSET(nothing_left)
	.word 0x1a, OFFSET(clock)
	.word 0, OFFSET(nothing)

nothing:
	iretw

tick:
	pushal
	pushw %ds
	movw $0x40, %ax
	movw %ax, %ds
	incl 0x6c
	movl $0x80b, %ecx		/* end of interrupt, by x2APIC */
	xorl %eax, %eax
	xorl %edx, %edx
	wrmsr
	popw %ds
	popal
	iretw

/* Characters go to COM1; nobody looks at a screen. */
video:
	cmpb $0x0e, %ah
	jne 2f
	pushw %dx
	pushw %ax
	movw $0x3fd, %dx
1:	inb %dx, %al
	testb $0x20, %al
	jz 1b
	popw %ax
	movw $0x3f8, %dx
	outb %al, %dx
	popw %dx
	iretw
2:	cmpb $0x03, %ah			/* the cursor: at home */
	jne 3f
	xorw %cx, %cx
	xorw %dx, %dx
3:	cmpb $0x08, %ah			/* what is there: a space, grey on black */
	jne 4f
	movw $0x0720, %ax
4:	cmpb $0x0f, %ah			/* 80 columns, mode 3, page 0 */
	jne 5f
	movw $0x5003, %ax
	movb $0, %bh
5:	iretw

equipment:
	xorw %ax, %ax
	iretw

memory_size:
	movw $BIOS_BASE_KIB, %ax
	iretw

failed:
	movb $0x86, %ah
carry:
	pushw %bp
	movw %sp, %bp
	orb $1, 6(%bp)
	popw %bp
	iretw

done:
	pushw %bp
	movw %sp, %bp
	andb $~1, 6(%bp)
	popw %bp
	iretw

system:
	cmpw $0xe820, %ax
	je memory_map
	cmpb $0x88, %ah			/* KiB from 1 MiB up, as far as 16 MiB */
	jne failed
	movw $0x3c00, %ax
	jmp done

/* EBX counts entries of 20 bytes, ES:DI is where one goes. */
memory_map:
	cmpl $SMAP, %edx
	jne failed
	cmpl %cs:OFFSET(bios_map), %ebx
	jae failed
	pushw %ds
	pushw %si
	pushw %di
	pushw %cs
	popw %ds
	imulw $20, %bx, %si
	addw $OFFSET(bios_map) + 4, %si
	movw $20, %cx
	cld
	rep movsb
	popw %di
	popw %si
	popw %ds
	incl %ebx
	cmpl %cs:OFFSET(bios_map), %ebx
	jb 1f
	xorl %ebx, %ebx
1:	movl $20, %ecx
	movl $SMAP, %eax
	jmp done

/* Nobody types: no key is there (ZF), no shift is held. */
keyboard:
	pushw %bp
	movw %sp, %bp
	orb $0x40, 6(%bp)
	popw %bp
	xorw %ax, %ax
	iretw

clock:
	cmpb $0, %ah
	jne failed
	pushw %ds
	movw $0x40, %cx
	movw %cx, %ds
	movw 0x6e, %cx
	movw 0x6c, %dx
	popw %ds
	xorb %al, %al
	jmp done

/* What was started has ended, and says that somebody else may have the machine. */
nothing_left:
	movw $0xf4, %dx
	xorl %eax, %eax
	outl %eax, %dx
1:	cli
	hlt
	jmp 1b

/* Number of entries, and these: address, length, type (INT 15, E820). */
	.balign 4
bios_map:
	.long 0
	.skip 8 * 20
bios_end:
	.section .note.GNU-stack, "", @progbits
