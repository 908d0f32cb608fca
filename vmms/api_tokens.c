/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_tokens.c - the REST interface's routes of tokens. */
#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "vmms/api.h"
#include "vmms/host_config.h"
#include "vmms/store_access.h"

static int check_name(const char *name, struct error *err)
{
	return strpbrk(name, " /") ? error_set(err, EINVAL, "may not have a space or a slash in it") : text_check_name(name, err);
}

static const struct form form_name = {
    .kind = FORM_STRING, .text = "no other token has it", .min = 1, .max = 100, .check = check_name};
static const struct form form_seconds = {
    .kind = FORM_INTEGER, .text = "seconds for which it holds", .min = 1, .max = 10ll * 365 * 86400};
static const struct form token_form = {.kind = FORM_OBJECT,
				       .fields = (const struct form_field[]){
					   {"name", &form_name, NULL, true},
					   {"role", &form_role, NULL, true},
					   {"seconds", &form_seconds, "7776000", false},
					   {0},
				       }};

/* What it answers with. */
static const struct form new_token_form = {.kind = FORM_OBJECT,
					   .text = "a new token, itself too, this once",
					   .fields = (const struct form_field[]){
					       {"id", &answer_count, NULL, true},
					       {"name", &answer_text, NULL, true},
					       {"role", &form_role, NULL, true},
					       {"created", &answer_moment, NULL, true},
					       {"expires", &answer_moment, NULL, true},
					       {"token", &answer_text, NULL, true},
					       {0},
					   }};

static void add_token(struct vmms *vmms, struct http_request *request)
{
	const json_t *body = api_body(request);
	struct store_token token = {.created = store_now(),
				    .role = role_of_word(json_string_value(json_object_get(body, "role")))};
	char text[TOKEN_TEXT_SIZE], hash[65];
	struct error err = {0};
	int r;

	snprintf(token.name, sizeof(token.name), "%s", json_string_value(json_object_get(body, "name")));
	token.expires = token.created + json_integer_value(json_object_get(body, "seconds")) * 1000;
	r = access_new_token(text, hash, &err);
	if (!r)
		r = store_token_add(vmms->store, &token, hash, &err);
	if (r) {
		http_fail(request, &err);
		return;
	}
	vmms_event(vmms, NULL, "token.created", "token \"%s\", %s, by %s", token.name, role_word(token.role),
		   http_state(request)->principal.who);
	http_add_header(request, "Cache-Control", "no-store");
	http_reply(request, 201,
		   json_pack("{s:I, s:s, s:s, s:I, s:I, s:s}", "id", (json_int_t)token.id, "name", token.name, "role",
			     role_word(token.role), "created", (json_int_t)token.created, "expires", (json_int_t)token.expires,
			     "token", text));
}

static void list_tokens(struct vmms *vmms, struct http_request *request)
{
	size_t limit = (size_t)api_number(request, "limit");
	json_t *list, *next = NULL;
	struct error err = {0};

	if (store_token_list(vmms->store, api_text(request, "after"), (unsigned)limit + 1, &list, &err)) {
		http_fail(request, &err);
		return;
	}
	if (json_array_size(list) > limit) {
		json_array_remove(list, limit);
		next = json_incref(json_object_get(json_array_get(list, limit - 1), "name"));
	}
	api_reply_list(request, "tokens", list, next);
}

static void remove_token(struct vmms *vmms, struct http_request *request)
{
	struct error err = {0};

	if (store_token_remove(vmms->store, api_part(request), &err)) {
		http_fail(request, &err);
		return;
	}
	vmms_event(vmms, NULL, "token.revoked", "token \"%s\", by %s", api_part(request), http_state(request)->principal.who);
	http_reply(request, 204, NULL);
}

static const struct form form_tokens = {.kind = FORM_LIST, .max = 1000, .items = &store_token_form};
static const struct form tokens_answer = {.kind = FORM_OBJECT,
					  .fields = (const struct form_field[]){{"tokens", &form_tokens, NULL, true}, NEXT_NAME_FIELD, {0}}};
static const struct form_field list_query[] = {LIMIT_FIELD, {"after", &form_cursor, NULL, false}, {0}};

const struct route token_routes[] = {
    {"GET", "/v1/tokens", "listTokens", "Tokens, by name; not what they are", ROLE_ADMINISTRATOR, NULL, list_query, 200, 0,
     list_tokens, &tokens_answer},
    {"POST", "/v1/tokens", "addToken", "Make one; it is told this once", ROLE_ADMINISTRATOR, &token_form, NULL, 201,
     ROUTE_SECRET, add_token, &new_token_form},
    {"DELETE", "/v1/tokens/{token}", "removeToken", "Revoke one", ROLE_ADMINISTRATOR, NULL, NULL, 204, 0, remove_token, NULL},
    {0},
};
