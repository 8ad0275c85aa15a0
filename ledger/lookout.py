"""A lookout: glances at the store from an event loop, one after the other, blocking nothing.

It has one connection of its own, which the loop polls: no thread waits, so no thread takes the
interpreter from the loop at every look. A lookout that is answered late or not at all gives its
connection up and says that nothing was seen; it opens another one when it is asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_WRITE

from ledger.appending import PoolKey
from ledger.datastore import Datastore
from ledger.glance import LOOK, PREPARE, SESSION, Asked, Glance, glance_of, look_arguments

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 2.0
"""How long a look may take, with connecting."""

Seen = Callable[[Glance | None], None]
"""Hears what was seen, or None when the store did not answer."""


class Lookout:
    """Belongs to one event loop. One look at a time: whoever asks waits for the answer first."""

    def __init__(self, datastore: Datastore, timeout_s: float = TIMEOUT_S) -> None:
        self._datastore = datastore.with_session(SESSION)
        self._timeout_s = timeout_s
        self._connection: Any = None
        self._cursor: Any = None
        self._watched = -1
        """The file that the loop watches for us; -1 for none."""
        self._next: Callable[[], Glance | None] = _nothing
        """What is done when the connection has done the last thing; a glance is the end of it."""
        self._seen: Seen | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_out(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._seen is not None

    def look(self, book: str, pools: Sequence[PoolKey], asked: Sequence[Asked], seen: Seen) -> None:
        """Look once, as `ledger.glance.glance` does; `seen` hears of it later, exactly once."""
        assert self._seen is None, "one look at a time"
        self._seen = seen
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._timeout_s, self._give_up, "it takes too long")

        def execute() -> None:
            self._next = fetch
            self._cursor.execute(LOOK, look_arguments(book, pools, asked))

        def fetch() -> Glance:
            return glance_of(self._cursor.fetchone(), asked)

        if self._connection is not None and not self._connection.closed:
            self._next = execute
            self._go_on(at_once=True)
        else:
            self._connecting = loop.create_task(self._connect(execute))

    def close(self) -> None:
        """Let go of the connection; whoever waits hears that nothing was seen."""
        self._drop()
        self._tell(None)

    # --- the connection -----------------------------------------------------------------------

    async def _connect(self, then: Callable[[], Glance | None]) -> None:
        waited_for = self._seen
        try:
            connection = await asyncio.to_thread(self._datastore.begin_connecting)
        except psycopg2.Error as error:
            if self._seen is waited_for:
                self._give_up(type(error).__name__)
            return
        if self._seen is not waited_for or waited_for is None:
            connection.close()
            return
        self._connection = connection

        def prepare() -> None:
            self._next = then
            self._cursor = self._connection.cursor()
            self._cursor.execute(PREPARE)

        self._next = prepare
        self._go_on()

    def _go_on(self, *, at_once: bool = False) -> None:
        """Do what can be done without waiting; called whenever the connection can do something.

        `at_once` says that whoever asked has not been returned to: they hear of it later.
        """
        glance: Glance | None = None
        try:
            while (state := self._connection.poll()) == POLL_OK and self._seen is not None:
                glance = self._next()
                if glance is not None:
                    break
        except psycopg2.Error as error:
            self._give_up(type(error).__name__)
        except Exception:
            log.exception("a look at the store could not be understood")
            self._give_up("it could not be understood")
        else:
            if glance is not None and at_once:
                self._tell_soon(glance)
            elif glance is not None:
                self._tell(glance)
            elif state != POLL_OK:
                self._watch(writing=state == POLL_WRITE)

    def _watch(self, *, writing: bool) -> None:
        loop, file = asyncio.get_running_loop(), self._connection.fileno()
        if file != self._watched:
            self._unwatch()
            loop.add_reader(file, self._go_on)
            self._watched = file
        if writing:
            loop.add_writer(file, self._go_on)
        else:
            loop.remove_writer(file)

    def _unwatch(self) -> None:
        if self._watched >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._watched)
            loop.remove_writer(self._watched)
            self._watched = -1

    # --- the end of a look --------------------------------------------------------------------

    def _tell(self, glance: Glance | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seen, self._seen = self._seen, None
        if seen is not None:
            seen(glance)

    def _tell_soon(self, glance: Glance | None) -> None:
        """Tell it in the loop's next turn; nothing else ends this look meanwhile."""
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        asyncio.get_running_loop().call_soon(self._tell, glance)

    def _give_up(self, why: str) -> None:
        """Nobody knows what the connection would say next, so it is not used again."""
        self._drop()
        if self._seen is not None:
            log.warning("the store was not looked at: %s", why)
            self._tell_soon(None)

    def _drop(self) -> None:
        self._unwatch()
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg2.Error):
                connection.close()


def _nothing() -> None:
    """There is nothing to do."""
