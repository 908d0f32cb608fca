// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Hypercalls (TLFS 3). The input is copied out of the guest once, into the VP's own buffer, before
 * anything looks at it; a call is checked against its row of the table, then done in one go.
 *
 * Statuses where the TLFS leaves a choice: input that is not RAM is HV_STATUS_INVALID_HYPERCALL_INPUT;
 * processors that do not exist are left out of sets silently; a failed repeated call reports as many
 * repetitions as the guest had counted before it.
 */
#include "hypervisor/tlfs/internal.h"

#define FAST_SIZE (14 * sizeof(uint64_t)) /* RDX, R8, XMM0 to XMM5 */

enum call_flags {
	CALL_FAST = 1,     /* register-based input allowed */
	CALL_REP = 2,      /* repeated */
	CALL_VARIABLE = 4, /* variable-sized header */
	CALL_OUTPUT = 8    /* a list of uint32_t comes back, one a repetition */
};

/* One call under way: everything points into the private copy. */
struct request {
	struct tlfs *t;
	unsigned vp;
	const void *header;
	const uint64_t *variable; /* variable_count words after the fixed header */
	unsigned variable_count;
	const void *list; /* rep_count elements */
	unsigned rep_start, rep_count;
	uint32_t *output; /* the guest's page: write only */
};

struct call {
	uint16_t code;
	uint8_t flags;
	uint16_t header_size, element_size;
	enum tlfs_status (*handler)(const struct request *request);
};

/* --- TLB flushes (TLFS 9.4) ------------------------------------------------------------------- */

static enum tlfs_status flush(const struct request *request, uint64_t address_space, uint64_t flags,
			      const struct tlfs_vp_set *vps)
{
	struct tlfs *t = request->t;
	struct tlfs_flush flush = {
	    .vps = *vps,
	    .all_address_spaces = flags & HV_FLUSH_ALL_SPACES,
	    .non_global_only = flags & HV_FLUSH_NON_GLOBAL_ONLY,
	    .address_space = address_space,
	};

	if (!t->ops->flush_tlb)
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	if (flags & ~HV_FLUSH_DEFINED)
		return HV_STATUS_INVALID_PARAMETER;
	if (flags & HV_FLUSH_ALL_PROCESSORS)
		tlfs_all_vps(t, &flush.vps);
	if (request->list) {
		flush.range_count = request->rep_count - request->rep_start;
		flush.ranges = (const uint64_t *)request->list + request->rep_start;
	}
	if (!tlfs_vp_set_is_empty(&flush.vps))
		t->ops->flush_tlb(t->context, request->vp, &flush);
	return HV_STATUS_SUCCESS;
}

static enum tlfs_status call_flush(const struct request *request)
{
	const struct hv_flush_input *input = request->header;
	struct tlfs_vp_set vps;

	tlfs_vp_mask(request->t, input->processor_mask, &vps);
	return flush(request, input->address_space, input->flags, &vps);
}

static enum tlfs_status call_flush_ex(const struct request *request)
{
	const struct hv_flush_ex_input *input = request->header;
	struct tlfs_vp_set vps;
	enum tlfs_status status;

	status = tlfs_parse_vp_set(request->t, &input->vps, request->variable, request->variable_count, &vps);
	return status ? status : flush(request, input->address_space, input->flags, &vps);
}

/* --- interprocessor interrupts (TLFS 10.6) ----------------------------------------------------- */

/* Virtual trust level 0 is all there is, named or not. */
static bool vtl_exists(uint8_t target_vtl)
{
	return (target_vtl & 0xf) == 0;
}

static enum tlfs_status send_ipi(const struct request *request, uint32_t vector, uint8_t target_vtl,
				 const struct tlfs_vp_set *vps)
{
	if (!request->t->ops->send_ipi)
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	if (vector < 16 || vector > 255 || !vtl_exists(target_vtl))
		return HV_STATUS_INVALID_PARAMETER;
	if (!tlfs_vp_set_is_empty(vps))
		request->t->ops->send_ipi(request->t->context, request->vp, vps, (uint8_t)vector);
	return HV_STATUS_SUCCESS;
}

static enum tlfs_status call_send_ipi(const struct request *request)
{
	const struct hv_ipi_input *input = request->header;
	struct tlfs_vp_set vps;

	tlfs_vp_mask(request->t, input->processor_mask, &vps);
	return send_ipi(request, input->vector, input->target_vtl, &vps);
}

static enum tlfs_status call_send_ipi_ex(const struct request *request)
{
	const struct hv_ipi_ex_input *input = request->header;
	struct tlfs_vp_set vps;
	enum tlfs_status status;

	status = tlfs_parse_vp_set(request->t, &input->vps, request->variable, request->variable_count, &vps);
	return status ? status : send_ipi(request, input->vector, input->target_vtl, &vps);
}

/* --- messages, events, scheduling --------------------------------------------------------------- */

static enum tlfs_status call_post_message(const struct request *request)
{
	const struct hv_post_message_input *input = request->header;

	if (input->connection_id >> 24)
		return HV_STATUS_INVALID_CONNECTION_ID;
	if (input->payload_size > sizeof(input->payload) || input->message_type == HV_MESSAGE_NONE ||
	    input->message_type & HV_MESSAGE_HYPERVISOR)
		return HV_STATUS_INVALID_PARAMETER;
	return request->t->ops->post_message(request->t->context, request->vp, input->connection_id,
					     input->message_type, input->payload, input->payload_size);
}

static enum tlfs_status call_signal_event(const struct request *request)
{
	const struct hv_signal_event_input *input = request->header;

	if (input->connection_id >> 24)
		return HV_STATUS_INVALID_CONNECTION_ID;
	if (input->flag >= TLFS_EVENT_FLAGS)
		return HV_STATUS_INVALID_PARAMETER;
	return request->t->ops->signal_event(request->t->context, request->vp, input->connection_id,
					     input->flag);
}

static enum tlfs_status call_long_spin_wait(const struct request *request)
{
	struct tlfs *t = request->t;

	if (!t->ops->long_spin_wait)
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	t->ops->long_spin_wait(t->context, request->vp, *(const uint32_t *)request->header);
	return HV_STATUS_SUCCESS;
}

/* --- virtual processors ------------------------------------------------------------------------ */

static enum tlfs_status call_start_vp(const struct request *request)
{
	const struct hv_start_vp_input *input = request->header;
	struct tlfs *t = request->t;

	if (!t->ops->start_vp)
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	if (input->partition_id != HV_PARTITION_SELF)
		return HV_STATUS_INVALID_PARTITION_ID;
	if (input->vp_index >= t->config.vp_count)
		return HV_STATUS_INVALID_VP_INDEX;
	if (!vtl_exists(input->target_vtl))
		return HV_STATUS_INVALID_PARAMETER;
	return t->ops->start_vp(t->context, request->vp, input->vp_index, &input->context);
}

/* The local APIC id of a VP is its index. */
static enum tlfs_status call_vp_index(const struct request *request)
{
	const struct hv_vp_index_input *input = request->header;
	const uint32_t *ids = request->list;

	if (!request->t->ops->start_vp)
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	if (input->partition_id != HV_PARTITION_SELF)
		return HV_STATUS_INVALID_PARTITION_ID;
	if (!vtl_exists(input->target_vtl))
		return HV_STATUS_INVALID_PARAMETER;
	for (unsigned i = request->rep_start; i < request->rep_count; i++)
		if (ids[i] >= request->t->config.vp_count)
			return HV_STATUS_INVALID_PARAMETER;
	for (unsigned i = request->rep_start; i < request->rep_count; i++)
		request->output[i] = ids[i];
	return HV_STATUS_SUCCESS;
}

/* --- dispatch ----------------------------------------------------------------------------------- */

static const struct call calls[] = {
    {HV_CALL_FLUSH_SPACE, CALL_FAST, sizeof(struct hv_flush_input), 0, call_flush},
    {HV_CALL_FLUSH_LIST, CALL_FAST | CALL_REP, sizeof(struct hv_flush_input), 8, call_flush},
    {HV_CALL_LONG_SPIN_WAIT, CALL_FAST, 8, 0, call_long_spin_wait},
    {HV_CALL_SEND_IPI, CALL_FAST, sizeof(struct hv_ipi_input), 0, call_send_ipi},
    {HV_CALL_FLUSH_SPACE_EX, CALL_FAST | CALL_VARIABLE, sizeof(struct hv_flush_ex_input), 0, call_flush_ex},
    {HV_CALL_FLUSH_LIST_EX, CALL_FAST | CALL_VARIABLE | CALL_REP, sizeof(struct hv_flush_ex_input), 8,
     call_flush_ex},
    {HV_CALL_SEND_IPI_EX, CALL_FAST | CALL_VARIABLE, sizeof(struct hv_ipi_ex_input), 0, call_send_ipi_ex},
    {HV_CALL_POST_MESSAGE, 0, sizeof(struct hv_post_message_input), 0, call_post_message},
    {HV_CALL_SIGNAL_EVENT, CALL_FAST, sizeof(struct hv_signal_event_input), 0, call_signal_event},
    {HV_CALL_START_VP, 0, sizeof(struct hv_start_vp_input), 0, call_start_vp},
    {HV_CALL_VP_INDEX_FROM_APIC_ID, CALL_REP | CALL_OUTPUT, sizeof(struct hv_vp_index_input), 4,
     call_vp_index},
};

static const struct call *find_call(uint16_t code)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i].code == code)
			return &calls[i];
	return NULL;
}

bool tlfs_hypercall_enabled(const struct tlfs *t)
{
	return atomic_load_explicit(&t->hypercall, memory_order_relaxed) & HV_PAGE_ENABLE;
}

/* What a call of this kind may say in its control word. */
static bool control_is_valid(const struct call *call, uint64_t input)
{
	unsigned count = HV_CALL_REP_COUNT(input), first = HV_CALL_REP_START(input);

	if (input & HV_CALL_RESERVED)
		return false;
	if (call->flags & CALL_REP ? first >= count : count || first)
		return false;
	if (!(call->flags & CALL_VARIABLE) && HV_CALL_VARIABLE_SIZE(input))
		return false;
	return !(input & HV_CALL_FAST) || call->flags & CALL_FAST;
}

/* A parameter block is 8-byte aligned and does not leave its page. */
static bool block_is_aligned(uint64_t gpa, size_t size)
{
	return !(gpa & 7) && (gpa & 4095) + size <= 4096;
}

static enum tlfs_status fetch_input(struct tlfs *t, unsigned vp, const struct tlfs_hypercall *call,
				    size_t size)
{
	uint64_t *buffer = t->vps[vp].input;

	if (call->input & HV_CALL_FAST) {
		if (size > FAST_SIZE)
			return HV_STATUS_INVALID_HYPERCALL_INPUT;
		buffer[0] = call->in;
		buffer[1] = call->out;
		if (size > 2 * sizeof(uint64_t))
			__builtin_memcpy(&buffer[2], call->xmm, sizeof(call->xmm));
		return HV_STATUS_SUCCESS;
	}
	if (!block_is_aligned(call->in, size))
		return HV_STATUS_INVALID_ALIGNMENT;
	return t->ops->read_memory(t->context, call->in, buffer, size) ? HV_STATUS_SUCCESS
								       : HV_STATUS_INVALID_HYPERCALL_INPUT;
}

static enum tlfs_status find_output(struct request *request, const struct tlfs_hypercall *call)
{
	struct tlfs *t = request->t;
	uint8_t *page;

	if (!block_is_aligned(call->out, request->rep_count * sizeof(uint32_t)))
		return HV_STATUS_INVALID_ALIGNMENT;
	page = t->ops->page(t->context, call->out & HV_PAGE_MASK);
	if (!page)
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	request->output = (uint32_t *)(page + (call->out & 4095));
	return HV_STATUS_SUCCESS;
}

static enum tlfs_status dispatch(struct tlfs *t, unsigned vp, const struct tlfs_hypercall *call)
{
	const struct call *kind = find_call(HV_CALL_CODE(call->input));
	const uint8_t *input = (const uint8_t *)t->vps[vp].input;
	struct request request = {.t = t, .vp = vp, .header = input};
	enum tlfs_status status;
	size_t list_offset, size;

	if (!kind)
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	if (!control_is_valid(kind, call->input))
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	request.variable_count = HV_CALL_VARIABLE_SIZE(call->input);
	request.rep_start = HV_CALL_REP_START(call->input);
	request.rep_count = HV_CALL_REP_COUNT(call->input);
	list_offset = kind->header_size + request.variable_count * sizeof(uint64_t);
	size = list_offset + (size_t)request.rep_count * kind->element_size;
	status = fetch_input(t, vp, call, size);
	if (status)
		return status;
	request.variable = (const uint64_t *)(input + kind->header_size);
	request.list = kind->flags & CALL_REP ? input + list_offset : NULL;
	if (kind->flags & CALL_OUTPUT) {
		status = find_output(&request, call);
		if (status)
			return status;
	}
	status = kind->handler(&request);
	if (request.output)
		tlfs_written(t, request.output, request.rep_count * sizeof(uint32_t));
	return status;
}

void tlfs_hypercall(struct tlfs *t, unsigned vp, struct tlfs_hypercall *call)
{
	enum tlfs_status status = dispatch(t, vp, call);
	uint64_t done =
	    status == HV_STATUS_SUCCESS ? HV_CALL_REP_COUNT(call->input) : HV_CALL_REP_START(call->input);
	const struct call *kind = find_call(HV_CALL_CODE(call->input));

	call->result = (uint16_t)status;
	if (kind && kind->flags & CALL_REP)
		call->result |= done << HV_CALL_REPS_DONE_SHIFT;
}
