/* SPDX-License-Identifier: GPL-2.0-or-later */
/* saved_form.c - saved state as bytes and back. What is read comes from outside: nothing of it is trusted. */
#include "hypervisor/saved_state.h"

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"

enum section { SECTION_PARTITION = 1, SECTION_CPUID, SECTION_VP, SECTION_MESSAGES };

#define SECTION_HEADER 8u

/* --- fields ----------------------------------------------------------------------------------------- */

/* `count` numbers of `width` bytes at `offset` of a struct. A flag is a byte that is 0 or 1. */
struct field {
	uint16_t offset, count;
	uint8_t width;
	bool flag;
};

#define MEMBER(type, member) (((type *)0)->member)
#define FIELD(type, member)                                                                                  \
	{                                                                                                    \
		offsetof(type, member), 1, sizeof(MEMBER(type, member)), false                               \
	}
#define FLAG(type, member)                                                                                   \
	{                                                                                                    \
		offsetof(type, member), 1, sizeof(MEMBER(type, member)), true                                \
	}
#define ARRAY(type, member)                                                                                  \
	{                                                                                                    \
		offsetof(type, member), ARRAY_SIZE(MEMBER(type, member)), sizeof(MEMBER(type, member)[0]),   \
		    false                                                                                    \
	}
#define SEGMENT(name)                                                                                        \
	FIELD(struct vp_state, registers.name.base), FIELD(struct vp_state, registers.name.limit),           \
	    FIELD(struct vp_state, registers.name.selector),                                                 \
	    FIELD(struct vp_state, registers.name.attributes)
#define TIMER(n)                                                                                             \
	FIELD(struct vp_state, tlfs.timers[n].config), FIELD(struct vp_state, tlfs.timers[n].count),         \
	    FIELD(struct vp_state, tlfs.timers[n].deadline),                                                 \
	    FIELD(struct vp_state, tlfs.timers[n].expired_at),                                               \
	    FIELD(struct vp_state, tlfs.timers[n].message_waits)

static const struct field partition_fields[] = {
    FIELD(struct saved_partition, vp_count),
    FIELD(struct saved_partition, region_count),
    FIELD(struct saved_partition, time),
    FIELD(struct saved_partition, tsc_frequency),
    FIELD(struct saved_partition, tlfs.guest_os_id),
    FIELD(struct saved_partition, tlfs.hypercall),
    FIELD(struct saved_partition, tlfs.reference_tsc),
    ARRAY(struct saved_partition, tlfs.crash),
    FIELD(struct saved_partition, tlfs.tsc_sequence),
};

static const struct field region_fields[] = {
    FIELD(struct saved_region, gpa),
    FIELD(struct saved_region, size),
};

static const struct field cpuid_fields[] = {
    FIELD(struct cpuid_entry, leaf),
    FIELD(struct cpuid_entry, subleaf),
    FLAG(struct cpuid_entry, has_subleaf),
    ARRAY(struct cpuid_entry, r),
};

/* But for the XSAVE area and the MSRs, which follow, each with its size before it. */
static const struct field vp_fields[] = {
    ARRAY(struct vp_state, registers.gpr),
    FIELD(struct vp_state, registers.rip),
    FIELD(struct vp_state, registers.rflags),
    SEGMENT(es),
    SEGMENT(cs),
    SEGMENT(ss),
    SEGMENT(ds),
    SEGMENT(fs),
    SEGMENT(gs),
    SEGMENT(ldtr),
    SEGMENT(tr),
    FIELD(struct vp_state, registers.gdt_base),
    FIELD(struct vp_state, registers.idt_base),
    FIELD(struct vp_state, registers.gdt_limit),
    FIELD(struct vp_state, registers.idt_limit),
    FIELD(struct vp_state, registers.cr0),
    FIELD(struct vp_state, registers.cr2),
    FIELD(struct vp_state, registers.cr3),
    FIELD(struct vp_state, registers.cr4),
    FIELD(struct vp_state, registers.cr8),
    FIELD(struct vp_state, registers.efer),
    ARRAY(struct vp_state, pdptr),
    ARRAY(struct vp_state, dr),
    FIELD(struct vp_state, xcr0),
    FIELD(struct vp_state, tsc),
    FIELD(struct vp_state, activity),
    FLAG(struct vp_state, pending.interrupt_shadow),
    FLAG(struct vp_state, pending.nmi_blocked),
    FLAG(struct vp_state, pending.nmi),
    FLAG(struct vp_state, pending.exception),
    FLAG(struct vp_state, pending.exception_has_code),
    FIELD(struct vp_state, pending.exception_vector),
    FIELD(struct vp_state, pending.exception_code),
    FLAG(struct vp_state, pending.interrupt),
    FIELD(struct vp_state, pending.interrupt_vector),
    FIELD(struct vp_state, apic.base),
    ARRAY(struct vp_state, apic.irr),
    ARRAY(struct vp_state, apic.isr),
    ARRAY(struct vp_state, apic.tmr),
    ARRAY(struct vp_state, apic.auto_eoi),
    FIELD(struct vp_state, apic.icr),
    FIELD(struct vp_state, apic.id),
    FIELD(struct vp_state, apic.tpr),
    FIELD(struct vp_state, apic.ldr),
    FIELD(struct vp_state, apic.dfr),
    FIELD(struct vp_state, apic.svr),
    FIELD(struct vp_state, apic.esr),
    FIELD(struct vp_state, apic.esr_pending),
    ARRAY(struct vp_state, apic.lvt),
    FIELD(struct vp_state, apic.lint_level),
    FIELD(struct vp_state, apic.divide),
    FIELD(struct vp_state, apic.initial_count),
    FIELD(struct vp_state, apic.timer_start),
    FIELD(struct vp_state, apic.timer_deadline),
    FIELD(struct vp_state, apic.tsc_deadline),
    FIELD(struct vp_state, tlfs.scontrol),
    FIELD(struct vp_state, tlfs.siefp),
    FIELD(struct vp_state, tlfs.simp),
    ARRAY(struct vp_state, tlfs.sint),
    FIELD(struct vp_state, tlfs.assist_page),
    TIMER(0),
    TIMER(1),
    TIMER(2),
    TIMER(3),
};
_Static_assert(TLFS_TIMER_COUNT == 4, "every timer has its line above");

static const struct field runtime_fields[] = {FIELD(struct saved_vp, runtime)};

static const struct field msr_fields[] = {
    FIELD(struct vp_msr, index),
    FIELD(struct vp_msr, value),
};

static const struct field message_fields[] = {
    FIELD(struct synic_message, vp),
    FIELD(struct synic_message, sint),
    FIELD(struct synic_message, type),
    FIELD(struct synic_message, size),
};

/* --- writing ---------------------------------------------------------------------------------------- */

struct writer {
	uint8_t *bytes;
	size_t size, room;
	bool failed; /* no memory; nothing is written from then on */
};

static uint8_t *reserve(struct writer *w, size_t size)
{
	size_t room = w->room ? w->room : 4096;
	uint8_t *bytes;

	while (room - w->size < size)
		room *= 2;
	if (room != w->room) {
		bytes = w->failed ? NULL : realloc(w->bytes, room);
		if (!bytes) {
			w->failed = true;
			return NULL;
		}
		w->bytes = bytes;
		w->room = room;
	}
	w->size += size;
	return w->bytes + w->size - size;
}

static void put(struct writer *w, const void *from, size_t size)
{
	uint8_t *to = reserve(w, size);

	if (to)
		memcpy(to, from, size);
}

static void put32(struct writer *w, uint32_t value)
{
	uint8_t *to = reserve(w, 4);

	if (to)
		le32_put(to, value);
}

static void put_number(uint8_t *to, const uint8_t *from, unsigned width)
{
	switch (width) {
	case 1:
		*to = *from;
		break;
	case 2:
		le16_put(to, *(const uint16_t *)from);
		break;
	case 4:
		le32_put(to, *(const uint32_t *)from);
		break;
	default:
		le64_put(to, *(const uint64_t *)from);
		break;
	}
}

static void put_fields(struct writer *w, const void *from, const struct field *fields, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		const struct field *f = &fields[i];
		uint8_t *to = reserve(w, (size_t)f->count * f->width);

		for (size_t n = 0; to && n < f->count; n++)
			put_number(to + n * f->width, (const uint8_t *)from + f->offset + n * f->width,
				   f->width);
	}
}

#define PUT(w, from, fields) put_fields(w, from, fields, ARRAY_SIZE(fields))

/* Returns where it begins, for section_end(). */
static size_t section_begin(struct writer *w, enum section id)
{
	size_t at = w->size;

	put32(w, id);
	put32(w, 0);
	return at;
}

static void section_end(struct writer *w, size_t at)
{
	if (!w->failed)
		le32_put(w->bytes + at + 4, (uint32_t)(w->size - at - SECTION_HEADER));
}

static void put_vp(struct writer *w, const struct saved_vp *vp)
{
	const struct vp_state *state = &vp->state;
	size_t at = section_begin(w, SECTION_VP);

	PUT(w, vp, runtime_fields);
	PUT(w, state, vp_fields);
	put32(w, state->xsave_size);
	put(w, state->xsave, state->xsave_size);
	put32(w, state->msr_count);
	for (unsigned i = 0; i < state->msr_count; i++)
		PUT(w, &state->msrs[i], msr_fields);
	section_end(w, at);
}

static void put_messages(struct writer *w, const struct saved_partition *s)
{
	size_t at = section_begin(w, SECTION_MESSAGES);

	put32(w, s->message_count);
	for (unsigned i = 0; i < s->message_count; i++) {
		PUT(w, &s->messages[i], message_fields);
		put(w, s->messages[i].payload, s->messages[i].size);
	}
	section_end(w, at);
}

static uint32_t checksum(const uint8_t *bytes, size_t size)
{
	static const uint8_t zero[4];
	uint32_t crc = crc32c(0, bytes, SAVED_CHECKSUM_AT);

	crc = crc32c(crc, zero, sizeof(zero));
	return crc32c(crc, bytes + SAVED_CHECKSUM_AT + 4, size - SAVED_CHECKSUM_AT - 4);
}

int saved_encode(const struct saved_partition *s, uint8_t **bytes, size_t *size, struct error *err)
{
	struct writer w = {0};
	size_t at;

	(void)reserve(&w, SAVED_HEADER);
	at = section_begin(&w, SECTION_PARTITION);
	PUT(&w, s, partition_fields);
	for (unsigned i = 0; i < s->region_count; i++)
		PUT(&w, &s->regions[i], region_fields);
	section_end(&w, at);
	at = section_begin(&w, SECTION_CPUID);
	put32(&w, s->cpuid.count);
	for (unsigned i = 0; i < s->cpuid.count; i++)
		PUT(&w, &s->cpuid.entries[i], cpuid_fields);
	section_end(&w, at);
	for (unsigned i = 0; i < s->vp_count; i++)
		put_vp(&w, &s->vps[i]);
	put_messages(&w, s);
	if (w.failed) {
		free(w.bytes);
		return error_set(err, ENOMEM, "no memory on the host for the saved state of a partition");
	}
	memcpy(w.bytes, SAVED_MAGIC, SAVED_VERSION_AT);
	le32_put(w.bytes + SAVED_VERSION_AT, SAVED_VERSION);
	le64_put(w.bytes + SAVED_SIZE_AT, w.size);
	le32_put(w.bytes + SAVED_CHECKSUM_AT, checksum(w.bytes, w.size));
	*bytes = w.bytes;
	*size = w.size;
	return 0;
}

/* --- reading ---------------------------------------------------------------------------------------- */

struct reader {
	const uint8_t *bytes;
	size_t left;
	const char *bad; /* what was wrong first; from then on zeros are read */
};

static const uint8_t *take(struct reader *r, size_t size)
{
	const uint8_t *at = r->bytes;

	if (r->bad)
		return NULL;
	if (size > r->left) {
		r->bad = "it ends too early";
		return NULL;
	}
	r->bytes += size;
	r->left -= size;
	return at;
}

static uint32_t get32(struct reader *r)
{
	const uint8_t *from = take(r, 4);

	return from ? le32_get(from) : 0;
}

/* A count of at most `max`; 0 and an error when it is more. */
static uint32_t get_count(struct reader *r, uint32_t max, const char *bad)
{
	uint32_t count = get32(r);

	if (count <= max)
		return count;
	if (!r->bad)
		r->bad = bad;
	return 0;
}

static void get_number(uint8_t *to, const uint8_t *from, unsigned width)
{
	switch (width) {
	case 1:
		*to = *from;
		break;
	case 2:
		*(uint16_t *)to = le16_get(from);
		break;
	case 4:
		*(uint32_t *)to = le32_get(from);
		break;
	default:
		*(uint64_t *)to = le64_get(from);
		break;
	}
}

static void get_fields(struct reader *r, void *to, const struct field *fields, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		const struct field *f = &fields[i];
		const uint8_t *from = take(r, (size_t)f->count * f->width);

		if (from && f->flag && *from > 1) {
			r->bad = "a flag is neither 0 nor 1";
			return;
		}
		for (size_t n = 0; from && n < f->count; n++)
			get_number((uint8_t *)to + f->offset + n * f->width, from + n * f->width, f->width);
	}
}

#define GET(r, to, fields) get_fields(r, to, fields, ARRAY_SIZE(fields))

/* A reader of the next section, which must be `id`. */
static struct reader section(struct reader *r, enum section id)
{
	uint32_t found = get32(r), size = get32(r);
	struct reader inner = {.bytes = take(r, size), .left = size, .bad = r->bad};

	if (!inner.bad && found != id)
		inner.bad = "a section is missing";
	return inner;
}

/* What stands wrong in a section stands wrong in the whole. */
static void section_done(struct reader *r, const struct reader *inner)
{
	if (!r->bad)
		r->bad = inner->bad    ? inner->bad
			 : inner->left ? "a section is longer than what it holds"
				       : NULL;
}

/* VPs and regions are told before anything is allocated. */
static struct saved_partition *get_partition(struct reader *r)
{
	struct reader inner = section(r, SECTION_PARTITION);
	struct saved_partition head = {0}, *s;

	GET(&inner, &head, partition_fields);
	if (!inner.bad && (head.vp_count < 1 || head.vp_count > PARTITION_MAX_VPS))
		inner.bad = "it has an impossible number of virtual processors";
	if (!inner.bad && head.region_count > PARTITION_MAX_REGIONS)
		inner.bad = "it has too many regions of memory";
	for (unsigned i = 0; !inner.bad && i < head.region_count; i++)
		GET(&inner, &head.regions[i], region_fields);
	section_done(r, &inner);
	if (r->bad)
		return NULL;
	s = saved_new(head.vp_count);
	if (s) {
		head.vps = s->vps;
		*s = head;
	}
	return s;
}

static void get_cpuid(struct reader *r, struct cpuid_table *table)
{
	struct reader inner = section(r, SECTION_CPUID);

	table->count = get_count(&inner, CPUID_TABLE_MAX, "it has too many CPUID leaves");
	for (unsigned i = 0; i < table->count; i++)
		GET(&inner, &table->entries[i], cpuid_fields);
	section_done(r, &inner);
}

static void get_vp(struct reader *r, struct saved_vp *vp)
{
	struct reader inner = section(r, SECTION_VP);
	struct vp_state *state = &vp->state;
	const uint8_t *area;

	GET(&inner, vp, runtime_fields);
	GET(&inner, state, vp_fields);
	state->xsave_size = get_count(&inner, VP_XSAVE_MAX, "an XSAVE area is too large");
	area = take(&inner, state->xsave_size);
	if (area)
		memcpy(state->xsave, area, state->xsave_size);
	state->msr_count = get_count(&inner, VP_MSR_MAX, "a virtual processor has too many MSRs");
	for (unsigned i = 0; i < state->msr_count; i++)
		GET(&inner, &state->msrs[i], msr_fields);
	section_done(r, &inner);
}

static void get_messages(struct reader *r, struct saved_partition *s)
{
	struct reader inner = section(r, SECTION_MESSAGES);
	uint32_t count = get_count(&inner, PARTITION_MAX_VPS * SYNIC_SINT_COUNT * SYNIC_QUEUE_MAX,
				   "it has too many messages");

	/* Each takes its header at least: no more room is asked for than the bytes can fill. */
	if (count > inner.left / 16 && !inner.bad)
		inner.bad = "it has more messages than bytes";
	s->messages = inner.bad || !count ? NULL : calloc(count, sizeof(*s->messages));
	if (!inner.bad && count && !s->messages)
		inner.bad = "the host has no memory for its messages";
	for (unsigned i = 0; !inner.bad && i < count; i++) {
		struct synic_message *m = &s->messages[i];
		const uint8_t *payload;

		GET(&inner, m, message_fields);
		if (m->size > SYNIC_MESSAGE_PAYLOAD || m->vp >= s->vp_count || m->sint >= SYNIC_SINT_COUNT) {
			inner.bad = "a message is too long or for nobody";
			break;
		}
		payload = take(&inner, m->size);
		if (payload)
			memcpy(m->payload, payload, m->size);
		s->message_count = i + 1;
	}
	section_done(r, &inner);
}

static int check_header(const uint8_t *bytes, size_t size, struct error *err)
{
	uint32_t version;

	if (size < SAVED_HEADER || memcmp(bytes, SAVED_MAGIC, SAVED_VERSION_AT) != 0)
		return error_set(err, EBADMSG, "this is no saved state of a partition");
	version = le32_get(bytes + SAVED_VERSION_AT);
	if (version > SAVED_VERSION)
		return error_set(
		    err, EOVERFLOW,
		    "the saved state is of version %u and this Bulkhead knows %u: use the one that saved "
		    "it, or a later one",
		    version, SAVED_VERSION);
	if (version < 1 || le64_get(bytes + SAVED_SIZE_AT) != size)
		return error_set(err, EBADMSG,
				 "the saved state is damaged: it is %zu bytes and should be %llu", size,
				 (unsigned long long)le64_get(bytes + SAVED_SIZE_AT));
	if (le32_get(bytes + SAVED_CHECKSUM_AT) != checksum(bytes, size))
		return error_set(err, EBADMSG, "the saved state is damaged: its checksum is wrong");
	return 0;
}

int saved_decode(struct saved_partition **out, const uint8_t *bytes, size_t size, struct error *err)
{
	struct saved_partition *s;
	struct reader r = {0};
	int result = check_header(bytes, size, err);

	if (result)
		return result;
	r.bytes = bytes + SAVED_HEADER;
	r.left = size - SAVED_HEADER;
	s = get_partition(&r);
	if (!s && !r.bad)
		return error_set(err, ENOMEM, "no memory on the host for the saved state of a partition");
	if (s) {
		get_cpuid(&r, &s->cpuid);
		for (unsigned i = 0; i < s->vp_count; i++)
			get_vp(&r, &s->vps[i]);
		get_messages(&r, s);
		if (!r.bad && r.left)
			r.bad = "something follows it";
	}
	if (r.bad) {
		saved_free(s);
		return error_set(err, EBADMSG, "the saved state is damaged: %s", r.bad);
	}
	*out = s;
	return 0;
}

/* --- life --------------------------------------------------------------------------------------------- */

struct saved_partition *saved_new(unsigned vp_count)
{
	struct saved_partition *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->vps = aligned_alloc(_Alignof(struct saved_vp), vp_count * sizeof(*s->vps));
	if (!s->vps) {
		free(s);
		return NULL;
	}
	memset(s->vps, 0, vp_count * sizeof(*s->vps));
	s->vp_count = vp_count;
	return s;
}

void saved_free(struct saved_partition *s)
{
	if (!s)
		return;
	free(s->vps);
	free(s->messages);
	free(s);
}

int saved_check(const struct saved_partition *s, struct error *err)
{
	/* Beyond these no clock of ours can count. */
	if (s->time >= 1ull << 62 || s->tsc_frequency < 1000000 || s->tsc_frequency > 1000000000000ull)
		return error_set(err, EBADMSG,
				 "the saved state is damaged: its time or TSC frequency is impossible");
	for (unsigned i = 0; i < s->vp_count; i++) {
		int r = vp_state_check(&s->vps[i].state, &s->cpuid, err);

		if (r)
			return error_prefix(err, "virtual processor %u", i);
	}
	return 0;
}
