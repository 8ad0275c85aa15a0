"""Receipts: one event, the proof that it is in its book's log, and the head that others cosigned.

A receipt is a C2SP tlog-proof whose `extra` is the entry itself, so that it needs nothing beside
it but the keys of those who are trusted. It verifies without network, database or this program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ledger.merkle import inclusion_proof, leaf_hash
from ledger.transparency import store
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.guard import Damaged
from ledger.transparency.leaves import Leaf, copy_entries, decode_entry
from ledger.transparency.notes import Signature
from ledger.transparency.proofs import (
    Policy,
    Proof,
    Refused,
    believed,
    holds,
    parse_proof,
    verify_proof,
)
from ledger.transparency.texts import Malformed
from ledger.transparency.tiles import reader_of


class NotYetProved(Exception):
    """The head that is served does not reach a position yet; it will."""

    def __init__(self, book: str, position: int, size: int) -> None:
        super().__init__(f"the head of book {book} that is served has {size} events")
        self.position = position
        self.size = size


class Verified(NamedTuple):
    """What a receipt proves: the event, the head that it is under, and who cosigned that."""

    leaf: Leaf
    checkpoint: Checkpoint
    cosignatures: tuple[Signature, ...]


def receipt(curs: Any, book: str, position: int) -> Proof:
    """Return the receipt of the event at a position; raise `NotYetProved`.

    It is looked at before it is given away: an event that is not the one in the log raises
    `Damaged`.
    """
    note = store.published(curs, book)
    checkpoint = None if note is None else Checkpoint.parse(note.text)
    if note is None or checkpoint is None or not 0 < position <= checkpoint.size:
        raise NotYetProved(book, position, 0 if checkpoint is None else checkpoint.size)
    rows = copy_entries(curs, book, position - 1, position)
    if not rows:
        raise Damaged(book, f"has no position {position}")
    entry = rows[0].entry
    tiles = reader_of(store.tile_reader(curs, book))
    hashes = tuple(inclusion_proof(position - 1, checkpoint.size, tiles))
    if not holds(position - 1, checkpoint, leaf_hash(entry), hashes):
        raise Damaged(book, f"has another event at position {position} than its log")
    return Proof(position - 1, hashes, note, entry)


def verify_receipt(data: bytes, policy: Policy) -> Verified:
    """Return what a receipt proves to somebody; raise `Malformed` or `Refused`."""
    proof = parse_proof(data)
    if proof.extra is None:
        raise Malformed("a receipt carries its entry")
    checkpoint = verify_proof(proof, leaf_hash(proof.extra), policy)
    leaf = decode_entry(proof.extra)
    if leaf.position != proof.number + 1 or not policy.origin.endswith(f"/{leaf.book}"):
        raise Refused("the entry is one of another place")
    _, cosignatures = believed(proof.checkpoint, policy)
    return Verified(leaf, checkpoint, cosignatures)
