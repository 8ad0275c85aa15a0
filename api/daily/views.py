"""Daily proofs as they are listed over HTTP."""

from __future__ import annotations

import msgspec


class DailyProofView(msgspec.Struct, frozen=True):
    """A day that is proved: how far the book had come, and some of what is proved of it."""

    day: str
    size: int
    quota: int
    figures: dict[str, int]
    over_issued: bool
    sha256: str


class DailyProofList(msgspec.Struct, frozen=True):
    """The daily proofs of a campaign, the first day first."""

    campaign: str
    proofs: list[DailyProofView]
