"""Sampling: looking at something again and again, in a thread of its own, within a `with` block."""

from __future__ import annotations

import threading
from typing import Self


class Sampler:
    """Runs `watch` from the beginning of a `with` block; at its end `watch` has to come back."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set at the end of the block; `watch` waits on it between two looks."""
        self._thread = threading.Thread(target=self.watch, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()

    def watch(self) -> None:
        """Look until `stop` is set."""
        raise NotImplementedError
