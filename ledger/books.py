"""Books and public ids: which ordered log a thing lives in, written into its name.

A book is one ordered log with gap-free positions. A public id carries its book, so that any
process finds the right log without a look-up, on one database or on many.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NewType
from uuid import UUID

Book = NewType("Book", str)
DEFAULT_BOOK: Final = Book("main")

_BOOK: Final = re.compile(r"[a-z][a-z0-9]{0,15}")
_PUBLIC_ID: Final = re.compile(r"([a-z]{3})_([a-z][a-z0-9]{0,15})_([0-9a-f]{32})")


class MalformedId(ValueError):
    """A public id does not have the form prefix_book_32 hex digits."""


def parse_book(text: str) -> Book:
    """Return `text` as a book's name: a letter, then up to 15 letters or digits, all lower case."""
    if not _BOOK.fullmatch(text):
        raise MalformedId(f"a book is a lower-case letter and up to 15 letters or digits: {text!r}")
    return Book(text)


class PublicId(NamedTuple):
    """A thing's name as people and programs outside see it, for example `cpn_main_3f…`."""

    prefix: str
    book: Book
    uuid: UUID

    @classmethod
    def parse(cls, text: str, prefix: str) -> PublicId:
        """Read a public id of the kind `prefix`; raise `MalformedId` on any other form."""
        match = _PUBLIC_ID.fullmatch(text)
        if match is None or match[1] != prefix:
            raise MalformedId(f"not a {prefix} id: {text[:64]!r}")
        return cls(prefix, Book(match[2]), UUID(match[3]))

    def __str__(self) -> str:
        return f"{self.prefix}_{self.book}_{self.uuid.hex}"
