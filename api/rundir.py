"""Run directories: what a running server keeps on disk for as long as it runs, under the home.

A directory belongs to whoever holds the lock in it, and the lock goes with the last process that
holds it, however it ends. So a server that was killed leaves a directory that nobody holds, and the
next one clears it away.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_PREFIX: Final = "serve-"


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one running server."""

    path: Path
    lock: int
    """A descriptor that holds the lock; every process of the server keeps it open."""

    @classmethod
    @contextmanager
    def opened(cls, home: Path) -> Iterator[Self]:
        """Lend a new directory, after clearing away those that nobody holds."""
        parent = home / "run"
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(parent / "lock"):
            _clear(parent)
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            os.write(lock, b"%d\n" % os.getpid())
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            (path / "metrics").mkdir()
            yield cls(path, lock)
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)

    @property
    def metrics(self) -> Path:
        """Where the server's processes share their metrics."""
        return self.path / "metrics"

    def forget(self, pid: int) -> None:
        """Take what only a living process counts out of the metrics of one that has ended."""
        for file in self.metrics.glob(f"gauge_live*_{pid}.db"):
            file.unlink(missing_ok=True)


def servers(home: Path) -> list[int]:
    """Return the process ids of the servers that run on a home."""
    return [
        int((path / "lock").read_text())
        for path in sorted((home / "run").glob(f"{_PREFIX}*"))
        if _is_held(path)
    ]


def _clear(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        if not _is_held(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_held(path: Path) -> bool:
    with suppress(FileNotFoundError):
        descriptor = os.open(path / "lock", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
