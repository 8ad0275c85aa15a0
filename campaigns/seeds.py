"""Seeds: what lots and splits follow from, and what is published of them beforehand.

Each kind of draw makes its seeds from the ledger's draw key in its own way, so that no seed serves
two of them; all are committed to in the same one. No random numbers are made here.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

DrawKey = Callable[[], bytes]
"""Gives the ledger's draw key, of which seeds are made; asked only where a seed is needed."""


def commitment_of(seed: bytes) -> str:
    """Return what is published of a seed before it decides anything; the seed is shown later."""
    return sha256(seed).hexdigest()
