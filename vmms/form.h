/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * form.h - what a JSON value has to look like, told by constant tables. Private to vmms/.
 *
 * The same tables check configuration files, requests and what a worker says of itself, fill in defaults, and give the
 * JSON schemas that are published (JSON Schema 2020-12, as OpenAPI 3.1 has it). Those of answers stand beside what makes
 * the answers, which nobody checks at run time: tests hold each answer that they get against its schema.
 */
#pragma once

#include <jansson.h>

#include "base/base.h"

/* FORM_NUMBER: whole or not, of any size. FORM_EITHER: one of several forms. FORM_ANY: whatever it is. */
enum form_kind { FORM_BOOLEAN, FORM_INTEGER, FORM_NUMBER, FORM_STRING, FORM_WORD, FORM_OBJECT, FORM_LIST, FORM_EITHER, FORM_ANY };

struct form {
	enum form_kind kind;
	const char *text;                 /* half a sentence for whoever reads the schema */
	int64_t min, max;                 /* of an integer; of a string's bytes; of a list's entries */
	int64_t multiple;                 /* that an integer has to be; 0: of anything */
	const char *const *words;         /* of a FORM_WORD: ended by NULL */
	const struct form_field *fields;  /* of an object: ended by an entry with no name. NULL: none */
	const struct form *items;         /* of a list */
	const struct form *rest;          /* of an object: what other keys have; NULL: there are none */
	const struct form *const *either; /* of a FORM_EITHER: ended by NULL; the first that fits is taken */
	const char *name;                 /* of a part of the OpenAPI document that answers share. NULL: it is told where it stands */
	bool or_null;                     /* null is as good */
	/* More that a string has to be; fills `err` with what is wrong, as the end of a sentence. */
	int (*check)(const char *text, struct error *err);
	/* Of an object, when all its keys are right and there: what does not fit together; the end of a sentence as above. */
	int (*check_object)(const json_t *object, struct error *err);
	/* Of an object: the key that is missing, for what its others say. NULL: none. */
	const char *(*missing)(const json_t *object);
	const char *pattern; /* of a string: the same for the schema, when a regular expression can say it */
};

struct form_field {
	const char *name;
	const struct form *form;
	const char *preset; /* JSON; what it is when it is missing. NULL: stays missing */
	bool required;
};

/* Check `value` and fill in what is missing. -EINVAL: `err` names the key's path ("disks[1].path") and what
 * is wrong with it; parts of `value` may have been filled in by then. */
int form_check(const struct form *form, json_t *value, struct error *err);

/* Values that many answers have. Moments are milliseconds since 1970. */
extern const struct form answer_text, answer_text_or_null, answer_flag, answer_count, answer_moment, answer_moment_or_null, answer_seconds,
    answer_id;

/* The schema; the caller owns the reference. `shared` NULL: it stands alone. Else what has a name is put there, under
 * that, and "#/components/schemas/NAME" stands in its place. */
json_t *form_schema(const struct form *form, json_t *shared);

/* The same as a document of its own, which says what kind of schema it is. */
json_t *form_document(const struct form *form);
