/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dump.c - what `bulkhead COMMAND --dump` prints: the tables that --help is printed from, for packaging/manual.py. */
#include <jansson.h>

#include "cli/cli.h"

json_t *dump_new(const char *name, const char *text)
{
	return json_pack("{s:s, s:s, s:[]}", "name", name, "text", text, "verbs");
}

void dump_verb(json_t *dump, const char *name, const char *summary, const char *arguments, const char *text)
{
	json_array_append_new(json_object_get(dump, "verbs"), json_pack("{s:s, s:s, s:s, s:s}", "name", name, "summary", summary,
									"arguments", arguments, "text", text));
}

int dump_print(json_t *dump)
{
	if (!dump)
		return fail(1, "no memory");
	json_dumpf(dump, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(dump);
	return 0;
}
