"""Face values: what each coupon takes off, which the source does not list.

It is read from the tills: the discount on the lines that redeemed the coupon. A line may carry a
second coupon, so few sightings prove little; a manufacturer's coupon is then worth what other
coupons with the same value code were worth. The last resort is the mailing's most frequent value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pandas as pd

    from api.demo.year import Year

ENOUGH: Final = 3
"""Sightings that are believed before any general rule."""

SOURCES: Final = ("till", "value code", "few sightings", "mailing", "year")
"""Where a face value comes from, the first that has one."""


def faces(year: Year) -> pd.DataFrame:
    """Every offer with its face value: mailing, upc, face_cents, source."""
    seen = sightings(year)
    offers = year.offers()
    offers["code"] = value_codes(offers["upc"])
    own, code = _most_frequent(seen, ["upc"]), _most_frequent(seen, ["code"])
    offers = offers.merge(own.add_prefix("own_"), how="left", left_on="upc", right_index=True)
    offers = offers.merge(code.add_prefix("code_"), how="left", left_on="code", right_index=True)
    offers["face_cents"] = float("nan")
    offers["source"] = ""
    _fill(offers, offers["own_cents"].where(offers["own_count"] >= ENOUGH), "till")
    _fill(offers, offers["code_cents"].where(offers["code_count"] >= ENOUGH), "value code")
    _fill(offers, offers["own_cents"].fillna(offers["code_cents"]), "few sightings")
    _fill(offers, offers.groupby("mailing")["face_cents"].transform(_mode), "mailing")
    _fill(offers, offers["face_cents"].mode().reindex([0] * len(offers)), "year")
    if offers["face_cents"].isna().any():
        raise ValueError("no till saw any coupon, so no coupon has a value")
    offers["face_cents"] = offers["face_cents"].astype("int64")
    return offers[["mailing", "upc", "face_cents", "source"]]


def sightings(year: Year) -> pd.DataFrame:
    """Lines on which a redeemed coupon's discount was booked: upc, code, cents."""
    redeemed = year.redemptions.merge(year.products, on=["mailing", "upc"])
    lines = year.lines[year.lines["coupon_cents"] > 0]
    seen = redeemed.merge(lines, on=["household", "product", "day"])
    seen = seen[["upc", "coupon_cents"]].rename(columns={"coupon_cents": "cents"})
    seen["code"] = value_codes(seen["upc"])
    return seen


def value_codes(upcs: pd.Series[int]) -> pd.Series[str]:
    """The value code that a manufacturer's coupon prints; none for the retailer's own coupons.

    A UPC coupon is 5, five digits of the manufacturer, three of the product family, two of the
    value; its check digit is not in the source.
    """
    text = upcs.astype("string")
    return text.str[9:].where((text.str.len() == 11) & text.str.startswith("5"))


def _most_frequent(seen: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The most frequent discount and the number of sightings of each group."""
    return seen.groupby(by[0])["cents"].agg(cents=_mode, count="count")


def _mode(values: pd.Series[float]) -> float:
    """The most frequent value, the smallest among equals; not a number when there is none."""
    modes = values.mode()
    return float(modes.iloc[0]) if len(modes) else float("nan")


def _fill(offers: pd.DataFrame, values: pd.Series[float], source: str) -> None:
    """Give the offers without a face value the one proposed here, if there is one."""
    values = values.set_axis(offers.index)
    fresh = offers["face_cents"].isna() & values.notna()
    offers.loc[fresh, "face_cents"] = values[fresh]
    offers.loc[fresh, "source"] = source
