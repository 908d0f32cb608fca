/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "image/image.h"

#define MAX_INCLUDES 64u

static void show_progress(void *context, const char *text)
{
	(void)context;
	fprintf(stderr, "  %s\n", text);
}

static int image_command_build(int argc, char **argv)
{
	static const struct option options[] = {{"size", required_argument, NULL, 's'},
						{"include", required_argument, NULL, 'i'},
						{"mirror", required_argument, NULL, 'm'},
						{"refresh", no_argument, NULL, 'r'},
						{NULL, 0, NULL, 0}};
	const char *include[MAX_INCLUDES + 1] = {NULL};
	struct image_build_options o = {.include = include, .progress = show_progress};
	struct error err = {0};
	unsigned count = 0;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?')
			return EXIT_USAGE;
		if (option == 's' && parse_size(optarg, &o.size, &err))
			return fail(EXIT_USAGE, "%s", err.text);
		if (option == 'i' && count == MAX_INCLUDES)
			return fail(EXIT_USAGE, "--include: at most %u packages can be added", MAX_INCLUDES);
		if (option == 'i')
			include[count++] = optarg;
		if (option == 'm')
			o.mirror = optarg;
		if (option == 'r')
			o.refresh = true;
	}
	if (argc - optind != 2)
		return fail(EXIT_USAGE, "say which image and where: bulkhead image build debian-12 DIR");
	o.name = argv[optind];
	o.directory = argv[optind + 1];
	if (image_build(&o, &err))
		return fail(1, "%s", err.text);
	return 0;
}

/* The first line of a public key file. */
static int read_key(const char *path, char *line, size_t size)
{
	FILE *f = fopen(path, "re");
	char *end;

	if (!f)
		return fail(1, "%s: the ssh key cannot be read: %s", path, strerror(errno));
	end = fgets(line, (int)size, f);
	fclose(f);
	if (!end)
		return fail(1, "%s: there is no ssh key in it", path);
	end = strchr(line, '\n');
	if (end)
		*end = '\0';
	else if (strlen(line) == size - 1)
		return fail(1, "%s: its first line is too long for an ssh key: give the public key", path);
	return 0;
}

static int image_command_seed(int argc, char **argv)
{
	static const struct option options[] = {{"hostname", required_argument, NULL, 'h'},
						{"user", required_argument, NULL, 'u'},
						{"password", required_argument, NULL, 'p'},
						{"ssh-key", required_argument, NULL, 'k'},
						{NULL, 0, NULL, 0}};
	struct image_seed seed = {0};
	struct error err = {0};
	char key[4096];
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?')
			return EXIT_USAGE;
		if (option == 'h')
			seed.hostname = optarg;
		if (option == 'u')
			seed.user = optarg;
		if (option == 'p')
			seed.password = optarg;
		if (option == 'k' && read_key(optarg, key, sizeof(key)))
			return 1;
		if (option == 'k')
			seed.ssh_key = key;
	}
	if (argc - optind != 1)
		return fail(EXIT_USAGE, "say which file to write: bulkhead image seed FILE --user NAME …");
	if (image_seed_write(argv[optind], &seed, &err))
		return fail(1, "%s", err.text);
	return 0;
}

static const struct {
	const char *name, *summary, *arguments, *text;
	int (*run)(int argc, char **argv);
} verbs[] = {
    {"build", "make an image in a directory of your own", "NAME DIR [--size SIZE] [--include PACKAGE …] [--mirror URL] [--refresh]",
     "Makes the guest image NAME (debian-12) in DIR out of the distribution's packages: a dynamic VHDX, kernel,\n"
     "initrd and image.json. The packages are installed once and kept in the cache. Without DIR, and without\n"
     "options, the daemon makes it in its library.\n"
     "\n"
     "  --size SIZE            of the disk (8G)\n"
     "  --include PACKAGE      one more (repeatable)\n"
     "  --mirror URL           where packages come from\n"
     "  --refresh              fetch them anew\n",
     image_command_build},
    {"seed", "write settings for a first boot",
     "FILE [--hostname NAME] [--user NAME] [--password TEXT] [--ssh-key FILE]",
     "Writes an ISO file that tells an image at its first boot who may log in: attach it with\n"
     "bulkhead run --dvd FILE.\n"
     "\n"
     "  --hostname NAME        what the guest is called\n"
     "  --user NAME            who may log in, and become root by sudo\n"
     "  --password TEXT        with this password\n"
     "  --ssh-key FILE         or with this public key\n",
     image_command_seed},
};

static const char text[] =
    "Images that machines are made from: the daemon's library (bulkhead vm create --image), or a directory\n"
    "(bulkhead run --image).\n";

/* A name, and nothing beside it but what all verbs of the daemon take. */
static bool builds_for_library(int count, char **words)
{
	int names = 0;

	for (int i = 0; i < count; i++) {
		bool common = !strcmp(words[i], "--json") || !strcmp(words[i], "--no-wait") || !strcmp(words[i], "--wait") || !strncmp(words[i], "--wait=", 7);

		if (!common && *words[i] == '-')
			return false;
		names += !common;
	}
	return names == 1;
}

/* What the daemon does: all but an image made in a directory of the caller's, and seeds. */
static bool is_of_library(int argc, char **argv)
{
	static const char *const others[] = {"list", "import", "delete"};

	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		if (!strcmp(argv[1], others[i]))
			return true;
	return !strcmp(argv[1], "build") && builds_for_library(argc - 2, argv + 2);
}

static void print_usage(FILE *to)
{
	fprintf(to, "Usage: bulkhead image VERB …\n\n%s\nThe library:\n\n", text);
	fputs("  list                        what it has\n"
	      "  build NAME                  build a distribution's image: debian-12\n"
	      "  import NAME DIRECTORY       copy one into it\n"
	      "  delete NAME                 delete one\n"
	      "\n"
	      "Files of your own:\n"
	      "\n",
	      to);
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		fprintf(to, "  %-5s %s\n        %s\n", verbs[i].name, verbs[i].arguments, verbs[i].summary);
	fputs("\nbulkhead image VERB --help tells the rest.\n" STATUS_TEXT ", 3 the time of --wait is over.\n", to);
}

static int dump(void)
{
	json_t *all = dump_new("image", text);

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		dump_verb(all, verbs[i].name, verbs[i].summary, verbs[i].arguments, verbs[i].text);
	return dump_print(all);
}

static bool wants_help(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return true;
	return false;
}

int command_image(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--dump"))
		return dump();
	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		print_usage(argc < 2 ? stderr : stdout);
		return argc < 2 ? EXIT_USAGE : 0;
	}
	if (is_of_library(argc, argv))
		return command_manage(argc, argv);
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(argv[1], verbs[i].name))
			continue;
		if (!wants_help(argc - 1, argv + 1))
			return verbs[i].run(argc - 1, argv + 1);
		printf("Usage: bulkhead image %s %s\n\n%s", verbs[i].name, verbs[i].arguments, verbs[i].text);
		return 0;
	}
	return fail(EXIT_USAGE, "there is no \"image %s\": see bulkhead image --help", argv[1]);
}
