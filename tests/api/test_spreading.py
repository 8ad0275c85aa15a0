"""Connections are spread evenly over the workers, and none is lost on its way to one."""

from __future__ import annotations

import asyncio
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import spreading
from api.spreading import IN_HAND_MAX, Receiver, Recipient, Spread, channel
from tests.api.served import lives
from tests.conftest import free_port, wait_until

WORKERS = 3
REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


class Served:
    """A server of several workers, and those who are connected to it."""

    def __init__(self, server: psutil.Process, port: int, callers: ExitStack) -> None:
        self.server = server
        self._port = port
        self._callers = callers

    def connect(self, count: int) -> list[socket.socket]:
        """So many callers, one right after the other."""
        return [
            self._callers.enter_context(
                socket.create_connection(("127.0.0.1", self._port), timeout=60)
            )
            for _ in range(count)
        ]

    def workers(self) -> list[psutil.Process]:
        """The server's workers."""
        return self.server.children()

    def spread(self) -> list[int]:
        """How many connections each worker has."""
        return [
            sum(
                each.status == psutil.CONN_ESTABLISHED and each.laddr.port == self._port
                for each in worker.net_connections("tcp4")
            )
            for worker in self.workers()
        ]


@contextmanager
def served(workers: int) -> Iterator[Served]:
    """Our server with a constant for an answer, once each of its workers has a caller."""
    port = free_port()
    argv = [sys.executable, "-m", "api.constant", "--port", str(port), "--workers", str(workers)]
    with subprocess.Popen(argv) as process, ExitStack() as callers:
        try:
            there = Served(psutil.Process(process.pid), port, callers)
            wait_until(lambda: answers(port) and len(there.workers()) == workers)
            wait_until(lambda: all(map(asked, there.connect(1))) and min(there.spread()) > 0)
            yield there
        finally:
            process.kill()


def answers(port: int) -> bool:
    """Whether the server answers somebody who then goes."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as caller:
            return asked(caller)
    except OSError:
        return False


def asked(caller: socket.socket) -> bool:
    """Whether a request on a connection is answered."""
    caller.sendall(REQUEST)
    return caller.recv(1 << 16).startswith(b"HTTP/1.1 201")


def test_a_burst_is_spread_evenly_and_so_is_what_comes_after_it() -> None:
    """Nobody has more than its part and two; whoever lost callers gets the next ones."""
    with served(WORKERS) as server:
        callers = server.connect(100)
        assert all(map(asked, callers))
        assert is_even(server.spread())
        first, *_ = server.workers()
        theirs = {each.raddr.port for each in first.net_connections("tcp4")}
        for caller in callers:
            if caller.getsockname()[1] in theirs:
                caller.close()
        wait_until(lambda: not is_even(server.spread()))
        wait_until(lambda: all(map(asked, server.connect(5))) and is_even(server.spread()))


def is_even(spread: list[int]) -> bool:
    """Whether nobody has more than its part and two."""
    return max(spread) <= -(-sum(spread) // len(spread)) + 2


def test_who_is_stuck_gets_a_bounded_part_and_the_others_go_on() -> None:
    """A stopped worker is handed a few connections; when it runs again they are answered too."""
    with served(2) as server:
        stuck = server.workers()[0]
        stuck.suspend()
        callers = server.connect(4 * IN_HAND_MAX)
        for caller in callers:
            caller.sendall(REQUEST)
        wait_until(lambda: len(heard(callers)) >= 3 * IN_HAND_MAX)
        stuck.resume()
        wait_until(lambda: len(heard(callers)) == len(callers))


def heard(callers: list[socket.socket]) -> list[socket.socket]:
    """Who has an answer to read."""
    poll = select.poll()
    for caller in callers:
        poll.register(caller, select.POLLIN)
    there = {descriptor for descriptor, _ in poll.poll(0)}
    return [caller for caller in callers if caller.fileno() in there]


def test_callers_of_a_killed_worker_come_back_to_the_others() -> None:
    """Whoever connects anew is answered, whether or not the killed one is replaced already."""
    with served(2) as server:
        server.connect(20)
        killed = server.workers()[0]
        killed.kill()
        wait_until(lambda: not lives(killed))
        assert all(map(asked, server.connect(20)))


class Pair:
    """A listening socket and channels to recipients that do nothing by themselves."""

    def __init__(self, count: int, held: ExitStack) -> None:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.address = listener.getsockname()
        self.spread = Spread(listener)
        self.theirs: list[socket.socket] = []
        self.recipients: list[Recipient] = []
        self._held = held
        for _ in range(count):
            ours, theirs = channel()
            held.enter_context(ours)
            self.theirs.append(held.enter_context(theirs))
            self.recipients.append(Recipient(ours))

    def connect(self) -> socket.socket:
        """One more caller."""
        return self._held.enter_context(socket.create_connection(self.address, timeout=60))


@contextmanager
def pair(count: int) -> Iterator[Pair]:
    """A parent's part, with so many recipients."""
    with ExitStack() as held:
        there = Pair(count, held)
        yield there
        there.spread.close()


def burst(there: Pair) -> list[int]:
    """Hand on what twenty callers bring; return how many each recipient was handed."""
    for _ in range(20):
        there.connect()
    there.spread.spread(there.recipients)
    return [each.handed for each in there.recipients]


@given(open_before=st.lists(st.integers(0, 30), min_size=2, max_size=4))
def test_whoever_has_fewest_gets_the_next(open_before: list[int]) -> None:
    """Whatever they had: afterwards nobody who was handed one has two more than another."""
    with pair(len(open_before)) as there:
        for recipient, count in zip(there.recipients, open_before, strict=True):
            recipient.open = count
        handed = burst(there)
        loads = [each.load for each in there.recipients]
    assert sum(handed) == 20
    assert all(load <= min(loads) + 1 for load, count in zip(loads, handed, strict=True) if count)


def test_without_counting_the_spread_is_uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with everybody's load taken for the same, one of them gets all."""
    monkeypatch.setattr(Recipient, "load", 0)
    with pair(2) as there:
        assert burst(there) == [20, 0]


def test_what_a_dead_worker_cannot_take_goes_to_another() -> None:
    """The end of its channel is gone; the connection is not."""
    with pair(2) as there:
        there.theirs[0].close()
        assert burst(there) == [0, 20]
        assert not there.recipients[0].hear()
        assert there.recipients[1].hear()


def test_what_nobody_can_take_is_kept_for_who_can() -> None:
    """A connection that was accepted when the last worker died is the first of the next one."""
    with pair(2) as there:
        there.theirs[0].close()
        caller = there.connect()
        there.spread.spread(there.recipients[:1])
        there.spread.spread(there.recipients[1:])
        _, [descriptor], _, _ = socket.recv_fds(there.theirs[1], 1, 1)
        with socket.socket(fileno=descriptor) as handed:
            assert handed.getpeername() == caller.getsockname()


class Hello(asyncio.Protocol):
    """Counts whom it meets, and says goodbye at once."""

    met = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One more."""
        Hello.met += 1
        transport.abort()  # type: ignore[attr-defined]


def test_nothing_is_left_in_a_channel_that_ends() -> None:
    """Who was handed over right before the end is connected and counted before it is said."""

    async def run(there: Pair) -> int:
        Hello.met = 0
        receiver = Receiver(there.theirs[0], Hello, set()).start()
        burst(there)
        there.recipients[0].channel.close()
        await receiver.finish(60)
        return Hello.met

    with pair(1) as there:
        assert asyncio.run(run(there)) == 20


def test_a_worker_that_takes_nothing_is_handed_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for it a moment, then they get what comes; it is full until it says more."""
    monkeypatch.setattr(spreading, "PATIENCE_S", 3600.0)
    with pair(2) as there:
        full = [IN_HAND_MAX, IN_HAND_MAX]
        while sum(burst(there)) < sum(full):
            pass
        take(there, 1)
        assert burst(there) == full
        monkeypatch.setattr(spreading, "PATIENCE_S", 0.0)
        assert burst(there) == [IN_HAND_MAX, 2 * IN_HAND_MAX]
        take(there, 0)
        monkeypatch.setattr(spreading, "PATIENCE_S", 3600.0)
        burst(there)
        assert there.recipients[0].load == there.recipients[1].load


def take(there: Pair, which: int) -> None:
    """Let a recipient say that it took what it was handed, and that it has all of that."""
    recipient = there.recipients[which]
    there.theirs[which].send(spreading._REPORT.pack(recipient.handed, recipient.handed))
    assert recipient.hear()
    assert not recipient.is_full
