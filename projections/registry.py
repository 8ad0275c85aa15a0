"""Every read model of this version."""

from __future__ import annotations

from typing import Final

from projections.campaign_figures import CAMPAIGN_FIGURES
from projections.erasures import ERASURES
from projections.groups import GROUPS
from projections.journal import JOURNAL
from projections.merchant_balances import MERCHANT_BALANCES
from projections.packets import PACKETS
from projections.projection import Projection
from projections.wallets import WALLETS

PROJECTIONS: Final[tuple[Projection, ...]] = (
    WALLETS,
    CAMPAIGN_FIGURES,
    MERCHANT_BALANCES,
    PACKETS,
    GROUPS,
    ERASURES,
    JOURNAL,
)


def projection(name: str) -> Projection:
    """Return the read model of a name; raise `KeyError`."""
    return {one.name: one for one in PROJECTIONS}[name]
