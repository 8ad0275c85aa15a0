"""The worked example of docs/packets.md, sent to a real book and compared cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from uuid import UUID

import pytest

from campaigns import commands as c
from campaigns.accounting import postings_of
from campaigns.coupon import coupon_id
from campaigns.event_types import EVENT_TYPES
from campaigns.packets import commands as p
from campaigns.packets.packet import PacketPaid, PacketRefunded
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.money import Money
from ledger.postings import TrialBalance
from tests.docs.pages import page
from tests.support.desk import ALICE, NOON, Desk, person
from tests.support.packets import ENDS, MALL, SWEEPER, packet_terms

PACKETS = page("docs/packets.md")
ACCOUNTS = ("sponsor", "campaign", "packet", "merchant")
ROWS = PACKETS.table("step", "events", *ACCOUNTS, "own")
LI, WANG = person(1), person(2)


class Story:
    """The example's steps, by the words of the document."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.campaign = desk.drafted(packet_terms())
        self.steps: dict[str, Callable[[], object]] = {
            "fund 3 for 60000": self.fund,
            "Li claims": lambda: desk.claimed(self.campaign, LI),
            "Li pays 12600": lambda: self.pay("o-1", 12_600),
            "Li pays 10000": lambda: self.pay("o-2", 10_000),
            "5000 of that come back": lambda: self.refund("o-2", 5_000, NOON),
            "Wang claims": lambda: desk.claimed(self.campaign, WANG),
            "Wang's wallet is closed": lambda: self.end(
                p.CloseWallet(desk.book, self.packet(WANG), "closed"), ALICE, NOON
            ),
            "close": lambda: desk.send(
                c.CloseCampaign(desk.book, self.campaign, "the week is over"), ALICE
            ),
            "Li's packet expires": lambda: self.end(
                p.ExpirePacket(desk.book, self.packet(LI)), SWEEPER, ENDS
            ),
            "the first order comes back late": lambda: self.refund("o-1", None, ENDS),
        }

    def packet(self, who: str) -> UUID:
        return coupon_id(self.campaign, who, 1)

    def fund(self) -> None:
        self.desk.fund(self.campaign, 3, 60_000)
        self.desk.send(c.OpenCampaign(self.desk.book, self.campaign), ALICE)

    def pay(self, order: str, total: int) -> None:
        money = Money(total, "CNY")
        command = p.PayFromPacket(self.desk.book, self.packet(LI), "mall", None, order, money)
        assert self.desk.send(command, MALL).code == "paid"

    def refund(self, order: str, amount: int | None, at: datetime) -> None:
        money = None if amount is None else Money(amount, "CNY")
        command = p.RefundPayment(self.desk.book, self.packet(LI), "mall", order, money, "back")
        assert self.desk.send(command, MALL, at=at).code == "refunded"

    def end(self, command: c.Command, by: Actor, at: datetime) -> None:
        assert self.desk.send(command, by, at=at).code in {"wallet_closed", "expired"}

    def seen_after(self, step: str) -> tuple[list[str], list[int]]:
        """Take a step; return its events, and the balances as the document tells them."""
        before = len(self.desk.events())
        self.steps[step]()
        events = self.desk.events()
        trial = TrialBalance()
        own = 0
        for event in events:
            trial.post(postings_of(event))
            own += event.own_minor if isinstance(event, PacketPaid) else 0
            own -= event.to_own_minor if isinstance(event, PacketRefunded) else 0
        assert trial.is_zero
        assert not trial.overdrawn()
        told = ("campaign.funding_proposed", "campaign.opened")
        topics = [event.TOPIC for event in events[before:] if event.TOPIC not in told]
        return topics, [*(trial.total(kind, "CNY") for kind in ACCOUNTS), own]


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on a fresh book."""
    desk = Desk(datastore)
    yield desk
    desk.close()


def test_the_worked_example_is_what_happens(desk: Desk) -> None:
    """Every cell of the table is what the book says after that step."""
    story = Story(desk)
    assert [row[0] for row in ROWS] == list(story.steps)
    for step, events, *balances in ROWS:
        topics, seen = story.seen_after(step)
        assert [word.strip("` ") for word in events.split(",")] == topics, step
        assert [int(cell) for cell in balances] == seen, step


def test_every_row_of_the_example_sums_to_zero() -> None:
    """What the document prints is in balance by itself; own money is in no account."""
    for step, _, *balances, _ in ROWS:
        assert sum(int(cell) for cell in balances) == 0, step


def test_every_event_of_packets_that_moves_money_is_named() -> None:
    """The table of postings has each topic of packets."""
    rows = PACKETS.table("event", "money leaves", "and goes to", "amount")
    named = {word.strip("` ") for row in rows for word in row[0].split(",")}
    of_packets = {topic for topic in EVENT_TYPES.topics if topic.startswith("packet.")}
    assert named == of_packets | {"campaign.rolled_over"}
