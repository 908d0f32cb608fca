/* SPDX-License-Identifier: GPL-2.0-or-later */
/* memory.c - guest RAM: one memfd, one contiguous host mapping, regions of guest addresses on it. */
#include "hypervisor/partition.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "hypervisor/host.h"

#define HUGE_PAGE (2ull << 20)

/* Aligned so that huge pages of the file are huge pages of the mapping. */
static void *reserve(uint64_t size)
{
	uint8_t *p = mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t before;

	if (p == MAP_FAILED)
		return MAP_FAILED;
	before = align_up_u64((uintptr_t)p, HUGE_PAGE) - (uintptr_t)p;
	if (before)
		munmap(p, before);
	munmap(p + before + size, HUGE_PAGE - before);
	return p + before;
}

int memory_init(struct partition *p, struct error *err)
{
	void *base;

	p->memfd = host_memory(p->config.host);
	if (p->memfd < 0)
		return error_set(err, errno, "guest memory cannot be created: %s", strerror(errno));
	/* So that RAM added later stays contiguous; costs no memory. */
	p->reserved = host_reservation(p->config.host, p->config.memory_max);
	base = reserve(p->reserved);
	if (base == MAP_FAILED)
		return error_set(err, errno,
		    "%llu GiB of address space for guest memory are refused (%s): raise the limit on virtual memory (ulimit -v)",
		    (unsigned long long)(p->reserved >> 30), strerror(errno));
	p->base = base;
	return 0;
}

void memory_destroy(struct partition *p)
{
	if (p->base)
		munmap(p->base, p->reserved);
	if (p->memfd >= 0)
		close(p->memfd);
}

static const struct memory_region *find_region(const struct partition *p, gpa_t gpa)
{
	for (unsigned i = 0; i < p->region_count; i++) {
		const struct memory_region *r = &p->regions[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->size)
			return r;
	}
	return NULL;
}

static bool overlaps_memory(const struct partition *p, gpa_t gpa, uint64_t size)
{
	for (unsigned i = 0; i < p->region_count; i++)
		if (gpa < p->regions[i].gpa + p->regions[i].size && p->regions[i].gpa < gpa + size)
			return true;
	return false;
}

int partition_add_memory(struct partition *p, gpa_t gpa, uint64_t size, struct error *err)
{
	uint64_t top = 1ull << p->traits.physical_bits;
	void *mapping;

	if (!size || !is_aligned_u64(gpa | size, GUEST_PAGE_SIZE) || !range_fits_u64(gpa, size, top))
		return error_set(err, EINVAL,
		    "guest memory at 0x%llx, 0x%llx bytes: not whole pages below 0x%llx, where this processor's addresses end",
		    (unsigned long long)gpa, (unsigned long long)size, (unsigned long long)top);
	if (p->started || p->region_count == PARTITION_MAX_REGIONS || overlaps_memory(p, gpa, size))
		return error_set(err, EEXIST, "guest memory at 0x%llx overlaps or comes too late",
		    (unsigned long long)gpa);
	if (!range_fits_u64(p->memory_size, size, p->reserved))
		return error_set(err, ENOMEM, "%llu MiB of guest memory are more than a partition can have (%llu GiB)",
		    (unsigned long long)((p->memory_size + size) >> 20), (unsigned long long)(p->reserved >> 30));
	if (host_memory_room(p->config.host, p->memfd, p->memory_size + size))
		return error_set(err, errno, "the host has no room for %llu MiB of guest memory: %s",
		    (unsigned long long)((p->memory_size + size) >> 20), strerror(errno));
	mapping = mmap(p->base + p->memory_size, size, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_FIXED | MAP_NORESERVE, p->memfd, (off_t)p->memory_size);
	if (mapping == MAP_FAILED)
		return error_set(err, errno, "the host cannot map %llu MiB of guest memory: %s",
		    (unsigned long long)(size >> 20), strerror(errno));
	p->regions[p->region_count++] = (struct memory_region){gpa, size, p->memory_size};
	p->memory_size += size;
	return 0;
}

void *partition_memory(struct partition *p, gpa_t gpa, uint64_t size)
{
	const struct memory_region *r = find_region(p, gpa);

	if (!r || !range_fits_u64(gpa - r->gpa, size, r->size))
		return NULL;
	return p->base + r->offset + (gpa - r->gpa);
}

static int copy_guest(struct partition *p, gpa_t gpa, void *buffer, size_t size, bool write)
{
	uint8_t *bytes = buffer;

	while (size) {
		const struct memory_region *r = find_region(p, gpa);
		uint64_t n;

		if (!r)
			return -EFAULT;
		n = min_u64(size, r->size - (gpa - r->gpa));
		if (write)
			memcpy(p->base + r->offset + (gpa - r->gpa), bytes, n);
		else
			memcpy(bytes, p->base + r->offset + (gpa - r->gpa), n);
		if (write)
			partition_memory_written(p, gpa, n);
		bytes += n;
		gpa += n;
		size -= n;
	}
	return 0;
}

int partition_read(struct partition *p, gpa_t gpa, void *buffer, size_t size)
{
	return copy_guest(p, gpa, buffer, size, false);
}

int partition_write(struct partition *p, gpa_t gpa, const void *buffer, size_t size)
{
	return copy_guest(p, gpa, (void *)(uintptr_t)buffer, size, true);
}

void partition_memory_written(struct partition *p, gpa_t gpa, uint64_t size)
{
	p->processor->memory_written(p, gpa, size);
	if (dirty_is_tracked(p))
		dirty_mark_gpa(p, gpa, size);
}

/* Regions lie behind one another in the mapping, so a host range may cross from one to the next. */
void partition_host_written(struct partition *p, const void *host, uint64_t size)
{
	uint64_t at = (uint64_t)((const uint8_t *)host - p->base), end = at + size;

	for (unsigned i = 0; i < p->region_count && at < end; i++) {
		const struct memory_region *r = &p->regions[i];
		uint64_t n;

		if (at < r->offset || at - r->offset >= r->size)
			continue;
		n = min_u64(end - at, r->size - (at - r->offset));
		partition_memory_written(p, r->gpa + (at - r->offset), n);
		at += n;
	}
}

bool partition_memory_region(const struct partition *p, unsigned index, gpa_t *gpa, uint64_t *size)
{
	if (index >= p->region_count)
		return false;
	*gpa = p->regions[index].gpa;
	*size = p->regions[index].size;
	return true;
}

bool partition_memory_used(const struct partition *p, gpa_t gpa, uint64_t size)
{
	const struct memory_region *r = find_region(p, gpa);
	off_t data;

	if (!r)
		return false;
	data = lseek(p->memfd, (off_t)(r->offset + (gpa - r->gpa)), SEEK_DATA);
	/* ENXIO: there is nothing up to the end. Any other error tells nothing. */
	return data < 0 ? errno != ENXIO : (uint64_t)data < r->offset + (gpa - r->gpa) + size;
}

gpa_t partition_memory_gpa(const struct partition *p, const void *host)
{
	uint64_t at = (uint64_t)((const uint8_t *)host - p->base);

	for (unsigned i = 0; i < p->region_count; i++)
		if (at >= p->regions[i].offset && at - p->regions[i].offset < p->regions[i].size)
			return p->regions[i].gpa + (at - p->regions[i].offset);
	return UINT64_MAX;
}

uint64_t partition_memory_size(const struct partition *p)
{
	return p->memory_size;
}
