"""Two writers of one read model: exactly one of them commits each event.

Goal: F33 and F35 of the fault list. Method: the steps of two runners are called in the order
that hurts, with a clock that is moved by hand; no test waits for time to pass. Each guard has a
control that shows what happens without it: the rows are applied twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from ledger.datastore import Datastore
from projections.campaign_figures import CAMPAIGN_FIGURES
from projections.erasures import ERASURES
from projections.lease import Lease, LeaseHeld, LeaseLost
from projections.merchant_balances import MERCHANT_BALANCES
from projections.packets import PACKETS
from projections.projection import Projection
from projections.rebuild import rebuild
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.tracking import TrackingMoved
from projections.verification import verify
from tests.projections.helpers import (
    SUMS,
    Clock,
    ForgetfulTracking,
    UnfencedLease,
    catch_up,
    rows_of,
    with_hook,
)
from tests.projections.histories import History, small_history, store

TTL_S = 15.0


@pytest.fixture
def history(datastore: Datastore) -> History:
    """A small history, stored."""
    made = small_history()
    store(datastore, made)
    return made


def balances(datastore: Datastore) -> int:
    """The sum of what all merchants redeemed: it doubles when a batch is applied twice."""
    with datastore.transaction() as curs:
        curs.execute("SELECT coalesce(sum(redeemed_minor), 0) FROM rm_merchant_balances.merchant")
        return int(curs.fetchone()[0])


def take_over(
    datastore: Datastore,
    clock: Clock,
    *,
    lease: Callable[..., Lease] = Lease,
    forgetful: bool = False,
) -> None:
    """Let a runner read, freeze beyond its lease, be replaced, wake up and write."""
    late = Runner(datastore, SUMS, "main", "late", clock=clock, lease_ttl_s=TTL_S)
    late.lease = lease(SUMS.name, "main", "late", ttl_s=TTL_S, clock=clock)
    if forgetful:
        late.tracking = ForgetfulTracking(datastore, SUMS.schema)
    late.acquire()
    page = late.read()
    clock.move(TTL_S + 1)
    assert Runner(datastore, SUMS, "main", "next", clock=clock).run_once() == page.size
    late.write(page)


def test_a_second_runner_is_refused_while_the_first_holds_the_lease(
    datastore: Datastore, history: History, clock: Clock
) -> None:
    """One holder at a time, until its term is over."""
    Runner(datastore, SUMS, "main", "first", clock=clock, lease_ttl_s=TTL_S).acquire()
    second = Runner(datastore, SUMS, "main", "second", clock=clock, lease_ttl_s=TTL_S)
    with pytest.raises(LeaseHeld, match="first"):
        second.run_once()
    clock.move(TTL_S - 1)
    with pytest.raises(LeaseHeld):
        second.run_once()
    clock.move(1)
    assert second.run_once() == len(history.events)


def test_a_late_holder_is_refused_and_nothing_is_applied_twice(
    datastore: Datastore, history: History, clock: Clock
) -> None:
    """A holder that slept past its term and was replaced cannot commit what it had read."""
    with pytest.raises(LeaseLost):
        take_over(datastore, clock)
    assert balances(datastore) == redeemed_minor(history)


def test_the_fence_alone_suffices(datastore: Datastore, history: History, clock: Clock) -> None:
    """Even with a tracking that forgets where it stood, the epoch refuses the late holder."""
    with pytest.raises(LeaseLost):
        take_over(datastore, clock, forgetful=True)
    assert balances(datastore) == redeemed_minor(history)


def test_the_tracking_alone_suffices(datastore: Datastore, history: History, clock: Clock) -> None:
    """Even without a fence, a batch does not move a tracking that stands elsewhere."""
    with pytest.raises(TrackingMoved):
        take_over(datastore, clock, lease=UnfencedLease)
    assert balances(datastore) == redeemed_minor(history)


def test_without_either_guard_the_batch_is_applied_twice(
    datastore: Datastore, history: History, clock: Clock
) -> None:
    """This test exists to ensure that the tests above make sense."""
    take_over(datastore, clock, lease=UnfencedLease, forgetful=True)
    assert balances(datastore) == 2 * redeemed_minor(history)


def redeemed_minor(history: History) -> int:
    """What all redemptions of a history come to."""
    return sum(e.discount_minor for e in history.events if e.TOPIC == "coupon.redeemed")  # type: ignore[attr-defined]


def test_a_holder_whose_term_ended_unnoticed_may_go_on(
    datastore: Datastore, history: History, clock: Clock
) -> None:
    """Expiry protects nothing: only somebody who took over makes a holder late."""
    runner = Runner(datastore, SUMS, "main", "slow", clock=clock, lease_ttl_s=TTL_S)
    runner.acquire()
    page = runner.read()
    clock.move(TTL_S * 10)
    runner.write(page)
    assert balances(datastore) == redeemed_minor(history)


def test_nobody_takes_over_between_the_check_and_the_commit(
    datastore: Datastore, history: History, clock: Clock
) -> None:
    """The check locks the lease: a take-over in mid-batch waits for the commit, then is refused."""
    entered, outcome = threading.Event(), []

    def take_lease() -> None:
        entered.set()
        try:
            Runner(datastore, SUMS, "main", "thief", clock=clock).acquire()
            outcome.append("taken")
        except LeaseHeld:
            outcome.append("refused")

    thread = threading.Thread(target=take_lease)

    def in_mid_batch() -> None:
        # The term ends in mid-batch; the fence has renewed it in this very transaction.
        clock.move(TTL_S - 1)
        thread.start()
        entered.wait(10)

    runner = Runner(
        datastore, with_hook(SUMS, in_mid_batch), "main", "holder", clock=clock, lease_ttl_s=TTL_S
    )
    runner.acquire()
    clock.move(5)
    assert runner.run_once() == len(history.events)
    thread.join(20)
    assert outcome == ["refused"]


def test_a_holder_may_take_its_own_lease_again(datastore: Datastore, clock: Clock) -> None:
    """A process that restarts under its name goes on at once, and its former self is late."""
    former = Runner(datastore, SUMS, "main", "me", clock=clock)
    former.acquire()
    page = former.read()
    again = Runner(datastore, SUMS, "main", "me", clock=clock)
    assert again.run_once() == 0
    assert page.size == 0
    with pytest.raises(LeaseLost), datastore.transaction() as curs:
        former.lease.fence(curs)


def test_many_runners_at_once_apply_each_event_once(datastore: Datastore, history: History) -> None:
    """Runners that fight for the lease without pause still make the rows of one."""

    def fight(name: str) -> None:
        while True:
            runner = Runner(datastore, MERCHANT_BALANCES, "main", name, lease_ttl_s=0.0)
            runner.batch_size.events = 3
            try:
                if not runner.run_once():
                    return
            except (LeaseHeld, LeaseLost, TrackingMoved):
                pass

    threads = [threading.Thread(target=fight, args=(f"runner-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert verify(datastore, projections=[MERCHANT_BALANCES]) == []
    assert balances(datastore) == redeemed_minor(history)


_DIE = """
import os, signal, sys
from ledger.datastore import Datastore
from projections.registry import projection
from projections.runner import Runner
from tests.projections.helpers import with_hook

die = lambda: os.kill(os.getpid(), signal.SIGKILL)
model = with_hook(projection(sys.argv[2]), die)
Runner(Datastore(sys.argv[1]), model, "main", "killed", lease_ttl_s=0.0).run_once()
"""


WITH_ROWS = [one for one in PROJECTIONS if one.name not in {PACKETS.name, ERASURES.name}]
"""Those that make rows of a history of coupons."""


@pytest.mark.fault
@pytest.mark.parametrize("projection", WITH_ROWS, ids=lambda one: one.name)
def test_a_runner_killed_between_rows_and_commit_leaves_nothing(
    datastore: Datastore, database_url: str, history: History, projection: Projection
) -> None:
    """Kill -9 after the rows and before the commit: no row and no tracking, then all of them."""
    before = rows_of(datastore, projection)
    done = subprocess.run(
        [sys.executable, "-c", _DIE, database_url, projection.name],
        check=False,
        cwd=os.getcwd(),  # noqa: PTH109 - the repository's root
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert rows_of(datastore, projection) == before
    catch_up(datastore, projection)
    live = rows_of(datastore, projection)
    rebuild(datastore, projection)
    assert rows_of(datastore, projection) == live
    assert verify(datastore, projections=[projection]) == []


_FREEZE = """
import os, signal, sys
from eventsourcing.persistence import PersistenceError
from ledger.datastore import Datastore
from projections.registry import projection
from projections.runner import Runner
from tests.projections.helpers import with_hook

freeze = lambda: os.kill(os.getpid(), signal.SIGSTOP)
datastore = Datastore(sys.argv[1], session={"idle_in_transaction_session_timeout": "500ms"})
model = with_hook(projection("merchant_balances"), freeze)
try:
    Runner(datastore, model, "main", "frozen", lease_ttl_s=0.0).run_once()
except PersistenceError:
    sys.exit(42)
"""


@pytest.mark.fault
def test_a_runner_frozen_in_mid_batch_is_replaced_and_cannot_commit(
    datastore: Datastore, database_url: str, history: History
) -> None:
    """The server ends the frozen transaction; the next holder applies all; the late one fails."""
    frozen = subprocess.Popen(
        [sys.executable, "-c", _FREEZE, database_url],
        cwd=os.getcwd(),  # noqa: PTH109 - the repository's root
    )
    try:
        _, status = os.waitpid(frozen.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        following = Runner(datastore, MERCHANT_BALANCES, "main", "next")
        assert following.run_once() == len(history.events)
        os.kill(frozen.pid, signal.SIGCONT)
        assert frozen.wait(30) == 42
    finally:
        frozen.kill()
        frozen.wait()
    assert balances(datastore) == redeemed_minor(history)


def test_rows_and_tracking_in_two_transactions_lose_or_double_events(
    datastore: Datastore, history: History
) -> None:
    """The control of the kill: commit them apart, die in between, and the sums are wrong."""
    first = Runner(datastore, SUMS, "main", "a", lease_ttl_s=0.0)
    first.acquire()
    page = first.read()
    with datastore.transaction() as curs:
        SUMS.apply(curs, SUMS.schema, "main", page.events)
    # Killed here: the tracking was never written.
    assert Runner(datastore, SUMS, "main", "b").run_once() == page.size
    assert balances(datastore) == 2 * redeemed_minor(history)


def test_a_runner_frozen_while_it_reads_is_in_nobodys_way(
    datastore: Datastore, history: History, clock: Clock
) -> None:
    """Reading takes no lock: while one runner's read is open, another can take over and write."""
    frozen = Runner(datastore, CAMPAIGN_FIGURES, "main", "frozen", clock=clock, lease_ttl_s=TTL_S)
    frozen.acquire()
    clock.move(TTL_S)
    with datastore.transaction() as curs:
        frozen.tracking.position(curs, "main")
        frozen._reader.page(curs, 0, 1000)
        following = Runner(datastore, CAMPAIGN_FIGURES, "main", "next", clock=clock)
        assert following.run_once() == len(history.events)
