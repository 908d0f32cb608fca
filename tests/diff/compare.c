// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * compare.c - compares what the two sides made of a scenario. Everything is compared, except what the
 * manual leaves open and was seen to differ (open.c).
 */
#include "tests/diff/diff.h"

#include <string.h>

/* --- comparison --------------------------------------------------------------------------------- */

struct report {
	char *text;
	size_t size, used;
	unsigned differences;
	bool narrow;
};

static void differ(struct report *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void differ(struct report *r, const char *format, ...)
{
	va_list args;

	r->differences++;
	if (r->differences > 24 || r->used + 200 > r->size)
		return;
	va_start(args, format);
	r->used += (size_t)vsnprintf(r->text + r->used, r->size - r->used, format, args);
	va_end(args);
	r->used += (size_t)snprintf(r->text + r->used, r->size - r->used, "\n");
}

static const char *const register_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static void compare_general(struct report *r, const struct outcome *native, const struct outcome *soft)
{
	/* What 32-bit code leaves in the upper halves and in R8 to R15 is undefined (SDM volume 1, 3.4.1.1). */
	uint64_t mask = r->narrow ? 0xffffffff : ~0ull;

	for (unsigned i = 0; i < (r->narrow ? 8u : 16u); i++)
		if ((native->cpu.gpr[i] ^ soft->cpu.gpr[i]) & mask)
			differ(r, "  %-6s host %016llx soft %016llx", register_names[i],
			       (unsigned long long)native->cpu.gpr[i], (unsigned long long)soft->cpu.gpr[i]);
	if (native->cpu.rip != soft->cpu.rip)
		differ(r, "  rip    host %016llx soft %016llx", (unsigned long long)native->cpu.rip,
		       (unsigned long long)soft->cpu.rip);
	if ((native->cpu.rflags ^ soft->cpu.rflags) & FLAGS_USER)
		differ(r, "  rflags host %08x soft %08x", (unsigned)native->cpu.rflags,
		       (unsigned)soft->cpu.rflags);
}

static bool has_error_code(unsigned vector)
{
	return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

static void compare_exception(struct report *r, const struct outcome *native, const struct outcome *soft)
{
	uint32_t error = native->error ^ soft->error;

	if (native->vector != soft->vector) {
		differ(r, "  vector host %u soft %u (rip %llx, %llx; cr2 %llx)", native->vector, soft->vector,
		       (unsigned long long)native->cpu.rip, (unsigned long long)soft->cpu.rip,
		       (unsigned long long)soft->cr2);
		return;
	}
	if (native->vector == 14 && native->cr2 != soft->cr2)
		differ(r, "  cr2    host %016llx soft %016llx", (unsigned long long)native->cr2,
		       (unsigned long long)soft->cr2);
	/* Linux reports every address above user space as present, so as to give nothing away. */
	if (native->vector == 14 && native->cr2 >= 0x7ffffffff000)
		error &= ~1u;
	if (has_error_code(native->vector) && error)
		differ(r, "  error  host %x soft %x", native->error, soft->error);
}

static void hex(char *to, const uint8_t *p, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		sprintf(to + 2 * (size_t)i, "%02x", p[size - 1 - i]);
}

static void compare_field(struct report *r, const char *name, int index, const struct outcome *native,
			  const struct outcome *soft, unsigned offset, unsigned size)
{
	char host_hex[65], soft_hex[65], label[16];

	if (memcmp(native->cpu.area + offset, soft->cpu.area + offset, size) == 0)
		return;
	hex(host_hex, native->cpu.area + offset, size);
	hex(soft_hex, soft->cpu.area + offset, size);
	if (index < 0)
		snprintf(label, sizeof(label), "%s", name);
	else
		snprintf(label, sizeof(label), "%s%d", name, index);
	differ(r, "  %-6s host %s soft %s", label, host_hex, soft_hex);
}

static void compare_vectors(struct report *r, const struct outcome *native, const struct outcome *soft)
{
	compare_field(r, "fcw", -1, native, soft, 0, 2);
	compare_field(r, "fsw", -1, native, soft, 2, 2);
	compare_field(r, "ftw", -1, native, soft, 4, 1);
	compare_field(r, "fop", -1, native, soft, 6, 2);
	compare_field(r, "fip", -1, native, soft, 8, 8);
	compare_field(r, "fdp", -1, native, soft, 16, 8);
	compare_field(r, "mxcsr", -1, native, soft, 24, 4);
	for (int i = 0; i < 8; i++)
		compare_field(r, "st", i, native, soft, 32 + 16 * (unsigned)i, 10);
	for (int i = 0; i < 16; i++)
		compare_field(r, "xmm", i, native, soft, 160 + 16 * (unsigned)i, 16);
	for (int i = 0; i < 16; i++)
		compare_field(r, "ymmh", i, native, soft, AREA_AVX + 16 * (unsigned)i, 16);
}

static void compare_memory(struct report *r, const struct outcome *native, const struct outcome *soft)
{
	if (memcmp(native->memory, soft->memory, MEMORY_SIZE) == 0)
		return;
	for (unsigned i = 0; i < MEMORY_SIZE; i += 8) {
		uint64_t h = le64_get(native->memory + i), s = le64_get(soft->memory + i);

		if (h != s)
			differ(r, "  [%llx] host %016llx soft %016llx",
			       (unsigned long long)(i < DATA_SIZE ? DATA_LINEAR + i
								  : STACK_LINEAR + i - DATA_SIZE),
			       (unsigned long long)h, (unsigned long long)s);
	}
}

unsigned outcome_compare(const struct scenario *s, const struct instruction *last,
			 const struct outcome *native, const struct outcome *soft, char *text, size_t size)
{
	static struct outcome settled;
	struct report r = {.text = text, .size = size, .narrow = s->narrow};

	settled = *soft;
	outcome_settle(s, last, native, &settled);
	text[0] = 0;
	compare_exception(&r, native, &settled);
	compare_general(&r, native, &settled);
	compare_vectors(&r, native, &settled);
	compare_memory(&r, native, &settled);
	return r.differences;
}

/* --- description -------------------------------------------------------------------------------- */

static void disassemble(const struct scenario *s, const struct instruction *i, char *text, size_t size)
{
	ZydisDisassembledInstruction d;

	snprintf(text, size, "?");
	if (ZYAN_SUCCESS(ZydisDisassembleIntel(s->narrow ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
					       CODE_LINEAR + i->offset,
					       s->code + i->offset, i->length, &d)))
		snprintf(text, size, "%s", d.text);
}

void scenario_describe(const struct scenario *s, char *text, size_t size)
{
	size_t used = 0;

	for (unsigned i = 0; i < s->count && used + 400 < size; i++) {
		const struct instruction *insn = &s->instructions[i];
		char line[128];

		disassemble(s, insn, line, sizeof(line));
		used += (size_t)snprintf(text + used, size - used, "  %llx ",
					 (unsigned long long)CODE_LINEAR + insn->offset);
		for (unsigned k = 0; k < insn->length; k++)
			used += (size_t)snprintf(text + used, size - used, "%02x", s->code[insn->offset + k]);
		used += (size_t)snprintf(text + used, size - used, "  %s\n", line);
	}
	for (unsigned i = 0; i < 16 && used + 100 < size; i++)
		used += (size_t)snprintf(text + used, size - used, "  %-3s %016llx%s", register_names[i],
					 (unsigned long long)s->start.gpr[i], i % 4 == 3 ? "\n" : "");
	snprintf(text + used, size - used, "  rflags %08x mxcsr %08x fcw %04x fsw %04x ftw %02x\n",
		 (unsigned)s->start.rflags, le32_get(s->start.area + 24), le16_get(s->start.area),
		 le16_get(s->start.area + 2), s->start.area[4]);
}
