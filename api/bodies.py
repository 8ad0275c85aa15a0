"""Bodies: from the bytes of a request to a checked command, or to words about what is wrong.

A body is read only so far as the limit allows, parsed once, strictly, and checked against its
schema. The answer to a bad one names every field that breaks a rule and says the rule; it never
repeats what was sent, because that may be somebody's telephone number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from api.errors import FieldError, Problem

BODY_BYTES_MAX: Final = 64 * 1024
"""Ten times the largest honest body, a campaign with a few hundred merchants."""
INTEGER_DIGITS_MAX: Final = 20
"""Longer integers are out of every range; converting them costs quadratic time."""
ERRORS_MAX: Final = 50

_Beyond = 10**INTEGER_DIGITS_MAX
_FIELD_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z_-]{0,63}")
_JSON: Final = b"application/json"
_JSON_TYPE: Final = re.compile(rb'application/json *(?:; *charset="?utf-8"? *)?', re.IGNORECASE)

ModelT = TypeVar("ModelT", bound=BaseModel)
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def read_body(receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
    """Return a request's body; refuse a large one before reading past the limit."""
    announced = headers.get(b"content-length")
    if announced is not None and (not announced.isdigit() or int(announced) > BODY_BYTES_MAX):
        raise _too_large()
    if announced == b"0":
        return b""  # asking the server for nothing would still cost a change of threads
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        if len(body) > BODY_BYTES_MAX:
            raise _too_large()
        message = await receive()
        body += message.get("body", b"")
    if len(body) > BODY_BYTES_MAX:
        raise _too_large()
    if message["type"] == "http.disconnect":
        raise Problem("malformed_json", "The connection ended before the body did.")
    return body


def check_media_type(body: bytes, headers: Mapping[bytes, bytes]) -> None:
    """Refuse a body that does not say that it is plain JSON. No body needs no type."""
    if not body or (headers.get(b"content-type") == _JSON and b"content-encoding" not in headers):
        return
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem("unsupported_media_type", "The body must not be content-encoded.")
    if not _JSON_TYPE.fullmatch(headers.get(b"content-type", b"").strip()):
        raise Problem(
            "unsupported_media_type", "The body must be sent with Content-Type application/json."
        )


NOTHING: Final = frozenset({b"", b"{}"})
"""What most claims say; not worth a parser."""


def parse_body(body: bytes, model: type[ModelT]) -> ModelT:
    """Return the body as its model says, or raise `malformed_json` or `invalid_body`.

    No body at all stands for an empty object.
    """
    fields = {} if body in NOTHING else _parse_object(body)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        mistakes = [mistake(found) for found in error.errors(include_url=False)[:ERRORS_MAX]]
        raise invalid_body(mistakes) from None


def canonical(path: str, command: BaseModel) -> bytes:
    """Return what a fingerprint is taken of: the call and its body without spelling differences.

    Fields at their default are left out, so that a later version with a new optional field still
    recognises the retry of an older call.
    """
    body = command.model_dump_json(by_alias=True, exclude_defaults=True)
    return f"POST {path}\n{body}".encode()


def invalid_body(errors: Sequence[FieldError]) -> Problem:
    """The problem for a body with these broken rules, in a stable order."""
    fields = ", ".join(dict.fromkeys(error.field for error in errors))
    return Problem("invalid_body", f"These fields break a rule: {fields}.", errors=errors)


def _too_large() -> Problem:
    return Problem(
        "body_too_large",
        f"A body has at most {BODY_BYTES_MAX} bytes.",
        headers={"Connection": "close"},
    )


# --- parsing --------------------------------------------------------------------------------------


class _Malformed(ValueError):
    """The text breaks a rule of JSON, said in words."""


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = _decoder.decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise Problem("malformed_json", "The body is not UTF-8.") from None
    except _Malformed as error:
        raise Problem("malformed_json", str(error)) from None
    except (ValueError, RecursionError):
        raise Problem("malformed_json", "The body is not JSON.") from None
    if not isinstance(parsed, dict):
        raise Problem("malformed_json", "The body must be a JSON object.")
    return parsed


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _Malformed("A name stands twice in one object of the body.")
    return fields


def _bounded_int(digits: str) -> int:
    if len(digits) > INTEGER_DIGITS_MAX:
        return -_Beyond if digits.startswith("-") else _Beyond
    return int(digits)


def _refuse_constant(_name: str) -> Any:
    raise _Malformed("NaN and Infinity are not JSON.")


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_without_twins, parse_int=_bounded_int, parse_constant=_refuse_constant
)


# --- words for broken rules -----------------------------------------------------------------------

_WRONG_TYPE: Final = {
    "int_type": "an integer",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "int_parsing": "an integer",
    "bool_parsing": "true or false",
    "string_unicode": "a string without lone surrogates",
}

_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "missing": ("missing_field", "This field is required."),
    "extra_forbidden": ("extra_field", "This field is not known here."),
    "greater_than_equal": ("out_of_range", "This must be at least {ge}."),
    "greater_than": ("out_of_range", "This must be more than {gt}."),
    "less_than_equal": ("out_of_range", "This must be at most {le}."),
    "less_than": ("out_of_range", "This must be less than {lt}."),
    "too_long": ("too_many", "This list may have at most {max_length} entries."),
    "too_short": ("too_few", "This list must have at least {min_length} entries."),
    "string_too_long": ("too_long", "This may have at most {max_length} characters."),
    "string_too_short": ("too_short", "This must have at least {min_length} characters."),
    "string_pattern_mismatch": ("bad_format", "This must match {pattern}, in ASCII."),
    "literal_error": ("not_a_choice", "This must be one of {expected}."),
    "int_parsing_size": ("out_of_range", "This number is too large."),
}


def mistake(found: Mapping[str, Any]) -> FieldError:
    """Return one of pydantic's findings as a rule of ours, in our words."""
    kind, given, context = found["type"], found.get("input"), found.get("ctx", {})
    rule, words = _rule_of(kind, given, context) or (kind, found["msg"])
    return FieldError(_path(found["loc"], known=kind != "extra_forbidden"), rule, words)


def _rule_of(kind: str, given: Any, context: Mapping[str, Any]) -> tuple[str, str] | None:
    if kind in _WRONG_TYPE:
        return _wrong_type(_WRONG_TYPE[kind], given)
    if kind in _WORDS:
        rule, words = _WORDS[kind]
        return rule, words.format(**context)
    return None


def _wrong_type(wanted: str, given: Any) -> tuple[str, str]:
    if wanted == "an integer" and isinstance(given, float):
        return "not_an_integer", "This must be an integer, without a fraction or an exponent."
    if wanted == "an integer" and isinstance(given, str) and not given.isascii():
        return "not_ascii_digits", "This must be an integer in ASCII digits, not a string."
    return "wrong_type", f"This must be {wanted}."


def _path(location: Iterable[int | str], *, known: bool) -> str:
    """Return a field's path. A name that the caller made up is shown only if it looks like one."""
    parts = [str(part) for part in location]
    if not known and not _FIELD_NAME.fullmatch(parts[-1]):
        parts[-1] = "?"
    return ".".join(parts)
