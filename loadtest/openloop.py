"""The open-loop driver: visits begin when the arrival curve says, whatever the service does.

A call's latency runs from the moment at which it was meant. When the service, or this process, is
late, the waiting counts: nobody is left out because the one before was served slowly. Connections
are kept alive and opened as visits need them, up to a limit; beyond it calls wait, and that counts
too. It must never retry by itself: scripts decide, and a call without an answer is kept as such.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
from collections import Counter, deque
from time import perf_counter
from typing import TYPE_CHECKING, Final

from loadtest.driver import Reply, problem_code, read_reply
from loadtest.recording import Recording, Times
from loadtest.stage import address_of
from loadtest.visits import Amiss, Answer, Arrival, Call, Pause, Script

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONNECTIONS_MAX: Final = 1024
PATIENCE_S: Final = 30.0
"""A call that has no answer after so long never gets one; its outcome is unknown."""
GRACE_S: Final = 60.0
"""How long after the last arrival visits may still go on."""
RECEIVE_BYTES: Final = 64 * 1024
TICK_S: Final = 1.0
RECENT: Final = 4096
"""Latencies that the progress line looks at."""

NO_ANSWER: Final = Answer(0, "no_answer")
_START: Final = Answer(0, "start")
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class _Visit:
    """One arrival under way: its script, and the call that is out or waits to be sent."""

    __slots__ = ("began", "begin_s", "call", "due_s", "heard_s", "script", "told")

    def __init__(self, script: Script, due_s: float) -> None:
        self.script = script
        self.due_s = due_s
        self.began = False
        self.begin_s = 0.0
        self.heard_s = 0.0
        """When something of the answer came last; until then when the call was sent."""
        self.told = b""
        """The last event of a stream; from the first one on the call is written down."""
        self.call: Call | None = None


class _Connection:
    """One keep-alive connection, with at most one visit's call out."""

    __slots__ = ("buffer", "read", "socket", "visit")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(None)  # a read happens only after the poll said readable
        self.buffer = b""
        self.read = 0
        """How much of the buffer has been searched for events of a stream."""
        self.visit: _Visit | None = None


class Progress:
    """What a run has done so far, for whoever watches it."""

    def __init__(self) -> None:
        self.arrived = 0
        self.done = 0
        self.statuses: Counter[int] = Counter()
        self.codes: Counter[str] = Counter()
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.waiting = 0
        self.in_flight = 0

    def count(self, answer: Answer, latency_s: float) -> None:
        """Count an answer."""
        self.statuses[answer.status] += 1
        if answer.code:
            self.codes[answer.code] += 1
        self.recent.append(latency_s)

    def percentile_ms(self, share: float) -> float:
        """Of the latest answers."""
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3 if ordered else 0.0


class OpenLoop:
    """Runs the scripts of many arrivals over one thread's sockets."""

    def __init__(
        self,
        url: str,
        arrivals: Sequence[Arrival],
        recording: Recording,
        *,
        connections_max: int = CONNECTIONS_MAX,
        grace_s: float = GRACE_S,
        watch: Callable[[float, Progress], None] | None = None,
    ) -> None:
        """`arrivals` in the order of their moments; `watch` is called about once a second."""
        self._address = address_of(url)
        self._host = f"{self._address[0]}:{self._address[1]}"
        self._arrivals = deque(arrivals)
        self._ends_s = (arrivals[-1].due_s if arrivals else 0.0) + grace_s
        self._recording = recording
        self._connections_max = connections_max
        self._watch = watch
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Connection] = []
        self._open = 0
        self._ready: deque[_Visit] = deque()
        self._pauses: list[tuple[float, int, _Visit]] = []
        self._numbers = itertools.count()
        self._under_way = 0
        self._release_s = 0.0
        self._next_tick_s = 0.0
        self.progress = Progress()

    def run(self, release_s: float | None = None) -> None:
        """Run until every visit has ended; `release_s` is the moment 0 on `perf_counter`."""
        self._release_s = perf_counter() if release_s is None else release_s
        try:
            while self._arrivals or self._under_way:
                now = self._now()
                if now > self._ends_s:
                    break
                self._begin_visits(now)
                self._send_waiting()
                for key, _ in self._selector.select(self._wait_s()):
                    self._receive(key.data)
                if now >= self._next_tick_s:
                    self._tick(now)
        finally:
            self._end()

    def _now(self) -> float:
        return perf_counter() - self._release_s

    # --- visits -----------------------------------------------------------------------------

    def _begin_visits(self, now: float) -> None:
        arrivals, pauses = self._arrivals, self._pauses
        while arrivals and arrivals[0].due_s <= now:
            arrival = arrivals.popleft()
            self._under_way += 1
            self.progress.arrived += 1
            self._advance(_Visit(arrival.script(), arrival.due_s), _START)
        while pauses and pauses[0][0] <= now:
            due_s, _, visit = heapq.heappop(pauses)
            visit.due_s = due_s
            self._advance(visit, _START)

    def _advance(self, visit: _Visit, answer: Answer) -> None:
        """Let a script go on with an answer until it has a call to send, pauses or ends."""
        script = visit.script
        try:
            step = script.send(answer) if visit.began else next(script)
            visit.began = True
            while isinstance(step, Amiss):
                assert visit.call is not None, "only an answer can be amiss"
                self._recording.amiss(self._now(), visit.call, step.what)
                step = script.send(_START)
        except StopIteration:
            self._under_way -= 1
            self.progress.done += 1
            return
        if isinstance(step, Pause):
            due_s = visit.due_s + step.seconds
            heapq.heappush(self._pauses, (due_s, next(self._numbers), visit))
        else:
            visit.call = step
            self._ready.append(visit)

    def _answered(self, visit: _Visit, answer: Answer) -> None:
        """Write an answer down and let the visit go on from this moment."""
        call, now = visit.call, self._now()
        assert call is not None
        if not visit.told:
            self._write_down(visit, call, now, answer)
        visit.due_s = now
        self._advance(visit, answer)

    def _write_down(self, visit: _Visit, call: Call, now: float, answer: Answer) -> None:
        times = Times(visit.due_s, visit.begin_s, now)
        self._recording.add(call, times, answer)
        self.progress.count(answer, times.latency_s)

    # --- connections ------------------------------------------------------------------------

    def _send_waiting(self) -> None:
        while self._ready:
            connection = self._connection()
            if connection is None:
                return
            visit = self._ready.popleft()
            call = visit.call
            assert call is not None
            connection.visit = visit
            visit.begin_s = visit.heard_s = self._now()
            visit.told = b""
            try:
                connection.socket.sendall(call.request(self._host))
            except OSError:
                self._lost(connection)

    def _connection(self) -> _Connection | None:
        """An idle connection, a new one, or None when there are enough or no more to be had."""
        if self._idle:
            return self._idle.pop()
        if self._open >= self._connections_max:
            return None
        try:
            connection = _Connection(self._address)
        except OSError:
            if self._open == 0:  # nobody listens: what waits has no answer
                visit = self._ready.popleft()
                visit.begin_s = self._now()
                self._answered(visit, NO_ANSWER)
            return None
        self._open += 1
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(RECEIVE_BYTES)
        except OSError:
            data = b""
        if not data:
            self._lost(connection)
            return
        connection.buffer += data
        visit = connection.visit
        assert visit is not None, "bytes that no request asked for"
        visit.heard_s = self._now()
        if visit.call is not None and visit.call.is_stream:
            self._listen(connection, visit, visit.call)
            if visit.told and not connection.buffer.endswith(_LAST_CHUNK):
                return
        reply = read_reply(connection.buffer)
        if reply is None:
            return
        head = connection.buffer.partition(b"\r\n\r\n")[0]
        connection.visit, connection.buffer, connection.read = None, b"", 0
        if reply.closes:
            self._drop(connection)
        else:
            self._idle.append(connection)
        answer = read_answer(reply, head)
        self._answered(visit, answer._replace(body=visit.told) if visit.told else answer)

    def _listen(self, connection: _Connection, visit: _Visit, call: Call) -> None:
        """Write the events of a stream down as they come; the first is the answer to the call."""
        events, connection.read = events_in(connection.buffer, connection.read)
        for event in events:
            if visit.told:
                self._recording.saw(call, visit.begin_s, visit.heard_s, event, asked=False)
            else:
                head = connection.buffer.partition(b"\r\n\r\n")[0]
                answer = read_answer(Reply(int(head[9:12]), event, 0, closes=False), head)
                self._write_down(visit, call, visit.heard_s, answer)
            visit.told = event

    def _lost(self, connection: _Connection) -> None:
        """The call that was out has an unknown outcome."""
        self._drop(connection)
        if connection.visit is not None:
            visit, connection.visit = connection.visit, None
            self._answered(visit, NO_ANSWER)

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    # --- time -------------------------------------------------------------------------------

    def _wait_s(self) -> float:
        due_s = self._next_tick_s
        if self._arrivals:
            due_s = min(due_s, self._arrivals[0].due_s)
        if self._pauses:
            due_s = min(due_s, self._pauses[0][0])
        return max(0.0, due_s - self._now())

    def _tick(self, now: float) -> None:
        """Once a second: give up on calls that are out for too long, and report."""
        self._next_tick_s = now + TICK_S
        connections = [key.data for key in self._selector.get_map().values()]
        for connection in connections:
            if connection.visit is not None and now - connection.visit.heard_s > PATIENCE_S:
                self._lost(connection)
        self.progress.waiting = len(self._ready)
        self.progress.in_flight = self._open - len(self._idle)
        self._recording.flush()
        if self._watch is not None:
            self._watch(now, self.progress)

    def _end(self) -> None:
        """Close everything; calls that are out are kept without an answer."""
        now = self._now()
        for key in list(self._selector.get_map().values()):
            visit = key.data.visit
            if visit is not None and not visit.told:
                times = Times(visit.due_s, visit.begin_s, now)
                self._recording.add(visit.call, times, NO_ANSWER)
            key.data.socket.close()
        self._selector.close()
        self._recording.flush()


def events_in(data: bytes, start: int) -> tuple[list[bytes], int]:
    """What the server-sent events after `start` say, and where the first unfinished one begins.

    Each event has one line of data. How the transfer is cut into chunks does not matter where no
    cut goes through a line, as with this service, which sends an event at a time.
    """
    events = []
    while (line := data.find(b"\ndata: ", start)) >= 0 and (end := data.find(b"\n\n", line)) >= 0:
        events.append(data[line + len(b"\ndata: ") : end])
        start = end
    return events, start


def read_answer(reply: Reply, head: bytes) -> Answer:
    """An answer, from a reply and the bytes of its head."""
    head = head.lower()
    return Answer(
        reply.status,
        problem_code(reply.body) if reply.status >= 400 else "",
        reply.body,
        _field(head, b"\r\ntidebook-position:"),
        b"\r\nidempotency-replayed: true" in head,
        float(_field(head, b"\r\nretry-after:") or 0),
    )


def _field(head: bytes, name: bytes) -> str:
    start = head.find(name)
    if start < 0:
        return ""
    start += len(name)
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip().decode("latin-1")
