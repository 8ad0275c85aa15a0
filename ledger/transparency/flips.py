"""Which byte was it? A leaf tells that an entry differs; where one byte does, it tells which one.

A hash cannot be read backwards, but an entry is short: every byte of it is tried with every other
value until the leaf comes out. What was signed can be named then, beside what is stored.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import Final, NamedTuple

from ledger.transparency.leaves import WHOLE

FIXED_PARTS: Final = (("position", 8), ("stream", 16), ("version", 4))
"""Behind the book: the fields of an entry with their lengths."""
TOPIC_LENGTH_BYTES: Final = 2
ENTRY_BYTES_MAX: Final = 4_096
"""Bytes of an entry that is searched: some seconds for the longest, half a second for most."""


class Flip(NamedTuple):
    """The field whose byte differs, what was hashed and what is stored, as one can read it."""

    field: str
    signed: str
    stored: str


def find_flip(entry: bytes, leaf: bytes) -> Flip | None:
    """Return what one byte of an entry has to become for its leaf; None when it is not one byte."""
    found = _search(entry, leaf) if len(entry) <= ENTRY_BYTES_MAX else None
    if found is None:
        return None
    at, byte = found
    signed = entry[:at] + bytes([byte]) + entry[at + 1 :]
    for name, start, end in _fields(signed):
        if start <= at < end:
            return Flip(name, _readable(name, signed[start:end]), _readable(name, entry[start:end]))
    return Flip("form", signed.hex(), entry.hex())


def is_one_byte(one: bytes, other: bytes) -> bool:
    """Whether two hashes are the same but for one byte: no change of an event does that."""
    return len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) == 1


def _search(entry: bytes, leaf: bytes) -> tuple[int, int] | None:
    before = sha256(b"\0")
    for at in range(len(entry)):
        rest = entry[at + 1 :]
        for byte in range(256):
            tried = before.copy()
            tried.update(bytes((byte,)) + rest)
            if tried.digest() == leaf:
                return at, byte
        before.update(entry[at : at + 1])
    return None


def _fields(entry: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield each field of an entry with its first byte and the one behind its last."""
    yield "form", 0, 1
    at = 2 + entry[1]
    yield "book", 1, at
    for name, length in FIXED_PARTS:
        yield name, at, at + length
        at += length
    (length,) = struct.unpack_from(">H", entry, at)
    yield "topic", at, at + TOPIC_LENGTH_BYTES + length
    at += TOPIC_LENGTH_BYTES + length
    if entry[0] == WHOLE:
        yield from _of_state(entry[at:], at)
    yield "state", at, len(entry)


def _of_state(state: bytes, start: int) -> Iterator[tuple[str, int, int]]:
    """Yield the fields of a canonical JSON object; nothing for anything else."""
    try:
        text = state.decode()
        json.loads(text)
        if text.startswith("{"):
            for name, first, behind in _of_object(text, 0, "state"):
                yield name, start + len(text[:first].encode()), start + len(text[:behind].encode())
    except ValueError:
        return


def _of_object(text: str, at: int, path: str) -> list[tuple[str, int, int]]:
    """Return the fields of the object that begins at a character, inner ones first."""
    found: list[tuple[str, int, int]] = []
    decoder = json.JSONDecoder()
    while text[at] in "{," and text[at + 1] == '"':
        key, colon = decoder.raw_decode(text, at + 1)
        _, behind = decoder.raw_decode(text, colon + 1)
        name = f"{path}.{key}"
        if text[colon + 1] == "{":
            found += _of_object(text, colon + 1, name)
        found.append((name, at + 1, behind))
        at = behind
    return found


def _readable(field: str, data: bytes) -> str:
    if field == "topic":
        return data[TOPIC_LENGTH_BYTES:].decode(errors="backslashreplace")
    is_text = field.partition(".")[0] == "state"
    return data.decode(errors="backslashreplace") if is_text else data.hex()
