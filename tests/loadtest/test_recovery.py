"""The measurement of F01: what counts as back, and what counts as an answer that changed."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loadtest import recovery
from loadtest.driver import Run
from loadtest.recovery import Interrupted, Recovery, changed, granted_before, main, text


def test_only_what_was_granted_before_the_kill_is_asked_again() -> None:
    """Neither refusals, nor what was answered later, nor what has no answer."""
    run = Run()
    for index, (status, answered_s) in enumerate([(201, 1.0), (409, 1.5), (201, 2.5), (0, 1.0)]):
        run.requests.append(index)
        run.statuses.append(status)
        run.answered_s.append(answered_s)
    assert list(granted_before(run, 2.0)) == [0]


@pytest.mark.parametrize(
    ("bodies", "count"),
    [
        ({0: b"a", 1: b"b"}, 0),
        ({0: b"a", 1: b"c"}, 1),
        ({0: b"a"}, 1),
        ({}, 2),
    ],
)
def test_an_answer_that_is_other_or_missing_has_changed(
    bodies: dict[int, bytes], count: int
) -> None:
    """Each planted difference is counted."""
    assert changed([b"a", b"b"], Run(bodies=bodies)) == count


def test_one_kill_that_took_too_long_is_too_many() -> None:
    """The median does not hide it."""
    quick, slow = Recovery(1_000, 1.0, 0), Recovery(1_000, 5.5, 0)
    assert text([quick, quick, quick]).endswith("5 s wanted: met")
    assert text([quick, quick, slow]).endswith("5 s wanted: NOT MET")


@contextmanager
def granting(*pauses_s: float) -> Iterator[int]:
    """A server of one connection that grants everything, each after a pause; then at once."""
    pauses = iter(pauses_s)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65_536):
                time.sleep(next(pauses, 0.0))
                connection.sendall(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield listener.getsockname()[1]
        server.join(10)


def test_what_was_sent_before_the_kill_does_not_count_as_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer to a request that was under way may still come; the next one counts."""
    monkeypatch.setattr(recovery, "AFTERWARDS_S", 0.0)
    with granting(0.4, 0.3) as port:
        driver = Interrupted("127.0.0.1", port, [b"x"] * 1_000, duration_s=30)

        def kill() -> None:
            driver.killed_s = time.perf_counter()

        threading.Timer(0.2, kill).start()
        run = driver.drive(1)
    assert driver.back_s is not None
    assert driver.back_s - driver.killed_s > 0.4
    assert len(run.statuses) < 1_000


@pytest.mark.fault
@pytest.mark.slow
def test_a_killed_store_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of it once, with a short rush: PostgreSQL dies, comes back, and nothing is lost."""
    main(["--kills", "1", "--seconds", "2", "--workers", "1"])
    [row] = [line for line in capsys.readouterr().out.splitlines() if " s  " in line]
    claims, _seconds, _unit, altered = row.split()
    assert int(claims.replace(",", "")) > 0
    assert json.loads(altered) == 0
