"""The open-loop driver: latency counts from the intended moment, and no call is dropped."""

from __future__ import annotations

import socket
import threading
from time import perf_counter
from typing import TYPE_CHECKING

from loadtest.openloop import OpenLoop
from loadtest.recording import Recording
from loadtest.visits import Amiss, Answer, Arrival, Call, Pause, Script, Who, insist
from tests.conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

ME = Who("me", "token")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTidebook-Position: main:7\r\n\r\n{}"
BUSY = b'HTTP/1.1 503 Busy\r\nContent-Length: 21\r\nRetry-After: 0\r\n\r\n{"code":"overloaded"}'


class Server:
    """Answers each request, one after the other, as it is told to; None hangs up."""

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Listen no more; whoever waits in `accept` is woken."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                self.requests.append(data)
                answer = self._answer(len(self.requests))
                if answer is None:
                    return
                connection.sendall(answer)


def call(name: str = "look") -> Call:
    """A call."""
    return Call(name, ME, "POST", "/v1/things", "a" * 32, "key", b"{}")


def once() -> Script:
    """A visit of one call."""
    yield call()


def drive(
    url: str, arrivals: list[Arrival], *, late_s: float = 0.0, connections: int = 8
) -> list[tuple[object, ...]]:
    """Run visits that began `late_s` ago; return what was recorded of each call."""
    with Recording(None, new=True) as recording:
        loop = OpenLoop(url, arrivals, recording, connections_max=connections)
        loop.run(perf_counter() - late_s)
        assert loop.progress.arrived == loop.progress.done == len(arrivals)
        rows = recording.shelf.execute(
            "SELECT name, due, begin, end, status, code, position FROM call ORDER BY id"
        ).fetchall()
        amiss = recording.shelf.execute("SELECT name, who, what FROM amiss").fetchall()
    return [*rows, *amiss]


def test_a_late_driver_counts_its_lateness() -> None:
    """A call that was meant ten seconds ago took at least ten seconds."""
    server = Server(lambda _: OK)
    [(_, due, begin, end, status, _, position)] = drive(
        server.url, [Arrival(0.0, once)], late_s=10.0
    )
    server.close()
    assert (due, status, position) == (0.0, 200, 7)
    assert isinstance(begin, float)
    assert isinstance(end, float)
    assert 10.0 <= begin <= end


def test_waiting_for_a_connection_counts() -> None:
    """With one connection, the second of two who come at once is sent after the first's answer."""
    server = Server(lambda _: OK)
    first, second = drive(server.url, [Arrival(0.0, once), Arrival(0.0, once)], connections=1)
    server.close()
    assert first[1] == second[1] == 0.0
    assert second[2] >= first[3]  # type: ignore[operator]


def test_a_call_without_an_answer_is_kept_as_unknown() -> None:
    """The server hangs up: nothing is sent again unless the script says so."""
    server = Server(lambda _: None)
    [row] = drive(server.url, [Arrival(0.0, once)])
    server.close()
    assert (row[4], row[5]) == (0, "no_answer")
    assert len(server.requests) == 1


def test_nobody_who_listens_is_an_unknown_outcome_too() -> None:
    """A refused connection ends a visit and not the run."""
    [row] = drive(f"http://127.0.0.1:{free_port()}", [Arrival(0.0, once)])
    assert row[4] == 0


def test_insisting_sends_the_same_key_until_it_is_decided() -> None:
    """Busy and lost are not answers; the third is."""
    answers: dict[int, bytes | None] = {1: BUSY, 2: None, 3: OK}
    server = Server(lambda number: answers[number])

    def visit() -> Script:
        answer = yield from insist(call())
        assert answer.is_success

    rows = drive(server.url, [Arrival(0.0, visit)])
    server.close()
    assert [row[4] for row in rows] == [503, 0, 200]
    assert len({request.lower() for request in server.requests}) == 1


def test_what_a_script_complains_about_is_kept() -> None:
    """A visit may begin with a pause, and may find an answer amiss."""

    def visit() -> Script:
        yield Pause(0.01)
        answer: Answer = yield call("odd")
        assert answer.body == b"{}"
        yield Amiss("an empty answer")

    server = Server(lambda _: OK)
    row, amiss = drive(server.url, [Arrival(0.0, visit)])
    server.close()
    assert (row[0], row[1]) == ("odd", 0.01)
    assert amiss == ("odd", "me", "an empty answer")
