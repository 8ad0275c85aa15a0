"""Judged in columns or event by event, a book has the same findings and leaves the same behind."""

from __future__ import annotations

import importlib
import inspect
import random
import re
import types
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaigns import export_verification
from campaigns.campaign import CampaignPaused, CampaignResumed
from campaigns.columns import judging, passing, reading, texts
from campaigns.columns.alike import VARYING, micros_of
from campaigns.columns.names import keys_of, mark_of, marks_of
from campaigns.columns.rows import NEVER, Rows
from campaigns.columns.texts import words_of
from campaigns.coupon import CouponExpired, CouponVoided
from campaigns.event_types import MAPPER
from campaigns.export_synthetic import Synthetic
from campaigns.export_verification import _Verification
from campaigns.export_window import person_of
from ledger.exporting.form import EVENTS, FORM, Manifest
from ledger.exporting.reading import Group
from ledger.exporting.spilling import KEYS
from ledger.history import Entry
from ledger.verification import Finding
from tests.exports.made import KEYS as LOG_KEYS
from tests.exports.made import Made, exported, verified
from tests.exports.stories import (
    BENDS,
    COLUMN_BENDS,
    FIELD_BENDS,
    HOUR,
    TEXT_BENDS,
    Story,
    rearranged,
)

PER_GROUP, AT_ONCE = 64, 3


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a few events are judged in columns, and few are given back where one is not sound."""
    monkeypatch.setattr(passing, "RUN_MIN", 2)
    monkeypatch.setattr(passing, "LEFT_FIRST", 1)
    monkeypatch.setattr(reading, "FEW", 2)
    monkeypatch.setattr(reading, "EVEN_MIN", 2)
    monkeypatch.setattr(reading, "QUOTED_MIN", 2)


class Judged:
    """What was found in a book, and what its audit knew in the end."""

    def __init__(
        self, entries: Sequence[Entry], instants: Sequence[int | None], *, columns: bool
    ) -> None:
        self.findings: list[Finding] = []
        manifest = Manifest(FORM, "main", "made/up", len(entries), "00" * 32, [], [], [])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export_verification, "IN_MEMORY", 0 if columns else 1 << 60)
            one = _Verification(Path(), manifest, LOG_KEYS, self.findings.append)
        groups = [
            (entries[start : start + PER_GROUP], instants[start : start + PER_GROUP])
            for start in range(0, len(entries), PER_GROUP)
        ]
        if columns:
            self._pass(one, groups)
        else:
            all(one._feed(group_of(*group)) for group in groups)
        self.confirmed = 0 if one._passing is None else one._passing.confirmed
        self.state = state_of(one, entries)
        one._finish()
        self.judged = one._judged

    def _pass(self, one: _Verification, groups: list[Any]) -> None:
        assert one._passing is not None
        assert one._window is not None
        for start in range(0, len(groups), AT_ONCE):
            rows = [rows_of(*group) for group in groups[start : start + AT_ONCE]]
            if not one._pass(rows, one._passing, one._window):
                return


def rows_of(entries: Sequence[Entry], instants: Sequence[int | None]) -> Rows:
    """Events as a file has them."""
    positions, streams, versions, topics, states, _ = zip(*entries, strict=True)
    known = list(dict.fromkeys(topics))
    return Rows(
        np.array(positions, np.int64),
        np.frombuffer(b"".join(one.bytes for one in streams), KEYS),
        np.array(versions, np.int64),
        known,
        np.array([known.index(topic) for topic in topics], np.int32),
        np.array([NEVER if one is None else one for one in instants], np.int64),
        np.frombuffer(b"".join(states), np.uint8),
        np.cumsum([0, *map(len, states)]),
    )


def group_of(entries: Sequence[Entry], instants: Sequence[int | None]) -> Group:
    """The same as objects."""
    positions, streams, versions, topics, states, _ = zip(*entries, strict=True)
    keys = pa.array([one.bytes for one in streams], pa.binary(16))
    columns = [
        pa.array(["main"] * len(entries)).dictionary_encode(),
        pa.array(positions, pa.int64()),
        pa.ExtensionArray.from_storage(pa.uuid(), keys),
        pa.array(versions, pa.int32()),
        pa.array(topics, pa.string()).dictionary_encode(),
        pa.array(instants, pa.int64()).cast(EVENTS.field("recorded_at").type),
        pa.array(states, pa.binary()),
        pa.array([bytes(32)] * len(entries), pa.binary(32)),
    ]
    return Group(pa.Table.from_arrays(columns, schema=EVENTS))


def state_of(one: _Verification, entries: Sequence[Entry]) -> dict[str, Any]:
    """All that an audit knows, wherever it is kept."""
    book, rules, window = one._audit.book, one._audit.rules, one._window
    streams = sorted({entry.stream for entry in entries})
    people = sorted(people_of(entries))
    versions, coupons = dict(book.versions), dict(rules.coupons)
    balances = {(c, a): n for c, all_of in book.balances.items() for a, n in all_of.items()}
    if window is not None:
        assert not versions
        assert not coupons
        keys = [stream.bytes for stream in streams]
        for stream, known in zip(streams, window.streams.load(keys), strict=True):
            versions |= {stream.int: known.version} if known.version else {}
            coupons |= {stream.int: known.coupon} if known.coupon is not None else {}
        for currency, holders in window.holders.items():
            for person, minor in zip(people, holders.load(people), strict=True):
                balances |= {(currency, f"holder:{person}"): minor} if minor else {}
            assert holders.total == sum(holders.load(people))
    return {
        "at": (book.position, book.at, book.whole),
        "versions": versions,
        "coupons": coupons,
        "balances": balances,
        "sums": [
            {c: n for c, n in one.items() if n} for one in (rules.held_minor, rules.redeemed_minor)
        ],
        "pots": {campaign: (pot.campaign, pot.capacity) for campaign, pot in rules.pots.items()},
        "owed": (rules._owed, rules._was_owed, rules._position, rules._whole),
    }


def people_of(entries: Sequence[Entry]) -> set[str]:
    """Everybody whom the book names by a name that accounts may have."""
    return {person for entry in entries if (person := person_of(entry.state)) is not None}


def instants_of(entries: Sequence[Entry]) -> list[int | None]:
    """When events were recorded, by what they say themselves, even where that is no instant."""
    found: list[int | None] = []
    for entry in entries:
        at = _AT.search(entry.state)
        if at is None:
            found.append(None)
            continue
        try:
            found.append(micros_of(msgspec.convert(at[1].decode(), datetime)))
        except (msgspec.MsgspecError, TypeError):
            found.append(added_up(at[1]) if len(at[1]) == 27 else None)
    return found


_AT = re.compile(rb'"at":"([^"]*)"')


def added_up(at: bytes) -> int:
    """What the digits of an instant come to, if there were such an instant."""
    digits = [(at[place] - ord("0")) % 256 for place in reading._PLACES]
    worth = zip(digits, reading._WORTH.tolist(), strict=True)
    added: int = sum(digit * one for digit, one in worth)
    return reading._minute(at[:16]) + added


def compared(entries: Sequence[Entry], instants: Sequence[int | None] | None = None) -> Judged:
    """Judge a book both ways; fail when they differ."""
    when = instants_of(entries) if instants is None else instants
    plain = Judged(entries, when, columns=False)
    columns = Judged(entries, when, columns=True)
    assert columns.findings == plain.findings
    assert columns.judged == plain.judged
    assert columns.state == plain.state
    return columns


@cache
def story(seed: int, steps: int = 200) -> list[Entry]:
    """A sound book."""
    return Story(random.Random(seed)).tell(steps)


# --- sound books --------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 300))
def test_a_sound_book_leaves_the_same_behind(seed: int, steps: int) -> None:
    """Whatever happened in it, in whatever order."""
    judged = compared(story(seed, steps))
    assert [one.code for one in judged.findings] == ["checkpoint_missing"]


def test_most_of_a_sound_book_is_judged_in_columns() -> None:
    """All but campaigns, late refunds, and what is between them."""
    entries = story(3)
    judged = compared(entries)
    assert judged.confirmed > len(entries) * 0.8


def test_the_made_up_book_is_judged_in_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every event of a coupon, with files and groups of their real size."""
    size = 20_000
    entries = list(Synthetic(size, claims=7_000, block=500).entries(0, size))
    exported(Made(entries, every=size), tmp_path / "book")
    confirmed: list[int] = []

    class Counting(passing.Passing):
        def left(self, groups: Sequence[Rows]) -> Any:
            yield from super().left(groups)
            confirmed.append(self.confirmed)

    monkeypatch.setattr(export_verification, "IN_MEMORY", 0)
    monkeypatch.setattr(export_verification, "Passing", Counting)
    monkeypatch.setattr(passing, "RUN_MIN", 64)
    assert verified(tmp_path / "book")[1] == []
    assert confirmed[-1] == sum(entry.topic.startswith("coupon.") for entry in entries)


def test_every_topic_is_judged_in_columns() -> None:
    """Of each kind that columns are for, some events of a story are confirmed."""
    taken: set[int] = set()

    class Noting(judging.Judge):
        def confirm(self, run: Any, shared: Any) -> int:
            confirmed = super().confirm(run, shared)
            taken.update(run.kind[:confirmed].tolist())
            return confirmed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passing, "Judge", Noting)
        compared(story(4))
    assert taken == set(range(5))


# --- bent books ---------------------------------------------------------------------------


def bent(entries: Sequence[Entry], name: str, place: int) -> list[Entry]:
    """The book with one event bent, if it can be."""
    book = list(entries)
    try:
        book[place] = BENDS[name](book[place])
    except (KeyError, ValueError, TypeError, IndexError):
        return book
    return book


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_bent_event_is_found_as_before(data: st.DataObject) -> None:
    """One or two events with another field, other bytes or another place."""
    entries = story(data.draw(st.integers(0, 40)), 90)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(8, len(entries) - 1))
        entries = bent(entries, data.draw(st.sampled_from(sorted(BENDS))), place)
    compared(entries)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_rearranged_book_is_found_as_before(data: st.DataObject) -> None:
    """An event elsewhere, twice, gone, or again as the next of its stream."""
    entries = story(data.draw(st.integers(0, 40)), 90)
    places = st.integers(8, len(entries) - 1)
    how = data.draw(st.sampled_from(["swapped", "twice", "gone", "again"]))
    compared(rearranged(entries, how, data.draw(places), data.draw(places)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 40), place=st.integers(8, 80), change=st.sampled_from([-1, 1, None]))
def test_a_recorded_instant_is_compared_as_before(
    seed: int, place: int, change: int | None
) -> None:
    """One that is another, or none."""
    entries = story(seed, 90)
    instants = instants_of(entries)
    found = instants[place]
    assert found is not None
    instants[place] = None if change is None else found + change
    judged = compared(entries, instants)
    assert "instant_differs" in {one.code for one in judged.findings}


TOPICS = ("claimed", "redeemed", "refunded", "expired", "voided")


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("group", ["fields", "texts", "columns"])
def test_every_bend_of_every_topic_is_found_as_before(topic: str, group: str) -> None:
    """In the middle of a run, and at its end."""
    names = {"fields": FIELD_BENDS, "texts": TEXT_BENDS, "columns": COLUMN_BENDS}[group]
    entries = story(6, 110)
    places = [n for n, one in enumerate(entries) if one.topic == f"coupon.{topic}"]
    for name in names:
        for place in (places[len(places) // 2], places[-1]):
            compared(bent(entries, name, place))


# --- wrong books, one rule each -----------------------------------------------------------


def scripted(
    tell: Callable[[Story, list[UUID]], None], quota: int = 400, budget: int = 400
) -> list[Entry]:
    """A sound run of claims and redemptions, then what is told, then more of the same."""
    made = Story(random.Random(8), quota=quota, budget=budget)
    campaigns = [made.open("A"), made.open("B", merchants=["m1", "m22", "m-333"])]
    coupons = [made.claim(one, f"{n:032x}") for n in range(6) for one in campaigns]
    for coupon in coupons[:6]:
        made.redeem(coupon)
    tell(made, [*campaigns, *coupons])
    for n in range(6):
        made.claim(campaigns[1], f"{n + 100:032x}")
    return made.entries


def redeemed_late(made: Story, known: list[UUID]) -> None:
    """After the validity."""
    made.at += 2 * HOUR - timedelta(seconds=1)
    made.redeem(known[-1])


def claimed_late(made: Story, known: list[UUID]) -> None:
    """After the claim window."""
    made.at += 2 * HOUR
    made.claim(known[1], "late")


def claimed_in_a_break(made: Story, known: list[UUID]) -> None:
    """While the campaign is paused."""
    made.campaign(known[1], CampaignPaused, "bob", reason="a break")
    made.claim(known[1], "eager")
    made.claim(known[1], "eager2")
    made.campaign(known[1], CampaignResumed, "bob")


def expired_early(made: Story, known: list[UUID]) -> None:
    """Inside the validity."""
    made.end(known[-1], CouponExpired)


def voided_late(made: Story, known: list[UUID]) -> None:
    """After the validity."""
    made.at += HOUR
    made.end(known[-1], CouponVoided)


def refunded_late(made: Story, known: list[UUID]) -> None:
    """After the validity, and not reclaimed."""
    made.at += HOUR
    made.refund(known[2])


def claimed_too_often(made: Story, known: list[UUID]) -> None:
    """A third coupon where two are allowed."""
    for n in (2, 3):
        made.claim(known[1], f"{3:032x}", n)


def claimed_second_first(made: Story, known: list[UUID]) -> None:
    """The second coupon before the first."""
    made.claim(known[1], "hasty", 2)
    made.claim(known[1], "hasty", 1)


def claimed_twice(made: Story, known: list[UUID]) -> None:
    """The same coupon again."""
    made.claim(known[1], f"{2:032x}")


def redeemed_twice(made: Story, known: list[UUID]) -> None:
    """Without a refund in between."""
    made.redeem(known[2])


def refunded_twice(made: Story, known: list[UUID]) -> None:
    """Without a redemption in between."""
    order = made.coupons[known[2]].order
    made.refund(known[2])
    made.coupons[known[2]].order = order
    made.refund(known[2])


def ended_and_redeemed(made: Story, known: list[UUID]) -> None:
    """After the end of the coupon."""
    kept = made.coupons[known[-1]]
    made.end(known[-1], CouponVoided)
    made.coupons[known[-1]] = kept
    made.redeem(known[-1])


def granted_to_an_erased(made: Story, known: list[UUID]) -> None:
    """Something for somebody who was erased."""
    made.erase("gone")
    made.claim(known[1], "gone")


def nothing_more(made: Story, known: list[UUID]) -> None:
    """Nothing but the sound runs."""


BOOKS: dict[str, list[Entry]] = {
    one.__name__: scripted(one)
    for one in (
        redeemed_late,
        claimed_late,
        claimed_in_a_break,
        expired_early,
        voided_late,
        refunded_late,
        claimed_too_often,
        claimed_second_first,
        claimed_twice,
        redeemed_twice,
        refunded_twice,
        ended_and_redeemed,
        granted_to_an_erased,
    )
}
BOOKS["one_too_many"] = scripted(nothing_more, quota=11)
BOOKS["money_for_one_too_few"] = scripted(nothing_more, budget=11)


@pytest.mark.parametrize("name", BOOKS)
def test_a_broken_rule_is_found_as_before(name: str) -> None:
    """Each by itself, between sound runs."""
    judged = compared(BOOKS[name])
    assert {one.code for one in judged.findings} > {"checkpoint_missing"}
    assert judged.confirmed > 10


def test_before_anything_is_wrong_it_is_the_columns_that_confirm() -> None:
    """The scripted runs are sound by themselves, and none of their coupons is given back."""
    judged = compared(scripted(nothing_more))
    assert judged.confirmed == 12 + 6 + 6


# --- planted bugs -------------------------------------------------------------------------


def of_story(topic: str, name: str) -> list[Entry]:
    """A book with one event of a topic bent in the middle."""
    entries = Story(random.Random(7), is_plain=True).tell(150)
    places = [n for n, one in enumerate(entries) if one.topic == f"coupon.{topic}"]
    firsts = [place for place in places if b'"n":2' not in entries[place].state]
    book = bent(entries, name, firsts[len(firsts) // 2])
    assert book != entries
    return book


def claimed_again() -> list[Entry]:
    """A coupon's claim once more, as the next event of its stream."""
    entries = list(BOOKS["claimed_twice"])
    place = len(entries) - 7
    assert entries[place].topic == "coupon.claimed"
    entries[place] = entries[place]._replace(version=3)
    return entries


PLANTED: list[tuple[str, str, str, Callable[[], list[Entry]]]] = [
    ("judging", '(run.at < self._of("begin")) | ', "", lambda: BOOKS["expired_early"]),
    ("judging", ' | (run.at >= self._of("end"))', "", lambda: BOOKS["redeemed_late"]),
    ("judging", ' | (run.at >= self._of("end"))', "", lambda: BOOKS["claimed_late"]),
    ("judging", ' | (run.at >= self._of("end"))', "", lambda: BOOKS["voided_late"]),
    ("judging", ' | (run.at >= self._of("end"))', "", lambda: BOOKS["refunded_late"]),
    ("judging", ' | (run.n > self._of("limit"))', "", lambda: BOOKS["claimed_too_often"]),
    (
        "judging",
        'run.total_minor < self._of("threshold")',
        "False",
        lambda: of_story("redeemed", "total"),
    ),
    (
        "judging",
        "wrong[1:] |= run.at[1:] < run.at[:-1]",
        "pass",
        lambda: of_story("refunded", "at before"),
    ),
    ("judging", "if len(self._erased):", "if False:", lambda: BOOKS["granted_to_an_erased"]),
    ("judging", "~named[run.merchant]", "False", lambda: of_story("redeemed", "merchant")),
    (
        "judging",
        "(run.version[order] != version) | ",
        "",
        lambda: of_story("redeemed", "version after"),
    ),
    ("judging", " | (before != _BEFORE[kinds])", "", lambda: BOOKS["redeemed_twice"]),
    ("judging", " | (before != _BEFORE[kinds])", "", claimed_again),
    ("judging", " | (before != _BEFORE[kinds])", "", lambda: BOOKS["ended_and_redeemed"]),
    (
        "judging",
        "(kinds != CLAIM) & (before != owners)",
        "False",
        lambda: of_story("redeemed", "person"),
    ),
    (
        "judging",
        '(kinds == REFUND) & (_behind(marks, is_first, rows["mark"]) != marks)',
        "False",
        lambda: of_story("refunded", "order"),
    ),
    (
        "judging",
        "self._wrong[order[is_mixed]] = True",
        "pass",
        lambda: of_story("redeemed", "twin of the stream"),
    ),
    (
        "judging",
        "self._wrong[later[~(has_coupon | is_claimed)]] = True",
        "pass",
        lambda: BOOKS["claimed_second_first"],
    ),
    ("judging", " & (head < later)", "", lambda: BOOKS["claimed_second_first"]),
    ("judging", ' | (sums["issued"] > begins["quota"][group])', "", lambda: BOOKS["one_too_many"]),
    (
        "judging",
        '(sums["granted"] > sums["budget"])\n        self._wrong |= sums["pot"] < 0',
        "False",
        lambda: BOOKS["money_for_one_too_few"],
    ),
    (
        "judging",
        "(fact.amount_minor, fact.currency) != (terms.face_minor, terms.currency)",
        "False",
        lambda: of_story("redeemed", "discount"),
    ),
    ("judging", 'campaign.state == "open"', "True", lambda: BOOKS["claimed_in_a_break"]),
    (
        "judging",
        "(fact.campaign_version, fact.threshold_minor) == expected",
        "True",
        lambda: of_story("claimed", "campaign version"),
    ),
    ("judging", "fact.validity == validity", "True", lambda: of_story("claimed", "from")),
    (
        "judging",
        "fact.validity == (campaign.terms.valid_until,)",
        "True",
        lambda: of_story("expired", "until"),
    ),
    (
        "judging",
        "fact.destination == (campaign.returns_to, campaign.sponsor)",
        "True",
        lambda: of_story("expired", "sponsor"),
    ),
    (
        "reading",
        "own[alike[those]] = ids == streams[alike[those]]",
        "own[:] = True",
        lambda: of_story("claimed", "person"),
    ),
    (
        "reading",
        "(digits <= 9).all(axis=1) & (digits[:, 0] <= 5)",
        "(digits <= 9).all(axis=1)",
        lambda: of_story("claimed", "second 60"),
    ),
    (
        "reading",
        "(digits <= 9).all(axis=1) & (digits[:, 0] <= 5)",
        "(digits[:, 0] <= 5)",
        lambda: of_story("claimed", "no second"),
    ),
    (
        "reading",
        "sound &= digits[:, 2:].any(axis=1)",
        "pass",
        lambda: of_story("claimed", "fraction of zero"),
    ),
    (
        "reading",
        "sound &= texts[:, place] == mark[0]",
        "pass",
        lambda: of_story("claimed", "comma"),
    ),
    (
        "reading",
        " & ((digits[:, 0] > 0) | (length == 1))",
        "",
        lambda: of_story("redeemed", "leading zero"),
    ),
    (
        "reading",
        "if MAPPER.types.encode(event) == state else None",
        "",
        lambda: of_story("redeemed", "space"),
    ),
    (
        "texts",
        "fitting &= starts[-1] + len(self.literals[-1]) == texts.ends[rows]",
        "pass",
        lambda: of_story("redeemed", "more at the end"),
    ),
    (
        "texts",
        "fitting &= _are(texts.cut(start, len(literal)), literal)",
        "fitting &= _are(texts.cut(start, len(literal)), literal) | (place == 1)",
        lambda: of_story("redeemed", "space"),
    ),
    (
        "texts",
        "return found\n\n\nclass Template",
        "return found | True\n\n\nclass Template",
        lambda: of_story("redeemed", "slash"),
    ),
    (
        "passing",
        "columns.kind[~self._in_place(groups)] = NONE",
        "pass",
        lambda: of_story("redeemed", "position"),
    ),
]


@pytest.mark.parametrize(
    ("module", "check", "instead", "book"),
    PLANTED,
    ids=[f"{one[0]}-{one[1][:40]}" for one in PLANTED],
)
def test_without_a_check_something_differs(
    module: str,
    check: str,
    instead: str,
    book: Callable[[], list[Entry]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every check of the columns is one that some book needs."""
    compared(book())
    bugged = without(module, check, instead)
    match module:
        case "judging":
            monkeypatch.setattr(passing, "Judge", bugged.Judge)
        case "reading":
            for name in ("FEW", "EVEN_MIN", "QUOTED_MIN"):
                monkeypatch.setattr(bugged, name, 2)
            monkeypatch.setattr(passing, "read", bugged.read)
        case "texts":
            monkeypatch.setattr(reading, "EVEN_MIN", 1 << 60)
            monkeypatch.setattr(reading, "Texts", bugged.Texts)
            monkeypatch.setattr(reading, "template_of", bugged.template_of)
        case _:
            monkeypatch.setattr(bugged, "RUN_MIN", 2)
            monkeypatch.setattr(export_verification, "Passing", bugged.Passing)
    with pytest.raises(AssertionError):
        compared(book())


def without(name: str, check: str, instead: str) -> Any:
    """A module with a bug planted."""
    module = importlib.import_module(f"campaigns.columns.{name}")
    source = inspect.getsource(module)
    assert source.count(check) == 1, "the check is there, once"
    made = types.ModuleType(module.__name__)
    exec(compile(source.replace(check, instead), str(module.__file__), "exec"), made.__dict__)
    return made


# --- texts that are alike in their places -------------------------------------------------


def claim_and_template() -> tuple[bytes, texts.Template]:
    """A claim and the form that it has."""
    entry = next(one for one in story(7) if one.topic == "coupon.claimed")
    event = MAPPER.decode(entry.topic, entry.state, entry.stream, entry.version)
    template = texts.template_of(event, entry.state, VARYING)
    assert template is not None
    return entry.state, template


ODD = tuple(b'"\\\x00\x1f\x7f\xff')
BYTES = (*ODD, *b"a0~ ")


def has_form(text: bytes, state: bytes, template: texts.Template) -> bool:
    """Whether a text differs from another within what varies, and has nothing odd in it."""
    varying = {place for span in template.places.values() for place in range(*span)}
    changed = [place for place in range(len(state)) if text[place] != state[place]]
    return varying.issuperset(changed) and not {text[place] for place in changed} & set(ODD)


def fitting(layout: type[texts.Layout], book: Sequence[bytes]) -> list[bool]:
    """Which texts of one length a layout of the claim takes."""
    state, template = claim_and_template()
    offsets = np.cumsum([0, *map(len, book)])
    known = texts.Texts(np.frombuffer(b"".join(book), np.uint8), offsets)
    found: list[bool] = layout(state, template).fits(known, np.arange(len(book))).tolist()
    return found


def changed_at(place: int, byte: int) -> bytes:
    """The claim with another byte somewhere."""
    state, _ = claim_and_template()
    return state[:place] + bytes([byte]) + state[place + 1 :]


@given(
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(BYTES)), max_size=6),
    sound=st.integers(0, 3),
)
def test_a_layout_takes_what_differs_in_what_varies(
    changes: list[tuple[int, int]], sound: int
) -> None:
    """Among sound texts or by itself, at every place."""
    state, template = claim_and_template()
    book = [state] * sound + [changed_at(place % len(state), byte) for place, byte in changes]
    assert fitting(texts.Layout, book) == [has_form(one, state, template) for one in book]


def wrong_claims() -> list[bytes]:
    """The claim with a literal byte changed, and with odd bytes in the request's name."""
    _, template = claim_and_template()
    place = template.places["why.request"][0]
    return [changed_at(2, ord("b")), *(changed_at(place, byte) for byte in ODD)]


@pytest.mark.parametrize(
    ("check", "instead"),
    [
        ("(are_same | self._varies).all()", "True"),
        ("least.min() >= _FIRST", "True"),
        ("most.max() <= _LAST", "True"),
        ("not (texts == _BACKSLASH).any()", "True"),
        ("np.count_nonzero(texts == QUOTE) == self._quotes * len(texts)", "True"),
        ("((texts == self._text) | self._varies).all(axis=1)", "True"),
        ("(texts >= _FIRST) & ", ""),
        (" & (texts <= _LAST)", ""),
        (" & (texts != _BACKSLASH)", ""),
        (" & ((texts == QUOTE).sum(axis=1) == self._quotes)", ""),
    ],
)
def test_without_a_check_a_layout_takes_what_it_must_not(check: str, instead: str) -> None:
    """Of each check some text has need, by itself or with others."""
    wrong = wrong_claims()
    bugged = without("texts", check, instead)
    for layout, is_sound in ((texts.Layout, True), (bugged.Layout, False)):
        found = [*fitting(layout, wrong), *(fitting(layout, [one])[0] for one in wrong)]
        assert any(found) is not is_sound


# --- numbers of names ---------------------------------------------------------------------


@given(st.lists(st.text("abc0123456789-", min_size=1, max_size=64), min_size=1, max_size=20))
def test_a_mark_is_the_same_of_one_and_of_many(names: list[str]) -> None:
    """Whoever makes it, an event by itself or a column."""
    for merchant in names:
        for order in names[:3]:
            columns = [words_of(np.array([one.encode()]), len(one)) for one in (merchant, order)]
            marks = marks_of(columns[0], columns[1], (len(merchant), len(order)))
            assert marks.tolist() == [mark_of(merchant, order)]


@given(st.lists(st.text("ab_.-", min_size=1, max_size=9), unique=True, min_size=1))
def test_a_key_is_of_one_name(names: list[str]) -> None:
    """Different names have different keys, and in whatever company they are asked for."""
    keys = keys_of(names)
    assert len(set(keys.tolist())) == len(names)
    assert [keys_of([name])[0].tolist() for name in names] == keys.tolist()
