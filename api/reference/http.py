"""The page of HTTP: every call with its fields, its replies and its codes, out of OpenAPI.

The document is asked for as a caller asks for it, at `/openapi.json`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx

from api.app import create_app
from api.reference.markdown import block, code, codes, document, table
from api.service import Service
from api.settings import Settings

_INTRO: Final = """\
Bodies are JSON in UTF-8; fields that are not listed are refused. Money is whole minor units with a
currency; instants carry their offset in requests and end in `Z` in replies. A running service
serves the same description at `/openapi.json` and as a page at `/docs`.

Every write is a POST with an `Idempotency-Key`. Its reply carries `Tidebook-Position`; a reply that
was stored before carries `Idempotency-Replayed: true`. Send a position back as
`Tidebook-Min-Position` to read your own write. The codes are explained in [errors](errors.md)."""

Json = dict[str, Any]


def page() -> str:
    """Return the page."""
    described = asyncio.run(_openapi())
    operations = list(_operations(described))
    overview = table(
        ("call", "what it does", "success"),
        (
            (
                f"[`{method} {path}`](#{_anchor(operation)})",
                operation["summary"],
                _successes(operation),
            )
            for method, path, operation in operations
        ),
    )
    return document(
        "HTTP",
        _INTRO,
        overview,
        *(part for operation in operations for part in _section(*operation)),
        "## Schemas",
        *(part for each in described["components"]["schemas"].items() for part in _schema(*each)),
    )


async def _openapi() -> Json:
    """Ask an application that is not connected to anything for its description."""
    with TemporaryDirectory() as home:
        settings = Settings(
            _env_prefix="NOT_FROM_THE_ENVIRONMENT_",
            home=Path(home),
            database_url="postgresql:///none",
            dev_issuer=True,
        )
        transport = httpx.ASGITransport(app=create_app(Service(settings)))
        async with httpx.AsyncClient(transport=transport, base_url="http://reference") as client:
            reply = await client.get("/openapi.json")
    described: Json = reply.raise_for_status().json()
    return described


def _operations(described: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _anchor(operation: Json) -> str:
    """The heading's anchor, as GitHub makes it."""
    kept = (c for c in operation["summary"].lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")


def _section(method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"## {operation['summary']}"
    yield f"`{method} {path}`"
    if operation.get("description"):
        yield operation["description"]
    if operation.get("parameters"):
        yield table(
            ("parameter", "in", "type", "meaning"), map(_parameter, operation["parameters"])
        )
    if "requestBody" in operation:
        yield from _content("Body", operation["requestBody"]["content"])
    for status, response in _by_success(operation, success=True):
        words = f"`{status}` {response['description'].rstrip('.')}"
        yield from _content(words, response.get("content", {}))
    refusals = table(
        ("status", "codes"),
        (
            (status, response["description"])
            for status, response in _by_success(operation, success=False)
        ),
    )
    if refusals.count("\n") > 1:
        yield refusals


def _by_success(operation: Json, *, success: bool) -> Iterator[tuple[str, Json]]:
    for status, response in sorted(operation["responses"].items()):
        if (status < "400") is success:
            yield status, response


def _successes(operation: Json) -> str:
    return codes(status for status, _ in _by_success(operation, success=True))


def _parameter(parameter: Json) -> tuple[str, ...]:
    name = code(parameter["name"]) + (" (required)" if parameter.get("required") else "")
    return name, parameter["in"], _type(parameter["schema"]), parameter.get("description", "")


def _content(title: str, content: Json) -> Iterator[str]:
    """A body or reply: what it is, and an example."""
    for media_type, media in content.items():
        yield f"{title}: {_type(media.get('schema', {})) or code(media_type)}"
        if "example" in media:
            yield block(json.dumps(media["example"], ensure_ascii=False, indent=2), "json")
    if not content:
        yield f"{title}."


def _schema(name: str, schema: Json) -> Iterator[str]:
    yield f"### {name}"
    if "description" in schema:
        yield schema["description"].partition("\n\n")[0]
    required = schema.get("required", ())
    if not schema.get("properties"):
        yield "No fields."
        return
    yield table(
        ("field", "type", "needed"),
        (
            (code(field), _type(each), "yes" if field in required else _default(each))
            for field, each in schema["properties"].items()
        ),
    )


def _default(schema: Json) -> str:
    return f"no, {code(json.dumps(schema['default']))}" if "default" in schema else "no"


_RANGES: Final = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " entries"),
)


def _bounds(schema: Json) -> Iterator[str]:
    """Return what a value must keep to beyond its type, in words."""
    if "format" in schema:
        yield code(schema["format"])
    if "pattern" in schema:
        yield f"matches {code(schema['pattern'])}"
    for least, most, unit in _RANGES:
        low, high = schema.get(least), schema.get(most)
        if low is not None and high is not None:
            yield f"{low} to {high}{unit}"
        elif low is not None:
            yield f"at least {low}{unit}"
        elif high is not None:
            yield f"at most {high}{unit}"


def _type(schema: Json) -> str:
    """Return a schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for either in ("anyOf", "allOf"):
        if either in schema:
            return " or ".join(_type(one) for one in schema[either])
    values = schema.get("enum", [schema["const"]] if "const" in schema else ())
    if values:
        return " or ".join(code(json.dumps(value)) for value in values)
    kind = schema.get("type", "")
    if kind == "array":
        kind = f"list of {_type(schema.get('items', {}))}"
    return ", ".join([kind, *_bounds(schema)]) if kind else ""
