/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "board.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MAX_RANGES 16u

struct range {
	uint64_t first, count;
	const struct io_ops *ops;
	void *device;
};

struct partition {
	unsigned vp_count;
	struct {
		gpa_t gpa;
		uint64_t size;
		uint8_t *bytes;
	} memory[2];
	unsigned memory_count;
	struct range ports[MAX_RANGES], pages[MAX_RANGES];
	unsigned port_count, page_count;
	void (*eoi)(void *context, uint8_t vector);
	void *eoi_context;
	pthread_mutex_t lock;
	pthread_cond_t asserted;
	uint64_t time;
	unsigned interrupts;
	struct interrupt_message last;
	bool registers_set;
	struct vp_registers registers;
};

struct partition *board_create(unsigned vp_count)
{
	struct partition *p = calloc(1, sizeof(*p));

	if (!p)
		abort();
	p->vp_count = vp_count;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->asserted, NULL);
	return p;
}

void board_destroy(struct partition *p)
{
	for (unsigned i = 0; i < p->memory_count; i++)
		munmap(p->memory[i].bytes, p->memory[i].size);
	pthread_cond_destroy(&p->asserted);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

unsigned partition_vp_count(const struct partition *p)
{
	return p->vp_count;
}

int partition_add_memory(struct partition *p, gpa_t gpa, uint64_t size, struct error *err)
{
	uint8_t *bytes =
	    mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (bytes == MAP_FAILED || p->memory_count == ARRAY_SIZE(p->memory))
		return error_set(err, ENOMEM, "no memory for the board");
	p->memory[p->memory_count].gpa = gpa;
	p->memory[p->memory_count].size = size;
	p->memory[p->memory_count++].bytes = bytes;
	return 0;
}

void *partition_memory(struct partition *p, gpa_t gpa, uint64_t size)
{
	for (unsigned i = 0; i < p->memory_count; i++)
		if (gpa >= p->memory[i].gpa &&
		    range_fits_u64(gpa - p->memory[i].gpa, size, p->memory[i].size))
			return p->memory[i].bytes + (gpa - p->memory[i].gpa);
	return NULL;
}

int partition_read(struct partition *p, gpa_t gpa, void *buffer, size_t size)
{
	void *memory = partition_memory(p, gpa, size);

	if (!memory)
		return -EFAULT;
	memcpy(buffer, memory, size);
	return 0;
}

int partition_write(struct partition *p, gpa_t gpa, const void *buffer, size_t size)
{
	void *memory = partition_memory(p, gpa, size);

	if (!memory)
		return -EFAULT;
	memcpy(memory, buffer, size);
	return 0;
}

void partition_memory_written(struct partition *p, gpa_t gpa, uint64_t size)
{
}

static int add_range(struct range *ranges, unsigned *used, const struct range *range)
{
	for (unsigned i = 0; i < *used; i++)
		if (range->first < ranges[i].first + ranges[i].count &&
		    ranges[i].first < range->first + range->count)
			return -EEXIST;
	if (*used == MAX_RANGES)
		return -ENOMEM;
	ranges[(*used)++] = *range;
	return 0;
}

int partition_add_ports(struct partition *p, uint16_t first, unsigned count, const struct io_ops *ops,
			void *device, const char *name)
{
	return add_range(p->ports, &p->port_count, &(struct range){first, count, ops, device});
}

int partition_add_mmio(struct partition *p, gpa_t gpa, uint64_t size, const struct io_ops *ops, void *device,
		       const char *name)
{
	return add_range(p->pages, &p->page_count, &(struct range){gpa, size, ops, device});
}

void partition_assert_interrupt(struct partition *p, const struct interrupt_message *message)
{
	pthread_mutex_lock(&p->lock);
	p->interrupts++;
	p->last = *message;
	pthread_cond_broadcast(&p->asserted);
	pthread_mutex_unlock(&p->lock);
}

void partition_set_eoi_handler(struct partition *p, void (*handler)(void *context, uint8_t vector),
			       void *context)
{
	p->eoi = handler;
	p->eoi_context = context;
}

uint64_t partition_reference_time(struct partition *p)
{
	uint64_t time;

	pthread_mutex_lock(&p->lock);
	time = p->time;
	pthread_mutex_unlock(&p->lock);
	return time;
}

int vp_set_registers(struct partition *p, unsigned vp_index, const struct vp_registers *registers)
{
	p->registers = *registers;
	p->registers_set = true;
	return 0;
}

/* --- the guest's side --------------------------------------------------------------------------- */

static const struct range *find(const struct range *ranges, unsigned used, uint64_t at, unsigned size)
{
	for (unsigned i = 0; i < used; i++)
		if (at >= ranges[i].first && range_fits_u64(at - ranges[i].first, size, ranges[i].count))
			return &ranges[i];
	return NULL;
}

static uint64_t range_read(const struct range *range, uint64_t at, unsigned size)
{
	uint64_t value = range ? range->ops->read(range->device, at - range->first, size) : UINT64_MAX;

	return value & (UINT64_MAX >> (64 - 8 * size));
}

uint64_t board_in(struct partition *p, uint16_t port, unsigned size)
{
	return range_read(find(p->ports, p->port_count, port, size), port, size);
}

void board_out(struct partition *p, uint16_t port, unsigned size, uint64_t value)
{
	const struct range *range = find(p->ports, p->port_count, port, size);

	if (range)
		range->ops->write(range->device, port - range->first, size, value);
}

uint64_t board_mmio_read(struct partition *p, gpa_t gpa, unsigned size)
{
	return range_read(find(p->pages, p->page_count, gpa, size), gpa, size);
}

void board_mmio_write(struct partition *p, gpa_t gpa, unsigned size, uint64_t value)
{
	const struct range *range = find(p->pages, p->page_count, gpa, size);

	if (range)
		range->ops->write(range->device, gpa - range->first, size, value);
}

void board_eoi(struct partition *p, uint8_t vector)
{
	p->eoi(p->eoi_context, vector);
}

void board_set_time(struct partition *p, uint64_t time)
{
	pthread_mutex_lock(&p->lock);
	p->time = time;
	pthread_mutex_unlock(&p->lock);
}

unsigned board_interrupts(struct partition *p)
{
	unsigned n;

	pthread_mutex_lock(&p->lock);
	n = p->interrupts;
	pthread_mutex_unlock(&p->lock);
	return n;
}

struct interrupt_message board_last_interrupt(struct partition *p)
{
	struct interrupt_message last;

	pthread_mutex_lock(&p->lock);
	last = p->last;
	pthread_mutex_unlock(&p->lock);
	return last;
}

bool board_wait_interrupt(struct partition *p, unsigned seen)
{
	struct timespec until;
	bool more;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	pthread_mutex_lock(&p->lock);
	while (p->interrupts <= seen && !pthread_cond_timedwait(&p->asserted, &p->lock, &until))
		;
	more = p->interrupts > seen;
	pthread_mutex_unlock(&p->lock);
	return more;
}

const struct vp_registers *board_registers(struct partition *p)
{
	return p->registers_set ? &p->registers : NULL;
}
