// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vector_pool.c - native functions of a few bytes each, made on demand and never taken away.
 *
 * They are found by their bytes in a hash table. A new one comes to lie where no processor has
 * executed before, and x86 keeps instruction fetches coherent with stores of other processors, so
 * nothing needs to be flushed.
 */
#include "hypervisor/soft/vector_private.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>

#include "hypervisor/soft/native_memory.h"

/* All normal forms together are fewer: test_vector counts them. Memory is used for those in use. */
#define POOL_FUNCTIONS (1u << 17)
_Static_assert(VECTOR_POOL_BYTES == POOL_FUNCTIONS * NATIVE_SIZE, "each has a place");
#define TABLE_SIZE     (POOL_FUNCTIONS * 2)

struct vector_pool {
	pthread_mutex_t lock;
	struct native_memory memory;
	uint32_t *table; /* function number plus 1, 0 for none; TABLE_SIZE of them, open addressing */
	unsigned used;
	struct vector_features features;
};

static void *map_anonymous(size_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

int vector_pool_create(struct vector_pool **out, int code_file, struct error *err)
{
	struct vector_pool *pool = calloc(1, sizeof(*pool));
	int r;

	if (!pool)
		return error_set(err, ENOMEM, "Out of memory for the vector part of the processor.");
	pthread_mutex_init(&pool->lock, NULL);
	vector_features(&pool->features);
	r = native_memory_create(&pool->memory, code_file, 0, "bulkhead-vector", VECTOR_POOL_BYTES);
	pool->table = map_anonymous(TABLE_SIZE * sizeof(*pool->table));
	if (r < 0 || pool->table == MAP_FAILED) {
		int code = r < 0 ? -r : errno;

		vector_pool_destroy(pool);
		return error_set(
		    err, code,
		    "Cannot map executable memory, which the software processor needs: %s. Does a security "
		    "policy forbid it?",
		    strerror(code));
	}
	*out = pool;
	return 0;
}

static void unmap(void *p, size_t size)
{
	if (p && p != MAP_FAILED)
		munmap(p, size);
}

void vector_pool_destroy(struct vector_pool *pool)
{
	if (!pool)
		return;
	native_memory_destroy(&pool->memory);
	unmap(pool->table, TABLE_SIZE * sizeof(*pool->table));
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

static uint32_t hash_bytes(const uint8_t *bytes)
{
	uint64_t h = 0;

	for (unsigned i = 0; i < NATIVE_SIZE; i += 8)
		h = (h ^ le64_get(bytes + i)) * 0x9e3779b97f4a7c15ull, h ^= h >> 29;
	return (uint32_t)(h >> 16);
}

const void *vector_pool_get(struct vector_pool *pool, const struct native_code *code)
{
	uint8_t bytes[NATIVE_SIZE];
	const void *found = NULL;
	uint32_t slot;

	memset(bytes, 0xcc, sizeof(bytes));
	memcpy(bytes, code->bytes, code->length);
	pthread_mutex_lock(&pool->lock);
	for (slot = hash_bytes(bytes) % TABLE_SIZE; pool->table[slot]; slot = (slot + 1) % TABLE_SIZE) {
		size_t at = (size_t)(pool->table[slot] - 1) * NATIVE_SIZE;

		if (memcmp(pool->memory.writable + at, bytes, NATIVE_SIZE) == 0) {
			found = pool->memory.executable + at;
			break;
		}
	}
	if (!found && pool->used < POOL_FUNCTIONS) {
		size_t at = (size_t)pool->used * NATIVE_SIZE;

		memcpy(pool->memory.writable + at, bytes, NATIVE_SIZE);
		pool->table[slot] = ++pool->used;
		found = pool->memory.executable + at;
	}
	pthread_mutex_unlock(&pool->lock);
	return found;
}

unsigned vector_pool_count(struct vector_pool *pool)
{
	unsigned used;

	pthread_mutex_lock(&pool->lock);
	used = pool->used;
	pthread_mutex_unlock(&pool->lock);
	return used;
}

const struct vector_features *vector_pool_features(const struct vector_pool *pool)
{
	return &pool->features;
}
