"""A made-up book of any length, written as fast as it can be told: what exports are measured with.

Every event keeps every rule, and its bytes are those of the service's own encoders. Nothing grows
with the length here, so that what is measured is the export and not its maker.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import md5, sha256
from typing import Any, Final
from uuid import UUID, uuid5

from campaigns.campaign import (
    CAMPAIGN_FOLD,
    Campaign,
    CampaignDrafted,
    CampaignFunded,
    CampaignOpened,
    FundingProposed,
    Terms,
)
from campaigns.coupon import (
    CouponExpired,
    CouponRedeemed,
    CouponRefunded,
    coupon_id,
)
from campaigns.granting import grant
from ledger.books import Book
from ledger.events import Actor, Event, Why, canonical
from ledger.exporting.form import EVENTS_PER_GROUP
from ledger.exporting.writing import End
from ledger.history import Entry
from ledger.merkle import CompactRange
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.leaves import Columns, leaf_hashes_of
from ledger.transparency.notes import ED25519, Signer, signed_note
from ledger.transparency.store import Signed

ORIGIN: Final = "synthetic.invalid/main"
CLAIMS: Final = 500_000
"""Coupons of one campaign; then they expire, and the next campaign begins."""
BLOCK: Final = 1_000
"""People who claim before the first of them redeem."""
SIGNED_EVERY: Final = 4_096

_BEGIN: Final = datetime(2026, 5, 1, tzinfo=UTC)
_STEP: Final = timedelta(microseconds=731)
_DAY: Final = timedelta(days=1)
_MINT: Final = UUID(int=5)


class Synthetic:
    """A book of `size` events: half of the coupons are redeemed, some refunded, others expire."""

    def __init__(
        self, size: int, book: str = "main", claims: int = CLAIMS, block: int = BLOCK
    ) -> None:
        """`claims` a campaign; of a `block` of people the first redeem when all have claimed."""
        self.signer = Signer(ORIGIN, ED25519, sha256(b"synthetic").digest())
        self._size = size
        self._claims = claims
        self._block = block
        self._book = Book(book)
        self._events = self._story()
        self._at = _BEGIN
        self._tree = CompactRange()
        self._leaves: list[bytes] = []
        self._signed: list[Signed] = []

    def end(self) -> End:
        """Return where the export ends, once all of it was read."""
        root = self._tree.root()
        return End(self._book, ORIGIN, self._size, root, (str(self.signer.verifier),))

    def entries(self, after: int, until: int) -> Iterator[Entry]:
        """Yield the next events; they are asked for in order, and once."""
        position, page = after, []
        while position < until:
            stream, version, topic, state = next(self._events)
            position += 1
            page.append(Entry(position, stream, version, topic, state))
            if len(page) == EVENTS_PER_GROUP or position == until:
                self._hash(page)
                yield from page
                page = []

    def leaves(self, after: int, until: int) -> Sequence[bytes]:
        """Return the hashes of the events that were read last."""
        assert len(self._leaves) == until - after, "as many as were read"
        return self._leaves

    def checkpoints(self, after: int, until: int) -> Iterator[Signed]:
        """Yield the checkpoints that were signed since they were asked for."""
        signed, self._signed = self._signed, []
        yield from (one for one in signed if after < one.size <= until)

    def _hash(self, page: list[Entry]) -> None:
        positions, streams, versions, topics, states, _ = zip(*page, strict=True)
        keys = [stream.bytes for stream in streams]
        columns = Columns.of(positions, keys, versions, topics, states)
        self._leaves = leaf_hashes_of(self._book, columns)
        for position, leaf in zip(positions, self._leaves, strict=True):
            self._tree.append(leaf)
            if position % SIGNED_EVERY == 0 or position == self._size:
                root = self._tree.root()
                note = signed_note(Checkpoint(ORIGIN, position, root).text, [self.signer])
                self._signed.append(Signed(position, root, note.encode()))

    # --- the story --------------------------------------------------------------------------

    def _story(self) -> Iterator[tuple[UUID, int, str, bytes]]:
        number = 0
        while True:
            campaign = yield from self._opened(number)
            for block in range(0, self._claims, self._block):
                people = range(
                    number * self._claims + block, number * self._claims + block + self._block
                )
                for who in people:
                    yield self._claimed(campaign, who)
                for who in people:
                    yield from self._used(campaign, who)
            self._at = campaign.terms.valid_until + _STEP
            for who in range(number * self._claims, (number + 1) * self._claims):
                if who % 4 == 3:
                    yield self._expired(campaign, who)
            number += 1

    def _tick(self) -> datetime:
        self._at += _STEP
        return self._at

    def _opened(self, number: int) -> Generator[tuple[UUID, int, str, bytes], None, Campaign]:
        stream = uuid5(_MINT, f"campaign {number}")
        begin = self._at
        terms = Terms(
            kind="threshold",
            face_minor=500,
            threshold_minor=3_000,
            currency="CNY",
            per_person_limit=1,
            claim_from=begin,
            claim_until=begin + _DAY,
            valid_from=begin,
            valid_until=begin + _DAY * 2,
            zone="Asia/Shanghai",
        )
        money: dict[str, Any] = {"quota": self._claims, "budget_minor": self._claims * 500}
        alice, bob = Actor("operator", "alice"), Actor("operator", "bob")
        steps: list[tuple[type[Event], Actor, dict[str, Any]]] = [
            (CampaignDrafted, alice, {"name": f"C{number}", "sponsor": "city", "terms": terms}),
            (FundingProposed, alice, {**money, "from_quota": 0, "from_budget_minor": 0}),
            (
                CampaignFunded,
                bob,
                {
                    **money,
                    "quota_change": self._claims,
                    "budget_change_minor": self._claims * 500,
                    "currency": "CNY",
                    "sponsor": "city",
                    "proposed_by": "alice",
                },
            ),
            (CampaignOpened, bob, {}),
        ]
        campaign: Campaign | None = None
        for version, (kind, by, fields) in enumerate(steps, 1):
            why = Why(f"draft-{number}-{version}")
            event = kind(
                originator_id=stream,
                originator_version=version,
                at=self._tick(),
                by=by,
                why=why,
                **fields,
            )
            campaign = CAMPAIGN_FOLD.evolve(campaign, event)
            yield stream, version, event.TOPIC, canonical(event)
        assert campaign is not None, "it was drafted"
        return campaign

    def _claimed(self, campaign: Campaign, who: int) -> tuple[UUID, int, str, bytes]:
        person = _person(who)
        coupon = coupon_id(campaign.id, person, 1)
        by = Actor("tourist", person)
        event, _ = grant(self._book, campaign, coupon, 1, person, self._tick(), by, _why(who))
        return coupon, 1, event.TOPIC, event.state

    def _used(self, campaign: Campaign, who: int) -> Iterator[tuple[UUID, int, str, bytes]]:
        if who % 2:
            return
        yield self._redeemed(campaign, who, 2, "o")
        if who % 20 == 0:
            yield self._refunded(campaign, who)
            yield self._redeemed(campaign, who, 4, "p")

    def _redeemed(
        self, campaign: Campaign, who: int, version: int, order: str
    ) -> tuple[UUID, int, str, bytes]:
        person, merchant = _person(who), f"m-{who % 997}"
        event = CouponRedeemed(
            originator_id=coupon_id(campaign.id, person, 1),
            originator_version=version,
            at=self._tick(),
            by=Actor("merchant", merchant),
            why=_why(who),
            campaign=campaign.id,
            person=person,
            merchant=merchant,
            shop=None,
            order=f"{order}-{who:09d}",
            order_total_minor=3_000 + who % 10_000,
            discount_minor=500,
            currency="CNY",
        )
        return event.originator_id, version, event.TOPIC, canonical(event)

    def _refunded(self, campaign: Campaign, who: int) -> tuple[UUID, int, str, bytes]:
        person, merchant = _person(who), f"m-{who % 997}"
        event = CouponRefunded(
            originator_id=coupon_id(campaign.id, person, 1),
            originator_version=3,
            at=self._tick(),
            by=Actor("merchant", merchant),
            why=_why(who),
            campaign=campaign.id,
            person=person,
            merchant=merchant,
            order=f"o-{who:09d}",
            amount_minor=500,
            currency="CNY",
            reason="returned",
        )
        return event.originator_id, 3, event.TOPIC, canonical(event)

    def _expired(self, campaign: Campaign, who: int) -> tuple[UUID, int, str, bytes]:
        person = _person(who)
        event = CouponExpired(
            originator_id=coupon_id(campaign.id, person, 1),
            originator_version=2,
            at=self._tick(),
            by=Actor("sweeper", "system"),
            why=Why("sweep"),
            campaign=campaign.id,
            person=person,
            amount_minor=500,
            currency="CNY",
            to="campaign",
            sponsor="city",
            valid_until=campaign.terms.valid_until,
        )
        return event.originator_id, 2, event.TOPIC, canonical(event)


def _person(who: int) -> str:
    return md5(b"person %d" % who, usedforsecurity=False).hexdigest()


def _why(who: int) -> Why:
    mark = md5(b"request %d" % who, usedforsecurity=False).digest()
    return Why(str(UUID(bytes=mark)), f"key-{who:09d}", (mark + mark).hex())
