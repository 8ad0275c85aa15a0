"""What a signer keeps in files: its keys, and the last head that it signed.

Both are outside the database, so that a database that is restored from an older copy cannot make
the signer forget. The memory of the last head only ever moves forward, and it is on the disk
before a signature leaves the process. Key files are readable by their owner only.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ledger.transparency.checkpoints import Checkpoint, parse_checkpoint
from ledger.transparency.notes import Note, Signer
from ledger.transparency.texts import Malformed

KEYS_MAX: Final = 8
"""Keys that sign at the same time: more than two is a rotation that nobody ended."""


class NoKeys(Exception):
    """There is no key file, or none of its lines is a key."""


class Regress(Exception):
    """A head was to be remembered that is smaller than the one that is remembered."""


class Contradiction(Exception):
    """A head was to be remembered beside another one of the same size."""


class KeyFile:
    """Signer keys, a line each; every one of them signs. The first names whoever signs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether there is one."""
        return self.path.exists()

    def signers(self) -> list[Signer]:
        """Return the keys; raise `NoKeys`, or `Malformed` when their names differ."""
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            raise NoKeys(f"there is no key file {self.path}") from None
        found = [Signer.parse(line) for line in lines if line and not line.startswith("#")]
        if not found:
            raise NoKeys(f"{self.path} has no key")
        if len(found) > KEYS_MAX or len({one.verifier.name for one in found}) > 1:
            raise Malformed(f"{self.path} has keys of several names, or more than {KEYS_MAX}")
        return found

    def make(self, signer: Signer) -> list[Signer]:
        """Begin the file with a key, unless there is one already; return its keys.

        Several processes may do so at once: one of them wins, and all return the winner's.
        """
        if not self.exists():
            draft = self._draft([signer])
            try:
                os.link(draft, self.path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
            _flush_directory(self.path.parent)
        return self.signers()

    def add(self, signer: Signer) -> None:
        """Let a further key sign as well."""
        with _locked(self.path):
            self._replace([*self.signers(), signer])

    def retire(self, key_id: str) -> None:
        """Let a key sign no more; raise `NoKeys` when it is not there or is the last one."""
        with _locked(self.path):
            signers = self.signers()
            kept = [one for one in signers if one.verifier.key_id.hex() != key_id]
            if len(kept) == len(signers) or not kept:
                raise NoKeys(f"{self.path} has no other key than {key_id}, or not this one")
            self._replace(kept)

    def _replace(self, signers: Sequence[Signer]) -> None:
        self._draft(signers).replace(self.path)
        _flush_directory(self.path.parent)

    def _draft(self, signers: Sequence[Signer]) -> Path:
        text = "".join(f"{one.secret_text()}\n" for one in signers)
        return _draft(self.path, text.encode())


class HeadFile:
    """The last head that was signed: a file that is on the disk before anybody hears of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Note | None:
        """Return the signed checkpoint; None before the first. Raises `Malformed`."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return parse_checkpoint(data)[0]

    def keep(self, note: Note) -> None:
        """Remember a signed checkpoint, which goes further than the last.

        Raises `Regress` or `Contradiction` where it does not. The same checkpoint may be kept
        again: whoever crashed in between signs it once more.
        """
        with _locked(self.path):
            last = self.read()
            if last is not None:
                old, new = Checkpoint.parse(last.text), Checkpoint.parse(note.text)
                if new.size < old.size:
                    raise Regress(f"a head of {new.size} leaves after one of {old.size} was signed")
                if new.size == old.size and new != old:
                    raise Contradiction(f"another head of {old.size} leaves was signed")
            _draft(self.path, note.encode()).replace(self.path)
            _flush_directory(self.path.parent)


class SignerFiles:
    """A signer's memory in a directory: the keys and the last head of one log."""

    def __init__(self, directory: Path, name: str) -> None:
        self.keys = KeyFile(directory / f"{name}.keys")
        self.heads = HeadFile(directory / f"{name}.head")

    def signers(self) -> list[Signer]:
        """Return the keys that sign now; they may be others than a moment ago."""
        return self.keys.signers()

    def head(self) -> Note | None:
        """Return the last head that was signed."""
        return self.heads.read()

    def keep(self, note: Note) -> None:
        """Remember a head, on the disk; raise `Regress` or `Contradiction`."""
        self.heads.keep(note)


def _draft(path: Path, data: bytes) -> Path:
    """Return a finished, flushed file beside the one that it is to become."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return draft


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time change a file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
