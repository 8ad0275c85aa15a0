"""The keyring: what is kept about persons outside the database, in a directory of its own.

Epoch keys wrap the rows of the vault. To destroy one makes every row and every backup unreadable
that was wrapped by it. Beside them is the list of the erased, which is only ever added to: a
backup of the database can bring rows back, but not take names off this list. Nothing here is ever
in the database, and no backup of this directory may outlive its purpose (docs/erasure.md).
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

KEY_BYTES: Final = 32

_EPOCH_FILE: Final = re.compile(r"epoch-([0-9]{6})\.key")
_LINE: Final = re.compile(rb"[0-9a-f]{32}\n")
_LINE_BYTES: Final = 33


class KeyDestroyed(Exception):
    """An epoch's key is not there: what was wrapped by it can be read by nobody."""


class Keyring:
    """The epoch keys and the list of the erased, shared by every process of a ledger."""

    def __init__(
        self,
        folder: Path,
        new_key: Callable[[], bytes] = lambda: secrets.token_bytes(KEY_BYTES),
    ) -> None:
        self.folder = folder
        self._new_key = new_key
        self._erased: frozenset[str] = frozenset()
        self._read_at: tuple[int, int] | None = None

    # --- epochs -------------------------------------------------------------------------------

    def epochs(self) -> list[int]:
        """Return the epochs whose keys are there, in order."""
        if not self.folder.is_dir():
            return []
        found = (_EPOCH_FILE.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def current(self) -> int:
        """Return the epoch to wrap with; the first is begun here."""
        epochs = self.epochs()
        return epochs[-1] if epochs else self._begin(first=True)

    def key(self, epoch: int) -> bytes:
        """Return an epoch's key, read anew each time: a destroyed one is not remembered."""
        try:
            return bytes.fromhex(self._path(epoch).read_text())
        except FileNotFoundError:
            raise KeyDestroyed(f"the key of epoch {epoch} was destroyed") from None

    def begin(self) -> int:
        """Begin the next epoch; return it. It is on disk before anything is wrapped with it."""
        return self._begin(first=False)

    def _begin(self, *, first: bool) -> int:
        with self._locked():
            epochs = self.epochs()
            if first and epochs:
                return epochs[-1]  # somebody else was first
            epoch = max([0, *epochs, *self._destroyed()]) + 1
            draft = self.folder / f".epoch-{epoch:06}"
            _write(draft, self._new_key().hex().encode(), os.O_TRUNC)
            draft.rename(self._path(epoch))
            _sync(self.folder)
            return epoch

    def destroy(self, epoch: int) -> None:
        """Overwrite and remove an epoch's key; that it is gone is written down before."""
        with self._locked():
            path = self._path(epoch)
            if not path.exists():
                return
            _write(self.folder / "destroyed", f"{epoch:06}\n".encode(), os.O_APPEND)
            _write(path, self._new_key().hex().encode(), 0)
            path.unlink()
            _sync(self.folder)

    def _destroyed(self) -> list[int]:
        """Return the numbers that are not used again."""
        path = self.folder / "destroyed"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:06}.key"

    # --- the erased ---------------------------------------------------------------------------

    def is_erased(self, person: str) -> bool:
        """Whether a person is on the list, as it stands on disk now."""
        return person in self.erased()

    def erased(self) -> frozenset[str]:
        """Return everybody on the list. It is read again whenever it has changed."""
        try:
            stat = self._list.stat()
        except FileNotFoundError:
            return frozenset()
        found = (stat.st_mtime_ns, stat.st_size)
        if found != self._read_at:
            lines = _LINE.findall(self._list.read_bytes())
            self._erased = frozenset(line[:-1].decode() for line in lines)
            self._read_at = found
        return self._erased

    def add_erased(self, person: str) -> None:
        """Put a person on the list, on disk, for ever. Twice is once."""
        assert len(person) == _LINE_BYTES - 1, "a person is 32 hex digits"
        with self._locked():
            if person in self.erased():
                return
            torn = self._list.exists() and self._list.read_bytes()[-1:] not in (b"\n", b"")
            line = (b"\n" if torn else b"") + person.encode() + b"\n"
            _write(self._list, line, os.O_APPEND)
            _sync(self.folder)

    @property
    def _list(self) -> Path:
        return self.folder / "erased"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _write(path: Path, data: bytes, how: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
