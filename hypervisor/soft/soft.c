// SPDX-License-Identifier: GPL-2.0-or-later
/* soft.c - making and unmaking the processors of a partition. */
#include "hypervisor/soft/soft.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "hypervisor/soft/block_cache.h"
#include "hypervisor/soft/mmu.h"
#include "hypervisor/soft/native_memory.h"
#include "hypervisor/soft/system.h"
#include "hypervisor/soft/translate.h"
#include "hypervisor/soft/vector.h"

/* Decoded instructions of all VPs together, and host code, of which there is much less. With tables, TLBs and the
 * program itself these are 96 MiB at most (64 where nothing is translated), however many VPs there are: from FEW_VPS on
 * tables shrink with the share of each, and what every VP has beside comes off its share. */
#define BLOCKS_TOTAL       (36u << 20)
#define BLOCKS_INTERPRETED (42u << 20)
#define CODE_TOTAL         (20u << 20)
#define FEW_VPS            8u
#define VP_REST            (128u << 10)

/* Entries before a block is translated: less, and code that runs once costs more than it saves. */
#define TRANSLATE_THRESHOLD 50

/* "translate=on|off" and, for tests, "threshold=N", with commas between. */
static int parse_options(const char *options, struct translate_options *translate, struct error *err)
{
	*translate = (struct translate_options){.on = true, .threshold = TRANSLATE_THRESHOLD};
	while (options && *options) {
		size_t length = strcspn(options, ",");
		uint64_t value;

		if (length == 12 && memcmp(options, "translate=on", length) == 0)
			translate->on = true;
		else if (length == 13 && memcmp(options, "translate=off", length) == 0)
			translate->on = false;
		else if (length > 10 && memcmp(options, "threshold=", 10) == 0 &&
		    (value = strtoull(options + 10, NULL, 10)) > 0 && value < UINT32_MAX)
			translate->threshold = (uint32_t)value;
		else
			return error_set(err, EINVAL, "the software processor has no option \"%.*s\": translate=on and translate=off are what it has",
			    (int)length, options);
		options += length;
		options += *options == ',';
	}
	return 0;
}

static void vp_destroy(struct soft_vp *vp)
{
	if (!vp)
		return;
	block_cache_destroy(vp);
	translator_destroy(vp);
	flush_queue_destroy(vp->flushes);
	if (vp->tlb_sets)
		munmap(vp->tlb_sets, sizeof(*vp->tlb_sets) * (TLB_SETS >> vp->table_shift));
	free(vp);
}

static unsigned table_shift(unsigned vps)
{
	unsigned shift = 0;

	while (FEW_VPS << shift < vps)
		shift++;
	return shift;
}

_Static_assert(TLB_SETS * FEW_VPS >= PARTITION_MAX_VPS, "each has a set");

/* Behind what all share. */
static size_t code_share(unsigned vps)
{
	return CODE_TOTAL / vps / GUEST_PAGE_SIZE * GUEST_PAGE_SIZE;
}

int soft_code_file(void)
{
	return native_memory_file("bulkhead-code", VECTOR_POOL_BYTES + CODE_TOTAL);
}

static int vp_create(struct soft_vp **out, struct soft *soft, unsigned index, const struct translate_options *translate, int code_file)
{
	size_t share = code_share(soft->vp_count);
	struct soft_vp *vp = aligned_alloc(64, align_up_u64(sizeof(*vp), 64));
	size_t blocks;

	if (!vp)
		return -ENOMEM;
	memset(vp, 0, sizeof(*vp));
	vp->soft = soft;
	vp->index = index;
	vp->vectors = soft->pool;
	vp->table_shift = table_shift(soft->vp_count);
	blocks = (translate->on ? BLOCKS_TOTAL : BLOCKS_INTERPRETED) / soft->vp_count - (vp->table_shift ? VP_REST : 0);
	vp->tlb_sets = mmap(NULL, sizeof(*vp->tlb_sets) * (TLB_SETS >> vp->table_shift), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if ((void *)vp->tlb_sets == MAP_FAILED) {
		vp->tlb_sets = NULL;
		vp_destroy(vp);
		return -ENOMEM;
	}
	vp->tlbs = vp->tlb_sets[0];
	if (flush_queue_create(&vp->flushes) || translator_create(vp, translate, code_file, VECTOR_POOL_BYTES + index * share, share) ||
	    block_cache_create(vp, blocks)) {
		vp_destroy(vp);
		return -ENOMEM;
	}
	vp->user_keys = vp->supervisor_keys = true;
	vector_reset(vp);
	soft_vp_init(vp);
	*out = vp;
	return 0;
}

int soft_create(struct soft **out, const struct soft_host *host, void *context, unsigned vp_count,
    const char *options, struct error *err)
{
	struct translate_options translate;
	struct soft *soft;
	int r = parse_options(options, &translate, err), code_file;

	if (r)
		return r;
	if (!vp_count || vp_count > PARTITION_MAX_VPS)
		return error_set(err, EINVAL, "the software processor serves 1 to %u virtual processors, not %u",
		    PARTITION_MAX_VPS, vp_count);
	soft = calloc(1, sizeof(*soft));
	if (!soft)
		return error_set(err, ENOMEM, "out of memory for the software processor");
	soft->host = host;
	soft->context = context;
	soft->vp_count = vp_count;
	pthread_mutex_init(&soft->rmw_lock, NULL);
	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	cpuid_probe(soft);
	code_file = host->code_file ? host->code_file(context) : -1;
	r = vector_pool_create(&soft->pool, code_file, err);
	if (r) {
		soft_destroy(soft);
		return r;
	}
	soft->vps = calloc(vp_count, sizeof(struct soft_vp *));
	for (unsigned i = 0; soft->vps && i < vp_count; i++)
		r = r ? r : vp_create(&soft->vps[i], soft, i, &translate, code_file);
	if (!soft->vps || r) {
		soft_destroy(soft);
		return error_set(err, ENOMEM, "out of memory for %u virtual processors", vp_count);
	}
	*out = soft;
	return 0;
}

void soft_destroy(struct soft *soft)
{
	if (!soft)
		return;
	for (unsigned i = 0; soft->vps && i < soft->vp_count; i++)
		vp_destroy(soft->vps[i]);
	free(soft->vps);
	code_pages_destroy(&soft->code);
	atomic_bitmap_destroy(&soft->dirty);
	if (soft->pool)
		vector_pool_destroy(soft->pool);
	pthread_mutex_destroy(&soft->rmw_lock);
	free(soft);
}

int soft_set_memory(struct soft *soft, void *base, uint64_t size, const struct soft_range *ranges, unsigned count,
    struct error *err)
{
	if (count > RANGES_MAX)
		return error_set(err, EINVAL, "%u ranges of guest memory are more than %u", count, RANGES_MAX);
	for (unsigned i = 0; i < count; i++) {
		const struct soft_range *r = &ranges[i];

		if ((r->gpa | r->size | r->offset) & (GUEST_PAGE_SIZE - 1) ||
		    !range_fits_u64(r->offset, r->size, size) ||
		    !range_fits_u64(r->gpa, r->size, PHYSICAL_MASK + 1))
			return error_set(err, EINVAL, "guest memory range %u is not page aligned or out of bounds", i);
		soft->ranges[i] = *r;
	}
	if (code_pages_create(&soft->code, size >> GUEST_PAGE_SHIFT, soft->vp_count > 1))
		return error_set(err, ENOMEM, "out of memory for the tables of %llu bytes of guest memory",
		    (unsigned long long)size);
	soft->range_count = count;
	soft->ram = base;
	soft->ram_size = size;
	for (unsigned i = 0; i < soft->vp_count; i++) {
		soft->vps[i]->ram = base;
		soft->vps[i]->page_flags = soft->code.flags;
	}
	return 0;
}

struct soft_vp *soft_vp(struct soft *soft, unsigned index)
{
	return index < soft->vp_count ? soft->vps[index] : NULL;
}
