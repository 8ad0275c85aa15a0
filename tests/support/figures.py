"""The live figures of campaigns, folded event by event and held against the accounts.

It uses the fold of the read model and no table, so that a state machine can look at every position
of a book that it made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from campaigns.accounting import campaign_account, postings_of
from campaigns.event_types import MAPPER
from ledger.history import Entry
from ledger.postings import TrialBalance
from projections.campaign_figures import READS, Change, fold
from projections.projection import View

_DECODERS: dict[str, Callable[[bytes], View]] = {
    topic: msgspec.json.Decoder(view).decode for topic, view in READS.items() if view is not None
}
_COUNTED = tuple(
    name for name in Change.__struct_fields__ if getattr(Change("none"), name, None) == 0
)


@dataclass
class Figures:
    """A campaign's figures as they stand, and whether it has a public draw."""

    by_name: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    is_drawn: bool = False

    def __getitem__(self, name: str) -> int:
        return self.by_name[name]

    def take(self, change: Change) -> None:
        """Add what an event changes."""
        for name in _COUNTED:
            self.by_name[name] += getattr(change, name)


def check_figures(entries: Iterable[Entry]) -> dict[str, Figures]:
    """Check the figures after each event of a whole book; return them as they end, by campaign."""
    found: dict[str, Figures] = {}
    trial = TrialBalance()
    for entry in entries:
        event: Any = MAPPER.decode(entry.topic, entry.state, entry.stream, entry.version)
        trial.post(postings_of(event))
        decode = _DECODERS.get(entry.topic)
        if decode is None:
            continue
        view = decode(entry.state)
        view.position, view.stream, view.version = entry.position, str(entry.stream), entry.version
        drafts, changes = fold([view])
        for draft in drafts:
            is_drawn = "public_draw" in draft.terms
            found.setdefault(draft.campaign, Figures()).is_drawn = is_drawn
        for change in changes:
            one = found[change.campaign]
            one.take(change)
            _check(one, change.campaign, trial)
    return found


def _check(one: Figures, campaign: str, trial: TrialBalance) -> None:
    """All money that was funded is somewhere, once; and nobody counts without having been drawn."""
    parts = ("pot", "purses", "held", "spent", "reclaimed", "rolled")
    assert one["funded_minor"] == sum(one[f"{part}_minor"] for part in parts)
    pot = sum(
        trial.balance(campaign_account(UUID(campaign)), currency) for currency in ("CNY", "USD")
    )
    assert one["pot_minor"] == pot
    if one.is_drawn:
        assert one["withdrawn"] + one["found_void"] + one["seats"] <= one["registered"]
        assert one["claimed"] <= one["seats"] <= one["winners"] + one["moved_up"]
