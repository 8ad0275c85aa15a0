"""Packets as they are shown: balances, statements, and figures that sum up at every position."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from campaigns import commands as c
from campaigns.accounting import postings_of
from campaigns.coupon import coupon_id
from campaigns.event_types import MAPPER
from campaigns.packets import commands as p
from campaigns.packets.rolling import RollOver
from campaigns.packets.terms import PacketTerms
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import History
from ledger.money import Money
from ledger.postings import TrialBalance
from projections import campaign_figures as figures
from projections import merchant_balances as merchants
from projections import packets
from projections.campaign_figures import CAMPAIGN_FIGURES
from projections.merchant_balances import MERCHANT_BALANCES
from projections.packets import PACKETS
from projections.projection import Projection
from projections.rebuild import rebuild
from projections.runner import Runner
from projections.verification import verify
from tests.projections.helpers import catch_up, rows_of
from tests.support.desk import ALICE, BOB, NOON, Desk, person, terms_of
from tests.support.figures import check_figures

MALL, CAFE = Actor("merchant", "mall"), Actor("merchant", "cafe")
SWEEPER = Actor("sweeper", "system")
ENDS = NOON + timedelta(days=2)
OF_PACKETS = (PACKETS, CAMPAIGN_FIGURES, MERCHANT_BALANCES)


class Week:
    """A campaign in which everything happens to packets, and the round after it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.after = desk.drafted(terms_of(), "next")
        packet = PacketTerms(leftover="next_round", next_round=self.after)
        terms = terms_of(kind="packet", face_minor=20_000, packet=packet, valid_until=ENDS)
        self.campaign = desk.opened(5, terms, 100_000)
        one, two, _three = (desk.claimed(self.campaign, person(n)) for n in (1, 2, 3))
        self.pay(one, MALL, "a", 12_000)
        self.pay(one, CAFE, "b", 11_000)
        self.refund(one, CAFE, "b", 4_000)
        self.pay(two, MALL, "c", 20_000)
        self.send(p.CloseWallet(desk.book, two, "closed"), ALICE)
        self.refund(two, MALL, "c", 5_000)
        self.send(c.CloseCampaign(desk.book, self.campaign, "over"), BOB)
        self.send(RollOver(desk.book, self.campaign), SWEEPER)
        for packet_uuid in (one, self.packet(3)):
            self.send(p.ExpirePacket(desk.book, packet_uuid), SWEEPER, ENDS)
        self.refund(one, MALL, "a", None, ENDS)
        self.send(RollOver(desk.book, self.campaign), SWEEPER, ENDS)

    def packet(self, n: int) -> UUID:
        """The n-th person's packet."""
        return coupon_id(self.campaign, person(n), 1)

    def send(self, command: c.Command, by: Actor, at: Any = NOON) -> None:
        """Send a command that must have an effect."""
        before = len(self.desk.events())
        self.desk.send(command, by, at=at)
        assert len(self.desk.events()) > before

    def pay(self, packet: UUID, by: Actor, order: str, total: int) -> None:
        """Pay an order from a packet."""
        money = Money(total, "CNY")
        self.send(p.PayFromPacket(self.desk.book, packet, by.id, "1f", order, money), by)

    def refund(
        self, packet: UUID, by: Actor, order: str, amount: int | None, at: Any = NOON
    ) -> None:
        """Give an order back, or some of it."""
        money = None if amount is None else Money(amount, "CNY")
        self.send(p.RefundPayment(self.desk.book, packet, by.id, order, money, "back"), by, at)


@pytest.fixture
def week(datastore: Datastore) -> Iterator[Week]:
    """A book in which everything happened to packets."""
    desk = Desk(datastore)
    yield Week(desk)
    desk.close()


def test_figures_are_the_accounts_at_every_position(week: Week, datastore: Datastore) -> None:
    """Event by event: what is funded is in the pot, held, spent, returned or rolled over."""
    runner = Runner(datastore, CAMPAIGN_FIGURES, "main", "test")
    runner.batch_size.events = runner.batch_size.most = runner.batch_size.least = 1
    trial = TrialBalance()
    row = None
    for event in week.desk.events():
        assert runner.run_once() == 1
        trial.post(postings_of(event))
        with datastore.transaction() as cursor:
            row = figures.campaign(cursor, "main", week.campaign)
        if row is None:
            continue
        parts = (row.pot_minor, row.purses_minor, row.held_minor, row.spent_minor)
        assert row.funded_minor == sum(parts) + row.reclaimed_minor + row.rolled_minor
        assert row.pot_minor == trial.balance(f"campaign:{week.campaign.hex}", "CNY")
        assert row.held_minor == trial.total("packet", "CNY")
        assert row.spent_minor == trial.total("merchant", "CNY")
    assert row is not None
    assert (row.claimed, row.held, row.expired, row.wallets_closed) == (3, 0, 2, 1)
    assert (row.paid, row.refunded, row.funded_minor) == (3, 3, 100_000)
    assert row.rolled_minor + row.spent_minor == 100_000


def test_a_rule_that_forgets_money_is_seen(
    week: Week, datastore: Datastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: a payment that leaves what is held as it was, at its very position."""
    history = History(datastore, week.desk.book, MAPPER)
    assert check_figures(history.entries())[str(week.campaign)]["held_minor"] == 0

    def forgets(change: figures.Change, event: figures.PacketPaid) -> None:
        change.spent_minor += event.amount_minor

    rules: dict[Any, Any] = figures._IN_CAMPAIGN
    monkeypatch.setitem(rules, figures.PacketPaid, forgets)
    with pytest.raises(AssertionError):
        check_figures(history.entries())


def test_the_next_round_is_funded_by_what_rolled_in(week: Week, datastore: Datastore) -> None:
    """All that was not spent, in two arrivals."""
    catch_up(datastore, CAMPAIGN_FIGURES)
    with datastore.transaction() as cursor:
        old = figures.campaign(cursor, "main", week.campaign)
        new = figures.campaign(cursor, "main", week.after)
    assert old is not None
    assert new is not None
    assert new.rolled_in_minor == new.funded_minor == new.pot_minor == old.rolled_minor
    assert new.budget_minor == old.rolled_minor


@pytest.mark.usefixtures("week")
@pytest.mark.parametrize("projection", OF_PACKETS, ids=lambda one: one.name)
def test_a_rebuild_gives_the_rows_that_followed(
    datastore: Datastore, projection: Projection
) -> None:
    """In whatever batches the events came."""
    for size in (1, 3):
        runner = Runner(datastore, projection, "main", "test")
        runner.batch_size.events = size
        runner.run_once()
        with datastore.transaction() as cursor:
            runner.lease.release(cursor)
    catch_up(datastore, projection)
    live = rows_of(datastore, projection)
    rebuild(datastore, projection)
    assert rows_of(datastore, projection) == live


@pytest.mark.usefixtures("week")
def test_a_fresh_fold_finds_a_row_that_was_bent(datastore: Datastore, database_url: str) -> None:
    """Control: a balance that somebody changed differs from the events."""
    catch_up(datastore, PACKETS)
    owner = Datastore(database_url, session={"role": None})
    assert verify(owner, projections=[PACKETS]) == []
    with owner.transaction() as cursor:
        cursor.execute("UPDATE rm_packets.movement SET packet_minor = packet_minor + 1")
    found = verify(owner, projections=[PACKETS])
    owner.close()
    assert {one.code for one in found} == {"row_differs"}


def test_a_statement_adds_up_to_the_balance(week: Week, datastore: Datastore) -> None:
    """Each movement with what was in the packet after it; the last one is what is in it now."""
    catch_up(datastore, PACKETS)
    with datastore.transaction() as cursor:
        moved = packets.statement(cursor, "main", week.packet(1), limit=100)
        held = packets.packet(cursor, "main", week.packet(1))
    assert held is not None
    assert [one.kind for one in moved] == [
        *("claimed", "paid", "paid", "refunded", "expired", "refunded")
    ]
    assert [one.balance_minor for one in moved] == [20_000, 8_000, 0, 1_000, 0, 0]
    assert (held.shown, held.balance_minor, held.payments) == ("expired", 0, 2)
    assert moved[-1].reclaimed_minor == 12_000


def test_merchants_see_their_own_movements(week: Week, datastore: Datastore) -> None:
    """By packet and in all, the newest first; what they are owed is what the accounts say."""
    catch_up(datastore, PACKETS, MERCHANT_BALANCES)
    with datastore.transaction() as cursor:
        at_mall = packets.payments_at(cursor, "mall", limit=100)
        at_cafe = packets.statement_at(cursor, "main", week.packet(1), "cafe", limit=100)
        owed = {
            name: merchants.balances(cursor, name)[0].balance_minor for name in ("mall", "cafe")
        }
    listed = [(one.kind, one.order_no) for one in at_mall]
    assert listed[0] == ("refunded", "a"), "the last instant first; all others are of one instant"
    assert sorted(listed[1:]) == [("paid", "a"), ("paid", "c"), ("refunded", "c")]
    assert [one.kind for one in at_cafe] == ["paid", "refunded"]
    trial = TrialBalance()
    for event in week.desk.events():
        trial.post(postings_of(event))
    assert owed == {name: trial.balance(f"merchant:{name}", "CNY") for name in owed}


def test_what_is_due_is_held_and_not_empty(datastore: Datastore) -> None:
    """The oldest first, from the end of the validity on."""
    desk = Desk(datastore)
    campaign = desk.opened(2, terms_of(kind="packet", packet=PacketTerms(), valid_until=ENDS))
    full, empty = (desk.claimed(campaign, person(n)) for n in (1, 2))
    pay = p.PayFromPacket(desk.book, empty, "mall", None, "o-1", Money(500, "CNY"))
    assert desk.send(pay, MALL).code == "paid"
    desk.close()
    catch_up(datastore, PACKETS)
    with datastore.transaction() as cursor:
        early = packets.due_for_expiry(cursor, "main", ENDS - timedelta(microseconds=1), 10)
        assert early == []
        assert packets.due_for_expiry(cursor, "main", ENDS, 10) == [full]
        [worth] = packets.worth_of(cursor, person(1))
        assert worth == ("CNY", 1, 500)
        assert packets.worth_of(cursor, person(2)) == []
