"""Every flipped byte of events, tiles and checkpoints is named; receipts hold, meddled ones not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaigns.event_types import MAPPER
from ledger.datastore import Datastore
from ledger.history import History
from ledger.transparency.auditing import LOG_CODES, LogAudit
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.follower import Follower
from ledger.transparency.guard import Damaged
from ledger.transparency.keys import SignerFiles
from ledger.transparency.notes import COSIGNATURE, Signer
from ledger.transparency.proofs import Policy, Proof, Refused, parse_proof
from ledger.transparency.receipts import NotYetProved, receipt, verify_receipt
from ledger.transparency.texts import Malformed
from tests.ledger.test_transparency_log import (
    BOOK,
    KEY,
    ORIGIN,
    append,
    as_owner,
    entry,
    flip,
    root,
)

POLICY = Policy(ORIGIN, (KEY.verifier,))


@pytest.fixture
def store(datastore: Datastore, tmp_path: Path) -> Datastore:
    """A store with heads of 300 and 700 events signed, and 5 events behind."""
    memory = SignerFiles(tmp_path / "log", BOOK)
    memory.keys.make(KEY)
    follower = Follower(datastore, BOOK, "a", memory)
    for count in (300, 400):
        append(datastore, count)
        follower.run_once()
    append(datastore, 5)
    return datastore


def audited(datastore: Datastore, remembered: Checkpoint | None = None) -> list[tuple[str, str]]:
    """What an audit finds: codes and places."""
    audit = LogAudit(datastore, BOOK, remembered)
    history = History(datastore, BOOK, MAPPER)
    for one in history.entries(0, history.head()):
        audit.feed(one)
    return [(found.code, found.where) for found in audit.finish()]


def test_a_log_that_is_right_has_no_findings(store: Datastore) -> None:
    """Nor has a book whose log nobody has begun."""
    assert audited(store, Checkpoint(ORIGIN, 700, root(700))) == []


def damage(url: str, statement: str) -> None:
    """Change what must never change."""
    with as_owner(url) as curs:
        curs.execute(statement)


def stream_of(position: int) -> UUID:
    """The stream of the event at a position."""
    return UUID(hashlib.md5(str(position).encode()).hexdigest())


FLIP = "{0} = set_byte({0}, {1}, get_byte({0}, {1}) # 1)"
SIZES = [("root_differs", "main at size 300"), ("root_differs", "main at size 700")]
CASES: list[tuple[Callable[[str], None], list[tuple[str, str]]]] = [
    (
        lambda url: flip(url, 123),
        [*SIZES, ("leaf_differs", f"main:123 stream {stream_of(123)} field state.n")],
    ),
    (
        lambda url: flip(url, 699),
        [SIZES[1], ("leaf_differs", f"main:699 stream {stream_of(699)} field state.n")],
    ),
    (
        lambda url: damage(
            url, f"UPDATE log_tile SET {FLIP.format('hashes', 64)} WHERE level = 0 AND number = 1"
        ),
        [("leaf_differs", f"main:259 stream {stream_of(259)} field leaf")],
    ),
    (
        lambda url: damage(url, f"UPDATE log_tile SET {FLIP.format('hashes', 0)} WHERE level = 1"),
        [("tile_differs", "main tile 1/0")],
    ),
    (
        lambda url: damage(
            url, f"UPDATE log_checkpoint SET {FLIP.format('root', 5)} WHERE size = 300"
        ),
        [SIZES[0], ("signature_broken", "main at size 300")],
    ),
    (
        lambda url: damage(
            url, f"UPDATE log_checkpoint SET {FLIP.format('note', 160)} WHERE size = 700"
        ),
        [("signature_broken", "main at size 700")],
    ),
    (
        lambda url: damage(url, "UPDATE log_head SET size = 800"),
        [("log_ahead", "main")],
    ),
]


@pytest.mark.parametrize(("harm", "findings"), CASES, ids=[str(n) for n in range(len(CASES))])
def test_each_damage_is_named_by_its_place(
    store: Datastore, database_url: str, harm: Callable[[str], None], findings: list[Any]
) -> None:
    """An event by its position, a tile by its name, a checkpoint by its size."""
    harm(database_url)
    found = audited(store)
    if findings == [("log_ahead", "main")]:
        assert found[-1:] == findings
    else:
        assert found == findings


def test_a_head_that_the_book_does_not_reach_is_found(store: Datastore) -> None:
    """The signer remembers more than there is."""
    assert audited(store, Checkpoint(ORIGIN, 999, bytes(32))) == [
        ("head_not_extended", "main head")
    ]


@pytest.mark.parametrize("size", [500, 700, 703, 705])
def test_a_head_is_reached_by_the_book_itself(store: Datastore, size: int) -> None:
    """Also beyond the log, whose own rows a crash may have taken back; by no other root."""
    assert audited(store, Checkpoint(ORIGIN, size, root(size))) == []
    assert audited(store, Checkpoint(ORIGIN, size, bytes(32))) == [
        ("head_not_extended", "main head")
    ]


def test_every_code_is_shown_by_some_damage() -> None:
    """No rule is without its damage."""
    shown = {code for _, findings in CASES for code, _ in findings} | {"head_not_extended"}
    assert shown == set(LOG_CODES)


# --- receipts ---------------------------------------------------------------------------------


def receipt_at(datastore: Datastore, position: int) -> Proof:
    """The receipt of an event."""
    with datastore.transaction() as curs:
        return receipt(curs, BOOK, position)


def test_a_receipt_verifies_by_itself(store: Datastore) -> None:
    """Of any event under the head that is served; of later ones there is none yet."""
    for position in (1, 256, 257, 512, 700):
        found = verify_receipt(receipt_at(store, position).encode(), POLICY)
        assert found.leaf.position == position
        assert found.leaf.state == b'{"n":%d}' % position
        assert found.checkpoint == Checkpoint(ORIGIN, 700, root(700))
    for position in (0, 701, 9_999):
        with pytest.raises(NotYetProved):
            receipt_at(store, position)


def test_no_receipt_is_given_for_an_event_that_was_changed(
    store: Datastore, database_url: str
) -> None:
    """The damage is named instead."""
    flip(database_url, 44)
    with pytest.raises(Damaged, match="another event at position 44"):
        receipt_at(store, 44)
    assert receipt_at(store, 45)


def test_a_receipt_is_for_its_own_event(store: Datastore) -> None:
    """Without its entry, with another one, under other keys or without a witness: refused."""
    proof = receipt_at(store, 44)
    with pytest.raises(Malformed):
        verify_receipt(proof._replace(extra=None).encode(), POLICY)
    for wrong in (
        proof._replace(extra=entry(45)),
        proof._replace(number=44),
        receipt_at(store, 45)._replace(extra=entry(44)),
    ):
        with pytest.raises(Refused):
            verify_receipt(wrong.encode(), POLICY)
    witness = Signer("witness.example/w1", COSIGNATURE, bytes(32)).verifier
    with pytest.raises(Refused):
        verify_receipt(proof.encode(), POLICY._replace(witnesses=(witness,), quorum=1))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_no_changed_byte_of_a_receipt_is_believed(store: Datastore, data: st.DataObject) -> None:
    """Malformed or refused, never another event."""
    encoded = receipt_at(store, 44).encode()
    at = data.draw(st.integers(0, len(encoded) - 1))
    changed = bytearray(encoded)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((Malformed, Refused)):
        verify_receipt(bytes(changed), POLICY)
    assert parse_proof(encoded).number == 43
