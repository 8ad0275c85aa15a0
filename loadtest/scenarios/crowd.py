"""The crowd of a run: people and tills who are signed in, and campaigns that are open, beforehand.

Everything goes through the public API before the release. What was claimed beforehand is recorded
like any other call, long before moment 0, so that the check knows of it and the charts do not.
"""

from __future__ import annotations

import json
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import httpx

from loadtest.openloop import OpenLoop
from loadtest.recording import Recording
from loadtest.stage import Staff, StageFailed
from loadtest.visits import Answer, Arrival, Call, Script, Step, Who, insist

if TYPE_CHECKING:
    import random
    from collections.abc import Generator, Iterable, Sequence

BEFORE_S: Final = 100_000.0
"""How long before the release the preparations are written down, whenever they were made."""
SIDE_BY_SIDE: Final = 64
"""Connections of the preparations."""
SESSION_RUN_MAX_S: Final = 150.0
"""A longer run keeps the issuer's tokens: sessions, which last five minutes, would end in it."""


class Person(NamedTuple):
    """Somebody who signs in: a tourist on one device, or a till of a merchant."""

    identity: str
    kind: str = "honest"
    role: str = "tourist"
    merchant: str | None = None
    device: str | None = None


class Crowd:
    """Signs people in and lets them prepare themselves."""

    def __init__(
        self,
        url: str,
        recording: Recording,
        rng: random.Random,
        *,
        sessions: bool = True,
    ) -> None:
        self.url = url
        self.recording = recording
        self.rng = rng
        self.run = f"{rng.getrandbits(32):08x}"
        """Part of every identity: a second run against the same system meets other people."""
        self.staff = Staff.signed_in(url)
        self.sessions = sessions and has_sessions(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the staff go; everybody else only has a token."""
        for one in (self.staff.operator, self.staff.approver, self.staff.auditor):
            one.__exit__()

    def people(self, count: int, kind: str = "honest") -> list[Who]:
        """So many people who never came before, one device each."""
        return self.sign_in([Person(f"{kind} {self.run} {n}", kind) for n in range(count)])

    def tills(self, count: int, merchants: int) -> list[Who]:
        """So many tills, spread over merchants."""
        names = [f"inn-{n % merchants}" for n in range(count)]
        return self.sign_in(
            [
                Person(f"till {n} of {name}", "staff", "merchant", name)
                for n, name in enumerate(names)
            ]
        )

    def staff_member(self, role: str) -> Who:
        """Somebody who reads books, or somebody who changes campaigns."""
        [member] = self.sign_in([Person(f"loadtest {role}", "staff", role)])
        return member

    def sign_in(self, people: Sequence[Person]) -> list[Who]:
        """Everybody's token, fetched side by side: a session's where the service has sessions."""
        tokens: dict[int, str] = {}
        scripts = [self._fetch(tokens, number, one) for number, one in enumerate(people)]
        with Recording(None, new=True) as nowhere:
            self._side_by_side(scripts, nowhere)
        if len(tokens) < len(people):
            raise StageFailed(f"{len(people) - len(tokens)} of {len(people)} could not sign in")
        return [
            Who(one.identity, tokens[number], address(self.run, number), one.kind, self.run)
            for number, one in enumerate(people)
        ]

    def prepare(self, scripts: Iterable[Script]) -> None:
        """Let visits happen before the release."""
        self._side_by_side(scripts, self.recording)

    def try_out(self, script: Script) -> None:
        """Let a visit happen that is no part of the run and that nobody holds against the book."""
        with Recording(None, new=True) as nowhere:
            self._side_by_side([script], nowhere)

    def _side_by_side(self, scripts: Iterable[Script], recording: Recording) -> None:
        arrivals = [Arrival(-BEFORE_S, partial(_itself, one)) for one in scripts]
        grace_s = BEFORE_S / 2
        OpenLoop(self.url, arrivals, recording, connections_max=SIDE_BY_SIDE, grace_s=grace_s).run(
            perf_counter() + BEFORE_S
        )

    def _fetch(self, tokens: dict[int, str], number: int, person: Person) -> Script:
        token = yield from sign_in_steps(person, sessions=self.sessions)
        if token:
            tokens[number] = token


def sign_in_steps(person: Person, *, sessions: bool) -> Generator[Step, Answer, str]:
    """Get a token of the development issuer and begin a session with it; empty when refused."""
    body: dict[str, Any] = {"role": person.role, "identity": person.identity}
    if person.merchant is not None:
        body["merchant"] = person.merchant
    nobody = Who(person.identity, "", kind=person.kind)
    text = json.dumps(body).encode()
    answer = yield from insist(Call("token", nobody, "POST", "/dev/token", body=text))
    if not answer.is_success:
        return ""
    token: str = answer.json()["access_token"]
    if not sessions:
        return token
    begun = json.dumps({"device": person.device} if person.device else {}).encode()
    who = nobody._replace(token=token)
    answer = yield from insist(Call("sign in", who, "POST", "/v1/sessions", body=begun))
    return str(answer.json()["session_token"]) if answer.is_success else ""


def has_sessions(url: str) -> bool:
    """Whether the service begins sessions: without a token it then says who is missing."""
    return httpx.post(f"{url}/v1/sessions", json={}).status_code == 401


def address(run: str, number: int) -> str:
    """An address of somebody's own behind the proxy that the load generator plays."""
    return f"10.{int(run[:2], 16)}.{number // 250 % 250}.{number % 250 + 1}"


def _itself(script: Script) -> Script:
    return script
