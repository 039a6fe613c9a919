"""`/openapi.json`: OpenAPI 3.1, generated from the table of routes and the types of the bodies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from coherenced.serve.http_context import JSON_TYPE
from coherenced.serve.http_parameters import Parameter
from coherenced.serve.http_routes import ANY_BYTES, ROUTES, Answer, Route
from coherenced.serve.http_schema import RULES
from coherenced.serve.problem import KINDS, MEDIA_TYPE, ProblemBody

SCHEMAS: Final = "#/components/schemas/{name}"
_EVERYWHERE: Final = (405, 414, 431, 500, 501)
"""Errors that any address can answer with; 401 and 421 where a password or host names are set."""
_RESPONSE_HEADERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "ETag": ("The value's version, quoted.", {"type": "string"}),
    "Age": ("Whole seconds since the value was last proved current.", {"type": "string"}),
    "Cache-Status": ("RFC 9211: what this cache did.", {"type": "string"}),
    "Location": ("Where to PUT what was loaded.", {"type": "string"}),
    "Retry-After": ("Seconds until it makes sense to ask again.", {"type": "string"}),
    "Coherenced-Source": ("l1, l2 or origin.", {"type": "string"}),
    "Coherenced-Version": ("The value's version.", {"type": "string"}),
    "Coherenced-Stale": (
        "1: past its bound, served because Redis is out of reach.",
        {"type": "string"},
    ),
}


def document(version: str) -> dict[str, Any]:
    """The whole description; `version` is coherenced's."""
    types = _types()
    _, components = msgspec.json.schema_components(types, ref_template=SCHEMAS)
    for name, schema in components.items():
        _describe_bytes(schema)
        schema.update(RULES.get(name, {}))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        methods = paths.setdefault(route.path, {})
        methods[route.method.lower()] = _operation(route)
        if route.method == "GET" and route.head:
            methods["head"] = _operation(route, head=True)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "coherenced",
            "version": version,
            "description": "One coherent cache per host. Errors are problem details (RFC 9457).",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _types() -> list[Any]:
    found: list[Any] = [ProblemBody]
    for route in ROUTES:
        bodies = [route.body, *(answer.body for answer in route.answers.values())]
        found.extend(body for body in bodies if _is_struct(body) and body not in found)
    return found


def _is_struct(body: Any) -> bool:
    return isinstance(body, type) and issubclass(body, msgspec.Struct)


def _describe_bytes(schema: Any) -> None:
    """Base64 in a form that every validator understands: a pattern, and where there is none."""
    if isinstance(schema, dict):
        if schema.get("contentEncoding") == "base64":
            schema["pattern"] = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
        for value in schema.values():
            _describe_bytes(value)
    elif isinstance(schema, list):
        for value in schema:
            _describe_bytes(value)


def _operation(route: Route, *, head: bool = False) -> dict[str, Any]:
    verb = "head" if head else route.method.lower()
    name = route.path.strip("/").replace("v1/", "").replace("/{key}", "").replace(".", "_")
    name = name.replace("/{token}", "")
    operation: dict[str, Any] = {
        "operationId": f"{verb}_{name or 'dashboard'}",
        "summary": route.summary,
        "description": route.text,
        "responses": dict(_responses(route, head=head)),
    }
    if route.parameters:
        operation["parameters"] = [_parameter(parameter) for parameter in route.parameters]
    if route.body is not None:
        operation["requestBody"] = {
            # No body: the empty value.
            "required": route.body != ANY_BYTES and route.body_required,
            "content": _content(route.body),
        }
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required,
        "description": parameter.text,
        "schema": parameter.schema,
    }


def _responses(route: Route, *, head: bool) -> Iterable[tuple[str, dict[str, Any]]]:
    for status, answer in route.answers.items():
        yield str(status), _answer(answer, head=head)
    for status in sorted({*route.problems, *_EVERYWHERE}):
        titles = sorted({kind.title for kind in KINDS.values() if kind.status == status})
        response: dict[str, Any] = {"description": "; or: ".join(titles)}
        if not head:
            response["content"] = {
                MEDIA_TYPE: {"schema": {"$ref": SCHEMAS.format(name="ProblemBody")}}
            }
        yield str(status), response


def _answer(answer: Answer, *, head: bool) -> dict[str, Any]:
    response: dict[str, Any] = {"description": answer.text}
    if answer.body is not None and not head:
        response["content"] = _content(answer.body)
    if answer.headers:
        response["headers"] = {
            name: {"description": _RESPONSE_HEADERS[name][0], "schema": _RESPONSE_HEADERS[name][1]}
            for name in answer.headers
        }
    return response


def _content(body: Any) -> dict[str, Any]:
    if _is_struct(body):
        return {JSON_TYPE: {"schema": {"$ref": SCHEMAS.format(name=body.__name__)}}}
    if body == dict[str, Any]:
        return {JSON_TYPE: {"schema": {"type": "object"}}}
    if body == ANY_BYTES:
        return {ANY_BYTES: {"schema": {}}}
    return {body: {"schema": {"type": "string"}}}
