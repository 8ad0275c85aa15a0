"""What the text formats of logs share: strict numbers, strict base64, and the one error.

There is exactly one way to write each value, and only that one is read.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from ledger.merkle import HASH_BYTES, SIZE_MAX

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class Malformed(ValueError):
    """Bytes are not of the format that they claim to be."""


def parse_number(text: str) -> int:
    """Return a number written in decimal without leading zeroes, at most 2^63 - 1."""
    if not _NUMBER.fullmatch(text) or int(text) > SIZE_MAX:
        raise Malformed(f"not a number: {text[:40]!r}")
    return int(text)


def to_base64(data: bytes) -> str:
    """Return bytes in the standard base64, with padding."""
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """Return the bytes of a base64 text, when it is the one that `to_base64` writes."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Malformed(f"not base64: {text[:40]!r}") from None
    if to_base64(data) != text:
        raise Malformed(f"not the base64 of its bytes: {text[:40]!r}")
    return data


def hash_from_base64(text: str) -> bytes:
    """Return the hash that a base64 text stands for."""
    data = from_base64(text)
    if len(data) != HASH_BYTES:
        raise Malformed(f"a hash has {HASH_BYTES} bytes, not {len(data)}")
    return data
