"""On the disk or in memory, an audit finds the same; and what it holds in memory is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns import export_verification, export_window
from campaigns.event_types import MAPPER
from campaigns.export_synthetic import Synthetic
from campaigns.judging import KeptParts, kept_of
from campaigns.verification import Audit
from ledger.datastore import Datastore
from ledger.exporting import spilling
from ledger.exporting.spilling import Table
from ledger.history import Entry, History
from tests.campaigns.test_corrections import BILL, Corrections
from tests.conftest import Databases
from tests.exports.made import PER_FILE, Made, exported, verified
from tests.support.desk import person


@given(
    batches=st.lists(
        st.dictionaries(st.integers(1, 400), st.tuples(st.integers(-9, 2**62), st.integers(0, 9))),
        max_size=12,
    ),
    recent=st.sampled_from([2, 32, spilling.RECENT]),
)
def test_a_table_is_a_dictionary(batches: list[dict[int, tuple[int, int]]], recent: int) -> None:
    """However often it has grown, wherever its keys are, and though they want the same slots."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spilling, "RECENT", recent)
        table, model = Table(slots=4), dict[int, tuple[int, int]]()
        for batch in batches:
            keys = [key.to_bytes(16) for key in batch]
            ones, twos = zip(*batch.values(), strict=True) if batch else ((), ())
            table.store(keys, ones, twos)
            model |= batch
    keys = [key.to_bytes(16) for key in range(1, 401)]
    loaded = list(zip(*table.load(keys), strict=True))
    assert loaded == [model.get(key, (0, 0)) for key in range(1, 401)]
    assert table.total() == sum(one for one, _ in model.values())
    assert table.count == len(model)
    table.close()


def changed(entries: Sequence[Entry], kind: str) -> list[Entry]:
    """A book with a wrong event in its middle."""
    wrong = list(entries)
    last = next(one for one in reversed(wrong) if one.topic == "coupon.redeemed")
    place = last.position
    match kind:
        case "twice":
            wrong.insert(place, last._replace(position=place + 1, version=last.version + 1))
        case "gone":
            del wrong[next(n for n, one in enumerate(wrong) if one.stream == last.stream)]
        case "amount":
            state = last.state.replace(b'"discount_minor":500', b'"discount_minor":400')
            wrong[place - 1] = last._replace(state=state)
        case _:
            pass
    return [one._replace(position=n) for n, one in enumerate(wrong, 1)]


@pytest.mark.parametrize("kind", ["sound", "twice", "gone", "amount"])
def test_the_findings_are_the_same(
    kind: str, made: Made, tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sound book, of one with too much, with too little and with something else."""
    book = Made(changed(made.all, kind))
    exported(book, tmp_path / "book")
    in_memory = verified(tmp_path / "book")
    monkeypatch.setattr(export_verification, "IN_MEMORY", 0)
    monkeypatch.setattr(export_window, "ACCOUNTS_MAX", 5)
    assert verified(tmp_path / "book") == in_memory
    assert bool(in_memory[1]) == (kind != "sound")


def test_a_persons_second_coupon_is_known_beyond_the_window() -> None:
    """Whether there is a first one is asked of the table."""
    audit = Audit("main")
    window = export_window.Window(audit)
    window.begin([b"a" * 16])
    audit.rules.coupons[int.from_bytes(b"a" * 16)] = 8
    audit.book.versions[int.from_bytes(b"a" * 16)] = 1
    window.end()
    assert not dict.__contains__(audit.rules.coupons, int.from_bytes(b"a" * 16))
    assert int.from_bytes(b"a" * 16) in audit.rules.coupons
    assert int.from_bytes(b"b" * 16) not in audit.rules.coupons
    window.finish()


@given(
    redeemed=st.booleans(),
    at=st.datetimes(timezones=st.just(UTC)),
    version=st.integers(1, 2**53),
    mark=st.integers(0, 2**60 - 1),
    ordinal=st.integers(1, 31),
)
def test_what_is_kept_of_a_coupon_comes_back(
    redeemed: bool, at: datetime, version: int, mark: int, ordinal: int
) -> None:
    """Whole, whatever its redemption was and whenever; and a refund leaves nothing of it."""
    audit = Audit("main")
    window = export_window.Window(audit)
    stream, number = b"c" * 16, int.from_bytes(b"c" * 16)
    micros = (at - datetime.min.replace(tzinfo=UTC)) // timedelta(microseconds=1)
    parts = KeptParts(ordinal << 3 | 1, mark, micros, version)
    for kept in (kept_of(parts), ordinal << 3, kept_of(parts) if redeemed else ordinal << 3 | 2):
        window.begin([stream])
        audit.rules.coupons[number] = kept
        audit.book.versions[number] = version
        window.end()
        assert audit.rules.coupons.look_up(number) == kept
        window.begin([stream])
        assert dict.get(audit.rules.coupons, number) == kept
        assert audit.book.versions[number] == version
        window.end()
    window.finish()


@pytest.fixture(scope="module")
def corrected(databases: Databases) -> list[Entry]:
    """A redemption and a payment, long before both are corrected."""
    with databases.fresh() as url:
        datastore = Datastore(url)
        desk = Corrections(datastore)
        coupon, packet = desk.both()
        campaign = desk.opened(2 * PER_FILE, key="between")
        for n in range(2 * PER_FILE):
            assert desk.claim(campaign, person(n)).code == "claimed"
        for holding, bill in ((coupon, None), (packet, BILL)):
            desk.propose(holding, bill)
            assert desk.approve(holding, bill).code == "corrected"
        desk.close()
        entries = list(History(datastore, "main", MAPPER).entries())
        datastore.close()
    return entries


@pytest.mark.parametrize("bent", ["", "holding_version", "recorded_at", "merchant", "person"])
def test_a_correction_is_judged_by_a_coupon_of_another_file(
    bent: str,
    corrected: list[Entry],
    tmp_path: Path,
    small_files: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its redemption is looked up on the disk, and what differs from it is found there too."""
    entries = list(corrected)
    place, first = next(
        (n, one) for n, one in enumerate(entries) if one.topic == "correction.proposed"
    )
    assert place > PER_FILE * 2
    assert first.stream not in {one.stream for one in entries[PER_FILE:place]}
    wrong = {
        "holding_version": 7,
        "recorded_at": "2026-01-01T00:00:00Z",
        "merchant": "m9",
        "person": "u9",
    }
    if bent:
        state = msgspec.json.decode(first.state)
        assert state[bent] != wrong[bent]
        state[bent] = wrong[bent]
        entries[place] = first._replace(state=msgspec.json.encode(state))
    exported(Made(entries), tmp_path / "book")
    in_memory = verified(tmp_path / "book")
    monkeypatch.setattr(export_verification, "IN_MEMORY", 0)
    assert verified(tmp_path / "book") == in_memory
    assert bool(in_memory[1]) == bool(bent)


def test_what_is_held_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each file nothing of its streams is in memory, and no more accounts than agreed."""
    monkeypatch.setattr(export_window, "ACCOUNTS_MAX", 100)
    audit = Audit("main")
    window = export_window.Window(audit)
    entries = list(Synthetic(6_000, claims=5_000, block=50).entries(0, 6_000))
    for start in range(0, len(entries), 200):
        group = entries[start : start + 200]
        streams = [one.stream.bytes for one in group]
        window.begin(streams)
        window.load_accounts(streams, [one.state for one in group])
        for one in group:
            audit.feed(one)
        window.end()
        assert audit.take_findings() == []
        assert len(audit.book.versions) == len(audit.rules.coupons) == 0
        assert len(audit.book.balances["CNY"]) <= 100 + 1_100  # merchants are never moved
    window.finish()
    audit.finish()
    assert audit.take_findings() == []
