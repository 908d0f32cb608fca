# SPDX-License-Identifier: GPL-2.0-or-later
"""The OpenAPI document: that it is one, and that it says what the daemon does."""

import copy
import re

import answers
from daemon import Daemon, require
from test_manage_robust import Maker, operations_of

# Of OpenAPI 3.1's objects (section 4.8 of the specification) those that the document has: fields that have to be there, and others.
OBJECTS = {
    "document": ("openapi info", "jsonSchemaDialect servers paths webhooks components security tags externalDocs"),
    "info": ("title version", "summary description termsOfService contact license"),
    "operation": ("responses", "tags summary description externalDocs operationId parameters requestBody callbacks deprecated security servers"),
    "parameter": ("name in", "description required deprecated allowEmptyValue style explode allowReserved schema example examples content"),
    "requestBody": ("content", "description required"),
    "response": ("description", "headers content links"),
    "mediaType": ("", "schema example examples encoding"),
    "components": ("", "schemas responses parameters examples requestBodies headers securitySchemes links callbacks pathItems"),
    "securityScheme": ("type", "description name in scheme bearerFormat flows openIdConnectUrl"),
}
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


class Rules:
    """What is wrong with a document by the rules of OpenAPI 3.1, as far as it makes use of them. `whole`: with all schemas, which takes its time."""
    def __init__(self, document, whole=True):
        self.document, self.wrong, self.names, self.whole = document, [], set(), whole
        self.object("document", document, "document")
        self.must(re.fullmatch(r"3\.1\.\d+", document.get("openapi", "")), "openapi")
        self.object("info", document.get("info", {}), "info")
        self.components(document.get("components", {}))
        for path, methods in document.get("paths", {}).items():
            self.must(path.startswith("/") and set(methods) <= METHODS, path)
            for method, operation in methods.items():
                self.operation(operation, path, f"{method} {path}")
        for needed in document.get("security", []):
            self.must(set(needed) <= set(document["components"]["securitySchemes"]), "security")

    def must(self, condition, where):
        if not condition:
            self.wrong.append(where)

    def object(self, kind, value, where):
        must, may = (set(names.split()) for names in OBJECTS[kind])
        self.must(must <= set(value) and all(k in must | may or k.startswith("x-") for k in value), f"{where}: {sorted(value)}")

    def components(self, components):
        self.object("components", components, "components")
        for kind, parts in components.items():
            self.must(all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in parts), kind)
        for name, scheme in components.get("securitySchemes", {}).items():
            self.object("securityScheme", scheme, name)
            self.must(scheme.get("type") in ("apiKey", "http", "mutualTLS", "oauth2", "openIdConnect") and ("scheme" in scheme) == (scheme["type"] == "http"), name)
        for name, response in components.get("responses", {}).items():
            self.response(response, name)
        for name, schema in components.get("schemas", {}).items():
            self.schema(schema, name)

    def operation(self, operation, path, where):
        self.object("operation", operation, where)
        self.must(operation["operationId"] not in self.names, f"{where}: a name twice")
        self.names.add(operation["operationId"])
        told = [(p["in"], p["name"]) for p in operation.get("parameters", [])]
        self.must(len(told) == len(set(told)), f"{where}: a parameter twice")
        self.must({name for place, name in told if place == "path"} == set(re.findall(r"\{(\w+)\}", path)), f"{where}: parameters of the path")
        for p in operation.get("parameters", []):
            self.object("parameter", p, f"{where} {p['name']}")
            self.must(p["in"] in ("path", "query", "header", "cookie") and ("schema" in p) != ("content" in p), f"{where} {p['name']}")
            self.must(p["in"] != "path" or p.get("required") is True, f"{where} {p['name']}")
            self.schema(p["schema"], f"{where} {p['name']}")
        if "requestBody" in operation:
            self.object("requestBody", operation["requestBody"], where)
            self.content(operation["requestBody"]["content"], where)
        self.must(operation.get("responses"), f"{where}: no response")
        for status, response in operation.get("responses", {}).items():
            self.must(re.fullmatch(r"default|[1-5](\d\d|XX)", status), f"{where}: {status}")
            self.response(response, f"{where} {status}")

    def response(self, response, where):
        if "$ref" in response:
            self.must(set(response) <= {"$ref", "summary", "description"} and self.refers(response["$ref"]), f"{where}: {response}")
            return
        self.object("response", response, where)
        self.content(response.get("content", {}), where)

    def content(self, content, where):
        for kind, media in content.items():
            self.must(re.fullmatch(r"[a-z]+/[a-z+.-]+", kind), f"{where}: {kind}")
            self.object("mediaType", media, where)
            self.schema(media["schema"], where)

    def refers(self, text):
        at = self.document
        for part in text.removeprefix("#/").split("/"):
            at = at.get(part, {})
        return text.startswith("#/") and at

    def schema(self, schema, where):
        if self.whole:
            answers.jsonschema.Draft202012Validator.check_schema(schema)
        for text in references(schema):
            self.must(self.refers(text), f"{where}: {text}")


def references(schema):
    if isinstance(schema, dict):
        found = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return found + [text for v in schema.values() for text in references(v)]
    return [text for v in schema for text in references(v)] if isinstance(schema, list) else []


def official():
    """python3-openapi-spec-validator, which has the official schema of OpenAPI 3.1; None: it is not here (Debian 12 has none)."""
    try:
        import openapi_spec_validator  # pylint: disable=import-outside-toplevel
    except ImportError:
        return None
    return openapi_spec_validator.OpenAPIV31SpecValidator


def broken(document):
    """(what was done, a document that is none)."""
    def changed(change):
        other = copy.deepcopy(document)
        change(other)
        return other
    start = ("paths", "/v1/vms/{vm}/start", "post")
    def at(d):
        for key in start:
            d = d[key]
        return d
    yield "no title", changed(lambda d: d["info"].pop("title"))
    yield "an unknown key", changed(lambda d: at(d).update(answers={}))
    yield "a path's parameter", changed(lambda d: at(d)["parameters"].pop(0))
    yield "a reference to nothing", changed(lambda d: d["components"]["schemas"].pop("Job"))
    yield "no description", changed(lambda d: at(d)["responses"]["202"].pop("description"))
    yield "a name twice", changed(lambda d: at(d).update(operationId="listVms"))


def test_manage_document_is_openapi_3_1(context):
    with Daemon(context["build"]) as d:
        document = d.ok("GET", "/v1/openapi.json")
    wrong = Rules(document).wrong
    require(not wrong, f"{wrong}")
    validator = official()
    if validator:
        require(validator(document).is_valid(), "openapi-spec-validator says no")
    for what, other in broken(document):
        require(Rules(other, whole=False).wrong, f"{what} goes unnoticed")
    print(f"     openapi-spec-validator {'agrees' if validator else 'is not here'}")


def strict(schema):
    """No object may have what is not told of, but for those that say what else may be there."""
    if isinstance(schema, list):
        return all(strict(s) for s in schema)
    if not isinstance(schema, dict):
        return True
    kind = schema.get("type")
    return (not (kind == "object" or isinstance(kind, list) and "object" in kind) or "additionalProperties" in schema) and all(strict(v) for v in schema.values())


def test_manage_answers_have_schemas(context):
    """Each operation says what it answers, and whatever else it answered would be found out."""
    with Daemon(context["build"]) as d:
        document = d.ok("GET", "/v1/openapi.json")
        known = answers.known
        for path, method, operation in operations_of(document):
            for status, response in operation["responses"].items():
                if status in ("default", "204"):
                    continue
                for kind, media in response["content"].items():
                    schema = answers.inlined(media["schema"], document["components"]["schemas"])
                    require(kind != "application/json" or (schema.get("type") == "object" and strict(schema)), f"{method} {path} {status}: {schema}")
        d.make("web")
        before = known.count
        vm = d.ok("GET", "/v1/vms/web")
        require(known.count > before, "answers are not looked at")
        def refused(target, status, answer):
            try:
                known.check("GET", target, status, "application/json", answers.json.dumps(answer).encode())
            except answers.AnswerError:
                return
            require(False, f"{target}: {status} {answer} goes unnoticed")
        refused("/v1/vms/web", 200, {**vm, "more": 1})
        refused("/v1/vms/web", 200, {k: v for k, v in vm.items() if k != "etag"})
        refused("/v1/vms/web", 200, {**vm, "state": "somewhere"})
        refused("/v1/vms/web", 200, {**vm, "config": {**vm["config"], "more": 1}})
        refused("/v1/vms/web", 201, vm)
        refused("/v1/vms?limit=1", 200, {"vms": [{**vm, "pid": "x"}], "next": None})
        refused("/v1/nothing", 200, {})
        refused("/v1/vms/web", 404, {"error": {"code": "gone-fishing", "message": "x"}})
        refused("/v1/vms/web", 404, {"error": "x"})


def test_manage_document_is_a_schema(context):
    """What the document says of bodies is JSON Schema, as python3-jsonschema reads it, and says what the code does."""
    jsonschema = answers.jsonschema
    with Daemon(context["build"]) as d:
        document = d.ok("GET", "/v1/openapi.json")
        bodies = 0
        maker = Maker(7, ["web"])
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if "requestBody" not in operation or path.endswith("/stop-machines"):
                    continue
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                jsonschema.Draft202012Validator.check_schema(schema)
                validator = jsonschema.Draft202012Validator(schema)
                bodies += 1
                wrong = 0
                for _ in range(60):
                    body = maker.value(schema, 0.2)
                    if validator.is_valid(body):
                        continue
                    wrong += 1
                    status, answer = d.call(method.upper(), path.replace("{vm}", "nobody"), body)
                    # 404: the machine is looked for first or last; what the schema refuses is never done.
                    require(status in (400, 404), f"{method} {path} {body}: {status} {answer}")
                require(wrong > 5, f"{path}: hardly any wrong body")
        require(bodies >= 4, f"only {bodies} bodies")
        for name in ("vm.json", "host.json"):
            jsonschema.Draft202012Validator.check_schema(d.ok("GET", f"/v1/schema/{name}"))
        d.make("web")
        jsonschema.validate(d.ok("GET", "/v1/vms/web")["config"], d.ok("GET", "/v1/schema/vm.json"))
