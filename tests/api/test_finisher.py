"""The finisher: leftovers move on and seeds are shown, once, whoever else does it too."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import pytest

from api.finisher import Finisher
from api.sweeper import Sweeper, Swept
from campaigns import commands as c
from campaigns.packets import commands as p
from campaigns.packets.terms import PacketTerms, Split
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.money import Money
from tests.api.test_sweeper import projecting
from tests.conftest import wait_until
from tests.support.desk import ALICE, DRAW_KEY, NOON, Desk, person, terms_of, tourist

MALL = Actor("merchant", "mall")
ENDS = NOON + timedelta(days=2)


def key() -> bytes:
    """The ledger's draw key."""
    return DRAW_KEY


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on a fresh book."""
    desk = Desk(datastore)
    yield desk
    desk.close()


def split(desk: Desk, name: str = "split", next_round: UUID | None = None) -> UUID:
    """A campaign of three shares of ten yuan, of which one is claimed."""
    packet = PacketTerms(
        split=Split(1_000, 3),
        leftover="sponsor" if next_round is None else "next_round",
        next_round=next_round,
    )
    terms = terms_of(kind="packet", face_minor=1, packet=packet, valid_until=ENDS)
    campaign = desk.opened(3, terms, 1_000, name)
    claim = c.ClaimCoupon(desk.book, campaign, person(1), key)
    assert desk.send(claim, tourist(person(1))).code == "claimed"
    return campaign


def close(desk: Desk, campaign: UUID) -> None:
    """Close a campaign."""
    assert desk.send(c.CloseCampaign(desk.book, campaign, "over"), ALICE).code == "closed"


def topics(desk: Desk) -> Counter[str]:
    """How many events of each topic there are."""
    return Counter(event.TOPIC for event in desk.events())


def test_leftovers_move_on_and_the_seed_is_shown_once(desk: Desk, datastore: Datastore) -> None:
    """After the close and not before; a second pass finds nothing to do."""
    after = desk.drafted(terms_of(), "next")
    campaign = split(desk, next_round=after)
    finisher = Finisher(datastore, desk.writer, key)
    assert finisher.sweep(NOON) == []
    close(desk, campaign)
    assert [done.code for done in finisher.sweep(NOON)] == ["rolled_over", "split_shown"]
    assert finisher.sweep(NOON) == []
    assert (topics(desk)["campaign.rolled_in"], topics(desk)["campaign.split_shown"]) == (1, 1)


def test_what_comes_back_late_moves_on_later(desk: Desk, datastore: Datastore) -> None:
    """The same finisher sees it, long after it has finished the campaign."""
    after = desk.drafted(terms_of(), "next")
    packet = PacketTerms(leftover="next_round", next_round=after)
    campaign = desk.opened(1, terms_of(kind="packet", packet=packet, valid_until=ENDS))
    held = desk.claimed(campaign, person(1))
    pay = p.PayFromPacket(desk.book, held, "mall", None, "o-1", Money(500, "CNY"))
    assert desk.send(pay, MALL).code == "paid"
    close(desk, campaign)
    finisher = Finisher(datastore, desk.writer, key)
    assert finisher.sweep(NOON) == []
    back = p.RefundPayment(desk.book, held, "mall", "o-1", None, "late")
    assert desk.send(back, MALL, at=ENDS).code == "refunded"
    assert [done.code for done in finisher.sweep(ENDS)] == ["rolled_over"]
    assert desk.capacity(after) == (0, 0, 0, 500)


def test_two_finishers_do_everything_once(desk: Desk, datastore: Datastore) -> None:
    """Whoever comes second is refused by the writer, and nothing moves twice."""
    other = Desk(datastore)
    other._keys = (f"other-{n}" for n in range(1_000))
    after = desk.drafted(terms_of(), "next")
    for n in range(3):
        close(desk, split(desk, f"split {n}", after))
    finishers = [Finisher(datastore, one.writer, key) for one in (desk, other)]
    threads = [threading.Thread(target=finisher.sweep, args=(NOON,)) for finisher in finishers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    seen = topics(desk)
    assert (seen["campaign.rolled_over"], seen["campaign.split_shown"]) == (3, 3)


def test_another_draw_key_shows_nothing_and_hinders_nobody(
    desk: Desk, datastore: Datastore, caplog: pytest.LogCaptureFixture
) -> None:
    """The leftovers move on; the seed waits for the right key, and the log says so."""
    after = desk.drafted(terms_of(), "next")
    close(desk, split(desk, next_round=after))
    wrong = Finisher(datastore, desk.writer, lambda: b"x" * 32)
    assert [done.code for done in wrong.sweep(NOON)] == ["rolled_over"]
    assert "the draw key is not the one" in caplog.text
    right = Finisher(datastore, desk.writer, key)
    assert [done.code for done in right.sweep(NOON)] == ["split_shown"]


def test_it_runs_until_it_is_told_to_end(desk: Desk, datastore: Datastore) -> None:
    """What is due is done soon; what is not due yet is looked at again."""
    campaign = split(desk)
    stop = threading.Event()
    finisher = Finisher(datastore, desk.writer, key, by_the_book=True)
    thread = threading.Thread(target=finisher.run, args=(stop, 0.01))
    thread.start()
    close(desk, campaign)
    wait_until(lambda: topics(desk)["campaign.split_shown"] == 1)
    stop.set()
    thread.join()


def test_the_sweeper_expires_packets_with_money_in_them(desk: Desk, datastore: Datastore) -> None:
    """An empty packet has nothing to give back, and a coupon is swept beside them."""
    campaign = desk.opened(3, terms_of(kind="packet", packet=PacketTerms(), valid_until=ENDS))
    packets = [desk.claimed(campaign, person(n)) for n in range(3)]
    pay = p.PayFromPacket(desk.book, packets[0], "mall", None, "o-1", Money(500, "CNY"))
    assert desk.send(pay, MALL).code == "paid"
    desk.claimed(desk.opened(1, terms_of(valid_until=ENDS), key="coupons"), person(1))
    with projecting(datastore):
        sweeper = Sweeper(datastore, desk.writer, batch=2)
        assert sweeper.sweep(ENDS - timedelta(microseconds=1)) == Swept()
        assert sweeper.sweep(ENDS) == Swept(expired=3)
        assert sweeper.sweep(ENDS) == Swept()
    seen = topics(desk)
    assert (seen["packet.expired"], seen["coupon.expired"]) == (2, 1)
