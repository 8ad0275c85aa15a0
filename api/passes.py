"""Passes: whose turn has come in a waiting room may claim for a moment, and says so by a pass.

A pass names a campaign, a person and its end, under a MAC with a key that only this service's
servers have, so that checking it asks nobody. It grants nothing: whoever shows one still has to be
granted a coupon by the book's writer.
"""

from __future__ import annotations

import hmac
from binascii import Error
from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple
from uuid import UUID

from api.macs import MAC_CHARS, MacKey, from_base64url, to_base64url

_PREFIX: Final = b"tbp1."
_CONTENT: Final = Struct(">I16s16s")
"""End in seconds since 1970, campaign, person."""
_CONTENT_CHARS: Final = 48
_LENGTH: Final = len(_PREFIX) + _CONTENT_CHARS + 1 + MAC_CHARS
_PURPOSE: Final = b"tidebook waiting room pass"


class Pass(NamedTuple):
    """A pass and its end in seconds since 1970."""

    token: str
    ends_at: int


class Passes:
    """Makes passes with the first key and knows those of all keys."""

    def __init__(
        self, secrets: tuple[bytes, ...], lifetime_s: int, now: Callable[[], float]
    ) -> None:
        self._keys = [MacKey(hmac.digest(secret, _PURPOSE, "sha256")) for secret in secrets]
        self._lifetime_s = lifetime_s
        self._now = now

    def issue(self, campaign: UUID, person: str) -> Pass:
        """Return a pass for a person whose turn it is."""
        ends_at = int(self._now()) + self._lifetime_s
        content = _CONTENT.pack(ends_at, campaign.bytes, bytes.fromhex(person))
        signed = _PREFIX + to_base64url(content) + b"."
        return Pass((signed + self._keys[0].mac(signed)).decode(), ends_at)

    def admits(self, shown: bytes | None, campaign: UUID, person: str) -> bool:
        """Whether what was shown is a pass of this person for this campaign, not yet ended."""
        if shown is None or len(shown) != _LENGTH or not shown.startswith(_PREFIX):
            return False
        signed, mac = shown[:-MAC_CHARS], shown[-MAC_CHARS:]
        if not any(hmac.compare_digest(key.mac(signed), mac) for key in self._keys):
            return False
        try:
            content = from_base64url(signed[len(_PREFIX) : -1])
        except Error:  # nobody signs such a thing
            return False
        ends_at, for_campaign, for_person = _CONTENT.unpack(content)
        return bool(
            self._now() < ends_at
            and for_campaign == campaign.bytes
            and for_person == bytes.fromhex(person)
        )
