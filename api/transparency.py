"""What processes need to know of the books' logs: files, witnesses, and whether a store is right.

The keys of a log and the last head that was signed lie in the home of whoever signs, in `log/`.
A witness is called over HTTP, with short timeouts: nobody's start and nobody's claim waits for one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from ledger.transparency import guard, store
from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.cosigning import Unreachable, WitnessAt
from ledger.transparency.follower import heads_elsewhere
from ledger.transparency.guard import Damaged
from ledger.transparency.keys import SignerFiles
from ledger.transparency.notes import ED25519, Note, Signer
from ledger.transparency.submissions import SUBMISSION_BYTES_MAX

WITNESS_TIMEOUT_S: Final = 2.0

_log = logging.getLogger("tidebook.log")


def log_directory(home: Path) -> Path:
    """Return where a home keeps its logs' keys and heads."""
    return home / "log"


def memory_of(home: Path, book: str) -> SignerFiles:
    """Return the signer's files of a book."""
    return SignerFiles(log_directory(home), book)


def begin_log(home: Path, book: str, name: str | None, random: bytes) -> SignerFiles:
    """Return the signer's files of a book, with a key made from 64 random bytes if it had none.

    Without a name the log is called by what nobody else is called: some of these bytes.
    """
    files = memory_of(home, book)
    if not files.keys.exists():
        ledger = name or f"tidebook-{random[32:40].hex()}.invalid"
        files.keys.make(Signer(f"{ledger}/{book}", ED25519, random[:32]))
    return files


class RemoteWitness:
    """A witness behind its HTTP interface, over one connection that is kept."""

    def __init__(self, at: WitnessAt, client: httpx.Client) -> None:
        self.verifier = at.verifier
        self._url = at.url
        self._client = client

    def add_checkpoint(self, body: bytes) -> tuple[int, bytes]:
        """Hand in a submission; return status and body. Raises `Unreachable`."""
        with _reaching():
            reply = self._client.post(f"{self._url}/add-checkpoint", content=body)
            return reply.status_code, reply.content

    def latest(self, origin: str) -> Note | None:
        """Return the last checkpoint of a log that it cosigned. Raises `Unreachable`."""
        with _reaching():
            name = sha256(origin.encode()).hexdigest()
            reply = self._client.get(f"{self._url}/{name}/checkpoint")
        if reply.status_code == httpx.codes.NOT_FOUND:
            return None
        if reply.status_code != httpx.codes.OK or len(reply.content) > SUBMISSION_BYTES_MAX:
            raise Unreachable(f"it answers {reply.status_code}")
        return parse_checkpoint(reply.content)[0]


class LogView(msgspec.Struct, frozen=True):
    """A book's log: who it is, how far it is, its keys, and the one that signs statements."""

    book: str
    origin: str
    size: int
    published: int
    keys: list[str]
    statements: str


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(type(error).__name__) from error


def reached(witnesses: Sequence[WitnessAt], client: httpx.Client) -> list[RemoteWitness]:
    """Return witnesses that can be asked."""
    return [RemoteWitness(one, client) for one in witnesses]


@contextmanager
def witness_client() -> Iterator[httpx.Client]:
    """Lend an HTTP client for witnesses: no proxy, no redirects, no long waits."""
    with httpx.Client(timeout=WITNESS_TIMEOUT_S, trust_env=False) as client:
        yield client


def check_logs(
    cursor: Any, home: Path, books: Sequence[str], witnesses: Sequence[WitnessAt]
) -> list[Damaged]:
    """Halt the books that do not extend what was signed of them, and return what is wrong.

    A book whose log nobody has begun has nothing to extend. Books are set going again by the
    follower alone, who knows most.
    """
    with ExitStack() as stack:
        remote = reached(witnesses, stack.enter_context(witness_client())) if witnesses else []
        return [
            damaged
            for book in books
            if (damaged := _check_log(cursor, home, book, remote)) is not None
        ]


def _check_log(
    cursor: Any, home: Path, book: str, witnesses: Sequence[RemoteWitness]
) -> Damaged | None:
    remembered = memory_of(home, book).head()
    signed = store.last_signed(cursor, book)
    known = remembered.text if remembered is not None else None
    if known is None and signed is not None:
        known = parse_checkpoint(signed.note)[1].text
    origin = Checkpoint.parse(known).origin if known is not None else None
    try:
        guard.check(cursor, book, heads_elsewhere(remembered, origin, witnesses))
    except Damaged as damaged:
        _log.error("%s: it takes no event until that is mended", damaged)
        guard.halt(cursor, book, damaged.what)
        return damaged
    return None
