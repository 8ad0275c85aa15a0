"""The campaign, command by command, through the writer of its book.

Every command has a key that is made of what it is about, so that a replay that was interrupted goes
on where it was: what had happened is told again and happens no second time. Commands are sent
without waiting for each answer, and decided in the order in which they were sent.
"""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import Future
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from api.beacons import Beacons
from api.callers import Pseudonyms
from api.luohu import Advance
from api.luohu import story as s
from api.luohu.figures import CURRENCY, WORTH_MINOR, Figures
from api.publicdraws import DrawHolder
from api.signing import Signer
from api.sweeper import Sweeper
from campaigns.accounting import check_postings
from campaigns.campaign import Terms
from campaigns.commands import (
    ApproveFunding,
    Call,
    CloseCampaign,
    Command,
    DraftCampaign,
    OpenCampaign,
    ProposeFunding,
    campaign_id,
)
from campaigns.coupon import coupon_id
from campaigns.draws.enrolling import EnterMany, Registration
from campaigns.draws.replies import EnrolmentReply
from campaigns.draws.terms import PublicDrawTerms
from campaigns.draws.winning import ClaimWin
from campaigns.event_types import MAPPER
from campaigns.packets.commands import PayFromPacket, RefundPayment
from campaigns.packets.terms import PacketTerms, Tier
from campaigns.refusals import Refusal
from campaigns.replies import CAMPAIGN_PREFIX, encode
from ledger.books import Book, PublicId
from ledger.commit import Answer, GroupCommit, Limits
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import History
from ledger.money import Money

BOOK: Final = Book("main")
NAME: Final = "礼享罗湖数字人民币红包"
SPONSOR: Final = "luohu"
SWEPT_AT: Final = s.VALID_UNTIL + timedelta(minutes=1)

IN_FLIGHT: Final = 2_000
"""Commands that wait for their answer at most: a few batches of the writer."""

BATCHES_IN_FLIGHT: Final = 2
"""Batches of registrations: one is decided while the next one is made."""

LIMITS: Final = Limits(retry_for_s=60.0)
"""Whoever replays waits, when PostgreSQL is slow, rather than begin again."""

_read_enrolment: Final = msgspec.json.Decoder(EnrolmentReply).decode


class Unexpected(Exception):
    """The book answered something else than this story needs: the home has other things in it."""


class LuohuCampaign:
    """One campaign in a book. Close it."""

    def __init__(self, datastore: Datastore, home: Path, figures: Figures, seed: int) -> None:
        self.figures = figures
        self.void: Counter[str] = Counter()
        """Registrations that were refused, by reason."""
        self._datastore = datastore
        self._history = History(datastore, BOOK, MAPPER)
        self._seed = seed
        self._writer = GroupCommit(
            datastore, BOOK, MAPPER, limits=LIMITS, check=check_postings
        ).start()
        self._pseudonyms = Pseudonyms(s.secret(seed, "pseudonyms"))
        self._sign = Signer(s.secret(seed, "refusals")).sign
        self._one, self._other = (self._operator(name) for name in ("first", "second"))
        self.id = campaign_id(BOOK, self._one, f"luohu-{seed}")
        self._beacons = home / "beacons.jsonl"
        self.holder = DrawHolder(
            datastore,
            self._writer,
            self._draw_key,
            Beacons([str(self._beacons)]),
            home / "lists",
        )

    def close_writer(self) -> None:
        """Drain the writer."""
        self._writer.close()

    @property
    def public_id(self) -> str:
        """The campaign's id as everybody sees it."""
        return str(PublicId(CAMPAIGN_PREFIX, BOOK, self.id))

    def head(self) -> int:
        """Return the position of the book's last event."""
        return self._history.head()

    # --- the life of the campaign ---------------------------------------------------------------

    def prepare(self) -> None:
        """Two operators draft, fund and open it; the seed of the draw is committed to."""
        quota, budget = self.figures.winners, Money(self.figures.funded_minor, CURRENCY)
        for command, by, code in (
            (DraftCampaign(BOOK, self.id, NAME, SPONSOR, self._terms()), self._one, "drafted"),
            (ProposeFunding(BOOK, self.id, quota, budget, 0, 0), self._one, "funding_proposed"),
            (ApproveFunding(BOOK, self.id, quota, budget), self._other, "funded"),
            (OpenCampaign(BOOK, self.id, self._draw_key), self._one, "opened"),
        ):
            _expect(code, self._send(command, by, code, s.PREPARED_AT).result())

    def register(self, advance: Advance) -> None:
        """Hand over everybody who registers, batch by batch."""
        done = 0
        sent: deque[tuple[int, Future[Answer]]] = deque()

        def take() -> None:
            count, future = sent.popleft()
            answer = future.result()
            _expect("registered", answer)
            self.void.update(one.reason for one in _read_enrolment(answer.body).void)
            advance(count)

        draw = self.id.hex
        for number, batch in enumerate(s.arrivals(self.figures, self._seed)):
            rows = [
                Registration(
                    self._pseudonyms.of(one.identity), self._pseudonyms.telephone(draw, one.phone)
                )
                for one in batch
            ]
            done += len(batch)
            at = s.registered_at(done, self.figures)
            command = EnterMany(BOOK, self.id, rows, self._sign)
            if len(sent) >= BATCHES_IN_FLIGHT:
                take()
            sent.append((len(batch), self._send(command, self._one, f"batch-{number}", at)))
        while sent:
            take()

    def freeze(self) -> str:
        """Publish the list; return the hash of all that is announced, before the beacon speaks."""
        for _ in self.holder.steps(s.FROZEN_AT):
            pass
        known = self.holder.lists.known(self.id)
        if known is None or known.draw.frozen is None:
            raise Unexpected("the list was not frozen")
        return known.draw.frozen.announcement

    def draw(self, advance: Advance) -> None:
        """Wait for the beacon, record its value, draw, and give every seat."""
        at = s.BEACON.time_of(s.BEACON.round_at(s.DRAW_AT))
        if not self._beacons.exists():
            for step in self.holder.steps(at):
                raise Unexpected(f"{step.code} while the beacon is silent")
            self._record_beacon(s.BEACON.round_at(s.DRAW_AT))
        for step in self.holder.steps(at):
            advance(step.given)

    def play(self, advance: Advance) -> None:
        """Let winners claim, pay, and have something given back."""
        sent: deque[tuple[str, Future[Answer]]] = deque()

        def take() -> None:
            code, future = sent.popleft()
            _expect(code, future.result())
            advance(1)

        winners = self._winners()
        for step in s.steps(self.figures, self._seed):
            if len(sent) >= IN_FLIGHT:
                take()
            sent.append(self._step(step, winners[step.rank]))
        while sent:
            take()

    def expire(self, advance: Advance) -> None:
        """Let the packets' validity end: what is left in them goes back to the sponsor."""
        sweeper = Sweeper(self._datastore, self._writer)
        while sweeper.sweep(SWEPT_AT, advance).behind:
            pass

    def finish(self) -> None:
        """Close the campaign: what nobody claimed goes back to the sponsor."""
        command = CloseCampaign(BOOK, self.id, "over")
        _expect("closed", self._send(command, self._other, "close", SWEPT_AT).result())

    # --- how it is done -------------------------------------------------------------------------

    def _terms(self) -> Terms:
        return Terms(
            kind="packet",
            face_minor=WORTH_MINOR,
            threshold_minor=WORTH_MINOR,
            currency=CURRENCY,
            per_person_limit=1,
            claim_from=s.DRAW_AT,
            claim_until=s.VALID_UNTIL,
            valid_from=s.VALID_FROM,
            valid_until=s.VALID_UNTIL,
            zone="Asia/Shanghai",
            merchants=s.merchants(self.figures),
            packet=PacketTerms(refund_order="own_first", leftover="sponsor"),
            public_draw=draw_terms(self.figures),
        )

    def _winners(self) -> list[str]:
        """Return who has each rank: the entry's place in the list says who that is."""
        known = self.holder.lists.known(self.id)
        assert known is not None, "the draw was held"
        ranks = self.holder.results(known).ranks
        return [self._pseudonyms.of(s.person(place).identity) for place in ranks]

    def _step(self, step: s.Step, winner: str) -> tuple[str, Future[Answer]]:
        packet = coupon_id(self.id, winner, 1)
        match step:
            case s.Claim():
                claim = ClaimWin(BOOK, self.id, winner)
                by, key = Actor("tourist", winner), "claim"
                return "claimed", self._send(claim, by, key, step.at)
            case s.Payment():
                total = Money(step.total_minor, CURRENCY)
                pay = PayFromPacket(BOOK, packet, step.merchant, None, step.order, total)
                return "paid", self._at_till(pay, step, f"pay-{step.order}")
            case s.Refund():
                amount = Money(step.amount_minor, CURRENCY)
                back = RefundPayment(BOOK, packet, step.merchant, step.order, amount, "returned")
                return "refunded", self._at_till(back, step, f"refund-{step.order}")

    def _at_till(self, command: Command, step: s.Payment | s.Refund, key: str) -> Future[Answer]:
        return self._send(command, Actor("merchant", step.merchant), key, step.at)

    def _send(self, command: Command, by: Actor, key: str, at: datetime) -> Future[Answer]:
        call = Call(by, f"luohu-{key}", _rendered, key, sha256(key.encode()).digest(), at)
        return self._writer.submit(command.request(call))

    def _record_beacon(self, number: int) -> None:
        value = {"round": number, "signature": s.beacon_signature(self._seed, number).hex()}
        self._beacons.write_bytes(msgspec.json.encode(value) + b"\n")

    def _draw_key(self) -> bytes:
        return s.secret(self._seed, "draw")

    def _operator(self, name: str) -> Actor:
        return Actor("operator", self._pseudonyms.of(f"operator {name}"))


def draw_terms(figures: Figures) -> PublicDrawTerms:
    """Return the draw as it is announced."""
    return PublicDrawTerms(
        register_from=s.REGISTER_FROM,
        register_until=s.REGISTER_UNTIL,
        draw_at=s.DRAW_AT,
        chain=s.BEACON,
        tiers=(Tier(WORTH_MINOR, figures.winners),),
        claim_s=int((s.VALID_UNTIL - s.DRAW_AT).total_seconds()),
    )


def _rendered(refusal: Refusal) -> bytes:
    return encode({"code": refusal.code, **refusal.facts})


def _expect(code: str, answer: Answer) -> None:
    if answer.code != code:
        told = answer.body.decode(errors="replace")[:200]
        raise Unexpected(f"{code} was expected, and the book says {answer.code}: {told}")
