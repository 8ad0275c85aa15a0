"""Packets under kills and races: all of a decision or none (F40), and money once (F41).

Goal: a claim of a share, a payment, a late refund, the end of a wallet and a roll-over are events,
changes of capacity and a reply; whenever a kill comes, they are together (I4, I6, I12). An expiry
that meets a payment leaves one winner and every fen where it belongs (I6, I7).
Method: the writer's connection, or the server behind it, is killed before, in the middle of and
after the writing, and the same key is sent until it is answered; two writers race.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from msgspec.structs import replace

from api.embedded import EmbeddedPostgres
from campaigns import commands as c
from campaigns.accounting import postings_of
from campaigns.campaign import Campaign
from campaigns.coupon import coupon_id
from campaigns.event_types import MAPPER
from campaigns.packets import commands as p
from campaigns.packets.packet import Packet
from campaigns.packets.rolling import RollOver
from campaigns.packets.terms import PacketTerms, Split
from campaigns.verification import CODES, Audit
from ledger.books import Book
from ledger.commit import Answer
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import History
from ledger.migrations import migrate
from ledger.postings import TrialBalance
from ledger.reply_verification import verify_replies
from ledger.session import Session, Writes
from tests.conftest import wait_until
from tests.faults.test_group_kills import (
    WHEN,
    KillOnce,
    Session_commit,
    cut_the_connection,
    kill_the_process,
    one_by_one,
    until_answered,
)
from tests.support.desk import ALICE, NOON, Desk, person, terms_of, tourist
from tests.support.groups import key
from tests.support.packets import cny

MALL = Actor("merchant", "mall")
SWEEPER = Actor("sweeper", "system")
BOOK = Book("main")
ENDS = NOON + timedelta(days=2)
EXPECTED: Final = [
    "claimed",
    "claimed",
    "paid",
    "wallet_closed",
    "refunded",
    "closed",
    "rolled_over",
]


@pytest.fixture
def desk(databases: Any) -> Iterator[Desk]:
    """A desk on a database of its own."""
    with databases.fresh() as url:
        datastore = Datastore(url)
        desk = Desk(datastore)
        yield desk
        desk.close()
        datastore.close()


def story(desk: Desk, cut: Callable[[], None]) -> list[str]:
    """Claim two shares, pay, close a wallet, return late, close and roll over; cut off each."""
    after = desk.drafted(terms_of(), "next")
    packet = PacketTerms(split=Split(1_000, 4), leftover="next_round", next_round=after)
    terms = terms_of(kind="packet", face_minor=1, packet=packet, valid_until=ENDS)
    campaign = desk.opened(4, terms, 1_000)
    first, second = (coupon_id(campaign, person(n), 1) for n in (1, 2))
    asked: list[tuple[c.Command, Actor, Any]] = [
        *(
            (c.ClaimCoupon(BOOK, campaign, person(n), key), tourist(person(n)), NOON)
            for n in (1, 2)
        ),
        (p.PayFromPacket(BOOK, first, "mall", None, "o-1", cny(5_000)), MALL, NOON),
        (p.CloseWallet(BOOK, second, "closed"), ALICE, NOON),
        (p.RefundPayment(BOOK, first, "mall", "o-1", None, "late"), MALL, ENDS),
        (c.CloseCampaign(BOOK, campaign, "over"), ALICE, ENDS),
        (RollOver(BOOK, campaign), ALICE, ENDS),
    ]
    codes = []
    for number, (command, by, at) in enumerate(asked):
        cut()
        codes.append(answered(desk, command, by, f"step-{number}", at).code)
    return codes


def answered(desk: Desk, command: c.Command, by: Actor, own: str, at: Any) -> Answer:
    """Ask with one key until the store says something."""
    return until_answered(lambda: desk.send(command, by, own, at=at))


def problems(desk: Desk) -> list[str]:
    """Return what is wrong with the book, its capacity and its kept replies."""
    history = History(desk.datastore, "main", MAPPER)
    audit = Audit("main")
    standing = history.standing()
    for entry in history.entries(0, standing.last):
        audit.feed(entry)
    audit.finish(standing)
    found = [str(one) for one in audit.take_findings()]
    return found + [str(one) for one in verify_replies(history, audit.book, MAPPER, CODES)]


def check_whole(desk: Desk) -> None:
    """Every decision is there as a whole, once, and every fen is in the next round's pot."""
    topics = Counter(event.TOPIC for event in desk.events())
    assert topics["packet.claimed"] == 2
    for once in ("packet.paid", "packet.refunded", "packet.wallet_closed", "campaign.rolled_in"):
        assert topics[once] == 1
    assert problems(desk) == []
    trial = trial_of(desk)
    assert trial.total("packet", "CNY") == trial.total("merchant", "CNY") == 0
    assert trial.total("campaign", "CNY") == -trial.total("sponsor", "CNY") == 1_000


def trial_of(desk: Desk) -> TrialBalance:
    """Every account after all events."""
    trial = TrialBalance()
    for event in desk.events():
        trial.post(postings_of(event))
    return trial


def cutting(monkeypatch: pytest.MonkeyPatch, when: str, kill: Any) -> Callable[[], None]:
    """Return what makes the next commit one that is cut off."""

    def cut() -> None:
        once = KillOnce(Session_commit, when, kill)

        def commit(session: Session, book: str, after: int, writes: Writes) -> None:
            once(session, book, after, writes)

        monkeypatch.setattr(Session, "commit", commit)

    return cut


@pytest.mark.fault
@pytest.mark.parametrize("when", WHEN)
def test_a_lost_connection_leaves_all_of_a_packets_step_or_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Cut off before, in the middle of or after the writing: each decision is there once."""
    assert story(desk, cutting(monkeypatch, when, cut_the_connection)) == EXPECTED
    check_whole(desk)


@pytest.mark.fault
@pytest.mark.slow
def test_a_killed_server_leaves_all_of_a_packets_step_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F40: SIGKILL between the rows and COMMIT of every step in a packet's life."""
    with EmbeddedPostgres(tmp_path) as server:
        migrate(server.url)
        datastore = Datastore(server.url)
        desk = Desk(datastore)
        assert story(desk, cutting(monkeypatch, "between", kill_the_process)) == EXPECTED
        wait_until(lambda: bool(until_readable(desk)))
        check_whole(desk)
        desk.close()
        datastore.close()


def until_readable(desk: Desk) -> Any:
    """Return the book's events, none while the server is not back yet."""
    try:
        return desk.events()
    except Exception:  # noqa: BLE001 - whatever the driver says meanwhile
        return None


@pytest.mark.fault
def test_without_one_transaction_a_close_keeps_the_sponsors_money(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: written event by event, a kill leaves a pot that nobody has and nobody gets back."""
    campaign = desk.opened(2, terms_of(kind="packet", packet=PacketTerms()))
    monkeypatch.setattr(Session, "commit", one_by_one)
    close = c.CloseCampaign(BOOK, campaign, "over")
    assert answered(desk, close, ALICE, "close", NOON).code == "wrong_state"
    topics = Counter(event.TOPIC for event in desk.events())
    assert topics["campaign.closed"] != topics["campaign.budget_reclaimed"]
    assert problems(desk) != []


# --- an expiry meets a payment --------------------------------------------------------------------

PEOPLE: Final = 12


def race(desk: Desk, other: Desk) -> Counter[str]:
    """For each packet let a till and the sweeper ask at once, at two writers, around its end."""
    terms = terms_of(kind="packet", face_minor=500, packet=PacketTerms(), valid_until=ENDS)
    campaign = desk.opened(PEOPLE, terms)
    packets = [desk.claimed(campaign, person(n)) for n in range(PEOPLE)]

    def at_once(packet: UUID) -> list[str]:
        pay = p.PayFromPacket(BOOK, packet, "mall", None, "o-1", cny(500))
        asked = [
            (desk, pay, MALL, ENDS - timedelta(microseconds=1)),
            (other, p.ExpirePacket(BOOK, packet), SWEEPER, ENDS),
        ]
        with ThreadPoolExecutor(2) as threads:
            sent = [threads.submit(one.send, what, by, at=at) for one, what, by, at in asked]
            return [future.result(20).code for future in sent]

    return Counter(code for packet in packets for code in at_once(packet))


@pytest.fixture
def other(desk: Desk) -> Iterator[Desk]:
    """Another process's writer of the same book."""
    other = Desk(desk.datastore)
    other._keys = (f"other-{n}" for n in range(1_000))
    yield other
    other.close()


@pytest.mark.fault
def test_an_expiry_and_a_payment_have_one_winner(desk: Desk, other: Desk) -> None:
    """F41: either the merchant has the money or the sponsor, and the book says which came first."""
    codes = race(desk, other)
    assert codes["paid"] + codes["expired"] == PEOPLE
    assert codes["packet_expired"] == codes["expired"]
    assert codes["packet_empty"] == codes["paid"]
    trial = trial_of(desk)
    assert not trial.overdrawn()
    assert trial.total("packet", "CNY") == 0
    assert trial.total("merchant", "CNY") == 500 * codes["paid"]
    assert -trial.total("sponsor", "CNY") == 500 * codes["paid"]
    assert problems(desk) == []


@pytest.mark.fault
def test_without_the_lock_an_expiry_and_a_payment_both_win(
    desk: Desk, other: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: decided on what was read before, the money is paid and goes back as well."""
    known = p.PacketCommand._known
    read: dict[UUID, Packet] = {}

    def stale(self: p.PacketCommand, view: Any) -> tuple[Packet, Campaign]:
        packet, campaign = known(self, view)
        before = read.setdefault(packet.id, packet)
        return replace(before, version=packet.version), campaign

    monkeypatch.setattr(p.PacketCommand, "_known", stale)
    monkeypatch.setattr(p, "_require_spendable", lambda *_: None)
    codes = race(desk, other)
    assert codes["paid"] + codes["expired"] > PEOPLE
    assert trial_of(desk).overdrawn()
    assert problems(desk) != []
