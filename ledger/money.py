"""Money: whole minor units with a currency.

No float ever becomes money here, and no amount leaves this module without its currency.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec

MINOR_MAX: Final = 10**15
"""Largest amount, in minor units: ten trillion yuan; sums stay far inside 64 bits."""

_CURRENCY: Final = re.compile(r"[A-Z]{3}")


class MoneyError(ValueError):
    """An amount or currency breaks a rule of money."""


class UnitMismatch(MoneyError):
    """Two amounts of different currencies met."""


class Money(msgspec.Struct, frozen=True, order=True):
    """An amount in integer minor units (fen, cents) of one ISO 4217 currency.

    Raises `MoneyError` on anything but a whole number of units within ±`MINOR_MAX` and three
    capital letters of currency.
    """

    amount_minor: int
    currency: str

    def __post_init__(self) -> None:
        check_minor(self.amount_minor)
        check_currency(self.currency)

    def __add__(self, other: Money) -> Money:
        return Money(self.amount_minor + self._same_unit(other), self.currency)

    def __sub__(self, other: Money) -> Money:
        return Money(self.amount_minor - self._same_unit(other), self.currency)

    def __str__(self) -> str:
        return f"{self.amount_minor} minor {self.currency}"

    def _same_unit(self, other: Money) -> int:
        if other.currency != self.currency:
            raise UnitMismatch(f"{other.currency} met {self.currency}")
        return other.amount_minor


def check_minor(value: int) -> int:
    """Return `value`, a whole number of minor units in range, or raise `MoneyError`."""
    if type(value) is not int:
        raise MoneyError(f"an amount is a whole number of minor units, not {type(value).__name__}")
    if not -MINOR_MAX <= value <= MINOR_MAX:
        raise MoneyError(f"an amount lies within ±{MINOR_MAX} minor units")
    return value


@lru_cache(maxsize=256)
def check_currency(code: str) -> str:
    """Return `code` when it has the form of an ISO 4217 code; raise `MoneyError` if not."""
    if not _CURRENCY.fullmatch(code):
        raise MoneyError("a currency is three capital letters of ISO 4217")
    return code


_DIGITS: Final = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"), 0),
    **dict.fromkeys(("RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}
"""Currencies of ISO 4217 whose minor unit is not a hundredth."""


def minor_digits(currency: str) -> int:
    """Return how many digits after the point the major unit of a currency has."""
    return _DIGITS.get(currency, 2)


def in_major_units(amount_minor: int, currency: str, separator: str = "") -> str:
    """Return an amount as people write it: `-1,234.50` for -123450 CNY with a comma between."""
    digits = minor_digits(currency)
    whole, rest = divmod(abs(amount_minor), 10**digits)
    sign = "-" if amount_minor < 0 else ""
    text = f"{whole:,}".replace(",", separator)
    return f"{sign}{text}.{rest:0{digits}}" if digits else f"{sign}{text}"
