/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <sched.h>
#include <signal.h>

#include "base/thread.h"
#include "statefile/block.h"

#define TEAM_MAX 4u

int chunks_of(struct chunks *out, struct partition *p, struct error *err)
{
	uint64_t size, count = 0, pages = 0;
	gpa_t gpa;

	for (unsigned i = 0; partition_memory_region(p, i, &gpa, &size); i++)
		count += (size + CHUNK_SIZE - 1) / CHUNK_SIZE;
	*out = (struct chunks){.list = calloc(count ? count : 1, sizeof(*out->list))};
	if (!out->list)
		return error_set(err, ENOMEM, "no memory on the host for a list of the guest's memory");
	for (unsigned i = 0; partition_memory_region(p, i, &gpa, &size); i++) {
		for (uint64_t at = 0; at < size; at += CHUNK_SIZE) {
			uint64_t bytes = min_u64(size - at, CHUNK_SIZE);

			out->list[out->count++] = (struct chunk){.host = partition_memory(p, gpa + at, bytes),
			    .gpa = gpa + at,
			    .first = pages,
			    .pages = (uint32_t)(bytes / GUEST_PAGE_SIZE)};
			pages += bytes / GUEST_PAGE_SIZE;
		}
	}
	out->pages = pages;
	return 0;
}

struct member {
	void (*work)(void *argument);
	void *argument;
};

static void *member_main(void *argument)
{
	const struct member *m = argument;

	thread_begin(THREAD_DISK, "saved-state");
	m->work(m->argument);
	return NULL;
}

static unsigned team_size(void)
{
	cpu_set_t set;

	/* With more processors than the set can tell, there are enough. */
	if (sched_getaffinity(0, sizeof(set), &set))
		return TEAM_MAX;
	return (unsigned)min_u64((uint64_t)CPU_COUNT(&set), TEAM_MAX);
}

/* A thread that cannot be started is done without. */
void team_run(void (*work)(void *argument), void *argument)
{
	struct member member = {work, argument};
	pthread_t threads[TEAM_MAX];
	unsigned count = 0, wanted = team_size() - 1;
	sigset_t all, old;

	/* Signals are for the process's own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (count < wanted && !pthread_create(&threads[count], NULL, member_main, &member))
		count++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	work(argument);
	while (count)
		pthread_join(threads[--count], NULL);
}

void team_fail(struct team *team, const struct error *err)
{
	pthread_mutex_lock(&team->lock);
	if (!atomic_exchange(&team->failed, true))
		team->err = *err;
	pthread_mutex_unlock(&team->lock);
}
