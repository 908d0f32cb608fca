/* SPDX-License-Identifier: GPL-2.0-or-later */
/* disk_bench.c - `bulkhead disk bench`: how fast a disk is, by the same way that a guest's requests go. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "cli/disk_tool.h"

#define DEPTH_MAX   1024u
#define SECONDS_MAX 3600u
#define BLOCK_MAX   (16u << 20)

struct bench {
	bool overwrite, discard, random, direct;
	unsigned depth, seconds, flush_every;
	uint32_t block;
	uint64_t step;     /* from one request to the next, where not at random; 0: the block */
	uint64_t requests; /* 0: as many as there is time for */
	uint64_t blocks;   /* in the disk */
	struct disk *disk;
	struct disk_queue *queue;
	struct lane *lanes;
	uint64_t next, position;
	uint64_t start, now, deadline; /* nanoseconds */
	uint64_t processor;            /* microseconds of it that were used */
	uint64_t count, begun, flushes, waited, longest;
	int result;
	bool stopping;
};

/* One request after the other. */
struct lane {
	struct bench *bench;
	struct disk_request request;
	struct iovec iov;
	uint64_t submitted;
	bool flushing;
};

static uint64_t nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t processor_time(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (uint64_t)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000u +
	       (uint64_t)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

static uint64_t choose_offset(struct bench *b)
{
	uint64_t v = b->next++, offset = b->position;

	if (!b->random) {
		b->position += b->step ? b->step : b->block;
		if (b->position > (b->blocks - 1) * b->block)
			b->position %= b->blocks * b->block;
		return min_u64(offset, (b->blocks - 1) * b->block);
	}
	/* splitmix64: the same blocks in each run */
	v = (v + 1) * UINT64_C(0x9e3779b97f4a7c15);
	v = (v ^ (v >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	v = (v ^ (v >> 27)) * UINT64_C(0x94d049bb133111eb);
	return (v ^ (v >> 31)) % b->blocks * b->block;
}

static bool is_done(const struct bench *b)
{
	return b->stopping || b->result < 0 || (b->requests > 0 && b->begun >= b->requests);
}

static void submit(struct lane *lane)
{
	struct bench *b = lane->bench;

	lane->flushing = b->flush_every > 0 && b->begun / b->flush_every > b->flushes;
	lane->request.op = lane->flushing ? DISK_OP_FLUSH
			   : b->discard   ? DISK_OP_DISCARD
			   : b->overwrite ? DISK_OP_WRITE
					  : DISK_OP_READ;
	if (lane->flushing) {
		b->flushes++;
	} else if (is_done(b)) {
		return;
	} else {
		b->begun++;
		lane->request.offset = choose_offset(b);
	}
	lane->submitted = nanoseconds();
	disk_queue_submit(b->queue, b->disk, &lane->request);
}

static void on_complete(struct disk_request *request, int result)
{
	struct lane *lane = request->context;
	struct bench *b = lane->bench;
	uint64_t took = nanoseconds() - lane->submitted;

	if (result < 0)
		b->result = result;
	b->count += !lane->flushing;
	b->waited += took;
	b->longest = max_u64(b->longest, took);
	if (!b->stopping && b->result == 0)
		submit(lane);
}

static int prepare(struct bench *b, struct error *err)
{
	int r = disk_queue_create(&b->queue, b->depth, err);

	if (r < 0)
		return r;
	b->lanes = calloc(b->depth, sizeof(*b->lanes));
	if (!b->lanes)
		return error_set(err, ENOMEM, "no memory for %u requests", b->depth);
	for (unsigned i = 0; i < b->depth; i++) {
		struct lane *lane = &b->lanes[i];

		lane->bench = b;
		lane->iov = (struct iovec){aligned_alloc(4096, align_up_u64(b->block, 4096)), b->block};
		if (!lane->iov.iov_base)
			return error_set(err, ENOMEM, "no memory for %u requests of %u bytes", b->depth,
					 b->block);
		/* Not zeros, which the host's file system might store as nothing. */
		memset(lane->iov.iov_base, 0xa5, b->block);
		lane->request = (struct disk_request){.length = b->block,
						      .iov = &lane->iov,
						      .iov_count = 1,
						      .complete = on_complete,
						      .context = lane};
	}
	return 0;
}

static int measure(struct bench *b, const struct disk_progress *progress, struct error *err)
{
	uint64_t seconds = b->requests > 0 && b->seconds == 0 ? SECONDS_MAX : b->seconds ? b->seconds : 5;

	b->processor = processor_time();
	b->start = b->now = nanoseconds();
	b->deadline = b->start + seconds * UINT64_C(1000000000);
	for (unsigned i = 0; i < b->depth; i++)
		submit(&b->lanes[i]);
	while (disk_queue_in_flight(b->queue) > 0) {
		disk_queue_wait(b->queue);
		b->now = nanoseconds();
		if (b->now >= b->deadline ||
		    !progress->step(progress->context, b->now - b->start, b->deadline - b->start))
			b->stopping = true;
	}
	if (b->result < 0)
		return error_set(err, -b->result, "a request failed after %ju: %s", (uintmax_t)b->count,
				 strerror(-b->result));
	if (b->overwrite && disk_flush(b->disk, err) < 0)
		return -err->code;
	b->now = nanoseconds();
	b->processor = processor_time() - b->processor;
	return tool_interrupted() ? error_set(err, ECANCELED, "stopped before the time was over") : 0;
}

static void clean_up(struct bench *b)
{
	for (unsigned i = 0; b->lanes && i < b->depth; i++)
		free(b->lanes[i].iov.iov_base);
	free(b->lanes);
	disk_queue_destroy(b->queue);
}

static void show(struct tool *tool, const struct bench *b)
{
	double seconds = (double)(b->now - b->start) / 1e9;
	double iops = (double)b->count / seconds, rate = iops * b->block / (1 << 20);
	double count = b->count ? (double)b->count : 1, mean = (double)b->waited / count / 1e3;
	double longest = (double)b->longest / 1e3, processor = (double)b->processor / count;

	json_object_set_new(tool->result, "requests", json_bytes(b->count));
	json_object_set_new(tool->result, "seconds", json_real(seconds));
	json_object_set_new(tool->result, "iops", json_real(iops));
	json_object_set_new(tool->result, "mib_per_second", json_real(rate));
	json_object_set_new(tool->result, "mean_microseconds", json_real(mean));
	json_object_set_new(tool->result, "longest_microseconds", json_real(longest));
	json_object_set_new(tool->result, "processor_microseconds", json_real(processor));
	if (!tool->json)
		printf("%s %s, %u bytes, %u at once%s: %.0f IOPS, %.1f MiB/s, %.0f us each, %.0f us at most, "
		       "%.1f us of processor time each\n",
		       b->random ? "random" : "sequential",
		       b->discard     ? "discards"
		       : b->overwrite ? "writes"
				      : "reads",
		       b->block, b->depth, b->direct ? ", direct" : "", iops, rate, mean, longest, processor);
}

static int take_options(struct tool *tool, int argc, char **argv, struct bench *b)
{
	static const struct option options[] = {{"overwrite", no_argument, NULL, 'w'},
						{"sequential", no_argument, NULL, 's'},
						{"direct", no_argument, NULL, 'd'},
						{"block", required_argument, NULL, 'b'},
						{"depth", required_argument, NULL, 'q'},
						{"seconds", required_argument, NULL, 't'},
						{"discard", no_argument, NULL, 'D'},
						{"step", required_argument, NULL, 'S'},
						{"requests", required_argument, NULL, 'n'},
						{"flush-every", required_argument, NULL, 'F'},
						{NULL, 0, NULL, 0}};
	struct error err = {0};
	unsigned requests = 0;
	uint64_t block = b->block;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?')
			return EXIT_USAGE;
		if (option == 'w')
			b->overwrite = true;
		else if (option == 's')
			b->random = false;
		else if (option == 'd')
			b->direct = true;
		else if (option == 'D')
			b->discard = b->overwrite = true;
		else if (option == 'S' && parse_size(optarg, &b->step, &err))
			return tool_usage(tool, "%s", err.text);
		else if (option == 'n' && (!parse_number(optarg, UINT32_MAX, &requests) || requests == 0))
			return tool_usage(tool, "--requests: choose from 1 to %u", UINT32_MAX);
		else if (option == 'F' &&
			 (!parse_number(optarg, UINT32_MAX, &b->flush_every) || b->flush_every == 0))
			return tool_usage(tool, "--flush-every: choose from 1 to %u", UINT32_MAX);
		else if (option == 'b' && parse_size(optarg, &block, &err))
			return tool_usage(tool, "%s", err.text);
		else if (option == 'q' && (!parse_number(optarg, DEPTH_MAX, &b->depth) || b->depth == 0))
			return tool_usage(tool, "--depth: choose from 1 to %u", DEPTH_MAX);
		else if (option == 't' &&
			 (!parse_number(optarg, SECONDS_MAX, &b->seconds) || b->seconds == 0))
			return tool_usage(tool, "--seconds: choose from 1 to %u", SECONDS_MAX);
	}
	if (block < 512 || block > BLOCK_MAX || block % 512 != 0)
		return tool_usage(tool, "--block: choose a multiple of 512 up to 16M");
	if (b->step % 512 != 0)
		return tool_usage(tool, "--step: choose a multiple of 512");
	b->random = b->random && b->step == 0;
	b->requests = requests;
	b->block = (uint32_t)block;
	return 0;
}

static int run_bench(struct tool *tool, int argc, char **argv)
{
	struct bench b = {.random = true, .depth = 32, .block = 4096};
	int r, closed, status = take_options(tool, argc, argv, &b);
	struct disk_open_options options = {.read_only = !b.overwrite, .direct = b.direct};
	struct error err = {0};
	struct disk_info info;

	if (status)
		return status;
	if (argc - optind != 1)
		return tool_usage(tool, "say which file: see bulkhead disk bench --help");
	if (disk_open(&b.disk, argv[optind], &options, &err))
		return tool_fail(tool, &err);
	disk_get_info(b.disk, &info);
	b.blocks = info.size / b.block;
	if (b.block % info.logical_sector_size != 0 || b.step % info.logical_sector_size != 0 ||
	    b.blocks == 0) {
		disk_close(b.disk, NULL);
		return tool_usage(
		    tool,
		    "--block and --step: choose multiples of the disk's sector of %u bytes, and at most "
		    "its size",
		    info.logical_sector_size);
	}
	r = prepare(&b, &err);
	if (r == 0)
		r = measure(&b, tool_progress(tool, "bench"), &err);
	clean_up(&b);
	closed = disk_close(b.disk, r < 0 ? NULL : &err);
	if (r < 0 || closed < 0)
		return tool_fail(tool, &err);
	show(tool, &b);
	return 0;
}

const struct disk_verb disk_verb_bench = {
    .name = "bench",
    .summary = "measure how fast a disk is",
    .arguments = "FILE [OPTION…]",
    .text =
	"Reads from FILE for some seconds and says how much was done.\n"
	"\n"
	"  --overwrite        writes instead, with a flush at the end: THE CONTENTS OF THE DISK ARE LOST\n"
	"  --discard          discards instead: THE CONTENTS OF THE DISK ARE LOST\n"
	"  --flush-every N    a flush after N requests\n"
	"  --sequential       from the start on, not at random\n"
	"  --step SIZE        from the start on, each so much behind the one before\n"
	"  --block SIZE       of each request (4K)\n"
	"  --depth N          requests at once (32)\n"
	"  --seconds N        how long (5)\n"
	"  --requests N       no more than these\n"
	"  --direct           past the host's cache\n",
    .run = run_bench,
};
