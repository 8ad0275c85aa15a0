"""Receipts on request: of an event that the caller may have, or of a refusal that was kept.

Everything is read from the store by key and signed when it is asked for, never when a request is
decided. What a caller may not have is not there, whether it exists or not, before anything else is
said of it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

from api.bodies import canonical
from api.callers import Caller
from api.schemas import EmptyBody
from campaigns.disclosure import Viewer, withheld
from campaigns.event_types import MAPPER
from campaigns.verification import SUCCESSES
from ledger.appending import request_id
from ledger.events import Event, scope_of
from ledger.history import Positioned, streams_by_key
from ledger.merkle import leaf_hash
from ledger.transparency import store
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.copying import copy_entries
from ledger.transparency.notes import Signer
from ledger.transparency.receipts import NotYetProved, attested, receipt
from ledger.transparency.statements import (
    RefusedRequest,
    refusal,
    signed_statement,
    statement_signer,
)

EVENTS_MAX: Final = 8
"""More events than one decision makes."""

_EVENTS: Final = """
SELECT position, originator_id, originator_version, topic, state FROM event
WHERE book = %s AND position > %s AND position <= %s ORDER BY position
"""
_RECORD: Final = "SELECT position FROM event WHERE book = %s AND request = %s"
_KEPT: Final = """
SELECT position, code, body, fingerprint FROM idempotency
WHERE book = %s AND scope = %s AND key = %s
"""


class OtherCampaign(Exception):
    """The request of a refusal was not a claim of the campaign that was named."""


class Given(NamedTuple):
    """A receipt's file: a proof of an event, or a signed statement of a refusal."""

    name: str
    data: bytes
    leaf: bytes | None = None


class Asker(NamedTuple):
    """Who asks for receipts of a book, and the seed of the key that statements are signed with."""

    caller: Caller
    book: str
    seed: bytes

    @property
    def viewer(self) -> Viewer:
        """The caller as one who wants to see an event."""
        caller = self.caller
        return Viewer(caller.role, caller.person, caller.merchant, caller.scope)


def of_position(cursor: Any, asker: Asker, position: int) -> Given | None:
    """Return the receipt of the event at a position; raise `NotYetProved`."""
    found = _events(cursor, asker.book, position - 1, position)
    return _given(cursor, asker, found[0]) if found else None


def of_stream(cursor: Any, asker: Asker, stream: UUID, version: int) -> Given | None:
    """Return the receipt of an event of a stream by its number there; raise `NotYetProved`."""
    stored = streams_by_key(cursor, asker.book, MAPPER, [stream]).get(stream, [])
    for one in stored:
        if one.event.originator_version == version:
            return _given(cursor, asker, one)
    return None


def of_key(cursor: Any, asker: Asker, key: str, campaign: str | None = None) -> Given | None:
    """Return the receipt of what was answered under an idempotency key of the caller's.

    Of a decision it is that of the first of its events that the caller may have; of a refusal that
    was kept it is a signed statement, which names the campaign if `campaign` is what was claimed
    from. Raises `NotYetProved` and `OtherCampaign`.
    """
    scope = asker.caller.scope
    cursor.execute(_RECORD, (asker.book, UUID(bytes=request_id(scope, key))))
    record = cursor.fetchone()
    if record is not None:
        return of_position(cursor, asker, record[0])
    cursor.execute(_KEPT, (asker.book, scope, key))
    kept = cursor.fetchone()
    if kept is None:
        return None
    position, code, body, fingerprint = kept
    if code not in SUCCESSES:
        told = RefusedRequest(
            asker.book, scope, key, bytes(fingerprint), code, bytes(body), position
        )
        return _refusal(cursor, asker, told, campaign)
    for one in _events(cursor, asker.book, max(0, position - EVENTS_MAX), position):
        if _caused(one.event, scope, key) and withheld(one.event, asker.viewer) is not None:
            return _given(cursor, asker, one)
    return None


def statement_key(cursor: Any, book: str, seed: bytes) -> Signer | None:
    """Return the key that a book's statements are signed with; None before its log has begun."""
    note = store.published(cursor, book)
    if note is None:
        return None
    return statement_signer(Checkpoint.parse(note.text).origin, seed)


def instant_text(at: datetime) -> str:
    """Return an instant as statements write it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _given(cursor: Any, asker: Asker, one: Positioned) -> Given | None:
    hidden = withheld(one.event, asker.viewer)
    if hidden is None:
        return None
    proof = receipt(cursor, asker.book, one.position)
    assert proof.extra is not None, "a receipt carries its entry"
    leaf = leaf_hash(proof.extra)
    if hidden:
        origin = Checkpoint.parse(proof.checkpoint.text).origin
        proof = attested(proof, hidden, statement_signer(origin, asker.seed))
    return Given(f"{asker.book}-{one.position}.tlog-proof", proof.encode(), leaf)


def _refusal(cursor: Any, asker: Asker, told: RefusedRequest, campaign: str | None) -> Given:
    signer = statement_key(cursor, asker.book, asker.seed)
    if signer is None:
        raise NotYetProved(asker.book, told.position, 0)
    if campaign is not None:
        call = canonical(f"/v1/campaigns/{campaign}/claims", EmptyBody())
        if sha256(call).digest() != told.fingerprint:
            raise OtherCampaign(campaign)
        told = told._replace(campaign=campaign)
    place = (asker.book, told.position - 1, told.position)
    for before in _events(cursor, *place):
        (row,) = copy_entries(cursor, *place)
        told = told._replace(after=instant_text(before.event.at), leaf=leaf_hash(row.entry))
    note = signed_statement(refusal(told), signer)
    return Given(f"{asker.book}-{told.code}.note", note.encode())


def _events(cursor: Any, book: str, after: int, until: int) -> list[Positioned]:
    """Return the events behind a position, up to another one, as they are decoded."""
    cursor.execute(_EVENTS, (book, after, until))
    return [
        Positioned(position, MAPPER.decode(topic, bytes(state), stream, version))
        for position, stream, version, topic, state in cursor.fetchall()
    ]


def _caused(event: Event, scope: str, key: str) -> bool:
    """Whether an event was written by the request with a caller's key."""
    return event.why.key == key and scope_of(event) == scope
