"""Packets: every red packet with its holder, what is left in it, and each movement of its money.

One row per packet, one row per movement. The rows say what happened, in order; whether a packet
may be spent is decided in the book, never here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from psycopg2.errors import NotNullViolation

from campaigns.event_types import EVENT_TYPES
from projections.projection import (
    Batch,
    Projection,
    RowMissing,
    View,
    join_by_hash,
    read_statements,
)
from projections.rows import change_rows, copy_structs

NAME: Final = "packets"
STATES: Final = ("held", "spent", "expired", "closed")
"""As they are shown: a packet that is held and empty is `spent`, until a refund fills it again."""

_SQL: Final = read_statements(NAME)

# What is read of the events


class Claimed(View):
    at: str
    campaign: str
    person: str
    n: int
    amount_minor: int
    currency: str
    valid_from: str
    valid_until: str


class Paid(View):
    at: str
    payment: str
    merchant: str
    shop: str | None
    order: str
    amount_minor: int
    own_minor: int
    currency: str


class Refunded(View):
    at: str
    refund: str
    payment: str
    merchant: str
    order: str
    to_packet_minor: int
    to_own_minor: int
    reclaimed_minor: int
    currency: str


class Ended(View):
    at: str
    amount_minor: int
    currency: str


class Expired(Ended):
    pass


class WalletClosed(Ended):
    pass


_OWN: Final[dict[str, type[View] | None]] = {
    "packet.claimed": Claimed,
    "packet.paid": Paid,
    "packet.refunded": Refunded,
    "packet.expired": Expired,
    "packet.wallet_closed": WalletClosed,
}

READS: Final[dict[str, type[View] | None]] = {**dict.fromkeys(EVENT_TYPES.topics), **_OWN}
"""Whatever else this program knows moves no packet's money."""

# Rows, and how a batch becomes rows


class PacketRow(msgspec.Struct, gc=False):
    book: str
    packet: str
    campaign: str
    person: str
    n: int
    state: str
    amount_minor: int
    balance_minor: int
    currency: str
    valid_from: str
    valid_until: str
    claimed_at: str
    payments: int
    position: int


class PacketChange(msgspec.Struct, gc=False):
    """What a batch does to a packet that was there: amounts and counts are added."""

    book: str
    packet: str
    state: str | None = None
    moved_minor: int = 0
    payments: int = 0
    position: int = 0


class MovementRow(msgspec.Struct, gc=False):
    book: str
    packet: str
    version: int
    kind: str
    at: str
    merchant: str | None
    shop: str | None
    order_no: str | None
    payment: str | None
    refund: str | None
    packet_minor: int
    own_minor: int
    reclaimed_minor: int
    currency: str
    position: int


class Folded(NamedTuple):
    """What a batch adds: packets as they are at its end, changes of earlier ones, movements."""

    packets: list[PacketRow]
    changes: list[PacketChange]
    movements: list[MovementRow]


def fold(book: str, batch: Batch) -> Folded:
    """Return what a batch adds. A packet that is claimed and spent in one batch is one row."""
    packets: dict[str, PacketRow] = {}
    changes: dict[str, PacketChange] = {}
    movements: list[MovementRow] = []
    for event in batch:
        movement = _movement(book, event)
        movements.append(movement)
        if isinstance(event, Claimed):
            packets[event.stream] = _packet(book, event)
            continue
        row = packets.get(event.stream)
        if row is None:
            change = changes.get(event.stream) or changes.setdefault(
                event.stream, PacketChange(book, event.stream)
            )
            change.state = _END.get(type(event), change.state)
            change.moved_minor += movement.packet_minor
            change.payments += isinstance(event, Paid)
            change.position = event.position
        else:
            row.state = _END.get(type(event), row.state)
            row.balance_minor += movement.packet_minor
            row.payments += isinstance(event, Paid)
            row.position = event.position
    return Folded(list(packets.values()), list(changes.values()), movements)


_END: Final[dict[type[View], str]] = {Expired: "expired", WalletClosed: "closed"}


def _packet(book: str, event: Claimed) -> PacketRow:
    return PacketRow(
        book,
        event.stream,
        event.campaign,
        event.person,
        event.n,
        "held",
        event.amount_minor,
        event.amount_minor,
        event.currency,
        event.valid_from,
        event.valid_until,
        event.at,
        0,
        event.position,
    )


def _movement(book: str, event: View) -> MovementRow:
    at: str = event.at  # type: ignore[attr-defined]
    currency: str = event.currency  # type: ignore[attr-defined]
    kind, minor = _kind_and_amount(event)
    row = MovementRow(
        book,
        event.stream,
        event.version,
        kind,
        at,
        None,
        None,
        None,
        None,
        None,
        minor,
        0,
        0,
        currency,
        event.position,
    )
    if isinstance(event, Paid | Refunded):
        row.merchant, row.order_no, row.payment = event.merchant, event.order, event.payment
    if isinstance(event, Paid):
        row.shop, row.own_minor = event.shop, event.own_minor
    elif isinstance(event, Refunded):
        row.refund, row.own_minor = event.refund, -event.to_own_minor
        row.reclaimed_minor = event.reclaimed_minor
    return row


def _kind_and_amount(event: View) -> tuple[str, int]:
    match event:
        case Claimed():
            return "claimed", event.amount_minor
        case Paid():
            return "paid", -event.amount_minor
        case Refunded():
            return "refunded", event.to_packet_minor
        case Expired():
            return "expired", -event.amount_minor
        case WalletClosed():
            return "wallet_closed", -event.amount_minor
        case _:
            raise AssertionError(f"{type(event).__name__} moves no packet's money")


def apply(curs: Any, book: str, batch: Batch) -> None:
    """Write a batch to the tables in use."""
    folded = fold(book, batch)
    copy_structs(curs, "packet", folded.packets)
    change_rows(curs, _SQL["change"], book, folded.changes)
    copy_structs(curs, "movement", folded.movements)


class PacketLoader:
    """Pours claims and changes as they come; movements are rows already."""

    def load(self, curs: Any, book: str, batch: Batch) -> None:
        """Pour a batch."""
        folded = fold(book, batch)
        copy_structs(curs, "claim", folded.packets)
        copy_structs(curs, "change", folded.changes)
        copy_structs(curs, "movement", folded.movements)

    def settle(self, curs: Any) -> None:
        """Make the rows."""
        join_by_hash(curs)
        try:
            curs.execute(_SQL["settle"])
        except NotNullViolation as error:
            raise RowMissing("a packet was changed and never claimed") from error


PACKETS: Final = Projection(NAME, READS, _SQL, apply, PacketLoader)

# Queries


class HeldPacket(NamedTuple):
    """A packet as its holder sees it."""

    book: str
    packet: UUID
    campaign: UUID
    person: str
    n: int
    shown: str
    amount_minor: int
    balance_minor: int
    currency: str
    valid_from: datetime
    valid_until: datetime
    claimed_at: datetime
    payments: int
    position: int


class Movement(NamedTuple):
    """A movement of a packet's money, with what was in the packet after it."""

    book: str
    packet: UUID
    version: int
    kind: str
    at: datetime
    merchant: str | None
    shop: str | None
    order_no: str | None
    payment: UUID | None
    refund: UUID | None
    packet_minor: int
    own_minor: int
    reclaimed_minor: int
    currency: str
    position: int
    balance_minor: int


class TillMovement(NamedTuple):
    """A payment or refund as its merchant sees it: with no word of what is in the packet."""

    book: str
    packet: UUID
    version: int
    kind: str
    at: datetime
    merchant: str
    shop: str | None
    order_no: str
    payment: UUID
    refund: UUID | None
    packet_minor: int
    own_minor: int
    reclaimed_minor: int
    currency: str
    position: int


class PacketCursor(NamedTuple):
    """The place after a packet in a list, newest first. None of it ever changes."""

    claimed_at: datetime
    book: str
    packet: UUID


class TillCursor(NamedTuple):
    """The place after a movement in a merchant's list, newest first."""

    at: datetime
    book: str
    packet: UUID
    version: int


class StatementCursor(NamedTuple):
    """The place after a movement in a packet's statement."""

    book: str
    version: int


class Worth(NamedTuple):
    """How many packets with money in them a person has in a currency, and how much that is."""

    currency: str
    packets: int
    minor: int


_FIELDS: Final = ", ".join(HeldPacket._fields)

_PACKET: Final = f"SELECT {_FIELDS} FROM rm_packets.packet WHERE book = %s AND packet = %s"  # noqa: S608 - names of columns

# One index range per state, each in order, then merged: never more than a page of rows per state.
_PACKETS_OF: Final = f"""
SELECT {_FIELDS} FROM unnest(%(states)s::text[]) AS wanted (wanted_state)
CROSS JOIN LATERAL (
    SELECT {_FIELDS} FROM rm_packets.packet
    WHERE person = %(person)s AND shown = wanted_state
        AND (claimed_at, book, packet) < (%(at)s, %(book)s, %(packet)s)
    ORDER BY claimed_at DESC, book DESC, packet DESC
    LIMIT %(limit)s
) AS of_state
ORDER BY claimed_at DESC, book DESC, packet DESC
LIMIT %(limit)s
"""  # noqa: S608 - names of columns

_MOVED: Final = ", ".join(TillMovement._fields)

# A packet has some hundreds of movements at most, so that their sums are made when they are read.
_STATEMENT: Final = f"""
SELECT * FROM (
    SELECT {_MOVED},
        sum(packet_minor) OVER (ORDER BY version)::bigint AS balance_minor
    FROM rm_packets.movement WHERE packet = %s AND book = %s
) AS moved
WHERE version > %s ORDER BY version LIMIT %s
"""  # noqa: S608 - names of columns

_OF_MERCHANT: Final = f"""
SELECT {_MOVED} FROM rm_packets.movement
WHERE merchant = %s AND (at, book, packet, version) < (%s, %s, %s, %s)
ORDER BY at DESC, book DESC, packet DESC, version DESC
LIMIT %s
"""  # noqa: S608 - names of columns

_AT_MERCHANT: Final = f"""
SELECT {_MOVED} FROM rm_packets.movement
WHERE packet = %s AND book = %s AND merchant = %s AND version > %s ORDER BY version LIMIT %s
"""  # noqa: S608 - names of columns

_WORTH: Final = """
SELECT currency, count(*), sum(balance_minor)::bigint FROM rm_packets.packet
WHERE person = %s AND shown = 'held'
GROUP BY currency ORDER BY currency
"""

_DUE: Final = """
SELECT packet FROM rm_packets.packet
WHERE book = %s AND state = 'held' AND balance_minor > 0 AND valid_until <= %s
ORDER BY valid_until
LIMIT %s
"""


def packet(curs: Any, book: str, packet_uuid: UUID) -> HeldPacket | None:
    """Return one packet, or None."""
    curs.execute(_PACKET, (book, packet_uuid))
    row = curs.fetchone()
    return HeldPacket._make(row) if row else None


def packets_of(
    curs: Any,
    person: str,
    *,
    states: Sequence[str] = STATES,
    after: PacketCursor | None = None,
    limit: int,
) -> list[HeldPacket]:
    """Return a person's packets in the given states, newest first, after a cursor."""
    at, book, last = after or ("infinity", "", UUID(int=0))
    curs.execute(
        _PACKETS_OF,
        {
            "states": list(states),
            "person": person,
            "at": at,
            "book": book,
            "packet": last,
            "limit": limit,
        },
    )
    return [HeldPacket._make(row) for row in curs.fetchall()]


def cursor_of(held: HeldPacket) -> PacketCursor:
    """Return the cursor for what comes after a packet in its holder's list."""
    return PacketCursor(held.claimed_at, held.book, held.packet)


def worth_of(curs: Any, person: str) -> list[Worth]:
    """Return what is in a person's packets that have not ended, per currency."""
    curs.execute(_WORTH, (person,))
    return [Worth._make(row) for row in curs.fetchall()]


def statement(
    curs: Any, book: str, packet_uuid: UUID, *, after: int = 0, limit: int
) -> list[Movement]:
    """Return a packet's movements in order, after a version."""
    curs.execute(_STATEMENT, (packet_uuid, book, after, limit))
    return [Movement._make(row) for row in curs.fetchall()]


def statement_at(
    curs: Any, book: str, packet_uuid: UUID, merchant: str, *, after: int = 0, limit: int
) -> list[TillMovement]:
    """Return what a packet paid one merchant and got back there, in order, after a version."""
    curs.execute(_AT_MERCHANT, (packet_uuid, book, merchant, after, limit))
    return [TillMovement._make(row) for row in curs.fetchall()]


def statement_cursor_of(movement: Movement | TillMovement) -> StatementCursor:
    """Return the cursor for what comes after a movement in its packet's statement."""
    return StatementCursor(movement.book, movement.version)


def payments_at(
    curs: Any, merchant: str, *, after: TillCursor | None = None, limit: int
) -> list[TillMovement]:
    """Return payments at a merchant and their refunds, newest first, after a cursor."""
    place = after or ("infinity", "", UUID(int=0), 0)
    curs.execute(_OF_MERCHANT, (merchant, *place, limit))
    return [TillMovement._make(row) for row in curs.fetchall()]


def till_cursor_of(movement: TillMovement) -> TillCursor:
    """Return the cursor for what comes after a movement in its merchant's list."""
    return TillCursor(movement.at, movement.book, movement.packet, movement.version)


def due_for_expiry(curs: Any, book: str, now: datetime, limit: int) -> list[UUID]:
    """Return packets with money in them whose validity has ended, the oldest first."""
    curs.execute(_DUE, (book, now.astimezone(UTC), limit))
    return [due for (due,) in curs.fetchall()]
