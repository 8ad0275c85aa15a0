"""Locust's entry: the same scenarios, visits and checks, under Locust's page or on many machines.

    locust -f loadtest/locustfile.py -H http://127.0.0.1:8080
    locust -f loadtest/locustfile.py -H http://127.0.0.1:8080 --headless -u 50 -r 50 --scenario day

`-u` is how many visits may be under way at once; who comes when is laid down by the arrival curve
before the run, and a visit that has to wait for a free user counts its waiting. Sleeping lets other
users run: Locust has replaced it. The exit status is 1 when an answer was not as it must be or an
invariant does not hold.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from locust import FastHttpUser, constant, events, task
from locust.exception import StopUser

from loadtest import pages
from loadtest.invariants import report
from loadtest.recording import Recording, Times
from loadtest.run import LEAD_S, note_release, prepare, verify, wait_until_at_rest
from loadtest.scenarios import SCENARIOS
from loadtest.scenarios.plan import Size
from loadtest.visits import Amiss, Answer, Arrival, Call, Pause
from loadtest.watch import Watcher

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator, Mapping

    from locust.contrib.fasthttp import ResponseContextManager
    from locust.env import Environment

__all__ = ["Visitor"]

ENDING_S: Final = 0.2
NOTHING: Final = Answer(0, "start")
OK: Final = 200
_DATA: Final = b"data: "

logging.getLogger("httpx").setLevel(logging.WARNING)  # the check reads many pages


class House:
    """What the users of one Locust process share: who is to come, and the recording."""

    def __init__(self, url: str, options: Any) -> None:
        self.url = url
        self.directory = Path(options.out or tempfile.mkdtemp(prefix="tidebook-load-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.recording = Recording(self.directory / pages.CALLS_FILE, new=True)
        seconds = options.curve_seconds
        size = Size(options.people, seconds, options.seed, options.quota, options.campaigns)
        plan = prepare(SCENARIOS[options.scenario], size, url, self.recording, sessions_last=False)
        self.recording.note(url=url, driver="locust")
        self.coming: deque[Arrival] = deque(plan.arrivals)
        self.under_way = 0
        self.release_s = perf_counter() + plan.lead_s(LEAD_S, datetime.now(UTC))
        note_release(self.recording, self.release_s)
        self.watcher = Watcher(self.recording, url, {}, self.release_s)
        self.watcher.__enter__()

    def now_s(self) -> float:
        """Seconds since the release."""
        return perf_counter() - self.release_s

    def check(self) -> bool:
        """Check everything, write the report; whether all was as it must be."""
        self.recording.flush()
        wait_until_at_rest(self.url)
        self.watcher.__exit__()
        self.recording.note(ended_s=self.now_s())
        books = verify(self.url, self.recording)
        report(books)
        pages.write(self.recording, self.directory)
        print(f"Report: {self.directory / pages.PAGE_FILE}")
        self.recording.__exit__()
        return not books.findings


_house: House | None = None


def the_house() -> House:
    """The house of the run that is on."""
    assert _house is not None, "no run is on"
    return _house


class Visitor(FastHttpUser):
    """Lets one visit after another in, each at its moment or as soon as this user is free."""

    wait_time = constant(0)

    @task
    def visit(self) -> None:
        """The next visit that is to come; the run ends with the last."""
        house = the_house()
        if not house.coming:
            self._leave(house)
        arrival = house.coming.popleft()
        house.under_way += 1
        try:
            time.sleep(max(0.0, arrival.due_s - house.now_s()))
            self._follow(house, arrival)
        finally:
            house.under_way -= 1

    def _leave(self, house: House) -> None:
        if house.under_way == 0:
            runner = self.environment.runner
            assert runner is not None
            threading.Timer(ENDING_S, runner.quit).start()
        raise StopUser

    def _follow(self, house: House, arrival: Arrival) -> None:
        """Send what the script says, until it ends."""
        script, due_s, answer = arrival.script(), arrival.due_s, NOTHING
        last: Call | None = None
        try:
            step = next(script)
            while True:
                if isinstance(step, Call):
                    last, answer = step, self._send(house, step, due_s)
                    due_s = house.now_s()
                elif isinstance(step, Pause):
                    due_s += step.seconds
                    time.sleep(max(0.0, due_s - house.now_s()))
                else:
                    self._complain(house, last, step)
                step = script.send(answer)
        except StopIteration:
            return

    def _send(self, house: House, call: Call, due_s: float) -> Answer:
        """Send a call; Locust is told the time from the moment at which it was meant.

        Of a stream the first event is the answer; the script goes on after the last one.
        """
        begin_s = house.now_s()
        headers = dict(call.headers())
        if call.body:
            headers["Content-Type"] = "application/json"
        with self.client.request(
            call.method,
            call.path,
            name=call.name,
            data=call.body.decode() or None,
            headers=headers,
            catch_response=True,
            stream=call.is_stream,
        ) as reply:
            events = events_of(reply) if call.is_stream and reply.status_code == OK else iter(())
            first = next(events, None)
            times = Times(due_s, begin_s, house.now_s())
            answer = answer_of(reply, first)
            house.recording.add(call, times, answer)
            reply.request_meta["response_time"] = 1e3 * times.latency_s
            if answer.status and answer.code != "internal_error":
                reply.success()  # a refusal is an answer; the check says whether it is true
            for event in events:
                house.recording.saw(call, begin_s, house.now_s(), event, asked=False)
                answer = answer._replace(body=event)
        return answer

    def _complain(self, house: House, call: Call | None, amiss: Amiss) -> None:
        assert call is not None, "only an answer can be amiss"
        house.recording.amiss(house.now_s(), call, amiss.what)
        self.environment.events.request.fire(
            request_type=call.method,
            name=call.name,
            response_time=0.0,
            response_length=0,
            exception=AssertionError(amiss.what),
            context={},
        )


def events_of(reply: ResponseContextManager) -> Iterator[bytes]:
    """What the server-sent events of a reply say, one after the other, as they come."""
    line = b""
    bytes_one_by_one = reply.iter_content(1, False)  # type: ignore[no-untyped-call]
    for byte in bytes_one_by_one:  # asked for more, it would wait for more
        line += byte
        if byte == b"\n":
            if line.startswith(_DATA):
                yield line[len(_DATA) : -1]
            line = b""


def answer_of(reply: ResponseContextManager, event: bytes | None = None) -> Answer:
    """An answer, from Locust's reply, or from the first event of its stream."""
    body = bytes(reply.content or b"") if event is None else event
    headers: Mapping[str, Any] = reply.headers or {}
    status = reply.status_code
    code = ""
    if status >= 400:
        try:
            code = str(reply.json()["code"])
        except (ValueError, KeyError, TypeError):
            code = ""
    return Answer(
        status,
        code or ("" if status else "no_answer"),
        body,
        str(headers.get("tidebook-position", "")),
        headers.get("idempotency-replayed", "") == "true",
        float(headers.get("retry-after", "") or 0),
    )


def add_options(parser: ArgumentParser) -> None:
    """The options of our own."""
    parser.add_argument("--scenario", choices=list(SCENARIOS), default="rush", help="who does what")
    parser.add_argument("--people", type=int, default=500, help="people who come (default 500)")
    parser.add_argument(
        "--curve-seconds", type=float, default=10.0, help="length of the arrival curve (default 10)"
    )
    parser.add_argument("--quota", type=int, help="coupons in each campaign (default: few enough)")
    parser.add_argument("--campaigns", type=int, default=200, help="campaigns of «skewed»")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same visits")
    parser.add_argument("--out", help="directory for the report (default: a temporary one)")


def open_the_house(environment: Environment, **_: Any) -> None:
    """Prepare a run."""
    global _house  # noqa: PLW0603 - Locust makes the users; they can be handed nothing
    assert environment.host, "say which service with --host"
    assert environment.parsed_options is not None
    _house = House(environment.host.rstrip("/"), environment.parsed_options)


def check_everything(environment: Environment, **_: Any) -> None:
    """Hold the whole book against the answers; red when anything is not as it must be."""
    assert environment.runner is not None
    environment.runner.stop()  # after Ctrl-C the users would go on during the check
    if _house is not None and not _house.check():
        environment.process_exit_code = 1


events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]
events.test_start.add_listener(open_the_house)  # type: ignore[no-untyped-call]
events.quitting.add_listener(check_everything)  # type: ignore[no-untyped-call]
