"""Wallets: every coupon with its holder, its worth, its end, and what became of it.

One row per coupon. Its rows say what happened, in order; whether a coupon may be used is decided
in the book, never here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
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
from projections.rows import change_rows, copy_rows, copy_structs

NAME: Final = "wallets"
STATES: Final = ("held", "redeemed", "expired", "voided", "reclaimed")
ENTRY_STATES: Final = ("entered", "not_drawn")
"""Of entries in a lottery. What is stored is `entered`; the draw's threshold tells the rest."""

_SQL: Final = read_statements(NAME)

# What is read of the events


class Taken(View):
    at: str
    campaign: str
    person: str
    n: int
    face_minor: int
    threshold_minor: int
    currency: str
    valid_from: str
    valid_until: str


class Entered(Taken):
    pass


class Claimed(Taken):
    pass


class Redeemed(View):
    at: str
    merchant: str
    order: str


class Refunded(View):
    pass


class Reclaimed(View):
    pass


class Expired(View):
    pass


class Voided(View):
    pass


class Drawn(View):
    seed: str
    threshold: str | None


class Closed(View):
    pass


_OWN: Final[dict[str, type[View] | None]] = {
    "coupon.entered": Entered,
    "coupon.claimed": Claimed,
    "coupon.redeemed": Redeemed,
    "coupon.refunded": Refunded,
    "coupon.reclaimed": Reclaimed,
    "coupon.expired": Expired,
    "coupon.voided": Voided,
    "campaign.drawn": Drawn,
    "campaign.closed": Closed,
}

READS: Final[dict[str, type[View] | None]] = {**dict.fromkeys(EVENT_TYPES.topics), **_OWN}
"""Whatever else this program knows changes no coupon."""

_BECOMES: Final[dict[type[View], str]] = {
    Claimed: "held",
    Refunded: "held",
    Reclaimed: "reclaimed",
    Expired: "expired",
    Voided: "voided",
}

# Rows, and how a batch becomes rows


class CouponRow(msgspec.Struct, gc=False):
    book: str
    coupon: str
    campaign: str
    person: str
    n: int
    state: str
    face_minor: int
    threshold_minor: int
    currency: str
    valid_from: str
    valid_until: str
    claimed_at: str
    merchant: str | None
    order_no: str | None
    redeemed_at: str | None
    position: int


class CouponChange(msgspec.Struct, gc=False):
    book: str
    coupon: str
    state: str
    merchant: str | None
    order_no: str | None
    redeemed_at: str | None
    position: int


class DrawRow(msgspec.Struct, gc=False):
    campaign: str
    seed: str | None
    threshold: str | None


def draws(batch: Batch) -> list[DrawRow]:
    """Return the lotteries that a batch decides: drawn, or closed and never drawn."""
    decided: dict[str, DrawRow] = {}
    for event in batch:
        if isinstance(event, Drawn):
            decided[event.stream] = DrawRow(event.stream, event.seed, event.threshold)
        elif isinstance(event, Closed):
            decided.setdefault(event.stream, DrawRow(event.stream, None, None))
    return list(decided.values())


def _change(book: str, event: View) -> CouponChange:
    if isinstance(event, Redeemed):
        return CouponChange(
            book,
            event.stream,
            "redeemed",
            event.merchant,
            event.order,
            event.at,
            event.position,
        )
    # A coupon that came back has no redemption any more.
    return CouponChange(book, event.stream, _BECOMES[type(event)], None, None, None, event.position)


def fold(book: str, batch: Batch) -> tuple[list[CouponRow], list[CouponChange]]:
    """Return the coupons that a batch claims and the last changes of those that were there.

    A coupon that is claimed and changed in the same batch is one row, as it is at the end.
    """
    claimed: dict[str, CouponRow] = {}
    changed: dict[str, CouponChange] = {}
    for event in batch:
        if isinstance(event, Drawn | Closed):
            continue
        if isinstance(event, Taken) and event.version == 1:  # later, an entry that becomes held
            claimed[event.stream] = CouponRow(
                book,
                event.stream,
                event.campaign,
                event.person,
                event.n,
                "held" if type(event) is Claimed else "entered",
                event.face_minor,
                event.threshold_minor,
                event.currency,
                event.valid_from,
                event.valid_until,
                event.at,
                None,
                None,
                None,
                event.position,
            )
            continue
        change = _change(book, event)
        row = claimed.get(event.stream)
        if row is None:
            changed[event.stream] = change
        else:
            row.state = change.state
            row.merchant = change.merchant
            row.order_no = change.order_no
            row.redeemed_at = change.redeemed_at
            row.position = change.position
    return list(claimed.values()), list(changed.values())


def apply(curs: Any, book: str, batch: Batch) -> None:
    """Write a batch to the tables in use."""
    claimed, changed = fold(book, batch)
    copy_structs(curs, "coupon", claimed)
    change_rows(curs, _SQL["change"], book, changed)
    change_rows(curs, _SQL["draw"], book, draws(batch), every=False)


class WalletLoader:
    """Pours claims and changes as they come; terms, which thousands of claims share, once."""

    def __init__(self) -> None:
        self._terms: dict[tuple[Any, ...], int] = {}
        self._written = 0

    def load(self, curs: Any, book: str, batch: Batch) -> None:
        """Pour a batch."""
        claims: list[tuple[Any, ...]] = []
        changes: list[CouponChange] = []
        known = self._terms
        for event in batch:
            if isinstance(event, Drawn | Closed):
                continue
            if isinstance(event, Taken) and event.version == 1:
                state = "held" if type(event) is Claimed else "entered"
                terms = (
                    book,
                    event.campaign,
                    event.face_minor,
                    event.threshold_minor,
                    event.currency,
                    event.valid_from,
                    event.valid_until,
                )
                number = known.get(terms)
                if number is None:
                    number = known[terms] = len(known)
                claims.append(
                    (number, event.stream, event.person, event.n, state, event.at, event.position)
                )
            else:
                changes.append(_change(book, event))
        copy_rows(curs, "claim", _CLAIM_COLUMNS, claims)
        copy_structs(curs, "change", changes)
        change_rows(curs, _SQL["draw"], book, draws(batch), every=False)
        self._write_terms(curs)

    def settle(self, curs: Any) -> None:
        """Make the rows."""
        join_by_hash(curs)
        try:
            curs.execute(_SQL["settle"])
        except NotNullViolation as error:
            raise RowMissing("a coupon was changed and never claimed") from error

    def _write_terms(self, curs: Any) -> None:
        fresh = list(islice(self._terms.items(), self._written, None))
        copy_rows(curs, "terms", _TERMS_COLUMNS, ((number, *terms) for terms, number in fresh))
        self._written += len(fresh)


_TERMS_COLUMNS: Final = (
    "terms",
    "book",
    "campaign",
    "face_minor",
    "threshold_minor",
    "currency",
    "valid_from",
    "valid_until",
)
_CLAIM_COLUMNS: Final = ("terms", "coupon", "person", "n", "state", "claimed_at", "position")

WALLETS: Final = Projection(NAME, READS, _SQL, apply, WalletLoader)

# Queries


class HeldCoupon(NamedTuple):
    """A coupon as its holder sees it; the last redemption is there while it is redeemed."""

    book: str
    coupon: UUID
    campaign: UUID
    person: str
    n: int
    state: str
    face_minor: int
    threshold_minor: int
    currency: str
    valid_from: datetime
    valid_until: datetime
    claimed_at: datetime
    merchant: str | None
    order_no: str | None
    redeemed_at: datetime | None
    position: int


class WalletCursor(NamedTuple):
    """The place after a coupon in a wallet, newest first. None of it ever changes."""

    claimed_at: datetime
    book: str
    coupon: UUID


class Worth(NamedTuple):
    """How many held coupons there are in a currency and what they are worth together."""

    currency: str
    coupons: int
    minor: int


_FIELDS: Final = ", ".join(HeldCoupon._fields)

# Losing a draw writes nothing: whoever entered and ranks behind the last winner was not drawn.
_STATE: Final = """
CASE WHEN state = 'entered' AND EXISTS (
    SELECT FROM rm_wallets.draw AS d WHERE d.book = coupon.book AND d.campaign = coupon.campaign
        AND (d.threshold IS NULL OR sha256(d.seed || uuid_send(coupon.coupon)) > d.threshold)
) THEN 'not_drawn' ELSE state END"""

_SHOWN: Final = ", ".join(
    f"{_STATE} AS state" if field == "state" else field for field in HeldCoupon._fields
)

_COUPON: Final = f"SELECT {_SHOWN} FROM rm_wallets.coupon WHERE book = %s AND coupon = %s"  # noqa: S608 - names of columns

# One index range per state, each in order, then merged: never more than a page of rows per state.
_COUPONS_OF: Final = f"""
SELECT {_FIELDS} FROM unnest(%(states)s::text[]) AS wanted (wanted_state)
CROSS JOIN LATERAL (
    SELECT {_SHOWN} FROM rm_wallets.coupon
    WHERE person = %(person)s
        AND state = CASE wanted_state WHEN 'not_drawn' THEN 'entered' ELSE wanted_state END
        AND {_STATE} = wanted_state
        AND (claimed_at, book, coupon) < (%(at)s, %(book)s, %(coupon)s)
    ORDER BY claimed_at DESC, book DESC, coupon DESC
    LIMIT %(limit)s
) AS of_state
ORDER BY claimed_at DESC, book DESC, coupon DESC
LIMIT %(limit)s
"""  # noqa: S608 - names of columns

_WORTH: Final = """
SELECT currency, count(*), sum(face_minor)::bigint FROM rm_wallets.coupon
WHERE person = %s AND state = 'held'
GROUP BY currency ORDER BY currency
"""

_DUE: Final = """
SELECT coupon, campaign FROM rm_wallets.coupon
WHERE book = %s AND state = 'held' AND valid_until <= %s
ORDER BY valid_until
LIMIT %s
"""


def coupon(curs: Any, book: str, coupon_uuid: UUID) -> HeldCoupon | None:
    """Return one coupon, or None."""
    curs.execute(_COUPON, (book, coupon_uuid))
    row = curs.fetchone()
    return HeldCoupon._make(row) if row else None


def coupons_of(
    curs: Any,
    person: str,
    *,
    state: str | None = None,
    after: WalletCursor | None = None,
    limit: int,
) -> list[HeldCoupon]:
    """Return a person's coupons, newest first, after a cursor; of one state or of all."""
    at, book, last = after or ("infinity", "", UUID(int=0))
    curs.execute(
        _COUPONS_OF,
        {
            "states": [state] if state is not None else [*STATES, *ENTRY_STATES],
            "person": person,
            "at": at,
            "book": book,
            "coupon": last,
            "limit": limit,
        },
    )
    return [HeldCoupon._make(row) for row in curs.fetchall()]


def cursor_of(held: HeldCoupon) -> WalletCursor:
    """Return the cursor for what comes after a coupon in its wallet."""
    return WalletCursor(held.claimed_at, held.book, held.coupon)


def worth_of(curs: Any, person: str) -> list[Worth]:
    """Return what a person's held coupons are worth, per currency."""
    curs.execute(_WORTH, (person,))
    return [Worth._make(row) for row in curs.fetchall()]


def due_for_expiry(curs: Any, book: str, now: datetime, limit: int) -> list[tuple[UUID, UUID]]:
    """Return held coupons whose validity has ended, with their campaigns, the oldest first."""
    curs.execute(_DUE, (book, now.astimezone(UTC), limit))
    return [(due, campaign) for due, campaign in curs.fetchall()]
