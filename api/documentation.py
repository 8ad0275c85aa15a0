"""Documentation: how routes describe themselves in OpenAPI.

Handlers read requests themselves, in their own order of checks, so each route says here what it
takes and gives. Schemas come from the classes that check requests and encode replies; nothing is
described twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.errors import BY_CODE, CONTENT_TYPE, TABLE, TYPE_BASE

_REF: Final = "#/components/schemas/"

ALWAYS: Final = (
    "unauthenticated",
    "suspended",
    "rate_limited",
    "issuer_unavailable",
    "store_unavailable",
    "internal_error",
)
"""Codes that any call with a token may be answered with."""
READ: Final = (*ALWAYS, "role_forbidden", "overloaded")
WRITE: Final = (
    *ALWAYS,
    "idempotency_key_missing",
    "idempotency_key_invalid",
    "role_forbidden",
    "body_too_large",
    "unsupported_media_type",
    "malformed_json",
    "invalid_header",
    "invalid_body",
    "overloaded",
    "idempotency_key_reused",
    "idempotency_in_flight",
    "outcome_unknown",
)

_HEADERS: Final[Mapping[str, Any]] = {
    "X-Request-Id": {
        "description": "Finds this call in the log.",
        "schema": {"type": "string"},
    },
    "Tidebook-Position": {
        "description": "Book and position as of this reply; send it back as "
        "`Tidebook-Min-Position` to read your own write.",
        "schema": {"type": "string", "examples": ["main:4711"]},
    },
    "Idempotency-Replayed": {
        "description": "Present when this is the stored reply to an earlier call.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}

REQUEST_ID: Final[Mapping[str, Any]] = {"X-Request-Id": _HEADERS["X-Request-Id"]}
"""The header that every reply has."""

IDEMPOTENCY_KEY: Final[Mapping[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "One key for each intent, kept for its retries. It is stored as it is sent, for "
    "ever and for auditors to read: make it of chance or of an order's number, never of a person's "
    "name, telephone or identity.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    "example": "5f0c6f9e-till-7",
}
PASS: Final[Mapping[str, Any]] = {
    "name": "Tidebook-Pass",
    "in": "header",
    "required": False,
    "description": "The pass that one gets at one's turn, for a campaign with a waiting room.",
    "schema": {"type": "string"},
}
MIN_POSITION: Final[Mapping[str, Any]] = {
    "name": "Tidebook-Min-Position",
    "in": "header",
    "required": False,
    "description": "Answer only with figures that include this position.",
    "schema": {"type": "string", "pattern": "^[a-z][a-z0-9]{0,15}:[0-9]{1,18}$"},
    "example": "main:4711",
}


class FieldErrorReply(msgspec.Struct, frozen=True):
    """One broken rule of one field."""

    field: str
    rule: str
    message: str


class ProblemReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem as in RFC 9457. Further members are the facts that the rule looked at."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[FieldErrorReply] = []


def problems(codes: Iterable[str]) -> dict[int | str, dict[str, Any]]:
    """Return the responses of the problems that a route may answer with, by status."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for row in sorted((BY_CODE[code] for code in set(codes)), key=TABLE.index):
        response = by_status.setdefault(
            row.status,
            {
                "description": "",
                "content": {
                    CONTENT_TYPE: {"schema": {"$ref": _REF + "ProblemReply"}, "examples": {}}
                },
                "headers": REQUEST_ID,
            },
        )
        response["content"][CONTENT_TYPE]["examples"][row.code] = {
            "summary": row.title,
            "value": {
                "type": TYPE_BASE + row.code,
                "title": row.title,
                "status": row.status,
                "code": row.code,
                "detail": row.meaning,
            },
        }
        response["description"] = ", ".join(
            f"`{code}`" for code in response["content"][CONTENT_TYPE]["examples"]
        )
    return by_status


def reply(
    status: int, struct: type[msgspec.Struct], example: Any, *headers: str
) -> dict[int | str, dict[str, Any]]:
    """Return the response of a success."""
    return {
        status: {
            "description": (struct.__doc__ or "").partition("\n")[0],
            "content": {
                "application/json": {
                    "schema": {"$ref": _REF + struct.__name__},
                    "example": example,
                }
            },
            "headers": {name: _HEADERS[name] for name in ("X-Request-Id", *headers)},
        }
    }


def replies(
    successes: Iterable[tuple[int, type[msgspec.Struct], Any]], *headers: str
) -> dict[int | str, dict[str, Any]]:
    """Return the responses of several successes; those of one status are one of several forms."""
    found: dict[int | str, dict[str, Any]] = {}
    for status, struct, example in successes:
        [said] = reply(status, struct, example, *headers).values()
        known = found.setdefault(status, said)
        if known is said:
            continue
        content, other = (each["content"]["application/json"] for each in (known, said))
        one_of = content["schema"].get("anyOf", [content["schema"]])
        content["schema"] = {"anyOf": [*one_of, other["schema"]]}
        known["description"] += f" {said['description']}"
    return found


def body(model: type[BaseModel], example: Any, *, required: bool = True) -> dict[str, Any]:
    """Return the request body's part of an operation."""
    content = {"schema": {"$ref": _REF + model.__name__}, "example": example}
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def signed(*parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an operation that says that it needs a token, and these headers."""
    return {
        "security": [{"session": []}, {"bearer": []}],
        "parameters": [dict(each) for each in parameters],
    }


def describe(
    app: FastAPI,
    routes: Iterable[APIRoute],
    bodies: Iterable[type[BaseModel]],
    replies: Iterable[type[msgspec.Struct]],
) -> dict[str, Any]:
    """Return the OpenAPI document with the schemas that the routes refer to."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    _, found = models_json_schema(
        [(model, "validation") for model in bodies], ref_template=_REF + "{model}"
    )
    structs = [ProblemReply, *replies]
    _, components = msgspec.json.schema_components(structs, ref_template=_REF + "{name}")
    for route in routes:
        if route.include_in_schema:
            for method in route.methods or ():
                _say_responses(document["paths"][route.path_format][method.lower()], route)
    document.setdefault("components", {})
    document["components"]["schemas"] = {**found.get("$defs", {}), **components}
    document["components"]["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A token of the issuer, signed with its key.",
        },
        "session": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "tbs1",
            "description": "A session token from `POST /v1/sessions`: short-lived and cheap to "
            "check, so that is what a rush is for.",
        },
    }
    return document


def _say_responses(operation: dict[str, Any], route: APIRoute) -> None:
    """Say an operation's responses as its route does.

    The framework drops what is null from examples, and adds an error of a form that is not ours.
    """
    for status in list(operation["responses"]):
        if "HTTPValidationError" in str(operation["responses"][status]):
            del operation["responses"][status]
    for status, response in route.responses.items():
        operation["responses"][str(status)] = response
