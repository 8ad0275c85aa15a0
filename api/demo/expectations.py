"""Expectations: what the ledger must say at the end, counted straight from the tables.

This is the other half of the reconciliation, so it must not know the plan, the requests or any
answer: it counts rows. The rules that it counts by are those of the source and of a coupon: what is
held can be used once, for an order that is worth at least its face value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.demo.reconciliation import Books, MailingFigures, StoreFigures

if TYPE_CHECKING:
    import pandas as pd

_HOLDING = ["mailing", "upc", "household"]


def expected(faces: pd.DataFrame, holdings: pd.DataFrame, orders: pd.DataFrame) -> Books:
    """Return the figures that follow from the tables."""
    held = holdings.merge(faces, on=["mailing", "upc"])
    asked = outcomes(faces, orders)
    redeemed = asked[asked["outcome"] == "redeemed"]
    refused = asked[asked["outcome"] != "redeemed"]
    mailings = {
        int(mailing): _mailing(
            held[held["mailing"] == mailing],
            redeemed[redeemed["mailing"] == mailing],
            refused[refused["mailing"] == mailing],
        )
        for mailing in sorted(held["mailing"].unique())
    }
    stores = {
        int(store): StoreFigures(redeemed=len(rows), redeemed_cents=int(rows["face_cents"].sum()))
        for store, rows in redeemed.groupby("store")
    }
    return Books(mailings=mailings, stores=stores)


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


def _mailing(held: pd.DataFrame, redeemed: pd.DataFrame, refused: pd.DataFrame) -> MailingFigures:
    issued_cents = int(held["face_cents"].sum())
    redeemed_cents = int(redeemed["face_cents"].sum())
    reasons = refused["outcome"].value_counts().to_dict()
    return MailingFigures(
        issued=len(held),
        redeemed=len(redeemed),
        expired=len(held) - len(redeemed),
        held=0,
        funded_cents=issued_cents,
        redeemed_cents=redeemed_cents,
        returned_cents=issued_cents - redeemed_cents,
        held_cents=0,
        refused={str(reason): int(count) for reason, count in sorted(reasons.items())},
    )
