"""What a daily proof says: the sums of a campaign at a day's end, as a statement of its own.

Sums come from the fold of the campaign figures, and from nowhere else; only what went back into
stock is counted beside it. Everything here is pure: the same events give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from campaigns.replies import CAMPAIGN_PREFIX
from ledger.books import Book, PublicId
from ledger.transparency.statements import DAILY_PROOF, Statement
from ledger.transparency.texts import to_base64
from projections import campaign_figures as cf
from projections.projection import Batch

COUNTS: Final[Mapping[str, str]] = {
    "issued": "claimed",
    "outstanding": "held",
    "redeemed": "redeemed",
    "refunded": "refunded",
    "expired": "expired",
    "voided": "voided",
    "reclaimed": "reclaimed",
    "wallets_closed": "wallets_closed",
    "payments": "paid",
}
"""Line of a proof → the count of the campaign figures that it tells."""

AMOUNTS: Final[Mapping[str, str]] = {
    "funded_minor": "funded_minor",
    "pot_minor": "pot_minor",
    "purses_minor": "purses_minor",
    "issued_minor": "claimed_minor",
    "outstanding_minor": "held_minor",
    "redeemed_minor": "spent_minor",
    "refunded_minor": "refunded_minor",
    "reclaimed_minor": "reclaimed_minor",
    "rolled_minor": "rolled_minor",
}
"""Line of a proof → the sum of money of the campaign figures that it tells."""

_SUMMED: Final = (*COUNTS.values(), *AMOUNTS.values())
_ENDINGS: Final = (cf.Reclaimed, cf.Expired, cf.Voided)
_MICROSECOND: Final = timedelta(microseconds=1)


class Sums(msgspec.Struct):
    """A campaign's sums at a position, and the hash of its last proof."""

    campaign: str
    zone: str
    currency: str
    restock: bool
    state: str = "draft"
    opened: bool = False
    touched: bool = False
    """Whether it has had an event since its last proof."""
    quota: int = 0
    restocked: int = 0
    sums: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(_SUMMED, 0))
    previous: str | None = None

    @property
    def is_due(self) -> bool:
        """Whether a day that ends now has a proof.

        It has one from the opening to the close, and afterwards when something happened on it.
        """
        return self.opened and (self.state != "closed" or self.touched)

    @property
    def budget_minor(self) -> int:
        """What may be granted: all that came in, less what has left for good."""
        gone = self.sums["reclaimed_minor"] + self.sums["rolled_minor"]
        return self.sums["funded_minor"] - gone

    @property
    def is_over_issued(self) -> bool:
        """Whether more was given than there may be, in pieces or in money."""
        taken = self.sums["claimed"] - self.restocked
        amounts = ("pot_minor", "purses_minor", "held_minor", "spent_minor")
        return taken > self.quota or any(self.sums[name] < 0 for name in amounts)


class DayEnd(NamedTuple):
    """The end of a day, as an instant, and how far the book had come by then."""

    until: datetime
    position: int
    root: bytes


class DailyProof(NamedTuple):
    """A proof before it is signed."""

    campaign: UUID
    day: date
    end: DayEnd
    statement: Statement

    @property
    def digest(self) -> bytes:
        """What the next day's proof names it by."""
        return sha256(self.statement.text.encode()).digest()


class Fold:
    """Every campaign's sums, as far as the events were fed."""

    def __init__(self, book: str, campaigns: dict[str, Sums] | None = None) -> None:
        self.book = book
        self.campaigns = {} if campaigns is None else campaigns

    @property
    def is_idle(self) -> bool:
        """Whether no day has a proof before something happens."""
        return not any(one.is_due for one in self.campaigns.values())

    def feed(self, batch: Batch) -> None:
        """Add events in order."""
        drafts, changes = cf.fold(batch)
        for draft in drafts:
            terms = draft.terms
            restock = bool(terms.get("restock"))
            self.campaigns[draft.campaign] = Sums(
                draft.campaign, terms["zone"], draft.currency, restock
            )
        for event in batch:
            if isinstance(event, cf.Opened):
                self.campaigns[event.stream].opened = True
            elif isinstance(event, _ENDINGS) and self.campaigns[event.campaign].restock:
                self.campaigns[event.campaign].restocked += 1
        for change in changes:
            self._add(change)

    def proofs(self, end: DayEnd) -> Iterator[DailyProof]:
        """Yield the proofs of the days that end at an instant, and go on to the next day."""
        for name, sums in sorted(self.campaigns.items()):
            if sums.is_due and is_midnight(end.until, sums.zone):
                proof = proof_of(self.book, name, sums, end)
                sums.previous, sums.touched = proof.digest.hex(), False
                yield proof

    def _add(self, change: cf.Change) -> None:
        sums = self.campaigns[change.campaign]
        sums.touched = True
        if change.state is not None:
            sums.state = change.state
        elif change.got_funded and sums.state == "draft":
            sums.state = "funded"
        if change.quota is not None:
            sums.quota = change.quota
        for name in _SUMMED:
            sums.sums[name] += getattr(change, name)


def proof_of(book: str, campaign: str, sums: Sums, end: DayEnd) -> DailyProof:
    """Return what is stated of a campaign at a day's end."""
    day = day_before(end.until, sums.zone)
    name = PublicId(CAMPAIGN_PREFIX, Book(book), UUID(campaign))
    lines = {
        "book": book,
        "campaign": str(name),
        "day": day.isoformat(),
        "zone": sums.zone,
        "until": end.until.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "size": str(end.position),
        "root": to_base64(end.root),
        "previous": sums.previous or "none",
        "state": sums.state,
        "quota": str(sums.quota),
        **{line: str(sums.sums[figure]) for line, figure in COUNTS.items()},
        "restocked": str(sums.restocked),
        "currency": sums.currency,
        "budget_minor": str(sums.budget_minor),
        **{line: str(sums.sums[figure]) for line, figure in AMOUNTS.items()},
        "over_issued": "yes" if sums.is_over_issued else "no",
    }
    return DailyProof(UUID(campaign), day, end, Statement(DAILY_PROOF, lines))


# --- days ---------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def midnight_after(instant: datetime, zone: str) -> datetime:
    """Return the first end of a day after an instant, in a zone, as an instant in UTC."""
    there = ZoneInfo(zone)
    day = instant.astimezone(there).date()
    while True:
        day += timedelta(days=1)
        found = datetime.combine(day, time(), there).astimezone(UTC)
        if found > instant:
            return found


def is_midnight(instant: datetime, zone: str) -> bool:
    """Whether a day of a zone ends at an instant."""
    return midnight_after(instant - _MICROSECOND, zone) == instant


def day_before(end: datetime, zone: str) -> date:
    """Return the day that ends at an instant."""
    return (end - _MICROSECOND).astimezone(ZoneInfo(zone)).date()


def next_end(since: datetime, zones: Iterable[str]) -> datetime | None:
    """Return the next end of a day in any of these zones."""
    return min((midnight_after(since, zone) for zone in zones), default=None)


# --- how sums are kept --------------------------------------------------------------------------

_decoder: Final = msgspec.json.Decoder(dict[str, Sums])


def encode_sums(campaigns: Mapping[str, Sums]) -> bytes:
    """Return sums as they are kept between two days."""
    return msgspec.json.encode(campaigns)


def decode_sums(data: bytes) -> dict[str, Sums]:
    """Return sums that were kept."""
    return _decoder.decode(data)
