/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "cli/version.h"

static const char usage[] =
    "Usage: bulkhead COMMAND …\n"
    "\n"
    "  run                    start a virtual machine in this terminal\n"
    "  control SOCKET VERB    talk to a running machine (run --control)\n"
    "  image build|seed       make a Debian guest image, and the settings for its first boot\n"
    "  disk VERB              make, look at and change virtual disks\n"
    "\n"
    "bulkhead COMMAND --help tells the rest. --version says which this is.\n";

int fail(int status, const char *format, ...)
{
	va_list args;

	fputs("bulkhead: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return status;
}

int parse_size(const char *text, uint64_t *bytes, struct error *err)
{
	static const char units[] = "KMGT";
	const char *unit;
	unsigned shift = 0;
	uint64_t value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || errno)
		return error_set(err, EINVAL, "\"%s\" is not a size: write a number and K, M, G or T", text);
	unit = *end ? strchr(units, *end & ~0x20) : NULL;
	if (unit) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
		if (*end == 'i')
			end++;
		if (*end == 'B')
			end++;
	}
	if (*end || value > UINT64_MAX >> shift)
		return error_set(err, EINVAL, "\"%s\" is not a size: write a number and K, M, G or T", text);
	*bytes = value << shift;
	return 0;
}

bool parse_number(const char *text, unsigned max, unsigned *number)
{
	unsigned long value;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || *end || value > max)
		return false;
	*number = (unsigned)value;
	return true;
}

/* Whoever starts us with a standard descriptor closed must not find a disk or a socket in its place. */
static void fill_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} commands[] = {{"run", command_run},
			{"control", command_control},
			{"disk", command_disk},
			{"image", command_image}};

	fill_standard_descriptors();
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		fputs(usage, argc < 2 ? stderr : stdout);
		return argc < 2 ? EXIT_USAGE : 0;
	}
	if (!strcmp(argv[1], "--version")) {
		puts("bulkhead " BULKHEAD_VERSION);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		char name[32]; /* how getopt_long() begins what it says */

		if (strcmp(argv[1], commands[i].name))
			continue;
		snprintf(name, sizeof(name), "bulkhead: %s", argv[1]);
		argv[1] = name;
		return commands[i].run(argc - 1, argv + 1);
	}
	return fail(EXIT_USAGE, "there is no command \"%s\": see bulkhead --help", argv[1]);
}
