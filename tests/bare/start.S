/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * start.S - from the multiboot entry (32-bit protected mode, paging off) to C, in the mode that the guest
 * is built for; the interrupt stubs; and the return point of caught faults.
 */
#define MULTIBOOT_FLAGS 3

	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002, MULTIBOOT_FLAGS, -(0x1badb002 + MULTIBOOT_FLAGS)

	.section .bss
	.balign 4096
	.skip 65536
	.globl stack_top
stack_top:
	.globl multiboot_info
multiboot_info:
	.skip 8

	.data
	.balign 16
	.globl gdt
gdt:
	.quad 0
#ifdef __x86_64__
	.quad 0x00af9b000000ffff	/* 0x08 code, 64-bit */
#else
	.quad 0x00cf9b000000ffff	/* 0x08 code, 32-bit */
#endif
	.quad 0x00cf93000000ffff	/* 0x10 data */
	.quad 0x00cffb000000ffff	/* 0x18 user code, 32-bit */
	.quad 0x00cff3000000ffff	/* 0x20 user data */
	.quad 0x00affb000000ffff	/* 0x28 user code, 64-bit */
	.quad 0x00cf9b000000ffff	/* 0x30 code, 32-bit */
	.quad 0x00009b000000ffff	/* 0x38 code, 16-bit, base 0, 64 KiB */
	.quad 0x000093000000ffff	/* 0x40 data, 16-bit */
	.fill 23, 8, 0			/* 0x48 TSS, then free */
	.globl gdt_register
gdt_register:
	.word 32 * 8 - 1
	.long gdt, 0

#ifdef __x86_64__
	.section .bss
	.balign 4096
	.globl boot_pml4
boot_pml4:
	.skip 4096
boot_pdpt:
	.skip 4096
boot_pd:
	.skip 4 * 4096
#endif

	.text
	.code32
	.globl _start
_start:
	cli
	cld
	movl $stack_top, %esp
	movl %ebx, multiboot_info
	lgdt gdt_register
#ifdef __x86_64__
	movl $boot_pdpt + 7, boot_pml4
	movl $boot_pd + 7, %eax
	xorl %ecx, %ecx
1:	movl %eax, boot_pdpt(, %ecx, 8)
	addl $4096, %eax
	incl %ecx
	cmpl $4, %ecx
	jb 1b
	movl $0x87, %eax		/* present, writable, user, 2 MiB */
	xorl %ecx, %ecx
2:	movl %eax, boot_pd(, %ecx, 8)
	addl $0x200000, %eax
	incl %ecx
	cmpl $2048, %ecx
	jb 2b
	movl $boot_pml4, %eax
	movl %eax, %cr3
	movl $0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	movl %eax, %cr4
	movl $0xc0000080, %ecx
	movl $0x901, %eax		/* SCE, LME, NXE */
	xorl %edx, %edx
	wrmsr
	movl $0x80010033, %eax		/* PG, WP, NE, ET, MP, PE */
	movl %eax, %cr0
#endif
	ljmp $8, $in_mode

#ifdef __x86_64__
	.code64
#endif
in_mode:
	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl %eax, %fs
	movl %eax, %gs
#ifdef __x86_64__
	movl $stack_top, %esp
#endif
	call bare_start
	hlt

/* One stub a vector, 16 bytes each, so that the vector follows from where it lies. */
	.balign 16
	.globl stubs
stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17
	push $0
	.endif
	push $vector
	jmp interrupted
	.set vector, vector + 1
	.endr

	.balign 16
interrupted:
#ifdef __x86_64__
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	movq %rsp, %rdi
	movq %rsp, %rbp
	andq $-16, %rsp
	call interrupt
	movq %rbp, %rsp
	.globl frame_return
frame_return:
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	addq $16, %rsp
	iretq
#else
	pushal
	cld
	pushl %ds
	pushl %es
	movl $0x10, %eax
	movl %eax, %ds
	movl %eax, %es
	leal 8(%esp), %eax
	pushl %eax
	call interrupt
	addl $4, %esp
	popl %es
	popl %ds
	popal
	addl $8, %esp
	iretl
#endif

/* int catch_begin(struct catch_point *point) */
	.globl catch_begin
catch_begin:
#ifdef __x86_64__
	movq (%rsp), %rax
	movq %rax, 0(%rdi)
	leaq 8(%rsp), %rax
	movq %rax, 8(%rdi)
	movq %rbp, 16(%rdi)
	movq %rbx, 24(%rdi)
	movq %r12, 32(%rdi)
	movq %r13, 40(%rdi)
	movq %r14, 48(%rdi)
	movq %r15, 56(%rdi)
#else
	movl 4(%esp), %edx
	movl (%esp), %eax
	movl %eax, 0(%edx)
	leal 4(%esp), %eax
	movl %eax, 4(%edx)
	movl %ebp, 8(%edx)
	movl %ebx, 12(%edx)
	movl %esi, 16(%edx)
	movl %edi, 20(%edx)
#endif
	xorl %eax, %eax
	ret

/* Go on at the catch point, from any stack: catch_resume(point) */
	.globl catch_resume
catch_resume:
#ifdef __x86_64__
	movq 16(%rdi), %rbp
	movq 24(%rdi), %rbx
	movq 32(%rdi), %r12
	movq 40(%rdi), %r13
	movq 48(%rdi), %r14
	movq 56(%rdi), %r15
	movq 8(%rdi), %rsp
	movl $1, %eax
	jmp *0(%rdi)
#else
	movl 4(%esp), %edx
	movl 8(%edx), %ebp
	movl 12(%edx), %ebx
	movl 16(%edx), %esi
	movl 20(%edx), %edi
	movl 4(%edx), %esp
	movl $1, %eax
	jmp *0(%edx)
#endif

	.section .note.GNU-stack, "", @progbits
