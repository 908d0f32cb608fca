/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests and vm.json: any bytes as JSON, against every form; what is taken has to be taken again as it is. */
#include <errno.h>
#include <stdlib.h>

#include "vmms/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_form(const struct form *form, const uint8_t *data, size_t size)
{
	json_t *json = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL), *before;
	struct error err = {0};

	if (!json)
		return;
	if (form_check(form, json, &err)) {
		if (err.code != EINVAL || !*err.text)
			abort();
	} else {
		before = json_deep_copy(json);
		if (form_check(form, json, &err) || !json_equal(before, json))
			abort();
		json_decref(before);
	}
	json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	try_form(&vm_config_form, data, size);
	try_form(&vm_create_form, data, size);
	try_form(&vm_change_form, data, size);
	return 0;
}
