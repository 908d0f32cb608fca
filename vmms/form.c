/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vmms/form.h"

#include <errno.h>
#include <string.h>

#define PATH_SIZE 160u

const struct form answer_text = {.kind = FORM_STRING, .max = INT64_MAX};
const struct form answer_text_or_null = {.kind = FORM_STRING, .max = INT64_MAX, .or_null = true};
const struct form answer_flag = {.kind = FORM_BOOLEAN};
const struct form answer_count = {.kind = FORM_INTEGER, .max = INT64_MAX};
const struct form answer_moment = {.kind = FORM_INTEGER, .text = "milliseconds since 1970", .max = INT64_MAX};
const struct form answer_moment_or_null = {.kind = FORM_INTEGER, .text = "milliseconds since 1970", .max = INT64_MAX, .or_null = true};
const struct form answer_seconds = {.kind = FORM_NUMBER, .text = "seconds"};
const struct form answer_id = {.kind = FORM_STRING, .text = "a GUID", .min = 36, .max = 36};

static int refuse(const char *path, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int refuse(const char *path, struct error *err, const char *format, ...)
{
	char text[300];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return error_set(err, EINVAL, "%s %s", *path ? path : "the value", text);
}

static const char *kind_name(enum form_kind kind)
{
	static const char *const names[] = {[FORM_BOOLEAN] = "true or false",
					    [FORM_INTEGER] = "a whole number",
					    [FORM_NUMBER] = "a number",
					    [FORM_STRING] = "a string",
					    [FORM_WORD] = "a string",
					    [FORM_OBJECT] = "an object",
					    [FORM_LIST] = "a list",
					    [FORM_EITHER] = "something else",
					    [FORM_ANY] = "anything"};

	return names[kind];
}

static bool kind_fits(enum form_kind kind, const json_t *value)
{
	switch (kind) {
	case FORM_BOOLEAN:
		return json_is_boolean(value);
	case FORM_INTEGER:
		return json_is_integer(value);
	case FORM_NUMBER:
		return json_is_number(value);
	case FORM_STRING:
	case FORM_WORD:
		return json_is_string(value);
	case FORM_OBJECT:
		return json_is_object(value);
	case FORM_LIST:
		return json_is_array(value);
	case FORM_EITHER:
	case FORM_ANY:
		return true;
	}
	return false;
}

static int check_integer(const struct form *form, const json_t *value, const char *path, struct error *err)
{
	json_int_t n = json_integer_value(value);

	if (n < form->min || n > form->max)
		return refuse(path, err, "is %lld: it may be %lld to %lld", (long long)n, (long long)form->min,
			      (long long)form->max);
	if (form->multiple && n % form->multiple)
		return refuse(path, err, "is %lld: it has to be a multiple of %lld", (long long)n, (long long)form->multiple);
	return 0;
}

static int check_string(const struct form *form, const json_t *value, const char *path, struct error *err)
{
	const char *text = json_string_value(value);
	size_t length = json_string_length(value);
	struct error why = {0};

	if ((int64_t)length < form->min || (int64_t)length > form->max)
		return refuse(path, err, "has %zu bytes: it may have %lld to %lld", length, (long long)form->min,
			      (long long)form->max);
	if (form->check && form->check(text, &why))
		return refuse(path, err, "%s", why.text);
	return 0;
}

static int check_word(const struct form *form, const json_t *value, const char *path, struct error *err)
{
	char list[200] = "";
	size_t used = 0;

	for (size_t i = 0; form->words[i]; i++) {
		if (!strcmp(form->words[i], json_string_value(value)))
			return 0;
		if (used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", form->words[i]);
	}
	return refuse(path, err, "is \"%.60s\": it may be %s", json_string_value(value), list);
}

static int check_at(const struct form *form, json_t *value, const char *path, struct error *err);

static const struct form_field *field_named(const struct form *form, const char *name)
{
	for (const struct form_field *f = form->fields; f && f->name; f++)
		if (!strcmp(f->name, name))
			return f;
	return NULL;
}

static int check_object(const struct form *form, json_t *value, const char *path, struct error *err)
{
	char inner[PATH_SIZE];
	const char *key, *missing;
	struct error why = {0};
	json_t *member;
	int r = 0;

	json_object_foreach(value, key, member) {
		const struct form_field *field = field_named(form, key);

		snprintf(inner, sizeof(inner), "%s%s%.60s", path, *path ? "." : "", key);
		r = field        ? check_at(field->form, member, inner, err)
		    : form->rest ? check_at(form->rest, member, inner, err)
				 : refuse(inner, err, "is no key that is known here");
		if (r)
			return r;
	}
	for (const struct form_field *f = form->fields; f && f->name && !r; f++) {
		if (json_object_get(value, f->name))
			continue;
		snprintf(inner, sizeof(inner), "%s%s%s", path, *path ? "." : "", f->name);
		if (f->required)
			return refuse(inner, err, "is missing");
		if (!f->preset)
			continue;
		member = json_loads(f->preset, JSON_DECODE_ANY, NULL);
		if (!member || json_object_set_new(value, f->name, member))
			return error_set(err, ENOMEM, "no memory for %s", inner);
		r = check_at(f->form, member, inner, err);
	}
	if (!r && form->check_object && form->check_object(value, &why))
		return refuse(path, err, "%s", why.text);
	missing = !r && form->missing ? form->missing(value) : NULL;
	if (!missing)
		return r;
	snprintf(inner, sizeof(inner), "%s%s%s", path, *path ? "." : "", missing);
	return refuse(inner, err, "is missing");
}

static int check_list(const struct form *form, json_t *value, const char *path, struct error *err)
{
	char inner[PATH_SIZE];
	size_t size = json_array_size(value);

	if ((int64_t)size < form->min || (int64_t)size > form->max)
		return refuse(path, err, "has %zu entries: it may have %lld to %lld", size, (long long)form->min,
			      (long long)form->max);
	for (size_t i = 0; i < size; i++) {
		int r;

		snprintf(inner, sizeof(inner), "%s[%zu]", path, i);
		r = check_at(form->items, json_array_get(value, i), inner, err);
		if (r)
			return r;
	}
	return 0;
}

/* Why not is told of the last. */
static int check_either(const struct form *form, json_t *value, const char *path, struct error *err)
{
	int r = 0;

	for (size_t i = 0; form->either[i]; i++) {
		r = check_at(form->either[i], value, path, err);
		if (!r)
			return 0;
	}
	return r;
}

static int check_at(const struct form *form, json_t *value, const char *path, struct error *err)
{
	if (form->or_null && json_is_null(value))
		return 0;
	if (!kind_fits(form->kind, value))
		return refuse(path, err, "has to be %s", kind_name(form->kind));
	switch (form->kind) {
	case FORM_BOOLEAN:
	case FORM_NUMBER:
	case FORM_ANY:
		return 0;
	case FORM_INTEGER:
		return check_integer(form, value, path, err);
	case FORM_STRING:
		return check_string(form, value, path, err);
	case FORM_WORD:
		return check_word(form, value, path, err);
	case FORM_OBJECT:
		return check_object(form, value, path, err);
	case FORM_LIST:
		return check_list(form, value, path, err);
	case FORM_EITHER:
		return check_either(form, value, path, err);
	}
	return 0;
}

int form_check(const struct form *form, json_t *value, struct error *err)
{
	return check_at(form, value, "", err);
}

/* --- the schema ------------------------------------------------------------------------------------- */

static void describe_range(const struct form *form, json_t *schema, const char *min, const char *max)
{
	bool bounded = form->kind == FORM_INTEGER || form->max < INT64_MAX;

	if (form->min || bounded)
		json_object_set_new(schema, min, json_integer(form->min));
	if (bounded)
		json_object_set_new(schema, max, json_integer(form->max));
}

static void describe_object(const struct form *form, json_t *schema, json_t *shared)
{
	json_t *properties = json_object(), *required = json_array();

	for (const struct form_field *f = form->fields; f && f->name; f++) {
		json_t *property = form_schema(f->form, shared);

		if (f->preset)
			json_object_set_new(property, "default", json_loads(f->preset, JSON_DECODE_ANY, NULL));
		json_object_set_new(properties, f->name, property);
		if (f->required)
			json_array_append_new(required, json_string(f->name));
	}
	json_object_set_new(schema, "properties", properties);
	json_object_set_new(schema, "additionalProperties", form->rest ? form_schema(form->rest, shared) : json_false());
	if (json_array_size(required))
		json_object_set_new(schema, "required", required);
	else
		json_decref(required);
}

static void describe_words(const struct form *form, json_t *schema)
{
	json_t *words = json_array();

	for (size_t i = 0; form->words[i]; i++)
		json_array_append_new(words, json_string(form->words[i]));
	if (form->or_null)
		json_array_append_new(words, json_null());
	json_object_set_new(schema, "enum", words);
}

static void describe_either(const struct form *form, json_t *schema, json_t *shared)
{
	json_t *forms = json_array();

	for (size_t i = 0; form->either[i]; i++)
		json_array_append_new(forms, form_schema(form->either[i], shared));
	json_object_set_new(schema, "anyOf", forms);
}

static void describe_type(const struct form *form, json_t *schema)
{
	static const char *const types[] = {[FORM_BOOLEAN] = "boolean", [FORM_INTEGER] = "integer", [FORM_NUMBER] = "number",
					    [FORM_STRING] = "string",   [FORM_WORD] = "string",     [FORM_OBJECT] = "object",
					    [FORM_LIST] = "array",      [FORM_EITHER] = NULL,       [FORM_ANY] = NULL};
	const char *type = types[form->kind];

	if (type)
		json_object_set_new(schema, "type", form->or_null ? json_pack("[s, s]", type, "null") : json_string(type));
	if (form->text)
		json_object_set_new(schema, "description", json_string(form->text));
}

static json_t *describe(const struct form *form, json_t *shared)
{
	json_t *schema = json_object();

	describe_type(form, schema);
	switch (form->kind) {
	case FORM_BOOLEAN:
	case FORM_NUMBER:
	case FORM_ANY:
		break;
	case FORM_INTEGER:
		describe_range(form, schema, "minimum", "maximum");
		if (form->multiple)
			json_object_set_new(schema, "multipleOf", json_integer(form->multiple));
		break;
	case FORM_STRING:
		describe_range(form, schema, "minLength", "maxLength");
		if (form->pattern)
			json_object_set_new(schema, "pattern", json_string(form->pattern));
		break;
	case FORM_WORD:
		describe_words(form, schema);
		break;
	case FORM_OBJECT:
		describe_object(form, schema, shared);
		break;
	case FORM_LIST:
		describe_range(form, schema, "minItems", "maxItems");
		json_object_set_new(schema, "items", form_schema(form->items, shared));
		break;
	case FORM_EITHER:
		describe_either(form, schema, shared);
		break;
	}
	return schema;
}

json_t *form_schema(const struct form *form, json_t *shared)
{
	if (!shared || !form->name)
		return describe(form, shared);
	if (!json_object_get(shared, form->name))
		json_object_set_new(shared, form->name, describe(form, shared));
	return json_pack("{s:o}", "$ref", json_sprintf("#/components/schemas/%s", form->name));
}

json_t *form_document(const struct form *form)
{
	json_t *schema = form_schema(form, NULL);

	json_object_set_new(schema, "$schema", json_string("https://json-schema.org/draft/2020-12/schema"));
	return schema;
}
