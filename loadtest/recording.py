"""The recording of a run: every call with its times and its answer, in one SQLite file.

It is written while the run goes on, in batches, so that memory stays bounded; the report and the
check read nothing else. Times are seconds since the release, on the clock of the load generator.
It must never drop a call: one without an answer is kept with status 0.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from loadtest.books import FOREVER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtest.visits import Answer, Call

BATCH: Final = 500
"""Rows that are written at once: about a millisecond."""

_TABLES: Final = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE call (
    id INTEGER PRIMARY KEY, name TEXT, kind TEXT, who TEXT, method TEXT, about TEXT, key TEXT,
    due REAL, begin REAL, end REAL, status INT, code TEXT, position INT, replayed INT,
    digest BLOB, body BLOB, low INT DEFAULT 0, high INT DEFAULT {FOREVER}
);
CREATE TABLE sighting (
    who TEXT, about TEXT, begin REAL, at REAL, asked INT, state TEXT, number INT, wait REAL,
    pass INT
);
CREATE TABLE amiss (at REAL, name TEXT, who TEXT, what TEXT);
CREATE TABLE sample (at REAL PRIMARY KEY, facts TEXT);
CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT);
"""
_CALL: Final = """
INSERT INTO call (
    name, kind, who, method, about, key, due, begin, end, status, code, position, replayed, digest,
    body
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_SIGHTING: Final = "INSERT INTO sighting VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Times(NamedTuple):
    """Of one call, in seconds since the release: when it was meant, sent and answered."""

    due_s: float
    begin_s: float
    end_s: float

    @property
    def latency_s(self) -> float:
        """From the moment at which the call was meant: waiting to be sent counts."""
        return self.end_s - self.due_s


class Recording:
    """One run's file, open for writing or for reading."""

    def __init__(self, path: Path | None, *, new: bool = False) -> None:
        """Open a recording; without a path it is held in a temporary file of SQLite's own."""
        if new and path is not None:
            path.unlink(missing_ok=True)
        self.shelf = sqlite3.connect("" if path is None else path, isolation_level=None)
        self._calls: list[tuple[object, ...]] = []
        self._sightings: list[tuple[object, ...]] = []
        self._samples: deque[tuple[float, str]] = deque()
        if new:
            self.shelf.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self.shelf.close()

    def add(self, call: Call, times: Times, answer: Answer) -> None:
        """Keep a call and its answer; a body only where the check will look into it."""
        who, body = call.who, answer.body
        is_write = call.method == "POST" and bool(call.key)
        keeps = is_write and (answer.is_success or answer.status == 409) and not answer.replayed
        self._calls.append(
            (
                call.name,
                who.kind,
                who.identity,
                call.method,
                call.about,
                call.key,
                *times,
                answer.status,
                answer.code,
                int(answer.position.rpartition(":")[2] or 0),
                answer.replayed,
                hashlib.blake2b(body, digest_size=8).digest() if is_write else None,
                body if keeps else None,
            )
        )
        if call.is_place and answer.is_success:
            self.saw(call, times.begin_s, times.end_s, body)
        if len(self._calls) >= BATCH:
            self.flush()

    def saw(
        self, call: Call, begin_s: float, at_s: float, place: bytes, *, asked: bool = True
    ) -> None:
        """Keep what somebody was told of his place in a waiting room.

        `asked` says that it was found out after `begin_s`: not so for a later event of a stream,
        which may have been on its way for longer than anybody knows.
        """
        said = json.loads(place)
        state, number, wait_s = said["state"], said["number"], said["wait_s"]
        seen = (call.who.identity, call.about, begin_s, at_s, asked)
        self._sightings.append((*seen, state, number, wait_s, "pass" in said))

    def flush(self) -> None:
        """Write what is waiting."""
        calls, self._calls = self._calls, []
        sightings, self._sightings = self._sightings, []
        samples = [self._samples.popleft() for _ in range(len(self._samples))]
        if calls or samples or sightings:
            self.shelf.execute("BEGIN")
            self.shelf.executemany(_CALL, calls)
            self.shelf.executemany(_SIGHTING, sightings)
            self.shelf.executemany("INSERT OR REPLACE INTO sample VALUES (?, ?)", samples)
            self.shelf.execute("COMMIT")

    def amiss(self, at_s: float, call: Call, what: str) -> None:
        """Keep an answer that was not as it must be."""
        self.shelf.execute(
            "INSERT INTO amiss VALUES (?, ?, ?, ?)", (at_s, call.name, call.who.identity, what)
        )

    def sample(self, at_s: float, facts: dict[str, Any]) -> None:
        """Keep what the system looked like at a moment; may be called by another thread."""
        self._samples.append((at_s, json.dumps(facts)))

    def note(self, **values: Any) -> None:
        """Keep facts about the run as a whole."""
        for name, value in values.items():
            self.shelf.execute(
                "INSERT OR REPLACE INTO note VALUES (?, ?)", (name, json.dumps(value))
            )

    def notes(self) -> dict[str, Any]:
        """The facts about the run as a whole."""
        return {name: json.loads(value) for name, value in self.shelf.execute("SELECT * FROM note")}

    def samples(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """What the system looked like, moment by moment."""
        for at_s, facts in self.shelf.execute("SELECT at, facts FROM sample ORDER BY at"):
            yield at_s, json.loads(facts)

    def number(self, query: str, *values: Any) -> int:
        """The one number that a query gives."""
        return int(self.shelf.execute(query, values).fetchone()[0] or 0)
