"""Reading alike texts together: a template of what stays, and where in each text the rest is.

Texts are one array of bytes, and a string of JSON is what is between two quotes. A template is
made from one event by the plain encoder; whatever it fits is the canonical bytes of an event that
differs from this one in what varies only. Where all that varies has the same lengths as well, texts
are alike in their places, and their quotes need not be looked for. Nothing is decoded here, and no
text is guessed at: one that does not fit is left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ledger.events import Event, canonical

Array = NDArray[Any]

QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C
_FIRST, _LAST = 0x20, 0x7E
_PART_BYTES: Final = 1 << 19
"""Bytes of texts that are compared at once: they stay in the cache of a core."""
_HEADER: Final = ("originator_id", "originator_version")

_encode: Final = msgspec.json.Encoder().encode


class Fields(NamedTuple):
    """Where in some texts a field that varies begins and ends: a string inside its quotes."""

    starts: Array
    ends: Array

    @classmethod
    def joined(cls, parts: Iterable[Fields]) -> Fields:
        """Return the fields of some texts and of others behind them."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


class Texts:
    """Texts behind each other in one array of bytes, with the places of their quotes."""

    def __init__(self, data: Array, offsets: Array) -> None:
        self.data = data
        self.starts = offsets[:-1]
        self.ends = offsets[1:]
        self.lengths = np.diff(offsets)
        self._offsets = offsets

    @cached_property
    def quotes(self) -> Array:
        """Where the quotes are."""
        return np.flatnonzero(self.data == QUOTE)

    @cached_property
    def _bounds(self) -> Array:
        """How many quotes are before each text, and in all."""
        return np.searchsorted(self.quotes, self._offsets)

    @property
    def firsts(self) -> Array:
        """Which quote is the first of each text."""
        return self._bounds[:-1]

    @cached_property
    def counts(self) -> Array:
        """How many quotes each text has."""
        return np.diff(self._bounds)

    def __getitem__(self, row: int) -> bytes:
        return bytes(self.data[self.starts[row] : self.ends[row]])

    def cut(self, starts: Array, length: int) -> Array:
        """Return the strings of one length that begin at these places."""
        if len(self.data) < length:
            return np.zeros(len(starts), f"S{length}")
        shape = (len(self.data) - length + 1,)
        strings: Array = np.ndarray(shape, f"S{length}", self.data, strides=(1,))
        return strings[np.minimum(starts, shape[0] - 1)]

    def strings(self, fields: Fields) -> list[str]:
        """Return fields as strings of Python, where no columns will do."""
        return list(map(self.string, fields.starts.tolist(), fields.ends.tolist()))

    def string(self, start: int, end: int) -> str:
        """Return what is between two places."""
        return self.data[start:end].tobytes().decode()

    @cached_property
    def are_plain(self) -> Array:
        """Which texts are of printable ASCII and without escapes, so that quotes mean what they do.

        A text of other bytes may be sound as well; it is only not read here.
        """
        data = self.data
        if len(data) == 0 or (
            data.min() >= _FIRST and data.max() <= _LAST and not (data == _BACKSLASH).any()
        ):
            return np.ones(len(self.starts), bool)
        is_odd = (data < _FIRST) | (data > _LAST) | (data == _BACKSLASH)
        odd_before = np.concatenate(([0], np.cumsum(is_odd)))
        found: Array = odd_before[self.ends] == odd_before[self.starts]
        return found


class Template:
    """The bytes of an event, cut at what varies."""

    def __init__(self, sample: Event, varying: Collection[str]) -> None:
        """`varying` has strings and numbers, those inside another object as `why.key`."""
        self.names: list[str] = []
        self.literals: list[bytes] = []
        self.places: dict[str, tuple[int, int]] = {}
        """Where in the sample's text what varies begins and ends."""
        pieces = list(_pieces(msgspec.to_builtins(sample), varying))
        self.text = b"".join([text for _, text in pieces])
        open_text, end = b"", 0
        for name, text in pieces:
            start, end = end, end + len(text)
            if name is None:
                open_text += text
                continue
            is_string = text.startswith(b'"')
            self.literals.append(open_text + b'"' if is_string else open_text)
            self.names.append(name)
            self.places[name] = (start + 1, end - 1) if is_string else (start, end)
            open_text = b'"' if is_string else b""
        self.literals.append(open_text)
        self.quotes = sum(literal.count(b'"') for literal in self.literals)

    @property
    def key(self) -> tuple[bytes, ...]:
        """What tells templates apart."""
        return tuple(self.literals)

    def fits(self, texts: Texts, rows: Array) -> tuple[Array, dict[str, Fields]]:
        """Return which rows have this form, and where in these what varies is.

        The rows are plain and have as many quotes as the template. So a literal that begins at
        the right quote of its row ends before the next one begins, and the last must end the row.
        """
        firsts = texts.firsts[rows]
        fitting = np.ones(len(rows), bool)
        starts: list[Array] = []
        quote = 0
        for place, literal in enumerate(self.literals):
            start = self._start(texts, rows, firsts + quote, place)
            fitting &= _are(texts.cut(start, len(literal)), literal)
            if literal.startswith(b","):  # what is before it is a number, which is not empty
                fitting &= start > starts[-1] + len(self.literals[place - 1])
            starts.append(start)
            quote += literal.count(b'"')
        fitting &= starts[-1] + len(self.literals[-1]) == texts.ends[rows]
        return fitting, {
            name: Fields(
                (starts[place] + len(self.literals[place]))[fitting], starts[place + 1][fitting]
            )
            for place, name in enumerate(self.names)
        }

    def _start(self, texts: Texts, rows: Array, quotes: Array, place: int) -> Array:
        """Return where a literal must begin, by its first quote."""
        if place == 0:
            return texts.starts[rows]
        before: Array = texts.quotes[quotes] - self.literals[place].index(b'"')
        return before


class Layout:
    """The bytes of an event and its template: those of events in which all has the same place."""

    def __init__(self, state: bytes, template: Template) -> None:
        self.key = template.key
        self._text = np.frombuffer(state, np.uint8)
        self._places = template.places
        self._quotes = template.quotes
        self._varies = np.zeros(len(state), bool)
        for start, end in template.places.values():
            self._varies[start:end] = True

    def fits(self, texts: Texts, rows: Array) -> Array:
        """Return which rows are plain and have this form; all of them have the text's length."""
        length = len(self._text)
        step = max(_PART_BYTES // length, 1)
        fitting = np.zeros(len(rows), bool)
        for start in range(0, len(rows), step):
            some = texts.cut(texts.starts[rows[start : start + step]], length)
            fitting[start : start + step] = self._are_fitting(bytes_of(some, length))
        return fitting

    def fields(self, texts: Texts, rows: Array) -> dict[str, Fields]:
        """Return where in rows that fit what varies is."""
        starts = texts.starts[rows]
        return {
            name: Fields(starts + start, starts + end)
            for name, (start, end) in self._places.items()
        }

    def _are_fitting(self, texts: Array) -> Array | bool:
        """Return which texts fit; mostly all of them do, which is told from all at once."""
        least, most = texts.min(axis=0), texts.max(axis=0)
        are_same = (least == self._text) & (most == self._text)
        if (
            (are_same | self._varies).all()
            and least.min() >= _FIRST
            and most.max() <= _LAST
            and not (texts == _BACKSLASH).any()
            and np.count_nonzero(texts == QUOTE) == self._quotes * len(texts)
        ):
            return True
        are_same = ((texts == self._text) | self._varies).all(axis=1)
        are_plain = ((texts >= _FIRST) & (texts <= _LAST) & (texts != _BACKSLASH)).all(axis=1)
        fitting: Array = are_same & are_plain & ((texts == QUOTE).sum(axis=1) == self._quotes)
        return fitting


def template_of(sample: Event, state: bytes, varying: Collection[str]) -> Template | None:
    """Return the template of an event, None when its bytes are not the canonical ones."""
    if canonical(sample) != state:
        return None
    template = Template(sample, varying)
    is_found = template.literals[-1].count(b'"') or not template.names
    return template if is_found and template.text == state else None


def _pieces(
    fields: Mapping[str, Any], varying: Collection[str], path: str = ""
) -> Iterator[tuple[str | None, bytes]]:
    """Yield the pieces of an object's JSON, those that vary with their names."""
    separator = b"{"
    for name, value in fields.items():
        if not path and name in _HEADER:
            continue
        yield None, separator + _encode(name) + b":"
        separator = b","
        if isinstance(value, dict):
            yield from _pieces(value, varying, f"{path}{name}.")
        elif f"{path}{name}" in varying and isinstance(value, str | int):
            yield f"{path}{name}", _encode(value)
        else:
            yield None, _encode(value)
    yield None, b"}"


def _are(strings: Array, literal: bytes) -> Array | bool:
    """Return which strings are the literal; mostly all of them are, which is told at once."""
    if strings.tobytes() == literal * len(strings):
        return True
    found: Array = (bytes_of(strings, len(literal)) == np.frombuffer(literal, np.uint8)).all(axis=1)
    return found


def bytes_of(strings: Array, length: int) -> Array:
    """Return strings of one length as rows of bytes."""
    return strings.view(np.uint8).reshape(len(strings), length)


def words_of(strings: Array, length: int) -> Array:
    """Return strings of one length as rows of numbers of eight bytes, the last filled up by zeroes.

    No byte of a plain text is zero, so that different strings have different numbers.
    """
    width = -(-length // 8) * 8
    if width == length:
        return strings.view("<u8").reshape(len(strings), width // 8)
    wide = np.zeros((len(strings), width), np.uint8)
    wide[:, :length] = bytes_of(strings, length)
    return wide.view("<u8")


def by_length(fields: Fields, longest: int) -> Iterator[tuple[int, Array]]:
    """Yield each length that fields have, from 1 up to the longest, and which of them have it."""
    lengths = fields.ends - fields.starts
    known = np.unique(lengths) if len(lengths) and (lengths != lengths[0]).any() else lengths[:1]
    for length in known.tolist():
        if 0 < length <= longest:
            yield length, np.flatnonzero(lengths == length)
