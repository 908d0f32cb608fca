/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk/commit.h"

void commit_init(struct commit *commit)
{
	*commit = (struct commit){.result = 0};
	pthread_mutex_init(&commit->lock, NULL);
	pthread_cond_init(&commit->over, NULL);
}

void commit_destroy(struct commit *commit)
{
	pthread_cond_destroy(&commit->over);
	pthread_mutex_destroy(&commit->lock);
}

int commit_share(struct commit *commit, int (*run)(void *context), void *context)
{
	uint64_t needed;
	int r;

	pthread_mutex_lock(&commit->lock);
	needed = commit->begun + 1;
	commit->waiting++;
	while (commit->done < needed && commit->begun > commit->done)
		pthread_cond_wait(&commit->over, &commit->lock);
	commit->waiting--;
	if (commit->done < needed) {
		commit->begun++;
		pthread_mutex_unlock(&commit->lock);
		r = run(context);
		pthread_mutex_lock(&commit->lock);
		commit->done++;
		commit->result = r;
		pthread_cond_broadcast(&commit->over);
	}
	/* A later one that has ended meanwhile covers the same and more. */
	r = commit->result;
	pthread_mutex_unlock(&commit->lock);
	return r;
}
