"""Merchant balances: what each merchant earned, and every redemption behind it.

A balance is what redemptions and payments from packets came to, less what was refunded of them.

A coupon can be redeemed again after a refund, so a redemption is a coupon and the version at
which it was redeemed. A refund is the very next version, so it names its redemption by itself.
"""

from __future__ import annotations

from datetime import datetime
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

NAME: Final = "merchant_balances"

_SQL: Final = read_statements(NAME)

# What is read of the events


class Redeemed(View):
    at: str
    merchant: str
    shop: str | None
    order: str
    discount_minor: int
    currency: str


class Refunded(View):
    at: str
    merchant: str
    amount_minor: int
    currency: str


class Paid(View):
    merchant: str
    amount_minor: int
    currency: str


class PaidBack(View):
    merchant: str
    to_packet_minor: int
    reclaimed_minor: int
    currency: str


_OWN: Final[dict[str, type[View] | None]] = {
    "coupon.redeemed": Redeemed,
    "coupon.refunded": Refunded,
    "packet.paid": Paid,
    "packet.refunded": PaidBack,
}

READS: Final[dict[str, type[View] | None]] = {**dict.fromkeys(EVENT_TYPES.topics), **_OWN}
"""Whatever else this program knows moves no merchant's money."""

# Rows, and how a batch becomes rows


class RedemptionRow(msgspec.Struct, gc=False):
    book: str
    coupon: str
    version: int
    merchant: str
    shop: str | None
    order_no: str
    discount_minor: int
    currency: str
    redeemed_at: str
    refunded_at: str | None
    position: int


class RefundRow(msgspec.Struct, gc=False):
    book: str
    coupon: str
    version: int
    refunded_at: str
    position: int


class Sums(msgspec.Struct, gc=False):
    merchant: str
    currency: str
    redeemed_count: int = 0
    redeemed_minor: int = 0
    refunded_count: int = 0
    refunded_minor: int = 0
    paid_count: int = 0
    paid_minor: int = 0
    paid_back_count: int = 0
    paid_back_minor: int = 0


class Folded(NamedTuple):
    """What a batch adds: redemptions as they are at its end, refunds of earlier ones, sums."""

    redemptions: list[RedemptionRow]
    refunds: list[RefundRow]
    sums: list[Sums]


def fold(book: str, batch: Batch) -> Folded:
    """Return what a batch adds."""
    redemptions: dict[tuple[str, int], RedemptionRow] = {}
    refunds: list[RefundRow] = []
    for event in batch:
        if isinstance(event, Redeemed):
            redemptions[event.stream, event.version] = RedemptionRow(
                book,
                event.stream,
                event.version,
                event.merchant,
                event.shop,
                event.order,
                event.discount_minor,
                event.currency,
                event.at,
                None,
                event.position,
            )
            continue
        if not isinstance(event, Refunded):
            continue  # packets' payments are only summed up here, see `projections.packets`
        redeemed_version = event.version - 1
        row = redemptions.get((event.stream, redeemed_version))
        if row is None:
            refunds.append(
                RefundRow(book, event.stream, redeemed_version, event.at, event.position)
            )
        else:
            row.refunded_at = event.at
            row.position = event.position
    return Folded(list(redemptions.values()), refunds, sums_of(batch))


def sums_of(batch: Batch) -> list[Sums]:
    """Return what a batch adds to each merchant's balance."""
    sums: dict[tuple[str, str], Sums] = {}
    for event in batch:
        assert isinstance(event, Redeemed | Refunded | Paid | PaidBack)
        account = (event.merchant, event.currency)
        total = sums.get(account) or sums.setdefault(account, Sums(*account))
        if isinstance(event, Redeemed):
            total.redeemed_count += 1
            total.redeemed_minor += event.discount_minor
        elif isinstance(event, Refunded):
            total.refunded_count += 1
            total.refunded_minor += event.amount_minor
        elif isinstance(event, Paid):
            total.paid_count += 1
            total.paid_minor += event.amount_minor
        else:
            total.paid_back_count += 1
            total.paid_back_minor += event.to_packet_minor + event.reclaimed_minor
    return list(sums.values())


def apply(curs: Any, book: str, batch: Batch) -> None:
    """Write a batch to the tables in use."""
    folded = fold(book, batch)
    copy_structs(curs, "redemption", folded.redemptions)
    change_rows(curs, _SQL["refund"], book, folded.refunds)
    _add_to_balances(curs, book, folded.sums)


def _add_to_balances(curs: Any, book: str, sums: list[Sums]) -> None:
    change_rows(curs, _SQL["open_accounts"], book, sums, every=False)
    change_rows(curs, _SQL["add_to_balances"], book, sums)


class MerchantLoader:
    """Pours redemptions and refunds as they come; balances are few and are kept up at once."""

    def load(self, curs: Any, book: str, batch: Batch) -> None:
        """Pour a batch."""
        redeemed, refunded = [], []
        for event in batch:
            if isinstance(event, Redeemed):
                redeemed.append(
                    (
                        book,
                        event.stream,
                        event.version,
                        event.merchant,
                        event.shop,
                        event.order,
                        event.discount_minor,
                        event.currency,
                        event.at,
                        event.position,
                    )
                )
            elif isinstance(event, Refunded):
                refunded.append((book, event.stream, event.version - 1, event.at, event.position))
        copy_rows(curs, "redeemed", _REDEEMED_COLUMNS, redeemed)
        copy_rows(curs, "refunded", _REFUNDED_COLUMNS, refunded)
        _add_to_balances(curs, book, sums_of(batch))

    def settle(self, curs: Any) -> None:
        """Make the rows."""
        join_by_hash(curs)
        try:
            curs.execute(_SQL["settle"])
        except NotNullViolation as error:
            raise RowMissing("a coupon was refunded and never redeemed") from error


_REDEEMED_COLUMNS: Final = (
    "book",
    "coupon",
    "version",
    "merchant",
    "shop",
    "order_no",
    "discount_minor",
    "currency",
    "redeemed_at",
    "position",
)
_REFUNDED_COLUMNS: Final = ("book", "coupon", "version", "refunded_at", "position")

MERCHANT_BALANCES: Final = Projection(NAME, READS, _SQL, apply, MerchantLoader)

# Queries


class Balance(NamedTuple):
    """What a merchant earned in one book and currency."""

    book: str
    merchant: str
    currency: str
    redeemed_count: int
    redeemed_minor: int
    refunded_count: int
    refunded_minor: int
    paid_count: int
    paid_minor: int
    paid_back_count: int
    paid_back_minor: int
    balance_minor: int


class Totals(NamedTuple):
    """What all merchants of a book together earned."""

    merchants: int
    paid_count: int
    balance_minor: int


class Redemption(NamedTuple):
    """A coupon taken for an order; `version` is the coupon's at the redemption."""

    book: str
    coupon: UUID
    version: int
    merchant: str
    shop: str | None
    order_no: str
    discount_minor: int
    currency: str
    redeemed_at: datetime
    refunded_at: datetime | None
    position: int


class RedemptionCursor(NamedTuple):
    """The place after a redemption in a merchant's list, newest first. None of it ever changes."""

    redeemed_at: datetime
    book: str
    coupon: UUID
    version: int


_BALANCES: Final = f"""
SELECT {", ".join(Balance._fields)} FROM rm_merchant_balances.merchant
WHERE merchant = %s
ORDER BY book, currency
"""  # noqa: S608 - names of columns

_REDEMPTIONS: Final = f"""
SELECT {", ".join(Redemption._fields)} FROM rm_merchant_balances.redemption
WHERE merchant = %s AND (redeemed_at, book, coupon, version) < (%s, %s, %s, %s)
ORDER BY redeemed_at DESC, book DESC, coupon DESC, version DESC
LIMIT %s
"""  # noqa: S608 - names of columns


_TOTALS: Final = """
SELECT count(DISTINCT merchant), coalesce(sum(paid_count), 0)::bigint,
    coalesce(sum(balance_minor), 0)::bigint
FROM rm_merchant_balances.merchant WHERE book = %s
"""


def totals(curs: Any, book: str) -> Totals:
    """Return how many merchants there are in a book, and what they earned together."""
    curs.execute(_TOTALS, (book,))
    return Totals._make(curs.fetchone())


def balances(curs: Any, merchant: str) -> list[Balance]:
    """Return a merchant's balances, one per book and currency."""
    curs.execute(_BALANCES, (merchant,))
    return [Balance._make(row) for row in curs.fetchall()]


def redemptions(
    curs: Any, merchant: str, *, after: RedemptionCursor | None = None, limit: int
) -> list[Redemption]:
    """Return a merchant's redemptions, newest first, after a cursor."""
    place = after or ("infinity", "", UUID(int=0), 0)
    curs.execute(_REDEMPTIONS, (merchant, *place, limit))
    return [Redemption._make(row) for row in curs.fetchall()]


def cursor_of(redemption: Redemption) -> RedemptionCursor:
    """Return the cursor for what comes after a redemption in its merchant's list."""
    return RedemptionCursor(
        redemption.redeemed_at, redemption.book, redemption.coupon, redemption.version
    )
