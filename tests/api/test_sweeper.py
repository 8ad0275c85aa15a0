"""The sweeper: records every expiry once, whatever the wallets say and whoever else sweeps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from api.sweeper import SWEEPER, Sweeper, Swept
from campaigns.commands import RedeemCoupon
from campaigns.event_types import MAPPER
from ledger.commit import Closed, Limits
from ledger.datastore import Datastore
from ledger.history import History
from ledger.money import Money
from projections.packets import PACKETS
from projections.runner import Runner
from projections.tracking import wait_for
from projections.wallets import WALLETS, coupon
from tests.conftest import wait_until
from tests.support.desk import Desk, person, terms_of
from tests.support.proxy import Proxy
from tests.support.story import AFTER_VALIDITY, CAFE

VALID_UNTIL = terms_of().valid_until


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on a fresh book."""
    desk = Desk(datastore)
    yield desk
    desk.close()


@contextmanager
def projecting(datastore: Datastore) -> Iterator[None]:
    """Keep the wallets and the packets up to date meanwhile."""
    stop = threading.Event()
    runners = [Runner(datastore, one, "main", "test") for one in (WALLETS, PACKETS)]
    threads = [threading.Thread(target=runner.run, args=(stop,)) for runner in runners]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def project(datastore: Datastore) -> None:
    """Bring the wallets up to date once, and let the lease go."""
    head = History(datastore, "main", MAPPER).head()
    with projecting(datastore):
        assert all(wait_for(datastore, one, "main", head, 30) for one in (WALLETS, PACKETS))


def held_by(desk: Desk, people: int) -> list[UUID]:
    """Let people claim one coupon each of a campaign; return the coupons."""
    campaign = desk.opened(quota=people)
    return [desk.claimed(campaign, person(n)) for n in range(people)]


def states(datastore: Datastore, coupons: list[UUID]) -> list[str]:
    """Return the coupons' states in the wallets."""
    with datastore.transaction() as cursor:
        found = [coupon(cursor, "main", one) for one in coupons]
    return [one.state for one in found if one is not None]


def test_expires_what_is_due_in_many_batches(desk: Desk, datastore: Datastore) -> None:
    """Every held coupon past its validity, once, as a recorded event by the sweeper."""
    coupons = held_by(desk, 23)
    with projecting(datastore):
        swept = Sweeper(datastore, desk.writer, batch=5).sweep(AFTER_VALIDITY)
        assert swept == Swept(expired=23)
        assert states(datastore, coupons) == ["expired"] * 23
        assert Sweeper(datastore, desk.writer).sweep(AFTER_VALIDITY) == Swept()
    expiries = [event for event in desk.events() if event.TOPIC == "coupon.expired"]
    assert len(expiries) == 23
    assert {(event.by, event.at, event.why.key) for event in expiries} == {
        (SWEEPER, AFTER_VALIDITY, None)
    }


def test_leaves_alone_what_is_still_valid(desk: Desk, datastore: Datastore) -> None:
    """One instant before the end a coupon is valid; at the end it is not."""
    held_by(desk, 2)
    with projecting(datastore):
        sweeper = Sweeper(datastore, desk.writer)
        assert sweeper.sweep(VALID_UNTIL - timedelta(microseconds=1)) == Swept()
        assert sweeper.sweep(VALID_UNTIL) == Swept(expired=2)


def test_wallets_that_lag_are_only_a_hint(desk: Desk, datastore: Datastore) -> None:
    """A coupon that was redeemed meanwhile is judged again by the writer and stays redeemed."""
    used, held = held_by(desk, 2)
    project(datastore)
    redeem = RedeemCoupon(desk.book, used, "cafe", None, "o-1", Money(900, "CNY"))
    assert desk.send(redeem, CAFE).code == "redeemed"
    sweeper = Sweeper(datastore, desk.writer, shown_within_s=0.1)
    assert sweeper.sweep(AFTER_VALIDITY) == Swept(expired=1, refused=1, behind=True)
    assert sweeper.sweep(AFTER_VALIDITY) == Swept(expired=0, refused=2, behind=True)
    assert [event.TOPIC for event in desk.events()].count("coupon.expired") == 1
    project(datastore)
    assert states(datastore, [used, held]) == ["redeemed", "expired"]
    assert sweeper.sweep(AFTER_VALIDITY) == Swept()


def test_two_sweepers_expire_each_coupon_once(desk: Desk, datastore: Datastore) -> None:
    """With two writers at once, as two processes have, each expiry is recorded by one of them."""
    held_by(desk, 40)
    project(datastore)
    other = Desk(datastore)
    try:
        with projecting(datastore), ThreadPoolExecutor(2) as pool:
            writers = (desk.writer, other.writer)
            passes = [
                pool.submit(Sweeper(datastore, writer, batch=7).sweep, AFTER_VALIDITY)
                for writer in writers
            ]
            assert sum(one.result(60).expired for one in passes) == 40
    finally:
        other.close()
    assert [event.TOPIC for event in desk.events()].count("coupon.expired") == 40


def test_a_short_queue_is_not_overrun(datastore: Datastore) -> None:
    """A pass sends no more at once than the writer takes."""
    desk = Desk(datastore, limits=Limits(queue_max=3))
    try:
        held_by(desk, 12)
        with projecting(datastore):
            assert Sweeper(datastore, desk.writer).sweep(AFTER_VALIDITY) == Swept(expired=12)
    finally:
        desk.close()


def claimed_for_a_moment(desk: Desk, seconds: float) -> datetime:
    """Let somebody claim a coupon that is valid for a moment; return the end of its validity."""
    now = datetime.now(UTC)
    past, future = now - timedelta(days=9), now + timedelta(days=9)
    until = now + timedelta(seconds=seconds)
    terms = terms_of(claim_from=past, valid_from=past, claim_until=future, valid_until=until)
    assert desk.claim(desk.opened(terms=terms), person(1), at=None).code == "claimed"
    return until


@contextmanager
def sweeping(sweeper: Sweeper) -> Iterator[None]:
    """Let a sweeper run meanwhile."""
    stop = threading.Event()
    thread = threading.Thread(target=sweeper.run, args=(stop,), kwargs={"poll_s": 0.05})
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_runs_by_the_databases_clock_until_stopped(desk: Desk, datastore: Datastore) -> None:
    """In service nobody says what time it is: the database does."""
    until = claimed_for_a_moment(desk, 1.5)
    with projecting(datastore), sweeping(Sweeper(datastore, desk.writer)):
        wait_until(lambda: desk.events()[-1].TOPIC == "coupon.expired")
    assert desk.events()[-1].at >= until


def test_outlives_a_lost_database(desk: Desk, database_url: str, datastore: Datastore) -> None:
    """While the store cannot be reached the sweep is put off, and then goes on by itself."""
    claimed_for_a_moment(desk, 0.0)
    proxy = Proxy(database_url)
    proxy.cut = lambda _: "before"
    through = Datastore(proxy.url)
    far = Desk(through)
    try:
        with projecting(datastore), sweeping(Sweeper(through, far.writer)):
            wait_until(lambda: proxy.cuts > 2)
            assert desk.events()[-1].TOPIC == "coupon.claimed"
            proxy.cut = lambda _: None
            wait_until(lambda: desk.events()[-1].TOPIC == "coupon.expired")
    finally:
        far.close()
        through.close()
        proxy.close()


def test_a_writer_that_closes_ends_the_pass(desk: Desk, datastore: Datastore) -> None:
    """A pass that cannot send is an error for its caller, not a silent success."""
    held_by(desk, 1)
    project(datastore)
    desk.writer.close()
    with pytest.raises(Closed):
        Sweeper(datastore, desk.writer).sweep(AFTER_VALIDITY)
