"""The whole life of packets, in any order and at once, on real PostgreSQL.

Goal: spend ∥ refund ∥ expire ∥ close; whatever people do, every fen is where the events say, once.
Method: a Hypothesis state machine sends commands through two writers of one book, as two processes
would, races them, repeats them and moves the clock. After each step it folds the stored events
anew, by a model of its own that shares no code with decisions, folds or postings; in the end the
whole book is verified and every read model compared.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from campaigns import accounting
from campaigns import commands as c
from campaigns.accounting import postings_of
from campaigns.campaign import (
    BudgetReclaimed,
    CampaignFunded,
    CampaignRolledOver,
    Terms,
)
from campaigns.coupon import coupon_id
from campaigns.event_types import MAPPER
from campaigns.packets import commands as p
from campaigns.packets import packet as packets
from campaigns.packets import sharing
from campaigns.packets.packet import (
    PacketClaimed,
    PacketExpired,
    PacketPaid,
    PacketRefunded,
    PacketWalletClosed,
)
from campaigns.packets.rolling import RollOver, ShowSplit
from campaigns.packets.spending import Parts, parts_of_refund
from campaigns.packets.terms import PacketTerms, RefundOrder, Split, Tier
from campaigns.splitting import split_seed
from campaigns.verification import verify as verify_book
from ledger.commit import Answer
from ledger.datastore import Datastore
from ledger.events import Actor, Event
from ledger.history import History
from ledger.postings import TrialBalance
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.verification import verify
from tests.support.desk import ALICE, BOB, DRAW_KEY, NOON, SPONSOR, Desk, person, terms_of, tourist
from tests.support.figures import check_figures
from tests.support.groups import key
from tests.support.machines import given_stores, hunt, run
from tests.support.packets import cny

SWEEPER = Actor("sweeper", "system")
ENDS = NOON + timedelta(days=2)
ORDERS = ("o-1", "o-2", "o-3")
MERCHANTS = ("mall", "cafe", "bar")
"""The last one is not designated."""
KINDS = st.sampled_from(["fixed", "tiers", "split"])
REFUND_ORDERS = st.sampled_from(["own_first", "packet_first"])
WHICH = st.integers(0, 5)
_books = (f"packets{n}" for n in itertools.count())


@dataclass
class Purchase:
    """A payment: what each side paid and got back."""

    packet: int
    own: int
    packet_back: int = 0
    own_back: int = 0


@dataclass
class Held:
    """A packet recomputed from its events."""

    claim: PacketClaimed
    balance: int
    ended: bool = False
    purchases: dict[tuple[str, str], Purchase] = field(default_factory=dict)


@dataclass
class Truth:
    """What the stored events say, checked at every position while it is recomputed."""

    orders: dict[UUID, RefundOrder] = field(default_factory=dict)
    held: dict[UUID, Held] = field(default_factory=dict)
    funded: defaultdict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    returned: defaultdict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    trial: TrialBalance = field(default_factory=TrialBalance)

    def add(self, event: Event) -> None:
        """Fold one more event and check what must hold from this position on."""
        self.trial.post(postings_of(event))
        assert self.trial.is_zero, "I6: debits equal credits"
        assert not self.trial.overdrawn(), "I6: nothing is negative"
        match event:
            case PacketClaimed():
                assert event.originator_id not in self.held, "I3: one packet a person"
                assert event.amount_minor > 0, "nobody has an empty packet"
                self.held[event.originator_id] = Held(event, event.amount_minor)
            case PacketPaid():
                self._paid(self.held[event.originator_id], event)
            case PacketRefunded():
                self._refunded(self.held[event.originator_id], event)
            case PacketExpired() | PacketWalletClosed():
                self._ended(self.held[event.originator_id], event)
            case _:
                self._campaign(event)
        self._check_money()

    def _paid(self, held: Held, event: PacketPaid) -> None:
        assert not held.ended, "nothing is paid from a packet that has ended"
        assert event.at < held.claim.valid_until, "nothing is paid after the validity"
        assert event.merchant in MERCHANTS[:2], "only designated merchants are paid"
        assert (event.merchant, event.order) not in held.purchases, "an order is paid once"
        assert event.amount_minor + event.own_minor == event.total_minor
        assert event.amount_minor == min(held.balance, event.total_minor), "packet first"
        held.balance -= event.amount_minor
        bought = Purchase(event.amount_minor, event.own_minor)
        held.purchases[event.merchant, event.order] = bought

    def _refunded(self, held: Held, event: PacketRefunded) -> None:
        bought = held.purchases[event.merchant, event.order]
        back = event.to_packet_minor + event.reclaimed_minor
        bought.packet_back += back
        bought.own_back += event.to_own_minor
        assert bought.packet_back <= bought.packet, "I7: refunds ≤ paid"
        assert bought.own_back <= bought.own, "nobody gets back more of their own than they paid"
        if self.orders.get(held.claim.campaign) == "own_first":
            assert not bought.packet_back or bought.own_back == bought.own, "own money first"
        else:
            assert not bought.own_back or bought.packet_back == bought.packet, "packet first"
        if held.ended or event.at >= held.claim.valid_until:
            assert event.to_packet_minor == 0, "a packet that has ended is not filled again"
            self.returned[held.claim.campaign] += back if event.to == "sponsor" else 0
        else:
            assert event.reclaimed_minor == 0, "while it can be spent a refund goes into it"
        held.balance += event.to_packet_minor

    def _ended(self, held: Held, event: PacketExpired | PacketWalletClosed) -> None:
        assert not held.ended, "a packet ends once"
        assert event.amount_minor == held.balance, "all that is left goes back"
        is_over = event.at >= held.claim.valid_until
        assert is_over == isinstance(event, PacketExpired), "validity ends by the clock"
        held.balance, held.ended = 0, True
        self.returned[held.claim.campaign] += event.amount_minor if event.to == "sponsor" else 0

    def _campaign(self, event: Event) -> None:
        campaign = event.originator_id
        match event:
            case CampaignFunded():
                self.funded[campaign] += event.budget_change_minor
            case CampaignRolledOver():  # it came in with the next event, of the same decision
                self.returned[campaign] += event.amount_minor
                self.funded[event.into] += event.amount_minor
            case BudgetReclaimed():
                self.returned[campaign] += event.amount_minor
            case _:
                pass

    def _check_money(self) -> None:
        """Every campaign's funds are in its pot, in packets, with merchants, or went back."""
        parts: defaultdict[UUID, int] = defaultdict(int)
        for stream, held in self.held.items():
            balance = self.trial.balance(f"packet:{stream.hex}", "CNY")
            assert balance == held.balance, "a packet's account is its balance"
            spent = sum(one.packet - one.packet_back for one in held.purchases.values())
            parts[held.claim.campaign] += held.balance + spent
        for campaign, funded in self.funded.items():
            pot = self.trial.balance(f"campaign:{campaign.hex}", "CNY")
            found = pot + parts[campaign] + self.returned[campaign]
            assert found == funded, "funds = pot + packets + spent + returned"


class PacketLife(RuleBasedStateMachine):
    """People, merchants, operators and a sweeper at work on packets of one book."""

    datastore: Datastore
    owner: Datastore
    is_verified = True

    def __init__(self) -> None:
        super().__init__()
        book = next(_books)
        self.desks = [Desk(self.datastore, book), Desk(self.datastore, book)]
        self.book = self.desks[0].book
        self.now: datetime = NOON
        self.numbers = itertools.count()
        self.truth = Truth()
        self.position = 0
        self.next = self._drafted("next", terms_of())
        self.campaigns: list[UUID] = []
        self.packets: list[UUID] = []
        self.sent: list[tuple[c.Command, Actor, str, Answer]] = []

    def teardown(self) -> None:
        """I9: in the end every rule holds for the book, and every read model is its fold."""
        for desk in self.desks:
            desk.close()
        if not self.is_verified:
            return
        history = History(self.datastore, self.book, MAPPER)
        standing = history.standing()
        assert list(verify_book(self.book, history.entries(0, standing.position), standing)) == []
        check_figures(history.entries(0, standing.position))
        for projection in PROJECTIONS:
            runner = Runner(self.datastore, projection, self.book, "machine")
            while runner.run_once():
                pass
        assert verify(self.owner, books=[self.book]) == []

    def submit(
        self, command: c.Command, by: Actor, key: str | None = None, desk: int = 0
    ) -> Future[Answer]:
        """Queue a command at one of the two writers."""
        key = key or f"k{next(self.numbers)}"
        return self.desks[desk].submit(command, by, key, at=self.now)

    def send(self, command: c.Command, by: Actor) -> str:
        """Send one command and keep it for a repetition; return the code of its answer."""
        own = f"k{next(self.numbers)}"
        answer = self.submit(command, by, own).result(20)
        self.sent.append((command, by, own, answer))
        return answer.code

    def _drafted(self, name: str, terms: Terms) -> UUID:
        campaign = c.campaign_id(self.book, ALICE, name)
        draft = c.DraftCampaign(self.book, campaign, "Any", SPONSOR, terms)
        assert self.submit(draft, ALICE, name).result(20).code == "drafted"
        return campaign

    # What people do

    @initialize(kind=KINDS, order=REFUND_ORDERS, rolls=st.booleans())
    def begin(self, kind: str, order: RefundOrder, rolls: bool) -> None:
        """A campaign, and two people who have used their packets once, and tried it elsewhere."""
        self.launch(kind, order, rolls)
        self.claim(0, 1)
        self.claim(0, 2)
        self.pay(0, "mall", "o-1", 60)
        self.pay(1, "mall", "o-1", 350)
        self.pay(0, MERCHANTS[2], "o-2", 1)

    @precondition(lambda self: self.now < ENDS and len(self.campaigns) < 3)
    @rule(kind=KINDS, order=REFUND_ORDERS, rolls=st.booleans())
    def launch(self, kind: str, order: RefundOrder, rolls: bool) -> None:
        """A campaign of four packets, opened at once."""
        shared: Any = {
            "tiers": {"tiers": (Tier(100, 3), Tier(500, 1))},
            "split": {"split": Split(1_000, 4)},
        }.get(kind, {})
        terms = terms_of(
            kind="packet",
            face_minor={"tiers": 100, "split": 1}.get(kind, 300),
            merchants=list(MERCHANTS[:2]),
            claim_until=ENDS,
            valid_until=ENDS,
            packet=PacketTerms(
                **shared,
                refund_order=order,
                leftover="next_round" if rolls else "sponsor",
                next_round=self.next if rolls else None,
            ),
        )
        name = f"launch{next(self.numbers)}"
        campaign = c.campaign_id(self.book, ALICE, name)
        self.truth.orders[campaign] = order
        budget = {"tiers": 800, "split": 1_000}.get(kind, 1_200)
        self.campaigns.append(self.desks[0].opened(4, terms, budget, name))

    @rule(which=WHICH, n=st.integers(1, 3))
    def claim(self, which: int, n: int) -> None:
        """Somebody claims, who may have a packet already."""
        campaign = self.campaigns[which % len(self.campaigns)]
        command = c.ClaimCoupon(self.book, campaign, person(n), key)
        if self.send(command, tourist(person(n))) == "claimed":
            self.packets.append(coupon_id(campaign, person(n), 1))

    def packet(self, which: int) -> UUID:
        """One of the packets that somebody has or had."""
        return self.packets[which % len(self.packets)]

    def pay_of(self, packet: UUID, merchant: str, order: str, total: int) -> Any:
        """A payment, and who asks for it."""
        asked = p.PayFromPacket(self.book, packet, merchant, None, order, cny(total))
        return asked, Actor("merchant", merchant)

    def refund_of(self, packet: UUID, merchant: str, order: str, amount: int | None) -> Any:
        """A refund, and who asks for it."""
        money = None if amount is None else cny(amount)
        asked = p.RefundPayment(self.book, packet, merchant, order, money, "returned")
        return asked, Actor("merchant", merchant)

    @rule(
        which=WHICH,
        merchant=st.sampled_from(MERCHANTS),
        order=st.sampled_from(ORDERS),
        total=st.sampled_from([1, 60, 100, 250]),
    )
    def pay(self, which: int, merchant: str, order: str, total: int) -> None:
        """A merchant takes a payment."""
        self.send(*self.pay_of(self.packet(which), merchant, order, total))

    @rule(
        which=WHICH,
        merchant=st.sampled_from(MERCHANTS[:2]),
        order=st.sampled_from(ORDERS),
        amount=st.sampled_from([None, 1, 60, 120]),
    )
    def refund(self, which: int, merchant: str, order: str, amount: int | None) -> None:
        """A merchant gives a payment back, or some of it."""
        self.send(*self.refund_of(self.packet(which), merchant, order, amount))

    @rule(
        which=WHICH,
        order=st.sampled_from(ORDERS),
        parts=st.lists(st.sampled_from([1, 60, 120]), min_size=1, max_size=3),
    )
    def shop_and_return(self, which: int, order: str, parts: list[int]) -> None:
        """More than is in the packet is bought, and comes back in parts."""
        packet = self.packet(which)
        self.send(*self.pay_of(packet, "mall", order, 350))
        for part in parts:
            self.send(*self.refund_of(packet, "mall", order, part))

    @rule(which=WHICH)
    def close_wallet(self, which: int) -> None:
        """The holder's wallet is closed."""
        self.send(p.CloseWallet(self.book, self.packet(which), "closed"), ALICE)

    @rule(which=WHICH)
    def expire(self, which: int) -> None:
        """The sweeper believes that the packet has expired."""
        self.send(p.ExpirePacket(self.book, self.packet(which)), SWEEPER)

    @rule(which=WHICH, order=st.sampled_from(ORDERS), total=st.sampled_from([60, 400]))
    def race(self, which: int, order: str, total: int) -> None:
        """Two tills, a refund, the sweeper and the wallet's operator at once, at two writers."""
        packet = self.packet(which)
        asked = [
            self.pay_of(packet, "mall", order, total),
            self.pay_of(packet, "mall", order, total),
            self.refund_of(packet, "mall", order, None),
            (p.ExpirePacket(self.book, packet), SWEEPER),
            (p.CloseWallet(self.book, packet, "closed"), ALICE),
        ]
        futures = [
            self.submit(command, by, desk=number % 2) for number, (command, by) in enumerate(asked)
        ]
        codes = [future.result(20).code for future in futures]
        assert codes[:2].count("paid") <= 1, "an order is paid once"
        assert codes[3:] != ["expired", "wallet_closed"], "a packet ends once"

    @rule(which=WHICH)
    def everything_comes_back_late(self, which: int) -> None:
        """After the validity, with or without a recorded expiry."""
        self.now = max(self.now, ENDS)
        for order in ORDERS:
            self.send(*self.refund_of(self.packet(which), "mall", order, None))

    @rule(which=WHICH)
    def repeat(self, which: int) -> None:
        """I4: the same key gets the same answer, byte for byte, and has no second effect."""
        command, by, own, answer = self.sent[which % len(self.sent)]
        again = self.submit(command, by, own, desk=1).result(20)
        assert (again.code, again.body, again.position) == answer[:3]
        assert again.replayed

    @rule(hours=st.sampled_from([1, 47, 48]))
    def time_goes_by(self, hours: int) -> None:
        """The clock moves on."""
        self.now += timedelta(hours=hours)

    @rule(which=WHICH)
    def close_and_finish(self, which: int) -> None:
        """The campaign is over; leftovers move on, and the seed is shown."""
        campaign = self.campaigns[which % len(self.campaigns)]
        self.send(c.CloseCampaign(self.book, campaign, "over"), BOB)
        self.send(RollOver(self.book, campaign), SWEEPER)
        self.send(ShowSplit(self.book, campaign, split_seed(DRAW_KEY, campaign, 4)), SWEEPER)

    @invariant()
    def every_fen_is_where_the_events_say(self) -> None:
        """Fold what was stored since the last look."""
        for position, event in enumerate(self.desks[0].events(), 1):
            if position > self.position:
                self.truth.add(event)
                self.position = position

    @invariant()
    def the_capacity_is_what_the_events_add_up_to(self) -> None:
        """The pot is what the capacity row says."""
        for campaign in self.truth.orders:
            _, _, granted, budget = self.desks[0].capacity(campaign)
            pot = self.truth.trial.balance(f"campaign:{campaign.hex}", "CNY")
            assert budget - granted == pot


@pytest.fixture
def life(datastore: Datastore, database_url: str) -> Iterator[type[PacketLife]]:
    """The machine on a fresh database; every run has a book of its own."""
    with given_stores(PacketLife, datastore, database_url):
        yield PacketLife


@pytest.mark.slow
def test_every_fen_is_where_the_events_say(life: type[PacketLife]) -> None:
    """Spend ∥ refund ∥ expire ∥ close, in whatever order and at once."""
    run(life, 10, 25, shrinks=True)


# --- controls -------------------------------------------------------------------------------------


def _plant_pays_more_than_there_is(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(p, "parts_of_payment", lambda _, total: Parts(total, 0))


def _plant_orders_paid_twice(patch: pytest.MonkeyPatch) -> None:
    decide = p.PayFromPacket.decide

    def forgetful(self: p.PayFromPacket, view: Any, header: c.Header) -> c.Decision:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(packets.Packet, "payment_for", lambda *_: None)
            return decide(self, view, header)

    patch.setattr(p.PayFromPacket, "decide", forgetful)


def _plant_pays_after_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(p, "_require_spendable", lambda *_: None)


def _plant_pays_everywhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(p.PayFromPacket, "_require_taken_here", lambda *_: None)


class _At:
    """A view of the same book at another instant."""

    def __init__(self, view: Any, now: datetime) -> None:
        self._view = view
        self.now = now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


def _at(patch: pytest.MonkeyPatch, command: Any, now: datetime) -> None:
    decide = command.decide
    patch.setattr(
        command, "decide", lambda self, view, header: decide(self, _At(view, now), header)
    )


def _plant_expires_too_early(patch: pytest.MonkeyPatch) -> None:
    _at(patch, p.ExpirePacket, ENDS)


def _plant_late_refunds_fill_the_packet(patch: pytest.MonkeyPatch) -> None:
    _at(patch, p.RefundPayment, NOON)


def _plant_refunds_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(packets, "_after_refund", lambda payment, _: payment)


def _plant_refunds_in_the_other_order(patch: pytest.MonkeyPatch) -> None:
    right = parts_of_refund
    other: dict[RefundOrder, RefundOrder] = {
        "own_first": "packet_first",
        "packet_first": "own_first",
    }
    patch.setattr(p, "parts_of_refund", lambda one, minor, order: right(one, minor, other[order]))


def _plant_capacity_keeps_what_went_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(p, "_given_back", lambda *_: ())


def _plant_refunds_without_postings(patch: pytest.MonkeyPatch) -> None:
    rules: dict[Any, Any] = accounting._RULES
    patch.setitem(rules, PacketRefunded, lambda _: ())


def _plant_cash_instead_of_packet(patch: pytest.MonkeyPatch) -> None:
    """A refund pays packet money out to the payer."""
    patch.setattr(p, "parts_of_refund", lambda _, minor, __: Parts(0, minor))


def _plant_shares_from_nowhere(patch: pytest.MonkeyPatch) -> None:
    """A share is the mean: it sums up, but the committed seed says something else."""
    patch.setattr(sharing, "share", lambda _seed, _index, minor, count: minor // count)
    patch.setattr(PacketLife, "is_verified", True)


RED = (AssertionError, psycopg2.Error, KeyError, pytest.fail.Exception, FlakyFailure)
"""How a run fails; a failing race need not fail again when it is tried again."""

PLANTED = [
    _plant_pays_more_than_there_is,
    _plant_orders_paid_twice,
    _plant_pays_after_the_end,
    _plant_pays_everywhere,
    _plant_expires_too_early,
    _plant_late_refunds_fill_the_packet,
    _plant_refunds_are_forgotten,
    _plant_refunds_in_the_other_order,
    _plant_capacity_keeps_what_went_back,
    _plant_refunds_without_postings,
    _plant_cash_instead_of_packet,
    _plant_shares_from_nowhere,
]


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.removeprefix("_plant_"))
def test_a_planted_bug_is_found(
    life: type[PacketLife],
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
) -> None:
    """Control: the machine goes red on each rule that somebody forgot."""
    monkeypatch.setattr(PacketLife, "is_verified", False)  # it takes most of a run's time
    plant(monkeypatch)
    with pytest.raises(RED):
        hunt(life, 100, 20)
