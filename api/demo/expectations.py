"""Expectations: what the ledger must say at the end, counted straight from the tables.

This is the other half of the reconciliation, so it must not know the plan, the requests or any
answer: it counts rows. The rules that it counts by are those of the source and of a coupon: what is
held can be used once, for an order that is worth at least its face value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.demo.reconciliation import Books, Figures, StoreFigures

if TYPE_CHECKING:
    import pandas as pd

_OFFER = ["mailing", "upc"]
_HOLDING = [*_OFFER, "household"]


def expected(faces: pd.DataFrame, holdings: pd.DataFrame, orders: pd.DataFrame) -> Books:
    """Return the figures that follow from the tables."""
    asked = outcomes(faces, orders)
    redeemed = asked[asked["outcome"] == "redeemed"]
    refused = asked[asked["outcome"] != "redeemed"]
    offers = faces.merge(_count(holdings, "issued"), on=_OFFER)
    offers = offers.merge(_count(redeemed, "redeemed"), how="left", on=_OFFER)
    offers["redeemed"] = offers["redeemed"].fillna(0)
    reasons = refused.groupby([*_OFFER, "outcome"]).size()
    return Books(
        offers={
            (int(row.mailing), int(row.upc)): _figures(
                issued=int(row.issued),
                redeemed=int(row.redeemed),
                face_cents=int(row.face_cents),
                refused={
                    str(reason): int(count)
                    for (mailing, upc, reason), count in reasons.items()
                    if (mailing, upc) == (row.mailing, row.upc)
                },
            )
            for row in offers.itertuples()
        },
        stores={
            int(store): StoreFigures(len(rows), int(rows["face_cents"].sum()))
            for store, rows in redeemed.groupby("store")
        },
    )


def outcomes(faces: pd.DataFrame, orders: pd.DataFrame) -> pd.DataFrame:
    """Every redemption with its face value and outcome: redeemed, or why it is refused."""
    asked = orders.merge(faces, on=["mailing", "upc"]).sort_values(
        ["at", "redemption"], ignore_index=True
    )
    usable = asked["total_cents"] >= asked["face_cents"]
    uses_before = usable.groupby([asked[column] for column in _HOLDING]).cumsum() - usable
    asked["outcome"] = "redeemed"
    asked.loc[~usable, "outcome"] = "below_threshold"
    asked.loc[uses_before > 0, "outcome"] = "already_redeemed"
    asked.loc[asked["total_cents"] < 1, "outcome"] = "invalid_body"
    return asked


def _count(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    return rows.groupby(_OFFER, as_index=False).size().rename(columns={"size": name})


def _figures(*, issued: int, redeemed: int, face_cents: int, refused: dict[str, int]) -> Figures:
    expired = issued - redeemed
    return Figures(
        issued=issued,
        redeemed=redeemed,
        expired=expired,
        funded_cents=issued * face_cents,
        redeemed_cents=redeemed * face_cents,
        returned_cents=expired * face_cents,
        refused=refused,
    )
