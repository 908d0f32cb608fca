/* SPDX-License-Identifier: GPL-2.0-or-later */
/* manage_main.c - the program bulkhead-manage, which `bulkhead vm`, `job`, `event` and `host` run: argv[0] is the
 * noun. */
#include <string.h>

#include "cli/manage.h"

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} nouns[] = {{"vm", command_vm}, {"job", command_job}, {"event", command_event}, {"host", command_host},
		     {"image", command_library}, {"checkpoint", command_checkpoint},
		     {"switch", command_switch}};

	for (size_t i = 0; argc && i < ARRAY_SIZE(nouns); i++)
		if (!strcmp(argv[0], nouns[i].name))
			return nouns[i].run(argc, argv);
	return fail(EXIT_USAGE, "this program is run by bulkhead: see bulkhead --help");
}
