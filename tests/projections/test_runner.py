"""The runner: batches, order, where it stops, and that it comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import psycopg2
import pytest
from eventsourcing.persistence import OperationalError, PersistenceError

from api.embedded import EmbeddedPostgres
from campaigns.event_types import EVENT_TYPES
from ledger.datastore import Datastore
from ledger.events import Event, EventTypes, UnknownEventType, UnreadableEvent
from ledger.history import PositionGap
from ledger.migrations import migrate as migrate_ledger
from projections import runner as runner_module
from projections.campaign_figures import CAMPAIGN_FIGURES
from projections.lease import LeaseHeld
from projections.migrations import migrate, outdated
from projections.reading import AheadOfBook, Stopped
from projections.rebuild import rebuild
from projections.registry import PROJECTIONS, projection
from projections.runner import (
    BATCH_MAX,
    BATCH_MIN,
    BATCH_TARGET_S,
    BatchSize,
    Lag,
    OutdatedReadModel,
    Runner,
    position,
    wait_for,
)
from projections.wallets import WALLETS
from tests.conftest import wait_until
from tests.projections.helpers import Clock, catch_up, rows_of
from tests.projections.histories import NOON, History, person, small_history, store


@pytest.fixture
def history() -> History:
    """A small history with coupons in every state."""
    return small_history()


@contextmanager
def running(runner: Runner) -> Iterator[threading.Event]:
    """Run a runner in a thread of its own; stop it and let its errors out at the end."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            runner.run(stop)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def at(datastore: Datastore, book: str = "main") -> int:
    """The position that the wallets stand for."""
    with datastore.transaction() as curs:
        return position(curs, WALLETS, book)


def insert_raw(datastore: Datastore, number: int, topic: str, state: bytes = b"{}") -> None:
    """Put an event with any topic at any position, past all that writes properly."""
    with datastore.transaction() as curs:
        curs.execute(
            "INSERT INTO tidebook.event VALUES ('main', %s, gen_random_uuid(), 1, %s, %s)",
            (number, topic, state),
        )
        curs.execute(
            "INSERT INTO tidebook.book_head (book, position) VALUES ('main', %s)"
            " ON CONFLICT (book) DO UPDATE SET position = excluded.position",
            (number,),
        )


# Batches


def test_batches_end_where_the_book_ends(datastore: Datastore, history: History) -> None:
    """Each call applies one batch; at the head there is nothing to do."""
    store(datastore, history)
    runner = Runner(datastore, WALLETS, "main", "a")
    runner.batch_size.events = 20
    total = len(history.events)
    applied = []
    while size := runner.run_once():
        applied.append(size)
    assert applied[0] == 20
    assert sum(applied) == total == at(datastore)
    assert runner.run_once() == 0


def test_an_empty_book_is_at_position_zero(datastore: Datastore) -> None:
    """Before the first event there is nothing to apply and nothing to wait for."""
    assert Runner(datastore, WALLETS, "main", "a").run_once() == 0
    assert at(datastore) == 0
    assert wait_for(datastore, WALLETS, "main", 0, timeout_s=0)


def test_batches_grow_while_there_is_plenty_and_shrink_when_slow() -> None:
    """The size doubles after full quick batches, halves after slow ones, and is bounded."""
    size = BatchSize()
    for _ in range(20):
        size.learn(size.events, 0.0)
    assert size.events == BATCH_MAX
    size.learn(size.events // 2, 0.0)
    assert size.events == BATCH_MAX
    for _ in range(20):
        size.learn(size.events, BATCH_TARGET_S * 2)
    assert size.events == BATCH_MIN


def test_lag_is_told_after_every_look(datastore: Datastore, history: History) -> None:
    """Events behind are counted from the head, seconds from the first event not shown."""
    store(datastore, history)
    told: list[Lag] = []
    clock = Clock()
    clock.now = NOON + timedelta(hours=1)
    runner = Runner(datastore, WALLETS, "main", "a", clock=clock, on_lag=told.append)
    runner.batch_size.events = 10
    while runner.run_once():
        pass
    total = len(history.events)
    assert told[0] == Lag("wallets", "main", 10, total - 10, 3600.0 - 10)
    assert told[-1] == Lag("wallets", "main", total, 0, 0.0)


# Where it stops


def test_a_gap_stops_the_runner(datastore: Datastore, history: History) -> None:
    """A missing position is an error that names it; what is before it is applied."""
    store(datastore, history)
    last = len(history.events)
    insert_raw(datastore, last + 2, "campaign.opened")
    runner = Runner(datastore, WALLETS, "main", "a")
    assert runner.run_once() == last
    for _ in range(2):
        with pytest.raises(PositionGap) as refused:
            runner.run_once()
        assert refused.value.expected == last + 1
    assert at(datastore) == last


def test_a_lost_end_stops_the_runner(datastore: Datastore, history: History) -> None:
    """A head beyond the last event is a gap as well, not an idle book."""
    store(datastore, history)
    with datastore.transaction() as curs:
        curs.execute("UPDATE tidebook.book_head SET position = position + 3")
    runner = Runner(datastore, WALLETS, "main", "a")
    assert runner.run_once() == len(history.events)
    with pytest.raises(PositionGap):
        runner.run_once()


def test_rows_ahead_of_their_book_stop_the_runner(datastore: Datastore, history: History) -> None:
    """A store that lost events is noticed, not taken for idle."""
    store(datastore, history)
    catch_up(datastore, WALLETS)
    with datastore.transaction() as curs:
        curs.execute("UPDATE tidebook.book_head SET position = position - 1")
    with pytest.raises(AheadOfBook):
        Runner(datastore, WALLETS, "main", "test").run_once()


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda one: one.name)
def test_an_unknown_event_type_stops_every_runner(
    datastore: Datastore, history: History, projection: Any
) -> None:
    """It stops before the event, keeps what is before it, and does not skip it the next time."""
    store(datastore, history)
    last = len(history.events)
    insert_raw(datastore, last + 1, "coupon.teleported")
    insert_raw(datastore, last + 2, "campaign.opened")
    runner = Runner(datastore, projection, "main", "a")
    assert runner.run_once() == last
    for _ in range(2):
        with pytest.raises(Stopped, match="teleported") as refused:
            runner.run_once()
        assert refused.value.position == last + 1
        assert isinstance(refused.value.cause, UnknownEventType)


def test_an_unreadable_event_stops_the_runner(datastore: Datastore) -> None:
    """Bytes that are not what their topic says are not guessed at."""
    insert_raw(datastore, 1, "coupon.claimed", b'{"at": 5}')
    with pytest.raises(Stopped):
        Runner(datastore, WALLETS, "main", "a").run_once()
    assert at(datastore) == 0


def test_a_stopped_runner_ends_its_thread_with_the_reason(datastore: Datastore) -> None:
    """`run` does not swallow what it cannot go past."""
    insert_raw(datastore, 1, "coupon.teleported")
    with pytest.raises(Stopped), running(Runner(datastore, WALLETS, "main", "a")) as stop:
        assert not stop.wait(0.5)


class CouponGifted(Event, frozen=True, kw_only=True):
    """An event type of a later version."""

    TOPIC: ClassVar[str] = "coupon.gifted"


def test_a_new_event_type_stops_a_read_model_that_was_not_taught_it(
    datastore: Datastore,
) -> None:
    """Known to the program is not enough: each read model says whether it needs the event."""
    insert_raw(datastore, 1, "coupon.gifted")
    types = EventTypes([CouponGifted])
    with pytest.raises(Stopped, match="gifted"):
        Runner(datastore, WALLETS, "main", "a", types=types).run_once()


def test_events_of_old_topics_are_upcast(datastore: Datastore) -> None:
    """An old form of an event makes the same row as its form of today."""
    history = History()
    coupon = history.claim(history.opened(), person(1))
    store(datastore, history)
    catch_up(datastore, WALLETS)
    wanted = rows_of(datastore, WALLETS)["coupon"]

    claimed = msgspec.json.decode(EVENT_TYPES.encode(history.events[-1]))
    old = {**claimed, "holder": claimed["person"]}
    del old["person"]
    old_types = EventTypes(
        [type(event) for event in history.events],
        {
            "coupon.taken": lambda f: (
                "coupon.claimed",
                {("person" if k == "holder" else k): v for k, v in f.items()},
            ),
            "campaign.begun": lambda f: ("campaign.opened", f),
        },
    )
    with datastore.transaction() as curs:
        curs.execute("DELETE FROM rm_wallets.coupon")
        curs.execute("UPDATE rm_wallets.tracking SET position = position - 1")
        curs.execute("UPDATE tidebook.book_head SET position = position - 1, book = 'spare'")
        curs.execute("UPDATE rm_wallets.tracking SET book = 'spare'")
        number = len(history.events)
        curs.execute(
            "INSERT INTO tidebook.event VALUES ('spare', %s, %s, 1, 'coupon.taken', %s),"
            " ('spare', %s, %s, 9, 'campaign.begun', %s)",
            (
                number,
                coupon,
                msgspec.json.encode(old),
                number + 1,
                history.coupons[coupon].campaign if coupon else None,
                EVENT_TYPES.encode(history.events[3]),
            ),
        )
        curs.execute("UPDATE tidebook.book_head SET position = %s", (number + 1,))
    assert Runner(datastore, WALLETS, "spare", "a", types=old_types).run_once() == 2
    assert [row.replace("spare", "main") for row in rows_of(datastore, WALLETS)["coupon"]] == wanted


# Following a book


def test_a_running_runner_follows_without_being_told(
    datastore: Datastore, history: History
) -> None:
    """New events show up in the rows by polling alone; `wait_for` sees them."""
    with running(Runner(datastore, WALLETS, "main", "a")):
        store(datastore, history)
        assert wait_for(datastore, WALLETS, "main", len(history.events), timeout_s=20)
        later = History("main", seed=1)
        later.opened()
        store(datastore, later)
        assert wait_for(datastore, WALLETS, "main", len(history.events) + 4, timeout_s=20)


def test_waiting_for_a_position_that_does_not_come_says_no(datastore: Datastore) -> None:
    """The wait is bounded and the answer is no, not an error."""
    assert not wait_for(datastore, WALLETS, "main", 1, timeout_s=0.01)


def test_a_stopped_runner_lets_the_next_one_in_at_once(datastore: Datastore, clock: Clock) -> None:
    """A clean stop releases the lease; a crash would make the next one wait for its end."""
    first = Runner(datastore, WALLETS, "main", "a", clock=clock)
    with running(first):
        wait_until(lambda: first.lease.epoch is not None)
    second = Runner(datastore, WALLETS, "main", "b", clock=clock)
    assert second.run_once() == 0
    with pytest.raises(LeaseHeld):
        Runner(datastore, WALLETS, "main", "c", clock=clock).run_once()


def test_a_runner_stands_by_while_another_works(
    datastore: Datastore, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two run at once, one applies, and the other takes over when it stops."""
    monkeypatch.setattr(runner_module, "STANDBY_POLL_S", 0.01)
    first = Runner(datastore, WALLETS, "main", "a")
    assert first.run_once() == 0
    with running(Runner(datastore, WALLETS, "main", "b")):
        store(datastore, history)
        assert first.run_once() == len(history.events)
        with datastore.transaction() as curs:
            first.lease.release(curs)
        later = History("main", seed=1)
        later.opened()
        store(datastore, later)
        assert wait_for(datastore, WALLETS, "main", len(history.events) + 4, timeout_s=20)


def test_an_idle_holder_keeps_its_lease(datastore: Datastore, clock: Clock) -> None:
    """A runner without work renews its lease, so nobody takes over from it."""
    runner = Runner(datastore, WALLETS, "main", "a", clock=clock, lease_ttl_s=15)
    runner._renew_s = 0.0
    for _ in range(5):
        clock.move(10)
        runner.run_once()
        with pytest.raises(LeaseHeld):
            Runner(datastore, WALLETS, "main", "b", clock=clock).run_once()


def test_cut_connections_are_replaced(
    datastore: Datastore,
    database_url: str,
    history: History,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A runner whose connections are all cut, again and again, goes on where it was."""
    monkeypatch.setattr(runner_module, "RECONNECT_S", (0.01, 0.05))
    follower = Datastore(database_url)
    runner = Runner(follower, WALLETS, "main", "a")
    with running(runner):
        for n in range(3):
            wait_until(lambda: runner.lease.epoch is not None)
            cut_connections(database_url)
            more = History("main", seed=n)
            more.claim(more.opened(), person(n))
            writer = Datastore(database_url)
            store(writer, more)
            assert wait_for(writer, WALLETS, "main", (n + 1) * 5, timeout_s=20)
            writer.close()
    follower.close()


def cut_connections(url: str) -> None:
    """Let the server cut every connection of the application."""
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as curs:
        curs.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'tidebook'"
        )
    connection.close()


@pytest.mark.fault
def test_a_killed_database_is_waited_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    """PostgreSQL dies under the runner and comes back: the runner goes on, nothing is twice."""
    home = tmp_path_factory.mktemp("restart")
    history = small_history()
    with EmbeddedPostgres(Path(home)) as server:
        migrate_ledger(server.url)
        migrate(server.url)
        datastore = Datastore(server.url)
        store(datastore, history)
        with running(Runner(datastore, WALLETS, "main", "a")):
            assert wait_for(datastore, WALLETS, "main", len(history.events), timeout_s=20)
            server.stop()
            server.start()
            more = History("main", seed=1)
            more.claim(more.opened(), person(1))
            wait_until(lambda: _stored(server.url, more))
            last = len(history.events) + len(more.events)
            assert wait_for(Datastore(server.url), WALLETS, "main", last, timeout_s=30)
        datastore.close()
        with Datastore(server.url).transaction() as curs:
            curs.execute("SELECT count(*) FROM rm_wallets.coupon")
            assert curs.fetchone() == (len(history.coupons) + 1,)


def _stored(url: str, history: History) -> bool:
    try:
        store(Datastore(url), history)
    except OperationalError:
        return False
    return True


def test_a_transaction_ended_by_the_server_is_a_lost_line(datastore: Datastore) -> None:
    """The server ends a transaction that its client forgot; the runner does not fail of it."""
    impatient = datastore.with_session({"idle_in_transaction_session_timeout": "50ms"})

    def forget() -> None:
        with impatient.transaction() as curs:
            curs.execute("SELECT pg_backend_pid()")
            (backend,) = curs.fetchone()
            wait_until(lambda: not _is_there(datastore, backend))
            curs.execute("SELECT 1")

    with pytest.raises(PersistenceError) as ended:
        forget()
    assert runner_module._passes(ended.value)
    impatient.close()


def _is_there(datastore: Datastore, backend: int) -> bool:
    with datastore.transaction() as curs:
        curs.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (backend,))
        return bool(curs.rowcount)


# The tables' shape


def test_tables_of_another_shape_must_be_rebuilt_first(
    datastore: Datastore, database_url: str, history: History
) -> None:
    """A runner refuses them, `outdated` names them, migrating keeps them, a rebuild mends them."""
    store(datastore, history)
    assert outdated(database_url) == []
    with datastore.transaction() as curs:
        curs.execute("UPDATE rm_wallets.shape SET checksum = 'older'")
    with pytest.raises(OutdatedReadModel):
        Runner(datastore, WALLETS, "main", "a").run_once()
    assert migrate(database_url) == []
    assert outdated(database_url) == ["wallets"]
    rebuild(datastore, WALLETS)
    assert outdated(database_url) == []
    assert Runner(datastore, WALLETS, "main", "a").run_once() == 0


def test_migrating_makes_what_is_missing(datastore: Datastore, database_url: str) -> None:
    """A read model whose tables are gone gets empty ones; the others are left alone."""
    with datastore.transaction() as curs:
        curs.execute("DROP SCHEMA rm_campaign_figures CASCADE")
    with pytest.raises(OutdatedReadModel):
        Runner(datastore, CAMPAIGN_FIGURES, "main", "a").run_once()
    assert migrate(database_url) == ["rm_campaign_figures"]
    assert migrate(database_url) == []
    assert Runner(datastore, CAMPAIGN_FIGURES, "main", "a").run_once() == 0


def test_processes_that_migrate_at_once_take_turns(empty_database_url: str) -> None:
    """Each thing is made once, whoever comes first."""
    migrate_ledger(empty_database_url)
    done: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: done.append(migrate(empty_database_url))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 4
    made = sorted(name for one in done for name in one)
    assert made == sorted(["0001_leases", *(one.schema for one in PROJECTIONS)])


def test_read_models_are_found_by_name() -> None:
    """The registry knows each read model once."""
    assert [projection(one.name) for one in PROJECTIONS] == list(PROJECTIONS)
    with pytest.raises(KeyError):
        projection("tides")


def test_unreadable_errors_are_distinct() -> None:
    """A reader's troubles have names of their own."""
    assert not issubclass(UnreadableEvent, UnknownEventType)
