"""Pages: how long lists are read piece by piece.

A cursor names the last thing that was seen, so a page costs the same wherever it is and never
shows a thing twice. To the caller it is an opaque word.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Protocol, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from api.errors import FieldError, Problem
from ledger.books import MalformedId, parse_book

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 200
CURSOR_CHARS_MAX: Final = 256

CursorT = TypeVar("CursorT", bound="Cursor")
RowT = TypeVar("RowT")
ViewT = TypeVar("ViewT")


class Cursor(Protocol):
    """A named tuple that says where a page ended."""

    @property
    def book(self) -> str:
        """The book of the last entry."""
        ...


_DIGITS: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)


def _integer(value: Any) -> Any:
    if isinstance(value, str):
        if not _DIGITS.fullmatch(value):
            raise PydanticCustomError("not_an_integer", "This must be an integer in ASCII digits.")
        return int(value)
    return value


def _cursor_word(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value, re.ASCII):
        raise PydanticCustomError("bad_cursor", _BAD_CURSOR)
    return value


_BAD_CURSOR: Final = "This must be the `next` of an earlier page of the same list."

Limit = Annotated[
    int,
    BeforeValidator(_integer),
    Field(ge=1, le=LIMIT_MAX, description="Most entries of a page."),
]
Position = Annotated[
    int,
    BeforeValidator(_integer),
    Field(ge=0, le=2**53 - 1, description="A position; entries after it are returned."),
]
CursorWord = Annotated[
    str,
    Field(max_length=CURSOR_CHARS_MAX, description="The `next` of the page before."),
    AfterValidator(_cursor_word),
]


class Page(BaseModel):
    """Which piece of a list is wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: CursorWord | None = None
    limit: Limit = LIMIT_DEFAULT


def read_cursor(word: str | None, kind: type[CursorT]) -> CursorT | None:
    """Return the place that a cursor names; raise `invalid_query` for any other word."""
    if word is None:
        return None
    try:
        text = base64.b64decode(word + "=" * (-len(word) % 4), b"-_", validate=True)
        cursor = msgspec.json.decode(text, type=kind)
        parse_book(cursor.book)
    except (binascii.Error, ValueError, MalformedId, msgspec.DecodeError):
        error = FieldError("after", "bad_cursor", _BAD_CURSOR)
        raise Problem(
            "invalid_query", "These parameters break a rule: after.", errors=[error]
        ) from None
    return cursor


def write_cursor(cursor: tuple[Any, ...]) -> str:
    """Return a cursor's word."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).rstrip(b"=").decode()


def page_of(
    rows: Sequence[RowT],
    limit: int,
    view: Callable[[RowT], ViewT],
    cursor_of: Callable[[RowT], tuple[Any, ...]],
) -> tuple[list[ViewT], str | None]:
    """Return a page's entries and the next cursor, from rows of which one more was asked for."""
    shown = rows[:limit]
    more = len(rows) > limit
    return [view(row) for row in shown], write_cursor(cursor_of(shown[-1])) if more else None
