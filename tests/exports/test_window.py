"""On the disk or in memory, an audit finds the same; and what it holds in memory is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns import export_verification, export_window
from campaigns.export_synthetic import Synthetic
from campaigns.verification import Audit
from ledger.exporting.spilling import Table
from ledger.history import Entry
from tests.exports.made import Made, exported, verified


@given(
    batches=st.lists(
        st.dictionaries(st.integers(1, 400), st.tuples(st.integers(-9, 2**62), st.integers(0, 9))),
        max_size=12,
    )
)
def test_a_table_is_a_dictionary(batches: list[dict[int, tuple[int, int]]]) -> None:
    """However often it has grown, and though keys want the same slots."""
    table, model = Table(slots=4), dict[int, tuple[int, int]]()
    for batch in batches:
        keys = [key.to_bytes(16) for key in batch]
        table.store(keys, [one for one, _ in batch.values()], [two for _, two in batch.values()])
        model |= batch
    keys = [key.to_bytes(16) for key in range(1, 401)]
    ones, twos = table.load(keys)
    assert list(zip(ones, twos, strict=True)) == [model.get(key, (0, 0)) for key in range(1, 401)]
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
