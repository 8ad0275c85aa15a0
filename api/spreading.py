"""Connections spread evenly: the parent accepts each and hands it to the worker with the fewest.

Workers that accept from one socket take what they are quick enough to take: of a dozen connections
one gets five and the other seven, and whoever is among the seven waits longer as long as the
connection lives. So a worker has a channel, on which its parent hands it connections, and on which
it says how many it has. A worker that drains is told by the end of its channel that nothing more
comes: a connection must never be left behind in there, nor be handed to somebody who has gone while
another worker could take it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

_log: Final = logging.getLogger("tidebook.spreading")

IN_HAND_MAX: Final = 32
"""Connections handed to a worker that it has not taken out of its channel: lost if it dies then."""
PATIENCE_S: Final = 0.25
"""How long the one with the fewest is waited for; then the others get what comes."""
REPORTED_AFTER: Final = IN_HAND_MAX // 2
"""A worker that has taken so many says so; fewer it tells with its next tick."""
ACCEPTED_MAX: Final = 128
"""Connections accepted in one go; between two, the parent looks after its workers."""

PAUSE_S: Final = 0.05
"""After an accept that failed for want of descriptors: what is there stays there, and waits."""

_REPORT: Final = struct.Struct(">QQ")
_CONNECTION: Final = b"c"


def channel() -> tuple[socket.socket, socket.socket]:
    """Return the parent's and the worker's end of a new channel."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


@dataclass(eq=False, slots=True)
class Recipient:
    """A worker as the parent sees it: what it was handed, and what it said that it has."""

    channel: socket.socket
    handed: int = 0
    taken: int = 0
    open: int = 0
    full_since: float = 0.0

    @property
    def load(self) -> int:
        """How many connections it has, with those on their way to it."""
        return self.handed - self.taken + self.open

    @property
    def is_full(self) -> bool:
        """Whether it has to take what it was handed before it gets more."""
        return self.handed - self.taken >= IN_HAND_MAX

    def stuck_at(self) -> float:
        """From when on it is given up for the time being; never while it takes what it gets."""
        return self.full_since + PATIENCE_S if self.is_full else float("inf")

    def hand(self, connection: socket.socket) -> bool:
        """Hand over a connection, or say that it cannot be handed to this worker."""
        try:
            socket.send_fds(self.channel, [_CONNECTION], [connection.fileno()])
        except OSError:
            return False
        self.handed += 1
        if self.is_full:
            self.full_since = time.monotonic()
        return True

    def hear(self) -> bool:
        """Hear what the worker has; say whether it is still there."""
        try:
            while report := self.channel.recv(_REPORT.size):
                self.taken, self.open = _REPORT.unpack(report)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def next_of(recipients: Iterable[Recipient]) -> Recipient | None:
    """Who gets the next connection; None when it has to wait."""
    now = time.monotonic()
    able = [each for each in recipients if now < each.stuck_at()]
    least = min(able, key=lambda each: each.load, default=None)
    return None if least is None or least.is_full else least


class Spread:
    """The parent's part: accepts from the listening socket and hands on, as long as somebody takes.

    What nobody can take waits in the socket's queue.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._held: socket.socket | None = None
        """A connection that was accepted when its worker died."""
        listener.setblocking(False)

    def spread(self, recipients: Iterable[Recipient]) -> bool:
        """Hand on what waits now, each to the worker that has the fewest.

        Return whether nobody waits any more.
        """
        there = list(recipients)
        for _ in range(ACCEPTED_MAX):
            least = next_of(there)
            if least is None:
                return False
            connection = self._held or self._accepted()
            if connection is None:
                return True
            self._held = connection
            if least.hand(connection):
                connection.close()
                self._held = None
            else:
                there.remove(least)
        return False

    def _accepted(self) -> socket.socket | None:
        """The next caller; None when nobody waits, or when it is gone already."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            _log.warning("connection.not_accepted", extra={"errno": error.errno})
            time.sleep(PAUSE_S)
            return None
        return connection

    def let_nobody_queue(self) -> None:
        """Let those who wait be the last ones: who connects now has to knock again."""
        self._listener.listen(0)

    def close(self) -> None:
        """Refuse whoever connects from now on."""
        self._listener.close()
        if self._held is not None:
            self._held.close()


class Receiver:
    """The worker's part: takes connections out of its channel until the channel ends."""

    def __init__(
        self,
        channel: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        connected: AbstractSet[asyncio.Protocol],
    ) -> None:
        """`protocol` makes that of a new connection; `connected` are those that have begun."""
        self._channel = channel
        self._protocol = protocol
        self._connected = connected
        self._loop = asyncio.get_running_loop()
        self._taken = 0
        self._reported = (0, 0)
        self._beginning: dict[asyncio.Task[None], asyncio.Protocol] = {}
        self._over = asyncio.Event()

    def start(self) -> Self:
        """Take what comes."""
        self._loop.add_reader(self._channel, self._receive)
        return self

    async def finish(self, timeout_s: float) -> None:
        """Wait until nothing more can come and everybody who came is connected."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), timeout_s)
        self._end()
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=timeout_s)

    def report(self) -> None:
        """Say how many connections there are, if that has changed."""
        beginning = sum(each not in self._connected for each in self._beginning.values())
        now = self._taken, len(self._connected) + beginning
        if now != self._reported and not self._over.is_set():
            with suppress(OSError):  # the parent is gone, or will hear it the next time
                self._channel.send(_REPORT.pack(*now))
                self._reported = now

    def _receive(self) -> None:
        for _ in range(IN_HAND_MAX):
            try:
                said, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
            except BlockingIOError:
                break
            except OSError:
                said, descriptors = b"", []
            if not said:
                self._end()
                return
            self._taken += 1
            for descriptor in descriptors:
                self._begin(descriptor)
        if self._taken - self._reported[0] >= REPORTED_AFTER:
            self.report()

    def _begin(self, descriptor: int) -> None:
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:  # nobody can say of what kind it is: the caller has gone
            os.close(descriptor)
            return
        connection.setblocking(False)
        protocol = self._protocol()
        beginning = self._loop.create_task(self._connect(protocol, connection))
        self._beginning[beginning] = protocol
        beginning.add_done_callback(self._beginning.pop)

    async def _connect(self, protocol: asyncio.Protocol, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, connection)
        except OSError:
            connection.close()

    def _end(self) -> None:
        if not self._over.is_set():
            self._over.set()
            self._loop.remove_reader(self._channel)
            self._channel.close()
