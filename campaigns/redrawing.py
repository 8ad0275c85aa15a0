"""Drawing lotteries again: who had entered, and whom the seed that was shown makes a winner.

It shares no code with the draw that it checks (`campaigns.intake`). An entrant takes sixteen bytes
here until the campaign is drawn, and no more while it is, but for winners. What is wrong is told in
a code and two words for a report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from heapq import nsmallest
from typing import Any, NamedTuple

from campaigns.campaign import (
    Campaign,
    CampaignDrawn,
    CampaignIntakeClosed,
    CampaignOpened,
    Terms,
)
from campaigns.resplitting import is_seed_of, seed_bytes
from ledger.appending import Capacity


class Wrong(NamedTuple):
    """A broken rule: its code, what was expected and what was found."""

    code: str
    expected: object
    found: object


@dataclass(slots=True)
class Lottery:
    """A campaign's lottery as its events made it."""

    entered: defaultdict[int, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    """The entrants' ids by the first of their bytes, so that they need not be sorted at once."""

    to_give: set[int] = field(default_factory=set)
    """The winners who do not have their coupon yet."""

    winners: int = 0
    given: int = 0

    @property
    def capacity(self) -> Capacity:
        """What the stored capacity of the draw should be."""
        return Capacity(issued=self.given, quota=self.winners)

    def enter(self, coupon: int) -> None:
        """Take an entrant in."""
        one = coupon.to_bytes(16, "big")
        self.entered[one[0]] += one

    def gives(self, coupon: int) -> bool:
        """Whether somebody has won and does not have the coupon yet; from now on they have it."""
        if coupon not in self.to_give:
            return False
        self.to_give.remove(coupon)
        return True

    def redraw(self, campaign: Campaign, event: CampaignDrawn) -> Wrong | None:
        """Draw again with the seed that was shown, and compare."""
        self.winners = event.winners
        draw = campaign.draw
        if draw is None or not is_seed_of(event.seed, draw.commitment):
            commitment = None if draw is None else draw.commitment
            return Wrong("seed_differs", f"the seed of {commitment}", event.seed)
        digest = sha256()
        places = draw.places or 0
        ranks = self._ranks(seed_bytes(event.seed), digest)
        lowest = nsmallest(max(places, 1), ranks)[:places]
        self.to_give = {int.from_bytes(one[32:], "big") for one in lowest}
        expected = (
            sum(len(shelf) for shelf in self.entered.values()) // 16,
            digest.hexdigest(),
            len(lowest),
            lowest[-1][:32].hex() if lowest else None,
        )
        found = (event.entrants, event.entrants_sha256, event.winners, event.threshold)
        self.entered.clear()
        return None if expected == found else Wrong("draw_differs", expected, found)

    def _ranks(self, seed: bytes, digest: Any) -> Iterator[bytes]:
        """Each entrant's rank and id, in order of ids, of which a digest is made on the way."""
        for _, shelf in sorted(self.entered.items()):
            ids = sorted(shelf[at : at + 16] for at in range(0, len(shelf), 16))
            digest.update(b"".join(ids))
            for one in ids:
                yield sha256(seed + one).digest() + one


def opening(campaign: Campaign, event: CampaignOpened) -> Wrong | None:
    """A lottery commits to its seed, and nothing else does."""
    commits = isinstance(event.seed_commitment, str)
    if commits == is_drawn(campaign.terms):
        return None
    words = {True: "a commitment to a seed", False: "no commitment"}
    return Wrong("seed_commitment", words[not commits], words[commits])


def closing(campaign: Campaign, free: Capacity, event: CampaignIntakeClosed) -> Wrong | None:
    """The intake ends after its time, once, and with as many places as there is stock for."""
    draw, until = campaign.draw, _until(campaign.terms)
    if draw is None or draw.places is not None or event.at < until:
        return Wrong("illegal_step", f"{event.TOPIC} once, from {until} on", event.at)
    money = (free.budget_minor - free.granted_minor) // campaign.terms.face_minor
    places = min(free.quota - free.issued, money)
    return None if event.places == places else Wrong("draw_differs", places, event.places)


def drawing(campaign: Campaign) -> Wrong | None:
    """A lottery is drawn once, after its intake was closed."""
    draw = campaign.draw
    if draw is None or draw.places is None or draw.seed is not None:
        found = "none" if draw is None else "open" if draw.places is None else "drawn"
        return Wrong("illegal_step", "campaign.drawn after campaign.intake_closed", found)
    return None


def entry(campaign: Campaign, at: datetime) -> Wrong | None:
    """People enter a lottery while its intake is open."""
    draw, until = campaign.draw, _until(campaign.terms)
    if draw is None or draw.places is not None or at >= until:
        return Wrong("entry_outside_intake", f"an open intake, before {until}", at)
    return None


def is_drawn(terms: Terms) -> bool:
    """Whether the terms are those of a lottery."""
    return terms.intake is not None and terms.intake.kind == "lottery"


def _until(terms: Terms) -> datetime:
    seconds = terms.intake.seconds if terms.intake is not None else 0
    return terms.claim_from + timedelta(seconds=seconds)
