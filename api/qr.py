"""Receipts as QR codes: the whole receipt where it fits, else where it is to be had.

A code holds the packed receipt (`ledger.transparency.packing`), at whatever version up to 40 it
needs. What does not fit is named instead: the address that gives the receipt, and behind `#leaf=`
the hash of the event's leaf, so that no other event can be given in its place. Nothing is lost
either way but that the second kind of code needs a network.
"""

from __future__ import annotations

import io
from typing import Any, Final, NamedTuple

import segno

from ledger.transparency.packing import pack
from ledger.transparency.texts import to_base64

ALPHANUMERIC_MAX: Final = 4_296
"""Characters that version 40 holds at the lowest level of error correction."""

BORDER: Final = 4
"""Quiet modules around a code: what the standard asks for."""


class DoesNotFit(Exception):
    """A receipt is too long for a QR code, and there is no address to name instead."""


class Coded(NamedTuple):
    """A QR code, the text that it holds, and whether that is the whole receipt."""

    code: Any
    text: str
    whole: bool

    def svg(self) -> bytes:
        """Return the code as an SVG document."""
        out = io.BytesIO()
        self.code.save(out, kind="svg", scale=4, border=BORDER, xmldecl=False)
        return out.getvalue()

    def png(self) -> bytes:
        """Return the code as a PNG image."""
        out = io.BytesIO()
        self.code.save(out, kind="png", scale=6, border=BORDER)
        return out.getvalue()

    def terminal(self) -> str:
        """Return the code in half blocks, for a terminal."""
        out = io.StringIO()
        self.code.terminal(out, border=BORDER, compact=True)
        return out.getvalue()


def coded(data: bytes, leaf: bytes | None = None, address: str | None = None) -> Coded:
    """Return the code of a receipt; raise `DoesNotFit`, or `Malformed` for what is no receipt.

    `address` is where the receipt is to be had, for one that does not fit.
    """
    text = pack(data)
    if len(text) <= ALPHANUMERIC_MAX:
        return Coded(segno.make(text, error="l", micro=False), text, whole=True)
    if address is None or leaf is None:
        raise DoesNotFit(
            f"the receipt takes {len(text):,} characters, and a QR code holds {ALPHANUMERIC_MAX:,}"
        )
    text = f"{address}#leaf={to_base64(leaf)}"
    return Coded(segno.make(text, error="m", micro=False), text, whole=False)
