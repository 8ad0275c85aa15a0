"""MACs of our own tokens: who made a text, told by a key that only this service's servers have."""

from __future__ import annotations

import hashlib
from binascii import a2b_base64, b2a_base64
from typing import Final

MAC_CHARS: Final = 32
_MAC_BYTES: Final = 24
_BLOCK: Final = 64
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")


class MacKey:
    """A key of HMAC-SHA256 as in RFC 2104, with its share of both hashes worked out before.

    That halves the time of a MAC.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        block = (hashlib.sha256(secret).digest() if len(secret) > _BLOCK else secret).ljust(
            _BLOCK, b"\0"
        )
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def mac(self, signed: bytes) -> bytes:
        """Return the MAC of a text, as text: 24 bytes leave no spare bits in base64."""
        inner = self._inner.copy()
        inner.update(signed)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return to_base64url(outer.digest()[:_MAC_BYTES])


def to_base64url(data: bytes) -> bytes:
    """Return bytes as base64url without padding."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL)


def from_base64url(text: bytes) -> bytes:
    """Return what `to_base64url` wrote; raise `binascii.Error` for what it never writes."""
    return a2b_base64(text.translate(_FROM_URL) + b"==")
