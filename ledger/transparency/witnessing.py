"""The witness: remembers each log's largest head, and cosigns only what extends it.

It speaks C2SP tlog-witness. Checking a head against the memory and putting it in its place are one
transaction that is on the disk before the cosignature leaves: two submissions at once cannot both
extend the same head. It knows nothing of books, and it must never forget.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from ledger.merkle import EMPTY_ROOT, verify_consistency
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.notes import (
    BadSignature,
    Note,
    Signature,
    Signer,
    Untrusted,
    Verifier,
    verified,
)
from ledger.transparency.submissions import SIZE_TYPE, Submission, parse_submission
from ledger.transparency.texts import Malformed

OK: Final = 200
BAD_REQUEST: Final = 400
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
CONFLICT: Final = 409
UNPROCESSABLE: Final = 422

BUSY_S: Final = 5.0
"""How long a submission waits for another one of the same store."""

_TEXT: Final = "text/plain; charset=utf-8"

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS head (
    origin TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    note BLOB NOT NULL
) STRICT
"""
_BEGIN: Final = "BEGIN IMMEDIATE"
_HEAD: Final = "SELECT size, root FROM head WHERE origin = ?"
_KEEP: Final = """
INSERT INTO head (origin, name, size, root, note) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note
"""
_NOTE: Final = "SELECT note FROM head WHERE name = ?"


class UnreadableLogs(Exception):
    """The file of logs that are cosigned has a line that is no verifier key."""


KnownLogs = Callable[[], Sequence[Verifier]]
"""Returns the keys of the logs that are cosigned; a key's name is its log's origin."""


class Answer(NamedTuple):
    """What is answered over HTTP."""

    status: int
    body: bytes
    content_type: str = _TEXT


class KnownHead(NamedTuple):
    """The largest head of a log that was cosigned."""

    size: int
    root: bytes


class _Refused(Exception):
    """A submission is not cosigned; holds the answer."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.answer = Answer(status, f"{words}\n".encode())


class Witness:
    """Cosigns heads of known logs. Any number of threads and processes may share its store."""

    def __init__(
        self,
        path: Path,
        signer: Signer,
        logs: KnownLogs,
        now: Callable[[], int],
        *,
        busy_s: float = BUSY_S,
    ) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.signer = signer
        self._logs = logs
        self._now = now
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=busy_s, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(_SCHEMA)

    def close(self) -> None:
        """Close the store."""
        self._connection.close()

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer an add-checkpoint request.

        Raises `sqlite3.Error` when the store does not take it; then nothing was cosigned.
        """
        try:
            submission = parse_submission(body)
            signatures = authentic(submission, self._logs())
            return self._cosign(submission, signatures)
        except Malformed as malformed:
            return Answer(BAD_REQUEST, f"{malformed}\n".encode())
        except _Refused as refused:
            return refused.answer

    def latest(self, name: str) -> Answer:
        """Answer a request for the last checkpoint of the log whose origin has this hash."""
        with self._lock, closing(self._connection.execute(_NOTE, (name,))) as cursor:
            row = cursor.fetchone()
        if row is None:
            return Answer(NOT_FOUND, b"no such log, or none of its heads was cosigned\n")
        return Answer(OK, row[0])

    def _cosign(self, submission: Submission, signatures: Sequence[Signature]) -> Answer:
        head, text = submission.checkpoint, submission.note.text
        with self._transaction() as cursor:
            row = cursor.execute(_HEAD, (head.origin,)).fetchone()
            known = KnownHead(0, EMPTY_ROOT) if row is None else KnownHead(*row)
            stale = judge(submission, known)
            if stale is not None:
                return stale
            cosignature = self.signer.cosign(text, self._now())
            note = Note(text, (*signatures, cosignature)).encode()
            name = sha256(head.origin.encode()).hexdigest()
            cursor.execute(_KEEP, (head.origin, name, head.size, head.root, note))
        return Answer(OK, cosignature.line.encode())

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        """Lend a cursor alone with the store, until what was done is on the disk."""
        with self._lock, closing(self._connection.cursor()) as cursor:
            cursor.execute(_BEGIN)
            try:
                yield cursor
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")


def authentic(submission: Submission, logs: Sequence[Verifier]) -> tuple[Signature, ...]:
    """Return the signatures by which a log stands by its head; raise what refuses it."""
    keys = [key for key in logs if key.name == submission.checkpoint.origin]
    if not keys:
        raise _Refused(NOT_FOUND, "this log is not known here")
    try:
        return verified(submission.note, keys)
    except (Untrusted, BadSignature) as error:
        raise _Refused(FORBIDDEN, str(error)) from error


def judge(submission: Submission, known: KnownHead) -> Answer | None:
    """Return None for a head that extends the known one, the answer that says so for a stale one.

    Raises what refuses any other head.
    """
    old_size, head = submission.old_size, submission.checkpoint
    if old_size > head.size:
        raise _Refused(BAD_REQUEST, "the old size is larger than the checkpoint's")
    if old_size != known.size:
        return Answer(CONFLICT, b"%d\n" % known.size, SIZE_TYPE)
    if not _extends(head, known, submission.proof):
        raise _Refused(UNPROCESSABLE, "the checkpoint does not extend the known one")
    return None


def _extends(head: Checkpoint, known: KnownHead, proof: Sequence[bytes]) -> bool:
    if head.size == 0 and head.root != EMPTY_ROOT:
        return False
    if known.size == 0:
        return not proof
    return verify_consistency(known.size, head.size, proof, known.root, head.root)


class LogsFile:
    """The logs that a witness knows: a file of verifier keys, a line each, read when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._keys: list[Verifier] = []

    def __call__(self) -> list[Verifier]:
        """Return the keys; a file that is not there names none. Raises `UnreadableLogs`."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return []
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp != self._stamp:
            lines = self._path.read_text().splitlines()
            try:
                found = [Verifier.parse(one) for one in lines if one and not one.startswith("#")]
            except Malformed as malformed:
                raise UnreadableLogs(f"{self._path}: {malformed}") from malformed
            self._keys = found
            self._stamp = stamp
        return self._keys

    def write(self, keys: Sequence[Verifier]) -> None:
        """Let these be the keys."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.new")
        draft.write_text("".join(f"{key}\n" for key in keys))
        draft.replace(self._path)
