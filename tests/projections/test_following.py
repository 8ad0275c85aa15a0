"""Following a book with several read models at once: what they share, and what they do not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from api.embedded import EmbeddedPostgres
from ledger.datastore import Datastore
from ledger.migrations import migrate as migrate_ledger
from projections import runner as runner_module
from projections.campaign_figures import CAMPAIGN_FIGURES
from projections.lag import lags
from projections.line import Line
from projections.migrations import migrate
from projections.reading import Stopped
from projections.registry import PROJECTIONS
from projections.runner import BUSY_POLL_S, Following, Runner, position
from projections.verification import verify
from projections.wallets import WALLETS
from tests.conftest import wait_until
from tests.projections.helpers import catch_up, rows_of, with_hook
from tests.projections.histories import History, person, small_history, store


@pytest.fixture
def history(datastore: Datastore) -> History:
    """A small history, stored."""
    made = small_history()
    store(datastore, made)
    return made


ALL = len(PROJECTIONS)


class CountingLine(Line):
    """A line that counts what it is used for."""

    looks = 0
    transactions = 0

    @contextmanager
    def look(self) -> Iterator[object]:
        """Count a look."""
        self.looks += 1
        with super().look() as curs:
            yield curs

    @contextmanager
    def transaction(self, schema: str | None = None) -> Iterator[object]:
        """Count a transaction."""
        self.transactions += 1
        with super().transaction(schema) as curs:
            yield curs


def runners(datastore: Datastore, line: Line | None = None) -> list[Runner]:
    """A runner of each read model."""
    return [Runner(datastore, one, "main", "test", line=line) for one in PROJECTIONS]


def positions(datastore: Datastore) -> list[int]:
    """Where the rows of each read model stand."""
    with datastore.transaction() as curs:
        return [position(curs, one, "main") for one in PROJECTIONS]


def test_a_book_is_read_once_for_all(datastore: Datastore, history: History) -> None:
    """Read models in step cost one look at the book and a transaction each."""
    line = CountingLine(datastore)
    following = Following(runners(datastore, line))
    following.run_once()
    assert positions(datastore) == [len(history.events)] * ALL
    more = History("main", seed=1)
    more.claim(more.opened(), person(1))
    store(datastore, more)
    line.looks = line.transactions = 0
    assert following.run_once() == (len(more.events) * ALL, False)
    assert (line.looks, line.transactions) == (1, ALL)
    assert verify(datastore) == []


def test_rows_are_those_of_runners_on_their_own(datastore: Datastore, history: History) -> None:
    """Following together makes the same rows as one runner after the other."""
    catch_up(datastore)
    wanted = [rows_of(datastore, one) for one in PROJECTIONS]
    with datastore.transaction() as curs:
        for one in PROJECTIONS:
            for table in ("tracking", *wanted[PROJECTIONS.index(one)]):
                curs.execute(f"TRUNCATE {one.schema}.{table}")
    following = Following(runners(datastore))
    for follower in following._followers:
        follower.runner.batch_size.events = 7
    while following.run_once()[0]:
        pass
    assert [rows_of(datastore, one) for one in PROJECTIONS] == wanted


def test_one_that_is_behind_catches_up_by_itself(datastore: Datastore, history: History) -> None:
    """Read models at different positions are read for apart, until they meet."""
    catch_up(datastore, WALLETS)
    more = History("main", seed=1)
    more.claim(more.opened(), person(1))
    store(datastore, more)
    following = Following(runners(datastore))
    while following.run_once()[0]:
        pass
    assert positions(datastore) == [len(history.events) + len(more.events)] * ALL
    assert verify(datastore) == []


def test_the_trouble_of_one_is_not_that_of_the_others(
    datastore: Datastore, history: History
) -> None:
    """A read model whose rows cannot be written rests, is told of, and holds nobody up."""

    def fail() -> None:
        raise ValueError("no such luck")

    told: list[tuple[str, str]] = []
    models = [with_hook(one, fail) if one is CAMPAIGN_FIGURES else one for one in PROJECTIONS]
    following = Following(
        [Runner(datastore, one, "main", "test") for one in models],
        on_trouble=lambda runner, trouble: told.append((runner.projection.name, str(trouble))),
    )
    for _ in range(3):
        following.run_once()
    last = len(history.events)
    assert positions(datastore) == [0 if one is CAMPAIGN_FIGURES else last for one in PROJECTIONS]
    assert told == [("campaign_figures", "no such luck")]


def test_a_lease_of_somebody_else_is_waited_for_alone(
    datastore: Datastore, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process writes one read model, this one writes the others."""
    monkeypatch.setattr(runner_module, "STANDBY_POLL_S", 0.0)
    other = Runner(datastore, CAMPAIGN_FIGURES, "main", "other")
    other.acquire()
    following = Following(runners(datastore))
    following.run_once()
    last = len(history.events)
    assert positions(datastore) == [0 if one is CAMPAIGN_FIGURES else last for one in PROJECTIONS]
    other.release()
    following.run_once()
    assert positions(datastore) == [last] * ALL


def test_what_nobody_can_read_stops_all_and_skips_nothing(
    datastore: Datastore, history: History
) -> None:
    """An unknown event type stops each read model before it; without a listener that ends all."""
    last = len(history.events)
    with datastore.transaction() as curs:
        curs.execute(
            "INSERT INTO tidebook.event (book, position, originator_id, originator_version, topic,"
            " state) VALUES ('main', %s, gen_random_uuid(), 1, 'coupon.teleported', '{}')",
            (last + 1,),
        )
        curs.execute("UPDATE tidebook.book_head SET position = %s", (last + 1,))
    told: list[int] = []

    def tell(_runner: Runner, trouble: Exception) -> None:
        assert isinstance(trouble, Stopped)
        told.append(trouble.position)

    patient = Following(runners(datastore), on_trouble=tell)
    for _ in range(3):
        patient.run_once()
    assert positions(datastore) == [last] * ALL
    assert told == [last + 1] * ALL
    with pytest.raises(Stopped):
        Following(runners(datastore)).run(threading.Event())


def test_a_rest_is_never_longer_than_it_may_be(
    datastore: Datastore, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a batch took, the next look comes within the bound."""
    monkeypatch.setattr(runner_module, "REST_FACTOR", 1e9)
    rests: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            rests.append(timeout)
            self.set()
            return True

    following = Following(runners(datastore))
    for follower in following._followers:
        follower.runner.batch_size.events = len(history.events) // 2 + 1
    following.run(Stop())
    assert rests == [BUSY_POLL_S]
    assert positions(datastore) == [len(history.events)] * ALL


# How far behind


def test_lag_is_the_age_of_the_first_event_not_shown(
    datastore: Datastore, history: History
) -> None:
    """Events are counted from the head; a book without events lags by nothing."""
    last = len(history.events)
    catch_up(datastore, CAMPAIGN_FIGURES)
    with datastore.transaction() as curs:
        found = {(lag.projection, lag.book): lag for lag in lags(curs, ["main", "north"])}
        curs.execute("SELECT extract(epoch FROM clock_timestamp() - %s)", (history.events[0].at,))
        age_s = float(curs.fetchone()[0])
    assert len(found) == 2 * ALL
    shown, behind = found["campaign_figures", "main"], found["wallets", "main"]
    assert (shown.position, shown.events, shown.seconds) == (last, 0, 0.0)
    assert (behind.position, behind.events) == (0, last)
    assert behind.seconds == pytest.approx(max(0.0, age_s), abs=60)
    assert found["wallets", "north"][2:] == (0, 0, 0.0)


def test_lag_in_simulated_time_is_counted_to_the_books_own_present(
    datastore: Datastore, history: History
) -> None:
    """Where time comes with the requests, the machine's clock says nothing about a book."""
    first, last = history.events[0].at, history.events[-1].at
    with datastore.transaction() as curs:
        curs.execute("INSERT INTO tidebook.installation VALUES ('clock', 'request')")
        curs.execute("UPDATE tidebook.book_head SET at = %s", (last,))
        [lag] = lags(curs, ["main"], [WALLETS])
    assert lag.seconds == (last - first).total_seconds()


# Commits that nobody waited for


@pytest.mark.fault
def test_a_crash_of_the_database_costs_only_repetition(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Kill -9 of PostgreSQL at once after light commits: rows and tracking agree, and go on.

    The log is written as late as it can be, so that the last batches are lost; the events, whose
    commits were waited for, are not.
    """
    settings = {"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}
    went_back = 0
    with EmbeddedPostgres(tmp_path_factory.mktemp("crash"), settings=settings) as server:
        migrate_ledger(server.url)
        migrate(server.url)
        for turn in range(4):
            shown = _follow_some_claims(server.url, turn)
            _kill(server)
            datastore = Datastore(server.url)
            went_back += positions(datastore) < shown
            assert verify(datastore) == [], "rows and tracking are of one position"
            catch_up(datastore)
            assert positions(datastore) == shown
            assert verify(datastore) == []
            datastore.close()
    assert went_back, "no crash took anything: this test shows nothing"


def _kill(server: EmbeddedPostgres) -> None:
    """Kill the database in the way that it cannot notice, and wait until it is back."""
    before, pid = server.restarts, server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.restarts > before and server.alive())


def _follow_some_claims(url: str, seed: int) -> list[int]:
    """Store a campaign and claims, durably, and show them; return where the rows stand."""
    datastore = Datastore(url)
    more = History("main", seed=seed)
    campaign = more.opened()
    for n in range(20):
        more.claim(campaign, person(n))
    store(datastore, more)
    following = Following(runners(datastore))
    for follower in following._followers:
        follower.runner.batch_size.events = 5
    while following.run_once()[0]:
        pass
    shown = positions(datastore)
    datastore.close()
    return shown
