"""What the users of one Locust run share: the campaign, and what was answered about it.

The answers are kept for the check after the run. Nothing here is shared between Locust workers;
with several of them, each checks its own answers against the same book.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self
from uuid import uuid4

from loadtest.client import sign_in
from loadtest.invariants import Books, check
from loadtest.stage import Staff

BOOK: Final = "main"
REST_S: Final = 0.5
"""A request that was cut off has committed by then, or never will unless the service is ill."""

HELD_MAX: Final = 100_000
"""Claimed coupons that wait for a checkout; older ones are simply never spent."""


@dataclass
class World:
    """One campaign, and everything that the service said about it."""

    url: str
    staff: Staff
    campaign: str
    acknowledged: list[str] = field(default_factory=list)
    unknown: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    held: deque[str] = field(default_factory=lambda: deque(maxlen=HELD_MAX))
    run: str = field(default_factory=lambda: uuid4().hex[:8])
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def set_up(cls, url: str, quota: int) -> Self:
        """Sign the staff in and open a campaign."""
        staff = Staff.signed_in(url)
        return cls(url, staff, staff.open_campaign("Locust", quota))

    def new_identity(self) -> str:
        """An identity that nobody had before."""
        return f"locust {self.run} {next(self._numbers)}"

    def check(self) -> Books:
        """Read the whole book back and hold it against the answers."""
        self._wait_until_at_rest()
        books = check(self.staff.auditor, BOOK)
        books.check_claim_answers(
            self.campaign,
            self.acknowledged,
            unknown=self.unknown,
            sold_out=self.refusals["sold_out"],
        )
        for merchant in books.merchants():
            with sign_in(self.url, "merchant", f"books of {merchant}", merchant=merchant) as owner:
                seen = f"{BOOK}:{books.position}"
                balance = owner.get("/v1/merchant/balance", min_position=seen)
                books.check_merchant(merchant, balance["items"])
        return books

    def _wait_until_at_rest(self) -> None:
        """Return once the book has not grown for a while: requests cut off may still commit."""
        before = None
        while (head := self.staff.auditor.get(f"/v1/books/{BOOK}/head")["position"]) != before:
            before = head
            time.sleep(REST_S)


_world: World | None = None


def the_world() -> World:
    """The world of the run that is on."""
    assert _world is not None, "no run is on"
    return _world


def begin(url: str, quota: int) -> None:
    """Set up the world of a new run."""
    global _world  # noqa: PLW0603 - Locust makes the users; they can be handed nothing
    _world = World.set_up(url, quota)
