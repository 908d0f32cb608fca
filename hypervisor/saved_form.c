/* SPDX-License-Identifier: GPL-2.0-or-later */
/* saved_form.c - saved state as bytes and back. What is read comes from outside: nothing of it is trusted. */
#include "hypervisor/saved_state.h"

#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/form.h"

enum section { SECTION_PARTITION = 1, SECTION_CPUID, SECTION_VP, SECTION_MESSAGES };

#define SECTION_HEADER 8u

/* --- fields ----------------------------------------------------------------------------------------- */

#define SEGMENT(name)                                                                                        \
	FORM_FIELD(struct vp_state, registers.name.base), FORM_FIELD(struct vp_state, registers.name.limit),           \
	    FORM_FIELD(struct vp_state, registers.name.selector),                                                 \
	    FORM_FIELD(struct vp_state, registers.name.attributes)
#define TIMER(n)                                                                                             \
	FORM_FIELD(struct vp_state, tlfs.timers[n].config), FORM_FIELD(struct vp_state, tlfs.timers[n].count),         \
	    FORM_FIELD(struct vp_state, tlfs.timers[n].deadline),                                                 \
	    FORM_FIELD(struct vp_state, tlfs.timers[n].expired_at),                                               \
	    FORM_FIELD(struct vp_state, tlfs.timers[n].message_waits)

static const struct form_field partition_fields[] = {
    FORM_FIELD(struct saved_partition, vp_count),       FORM_FIELD(struct saved_partition, region_count),
    FORM_FIELD(struct saved_partition, time),           FORM_FIELD(struct saved_partition, tsc_frequency),
    FORM_FIELD(struct saved_partition, apic_frequency), FORM_FIELD(struct saved_partition, tlfs.guest_os_id),
    FORM_FIELD(struct saved_partition, tlfs.hypercall), FORM_FIELD(struct saved_partition, tlfs.reference_tsc),
    FORM_ARRAY(struct saved_partition, tlfs.crash),     FORM_FIELD(struct saved_partition, tlfs.tsc_sequence),
};

static const struct form_field region_fields[] = {
    FORM_FIELD(struct saved_region, gpa),
    FORM_FIELD(struct saved_region, size),
};

static const struct form_field cpuid_fields[] = {
    FORM_FIELD(struct cpuid_entry, leaf),
    FORM_FIELD(struct cpuid_entry, subleaf),
    FORM_FLAG(struct cpuid_entry, has_subleaf),
    FORM_ARRAY(struct cpuid_entry, r),
};

/* But for the XSAVE area and the MSRs, which follow, each with its size before it. */
static const struct form_field vp_fields[] = {
    FORM_ARRAY(struct vp_state, registers.gpr),
    FORM_FIELD(struct vp_state, registers.rip),
    FORM_FIELD(struct vp_state, registers.rflags),
    SEGMENT(es),
    SEGMENT(cs),
    SEGMENT(ss),
    SEGMENT(ds),
    SEGMENT(fs),
    SEGMENT(gs),
    SEGMENT(ldtr),
    SEGMENT(tr),
    FORM_FIELD(struct vp_state, registers.gdt_base),
    FORM_FIELD(struct vp_state, registers.idt_base),
    FORM_FIELD(struct vp_state, registers.gdt_limit),
    FORM_FIELD(struct vp_state, registers.idt_limit),
    FORM_FIELD(struct vp_state, registers.cr0),
    FORM_FIELD(struct vp_state, registers.cr2),
    FORM_FIELD(struct vp_state, registers.cr3),
    FORM_FIELD(struct vp_state, registers.cr4),
    FORM_FIELD(struct vp_state, registers.cr8),
    FORM_FIELD(struct vp_state, registers.efer),
    FORM_ARRAY(struct vp_state, pdptr),
    FORM_ARRAY(struct vp_state, dr),
    FORM_FIELD(struct vp_state, xcr0),
    FORM_FIELD(struct vp_state, tsc),
    FORM_FIELD(struct vp_state, activity),
    FORM_FLAG(struct vp_state, pending.interrupt_shadow),
    FORM_FLAG(struct vp_state, pending.nmi_blocked),
    FORM_FLAG(struct vp_state, pending.nmi),
    FORM_FLAG(struct vp_state, pending.exception),
    FORM_FLAG(struct vp_state, pending.exception_has_code),
    FORM_FIELD(struct vp_state, pending.exception_vector),
    FORM_FIELD(struct vp_state, pending.exception_code),
    FORM_FLAG(struct vp_state, pending.interrupt),
    FORM_FIELD(struct vp_state, pending.interrupt_vector),
    FORM_FIELD(struct vp_state, apic.base),
    FORM_ARRAY(struct vp_state, apic.irr),
    FORM_ARRAY(struct vp_state, apic.isr),
    FORM_ARRAY(struct vp_state, apic.tmr),
    FORM_ARRAY(struct vp_state, apic.auto_eoi),
    FORM_FIELD(struct vp_state, apic.icr),
    FORM_FIELD(struct vp_state, apic.id),
    FORM_FIELD(struct vp_state, apic.tpr),
    FORM_FIELD(struct vp_state, apic.ldr),
    FORM_FIELD(struct vp_state, apic.dfr),
    FORM_FIELD(struct vp_state, apic.svr),
    FORM_FIELD(struct vp_state, apic.esr),
    FORM_FIELD(struct vp_state, apic.esr_pending),
    FORM_ARRAY(struct vp_state, apic.lvt),
    FORM_FIELD(struct vp_state, apic.lint_level),
    FORM_FIELD(struct vp_state, apic.divide),
    FORM_FIELD(struct vp_state, apic.initial_count),
    FORM_FIELD(struct vp_state, apic.timer_start),
    FORM_FIELD(struct vp_state, apic.timer_deadline),
    FORM_FIELD(struct vp_state, apic.tsc_deadline),
    FORM_FIELD(struct vp_state, tlfs.scontrol),
    FORM_FIELD(struct vp_state, tlfs.siefp),
    FORM_FIELD(struct vp_state, tlfs.simp),
    FORM_ARRAY(struct vp_state, tlfs.sint),
    FORM_FIELD(struct vp_state, tlfs.assist_page),
    TIMER(0),
    TIMER(1),
    TIMER(2),
    TIMER(3),
};
_Static_assert(TLFS_TIMER_COUNT == 4, "every timer has its line above");

static const struct form_field runtime_fields[] = {FORM_FIELD(struct saved_vp, runtime)};

static const struct form_field msr_fields[] = {
    FORM_FIELD(struct vp_msr, index),
    FORM_FIELD(struct vp_msr, value),
};

static const struct form_field message_fields[] = {
    FORM_FIELD(struct synic_message, vp),
    FORM_FIELD(struct synic_message, sint),
    FORM_FIELD(struct synic_message, type),
    FORM_FIELD(struct synic_message, size),
};

/* --- writing ---------------------------------------------------------------------------------------- */

/* Returns where it begins, for section_end(). */
static size_t section_begin(struct form_writer *w, enum section id)
{
	size_t at = w->size;

	form_put32(w, id);
	form_put32(w, 0);
	return at;
}

static void section_end(struct form_writer *w, size_t at)
{
	if (!w->failed)
		le32_put(w->bytes + at + 4, (uint32_t)(w->size - at - SECTION_HEADER));
}

static void put_vp(struct form_writer *w, const struct saved_vp *vp)
{
	const struct vp_state *state = &vp->state;
	size_t at = section_begin(w, SECTION_VP);

	FORM_PUT(w, vp, runtime_fields);
	FORM_PUT(w, state, vp_fields);
	form_put32(w, state->xsave_size);
	form_put(w, state->xsave, state->xsave_size);
	form_put32(w, state->msr_count);
	for (unsigned i = 0; i < state->msr_count; i++)
		FORM_PUT(w, &state->msrs[i], msr_fields);
	section_end(w, at);
}

static void put_messages(struct form_writer *w, const struct saved_partition *s)
{
	size_t at = section_begin(w, SECTION_MESSAGES);

	form_put32(w, s->message_count);
	for (unsigned i = 0; i < s->message_count; i++) {
		FORM_PUT(w, &s->messages[i], message_fields);
		form_put(w, s->messages[i].payload, s->messages[i].size);
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
	struct form_writer w = {0};
	size_t at;

	(void)form_reserve(&w, SAVED_HEADER);
	at = section_begin(&w, SECTION_PARTITION);
	FORM_PUT(&w, s, partition_fields);
	for (unsigned i = 0; i < s->region_count; i++)
		FORM_PUT(&w, &s->regions[i], region_fields);
	section_end(&w, at);
	at = section_begin(&w, SECTION_CPUID);
	form_put32(&w, s->cpuid.count);
	for (unsigned i = 0; i < s->cpuid.count; i++)
		FORM_PUT(&w, &s->cpuid.entries[i], cpuid_fields);
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

/* A reader of the next section, which must be `id`. */
static struct form_reader section(struct form_reader *r, enum section id)
{
	uint32_t found = form_get32(r), size = form_get32(r);
	struct form_reader inner = {.bytes = form_take(r, size), .left = size, .bad = r->bad};

	if (!inner.bad && found != id)
		inner.bad = "a section is missing";
	return inner;
}

/* What stands wrong in a section stands wrong in the whole. */
static void section_done(struct form_reader *r, const struct form_reader *inner)
{
	if (!r->bad)
		r->bad = inner->bad    ? inner->bad
			 : inner->left ? "a section is longer than what it holds"
				       : NULL;
}

/* VPs and regions are told before anything is allocated. */
static struct saved_partition *get_partition(struct form_reader *r)
{
	struct form_reader inner = section(r, SECTION_PARTITION);
	struct saved_partition head = {0}, *s;

	FORM_GET(&inner, &head, partition_fields);
	if (!inner.bad && (head.vp_count < 1 || head.vp_count > PARTITION_MAX_VPS))
		inner.bad = "it has an impossible number of virtual processors";
	if (!inner.bad && head.region_count > PARTITION_MAX_REGIONS)
		inner.bad = "it has too many regions of memory";
	for (unsigned i = 0; !inner.bad && i < head.region_count; i++)
		FORM_GET(&inner, &head.regions[i], region_fields);
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

static void get_cpuid(struct form_reader *r, struct cpuid_table *table)
{
	struct form_reader inner = section(r, SECTION_CPUID);

	table->count = form_get_count(&inner, CPUID_TABLE_MAX, 0, "it has too many CPUID leaves");
	for (unsigned i = 0; i < table->count; i++)
		FORM_GET(&inner, &table->entries[i], cpuid_fields);
	section_done(r, &inner);
}

static void get_vp(struct form_reader *r, struct saved_vp *vp)
{
	struct form_reader inner = section(r, SECTION_VP);
	struct vp_state *state = &vp->state;
	const uint8_t *area;

	FORM_GET(&inner, vp, runtime_fields);
	FORM_GET(&inner, state, vp_fields);
	state->xsave_size = form_get_count(&inner, VP_XSAVE_MAX, 0, "an XSAVE area is too large");
	area = form_take(&inner, state->xsave_size);
	if (area)
		memcpy(state->xsave, area, state->xsave_size);
	state->msr_count = form_get_count(&inner, VP_MSR_MAX, 0, "a virtual processor has too many MSRs");
	for (unsigned i = 0; i < state->msr_count; i++)
		FORM_GET(&inner, &state->msrs[i], msr_fields);
	section_done(r, &inner);
}

static void get_messages(struct form_reader *r, struct saved_partition *s)
{
	struct form_reader inner = section(r, SECTION_MESSAGES);
	uint32_t count = form_get_count(&inner, PARTITION_MAX_VPS * SYNIC_SINT_COUNT * SYNIC_QUEUE_MAX, 0,
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

		FORM_GET(&inner, m, message_fields);
		if (m->size > SYNIC_MESSAGE_PAYLOAD || m->vp >= s->vp_count || m->sint >= SYNIC_SINT_COUNT) {
			inner.bad = "a message is too long or for nobody";
			break;
		}
		payload = form_take(&inner, m->size);
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
	struct form_reader r = {0};
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

/* Beyond these no clock of ours can count. */
#define TIME_END (1ull << 62)

static bool is_frequency(uint64_t hz)
{
	return hz >= 1000000 && hz <= 1000000000000ull;
}

int saved_check(const struct saved_partition *s, struct error *err)
{
	if (s->time >= TIME_END || !is_frequency(s->tsc_frequency) || !is_frequency(s->apic_frequency))
		return error_set(
		    err, EBADMSG,
		    "the saved state is damaged: its time, TSC or APIC timer frequency is impossible");
	for (unsigned i = 0; i < s->vp_count; i++) {
		int r = vp_state_check(&s->vps[i].state, &s->cpuid, err);

		if (r)
			return error_prefix(err, "virtual processor %u", i);
	}
	return 0;
}
