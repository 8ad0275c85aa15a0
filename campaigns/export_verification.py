"""Verification of an export: its log and its rules, with no database and nobody's word for it.

The rules are those of the whole-book audit and no others; what is added here is where the events
come from. A pass over the files in order, in memory that does not grow with them. Whatever the
files are, the answer is findings.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple
from uuid import UUID

from campaigns.columns.passing import Passing, batches
from campaigns.columns.rows import NEVER, Rows
from campaigns.export_window import Window
from campaigns.verification import Audit
from ledger.events import Event
from ledger.exporting.form import (
    MANIFEST,
    MANIFEST_BYTES_MAX,
    MANIFEST_NOTE,
    File,
    Manifest,
)
from ledger.exporting.proving import (
    Keys,
    Proved,
    Roots,
    check_cosigned,
    check_signed,
    prove_events,
    read_checkpoints,
)
from ledger.exporting.reading import ExportFile, Group, Unreadable, instants_of
from ledger.history import Entry
from ledger.transparency.notes import (
    NOTE_BYTES_MAX,
    BadSignature,
    Untrusted,
    Verifier,
    parse_note,
    verified,
)
from ledger.transparency.store import Signed
from ledger.transparency.texts import Malformed
from ledger.verification import Finding

AHEAD: Final = 2
"""Files that are proved before the rules of the first of them are judged, for each process."""

IN_MEMORY: Final = 200_000
"""Events of a book that is judged in memory alone; of a longer one it is kept on the disk."""

WORKER_BYTES: Final = 6 << 30
"""Address space of a process that reads files: what asks for more fails instead of taking it."""


class NoExport(Exception):
    """A directory holds no export."""


class Told(NamedTuple):
    """What an export is, as far as it was verified, beside its findings."""

    book: str
    size: int
    judged: int
    """Up to which position the rules were judged."""
    checkpoints: int
    """How many signed roots were made again."""
    cosigned: int
    signed: bool
    """Whether a key of the log has signed the manifest."""


def exports_in(directory: Path) -> list[Path]:
    """Return the exports of books in a directory, or itself when it is one; raise `NoExport`."""
    if (directory / MANIFEST).exists():
        return [directory]
    found = sorted(one.parent for one in directory.glob(f"*/{MANIFEST}"))
    if not found:
        raise NoExport(f"{directory}: there is no {MANIFEST} in it or in a directory of it")
    return found


def verify_export(
    directory: Path,
    trusted: Keys | None = None,
    jobs: int = 0,
    on_events: Callable[[int], None] = lambda _: None,
    on_finding: Callable[[Finding], None] = lambda _: None,
) -> Told | None:
    """Verify the export of one book; return what it is, None when there is no manifest to go by.

    Without `trusted` the keys in the export are believed, which proves that it is whole and not
    whose it is. With `jobs` so many processes read and hash, otherwise this one does.
    """
    manifest, data = _manifest(directory, on_finding)
    if manifest is None:
        return None
    keys = trusted
    if keys is None:
        keys = _own_keys(manifest, on_finding)
        if keys is None:
            return None
    is_signed = _check_note(directory, manifest, data, keys, on_finding)
    one = _Verification(directory, manifest, keys, on_finding)
    with _Workers(jobs) as workers:
        one.run(workers, on_events)
    return one.told(is_signed)


class _Verification:
    """The pass over the files of one export."""

    def __init__(
        self, directory: Path, manifest: Manifest, keys: Keys, report: Callable[[Finding], None]
    ) -> None:
        self._directory = directory
        self._manifest = manifest
        self._book = manifest.book
        self._keys = keys
        self._report = report
        self._roots = Roots(manifest.book)
        self._audit = Audit(manifest.book, tallies=False)
        self._window = Window(self._audit, manifest.size) if manifest.size > IN_MEMORY else None
        self._passing = None if self._window is None else Passing(self._audit, self._window)
        self._judged = 0
        self._is_whole = True
        self._last: Signed | None = None
        self._signed = 0

    def run(self, workers: _Workers, on_events: Callable[[int], None]) -> None:
        """Prove and judge every file in order."""
        by_kind = {kind: self._files(kind) for kind in ("checkpoints", "events")}
        proving = workers.proved(self._directory, self._book, self._jobs(by_kind))
        for events, signed, proved in proving:
            self._tell(proved.findings)
            self._roots.add(proved, signed)
            self._tell(self._roots.findings)
            self._roots.findings.clear()
            self._judge(events, proved)
            on_events(events.rows)
        self._finish()

    def told(self, is_signed: bool) -> Told:
        """Return what was verified."""
        cosigned = 0
        if self._last is not None and self._keys.witnesses:
            with suppress(Malformed, BadSignature, Untrusted):
                note = parse_note(self._last.note)
                cosigned = len({one.name for one in verified(note, self._keys.witnesses)})
        return Told(
            self._book,
            self._manifest.size,
            self._judged,
            self._roots.compared,
            cosigned,
            is_signed,
        )

    def _files(self, kind: str) -> list[File]:
        return [one for one in self._manifest.files if one.kind == kind]

    def _jobs(self, by_kind: dict[str, list[File]]) -> Iterator[tuple[File, list[Signed]]]:
        """Check the checkpoints of each span of positions; yield them with its events."""
        for signed_file, events in zip(by_kind["checkpoints"], by_kind["events"], strict=True):
            path = self._directory / signed_file.name
            signed, findings = read_checkpoints(path, signed_file, self._book)
            self._tell(findings)
            for one in signed:
                self._tell(check_signed(self._book, self._manifest.origin, one, self._keys))
            if signed:
                self._last = signed[-1]
            yield events, signed

    def _judge(self, said: File, proved: Proved) -> None:
        """Judge a file's events by the rules; after one that cannot be read no more are judged."""
        if not self._is_whole:
            return
        if not proved.readable:
            self._is_whole = False
            return
        try:
            file = ExportFile(self._directory / said.name, said, checksums=not proved.differs)
            if self._passing is not None and self._window is not None:
                for groups in batches(file):
                    if not self._pass(groups, self._passing, self._window):
                        return
                    del groups  # so that they are not beside the next ones
                return
            for number in range(file.groups):
                if not self._feed(file.events(number)):
                    return
        except Unreadable as why:
            self._is_whole = False
            where = f"{self._book}:{why.first} to {self._book}:{why.last}"
            self._report(Finding("file_unreadable", where, f"rows of {said.name}", str(why)))

    def _feed(self, group: Group) -> bool:
        """Judge a row group; return whether it could be."""
        streams = [UUID(bytes=stream) for stream in group.streams]
        rows = zip(
            group.positions, streams, group.versions, group.topics, group.states, strict=True
        )
        entries = [Entry(*row) for row in rows]
        events = self._audited(entries)
        if len(events) < len(entries):
            return False
        self._judged = group.positions[-1]
        self._tell(self._mistimed(entries, events, group.instants))
        return True

    def _audited(self, entries: Iterable[Entry]) -> list[Event | None]:
        """Feed events to the audit; nothing in them makes rings, so none are looked for."""
        feed, audit, events = self._audit.feed, self._audit, []
        gc.disable()
        try:
            for entry in entries:
                try:
                    events.append(feed(entry))
                except Exception as error:  # noqa: BLE001 - made-up events may defeat any rule
                    self._stop(f"{self._book}:{entry.position}", error)
                    return events
                if audit.has_findings:
                    self._tell(audit.take_findings())
        finally:
            gc.enable()
        return events

    def _pass(self, groups: Sequence[Rows], passing: Passing, window: Window) -> bool:
        """Judge row groups, as much as can be in columns; return whether all could be judged."""
        mistimed: list[list[Finding]] = [[] for _ in groups]
        told = 0
        for group, start, end in passing.left(groups):
            for earlier in mistimed[told:group]:
                self._tell(earlier)
            told = group
            entries, states = groups[group].entries(start, end), groups[group].instants[start:end]
            streams = [entry.stream.bytes for entry in entries]
            window.begin(streams)
            window.load_accounts(streams, [entry.state for entry in entries])
            events = self._audited(entries)
            window.end(events)
            if len(events) < len(entries):
                self._judged = groups[group].first - 1
                return False
            instants = [None if one == NEVER else one for one in states.tolist()]
            mistimed[group] += self._mistimed(entries, events, instants)
        for left in mistimed[told:]:
            self._tell(left)
        self._judged = groups[-1].last
        return True

    def _stop(self, where: str, error: Exception) -> None:
        """Judge no more: an event that no writer of ours has written cannot be judged at all."""
        self._is_whole = False
        found = f"{type(error).__name__}: {error}"
        self._report(Finding("event_unjudgeable", where, "an event that can be judged", found))

    def _mistimed(
        self,
        entries: Sequence[Entry],
        events: Sequence[Event | None],
        instants: Sequence[int | None],
    ) -> list[Finding]:
        """Return the events whose recorded instant is another than their own."""
        known = [event.at for event in events if event is not None]
        if len(known) == len(events) and instants_of(known) == list(instants):
            return []
        found = []
        for entry, event, instant in zip(entries, events, instants, strict=True):
            if event is not None and instants_of([event.at]) != [instant]:
                where = f"{self._book}:{entry.position} stream {entry.stream} field recorded_at"
                expected = f"{instants_of([event.at])[0]} µs since 1970"
                told = "none" if instant is None else f"{instant} µs"
                found.append(Finding("instant_differs", where, expected, told))
        return found

    def _finish(self) -> None:
        if self._window is not None:
            self._window.finish()
        if self._is_whole:
            try:
                self._audit.finish()
            except Exception as error:  # noqa: BLE001 - made-up events may defeat any rule
                self._stop(self._book, error)
            self._tell(self._audit.take_findings())
        book, manifest, last = self._book, self._manifest, self._last
        if last is None or last.size != manifest.size:
            found = "none" if last is None else f"size {last.size}"
            self._report(Finding("checkpoint_missing", book, f"size {manifest.size}", found))
            return
        if last.root.hex() != manifest.root:
            where = f"{book} {MANIFEST} field root"
            self._report(Finding("manifest_broken", where, last.root.hex(), manifest.root))
        self._tell(check_cosigned(book, last, self._keys))

    def _tell(self, findings: Iterable[Finding]) -> None:
        for one in findings:
            self._report(one)


# --- the manifest -----------------------------------------------------------------------------


def _manifest(directory: Path, report: Callable[[Finding], None]) -> tuple[Manifest | None, bytes]:
    where = str(directory / MANIFEST)
    try:
        with (directory / MANIFEST).open("rb") as file:
            data = file.read(MANIFEST_BYTES_MAX + 1)
        return Manifest.parse(data), data
    except (OSError, Malformed) as error:
        report(Finding("manifest_broken", where, "a manifest", str(error)))
        return None, b""


def _own_keys(manifest: Manifest, report: Callable[[Finding], None]) -> Keys | None:
    try:
        log = tuple(map(Verifier.parse, manifest.log_keys))
        witnesses = tuple(map(Verifier.parse, manifest.witness_keys))
    except Malformed as error:
        report(
            Finding("manifest_broken", f"{manifest.book} {MANIFEST} field keys", "keys", str(error))
        )
        return None
    return Keys(log, witnesses)


def _check_note(
    directory: Path,
    manifest: Manifest,
    data: bytes,
    keys: Keys,
    report: Callable[[Finding], None],
) -> bool:
    path = directory / MANIFEST_NOTE
    where = f"{manifest.book} {MANIFEST_NOTE}"
    try:
        with path.open("rb") as file:
            note = parse_note(file.read(NOTE_BYTES_MAX + 1))
        expected = manifest.note_text(data)
        if note.text != expected:
            report(Finding("manifest_unsigned", where, expected, note.text))
            return False
        verified(note, keys.log)
    except FileNotFoundError:
        return False
    except (OSError, Malformed, Untrusted, BadSignature) as error:
        report(Finding("manifest_unsigned", where, "a key of the log", str(error)))
        return False
    return True


# --- processes --------------------------------------------------------------------------------

Job = tuple[File, list[Signed]]


class _Workers(AbstractContextManager["_Workers"]):
    """Processes that read and hash files; without any it is done here and now.

    A file that kills its process is a finding, and the others are gone on with.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def proved(
        self, directory: Path, book: str, jobs: Iterator[Job]
    ) -> Iterator[tuple[File, list[Signed], Proved]]:
        """Yield each file with what was proved of it, in order, a few files ahead."""
        waiting: deque[tuple[File, list[Signed], Future[Proved] | None]] = deque()
        for said, signed in jobs:
            waiting.append((said, signed, self._submit(directory, book, said, signed)))
            if len(waiting) > self._jobs * AHEAD:
                yield self._result(directory, book, waiting.popleft())
        while waiting:
            yield self._result(directory, book, waiting.popleft())

    def _submit(
        self, directory: Path, book: str, said: File, signed: Sequence[Signed]
    ) -> Future[Proved] | None:
        if self._jobs == 0:
            return None
        sizes = _sizes(said, signed)
        try:
            return self._running().submit(prove_events, directory / said.name, said, book, sizes)
        except BrokenProcessPool:
            self._pool = None
            return self._running().submit(prove_events, directory / said.name, said, book, sizes)

    def _result(
        self, directory: Path, book: str, one: tuple[File, list[Signed], Future[Proved] | None]
    ) -> tuple[File, list[Signed], Proved]:
        said, signed, future = one
        path, sizes = directory / said.name, _sizes(said, signed)
        if future is None:
            return said, signed, prove_events(path, said, book, sizes)
        with suppress(BrokenProcessPool):
            return said, signed, future.result()
        # Another file may have killed the process: this one gets a process of its own to tell.
        with _Workers(1) as alone, suppress(BrokenProcessPool):
            again = alone._running().submit(prove_events, path, said, book, sizes)
            return said, signed, again.result()
        died = Finding("verifier_died", f"{book} {said.name}", "a file", "one that ends the reader")
        return said, signed, Proved([], [], [died], readable=False)

    def _running(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._jobs, context, initializer=_bound_memory)
        return self._pool


def _sizes(said: File, signed: Sequence[Signed]) -> list[int]:
    return sorted({one.size for one in signed if said.first <= one.size <= said.last})


def _bound_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = WORKER_BYTES if hard == resource.RLIM_INFINITY else min(WORKER_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
