# SPDX-License-Identifier: GPL-2.0-or-later
"""Each answer of the daemon is held against what its OpenAPI document says of it."""

import json
import re
import sys
import threading

sys.path.append("/usr/lib/python3/dist-packages")
try:
    import jsonschema  # pylint: disable=wrong-import-position
except ImportError:
    jsonschema = None  # in the lab, whose checks are run on the host too

SEEN_MAX = 4096  # answers that were looked at before: many ask for the same again and again


class AnswerError(Exception):
    """An answer is not what the document says."""


def inlined(schema, schemas):
    """With what it refers to in place of the references: none refers to itself, and a validator is quicker so."""
    if isinstance(schema, list):
        return [inlined(s, schemas) for s in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("$ref"), str):
        return inlined(schemas[schema["$ref"].removeprefix("#/components/schemas/")], schemas)
    return {k: inlined(v, schemas) for k, v in schema.items()}


class Answers:
    def __init__(self, document):
        self.schemas = document["components"]["schemas"]
        self.error = self.validator({"$ref": "#/components/schemas/Error"})
        # A path with no {…} comes before one that has it.
        self.routes = [(method.upper(), re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), operation)
                       for path, methods in sorted(document["paths"].items(), key=lambda item: "{" in item[0]) for method, operation in methods.items()]
        self.validators, self.seen, self.lock = {}, set(), threading.Lock()
        self.count = 0

    def validator(self, schema):
        return jsonschema.Draft202012Validator(inlined(schema, self.schemas))

    def operation(self, method, path):
        return next((o for m, pattern, o in self.routes if m == method and pattern.fullmatch(path)), None)

    def of(self, operation, status):
        """The validator of an operation's answer with this status; None: it is no JSON. KeyError: it is not told of."""
        name = (operation["operationId"], status)
        if name not in self.validators:
            content = operation["responses"][str(status)].get("content")
            self.validators[name] = self.validator(content["application/json"]["schema"]) if content and "application/json" in content else None
        return self.validators[name]

    def check(self, method, target, status, kind, body):
        """Of one answer; `kind` is its Content-Type, `body` its bytes."""
        path = target.split("?", 1)[0]
        operation = self.operation(method, path) if status < 400 else None
        what = f"{method} {target}: {status} {body[:2000]}"
        if method == "HEAD" or (status >= 400 and kind != "application/json"):
            return
        if status < 400 and (not operation or str(status) not in operation["responses"]):
            raise AnswerError(f"{what}: the document does not know of it")
        validator = self.error if status >= 400 else self.of(operation, status)
        if not validator:
            content = operation["responses"][str(status)].get("content")
            if list(content or []) != ([kind.split(";")[0]] if kind else []) or (not content and body):
                raise AnswerError(f"{what}: {kind} is not {content}")
            return
        seen = hash((operation and operation["operationId"], status, body))
        with self.lock:
            self.count += 1
            if seen in self.seen:
                return
        error = jsonschema.exceptions.best_match(validator.iter_errors(json.loads(body)))
        if error:
            raise AnswerError(f"{what}: {error.json_path}: {error.message}")
        with self.lock:
            if len(self.seen) >= SEEN_MAX:
                self.seen.clear()
            self.seen.add(seen)


known = None  # pylint: disable=invalid-name


def learn(document):
    """From here on all answers are looked at."""
    global known  # pylint: disable=global-statement
    known = known or (Answers(document) if jsonschema else None)


def look(method, target, status, kind, body):
    if known:
        known.check(method, target, status, kind, body)
