"""PostgreSQL is killed in the middle of group packets: all of a decision is there, or none (F40).

Goal: a sending, a taking that closes its group, and a return are each several events, a change of
the capacity and a reply; whatever moment a kill comes in, they are together (I4, I6, I12).
Method: the writer's own connection, or the process behind it, is killed right before, in the
middle of and right after the writing; the same key is sent until it is answered.
"""

from __future__ import annotations

import io
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg2
import pytest
from eventsourcing import persistence as es

from api.embedded import EmbeddedPostgres
from ledger import appending
from ledger.appending import Capacity
from ledger.commit import Answer, OutcomeUnknown, StoreUnavailable
from ledger.datastore import Datastore
from ledger.migrations import migrate
from ledger.session import Session, Writes
from tests.conftest import wait_until
from tests.support.desk import person, tourist
from tests.support.groups import NEXT_NOON, SENDER, SWEEPER, GroupDesk, problems

Commit = Callable[[Session, str, int, Writes], None]
Kill = Callable[[Session], None]

WHEN: Final = ("before", "between", "after")


def kill_the_process(session: Session) -> None:
    """Kill the server's process behind a connection; all of them restart."""
    os.kill(session.connection.info.backend_pid, signal.SIGKILL)
    time.sleep(0.05)


def cut_the_connection(session: Session) -> None:
    """End the connection from the server's side, which takes a moment."""
    other = psycopg2.connect(session.connection.dsn)
    pid = session.connection.info.backend_pid
    with other, other.cursor() as cursor:
        cursor.execute("SET ROLE NONE")
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    other.close()


class KillOnce:
    """A writer's commit that is cut off once, at one of three moments."""

    def __init__(self, commit: Commit, when: str, kill: Kill) -> None:
        self.commit = commit
        self.when = when
        self.kill = kill
        self.done = False

    def __call__(self, session: Session, book: str, after: int, writes: Writes) -> None:
        """Write and commit, but for the first time."""
        if self.done:
            self.commit(session, book, after, writes)
            return
        self.done = True
        if self.when == "between":
            rows = appending.event_rows(book, after, writes.events)
            session._cursor.copy_expert(appending.COPY_EVENTS, io.BytesIO(rows))
        elif self.when == "after":
            self.commit(session, book, after, writes)
        self.kill(session)
        raise psycopg2.OperationalError("the connection was lost")


def one_by_one(session: Session, book: str, after: int, writes: Writes) -> None:
    """Planted bug: every event in a transaction of its own, and dying after the first."""
    first, rest = writes.events[:1], writes.events[1:]
    Session_commit(session, book, after, Writes(first, [], {}, writes.at))
    if rest:
        cut_the_connection(session)
        raise psycopg2.OperationalError("the connection was lost")


Session_commit: Final = Session.commit


@pytest.fixture
def desk(databases: Any) -> Iterator[GroupDesk]:
    """A desk on a database of its own."""
    with databases.fresh() as url:
        datastore = Datastore(url)
        desk = GroupDesk(datastore)
        yield desk
        desk.close()
        datastore.close()


def until_answered(ask: Callable[[], Answer]) -> Answer:
    """Ask with the same key until the store says something."""
    while True:
        try:
            return ask()
        except (OutcomeUnknown, StoreUnavailable):
            time.sleep(0.05)


def story(desk: GroupDesk, cut: Callable[[], None]) -> list[str]:
    """Send a group, take it to the end, send another one and return it; cut off each of these."""
    purse = desk.purse(5_000, quota=50)
    codes = []

    def send(name: str) -> UUID:
        command = desk.sending(purse, 3, 1_000, name)
        answer = until_answered(lambda: desk.send(command, tourist(SENDER), name))
        codes.append(answer.code)
        return command.group

    cut()
    group = send("one")
    for n in range(1, 4):
        if n in (1, 3):
            cut()
        taken = until_answered(lambda n=n: desk.take(group, person(n), f"take-{n}"))  # type: ignore[misc]
        codes.append(taken.code)
    other = send("two")
    cut()
    codes.append(until_answered(lambda: desk.give_back(other, NEXT_NOON, key="return")).code)
    return codes


EXPECTED: Final = ["group_funded", *3 * ["share_taken"], "group_funded", "group_returned"]


def check_whole(desk: GroupDesk) -> None:
    """Every decision is there as a whole, once."""
    topics = Counter(event.TOPIC for event in desk.events())
    assert topics["purse.sent"] == topics["group.funded"] == 2
    assert topics["packet.claimed"] == topics["group.share_taken"] == 3
    assert (topics["group.closed"], topics["purse.returned"]) == (2, 1)
    assert problems(desk) == []


@pytest.mark.fault
@pytest.mark.parametrize("when", WHEN)
def test_a_lost_connection_leaves_all_or_nothing(
    desk: GroupDesk, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Cut off before, in the middle of or after the writing: each decision is there once."""

    def cut() -> None:
        monkeypatch.setattr(Session, "commit", _method(when, cut_the_connection))

    assert story(desk, cut) == EXPECTED
    check_whole(desk)


def _method(when: str, kill: Kill) -> Commit:
    once = KillOnce(Session_commit, when, kill)

    def commit(session: Session, book: str, after: int, writes: Writes) -> None:
        once(session, book, after, writes)

    return commit


@pytest.mark.fault
@pytest.mark.slow
def test_a_killed_server_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F40: SIGKILL between the rows and COMMIT of a sending, a taking and a return."""

    def cut() -> None:
        monkeypatch.setattr(Session, "commit", _method("between", kill_the_process))

    with EmbeddedPostgres(tmp_path) as server:
        migrate(server.url)
        datastore = Datastore(server.url)
        desk = GroupDesk(datastore)
        assert story(desk, cut) == EXPECTED
        wait_until(lambda: _is_readable(desk))
        check_whole(desk)
        desk.close()
        datastore.close()


def _is_readable(desk: GroupDesk) -> bool:
    with suppress(es.OperationalError, es.InterfaceError):
        desk.events()
        return True
    return False


@pytest.mark.fault
def test_without_one_transaction_half_a_taking_is_left(
    desk: GroupDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: written event by event, a kill leaves a packet that no share was taken for."""
    purse = desk.purse(1_000)
    group = desk.sent(purse, 3, 300)
    monkeypatch.setattr(Session, "commit", one_by_one)
    assert desk.take(group, person(1), "take").code == "already_taken", "grabbed, and empty"
    topics = Counter(event.TOPIC for event in desk.events())
    assert topics["packet.claimed"] != topics["group.share_taken"]
    assert problems(desk) != []


def test_the_rest_is_returned_once_by_two_killed_sweepers(
    desk: GroupDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S34: a sweeper that never heard of its success asks again, with no key, and is refused."""
    purse = desk.purse(1_000)
    group = desk.sent(purse, 3, 300)
    monkeypatch.setattr(Session, "commit", _method("after", cut_the_connection))
    first = until_answered(lambda: desk.give_back(group, NEXT_NOON))
    assert first.code == "group_returned"
    assert desk.give_back(group, NEXT_NOON).code == "group_closed"
    assert desk.purse_now(purse).balance_minor == 1_000
    assert SWEEPER.role == "sweeper"
    assert desk.capacity(desk.purse_now(purse).campaign) == Capacity(0, 1_000, 1_000, 1_000)
