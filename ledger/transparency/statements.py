"""Statements: what the operator says under its signature, as lines of name and value.

A statement is the text of a signed note: a title, then lines that each begin with a name. There is
one way to write each, so that its bytes follow from what it says. Statements are signed with a key
of their own, named after the log and `/statements`: the log's key signs heads and nothing else,
and the servers that sign statements do not have it. Nothing is believed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from ledger.transparency.notes import (
    ED25519,
    Note,
    Signer,
    Verifier,
    parse_note,
    signed_note,
    verified,
)
from ledger.transparency.texts import Malformed, to_base64

ATTESTED: Final = "tidebook-attested/1"
REFUSAL: Final = "tidebook-refusal/2"
DAILY_PROOF: Final = "tidebook-daily-proof/1"

_NAME: Final = re.compile(r"[a-z_]+", re.ASCII)


class Statement(NamedTuple):
    """A title, and what is said by name, in order."""

    title: str
    lines: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Statement:
        """Read the text of a note as a statement; raise `Malformed`."""
        if not text.endswith("\n"):
            raise Malformed("a statement ends in a newline")
        title, *rest = text[:-1].split("\n")
        lines: dict[str, str] = {}
        for line in rest:
            name, space, value = line.partition(" ")
            if not space or not _NAME.fullmatch(name) or name in lines:
                raise Malformed("a statement is lines of name and value, each name once")
            lines[name] = value
        return cls(title, lines)

    @property
    def text(self) -> str:
        """The text that is signed."""
        lines = [f"{name} {value}" for name, value in self.lines.items()]
        assert not any(c < " " for line in (self.title, *lines) for c in line), "one line each"
        return "".join(f"{line}\n" for line in (self.title, *lines))


def statement_signer(origin: str, seed: bytes) -> Signer:
    """Return the key by which a log's operator signs statements."""
    return Signer(f"{origin}/statements", ED25519, seed)


def signed_statement(statement: Statement, signer: Signer) -> Note:
    """Return a statement under a signature; the same one always, byte for byte."""
    return signed_note(statement.text, [signer])


def verify_statement(data: bytes | Note, keys: Iterable[Verifier]) -> Statement:
    """Return what is said under a known key's signature.

    Raises `Malformed`, `Untrusted` where none of the keys has signed, and `BadSignature`.
    """
    note = data if isinstance(data, Note) else parse_note(data)
    verified(note, keys)
    return Statement.parse(note.text)


class RefusedRequest(NamedTuple):
    """A request that was refused, as the store has kept it.

    `position` is the last one of the book when it was decided, 0 in an empty book; `after` is the
    instant of the event there and `leaf` the hash of its entry.
    """

    book: str
    caller: str
    key: str
    fingerprint: bytes
    code: str
    reply: bytes
    position: int
    after: str | None = None
    leaf: bytes | None = None
    campaign: str | None = None


def refusal(refused: RefusedRequest) -> Statement:
    """Return what is stated of a refusal: the same bytes whenever it is asked for."""
    lines = {
        "book": refused.book,
        "caller": refused.caller,
        "key": refused.key,
        "request": refused.fingerprint.hex(),
        "code": refused.code,
        "reply": sha256(refused.reply).hexdigest(),
    }
    if refused.campaign is not None:
        lines["campaign"] = refused.campaign
    lines["position"] = str(refused.position)
    if refused.after is not None and refused.leaf is not None:
        lines["after"] = refused.after
        lines["leaf"] = to_base64(refused.leaf)
    return Statement(REFUSAL, lines)
