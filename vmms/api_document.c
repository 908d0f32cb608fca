/* SPDX-License-Identifier: GPL-2.0-or-later */
/* api_document.c - the OpenAPI 3.1 document, made from the tables of routes. */
#include <string.h>

#include "vmms/api.h"
#include "vmms/version.h"

static json_t *parameter(const char *name, const char *where, bool required, json_t *schema)
{
	return json_pack("{s:s, s:s, s:b, s:o}", "name", name, "in", where, "required", required, "schema", schema);
}

static json_t *text_schema(void)
{
	return json_pack("{s:s}", "type", "string");
}

static void add_path_parameters(json_t *list, const struct route *route)
{
	const char *open = route->path;

	while ((open = strchr(open, '{'))) {
		char name[32];

		snprintf(name, sizeof(name), "%.*s", (int)strcspn(open + 1, "}"), open + 1);
		json_array_append_new(list, parameter(name, "path", true, text_schema()));
		open++;
	}
}

static json_t *parameters(const struct route *route)
{
	json_t *list = json_array();

	add_path_parameters(list, route);
	for (const struct form_field *field = route->query; field && field->name; field++) {
		json_t *schema = form_schema(field->form, NULL);

		if (field->preset)
			json_object_set_new(schema, "default", json_loads(field->preset, JSON_DECODE_ANY, NULL));
		json_array_append_new(list, parameter(field->name, "query", field->required, schema));
	}
	if (route->extra & ROUTE_IF_MATCH)
		json_array_append_new(list, parameter("If-Match", "header", false, text_schema()));
	if (!strcmp(route->method, "POST") && !(route->extra & ROUTE_SECRET))
		json_array_append_new(list, parameter("Idempotency-Key", "header", false,
						      json_pack("{s:s, s:s}", "type", "string", "pattern", "^[!-~]{1,128}$")));
	if (route->extra & ROUTE_STREAM)
		json_array_append_new(list, parameter("Last-Event-ID", "header", false, text_schema()));
	return list;
}

static json_t *answer(const struct route *route, json_t *schemas)
{
	json_t *answer = json_pack("{s:s}", "description", route->text);
	const char *type = route->extra & ROUTE_STREAM ? "text/event-stream"
			   : route->extra & ROUTE_TEXT ? "text/plain"
						       : "application/json";

	if (route->status != 204)
		json_object_set_new(answer, "content", json_pack("{s:{s:o}}", type, "schema",
								route->answer ? form_schema(route->answer, schemas) : text_schema()));
	return answer;
}

/* What answers share is put among the schemas. */
static json_t *operation(const struct route *route, json_t *schemas)
{
	char status[8];
	json_t *operation;

	snprintf(status, sizeof(status), "%u", route->status);
	operation = json_pack("{s:s, s:s, s:o, s:{s:o, s:{s:s}}, s:s}", "operationId", route->name, "summary", route->text,
			      "parameters", parameters(route), "responses", status, answer(route, schemas), "default", "$ref",
			      "#/components/responses/Error", "x-least-role", role_word(route->role));
	if (route->body)
		json_object_set_new(operation, "requestBody",
				    json_pack("{s:b, s:{s:{s:o}}}", "required", 1, "content", "application/json", "schema",
					      form_schema(route->body, NULL)));
	return operation;
}

static void add_route(json_t *paths, const struct route *route, json_t *schemas)
{
	json_t *path = json_object_get(paths, route->path);
	char method[8];

	if (!path) {
		path = json_object();
		json_object_set_new(paths, route->path, path);
	}
	snprintf(method, sizeof(method), "%s", route->method);
	for (char *c = method; *c; c++)
		*c |= 0x20;
	json_object_set_new(path, method, operation(route, schemas));
}

static json_t *error_schema(void)
{
	json_t *code = json_pack("{s:s, s:o}", "type", "string", "enum", http_error_codes());
	json_t *error = json_pack("{s:s, s:[s,s], s:b, s:{s:o, s:{s:s, s:i}}}", "type", "object", "required", "code", "message",
				  "additionalProperties", 0, "properties", "code", code, "message", "type", "string", "minLength", 1);

	return json_pack("{s:s, s:[s], s:b, s:{s:o}}", "type", "object", "required", "error", "additionalProperties", 0, "properties",
			 "error", error);
}

static json_t *error_response(void)
{
	return json_pack("{s:s, s:{s:{s:{s:s}}}}", "description", "It went wrong", "content", "application/json", "schema",
			 "$ref", "#/components/schemas/Error");
}

static json_t *security_schemes(void)
{
	return json_pack("{s:{s:s, s:s}, s:{s:s}}", "token", "type", "http", "scheme", "bearer", "certificate", "type",
			 "mutualTLS");
}

json_t *api_document(void)
{
	json_t *paths = json_object(), *schemas = json_pack("{s:o}", "Error", error_schema());

	for (const struct route *const *table = api_routes; *table; table++)
		for (const struct route *route = *table; route->path; route++)
			add_route(paths, route, schemas);
	return json_pack("{s:s, s:{s:s, s:s}, s:o, s:[{s:[]}, {s:[]}], s:{s:o, s:{s:o}, s:o}}", "openapi", "3.1.0", "info",
			 "title", "Bulkhead", "version", BULKHEAD_VERSION, "paths", paths, "security", "token", "certificate",
			 "components", "schemas", schemas, "responses", "Error", error_response(),
			 "securitySchemes", security_schemes());
}
