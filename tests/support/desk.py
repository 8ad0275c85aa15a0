"""A desk that sends commands to a book's writer, as the service does, without HTTP."""

from __future__ import annotations

import itertools
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from campaigns.accounting import check_postings
from campaigns.campaign import Terms
from campaigns.commands import (
    ApproveFunding,
    Call,
    ClaimCoupon,
    Command,
    DraftCampaign,
    OpenCampaign,
    ProposeFunding,
    campaign_id,
)
from campaigns.coupon import coupon_id
from campaigns.event_types import MAPPER
from campaigns.refusals import Refusal
from ledger.books import Book
from ledger.commit import Answer, GroupCommit, Limits, Observer
from ledger.datastore import Datastore
from ledger.events import Actor, Event
from ledger.money import Money

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
ALICE = Actor("operator", "a" * 32)
BOB = Actor("operator", "b" * 32)
SPONSOR = "hainan"
DRAW_KEY = b"the ledger's draw key, 32 bytes."


def render(refusal: Refusal) -> bytes:
    """Return a refusal as the service would: deterministic bytes with the code first."""
    return msgspec.json.encode({"code": refusal.code, **refusal.facts})


def terms_of(**changes: Any) -> Terms:
    """Return ordinary terms: 5 yuan off, one each, open all day, valid for two days."""
    face = changes.get("face_minor", 500)
    ordinary: dict[str, Any] = {
        "kind": "fixed",
        "face_minor": face,
        "threshold_minor": face,
        "currency": "CNY",
        "per_person_limit": 1,
        "claim_from": NOON - timedelta(hours=1),
        "claim_until": NOON + timedelta(hours=12),
        "valid_from": NOON - timedelta(hours=1),
        "valid_until": NOON + timedelta(days=2),
        "zone": "Asia/Shanghai",
    }
    return Terms(**{**ordinary, **changes})


def person(n: int) -> str:
    """Return the n-th person's pseudonym."""
    return f"{n:032x}"


def tourist(who: str) -> Actor:
    """Return a person as the one who acts."""
    return Actor("tourist", who)


class Desk:
    """Sends commands to one writer; every call is at noon of one day unless it says otherwise."""

    def __init__(
        self,
        datastore: Datastore,
        book: str = "main",
        limits: Limits | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.datastore = datastore
        self.book = Book(book)
        self.writer = GroupCommit(
            datastore, book, MAPPER, limits=limits, check=check_postings, observer=observer
        ).start()
        self._keys = (f"key-{n}" for n in itertools.count())

    def close(self) -> None:
        """Drain the writer."""
        self.writer.close()

    def call(
        self,
        by: Actor,
        key: str | None = None,
        *,
        at: datetime | None = NOON,
        fingerprint: bytes = b"same",
    ) -> Call:
        """Return how somebody calls; without a key, with a new one."""
        key = next(self._keys) if key is None else key
        return Call(by, f"request-{key}", render, key, fingerprint, at)

    def submit(
        self, command: Command, by: Actor, key: str | None = None, **how: Any
    ) -> Future[Answer]:
        """Queue a command."""
        return self.writer.submit(command.request(self.call(by, key, **how)))

    def send(self, command: Command, by: Actor, key: str | None = None, **how: Any) -> Answer:
        """Queue a command and wait for its answer."""
        return self.submit(command, by, key, **how).result(20)

    def drafted(self, terms: Terms | None = None, key: str = "draft") -> UUID:
        """Draft a campaign; return its id."""
        campaign = campaign_id(self.book, ALICE, key)
        draft = DraftCampaign(self.book, campaign, "Spring", SPONSOR, terms or terms_of())
        assert self.send(draft, ALICE, key).code == "drafted"
        return campaign

    def fund(
        self, campaign: UUID, quota: int, budget_minor: int, seen: tuple[int, int] = (0, 0)
    ) -> None:
        """Let one operator propose quota and budget and the other approve them."""
        budget = Money(budget_minor, "CNY")
        propose = ProposeFunding(self.book, campaign, quota, budget, *seen)
        assert self.send(propose, ALICE).code == "funding_proposed"
        assert self.send(ApproveFunding(self.book, campaign, quota, budget), BOB).code == "funded"

    def opened(
        self,
        quota: int = 10,
        terms: Terms | None = None,
        budget_minor: int | None = None,
        key: str = "draft",
    ) -> UUID:
        """Draft, fund and open a campaign; return its id."""
        campaign = self.drafted(terms, key)
        face = (terms or terms_of()).face_minor
        self.fund(campaign, quota, quota * face if budget_minor is None else budget_minor)
        opening = OpenCampaign(self.book, campaign, lambda: DRAW_KEY)
        assert self.send(opening, ALICE).code == "opened"
        return campaign

    def claim(self, campaign: UUID, who: str, key: str | None = None, **how: Any) -> Answer:
        """Claim for a person."""
        return self.send(ClaimCoupon(self.book, campaign, who), tourist(who), key, **how)

    def claimed(self, campaign: UUID, who: str) -> UUID:
        """Claim for a person who has none yet; return the coupon's id."""
        assert self.claim(campaign, who).code == "claimed"
        return coupon_id(campaign, who, 1)

    def events(self) -> list[Event]:
        """Return the book's events in order; positions must be 1, 2, 3 and so on."""
        with self.datastore.transaction() as cursor:
            cursor.execute(
                "SELECT position, topic, state, originator_id, originator_version FROM event"
                " WHERE book = %s ORDER BY position",
                (self.book,),
            )
            rows = cursor.fetchall()
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        return [MAPPER.decode(topic, bytes(state), *rest) for _, topic, state, *rest in rows]

    def capacity(self, campaign: UUID) -> tuple[int, int, int, int]:
        """Return issued, quota, granted and budget as stored."""
        with self.datastore.transaction() as cursor:
            cursor.execute(
                "SELECT issued, quota, granted_minor, budget_minor FROM capacity"
                " WHERE book = %s AND campaign = %s AND pool = 'all'",
                (self.book, campaign),
            )
            row: tuple[int, int, int, int] = cursor.fetchone()
        return row
