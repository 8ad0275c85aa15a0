"""Orders: the basket that each redemption belongs to, and so its store, second and total.

The source gives a redemption's day only. The household's baskets of that day are ranked by how
surely they are the one; every redemption has at least one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

    from api.demo.year import Year

MATCHES: Final = ("discounted product", "product", "discount", "first basket")
"""How a basket was recognised, the surest first: a product of the coupon on a line with a coupon's
discount; a product of the coupon; a coupon's discount on something; the first basket of the day."""


def orders(year: Year) -> pd.DataFrame:
    """Every redemption with its order, in the order of time.

    redemption, mailing, upc, household, day, at, store, basket, total_cents, match.
    """
    candidates = year.redemptions.merge(baskets(year), on=["household", "day"], how="left")
    orphans = candidates[candidates["basket"].isna()]
    if len(orphans):
        raise ValueError(f"{len(orphans)} redemptions have no basket of their household and day")
    candidates = candidates.merge(_product_baskets(year), how="left", on=["redemption", "basket"])
    candidates["match"] = _match(candidates)
    # A basket that came to nothing was a receipt without goods; any other is likelier.
    candidates["empty"] = candidates["total_cents"] <= 0
    best = candidates.sort_values(["redemption", "match", "empty", "at", "basket"])
    best = best.drop_duplicates("redemption")
    best["match"] = best["match"].map(dict(enumerate(MATCHES)))
    columns = ["store", "basket"]
    best[columns] = best[columns].astype("int64")
    best["total_cents"] = best["total_cents"].astype("int64")
    best = best.drop(columns=["coupon_cents", "line_cents", "empty"])
    return best.sort_values(["at", "redemption"], ignore_index=True)


def baskets(year: Year) -> pd.DataFrame:
    """Every basket: basket, household, store, at, day, total_cents, coupon_cents."""
    return year.lines.groupby("basket", as_index=False).agg(
        household=("household", "first"),
        store=("store", "first"),
        at=("at", "first"),
        day=("day", "first"),
        total_cents=("net_cents", "sum"),
        coupon_cents=("coupon_cents", "sum"),
    )


def _product_baskets(year: Year) -> pd.DataFrame:
    """Baskets of a redemption's day with a product of its coupon: redemption, basket, line_cents.

    `line_cents` is the highest coupon discount on a line with such a product.
    """
    products = year.redemptions.merge(year.products, on=["mailing", "upc"])
    lines = products.merge(year.lines, on=["household", "product", "day"])
    highest = lines.groupby(["redemption", "basket"], as_index=False)["coupon_cents"].max()
    return highest.rename(columns={"coupon_cents": "line_cents"})


def _match(candidates: pd.DataFrame) -> pd.Series[int]:
    """The place in `MATCHES` of each candidate."""
    match = candidates["coupon_cents"].gt(0).map({True: 2, False: 3})
    match = match.mask(candidates["line_cents"].notna(), 1)
    return match.mask(candidates["line_cents"].gt(0), 0)
