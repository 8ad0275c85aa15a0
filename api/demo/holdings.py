"""Holdings: which household holds which coupon.

Mailings of Type B and C sent every coupon to every recipient. A mailing of Type A has a pool of
about 200 coupons of which the retailer sent each recipient 16, chosen by what the household bought;
the source does not say which. Those redeemed were surely among them; the rest is drawn from the
pool by a fixed hash, so that every run draws alike.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from api.demo.year import Year

POOLED: Final = "Type A"
POOLED_SHARE: Final = 16
"""Coupons that a recipient of a Type A mailing gets. No household redeemed more of one."""


def holdings(year: Year) -> pd.DataFrame:
    """Every held coupon: mailing, upc, household, in a fixed order."""
    everything = year.recipients.merge(year.offers(), on="mailing").merge(
        year.mailings[["mailing", "kind"]], on="mailing"
    )
    pooled = everything["kind"] == POOLED
    chosen = everything[~pooled].index.union(_drawn(everything[pooled], year.redemptions))
    held = everything.loc[chosen, ["mailing", "upc", "household"]]
    return held.sort_values(["mailing", "upc", "household"], ignore_index=True)


def chosen_households(year: Year, count: int) -> list[int]:
    """Return a small sample that shows everything, the same on every run.

    In turn a household that redeemed a coupon twice, one that redeemed some and one that redeemed
    none, each kind in the order of a fixed hash.
    """
    holding = ["mailing", "upc", "household"]
    twice = set(year.redemptions[year.redemptions.duplicated(holding)]["household"])
    some = set(year.redemptions["household"]) - twice
    none = set(year.recipients["household"]) - some - twice
    kinds = [_in_hash_order(kind) for kind in (twice, some, none)]
    turns = max((len(kind) for kind in kinds), default=0)
    ordered = [kind[turn] for turn in range(turns) for kind in kinds if turn < len(kind)]
    return ordered[:count]


def _drawn(pool: pd.DataFrame, redemptions: pd.DataFrame) -> pd.Index:
    """The rows of the pool that were sent: those redeemed, then by lot up to the share."""
    marks = redemptions[["mailing", "upc", "household"]].drop_duplicates().assign(redeemed=True)
    marked = pool.merge(marks, how="left", on=["mailing", "upc", "household"]).set_axis(pool.index)
    marked["redeemed"] = marked["redeemed"].eq(True)  # an absent mark is not True
    marked["lot"] = [
        _lot(f"{mailing}:{upc}:{household}")
        for mailing, upc, household in zip(
            marked["mailing"], marked["upc"], marked["household"], strict=True
        )
    ]
    marked = marked.sort_values(["redeemed", "lot"], ascending=[False, True])
    rank = marked.groupby(["mailing", "household"]).cumcount()
    return marked.index[(rank < POOLED_SHARE) | marked["redeemed"]]


def _in_hash_order(households: set[int]) -> Sequence[int]:
    return sorted((int(one) for one in households), key=lambda one: _lot(f"household:{one}"))


def _lot(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1
