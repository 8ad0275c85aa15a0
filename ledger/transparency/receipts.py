"""Receipts: one event, the proof that it is in its book's log, and the head that others cosigned.

A receipt is a C2SP tlog-proof whose `extra` is the entry itself, so that it needs nothing beside
it but the keys of those who are trusted. It verifies without network, database or this program.

Whoever may not see all of an event gets an attested receipt: `extra` is the operator's signed
statement of what the leaf with this hash says, without the fields that are withheld. It proves that
this very event is in the log; that its other fields are these, it proves by the operator's word,
which anybody who may see the entry can refute.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from ledger.merkle import inclusion_proof, leaf_hash
from ledger.transparency import store
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.copying import copy_entries
from ledger.transparency.guard import Damaged
from ledger.transparency.leaves import WHOLE, Leaf, decode_entry
from ledger.transparency.notes import BadSignature, Signature, Signer, Untrusted
from ledger.transparency.proofs import (
    Policy,
    Proof,
    Refused,
    holds,
    parse_proof,
    verify_proof,
)
from ledger.transparency.statements import (
    ATTESTED,
    Statement,
    signed_statement,
    verify_statement,
)
from ledger.transparency.texts import Malformed, hash_from_base64, parse_number, to_base64
from ledger.transparency.tiles import reader_of

_MARK: Final = b"tidebook-"
"""How a statement begins; an entry begins with its form, 1 or 2."""
_LINES: Final = ("book", "position", "leaf", "stream", "version", "topic", "withheld", "state")


class NotYetProved(Exception):
    """The head that is served does not reach a position yet; it will."""

    def __init__(self, book: str, position: int, size: int) -> None:
        super().__init__(f"the head of book {book} that is served has {size} events")
        self.position = position
        self.size = size


class Verified(NamedTuple):
    """What a receipt proves: the event, the head that it is under, and who cosigned that.

    `withheld` names what the operator has left out of the event's state, of an attested receipt.
    """

    leaf: Leaf
    checkpoint: Checkpoint
    cosignatures: tuple[Signature, ...]
    withheld: tuple[str, ...] = ()


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


def attested(proof: Proof, withheld: Collection[str], signer: Signer) -> Proof:
    """Return a receipt that says of an event what it says, without some fields of its state."""
    assert proof.extra is not None, "a receipt carries its entry"
    leaf = decode_entry(proof.extra)
    state = msgspec.json.decode(leaf.state) if leaf.form == WHOLE else {}
    shown = {name: value for name, value in state.items() if name not in withheld}
    lines = {
        "book": leaf.book,
        "position": str(leaf.position),
        "leaf": to_base64(leaf_hash(proof.extra)),
        "stream": leaf.stream.hex,
        "version": str(leaf.version),
        "topic": leaf.topic,
        "withheld": ",".join(sorted(withheld)),
        "state": msgspec.json.encode(shown).decode(),
    }
    note = signed_statement(Statement(ATTESTED, lines), signer)
    return proof._replace(extra=note.encode())


def verify_receipt(data: bytes, policy: Policy) -> Verified:
    """Return what a receipt proves to somebody; raise `Malformed` or `Refused`."""
    proof = parse_proof(data)
    if proof.extra is None:
        raise Malformed("a receipt carries its entry")
    withheld: tuple[str, ...] = ()
    if proof.extra.startswith(_MARK):
        leaf, hashed, withheld = _attested(proof.extra, policy)
    else:
        leaf, hashed = decode_entry(proof.extra), leaf_hash(proof.extra)
    checkpoint, cosignatures = verify_proof(proof, hashed, policy)
    if leaf.position != proof.number + 1 or not policy.origin.endswith(f"/{leaf.book}"):
        raise Refused("the entry is one of another place")
    return Verified(leaf, checkpoint, cosignatures, withheld)


def _attested(extra: bytes, policy: Policy) -> tuple[Leaf, bytes, tuple[str, ...]]:
    """Return what a statement says of a leaf, the leaf's hash, and what it withholds."""
    try:
        told = verify_statement(extra, policy.statements)
    except (Untrusted, BadSignature) as error:
        raise Refused(f"the statement: {error}") from error
    lines = told.lines
    if told.title != ATTESTED or tuple(lines) != _LINES:
        raise Malformed("not what is attested of an event")
    try:
        stream = UUID(hex=lines["stream"])
    except ValueError:
        raise Malformed("a stream is a UUID") from None
    place, version = parse_number(lines["position"]), parse_number(lines["version"])
    state = lines["state"].encode()
    leaf = Leaf(WHOLE, lines["book"], place, stream, version, lines["topic"], state)
    return leaf, hash_from_base64(lines["leaf"]), tuple(lines["withheld"].split(","))
