"""Workers: processes of one program that serve one socket's callers, kept running and replaced.

The parent holds the socket and hands each connection to a worker (`api.spreading`), so that a
caller who connects while processes change waits in the socket's queue instead of being refused. A
restart starts a new generation first, and only when all of it serves is the old one told to drain.
A worker says over a pipe that it serves or drains, and its end is the end of that pipe. The parent
must never look into a connection; which program the workers run is not known here.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from types import FrameType
from typing import Final

import structlog

from api.spreading import Recipient, Spread, channel, next_of
from api.supervisor import Hangup

_log: Final = structlog.get_logger("tidebook.workers")

SERVING: Final = b"S"
DRAINING: Final = b"D"
"""What a worker says: that it takes callers, and that it does so no more."""

BACKLOG: Final = 4_096
"""Connections that may wait to be accepted: a release opens and everybody connects at once."""
START_TIMEOUT_S: Final = 60.0
LAST_CALL_S: Final = 5.0
"""How long a server that ends goes on handing out those who wait to be accepted."""
KILL_AFTER_S: Final = 45.0
"""A worker that has not drained by then is ended; its own bounds are shorter."""
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MAX_S: Final = 2.0
STABLE_AFTER_S: Final = 5.0
"""A worker that served for so long is replaced at once when it dies."""


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    generation: int
    pipe: int
    recipient: Recipient
    deadline: float
    """By when it must serve; for one that drains, by when it must have ended."""
    serving_since: float | None = None
    draining: bool = False


@dataclass
class Workers:
    """Keeps `count` processes of `argv` serving on `listener`, until a signal says to end.

    Each gets, as further arguments, the numbers of three descriptors: the channel that its
    connections come by, a pipe that ends when the parent is gone, and the pipe to say `SERVING` and
    `DRAINING` on. SIGTERM is to make it drain. SIGTERM and SIGINT end all, a second one at once;
    SIGHUP replaces them.
    """

    argv: Sequence[str]
    count: int
    listener: socket.socket
    env: Mapping[str, str]
    on_serving: Callable[[], None]
    """Called once, when the first generation serves."""
    on_ended: Callable[[int], None] = lambda _pid: None
    """Called with the id of every process that has ended."""
    keep_open: Sequence[int] = ()
    """Descriptors that the workers only hold."""

    _workers: list[_Worker] = field(default_factory=list, init=False)
    _generation: int = field(default=0, init=False)
    _announced: bool = field(default=False, init=False)
    _next: int | None = field(default=None, init=False)
    _restart_again: bool = field(default=False, init=False)
    _respawns: list[float] = field(default_factory=list, init=False)
    _backoff_s: float = field(default=BACKOFF_FIRST_S, init=False)
    _stopping: bool = field(default=False, init=False)
    _status: int = field(default=0, init=False)
    _signals: list[int] = field(default_factory=list, init=False)
    _selector: selectors.BaseSelector = field(init=False)
    _lifeline: tuple[int, int] = field(init=False)
    _hangup: Hangup = field(init=False)
    _spread: Spread = field(init=False)
    _listens: bool = field(default=False, init=False)
    _closes_at: float | None = field(default=None, init=False)
    """While it ends: by when nobody is taken any more. None before, and afterwards."""

    def run(self) -> int:
        """Run until all have ended; return 0, or 1 when the first generation did not serve.

        Call it from the main thread: it handles the signals itself.
        """
        self._hangup = Hangup()
        self._selector = selectors.DefaultSelector()
        self._spread = Spread(self.listener)
        self._lifeline = os.pipe()
        hear, wake = socket.socketpair()
        hear.setblocking(False)
        wake.setblocking(False)
        self._selector.register(hear, selectors.EVENT_READ, partial(_emptied, hear))
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, self._note) for number in numbers}
        before_wake = signal.set_wakeup_fd(wake.fileno())
        try:
            self._spawn(self.count, self._generation)
            while self._workers or not self._stopping:
                self._turn()
            return self._status
        finally:
            self._kill_all()
            signal.set_wakeup_fd(before_wake)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            for end in self._lifeline:
                os.close(end)
            hear.close()
            wake.close()

    def pids(self) -> list[int]:
        """The processes that serve or are about to."""
        return [worker.process.pid for worker in self._workers if not worker.draining]

    # --- one turn -------------------------------------------------------------------------------

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._wait_s()):
            key.data()
        while self._signals:
            self._obey(self._signals.pop(0))
        self._respawn_due()
        if self._closes_at is not None and self._closes_at <= time.monotonic():
            self._close()
        self._end_late()
        self._watch_listener()

    def _wait_s(self) -> float | None:
        times = [*self._respawns]
        if self._closes_at is not None:
            times.append(self._closes_at)
        times += [w.deadline for w in self._workers if w.draining or w.serving_since is None]
        now = time.monotonic()
        times += [at for each in self._takers() if now < (at := each.stuck_at()) < inf]
        return max(0.0, min(times) - now) if times else None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP and not self._hangup.terminal_is_gone():
            self._restart()
        elif self._stopping:
            self._kill_all()
        else:
            self._stop()

    # --- connections ----------------------------------------------------------------------------

    def _takers(self) -> list[Recipient]:
        """Who gets the connections: the generation that serves."""
        return [
            worker.recipient
            for worker in self._workers
            if worker.generation == self._generation
            and worker.serving_since is not None
            and not worker.draining
        ]

    def _accept(self) -> None:
        nobody_waits = self._spread.spread(self._takers())
        if nobody_waits and self._closes_at is not None:
            self._close()

    def _watch_listener(self) -> None:
        """Listen only as long as somebody could take what comes."""
        takes = not self._stopping or self._closes_at is not None
        wanted = takes and next_of(self._takers()) is not None
        if wanted and not self._listens:
            self._selector.register(self.listener, selectors.EVENT_READ, self._accept)
        elif self._listens and not wanted:
            self._selector.unregister(self.listener)
        self._listens = wanted

    def _hear_recipient(self, worker: _Worker) -> None:
        if not worker.recipient.hear():
            self._end_channel(worker)

    def _end_channel(self, worker: _Worker) -> None:
        """Hand nothing more to a worker, which hears of that by the end of its channel."""
        if worker.recipient.channel.fileno() >= 0:
            self._selector.unregister(worker.recipient.channel)
            worker.recipient.channel.close()

    # --- what workers say -----------------------------------------------------------------------

    def _hear(self, worker: _Worker) -> None:
        said = os.read(worker.pipe, 16)
        if not said:
            self._ended(worker)
        elif said.endswith(DRAINING):
            self._left(worker)
        elif worker.serving_since is None:
            worker.serving_since = time.monotonic()
            self._served(worker)

    def _served(self, worker: _Worker) -> None:
        peers = [w for w in self._workers if w.generation == worker.generation]
        complete = len(peers) >= self.count and all(w.serving_since is not None for w in peers)
        if not complete or self._stopping:
            return
        if worker.generation == self._next:
            self._promote()
        elif not self._announced:
            self._announced = True
            self.on_serving()

    def _left(self, worker: _Worker) -> None:
        """Replace a worker that somebody else told to drain, before it has ended."""
        if not worker.draining:
            self._mark_draining(worker)
            if worker.generation == self._generation and not self._stopping:
                self._respawns.append(time.monotonic())

    def _ended(self, worker: _Worker) -> None:
        self._selector.unregister(worker.pipe)
        os.close(worker.pipe)
        self._end_channel(worker)
        status = worker.process.wait()
        self._workers.remove(worker)
        self.on_ended(worker.process.pid)
        if self._stopping or worker.draining:
            return
        _log.warning("worker.died", pid=worker.process.pid, status=status)
        if worker.generation == self._next:
            self._give_up_restart()
        elif not self._announced:
            self._status = 1
            self._stop()
        else:
            self._schedule_respawn(worker)

    # --- generations ----------------------------------------------------------------------------

    def _restart(self) -> None:
        if self._stopping:
            return
        if self._next is not None or not self._announced:
            self._restart_again = self._announced
            return
        self._next = self._generation + 1
        self._spawn(self.count, self._next)

    def _promote(self) -> None:
        assert self._next is not None, "a generation was started"
        self._generation, self._next = self._next, None
        self._respawns.clear()
        for worker in self._workers:
            if worker.generation != self._generation:
                self._drain(worker)
        _log.info("workers.replaced", generation=self._generation)
        if self._restart_again:
            self._restart_again = False
            self._restart()

    def _give_up_restart(self) -> None:
        """The new generation does not come up: go on with the old one."""
        _log.error("workers.not_replaced")
        for worker in self._workers:
            if worker.generation == self._next:
                self._drain(worker)
        self._next = None
        self._restart_again = False

    def _schedule_respawn(self, worker: _Worker) -> None:
        now = time.monotonic()
        if worker.serving_since is not None and now - worker.serving_since > STABLE_AFTER_S:
            self._backoff_s = BACKOFF_FIRST_S
        self._respawns.append(now + self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)

    def _respawn_due(self) -> None:
        now = time.monotonic()
        due = sum(at <= now for at in self._respawns)
        self._respawns = [at for at in self._respawns if at > now]
        self._spawn(due, self._generation)

    def _spawn(self, count: int, generation: int) -> None:
        for _ in range(count):
            hear, say = os.pipe()
            ours, theirs = channel()
            passed = (theirs.fileno(), self._lifeline[0], say)
            try:
                process = subprocess.Popen(  # noqa: S603 - argv is ours
                    [*self.argv, *map(str, passed)],
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(*passed, *self.keep_open),
                )
            finally:
                os.close(say)
                theirs.close()
            deadline = time.monotonic() + START_TIMEOUT_S
            worker = _Worker(process, generation, hear, Recipient(ours), deadline)
            self._workers.append(worker)
            self._selector.register(hear, selectors.EVENT_READ, partial(self._hear, worker))
            self._selector.register(
                ours, selectors.EVENT_READ, partial(self._hear_recipient, worker)
            )

    # --- ends -----------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Hand out those who wait to be accepted, then end: nobody who got through is cut off."""
        self._stopping = True
        self._respawns.clear()
        self._closes_at = time.monotonic() + LAST_CALL_S
        self._spread.let_nobody_queue()
        if self._takers():
            self._accept()
        else:
            self._close()

    def _close(self) -> None:
        self._closes_at = None
        self._watch_listener()
        self._spread.close()  # whoever connects now is refused, not left to wait
        for worker in self._workers:
            self._drain(worker)

    def _drain(self, worker: _Worker) -> None:
        if not worker.draining:
            self._mark_draining(worker)
            worker.process.send_signal(signal.SIGTERM)

    def _mark_draining(self, worker: _Worker) -> None:
        worker.draining = True
        self._end_channel(worker)
        worker.deadline = time.monotonic() + KILL_AFTER_S

    def _end_late(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.deadline <= now and (worker.draining or worker.serving_since is None):
                _log.error("worker.killed", pid=worker.process.pid)
                worker.deadline = now + KILL_AFTER_S
                worker.process.kill()

    def _kill_all(self) -> None:
        for worker in self._workers:
            worker.process.kill()


def _emptied(wake_up: socket.socket) -> None:
    """Read what the signals have written."""
    with suppress(BlockingIOError):
        wake_up.recv(4096)
