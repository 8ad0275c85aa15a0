"""Columns of events: every field that a rule asks for, as numbers, read from the bytes of many.

An event is in the columns only when its bytes are the canonical ones, its instant is the recorded
one and its coupon's id, if it is a claim, is made of its campaign, person and ordinal. Any other
is left out, and nobody is told why: that is the audit's to say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
import numpy as np

from campaigns.columns.alike import CLAIM, KINDS, VARYING, Fact, fact_of, micros_of
from campaigns.columns.names import (
    NAME_BYTES_MAX,
    are_names,
    coupons_of,
    keys_of,
    keys_of_words,
    mark_of,
    marks_of,
    number_of,
    numbers_of_words,
)
from campaigns.columns.rows import Rows
from campaigns.columns.texts import (
    Array,
    Fields,
    Layout,
    Template,
    Texts,
    by_length,
    bytes_of,
    template_of,
    words_of,
)
from campaigns.coupon import CouponClaimed, CouponRedeemed, CouponRefunded
from campaigns.event_types import MAPPER
from ledger.events import Event
from ledger.exporting.spilling import KEYS
from ledger.verification import UNREADABLE

NONE: Final = -1
"""The kind of an event that is not in the columns."""

TEMPLATES_MAX: Final = 32
"""Forms of one kind in a row group that are read by their bytes; events of more are decoded."""

FEW: Final = 8
"""Events of one form for which a template is not worth its making."""

EVEN_MIN: Final = 8
"""Fewer events of one length are not compared with each other place by place."""

FEW_ALIKE: Final = 2
"""Of the first so many, fewer that are alike make a form a poor one: each has another."""

POOR_MAX: Final = 4
"""Poor forms in a row group, after which no more are made: each is decoded for it."""

FORMS_MAX: Final = 8
"""Forms of one kind and length in some row groups; events of more have their quotes looked for."""

QUOTED_MIN: Final = 64
"""Fewer events that are left of a kind are decoded: to look for all quotes would cost more."""

TEXT_BYTES_MAX: Final = 1 << 25
"""Largest row group that is read by its bytes, 4 KiB an event: their quotes alone take as much
as eight times that."""

_DIGITS_MAX: Final = 15
"""Longest number that is read; it fits into 64 bits whatever its digits are."""
_BOUND: Final = 10**_DIGITS_MAX

_INSTANT: Final = len("2026-05-01T00:00:00.003650Z")
_MINUTE: Final = len("2026-05-01T00:00")
_PLACES: Final = (17, 18, 20, 21, 22, 23, 24, 25)
_WORTH: Final = np.array([10_000_000, 1_000_000, *(10**n for n in range(5, -1, -1))], np.int64)
_MARKS: Final = ((16, b":"), (19, b"."), (26, b"Z"))
_NO_OFFSET: Final = timedelta(0)
_NO_MINUTE: Final = 1
"""No minute begins with it."""


class Columns(NamedTuple):
    """Events in order of position; numbers that a kind of event does not have are zero."""

    kind: Array
    fact: Array
    """Which of the common facts."""
    stream: Array
    version: Array
    at: Array
    person: Array
    n: Array
    before: Array
    """The coupon that the person must have been given before, zero where it is the first."""
    merchant: Array
    """Which of the merchants."""
    mark: Array
    """Of merchant and order."""
    total_minor: Array

    def part(self, start: int, end: int) -> Columns:
        """Return the columns of a stretch of the events."""
        return Columns(*(column[start:end] for column in self))


_TYPES: Final = Columns(
    *("i1", "i4", KEYS, "i8", "i8", KEYS, "i8", KEYS, "i4", "i8", "i8"),  # type: ignore[arg-type]
)


class Form(NamedTuple):
    """What events of one length look like, and what they have in common."""

    layout: Layout
    fact: Fact


class Shared:
    """What the events of some row groups have in common, numbered."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.merchants: list[str] = []
        self.forms: defaultdict[tuple[int, int], list[Form]] = defaultdict(list)
        """Kind and length of events → what they may look like."""
        self._facts: dict[Fact, int] = {}
        self._merchants: dict[int, int] = {}
        self._keys, self._numbers = np.zeros(0, np.uint64), np.zeros(0, np.int32)

    def fact(self, fact: Fact) -> int:
        """Return the number of a fact."""
        number = self._facts.setdefault(fact, len(self.facts))
        if number == len(self.facts):
            self.facts.append(fact)
        return number

    def merchant(self, key: int, name: Callable[[], str]) -> int:
        """Return the number of a merchant by a key of the name, which is asked for once."""
        number = self._merchants.setdefault(key, len(self.merchants))
        if number == len(self.merchants):
            self.merchants.append(name())
        return number

    def merchants_of(self, keys: Array, name: Callable[[int], str]) -> Array:
        """Return the numbers of merchants by keys; `name` is asked once for one, by its place."""
        places = np.searchsorted(self._keys, keys)
        are_known = np.zeros(len(keys), bool)
        if len(self._keys):
            are_known = self._keys[np.minimum(places, len(self._keys) - 1)] == keys
        if not are_known.all():
            others = np.flatnonzero(~are_known)
            found, first = np.unique(keys[others], return_index=True)
            for key, place in zip(found.tolist(), others[first].tolist(), strict=True):
                self.merchant(key, partial(name, place))
            known = sorted(self._merchants.items())
            self._keys = np.array([key for key, _ in known], np.uint64)
            self._numbers = np.array([number for _, number in known], np.int32)
            places = np.searchsorted(self._keys, keys)
        numbers: Array = self._numbers[places]
        return numbers


def read(rows: Rows, shared: Shared) -> Columns:
    """Return the columns of a row group."""
    columns = Columns(*(np.zeros(len(rows), kind) for kind in _TYPES))
    columns.kind[:] = NONE
    columns.stream[:], columns.version[:] = rows.streams, rows.versions
    columns.at[:] = rows.instants
    kinds = np.array([KINDS.get(topic, NONE) for topic in rows.topics], np.int8)[rows.topic]
    if (kinds == NONE).all() or len(rows.data) > TEXT_BYTES_MAX:
        return columns
    texts = Texts(rows.data, rows.offsets)
    reader = _Reader(rows, texts, columns, shared)
    for kind in np.unique(kinds[kinds != NONE]).tolist():
        reader.read(kind, np.flatnonzero(kinds == kind))
    return columns


class _Reader:
    """Reads the events of one row group into its columns, kind by kind."""

    def __init__(self, rows: Rows, texts: Texts, columns: Columns, shared: Shared) -> None:
        self._rows = rows
        self._texts = texts
        self._columns = columns
        self._shared = shared
        self._poor = 0
        """How many forms were made that hardly any other event has."""

    def read(self, kind: int, rows: Array) -> None:
        """Read the events of a kind."""
        rows = self._read_even(kind, rows)
        if len(rows) < QUOTED_MIN:
            self._read_singly(kind, rows)
            return
        plain = self._texts.are_plain[rows]
        self._read_singly(kind, rows[~plain])
        rows = rows[plain]
        counts = self._texts.counts[rows]
        for count in np.unique(counts).tolist():
            self._read_alike(kind, rows[counts == count])

    def _read_even(self, kind: int, rows: Array) -> Array:
        """Read events in which all has the same place, form by form; return the others."""
        lengths = self._texts.lengths[rows]
        alike: defaultdict[tuple[bytes, ...], list[tuple[Form, Array]]] = defaultdict(list)
        left = [rows[:0]]
        for length in np.unique(lengths).tolist():
            those, number = rows[lengths == length], 0
            while len(those) and (form := self._form_at(kind, length, number, those)):
                fitting = form.layout.fits(self._texts, those)
                alike[form.layout.key].append((form, those[fitting]))
                those, number = those[~fitting], number + 1
            left.append(those)
        for parts in alike.values():
            self._take_even(kind, parts)
        return np.sort(np.concatenate(left))

    def _form_at(self, kind: int, length: int, number: int, rows: Array) -> Form | None:
        """Return a form that is known, or the next one, made from the first of enough rows."""
        known = self._shared.forms[kind, length]
        if number < len(known):
            return known[number]
        if number == FORMS_MAX or len(rows) < EVEN_MIN or self._poor == POOR_MAX:
            return None
        row = int(rows[0])
        sample = self._sample(kind, row)
        layout = None if sample is None else Layout(self._texts[row], sample[0])
        are_fitting = layout.fits(self._texts, rows[:EVEN_MIN]) if layout else rows[:0]
        self._poor += int(are_fitting.sum()) < FEW_ALIKE
        if layout is None or sample is None or not are_fitting[0]:
            return None
        known.append(Form(layout, sample[1]))
        return known[number]

    def _take_even(self, kind: int, parts: list[tuple[Form, Array]]) -> None:
        rows = np.concatenate([those for _, those in parts])
        if not len(rows):
            return
        fields = [form.layout.fields(self._texts, those) for form, those in parts]
        joined = {name: Fields.joined([one[name] for one in fields]) for name in fields[0]}
        self._take(kind, parts[0][0].fact, rows, joined)

    def _read_alike(self, kind: int, rows: Array) -> None:
        """Read events with as many quotes, template by template."""
        left, poor = rows, 0
        for _ in range(TEMPLATES_MAX):
            if len(left) < FEW or poor > 2:
                break
            form = self._form(kind, int(left[0]))
            if form is None:
                self._read_singly(kind, left[:1])
                left, poor = left[1:], poor + 1
                continue
            template, fact = form
            fitting, fields = template.fits(self._texts, left)
            if not fitting[0]:
                self._read_singly(kind, left[:1])
                left, poor = left[1:], poor + 1
                continue
            self._take(kind, fact, left[fitting], fields)
            poor += int(fitting.sum()) < FEW
            left = left[~fitting]
        self._read_singly(kind, left)

    def _form(self, kind: int, row: int) -> tuple[Template, Fact] | None:
        sample = self._sample(kind, row)
        if sample is None or sample[0].quotes != self._texts.counts[row]:
            return None
        return sample

    def _sample(self, kind: int, row: int) -> tuple[Template, Fact] | None:
        event = self._event(row)
        if event is None:
            return None
        fact = fact_of(event)
        template = template_of(event, self._texts[row], VARYING)
        if fact is None or template is None:
            return None
        assert fact.kind == kind, "the event is of its topic"
        return template, fact

    # --- by bytes -----------------------------------------------------------------------------

    def _take(self, kind: int, fact: Fact, rows: Array, fields: dict[str, Fields]) -> None:
        """Put events of one form into the columns, unless something in them is not as it must be.

        What varies and is not looked at here says who asked, and no rule asks for it.
        """
        columns = self._columns
        instants, sound = self._instants(fields["at"])
        sound &= instants == columns.at[rows]
        keys, are_known = self._people(fields["person"])
        sound &= are_known
        columns.person[rows] = keys
        if kind == CLAIM:
            columns.n[rows], are_numbers = self._numbers(fields["n"])
            sound &= are_numbers
            sound[sound] = self._are_own(fact.campaign, rows, sound, fields)
            self._put_before(fact.campaign, rows[sound], _those(fields["person"], sound))
        if "order_total_minor" in fields:
            columns.total_minor[rows], are_numbers = self._numbers(fields["order_total_minor"])
            sound &= are_numbers
        if "order" in fields:
            sound &= self._put_order(rows, fields["merchant"], fields["order"])
        columns.fact[rows] = self._shared.fact(fact)
        columns.kind[rows[sound]] = kind
        self._read_singly(kind, rows[~sound])

    def _instants(self, fields: Fields) -> tuple[Array, Array]:
        """Return instants in microseconds since 1970, and which are written with a fraction."""
        found = np.zeros(len(fields.starts), np.int64)
        are_known = np.zeros(len(fields.starts), bool)
        rows = np.flatnonzero(fields.ends - fields.starts == _INSTANT)
        texts = bytes_of(self._texts.cut(fields.starts[rows], _INSTANT), _INSTANT)
        digits = texts[:, _PLACES] - np.uint8(ord("0"))
        sound = (digits <= 9).all(axis=1) & (digits[:, 0] <= 5)
        sound &= digits[:, 2:].any(axis=1)  # the encoder writes no fraction of zero
        for place, mark in _MARKS:
            sound &= texts[:, place] == mark[0]
        minutes = self._texts.cut(fields.starts[rows], _MINUTE).view("<u8").reshape(-1, 2)
        is_next = np.ones(len(rows), bool)
        is_next[1:] = (minutes[1:] != minutes[:-1]).any(axis=1)
        begins = np.array([_minute(bytes(one)) for one in texts[is_next, :_MINUTE]], np.int64)
        begin = begins[np.cumsum(is_next) - 1] if len(rows) else begins
        sound &= begin != _NO_MINUTE
        found[rows] = begin + digits.astype(np.int64) @ _WORTH
        are_known[rows] = sound
        return found, are_known

    def _people(self, fields: Fields) -> tuple[Array, Array]:
        """Return the keys of people, and which of the fields are names of people."""
        keys = np.zeros(len(fields.starts), KEYS)
        are_known = np.zeros(len(fields.starts), bool)
        for length, rows in by_length(fields, NAME_BYTES_MAX):
            strings = self._texts.cut(fields.starts[rows], length)
            are_known[rows] = are_names(bytes_of(strings, length))
            keys[rows] = keys_of_words(words_of(strings, length))
        return keys, are_known

    def _numbers(self, fields: Fields) -> tuple[Array, Array]:
        """Return whole numbers from zero, and which of the fields are written as such."""
        found = np.zeros(len(fields.starts), np.int64)
        are_numbers = np.zeros(len(fields.starts), bool)
        for length, rows in by_length(fields, _DIGITS_MAX):
            texts = bytes_of(self._texts.cut(fields.starts[rows], length), length)
            digits = texts - np.uint8(ord("0"))
            are_numbers[rows] = (digits <= 9).all(axis=1) & ((digits[:, 0] > 0) | (length == 1))
            worth = 10 ** np.arange(length - 1, -1, -1, dtype=np.int64)
            found[rows] = digits.astype(np.int64) @ worth
        return found, are_numbers

    def _put_order(self, rows: Array, merchants: Fields, orders: Fields) -> Array:
        """Put merchants and the marks of their orders; return which rows have names of neither."""
        are_known = np.zeros(len(rows), bool)
        for length, alike in by_length(merchants, NAME_BYTES_MAX):
            starts = merchants.starts[alike]
            words = words_of(self._texts.cut(starts, length), length)
            name = partial(self._name, starts, length)
            numbers = self._shared.merchants_of(numbers_of_words(words), name)
            self._columns.merchant[rows[alike]] = numbers
            for size, those in by_length(_those(orders, alike), NAME_BYTES_MAX):
                order = words_of(self._texts.cut(orders.starts[alike[those]], size), size)
                marks = marks_of(words[those], order, (length, size))
                self._columns.mark[rows[alike[those]]] = marks
                are_known[alike[those]] = True
        return are_known

    def _name(self, starts: Array, length: int, place: int) -> str:
        return self._texts.string(starts[place], starts[place] + length)

    def _are_own(
        self, campaign: UUID, rows: Array, sound: Array, fields: dict[str, Fields]
    ) -> Array:
        """Return which coupons have the id that is made of their campaign, person and ordinal."""
        starts, ends = _those(fields["person"], sound)
        numbers = _those(fields["n"], sound)
        own = np.zeros(len(starts), bool)
        streams = self._columns.stream[rows[sound]]
        prefix = np.frombuffer(campaign.bytes, np.uint8)
        for length, alike in by_length(Fields(starts, ends), NAME_BYTES_MAX):
            people = bytes_of(self._texts.cut(starts[alike], length), length)
            counted = Fields(numbers.starts[alike], numbers.ends[alike])
            for digits, those in by_length(counted, _DIGITS_MAX):
                ordinals = bytes_of(self._texts.cut(counted.starts[those], digits), digits)
                size = 16 + length + 1 + digits
                names = np.empty((len(those), size), np.uint8)
                names[:, :16] = prefix
                names[:, 16 : 16 + length] = people[those]
                names[:, 16 + length] = ord(":")
                names[:, 17 + length :] = ordinals
                ids = coupons_of(names.view(f"S{size}").ravel().tolist())
                own[alike[those]] = ids == streams[alike[those]]
        return own

    def _put_before(self, campaign: UUID, rows: Array, fields: Fields) -> None:
        """Put the ids of coupons that must be known before later ones of a person are claimed."""
        later = np.flatnonzero(self._columns.n[rows] > 1)
        if len(later):
            people = self._texts.strings(_those(fields, later))
            ordinals = (self._columns.n[rows[later]] - 1).tolist()
            names = [
                campaign.bytes + f"{person}:{n}".encode()
                for person, n in zip(people, ordinals, strict=True)
            ]
            self._columns.before[rows[later]] = coupons_of(names)

    # --- one by one ---------------------------------------------------------------------------

    def _read_singly(self, kind: int, rows: Array) -> None:
        """Put events that have no form in common into the columns, each by itself."""
        for row in rows.tolist():
            event = self._event(row)
            fact = None if event is None else fact_of(event)
            if fact is not None and self._is_sound(row, event):
                self._columns.fact[row] = self._shared.fact(fact)
                self._put(row, event)
                self._columns.kind[row] = kind

    def _event(self, row: int) -> Event | None:
        """Return an event with the canonical bytes."""
        topic, stream = self._rows.topics[self._rows.topic[row]], self._rows.stream(row)
        state = self._texts[row]
        try:
            event = MAPPER.decode(topic, state, stream, int(self._columns.version[row]))
        except UNREADABLE:
            return None
        return event if MAPPER.types.encode(event) == state else None

    def _is_sound(self, row: int, event: Any) -> bool:
        if event.at.utcoffset() != _NO_OFFSET or micros_of(event.at) != self._columns.at[row]:
            return False
        person = event.person.encode()
        if not 0 < len(person) <= NAME_BYTES_MAX:
            return False
        if not are_names(np.frombuffer(person, np.uint8).reshape(1, -1))[0]:
            return False
        if isinstance(event, CouponClaimed):
            if not 0 < event.n < _BOUND:
                return False
            if _id_of(event.campaign, event.person, event.n) != self._columns.stream[row]:
                return False
        return not isinstance(event, CouponRedeemed) or 0 <= event.order_total_minor < _BOUND

    def _put(self, row: int, event: Any) -> None:
        columns = self._columns
        columns.person[row] = keys_of([event.person])[0]
        if isinstance(event, CouponClaimed):
            columns.n[row] = event.n
            if event.n > 1:
                columns.before[row] = _id_of(event.campaign, event.person, event.n - 1)
        elif isinstance(event, CouponRedeemed):
            columns.total_minor[row] = event.order_total_minor
        if isinstance(event, CouponRedeemed | CouponRefunded):
            key = number_of(event.merchant)
            columns.merchant[row] = self._shared.merchant(key, lambda: event.merchant)
            columns.mark[row] = mark_of(event.merchant, event.order)


def _those(fields: Fields, rows: Array) -> Fields:
    return Fields(fields.starts[rows], fields.ends[rows])


def _id_of(campaign: UUID, person: str, n: int) -> Any:
    return coupons_of([campaign.bytes + f"{person}:{n}".encode()])[0]


_instant: Final = msgspec.json.Decoder(datetime).decode
_encode: Final = msgspec.json.Encoder().encode


def _minute(text: bytes) -> int:
    """Return the first microsecond of a minute, or that there is no such minute."""
    written = b'"%b:00Z"' % text
    try:
        at = _instant(written)
    except msgspec.DecodeError:
        return _NO_MINUTE
    return micros_of(at) if _encode(at) == written else _NO_MINUTE


def runs_of(kinds: Array) -> Iterator[tuple[int, int]]:
    """Yield begin and end of every stretch of events that are in the columns."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], kinds != NONE, [False]))))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
