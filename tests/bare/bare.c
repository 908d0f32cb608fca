/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "bare.h"

#define COM1 0x3f8

extern char stubs[], guest_end[];
extern void catch_resume(struct catch_point *point) __attribute__((noreturn));
void bare_start(void);
void interrupt(struct frame *frame);

struct catch_point catch_point;
struct fault fault;
struct gate idt[256] __attribute__((aligned(16)));
struct tss tss __attribute__((aligned(128)));

static interrupt_fn handlers[256];
static uint8_t interrupt_stack[16384] __attribute__((aligned(16)));
static char *next_page;
static unsigned long top_of_memory;
static char command_line[512];

static struct {
	bool failed, skipped;
	char text[256];
} state;

/* Without a hypervisor that tells: few processors count faster. */
static uint32_t ticks_per_microsecond = 4000;

/* For anything that will ever happen to have happened: microseconds in which this processor ran. A look that took longer than
 * this came after the host had done something else, which is no time of ours. */
#define PATIENCE 20000000u
#define LOOK_MAX 100u

/* --- output ------------------------------------------------------------------------------------- */

static void put_char(char c)
{
	while (!(inb(COM1 + 5) & 0x20))
		cpu_relax();
	outb(COM1, (uint8_t)c);
}

struct sink {
	char *at, *end; /* NULL: the serial port */
};

static void emit(struct sink *sink, char c)
{
	if (!sink->at)
		put_char(c);
	else if (sink->at + 1 < sink->end)
		*sink->at++ = c;
}

static void emit_number(struct sink *sink, uint64_t value, unsigned base, int width)
{
	char digits[24];
	int n = 0;

	/* No 64-bit division in a 32-bit guest: only hexadecimal is wide there. */
	do {
		if (base == 16) {
			digits[n++] = "0123456789abcdef"[value & 15];
			value >>= 4;
		} else {
			digits[n++] = (char)('0' + (uint32_t)value % 10);
			value = (uint32_t)value / 10;
		}
	} while (value);
	while (width-- > n)
		emit(sink, '0');
	while (n)
		emit(sink, digits[--n]);
}

static void emit_format(struct sink *sink, const char *format, va_list args)
{
	for (; *format; format++) {
		int longs = 0, width = 0;
		uint64_t value;

		if (*format != '%') {
			emit(sink, *format);
			continue;
		}
		for (format++; *format >= '0' && *format <= '9'; format++)
			width = width * 10 + *format - '0';
		for (; *format == 'l'; format++)
			longs++;
		if (*format == 's') {
			for (const char *s = va_arg(args, const char *); *s; s++)
				emit(sink, *s);
			continue;
		}
		value = longs == 2       ? va_arg(args, unsigned long long)
			: longs          ? va_arg(args, unsigned long)
			: *format == 'p' ? (unsigned long)va_arg(args, void *)
					 : va_arg(args, unsigned);
		if (*format == 'c')
			emit(sink, (char)value);
		else
			emit_number(sink, value, *format == 'x' || *format == 'p' ? 16 : 10, width);
	}
}

void print(const char *format, ...)
{
	struct sink sink = {0};
	va_list args;

	va_start(args, format);
	emit_format(&sink, format, args);
	va_end(args);
}

static void note_failure(const char *format, ...)
{
	struct sink sink = {state.text, state.text + sizeof(state.text)};
	va_list args;

	if (state.failed)
		return;
	state.failed = true;
	va_start(args, format);
	emit_format(&sink, format, args);
	va_end(args);
	*sink.at = '\0';
}

void machine_exit(unsigned code)
{
	outl(0xf4, code);
	for (;;)
		asm volatile("cli; hlt");
}

/* --- tests -------------------------------------------------------------------------------------- */

static const char *file_name(const char *path)
{
	const char *name = path;

	for (; *path; path++)
		if (*path == '/')
			name = path + 1;
	return name;
}

bool check_that(bool condition, const char *text, const char *file, unsigned line)
{
	if (!condition)
		note_failure("%s:%u: %s", file_name(file), line, text);
	return condition;
}

bool check_equal(uint64_t value, uint64_t expected, const char *text, const char *file, unsigned line)
{
	if (value != expected)
		note_failure("%s:%u: %s is 0x%llx, expected 0x%llx", file_name(file), line, text,
			     (unsigned long long)value, (unsigned long long)expected);
	return value == expected;
}

void skip(const char *why)
{
	struct sink sink = {state.text, state.text + sizeof(state.text)};

	state.skipped = true;
	for (; *why; why++)
		emit(&sink, *why);
	*sink.at = '\0';
}

/* Whether the command line says without=NAME,NAME… and this is one of the names. */
static bool left_out(const char *name)
{
	const char *line = command_line;
	static const char option[] = " without=";
	unsigned n = 0;

	for (; *line && n < sizeof(option) - 1; line++)
		n = *line == option[n] ? n + 1 : *line == option[0];
	while (*line && *line != ' ') {
		for (n = 0; name[n] && line[n] == name[n]; n++)
			;
		if (!name[n] && (!line[n] || line[n] == ' ' || line[n] == ','))
			return true;
		while (*line && *line != ' ' && *line++ != ',')
			;
	}
	return false;
}

void run_tests(const struct test *tests, unsigned count)
{
	unsigned failures = 0;

	for (unsigned i = 0; i < count; i++) {
		state.failed = state.skipped = false;
		if (left_out(tests[i].name))
			skip("left out");
		else
			tests[i].run();
		if (state.failed)
			print("FAIL %s: %s\n", tests[i].name, state.text);
		else if (state.skipped)
			print("SKIP %s: %s\n", tests[i].name, state.text);
		else
			print("PASS %s\n", tests[i].name);
		failures += state.failed;
	}
	print("%u tests, %u failed\n", count, failures);
	machine_exit(failures != 0);
}

/* --- memory ------------------------------------------------------------------------------------- */

void *memset(void *to, int byte, size_t size)
{
	void *start = to;
	asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(byte) : "memory");
	return start;
}

void *memcpy(void *to, const void *from, size_t size)
{
	void *start = to;
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
	return start;
}

int memcmp(const void *a, const void *b, size_t size)
{
	const uint8_t *x = a, *y = b;

	for (; size--; x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

/* Before the first page is taken: what the loader says lies where pages come from (Multiboot 0.6.96, 3.3). */
static void learn_from_loader(void)
{
	extern uint32_t multiboot_info;
	const uint32_t *info = (const uint32_t *)(unsigned long)multiboot_info;

	if (info[0] & 1)
		top_of_memory = 0x100000 + 1024ul * info[2];
	if (info[0] & 4) {
		const char *line = (const char *)(unsigned long)info[4];

		for (unsigned i = 0; i + 1 < sizeof(command_line) && line[i]; i++)
			command_line[i] = line[i];
	}
}

unsigned long memory_top(void)
{
	return top_of_memory;
}

void *page_alloc(void)
{
	char *page = next_page;

	next_page += 4096;
	memset(page, 0, 4096);
	return page;
}

/* --- time and who is there ---------------------------------------------------------------------- */

/* HV_X64_MSR_TSC_FREQUENCY, in hertz (TLFS 12.4.1), where CPUID promises it. */
static void learn_tsc_frequency(void)
{
	struct cpuid hypervisor = cpuid(0x40000000, 0);
	uint64_t hertz;
	uint32_t high, low;

	if (!(cpuid(1, 0).c >> 31) || hypervisor.b != 0x7263694d || hypervisor.c != 0x666f736f ||
	    !(cpuid(0x40000003, 0).a >> 11 & 1))
		return;
	hertz = rdmsr(0x40000022);
	low = (uint32_t)hertz;
	high = (uint32_t)(hertz >> 32);
	/* No 64-bit division in a 32-bit guest. */
	if (high < 1000000)
		asm("divl %2" : "+a"(low), "+d"(high) : "r"(1000000u) : "cc");
	if (low)
		ticks_per_microsecond = low;
}

uint64_t ticks_of(uint32_t microseconds)
{
	return (uint64_t)microseconds * ticks_per_microsecond;
}

void spin(uint32_t microseconds)
{
	uint64_t start = rdtsc(), ticks = ticks_of(microseconds);

	while (rdtsc() - start < ticks)
		cpu_relax();
}

bool wait_for(const volatile unsigned *flag, unsigned value)
{
	uint64_t left = ticks_of(PATIENCE), most = ticks_of(LOOK_MAX), last = rdtsc();

	while (*flag != value) {
		uint64_t now = rdtsc(), took = now - last < most ? now - last : most;

		if (took >= left)
			return false;
		left -= took;
		last = now;
		cpu_relax();
	}
	return true;
}

bool is_amd(void)
{
	uint32_t b = cpuid(0, 0).b;

	return b == 0x68747541 || b == 0x6f677948; /* "Auth"enticAMD, "Hygo"nGenuine */
}

bool is_software(void)
{
	struct cpuid brand = cpuid(0x80000002, 0);

	return brand.a == 0x6b6c7542 && brand.b == 0x64616568; /* "Bulkhead" */
}

/* --- interrupts and descriptors ----------------------------------------------------------------- */

void set_handler(unsigned vector, interrupt_fn handler)
{
	handlers[vector] = handler;
}

void interrupt(struct frame *frame)
{
	unsigned long cr2 = read_cr2();

	if (handlers[frame->vector]) {
		handlers[frame->vector](frame);
		return;
	}
	if (!catch_point.armed) {
		print("FAIL unexpected vector %lu error 0x%lx at 0x%lx cs 0x%lx cr2 0x%lx\n", frame->vector,
		      frame->error, frame->ip, frame->cs, cr2);
		machine_exit(1);
	}
	catch_point.armed = false;
	fault = (struct fault){1,   (unsigned)frame->vector, frame->error, frame->ip, frame->sp, frame->flags,
			       cr2, (uint16_t)frame->cs};
	asm volatile("mov %0, %%ss" : : "r"(SEL_DATA));
	catch_resume(&catch_point);
}

void set_gate(struct gate *gate, unsigned long offset, uint16_t selector, uint8_t type)
{
	*gate = (struct gate){
	    .offset0 = (uint16_t)offset,
	    .selector = selector,
	    .type = type,
	    .offset1 = (uint16_t)(offset >> 16),
#ifdef __x86_64__
	    .offset2 = (uint32_t)(offset >> 32),
#endif
	};
}

void reset_gate(unsigned vector)
{
	set_gate(&idt[vector], (unsigned long)stubs + vector * 16, SEL_CODE, 0x8e);
}

uint64_t descriptor(uint32_t base, uint32_t limit, uint16_t attributes)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attributes & 0xff) << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)(attributes >> 12) << 52 |
	       (uint64_t)(base >> 24) << 56;
}

void load_tss(void)
{
	gdt[SEL_TSS / 8] = descriptor((uint32_t)(unsigned long)&tss, sizeof(tss) - 1, 0x89);
	gdt[SEL_TSS / 8 + 1] = (uint64_t)(unsigned long)&tss >> 32;
	ltr(SEL_TSS);
}

void bare_start(void)
{
	const struct table_register r = {sizeof(idt) - 1, (unsigned long)idt};

	outb(COM1 + 3, 3); /* 8 bits, no divisor */
	next_page = guest_end;
	learn_from_loader();
	for (unsigned i = 0; i < 256; i++)
		reset_gate(i);
	lidt(&r);
	tss.io_map = sizeof(tss);
#ifdef __x86_64__
	tss.rsp[0] = (unsigned long)interrupt_stack + sizeof(interrupt_stack);
#else
	tss.esp0 = (unsigned long)interrupt_stack + sizeof(interrupt_stack);
	tss.ss0 = SEL_DATA;
#endif
	load_tss();
	learn_tsc_frequency();
	guest_main();
}

/* --- the machine -------------------------------------------------------------------------------- */

static const uint8_t *find_rsdp(void)
{
	for (unsigned long at = 0xe0000; at < 0x100000; at += 16)
		if (!memcmp((void *)at, "RSD PTR ", 8))
			return (void *)at;
	return NULL;
}

static uint32_t field(const void *table, unsigned offset)
{
	uint32_t value;

	memcpy(&value, (const uint8_t *)table + offset, sizeof(value));
	return value;
}

static unsigned count_madt(const uint8_t *madt)
{
	unsigned n = 0;

	for (const uint8_t *at = madt + 44; at < madt + field(madt, 4) && at[1]; at += at[1])
		n += at[0] == 0 && at[4] & 1;
	return n;
}

unsigned processor_count(void)
{
	const uint8_t *rsdp = find_rsdp(), *root;
	bool extended = rsdp && rsdp[15] >= 2 && field(rsdp, 24);
	unsigned size = extended ? 8 : 4;

	if (!rsdp)
		return 1;
	root = (const uint8_t *)(unsigned long)field(rsdp, extended ? 24 : 16);
	for (unsigned at = 36; at < field(root, 4); at += size) {
		const uint8_t *table = (const uint8_t *)(unsigned long)field(root, at);

		if (!memcmp(table, "APIC", 4))
			return count_madt(table);
	}
	return 1;
}
