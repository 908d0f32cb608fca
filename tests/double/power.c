/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/double/power.h"

#include "tests/double/picture.h"
#include "tests/unit/test_disk_images.h"

#include <sys/stat.h>

#include "disk/operation.h"

#define FILES_MAX 5u
#define SINCE_MAX 12u
#define NAMES     8u

struct event {
	enum { WRITTEN, ZEROED, RESIZED, SYNCED, NAMED, NAMES_SYNCED, WRITING, FLUSHED, RESIZING } kind;
	unsigned file;
	uint64_t offset, length; /* NAMED: length tells whether it has a name */
	uint8_t *data;
	uint32_t tag;
};

struct trace {
	struct event *events;
	unsigned count, room;
};

/* What each sector may hold: as of the last flush, and of the writes since. */
struct expected {
	uint64_t size, sizes[4]; /* likewise */
	unsigned size_count;
	uint32_t flushed[POWER_SECTORS_MAX];
	uint32_t since[POWER_SECTORS_MAX][SINCE_MAX];
	uint8_t since_count[POWER_SECTORS_MAX];
};

/* The files at some point of a trace: what is durable, and the events that are not yet. */
struct world {
	struct picture durable[FILES_MAX];
	unsigned *pending;
	unsigned pending_count;
};

struct watched {
	struct power *power;
	struct file_observer observer;
	char name[32];
	struct picture before; /* the work */
	unsigned becomes;      /* of a new file: which one, when it gets its name */
	struct picture cut;    /* what is in the directory of the cut world */
};

struct power {
	const struct power_workload *workload;
	uint64_t seed;
	struct dice dice;
	char directory[64], *paths[4];
	unsigned path;
	struct watched files[FILES_MAX];
	unsigned file_count;
	char kept[8][32];
	unsigned kept_count;
	struct trace *trace;        /* that is being recorded, or NULL */
	struct trace main_trace, inner_trace;
	bool in_cut;                /* the world after a cut is at work */
	bool nested;                /* that of a cut that is cut again */
	unsigned at, inner_at, cuts, nested_cuts;
	const char *way;
	uint32_t tag;
	unsigned unflushed;
	struct expected *expected;
	uint8_t *by_reading, *by_writing;
};

void power_fail(struct power *power, const char *format, ...)
{
	char text[400];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	print_error("--workload '%s' --seed %ju: cut after event %u of %u, %s, then %u of %u\n",
	    power->workload->name, (uintmax_t)power->seed, power->at, power->main_trace.count,
	    power->way ? power->way : "not cut", power->inner_at, power->inner_trace.count);
	fail_msg("%s", text);
	abort();
}

uint64_t power_roll(struct power *power, uint64_t sides)
{
	return dice_roll(&power->dice, sides);
}

const char *power_path(struct power *power, const char *name)
{
	char **path = &power->paths[power->path++ % ARRAY_SIZE(power->paths)];

	free(*path);
	assert_true(asprintf(path, "%s%s/%s", power->directory, power->in_cut ? "/cut" : "", name) > 0);
	return *path;
}

static unsigned find(struct power *power, const char *name)
{
	for (unsigned i = 0; i < power->file_count; i++)
		if (strcmp(power->files[i].name, name) == 0)
			return i;
	return FILES_MAX;
}

/* --- recording --- */

static void add(struct power *power, struct event event, const void *data)
{
	struct trace *trace = power->trace;

	if (!trace)
		return;
	if (trace->count == trace->room) {
		trace->room = trace->room ? 2 * trace->room : 256;
		trace->events = realloc(trace->events, trace->room * sizeof(event));
		assert_non_null(trace->events);
	}
	if (data) {
		event.data = malloc(event.length);
		assert_non_null(event.data);
		memcpy(event.data, data, event.length);
	}
	trace->events[trace->count++] = event;
}

static void trace_clear(struct trace *trace)
{
	for (unsigned i = 0; i < trace->count; i++)
		free(trace->events[i].data);
	free(trace->events);
	*trace = (struct trace){ .events = NULL };
}

static void changed(struct watched *file, struct event event, const void *data)
{
	struct power *power = file->power;

	event.file = (unsigned)(file - power->files);
	add(power, event, data);
	if (!power->in_cut)
		return;
	if (event.kind == RESIZED) {
		picture_forget(&file->cut, event.length / PICTURE_PAGE * PICTURE_PAGE, 1);
		picture_resize(&file->cut, event.length);
	} else if (event.kind == NAMED && file->becomes < FILES_MAX) {
		picture_forget(&power->files[file->becomes].cut, 0, PICTURE_PAGES * (uint64_t)PICTURE_PAGE);
		power->files[file->becomes].cut.size = UINT64_MAX;
	} else if (event.kind == NAMED) {
		picture_clear(&file->cut);
		file->cut.exists = event.length;
	} else if (event.kind == WRITTEN || event.kind == ZEROED) {
		picture_forget(&file->cut, event.offset, event.length);
		file->cut.size = max_u64(file->cut.size, event.kind == WRITTEN ? event.offset + event.length : 0);
	}
}

static void on_written(void *context, uint64_t offset, const void *data, size_t size)
{
	changed(context, (struct event){ .kind = WRITTEN, .offset = offset, .length = size }, data);
}

static void on_zeroed(void *context, uint64_t offset, uint64_t length)
{
	changed(context, (struct event){ .kind = ZEROED, .offset = offset, .length = length }, NULL);
}

static void on_resized(void *context, uint64_t size)
{
	changed(context, (struct event){ .kind = RESIZED, .length = size }, NULL);
}

static void on_synced(void *context)
{
	changed(context, (struct event){ .kind = SYNCED }, NULL);
}

static void on_named(void *context, bool has_name)
{
	changed(context, (struct event){ .kind = NAMED, .length = has_name }, NULL);
}

static void on_names_synced(void *context)
{
	changed(context, (struct event){ .kind = NAMES_SYNCED }, NULL);
}

void power_watch(struct power *power, const char *name)
{
	struct watched *file = &power->files[power->file_count];

	assert_true(power->file_count < FILES_MAX);
	power->file_count++;
	snprintf(file->name, sizeof(file->name), "%s", name);
	file->power = power;
	file->becomes = FILES_MAX;
	file->observer = (struct file_observer){ .context = file, .written = on_written, .zeroed = on_zeroed,
		.resized = on_resized, .synced = on_synced, .named = on_named, .names_synced = on_names_synced };
}

void power_watch_new(struct power *power, const char *name)
{
	unsigned becomes = find(power, name);
	char new[32];

	snprintf(new, sizeof(new), "%.20s.new", name);
	power_watch(power, new);
	power->files[power->file_count - 1].becomes = becomes;
}

void power_keep(struct power *power, const char *name)
{
	snprintf(power->kept[power->kept_count++], sizeof(power->kept[0]), "%s", name);
}

const struct file_observer *power_observer(struct power *power, const char *name)
{
	unsigned i = find(power, name);

	return i < FILES_MAX ? &power->files[i].observer : NULL;
}

/* --- what workloads do --- */

struct disk *power_open(struct power *power, const char *name, bool read_only)
{
	const struct disk_open_options options = { .read_only = read_only };
	struct error err = { 0 };
	struct disk *disk;

	if (disk_open_watched(&disk, power_path(power, name), &options, power_observer(power, name), &err) != 0)
		power_fail(power, "%s", err.text);
	for (struct disk *d = disk->parent; d; d = d->parent)
		d->file.observer = power_observer(power, strrchr(d->path, '/') + 1);
	return disk;
}

void power_close(struct power *power, struct disk *disk)
{
	struct error err = { 0 };
	bool flushed = !power->in_cut && !disk->info.read_only;

	if (disk_close(disk, &err) != 0)
		power_fail(power, "%s", err.text);
	if (flushed)
		add(power, (struct event){ .kind = FLUSHED, .length = UINT64_MAX }, NULL);
	power->unflushed = 0;
}

void power_create(struct power *power, const char *name, const struct disk_create_options *options)
{
	struct error err = { 0 };

	if (disk_create(power_path(power, name), options, &err) != 0)
		power_fail(power, "%s", err.text);
	if (options->size > 0)
		power->expected->size = options->size;
}

/* Before recording, what is written is what is flushed. */
static void writing(struct power *power, uint64_t offset, uint64_t length, uint32_t tag)
{
	struct expected *e = power->expected;

	if (power->trace) {
		add(power, (struct event){ .kind = WRITING, .offset = offset, .length = length, .tag = tag }, NULL);
		return;
	}
	for (uint64_t i = offset / POWER_SECTOR; i < (offset + length) / POWER_SECTOR; i++)
		e->flushed[i] = tag;
}

static void perform(struct power *power, struct disk *disk, struct disk_request *request)
{
	struct error err = { 0 };

	if (disk_perform(disk, request, &err) != 0)
		power_fail(power, "%s", err.text);
	if (request->force_unit_access)
		add(power, (struct event){ .kind = FLUSHED, .offset = request->offset, .length = request->length }, NULL);
}

void power_write(struct power *power, struct disk *disk, uint64_t offset, uint64_t length, bool through)
{
	uint32_t *data = malloc(length), tag = ++power->tag;
	const struct iovec iov = { data, length };
	struct disk_request request = { .op = DISK_OP_WRITE, .offset = offset, .length = length, .iov = &iov,
		.iov_count = 1, .force_unit_access = through };

	assert_non_null(data);
	for (uint64_t i = 0; i < length / 4; i++)
		data[i] = tag;
	writing(power, offset, length, tag);
	perform(power, disk, &request);
	free(data);
}

void power_zero(struct power *power, struct disk *disk, enum disk_op op, uint64_t offset, uint64_t length)
{
	struct disk_request request = { .op = op, .offset = offset, .length = length };

	writing(power, offset, length, 0);
	perform(power, disk, &request);
}

void power_flush(struct power *power, struct disk *disk)
{
	struct disk_request request = { .op = DISK_OP_FLUSH };

	perform(power, disk, &request);
	add(power, (struct event){ .kind = FLUSHED, .length = UINT64_MAX }, NULL);
	power->unflushed = 0;
}

static void use_once(struct power *power, struct disk *disk, unsigned discard_in)
{
	uint64_t size = disk->info.size, length = POWER_SECTOR * (1 + power_roll(power, 16));
	uint64_t offset = POWER_SECTOR * power_roll(power, (size - length) / POWER_SECTOR);

	if (discard_in && power_roll(power, discard_in) == 0) {
		bool block = power_roll(power, 2) && offset / MIB * MIB + MIB <= size;

		power_zero(power, disk, power_roll(power, 3) ? DISK_OP_DISCARD : DISK_OP_WRITE_ZEROES,
		    block ? offset / MIB * MIB : offset, block ? MIB : length);
		return;
	}
	/* Every fourth lies across two blocks. */
	if (power_roll(power, 4) == 0 && size > MIB)
		offset = MIB * (1 + power_roll(power, (size - 1) / MIB)) - POWER_SECTOR;
	power_write(power, disk, offset, min_u64(length, size - offset), power_roll(power, 12) == 0);
}

void power_use(struct power *power, struct disk *disk, unsigned count, unsigned flush_in, unsigned discard_in)
{
	for (unsigned i = 0; i < count; i++) {
		if (power->unflushed == SINCE_MAX - 2 || power_roll(power, flush_in) == 0) {
			power_flush(power, disk);
		} else {
			use_once(power, disk, discard_in);
			power->unflushed++;
		}
	}
}

void power_resizing(struct power *power, uint64_t size)
{
	if (power->trace)
		add(power, (struct event){ .kind = RESIZING, .length = size }, NULL);
	else
		power->expected->size = size;
}

/* --- the world at a point of a trace --- */

static void expect(struct expected *e, const struct event *event)
{
	if (event->kind == RESIZING) {
		assert_true(e->size_count < ARRAY_SIZE(e->sizes));
		e->sizes[e->size_count++] = event->length;
		return;
	}
	for (uint64_t i = event->offset / POWER_SECTOR;
	     i < POWER_SECTORS_MAX && i * POWER_SECTOR - event->offset < event->length; i++) {
		if (event->kind == WRITING) {
			assert_true(e->since_count[i] < SINCE_MAX);
			e->since[i][e->since_count[i]++] = event->tag;
		} else if (e->since_count[i] > 0) {
			e->flushed[i] = e->since[i][e->since_count[i] - 1];
			e->since_count[i] = 0;
		}
	}
	if (event->kind == FLUSHED && event->length == UINT64_MAX && e->size_count > 0) {
		e->size = e->sizes[e->size_count - 1];
		e->size_count = 0;
	}
}

static void apply(struct picture *picture, const struct event *event, uint64_t skip, uint64_t length)
{
	if (event->kind == RESIZED)
		picture_resize(picture, event->length);
	else
		picture_write(picture, event->offset + skip, event->data ? event->data + skip : NULL, length);
}

/* A write past the end makes the file longer, as a whole. */
static void apply_whole(const struct power *power, struct picture *pictures, const struct event *event)
{
	struct picture *picture = &pictures[event->file];
	unsigned becomes = power->files[event->file].becomes;

	if (event->kind == NAMED && becomes < FILES_MAX) {
		picture_copy(&pictures[becomes], picture);
		pictures[becomes].exists = true;
		picture_clear(picture);
		return;
	}
	if (event->kind == NAMED) {
		picture->exists = event->length;
		return;
	}
	if (event->kind == WRITTEN && event->offset + event->length > picture->size)
		picture_resize(picture, event->offset + event->length);
	apply(picture, event, 0, event->length);
}

/* Each sector of it by a throw of the dice: `odds` of 16. */
static void apply_torn(struct power *power, struct picture *picture, const struct event *event, unsigned odds)
{
	if (event->kind == RESIZED) {
		if (power_roll(power, 16) < odds)
			apply(picture, event, 0, 0);
		return;
	}
	if (event->kind == WRITTEN && event->offset + event->length > picture->size && power_roll(power, 16) < odds)
		picture_resize(picture, event->offset + event->length);
	for (uint64_t at = 0, part; at < event->length; at += part) {
		part = min_u64(event->length - at, POWER_SECTOR - (event->offset + at) % POWER_SECTOR);
		if (power_roll(power, 16) < odds)
			apply(picture, event, at, part);
	}
}

static bool covers(const struct event *sync, const struct event *event)
{
	if (sync->kind == NAMES_SYNCED)
		return event->kind == NAMED;
	return sync->kind == SYNCED && event->kind != NAMED && event->file == sync->file;
}

static void advance(const struct power *power, struct world *world, const struct trace *trace, unsigned index)
{
	const struct event *event = &trace->events[index];
	unsigned left = 0;

	if (event->kind == SYNCED || event->kind == NAMES_SYNCED) {
		for (unsigned i = 0; i < world->pending_count; i++) {
			const struct event *earlier = &trace->events[world->pending[i]];

			if (covers(event, earlier))
				apply_whole(power, world->durable, earlier);
			else
				world->pending[left++] = world->pending[i];
		}
		world->pending_count = left;
	} else if (event->kind <= NAMED) {
		world->pending[world->pending_count++] = index;
	}
}

static void world_init(struct world *world, const struct trace *trace)
{
	memset(world, 0, sizeof(*world));
	world->pending = calloc(trace->count + 1, sizeof(*world->pending));
	assert_non_null(world->pending);
}

static void world_clear(struct world *world)
{
	for (unsigned i = 0; i < FILES_MAX; i++)
		picture_clear(&world->durable[i]);
	free(world->pending);
}

/* Cuts the power, and builds what is left in the directory of the cut world. */
static void cut(struct power *power, const struct world *world, const struct trace *trace, struct picture *left)
{
	static const char *const ways[] = { "nothing more", "all", "torn", "torn", "nearly nothing more", "nearly all" };
	static const unsigned odds_of[] = { 0, 16, 8, 8, 1, 15 };
	unsigned way = (unsigned)power_roll(power, ARRAY_SIZE(ways)), names = 0, odds = odds_of[way];

	for (unsigned i = 0; i < power->file_count; i++)
		picture_copy(&left[i], &world->durable[i]);
	for (unsigned i = 0; i < world->pending_count; i++)
		names += trace->events[world->pending[i]].kind == NAMED;
	names = odds == 0 ? 0 : odds == 16 ? names : (unsigned)power_roll(power, names + 1);
	for (unsigned i = 0; i < world->pending_count; i++) {
		const struct event *event = &trace->events[world->pending[i]];

		if (event->kind == NAMED && names > 0)
			names--;
		else if (event->kind == NAMED)
			continue;
		if (odds == 16 || event->kind == NAMED)
			apply_whole(power, left, event);
		else if (odds > 0)
			apply_torn(power, &left[event->file], event, odds);
	}
	power->way = ways[way];
	for (unsigned i = 0; i < power->file_count; i++)
		picture_hang(&power->files[i].cut, &left[i], power_path(power, power->files[i].name));
}

/* --- checking --- */

static bool sector_is_allowed(const struct expected *e, uint64_t sector, const uint8_t *bytes)
{
	uint32_t tag = le32_get(bytes);

	if (memcmp(bytes, bytes + 4, POWER_SECTOR - 4) != 0)
		return false;
	if (tag == e->flushed[sector])
		return true;
	for (unsigned i = 0; i < e->since_count[sector]; i++)
		if (tag == e->since[sector][i])
			return true;
	return false;
}

static void compare(struct power *power, struct disk *disk, uint8_t *contents)
{
	const struct expected *e = power->expected;
	bool size_is_right = disk->info.size == e->size;
	struct error err = { 0 };

	for (unsigned i = 0; i < e->size_count; i++)
		size_is_right |= disk->info.size == e->sizes[i];
	if (!size_is_right)
		power_fail(power, "%s has %ju bytes", disk->path, (uintmax_t)disk->info.size);
	if (disk_read(disk, 0, contents, disk->info.size, &err) != 0)
		power_fail(power, "%s", err.text);
	for (uint64_t i = 0; i < disk->info.size / POWER_SECTOR; i++)
		if (!sector_is_allowed(e, i, contents + i * POWER_SECTOR))
			power_fail(power, "%s: sector %ju holds %#x, flushed was %#x, and %u more were written",
			    disk->path, (uintmax_t)i, le32_get(contents + i * POWER_SECTOR), e->flushed[i],
			    e->since_count[i]);
}

static void must_be_sound(struct power *power, struct disk *disk)
{
	char report[2000] = "";
	struct error err = { 0 };

	for (struct disk *d = disk; d; d = d->parent) {
		FILE *to = fmemopen(report, sizeof(report), "w");
		int r = d->ops->check ? d->ops->check(d, to, &err) : 0;

		fclose(to);
		if (r != 0)
			power_fail(power, "%s; found: %s", err.text, report);
	}
}

void power_compare(struct power *power, const char *name)
{
	struct disk *disk = power_open(power, name, true);

	compare(power, disk, power->by_reading);
	must_be_sound(power, disk);
	power_close(power, disk);
}

/* Every MiB gets a sector: what is new must be zeros otherwise, also where the cut left something behind. */
static void write_after_cut(struct power *power, struct disk *disk)
{
	uint64_t size = disk->info.size;
	struct error err = { 0 };

	for (uint64_t at = 4096; at < size; at += MIB) {
		memset(power->by_reading + at, 0xee, POWER_SECTOR);
		if (disk_write(disk, at, power->by_reading + at, POWER_SECTOR, &err) != 0)
			power_fail(power, "%s", err.text);
	}
	if (disk_read(disk, 0, power->by_writing, size, &err) != 0)
		power_fail(power, "%s", err.text);
	if (memcmp(power->by_reading, power->by_writing, size) != 0)
		power_fail(power, "%s: what was written after the cut has changed more than that", disk->path);
}

bool power_exists(struct power *power, const char *name)
{
	return access(power_path(power, name), F_OK) == 0;
}

bool power_may_change(struct power *power)
{
	return !power->nested && !power->trace;
}

void power_check(struct power *power, const char *name)
{
	struct disk *disk;
	uint64_t size;

	power_compare(power, name);
	disk = power_open(power, name, false);
	size = disk->info.size;
	compare(power, disk, power->by_writing);
	if (memcmp(power->by_reading, power->by_writing, size) != 0)
		power_fail(power, "%s: reads otherwise when it is opened for writing", disk->path);
	if (power_may_change(power))
		write_after_cut(power, disk);
	power_close(power, disk);
	if (power_may_change(power)) {
		disk = power_open(power, name, true);
		must_be_sound(power, disk);
		power_close(power, disk);
	}
}

void power_compare_again(struct power *power, const char *name)
{
	struct disk *disk = power_open(power, name, true);
	struct error err = { 0 };

	if (disk_read(disk, 0, power->by_writing, disk->info.size, &err) != 0)
		power_fail(power, "%s", err.text);
	if (memcmp(power->by_reading, power->by_writing, disk->info.size) != 0)
		power_fail(power, "%s: reads otherwise than before", disk->path);
	must_be_sound(power, disk);
	power_close(power, disk);
}

static void check(struct power *power)
{
	power->cuts++;
	if (power->workload->check)
		power->workload->check(power);
	else
		power_check(power, "disk");
}

/* The changes that opening the files has made, cut off: a few of them. */
static void cut_again(struct power *power, struct picture *left)
{
	const struct trace *trace = &power->inner_trace;
	struct picture *again = calloc(FILES_MAX, sizeof(*again));
	struct world *world = calloc(1, sizeof(*world));
	unsigned step = 1 + trace->count / 6, next = (unsigned)power_roll(power, step);

	assert_non_null(again);
	world_init(world, trace);
	for (unsigned i = 0; i < power->file_count; i++)
		picture_copy(&world->durable[i], &left[i]);
	power->nested = true;
	for (unsigned i = 0; i < trace->count; i++) {
		advance(power, world, trace, i);
		if (i != next)
			continue;
		next += step;
		power->inner_at = i + 1;
		cut(power, world, trace, again);
		power->nested_cuts++;
		check(power);
	}
	power->nested = false;
	power->inner_at = 0;
	world_clear(world);
	free(world);
	for (unsigned i = 0; i < power->file_count; i++)
		picture_clear(&again[i]);
	free(again);
}

static void cut_everywhere(struct power *power)
{
	const struct trace *trace = &power->main_trace;
	struct picture *left = calloc(FILES_MAX, sizeof(*left));
	struct world *world = calloc(1, sizeof(*world));

	assert_non_null(left);
	world_init(world, trace);
	for (unsigned i = 0; i < power->file_count; i++)
		picture_copy(&world->durable[i], &power->files[i].before);
	for (unsigned i = 0; i < trace->count; i++) {
		const struct event *event = &trace->events[i];

		if (event->kind >= WRITING)
			expect(power->expected, event);
		advance(power, world, trace, i);
		power->at = i + 1;
		/* Nothing more can be lost than before: but what was promised is more. */
		if (event->kind == WRITING || event->kind == RESIZING)
			continue;
		cut(power, world, trace, left);
		if (power_roll(power, 4) == 0)
			power->trace = &power->inner_trace;
		check(power);
		if (power->trace) {
			power->trace = NULL;
			cut_again(power, left);
		}
		trace_clear(&power->inner_trace);
	}
	world_clear(world);
	free(world);
	for (unsigned i = 0; i < power->file_count; i++)
		picture_clear(&left[i]);
	free(left);
}

/* --- the run --- */

static void begin(struct power *power)
{
	char cut_directory[128];

	image_directory(power->directory, sizeof(power->directory));
	snprintf(cut_directory, sizeof(cut_directory), "%s/cut", power->directory);
	assert_int_equal(mkdir(cut_directory, 0700), 0);
	power->expected = calloc(1, sizeof(*power->expected));
	power->by_reading = malloc(POWER_SECTORS_MAX * POWER_SECTOR);
	power->by_writing = malloc(POWER_SECTORS_MAX * POWER_SECTOR);
	assert_true(power->expected && power->by_reading && power->by_writing);
	power->workload->prepare(power);
	for (unsigned i = 0; i < power->file_count; i++)
		picture_take(&power->files[i].before, power_path(power, power->files[i].name));
	for (unsigned i = 0; i < power->kept_count; i++) {
		const char *from = power_path(power, power->kept[i]), *to;

		power->in_cut = true;
		to = power_path(power, power->kept[i]);
		power->in_cut = false;
		assert_int_equal(link(from, to), 0);
	}
}

static void end(struct power *power)
{
	char cut_directory[128];

	for (unsigned cut_world = 0; cut_world < 2; cut_world++) {
		power->in_cut = cut_world;
		for (unsigned i = 0; i < power->file_count; i++)
			unlink(power_path(power, power->files[i].name));
		for (unsigned i = 0; i < power->kept_count; i++)
			unlink(power_path(power, power->kept[i]));
	}
	snprintf(cut_directory, sizeof(cut_directory), "%s/cut", power->directory);
	rmdir(cut_directory);
	rmdir(power->directory);
	for (unsigned i = 0; i < power->file_count; i++) {
		picture_clear(&power->files[i].before);
		picture_clear(&power->files[i].cut);
	}
	trace_clear(&power->main_trace);
	for (unsigned i = 0; i < ARRAY_SIZE(power->paths); i++)
		free(power->paths[i]);
	free(power->expected);
	free(power->by_reading);
	free(power->by_writing);
}

void power_run(const struct power_workload *workload, uint64_t seed, struct power_count *count)
{
	struct power *power = calloc(1, sizeof(*power));

	assert_non_null(power);
	power->workload = workload;
	power->seed = seed;
	power->dice.state = seed;
	begin(power);
	power->trace = &power->main_trace;
	workload->work(power);
	power->trace = NULL;
	power->in_cut = true;
	cut_everywhere(power);
	end(power);
	count->cuts += power->cuts;
	count->again += power->nested_cuts;
	free(power);
}
