/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * thread.h - what a thread is for, told by itself when it begins, so that the process can confine it.
 *
 * The process has one hook, as it has one log: set before the threads that it should see are started.
 */
#pragma once

enum thread_kind {
	THREAD_VP,    /* runs a virtual processor, and the devices' handlers */
	THREAD_DISK,  /* a disk's requests and their completions; starts more of its kind */
	THREAD_TIMER, /* waits for deadlines and tells virtual processors */
	THREAD_BUS,   /* VMBus control: opens and closes channels, and starts their threads */
	THREAD_NETWORK /* moves an adapter's frames */
};

/* First thing on a new thread. `name` is for who looks at the process, up to 15 bytes; NULL leaves it as it is. */
void thread_begin(enum thread_kind kind, const char *name);

/* NULL: none. Called on the thread. */
void thread_set_hook(void (*hook)(enum thread_kind kind));
