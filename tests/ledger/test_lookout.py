"""A lookout sees what a glance sees, says so once, and gets over a store that does not answer."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from psycopg2 import sql
from psycopg2.extensions import POLL_OK, POLL_WRITE

from campaigns.campaign import POOL
from campaigns.coupon import coupon_id
from ledger.appending import request_id
from ledger.datastore import Datastore
from ledger.glance import Asked, Glance, connect, glance
from ledger.lookout import Lookout
from tests.support.desk import Desk, person
from tests.support.proxy import Proxy


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A writer of the book."""
    found = Desk(datastore)
    yield found
    found.close()


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """A way to the database that can be cut."""
    found = Proxy(database_url)
    yield found
    found.close()


async def seen_by(lookout: Lookout, asked: list[Asked], pools: list[Any]) -> Glance | None:
    """Look once and wait for the answer."""
    answer: asyncio.Future[Glance | None] = asyncio.get_running_loop().create_future()
    lookout.look("main", pools, asked, answer.set_result)
    assert lookout.is_out
    return await answer


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run something in an event loop of its own."""
    asyncio.run(work())


def test_a_lookout_sees_what_a_glance_sees(desk: Desk, datastore: Datastore) -> None:
    """Look after look, over one connection."""
    campaign = desk.opened(quota=2)
    people = [person(n) for n in range(3)]
    for number, who in enumerate(people):
        desk.claim(campaign, who, f"key {number}")
    asked = [
        Asked(request_id(scope, key), scope, key, coupon_id(campaign, who, 1).hex)
        for who in people
        for scope in [f"tourist:{who}"]
        for key in ("key 0", "key 1", "key 2", "never sent")
    ]
    pools = [(campaign, POOL), (uuid4(), POOL)]
    connection = connect(datastore)
    expected = glance(connection, "main", pools, asked)
    connection.close()

    async def look() -> None:
        lookout = Lookout(datastore)
        for _ in range(3):
            found = await seen_by(lookout, asked, pools)
            assert found is not None
            assert not lookout.is_out
            assert found._replace(now=expected.now) == expected
        lookout.close()

    run(look)
    assert sum(expected.answered) == 3
    assert sum(expected.existing) == 8


def test_the_next_look_may_begin_where_the_last_one_is_told(datastore: Datastore) -> None:
    """Whoever hears an answer asks again at once; all are answered in turn."""

    async def look() -> None:
        lookout, answers = Lookout(datastore), []
        enough = asyncio.Event()

        def heard(found: Glance | None) -> None:
            answers.append(found)
            if len(answers) == 5:
                enough.set()
            else:
                lookout.look("main", [], [], heard)

        lookout.look("main", [], [], heard)
        await enough.wait()
        assert None not in answers
        lookout.close()

    run(look)


class Prompt(Datastore):
    """A store whose answers are there before anybody has looked away."""

    def with_session(self, session: Mapping[str, str | None]) -> Prompt:
        """Stay as prompt as this."""
        assert session
        return self

    def begin_connecting(self) -> Any:
        """Return a connection that is polled when it has something to say."""
        return PromptConnection(super().begin_connecting())


class PromptConnection:
    """Waits in `poll` for what was asked."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def poll(self) -> int:
        """Poll until there is nothing to wait for."""
        while (state := self._connection.poll()) != POLL_OK:
            writing = [self] if state == POLL_WRITE else []
            assert any(select.select([self], writing, [], 10.0))
        return int(state)


def test_an_answer_that_is_there_at_once_is_heard_later(database_url: str) -> None:
    """Whoever asks is done with asking before they hear, however fast the store is."""

    async def look() -> None:
        lookout = Lookout(Prompt(database_url))
        for _ in range(3):
            assert await seen_by(lookout, [], []) is not None
        answers: list[Glance | None] = []
        lookout.look("main", [], [], answers.append)
        assert answers == []
        lookout.close()
        await asyncio.sleep(0)
        assert answers == [None]

    run(look)


def test_a_store_that_cannot_be_reached_shows_nothing(datastore: Datastore, proxy: Proxy) -> None:
    """Whoever asked hears so, and the next one is answered when it is there again."""

    async def look() -> None:
        lookout = Lookout(Datastore(proxy.url))
        assert await seen_by(lookout, [], []) is not None
        proxy.cut_once(b"EXECUTE", "before")
        assert await seen_by(lookout, [], []) is None
        assert await seen_by(lookout, [], []) is not None
        proxy.cut_once(b"EXECUTE", "after")
        assert await seen_by(lookout, [], []) is None
        assert await seen_by(lookout, [], []) is not None
        lookout.close()
        missing = Lookout(Datastore("postgresql://nobody@127.0.0.1:1/nothing"))
        assert await seen_by(missing, [], []) is None
        assert not missing.is_out

    run(look)
    assert datastore is not None


def test_a_connection_that_the_server_ends_is_replaced(
    datastore: Datastore, database_url: str
) -> None:
    """Also when it ends between two looks."""

    async def look() -> None:
        lookout = Lookout(datastore)
        assert await seen_by(lookout, [], []) is not None
        await asyncio.to_thread(_end_all_others, database_url)
        found = await seen_by(lookout, [], []) or await seen_by(lookout, [], [])
        assert found is not None
        lookout.close()

    run(look)


def _end_all_others(url: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    connection.close()


def test_a_store_that_is_silent_is_given_up(datastore: Datastore) -> None:
    """The answer is «nothing seen», and a late one is not taken for that of the next look."""

    async def look() -> None:
        lookout = Lookout(datastore, timeout_s=0.2)
        assert await seen_by(lookout, [], []) is not None
        blocker = await asyncio.to_thread(_lock_events, datastore)
        assert await seen_by(lookout, [], [(uuid4(), POOL)]) is None
        await asyncio.to_thread(blocker.close)
        found = await seen_by(lookout, [], [])
        while found is None:  # connecting took longer than the short patience of this test
            found = await seen_by(lookout, [], [])
        assert found.pools == []
        lookout.close()

    run(look)


def _lock_events(datastore: Datastore) -> Any:
    connection = psycopg2.connect(datastore.url)
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE tidebook.event IN ACCESS EXCLUSIVE MODE")
    return connection


def test_whoever_waits_at_the_close_hears_that_nothing_was_seen(datastore: Datastore) -> None:
    """Whether it was connecting or looking."""

    async def look() -> None:
        connecting = Lookout(datastore)
        looking = Lookout(datastore)
        assert await seen_by(looking, [], []) is not None
        answers: list[Glance | None] = []
        for lookout in (connecting, looking):
            lookout.look("main", [], [], answers.append)
            lookout.close()
        assert answers == [None, None]
        await asyncio.sleep(0)

    run(look)
