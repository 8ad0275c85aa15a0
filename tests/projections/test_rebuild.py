"""Rebuilding: the same rows, swapped in at once, whatever happens in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import psycopg2
import pytest

from campaigns.event_types import EVENT_TYPES
from ledger.datastore import Datastore
from ledger.history import PositionGap
from projections import rebuild as rebuild_module
from projections.lease import LeaseLost
from projections.merchant_balances import MERCHANT_BALANCES
from projections.projection import NEXT, OLD, Projection, schema_exists
from projections.rebuild import FreshBuild, RebuildTooSlow, exclusive, rebuild, swap
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.tracking import position
from projections.verification import verify
from projections.wallets import WALLETS
from tests.conftest import wait_until
from tests.projections.helpers import SUMS, catch_up, rows_of
from tests.projections.histories import History, person, small_history, store


@pytest.fixture
def history(datastore: Datastore) -> History:
    """A small history, stored and applied."""
    made = small_history()
    store(datastore, made)
    catch_up(datastore)
    return made


def more_events(datastore: Datastore, seed: int = 1) -> History:
    """Store a further campaign with a redeemed coupon."""
    made = History("main", seed=seed)
    coupon = made.claim(made.opened(), person(1))
    assert coupon is not None
    made.redeem(coupon)
    store(datastore, made)
    return made


def leftovers(datastore: Datastore, projection: Projection = WALLETS) -> list[str]:
    """The schemas that a rebuild made and did not remove."""
    with datastore.transaction() as curs:
        return [s for s in (NEXT, OLD) if schema_exists(curs, projection.schema + s)]


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda one: one.name)
def test_a_rebuild_mends_wrong_rows(
    datastore: Datastore, history: History, projection: Projection
) -> None:
    """Whatever the live rows say, afterwards they say what the events say."""
    right = rows_of(datastore, projection)
    with datastore.transaction() as curs:
        for table in right:
            curs.execute(f"DELETE FROM {projection.schema}.{table}")
    rebuild(datastore, projection)
    assert rows_of(datastore, projection) == right
    assert leftovers(datastore, projection) == []


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda one: one.name)
def test_pages_of_any_size_give_the_same_rows(
    datastore: Datastore,
    history: History,
    projection: Projection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Claims and what becomes of them meet again, in one page or far apart."""
    right = rows_of(datastore, projection)
    for size in (1, 3, 7):
        monkeypatch.setattr(rebuild_module, "PAGE_EVENTS", size)
        rebuild(datastore, projection)
        assert rows_of(datastore, projection) == right


def test_the_report_says_what_was_done(datastore: Datastore, history: History) -> None:
    """Events, rate, phases, rows and memory, ready for JSON; progress is told on the way."""
    told: list[tuple[str, int, int]] = []
    report = rebuild(datastore, WALLETS, lambda *step: told.append(step))
    assert report.events == len(history.events)
    over = sum(campaign.state == "closed" for campaign in history.campaigns.values())
    assert report.rows == {"coupon": len(history.coupons), "draw": over}
    assert report.events_per_s > 0
    assert report.cpu_s > 0
    assert report.peak_memory_bytes > 1 << 20
    assert msgspec.json.decode(msgspec.json.encode(report))["projection"] == "wallets"
    total = len(history.events)
    assert told == [("load", total, total), ("settle", total, total)]


def test_a_rebuild_by_the_owner_leaves_rows_that_runners_can_write(
    datastore: Datastore, history: History
) -> None:
    """The fresh tables belong to the application's role, whoever made them."""
    owner = datastore.with_session({"role": None})
    rebuild(owner, WALLETS)
    owner.close()
    later = more_events(datastore)
    assert Runner(datastore, WALLETS, "main", "a").run_once() == len(later.events)


def test_an_empty_store_is_rebuilt_to_empty_tables(datastore: Datastore) -> None:
    """Nothing in, nothing out, no error."""
    for projection in PROJECTIONS:
        assert rebuild(datastore, projection).events == 0
        assert Runner(datastore, projection, "main", "a").run_once() == 0


def test_events_written_during_a_rebuild_are_in_it(datastore: Datastore, history: History) -> None:
    """What arrives while the events are poured is caught up before the swap."""
    arrived: list[History] = []

    def arrive(phase: str, _done: int, _total: int) -> None:
        arrived.append(more_events(datastore, seed=len(arrived) + 1))

    report = rebuild(datastore, WALLETS, arrive)
    assert report.events == len(history.events) + sum(len(one.events) for one in arrived)
    assert Runner(datastore, WALLETS, "main", "a").run_once() == 0
    assert verify(datastore, projections=[WALLETS]) == []


def test_a_far_head_is_caught_up_in_steps(
    datastore: Datastore, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A book that has run away is followed in short transactions before the swap."""
    monkeypatch.setattr(rebuild_module, "CATCH_UP_EVENTS", 2)
    monkeypatch.setattr(rebuild_module, "PAGE_EVENTS", 2)
    phases: list[str] = []

    def arrive(phase: str, _done: int, _total: int) -> None:
        if phase == "settle":
            more_events(datastore)
        phases.append(phase)

    rebuild(datastore, WALLETS, arrive)
    assert phases.count("catch_up") == 2
    assert verify(datastore, projections=[WALLETS]) == []


def test_a_book_that_outruns_the_rebuild_ends_it(
    datastore: Datastore, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up after a bounded number of rounds, and the live rows stay."""
    monkeypatch.setattr(rebuild_module, "CATCH_UP_EVENTS", 0)
    monkeypatch.setattr(rebuild_module, "CATCH_UP_ROUNDS_MAX", 3)
    before = rows_of(datastore, WALLETS)
    seeds = iter(range(1, 100))

    def arrive(_phase: str, _done: int, _total: int) -> None:
        more_events(datastore, next(seeds))

    with pytest.raises(RebuildTooSlow):
        rebuild(datastore, WALLETS, arrive)
    assert rows_of(datastore, WALLETS) == before


# In the middle of it


class Died(Exception):
    """The rebuild died here."""


def dies_at(phase: str) -> Callable[[str, int, int], None]:
    """A progress that ends the rebuild when it reaches a phase."""

    def die(reached: str, _done: int, _total: int) -> None:
        if reached == phase:
            raise Died

    return die


@pytest.mark.parametrize("phase", ["load", "settle"])
def test_a_rebuild_that_dies_leaves_the_live_rows(
    datastore: Datastore, history: History, phase: str
) -> None:
    """The old rows stay live and the runner goes on; a second rebuild clears up and succeeds."""
    before = rows_of(datastore, WALLETS)
    with pytest.raises(Died):
        rebuild(datastore, WALLETS, dies_at(phase))
    assert leftovers(datastore) == [NEXT]
    assert rows_of(datastore, WALLETS) == before
    later = more_events(datastore)
    assert Runner(datastore, WALLETS, "main", "a").run_once() == len(later.events)
    after = rows_of(datastore, WALLETS)
    rebuild(datastore, WALLETS)
    assert rows_of(datastore, WALLETS) == after
    assert leftovers(datastore) == []


_DIE = """
import os, signal, sys
from campaigns.event_types import EVENT_TYPES
from ledger.datastore import Datastore
from projections.rebuild import rebuild
from projections.wallets import WALLETS

def die(phase, done, total):
    if phase == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

rebuild(Datastore(sys.argv[1]), WALLETS, die)
"""


@pytest.mark.fault
@pytest.mark.parametrize("phase", ["load", "settle"])
def test_a_killed_rebuild_can_be_run_again_at_once(
    datastore: Datastore, database_url: str, history: History, phase: str
) -> None:
    """Kill -9 in mid-work: the live rows stay, and nobody has to wait for a lease to end."""
    before = rows_of(datastore, WALLETS)
    done = subprocess.run(
        [sys.executable, "-c", _DIE, database_url, phase],
        check=False,
        cwd=os.getcwd(),  # noqa: PTH109 - the repository's root
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert rows_of(datastore, WALLETS) == before
    rebuild(datastore, WALLETS)
    assert rows_of(datastore, WALLETS) == before
    assert leftovers(datastore) == []


def test_a_gap_ends_a_rebuild(datastore: Datastore, history: History) -> None:
    """A rebuild does not skip either."""
    before = rows_of(datastore, WALLETS)
    with datastore.transaction() as curs:
        curs.execute("UPDATE tidebook.book_head SET position = position + 1")
    with pytest.raises(PositionGap):
        rebuild(datastore, WALLETS)
    assert rows_of(datastore, WALLETS) == before


def test_the_later_of_two_rebuilds_wins(datastore: Datastore, history: History) -> None:
    """A rebuild that was overtaken can change nothing more, not even the other's tables."""
    right = rows_of(datastore, WALLETS)
    overtaken: list[Any] = []

    def overtake(_phase: str, _done: int, _total: int) -> None:
        if not overtaken:
            overtaken.append(None)
            rebuild(datastore, WALLETS, holder="later")

    with pytest.raises(LeaseLost):
        rebuild(datastore, WALLETS, overtake, holder="earlier")
    assert rows_of(datastore, WALLETS) == right
    assert leftovers(datastore) == []


def test_an_overtaken_rebuild_cannot_pour_into_the_others_tables(
    datastore: Datastore, history: History
) -> None:
    """Both stand at the same position of tables of the same name; only the epoch tells them."""
    with exclusive(datastore, WALLETS, "earlier", seize=True) as (worker, lease):
        earlier = FreshBuild(worker, WALLETS, WALLETS.schema + NEXT, lease, EVENT_TYPES)
        earlier.start()
        earlier._pour("main", earlier._read("main", 0, 10))
        with exclusive(datastore, WALLETS, "later", seize=True) as (other, seized):
            later = FreshBuild(other, WALLETS, WALLETS.schema + NEXT, seized, EVENT_TYPES)
            later.start()
            later._pour("main", later._read("main", 0, 10))
            with pytest.raises(LeaseLost):
                earlier._pour("main", earlier._read("main", 10, 20))
            later._pour("main", later._read("main", 10, 20))


# The swap


def built(worker: Datastore, lease: Any, projection: Projection = WALLETS) -> FreshBuild:
    """A rebuild that is ready to be swapped in."""
    build = FreshBuild(worker, projection, projection.schema + NEXT, lease, EVENT_TYPES)
    build.start()
    build.load()
    build.settle()
    return build


def count(datastore: Datastore) -> int:
    """How many coupons a reader sees."""
    with datastore.transaction() as curs:
        curs.execute("SELECT count(*) FROM rm_wallets.coupon")
        return int(curs.fetchone()[0])


def test_readers_see_the_old_rows_or_the_new_ones(datastore: Datastore, history: History) -> None:
    """Until the swap commits the old ones and their position, then the new ones; never nothing."""
    old, last = count(datastore), len(history.events)
    later = more_events(datastore)
    with exclusive(datastore, WALLETS, "test", seize=True) as (worker, lease):
        build = built(worker, lease)
        with worker.transaction() as curs:
            swap(curs, build)
            assert count(datastore) == old
            with datastore.transaction() as reader:
                assert position(reader, WALLETS, "main") == last
        assert count(datastore) == old + 1
        with datastore.transaction() as reader:
            assert position(reader, WALLETS, "main") == last + len(later.events)


def test_a_reader_that_has_begun_reads_on(datastore: Datastore, history: History) -> None:
    """A cursor that is open over the swap gives all its old rows; its next look is new."""
    old = count(datastore)
    more_events(datastore)
    with datastore.connection() as connection:
        cursor = connection.cursor("open")
        cursor.itersize = 1
        cursor.execute("SELECT coupon FROM rm_wallets.coupon")
        first = cursor.fetchone()
        with exclusive(datastore, WALLETS, "test", seize=True) as (worker, lease):
            build = built(worker, lease)
            with worker.transaction() as curs:
                swap(curs, build)
        rest = cursor.fetchall()
        assert first is not None
        assert 1 + len(rest) == old
        with connection.cursor() as again:
            again.execute("SELECT count(*) FROM rm_wallets.coupon")
            assert again.fetchone() == (old + 1,)
    rebuild_module.clear_leftovers(datastore, WALLETS)


def test_a_reader_who_stays_on_the_old_rows_does_not_fail_the_rebuild(
    datastore: Datastore, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old tables that somebody still reads are left behind; the next rebuild drops them."""
    monkeypatch.setitem(rebuild_module._SESSION, "lock_timeout", "100ms")
    with datastore.transaction() as curs:
        curs.execute("SELECT FROM rm_wallets.coupon LIMIT 1")
        rebuild(datastore, WALLETS)
        assert leftovers(datastore) == [OLD]
    rebuild(datastore, WALLETS)
    assert leftovers(datastore) == []


def test_dropping_and_renaming_apart_leaves_readers_with_nothing(
    datastore: Datastore, history: History
) -> None:
    """The control of the tests above: without the one transaction a reader finds no table."""
    with datastore.transaction() as curs:
        curs.execute("ALTER SCHEMA rm_wallets RENAME TO rm_wallets_old")
    with pytest.raises(Exception, match="does not exist"):
        count(datastore)
    with datastore.transaction() as curs:
        curs.execute("ALTER SCHEMA rm_wallets_old RENAME TO rm_wallets")


def test_a_runner_that_read_before_the_swap_is_refused(
    datastore: Datastore, history: History
) -> None:
    """Its batch was for the old rows. It takes the lease again and goes on with the new ones."""
    runner = Runner(datastore, MERCHANT_BALANCES, "main", "a")
    later = more_events(datastore)
    runner.acquire()
    page = runner.read()
    assert page.size == len(later.events)
    rebuild(datastore, MERCHANT_BALANCES)
    with pytest.raises(LeaseLost):
        runner.write(page)
    assert runner.run_once() == 0
    assert verify(datastore, projections=[MERCHANT_BALANCES]) == []


def test_without_the_guards_a_batch_read_before_the_swap_is_doubled(
    datastore: Datastore, history: History
) -> None:
    """The control: written after the swap without a look at lease and tracking, it counts twice."""
    runner = Runner(datastore, SUMS, "main", "a")
    more_events(datastore)
    runner.acquire()
    page = runner.read()
    rebuild(datastore, MERCHANT_BALANCES)
    with datastore.transaction() as curs:
        SUMS.apply(curs, SUMS.schema, "main", page.events)
    findings = verify(datastore, projections=[MERCHANT_BALANCES])
    assert [one.code for one in findings] == ["row_differs"]


def test_a_writer_who_came_during_the_swap_writes_to_the_new_rows(
    datastore: Datastore, history: History
) -> None:
    """Its first statement waits at the old tracking and then finds the new one by name."""
    more_events(datastore)
    moved: list[int] = []

    def move() -> None:
        with suppress(psycopg2.Error), datastore.transaction() as curs:
            curs.execute(
                "UPDATE rm_wallets.tracking SET position = position WHERE book = 'main'"
                " RETURNING position"
            )
            moved.extend(curs.fetchone())

    with exclusive(datastore, WALLETS, "test", seize=True) as (worker, lease):
        build = built(worker, lease)
        with worker.transaction() as curs:
            swap(curs, build)
            thread = threading.Thread(target=move)
            thread.start()
            wait_for_lock(datastore)
        thread.join(20)
    with datastore.transaction() as curs:
        assert moved == [position(curs, WALLETS, "main")]


def wait_for_lock(datastore: Datastore) -> None:
    """Return once some session of this database waits for a lock."""

    def waits() -> bool:
        with datastore.transaction() as curs:
            curs.execute(
                "SELECT FROM pg_locks JOIN pg_database AS d ON d.oid = database"
                " WHERE NOT granted AND datname = current_database()"
            )
            return bool(curs.rowcount)

    wait_until(waits)
