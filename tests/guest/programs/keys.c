// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * keys.c - what the kernel and the C library make of protection keys: who may read and write a page, thread by thread, in
 * system calls and signal handlers, and code that can only be executed. Prints a line for each, and fails at the first
 * access that comes out wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE    4096
#define KEYS    4
#define THREADS 6
#define ROUNDS  20000

static _Thread_local sigjmp_buf back;
static _Thread_local siginfo_t fault;

#define REQUIRE(condition)                               \
	do {                                             \
		if (!(condition))                        \
			failed(__LINE__, #condition);    \
	} while (0)

static _Noreturn void failed(int line, const char *what)
{
	printf("line %d: not %s (errno %d)\n", line, what, errno);
	fflush(stdout);
	_exit(1);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	fault = *info;
	siglongjmp(back, 1);
}

static int keys[KEYS];

/* Whether it was let. Another fault than by a key ends the program. The handler began with rights of its own, and leaving it by a
 * jump gives none back. */
static int access_page(volatile uint64_t *page, int key, int write, uint64_t value)
{
	unsigned rights[KEYS];

	for (int i = 0; i < KEYS; i++)
		rights[i] = (unsigned)pkey_get(keys[i]);
	if (!sigsetjmp(back, 1)) {
		if (write)
			*page = value;
		else
			REQUIRE(*page == value);
		return 1;
	}
	for (int i = 0; i < KEYS; i++)
		REQUIRE(!pkey_set(keys[i], rights[i]));
	REQUIRE(fault.si_code == SEGV_PKUERR);
	REQUIRE(fault.si_addr == (void *)page);
	REQUIRE((int)fault.si_pkey == key);
	return 0;
}

static unsigned next(uint32_t *dice, unsigned below)
{
	*dice = *dice * 1664525 + 1013904223;
	return (*dice >> 8) % below;
}

static uint64_t *page_with(int key, int protection)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	REQUIRE(page != MAP_FAILED);
	memset(page, 0, PAGE);
	REQUIRE(!pkey_mprotect(page, PAGE, protection, key));
	return page;
}

/* Rights are each thread's own. */
static void *use_keys(void *argument)
{
	static const unsigned rights[] = {0, PKEY_DISABLE_WRITE, PKEY_DISABLE_ACCESS};
	uint32_t dice = (uint32_t)(uintptr_t)argument;
	unsigned now[KEYS], denied = 0;
	uint64_t *pages[KEYS], content[KEYS] = {0};

	for (int i = 0; i < KEYS; i++) {
		REQUIRE(!pkey_set(keys[i], now[i] = 0));
		pages[i] = page_with(keys[i], PROT_READ | PROT_WRITE);
	}
	for (uint64_t round = 1; round <= ROUNDS; round++) {
		unsigned i = next(&dice, KEYS), write = next(&dice, 2);
		int let;

		if (next(&dice, 3))
			REQUIRE(!pkey_set(keys[i], now[i] = rights[next(&dice, 3)]));
		REQUIRE(pkey_get(keys[i]) == (int)now[i]);
		let = access_page(pages[i], keys[i], (int)write, write ? round : content[i]);
		REQUIRE(let == !(now[i] & PKEY_DISABLE_ACCESS || (write && now[i] & PKEY_DISABLE_WRITE)));
		denied += !let;
		if (let && write)
			content[i] = round;
		if (round % 1000 == 0)
			usleep(1); /* others run here meanwhile */
	}
	REQUIRE(denied > ROUNDS / 4);
	return NULL;
}

static void threads_have_their_own(void)
{
	pthread_t threads[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		REQUIRE(!pthread_create(&threads[i], NULL, use_keys, (void *)(i + 1)));
	for (int i = 0; i < THREADS; i++)
		REQUIRE(!pthread_join(threads[i], NULL));
	printf("%d threads, %d accesses each\n", THREADS, ROUNDS);
}

/* The kernel's accesses for a program have the program's rights. */
static void system_calls_are_bound(void)
{
	uint64_t *page = page_with(keys[0], PROT_READ | PROT_WRITE);
	int ends[2];

	REQUIRE(!pipe(ends));
	for (int i = 0; i < 1000; i++) {
		REQUIRE(!pkey_set(keys[0], 0));
		*page = (uint64_t)i;
		REQUIRE(write(ends[1], page, 8) == 8);
		REQUIRE(!pkey_set(keys[0], PKEY_DISABLE_WRITE));
		REQUIRE(write(ends[1], page, 8) == 8);
		REQUIRE(read(ends[0], page, 8) == -1 && errno == EFAULT);
		REQUIRE(!pkey_set(keys[0], PKEY_DISABLE_ACCESS));
		REQUIRE(write(ends[1], page, 8) == -1 && errno == EFAULT);
		REQUIRE(!pkey_set(keys[0], 0));
		for (int j = 0; j < 2; j++)
			REQUIRE(read(ends[0], page, 8) == 8 && *page == (uint64_t)i);
	}
	printf("system calls\n");
}

static volatile int handled, rights_in_handler;

static void on_signal(int number)
{
	(void)number;
	rights_in_handler = pkey_get(keys[0]);
	pkey_set(keys[0], 0);
	handled++;
}

/* A handler begins with no right to any key but 0, and what it sets is gone behind it. */
static void handlers_have_their_own(void)
{
	REQUIRE(signal(SIGUSR1, on_signal) != SIG_ERR);
	for (int i = 0; i < 1000; i++) {
		unsigned rights = i & 1 ? PKEY_DISABLE_WRITE : 0;

		REQUIRE(!pkey_set(keys[0], rights));
		raise(SIGUSR1);
		REQUIRE(rights_in_handler & PKEY_DISABLE_ACCESS);
		REQUIRE(pkey_get(keys[0]) == (int)rights);
	}
	REQUIRE(handled == 1000);
	printf("signal handlers\n");
}

static void children_inherit(void)
{
	uint64_t *page = page_with(keys[1], PROT_READ | PROT_WRITE);

	for (int i = 0; i < 50; i++) {
		int status;
		pid_t child;

		REQUIRE(!pkey_set(keys[1], PKEY_DISABLE_WRITE));
		child = fork();
		REQUIRE(child >= 0);
		if (!child)
			_exit(access_page(page, keys[1], 0, 0) && !access_page(page, keys[1], 1, 5) ? 7 : 8);
		REQUIRE(!pkey_set(keys[1], 0));
		REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
	}
	REQUIRE(access_page(page, keys[1], 0, 0));
	printf("children\n");
}

/* mprotect() of code alone takes a key by itself. */
static void code_cannot_be_read(void)
{
	static const uint8_t code[] = {0x8d, 0x47, 0x01, 0xc3}; /* lea 1(%rdi), %eax; ret */
	uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int (*more)(int);

	REQUIRE(page != MAP_FAILED);
	memcpy(page, code, sizeof(code));
	REQUIRE(!mprotect(page, PAGE, PROT_EXEC));
	memcpy(&more, &page, sizeof(more));
	for (int i = 0; i < 1000; i++) {
		REQUIRE(more(i) == i + 1);
		if (!sigsetjmp(back, 1)) {
			(void)*(volatile uint8_t *)page;
			failed(__LINE__, "code that cannot be read");
		}
		REQUIRE(fault.si_code == SEGV_PKUERR && fault.si_addr == page);
	}
	printf("code\n");
}

int main(void)
{
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

	REQUIRE(!sigaction(SIGSEGV, &action, NULL));
	for (int i = 0; i < KEYS; i++) {
		keys[i] = pkey_alloc(0, 0);
		REQUIRE(keys[i] > 0);
	}
	threads_have_their_own();
	system_calls_are_bound();
	handlers_have_their_own();
	children_inherit();
	code_cannot_be_read();
	printf("all as it should be\n");
	return 0;
}
