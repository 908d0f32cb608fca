/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/disk_tool.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define BAR_WIDTH       30u
#define BAR_FIRST_AFTER 400 /* milliseconds: what is over sooner needs no bar */
#define BAR_EVERY       100

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
	caught = number;
}

void tool_catch_signals(void)
{
	/* No SA_RESTART: a wait has to end too. */
	const struct sigaction action = {.sa_handler = on_signal};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

bool tool_interrupted(void)
{
	return caught != 0;
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void draw(const struct bar *bar, uint64_t done, uint64_t total, int64_t elapsed)
{
	double ratio = total > 0 ? (double)done / (double)total : 1;
	unsigned filled = (unsigned)(ratio * BAR_WIDTH + 0.5);
	char cells[BAR_WIDTH + 1], left[32] = "";

	memset(cells, '.', BAR_WIDTH);
	memset(cells, '#', filled < BAR_WIDTH ? filled : BAR_WIDTH);
	cells[BAR_WIDTH] = '\0';
	if (ratio > 0.01 && ratio < 1) {
		int64_t seconds = (int64_t)((double)elapsed / ratio * (1 - ratio) / 1000) + 1;

		snprintf(left, sizeof(left), "%" PRId64 ":%02d left", seconds / 60, (int)(seconds % 60));
	}
	fprintf(stderr, "\r%-10s [%s] %3d %%  %-14s", bar->label, cells, (int)(ratio * 100), left);
	fflush(stderr);
}

static bool bar_step(void *context, uint64_t done, uint64_t total)
{
	struct bar *bar = context;
	int64_t time = now();

	if (time - bar->start >= BAR_FIRST_AFTER && time - bar->drawn >= BAR_EVERY && bar->terminal) {
		draw(bar, done, total, time - bar->start);
		bar->drawn = time;
		bar->shown = true;
	}
	return !tool_interrupted();
}

/* Takes the bar off the terminal, so that text can follow. */
static void bar_end(struct bar *bar)
{
	if (bar->shown)
		fprintf(stderr, "\r%*s\r", (int)BAR_WIDTH + 36, "");
	bar->shown = false;
}

const struct disk_progress *tool_progress(struct tool *tool, const char *label)
{
	bar_end(&tool->bar);
	tool_catch_signals();
	tool->bar = (struct bar){.progress = {bar_step, &tool->bar},
				 .label = label,
				 .start = now(),
				 .terminal = isatty(STDERR_FILENO)};
	return &tool->bar.progress;
}

static int report(struct tool *tool, int status, int code, const char *text)
{
	bar_end(&tool->bar);
	fail(status, "%s", text);
	if (tool->json) {
		json_object_set_new(tool->result, "error", json_string(text));
		json_object_set_new(tool->result, "code", json_string(strerrorname_np(code)));
	}
	return status;
}

int tool_fail(struct tool *tool, const struct error *err)
{
	bool interrupted = err->code == ECANCELED && tool_interrupted();

	return report(tool, interrupted ? 128 + caught : 1, err->code, err->text);
}

int tool_usage(struct tool *tool, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return report(tool, EXIT_USAGE, EINVAL, text);
}

bool tool_no_options(int argc, char **argv)
{
	static const struct option none[] = {{NULL, 0, NULL, 0}};

	return getopt_long(argc, argv, "", none, NULL) < 0;
}

static int set_number(struct tool *tool, uint32_t *to, const char *text)
{
	struct error err = {0};
	uint64_t value;

	if (parse_size(text, &value, &err))
		return tool_usage(tool, "%s", err.text);
	if (value > UINT32_MAX)
		return tool_usage(tool, "\"%s\" is too large", text);
	*to = (uint32_t)value;
	return 0;
}

int tool_target_option(struct tool *tool, int option, struct disk_create_options *o)
{
	switch (option) {
	case 'f':
		o->fixed = true;
		return 0;
	case 'r':
		o->format = DISK_FORMAT_RAW;
		return 0;
	case 't':
		if (tool_parse_format(optarg, &o->format))
			return 0;
		return tool_usage(tool, "there is no format \"%s\" to write; choose from " TOOL_FORMATS,
				  optarg);
	case 'b':
		return set_number(tool, &o->block_size, optarg);
	case 's':
		return set_number(tool, &o->logical_sector_size, optarg);
	case 'p':
		return set_number(tool, &o->physical_sector_size, optarg);
	default:
		return EXIT_USAGE; /* getopt_long() has said what */
	}
}

static const struct {
	const char *name;
	enum disk_format format;
} formats[] = {{"raw", DISK_FORMAT_RAW}, {"vhdx", DISK_FORMAT_VHDX}, {"vhd", DISK_FORMAT_VHD}};

bool tool_parse_format(const char *text, enum disk_format *format)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		if (strcmp(text, formats[i].name) != 0)
			continue;
		*format = formats[i].format;
		return true;
	}
	return false;
}

const char *tool_format_name(enum disk_format format)
{
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++)
		if (formats[i].format == format)
			return formats[i].name;
	return "unknown";
}

const char *tool_size_text(uint64_t bytes, char text[SIZE_TEXT_SIZE])
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)bytes;
	unsigned unit = 0;

	while (value >= 1024 && unit < ARRAY_SIZE(units) - 1) {
		value /= 1024;
		unit++;
	}
	snprintf(text, SIZE_TEXT_SIZE, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
	return text;
}

static const struct {
	const char *text;
	enum disk_format format; /* AUTO: not written */
} endings[] = {{".vhdx", DISK_FORMAT_VHDX},  {".avhdx", DISK_FORMAT_VHDX}, {".raw", DISK_FORMAT_RAW},
	       {".img", DISK_FORMAT_RAW},    {".iso", DISK_FORMAT_RAW},    {".vhd", DISK_FORMAT_VHD},
	       {".avhd", DISK_FORMAT_VHD},
	       {".qcow2", DISK_FORMAT_AUTO}, {".vmdk", DISK_FORMAT_AUTO},  {".vdi", DISK_FORMAT_AUTO}};

int tool_target_format(struct tool *tool, const char *path, struct disk_create_options *o)
{
	const char *ending = strrchr(path, '.');

	if (o->format != DISK_FORMAT_AUTO)
		return 0;
	for (size_t i = 0; ending && !strchr(ending, '/') && i < ARRAY_SIZE(endings); i++) {
		if (strcasecmp(ending, endings[i].text) != 0)
			continue;
		o->format = endings[i].format;
		if (o->format != DISK_FORMAT_AUTO)
			return 0;
		return tool_usage(
		    tool,
		    "%s: files that end in %s are not written; name it .vhdx, .vhd or .raw (qemu-img convert "
		    "makes a %s of them), or say by --format what it is to be",
		    path, endings[i].text, endings[i].text);
	}
	o->format = DISK_FORMAT_VHDX;
	fprintf(stderr, "bulkhead: %s: its ending names no format, so it becomes a VHDX (--format chooses)\n",
		path);
	return 0;
}

static void take_common(struct tool *tool, int *argc, char **argv, bool *help)
{
	int kept = 1;

	for (int i = 1; i < *argc; i++) {
		if (!strcmp(argv[i], "--")) {
			while (i < *argc)
				argv[kept++] = argv[i++];
			break;
		}
		if (!strcmp(argv[i], "--json"))
			tool->json = true;
		else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			*help = true;
		else
			argv[kept++] = argv[i];
	}
	*argc = kept;
	argv[kept] = NULL;
}

void tool_print_now(struct tool *tool)
{
	if (!tool->json)
		return;
	json_dumpf(tool->result, stdout, JSON_INDENT(2));
	putchar('\n');
	fflush(stdout);
	tool->json = false;
}

int tool_run(const struct disk_verb *verb, int argc, char **argv)
{
	struct tool tool = {.verb = verb};
	char name[48]; /* how getopt_long() begins what it says */
	bool help = false;
	int status;

	snprintf(name, sizeof(name), "bulkhead: disk %s", verb->name);
	argv[0] = name;
	take_common(&tool, &argc, argv, &help);
	if (help) {
		printf("Usage: bulkhead disk %s %s [--json]\n\n%s", verb->name, verb->arguments, verb->text);
		return 0;
	}
	tool.result = json_object();
	if (!tool.result)
		return fail(1, "no memory");
	status = verb->run(&tool, argc, argv);
	bar_end(&tool.bar);
	tool_print_now(&tool);
	json_decref(tool.result);
	if (fflush(stdout) != 0 || ferror(stdout))
		return fail(status ? status : 1, "standard output: %s", strerror(errno));
	return status;
}
