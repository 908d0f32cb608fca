/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * diskbench: random 4 KiB writes at queue depth 32, past the page cache, by Linux's own asynchronous I/O.
 * gcc -O2 -static -o diskbench diskbench.c
 * Usage: diskbench DEVICE COUNT
 * Says "ready", waits for a line, writes, and says "written COUNT MICROSECONDS": whoever measures can look at its
 * counters at either end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DEPTH 32u
#define BLOCK 4096u

static uint64_t microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void fail(const char *what)
{
	printf("diskbench: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Knuth's MMIX generator; the same places for everyone. */
static uint64_t next_block(uint64_t blocks)
{
	static uint64_t state = 1;

	state = state * 6364136223846793005u + 1442695040888963407u;
	return (state >> 33) % blocks;
}

static void submit(aio_context_t context, struct iocb *blocks[], long n)
{
	while (n > 0) {
		long done = syscall(SYS_io_submit, context, n, blocks);

		if (done < 0)
			fail("io_submit");
		blocks += done;
		n -= done;
	}
}

static void write_all(int fd, uint64_t blocks, unsigned count)
{
	static struct iocb requests[DEPTH];
	struct iocb *free_ones[DEPTH];
	struct io_event events[DEPTH];
	aio_context_t context = 0;
	unsigned sent = 0, done = 0, idle = DEPTH;
	char *data;

	if (syscall(SYS_io_setup, DEPTH, &context) < 0)
		fail("io_setup");
	if (posix_memalign((void **)&data, BLOCK, BLOCK))
		fail("memory");
	memset(data, 0xa5, BLOCK);
	for (unsigned i = 0; i < DEPTH; i++)
		free_ones[i] = &requests[i];
	while (done < count) {
		unsigned n = idle < count - sent ? idle : count - sent;
		long got;

		for (unsigned i = 0; i < n; i++)
			*free_ones[i] = (struct iocb){.aio_lio_opcode = IOCB_CMD_PWRITE,
						      .aio_fildes = (uint32_t)fd,
						      .aio_buf = (uint64_t)(uintptr_t)data,
						      .aio_nbytes = BLOCK,
						      .aio_offset = (int64_t)(next_block(blocks) * BLOCK)};
		submit(context, free_ones, n);
		sent += n;
		got = syscall(SYS_io_getevents, context, 1L, (long)DEPTH, events, NULL);
		if (got < 0)
			fail("io_getevents");
		for (long i = 0; i < got; i++) {
			if (events[i].res != BLOCK)
				fail("a write");
			free_ones[i] = (struct iocb *)(uintptr_t)events[i].obj;
		}
		idle = (unsigned)got;
		done += (unsigned)got;
	}
}

int main(int argc, char **argv)
{
	unsigned count = argc > 2 ? (unsigned)atoi(argv[2]) : 0;
	uint64_t size, begin;
	char line[16];
	int fd;

	if (!count)
		return 2;
	fd = open(argv[1], O_RDWR | O_DIRECT);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) < 0)
		fail(argv[1]);
	printf("ready\n");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	begin = microseconds();
	write_all(fd, size / BLOCK, count);
	printf("written %u %llu\n", count, (unsigned long long)(microseconds() - begin));
	return 0;
}
