/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * realmode_code.S - what realmode.c runs in real mode. All between real_begin and real_end is copied to 0x7000 and
 * runs there as segment 0x700, with DS = CS, ES = 0x900, and a stack in segment 0x600. A test is a near procedure
 * that leaves its result in EAX.
 */
#define REAL_BASE 0x7000
#define REAL_SEGMENT 0x700
#define OFFSET(label) (label - real_begin)

/* uint32_t real_call(uint32_t procedure): go to real mode, call, come back. `procedure` is an offset. */
	.text
	.code32
	.globl real_call
real_call:
	movl 4(%esp), %eax
	pushl %ebx
	pushl %ebp
	pushl %esi
	pushl %edi
	movl %esp, real_saved_sp
	sidt real_saved_idt
	movw %ax, REAL_BASE + OFFSET(real_target)
	lidt real_idt
	movl $0x40, %ecx		/* 16-bit data: limits of 64 KiB go with us */
	movl %ecx, %ds
	movl %ecx, %es
	movl %ecx, %fs
	movl %ecx, %gs
	movl %ecx, %ss
	ljmp $0x38, $REAL_BASE + OFFSET(real_enter)

	.globl real_back
real_back:
	movl $0x10, %ecx
	movl %ecx, %ds
	movl %ecx, %es
	movl %ecx, %fs
	movl %ecx, %gs
	movl %ecx, %ss
	movl real_saved_sp, %esp
	lidt real_saved_idt
	movl REAL_BASE + OFFSET(real_result), %eax
	popl %edi
	popl %esi
	popl %ebp
	popl %ebx
	ret

	.bss
real_saved_sp:
	.skip 4
real_saved_idt:
	.skip 8
	.data
real_idt:
	.word 0x3ff
	.long 0

	.data
	.balign 16
	.globl real_begin, real_end
	.code16
real_begin:
/* CS is the descriptor with base 0, so this runs at its true address until the far jump. */
real_enter:
	movl %cr0, %eax
	andl $~1, %eax
	movl %eax, %cr0
	ljmp $REAL_SEGMENT, $OFFSET(real_mode)
real_mode:
	movw %cs, %ax
	movw %ax, %ds
	movw $0x600, %ax
	movw %ax, %ss
	movw $0x1000, %sp
	movw $0x900, %ax
	movw %ax, %es
	xorw %ax, %ax
	movw %ax, %fs
	movw %ax, %gs
	cld
	callw *OFFSET(real_target)
	movl %eax, %cs:OFFSET(real_result)
	cli
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $8, $real_back

	.balign 4
real_target:
	.word 0
	.balign 4
real_result:
	.long 0

/* Vectors are set by this: BX the vector, AX the offset. */
set_vector:
	pushw %ds
	pushw %bx
	xorw %cx, %cx
	movw %cx, %ds
	shlw $2, %bx
	movw %ax, (%bx)
	movw $REAL_SEGMENT, 2(%bx)
	popw %bx
	popw %ds
	ret

	.globl real_add
real_add:
	movl $0x0001ffff, %eax
	addw $1, %ax			/* AX wraps, the upper half stays */
	ret

/* INT n: three words on the stack, IF cleared inside, all back with IRET. */
	.globl real_int
real_int:
	movw $0x40, %bx
	movw $OFFSET(1f), %ax
	call set_vector
	movw %sp, %si
	xorl %eax, %eax
	sti
	int $0x40
2:	pushfw
	popw %dx
	cli
	shrw $9, %dx
	andw $1, %dx			/* IF is back */
	shll $16, %edx
	orl %edx, %eax
	ret
1:	movw %si, %ax
	subw %sp, %ax			/* 6 */
	movw %sp, %bp
	movw (%bp), %cx			/* where from */
	subw $OFFSET(2b), %cx		/* 0 */
	orw %cx, %ax
	movw 2(%bp), %cx
	subw $REAL_SEGMENT, %cx
	orw %cx, %ax
	pushfw
	popw %cx
	andw $0x200, %cx		/* 0 */
	orw %cx, %ax
	iretw

/* Exceptions come through the same table, with no error code: 0x0606 when three of them did. */
	.globl real_exceptions
real_exceptions:
	xorl %eax, %eax
	movl %eax, OFFSET(seen_faults)
	xorw %bx, %bx
	movw $OFFSET(divide), %ax
	call set_vector
	movw $6, %bx
	movw $OFFSET(invalid), %ax
	call set_vector
	movw $13, %bx
	movw $OFFSET(protection), %ax
	call set_vector
	movw $12, %bx
	movw $OFFSET(stack), %ax
	call set_vector
	xorw %cx, %cx
	xorw %dx, %dx
div_at:	divw %cx			/* 2 bytes */
ud_at:	ud2
gp_at:	movw 0xffff, %ax		/* 3 bytes: a word over the end of the segment */
	movw $0xffff, %bp
ss_at:	movw (%bp), %cx			/* 3 bytes (with a displacement of 0) */
	movl OFFSET(seen_faults), %eax
	ret
seen_faults:
	.long 0
divide:
	movw %sp, %bp
	cmpw $OFFSET(div_at), (%bp)
	jne 1f
	orb $1, OFFSET(seen_faults)
1:	addw $2, (%bp)
	iretw
invalid:
	movw %sp, %bp
	cmpw $OFFSET(ud_at), (%bp)
	jne 1f
	orb $2, OFFSET(seen_faults)
1:	addw $2, (%bp)
	iretw
protection:
	movw %sp, %bp
	cmpw $OFFSET(gp_at), (%bp)
	jne 1f
	orb $4, OFFSET(seen_faults)
1:	addw $3, (%bp)
	iretw
stack:
	pushw %bp
	movw %sp, %bp
	cmpw $OFFSET(ss_at), 2(%bp)
	jne 1f
	orb $8, OFFSET(seen_faults)
1:	addw $3, 2(%bp)
	popw %bp
	iretw

/* A vector beyond the limit of the IDT is #GP. */
	.globl real_idt_limit
real_idt_limit:
	movw $13, %bx
	movw $OFFSET(1f), %ax
	call set_vector
	xorl %eax, %eax
	lidtl OFFSET(short_idt)
	int $0x40
	lidtl OFFSET(whole_idt)
	ret
1:	movw $0x1313, %ax
	movw %sp, %bp
	addw $2, (%bp)
	iretw
short_idt:
	.word 0x40 * 4 - 1
	.long 0
whole_idt:
	.word 0x3ff
	.long 0

/* Segment times 16 plus offset: the same byte by two ways; and above 1 MiB, with A20 on. */
	.globl real_segments
real_segments:
	movw $0x1234, %ax
	movw %ax, %es
	movb $0x5a, %es:0x10
	movw $0x1235, %ax
	movw %ax, %fs
	movzbl %fs:0, %eax
	movw $0xffff, %cx
	movw %cx, %es
	movb $0xa5, %es:0x20		/* 0x100010 */
	xorw %cx, %cx
	movw %cx, %fs
	movb %fs:0x10, %ah		/* 0x10: must not be the same */
	movw $0x900, %cx
	movw %cx, %es
	ret

/* Strings count in CX and wrap at 64 KiB. */
	.globl real_strings
real_strings:
	movw $0xfffe, %di
	movw $4, %cx
	movb $0x77, %al
	rep stosb			/* 0xfffe, 0xffff, 0, 1 */
	movzwl %di, %eax		/* 2 */
	shll $16, %eax
	movb %es:0xffff, %al
	movb %es:1, %ah
	ret

/* Far call and return; PUSHA, POPA, ENTER, LEAVE with words. */
	.globl real_stack
real_stack:
	movw %sp, %si
	lcall $REAL_SEGMENT, $OFFSET(1f)
	pushaw
	movw %si, %bx
	subw %sp, %bx			/* 16 */
	movw %bx, %cs:OFFSET(real_scratch)
	popaw
	enter $8, $0
	movw %si, %ax
	subw %sp, %ax			/* 10 */
	leave
	cmpw %sp, %si
	jne 2f
	shll $16, %eax
	movw OFFSET(real_scratch), %ax
	ret
1:	lretw
2:	xorl %eax, %eax
	ret
real_scratch:
	.word 0

/* 32-bit operands and addresses by prefix. */
	.globl real_prefixes
real_prefixes:
	movl $0x12345678, %eax
	movl $4, %ebx
	movl %eax, %es:(%ebx, %ebx, 4)	/* 20 */
	rorl $16, %eax
	addl %es:20, %eax		/* 0x56781234 + 0x12345678 */
	ret

/* Single step through vector 1. */
	.globl real_single_step
real_single_step:
	movw $1, %bx
	movw $OFFSET(1f), %ax
	call set_vector
	xorl %eax, %eax
	pushfw
	orw $0x100, %ss:(0x1000 - 4)	/* the return address is above it */
	popfw
	nop
	nop
	pushfw
	andw $~0x100, %ss:(0x1000 - 4)
	popfw
	ret
1:	incw %ax
	iretw

/* A limit of 4 GiB that was loaded in protected mode stays in real mode. ESI: an address above 1 MiB. */
	.globl real_big_limit
real_big_limit:
	lgdtl OFFSET(big_gdt)
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	movw $8, %bx
	movw %bx, %fs
	andb $~1, %al
	movl %eax, %cr0
	movl $0x200000, %esi
	movl %fs:(%esi), %eax
	xorw %bx, %bx
	movw %bx, %fs			/* a load in real mode leaves the limit alone too */
	addl %fs:(%esi), %eax
	lgdtl OFFSET(own_gdt)
	ret
	.balign 8
big_table:
	.quad 0
	.quad 0x00cf93000000ffff
big_gdt:
	.word 15
	.long REAL_BASE + OFFSET(big_table)
own_gdt:
	.word 32 * 8 - 1
	.long gdt

/* What may not be used: long mode's and protected mode's own instructions are #UD. */
	.globl real_undefined
real_undefined:
	movw $6, %bx
	movw $OFFSET(1f), %ax
	call set_vector
	xorl %eax, %eax
	.byte 0x0f, 0x00, 0xd8		/* ltr ax */
	.byte 0x0f, 0x02, 0xc0		/* lar ax, ax */
	.byte 0x63, 0xc0, 0x90		/* arpl ax, ax */
	ret
1:	incw %ax
	movw %sp, %bp
	addw $3, (%bp)
	iretw
real_end:
	.section .note.GNU-stack, "", @progbits
