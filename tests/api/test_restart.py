"""Restarts under load: a caller who keeps to HTTP never notices that the processes are others."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from api.cli.running import reload
from api.cli.trouble import Trouble
from tests.api.conftest import StartServer
from tests.api.served import Server

CALLERS = 12
QUEUE = 300
WAIT_S = 60.0


class Load:
    """Callers in closed loops: each claims and looks, again and again, on a connection it keeps.

    A caller takes up a new connection when it was told `Connection: close`, and never repeats a
    request: one that gets no answer is lost.
    """

    def __init__(self, server: Server, campaign: str) -> None:
        self.answers: Counter[int] = Counter()
        self.lost: list[str] = []
        self.closes = 0
        self._port = int(server.url.rpartition(":")[2])
        self._claims = f"/v1/campaigns/{campaign}/claims"
        self._stop = threading.Event()
        tokens = [server.token("tourist", f"tourist {n}") for n in range(CALLERS)]
        self._threads = [
            threading.Thread(target=self._call, args=(number, token), daemon=True)
            for number, token in enumerate(tokens)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop after the answers that are under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _call(self, number: int, token: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WAIT_S)
        turn = 0
        while not self._stop.is_set():
            turn += 1
            claim = {"Authorization": f"Bearer {token}", "Idempotency-Key": f"{number}-{turn}"}
            for method, path, headers in (
                ("POST", self._claims, claim),
                ("GET", "/healthz", {}),
            ):
                try:
                    connection.request(method, path, headers=headers)
                    reply = connection.getresponse()
                    body = reply.read()
                except (OSError, http.client.HTTPException) as error:
                    self.lost.append(f"{method}: {error!r}")
                    connection.close()
                    continue
                self.answers[reply.status] += 1
                if reply.status >= 500:
                    self.lost.append(f"{method}: {reply.status} {body!r}")
                self.closes += reply.will_close
        connection.close()


@contextmanager
def under_load(server: Server) -> Iterator[Load]:
    """A server with callers who never stop; they have all been answered once."""
    load = Load(server, server.open_campaign(100))
    load.start()
    try:
        wait_until(lambda: load.answers[201] >= CALLERS)
        yield load
    finally:
        load.end()


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to this"
        time.sleep(0.02)


def restart(server: Server) -> None:
    """Have all workers replaced, and wait until the old ones have ended."""
    before, count = server.workers(), server.events("workers.replaced")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.events("workers.replaced") == count + 1)
    wait_until(lambda: not {p.pid for p in before} & {p.pid for p in server.workers()})


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_restart_under_load_loses_no_request(start: StartServer, workers: int) -> None:
    """SIGHUP, three times: every request is answered, none with 5xx; and so is what comes after."""
    server = start(workers=workers)
    with under_load(server) as load:
        first = {process.pid for process in server.workers()}
        for _ in range(3):
            restart(server)
        answered = sum(load.answers.values())
        wait_until(lambda: sum(load.answers.values()) > answered + 10 * CALLERS)
    last = {process.pid for process in server.workers()}
    assert load.lost == []
    assert set(load.answers) == {200, 201, 409}
    assert load.answers[201] == CALLERS
    assert load.closes >= CALLERS
    assert (len(first), len(last), first & last) == (workers, workers, set())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_told_to_end_are_replaced_without_a_loss(start: StartServer, workers: int) -> None:
    """SIGTERM to each worker, by whomever: the next generation takes over while it drains."""
    server = start(workers=workers)
    with under_load(server) as load:
        first = server.workers()
        for process in first:
            process.terminate()
        psutil.wait_procs(first, timeout=WAIT_S)
        wait_until(lambda: len(server.workers()) == workers)
        answered = sum(load.answers.values())
        wait_until(lambda: sum(load.answers.values()) > answered + 10 * CALLERS)
    assert load.lost == []
    assert set(load.answers) == {200, 201, 409}


@pytest.mark.slow
def test_a_restart_that_does_not_wait_loses_requests(start: StartServer) -> None:
    """The control: without time to drain, the same load notices. The harness can be red."""
    server = start(workers=2, drain_s=0)
    with under_load(server) as load:
        for _ in range(10):
            restart(server)
            if load.lost:
                break
    assert load.lost


def test_a_restart_that_fails_leaves_the_old_workers(start: StartServer, tmp_path: Path) -> None:
    """What is installed now does not start: the server says so and goes on as it was."""
    server = start(workers=2)
    before = {process.pid for process in server.workers()}
    keys = next(tmp_path.glob("keys/pseudonym.key"))
    keys.write_text("not hex")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.events("workers.not_replaced") == 1)
    wait_until(lambda: {process.pid for process in server.workers()} == before)
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    server.process.terminate()
    assert server.process.wait(WAIT_S) == 0


def test_a_killed_worker_takes_only_its_own_requests_along(start: StartServer) -> None:
    """The others go on without a pause, and it is replaced."""
    server = start(workers=2)
    victim, *_ = before = server.workers()
    os.kill(victim.pid, signal.SIGKILL)
    while not {p.pid for p in server.workers()} - {p.pid for p in before}:
        assert httpx.get(f"{server.url}/healthz", timeout=WAIT_S).status_code == 200
    assert server.events("worker.died") == 1
    wait_until(lambda: len(server.workers()) == 2)


def test_the_end_answers_what_was_asked_and_says_goodbye(start: StartServer) -> None:
    """SIGTERM: a connection that is idle gets one more answer, with `Connection: close`."""
    server = start(drain_s=30)
    with httpx.Client(base_url=server.url) as client:
        assert "connection" not in client.get("/healthz").headers
        server.process.terminate()
        wait_until(lambda: refused(server))
        replies: list[httpx.Response] = []

        def is_told() -> bool:
            replies.append(client.get("/healthz"))
            return "close" in replies[-1].headers.get_list("connection")

        wait_until(is_told)  # the door is shut a moment before the workers hear of the end
        assert {reply.status_code for reply in replies} == {200}
    assert server.process.wait(WAIT_S) == 0


def test_the_end_answers_whoever_waits_to_be_accepted(start: StartServer) -> None:
    """SIGTERM: a queue that is longer than what a worker takes at once is answered to its end."""
    server = start(drain_s=30)
    port = int(server.url.rpartition(":")[2])
    server.process.send_signal(signal.SIGSTOP)  # so that nobody is accepted
    callers = [http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S) for _ in range(QUEUE)]
    for caller in callers:
        caller.request("GET", "/healthz")
    server.process.terminate()
    server.process.send_signal(signal.SIGCONT)
    for caller in callers:
        with caller.getresponse() as reply:
            assert reply.status == 200
        caller.close()
    assert server.process.wait(WAIT_S) == 0


def refused(server: Server) -> bool:
    """Whether the server takes no new connections."""
    try:
        return httpx.get(f"{server.url}/healthz").is_error
    except httpx.ConnectError:
        return True


def test_idle_connections_do_not_hold_up_the_end(start: StartServer) -> None:
    """A caller who asks nothing is left after the time to drain."""
    server = start(drain_s=0.2)
    with httpx.Client(base_url=server.url) as client:
        client.get("/healthz")
        server.process.terminate()
        assert server.process.wait(WAIT_S) == 0


def test_a_killed_server_leaves_nothing_for_ever(start: StartServer, tmp_path: Path) -> None:
    """The next one on the same home clears away what it shared with its workers."""
    server = start(workers=2)
    processes = server.descendants()
    assert len(list(tmp_path.glob("run/serve-*/metrics/*.db"))) > 0
    server.process.kill()
    psutil.wait_procs(processes, timeout=WAIT_S)
    [left] = tmp_path.glob("run/serve-*")
    second = start()
    [own] = tmp_path.glob("run/serve-*")
    assert own != left
    third = start()
    assert len(list(tmp_path.glob("run/serve-*"))) == 2
    for each in (second, third):
        each.process.terminate()
        assert each.process.wait(WAIT_S) == 0
    assert list(tmp_path.glob("run/serve-*")) == []


def test_an_occupied_port_is_named(start: StartServer) -> None:
    """Status 1 and one line."""
    port = int(start().url.rpartition(":")[2])
    server = start(port=port, answers=False)
    assert server.process.wait(WAIT_S) == 1
    assert f"nobody can listen on 127.0.0.1:{port}" in server.log.read_text()


def test_the_command_reloads_the_server_of_a_home(
    start: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tidebook reload` finds it by its run directory; without one it says so."""
    monkeypatch.setenv("TIDEBOOK_HOME", str(tmp_path))
    with pytest.raises(Trouble, match="no server runs"):
        reload()
    server = start()
    before = {process.pid for process in server.workers()}
    assert reload() == 0
    wait_until(lambda: server.events("workers.replaced") == 1)
    wait_until(lambda: not before & {process.pid for process in server.workers()})
