/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/thread.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

static void (*_Atomic thread_hook)(enum thread_kind kind);

void thread_set_hook(void (*hook)(enum thread_kind kind))
{
	atomic_store(&thread_hook, hook);
}

void thread_begin(enum thread_kind kind, const char *name)
{
	void (*hook)(enum thread_kind kind) = atomic_load(&thread_hook);

	/* Another thread would go through /proc for that, which a confined process has none of. */
	if (name)
		pthread_setname_np(pthread_self(), name);
	if (hook)
		hook(kind);
}
