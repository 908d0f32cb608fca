/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a started processor begins: copied to 0x8000, in real mode; on to 64-bit mode and processor_main(). */
	.text
	.globl trampoline, trampoline_end
	.code16
trampoline:
	cli
	movw %cs, %ax
	movw %ax, %ds
	lgdtl trampoline_gdt - trampoline
	movl $0x33, %eax
	movl %eax, %cr0
	ljmpl $0x30, $0x8000 + (protected - trampoline)
	.code32
protected:
	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $0x620, %eax
	movl %eax, %cr4
	movl $boot_pml4, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	movl $0x901, %eax
	xorl %edx, %edx
	wrmsr
	movl $0x80010033, %eax
	movl %eax, %cr0
	ljmp $8, $started
	.balign 8
trampoline_gdt:
	.word 32 * 8 - 1
	.long gdt
trampoline_end:

	.code64
started:
	movl $1, %eax
	cpuid
	shrl $24, %ebx			/* the initial APIC id */
	movl %ebx, %edi
	movl %ebx, %eax
	incl %eax
	shll $14, %eax
	leaq processor_stacks(%rax), %rsp
	call processor_main
1:	cli
	hlt
	jmp 1b

	.section .bss
	.balign 4096
processor_stacks:
	.skip 64 * 16384
	.section .note.GNU-stack, "", @progbits
