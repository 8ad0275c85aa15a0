"""A year that fits on a page, written as the source writes it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from api.demo.year import Year, from_source

MAKER_A, MAKER_B, OWN = 51234500076, 59876500076, 10000085361
"""Two manufacturers' coupons with the value code 76, and one of the retailer's own."""

MAILINGS = [(1, "Type B", "2017-03-10", "2017-03-31"), (8, "Type A", "2017-05-08", "2017-06-25")]
RECIPIENTS = [(1, 100), (1, 200), (8, 100)]
PRODUCTS = [(MAKER_A, 11, 1), (MAKER_A, 12, 1), (OWN, 21, 1), (MAKER_B, 31, 8)]
REDEMPTIONS = [(100, MAKER_A, 1, "2017-03-12"), (200, MAKER_A, 1, "2017-03-31")]
# household, store, basket, product, sales, coupon, match, UTC
LINES = [
    (100, 7, 901, 11, 4.00, 1.00, 0.00, "2017-03-12 17:00:00"),
    (100, 7, 901, 99, 6.00, 0.00, 0.00, "2017-03-12 17:00:00"),
    (200, 8, 902, 12, 3.00, 1.00, 0.25, "2017-04-01 03:59:59"),
]


def small_year(
    *,
    mailings: list[Any] = MAILINGS,
    recipients: list[Any] = RECIPIENTS,
    products: list[Any] = PRODUCTS,
    redemptions: list[Any] = REDEMPTIONS,
    lines: list[Any] = LINES,
) -> Year:
    """The small year, with other tables where a test gives them."""
    return from_source(
        {
            "campaign_descriptions": _dated(
                mailings, "campaign_id", "campaign_type", "start_date", "end_date"
            ),
            "campaigns": pd.DataFrame(recipients, columns=["campaign_id", "household_id"]),
            "coupons": pd.DataFrame(products, columns=["coupon_upc", "product_id", "campaign_id"]),
            "coupon_redemptions": _dated(
                redemptions, "household_id", "coupon_upc", "campaign_id", "redemption_date"
            ),
            "transactions": _dated(
                lines,
                "household_id",
                "store_id",
                "basket_id",
                "product_id",
                "sales_value",
                "coupon_disc",
                "coupon_match_disc",
                "transaction_timestamp",
            ),
        }
    )


def _dated(rows: list[Any], *columns: str) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(columns))
    for column in columns:
        if column.endswith(("_date", "_timestamp")):
            table[column] = pd.to_datetime(table[column]).astype("datetime64[ns]")
    return table
