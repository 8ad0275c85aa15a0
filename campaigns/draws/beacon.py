"""The public beacon's values: read strictly, compared, believed only when all sources agree.

A value is what a drand node answers for a round. What can be checked is checked: that it is the
round that was announced, that its time has come, that the randomness is the hash of the signature.
The signature itself is a matter of elliptic curves and is not checked here (docs/draws.md says what
that leaves open). A value that is late, missing or doubled means that the draw waits: nothing here
makes a value up, and nothing may.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec

from campaigns.draws.terms import Chain

SIGNATURE_BYTES: Final = (32, 512)
"""Shortest and longest signature; drand's have 48 or 96 bytes."""

_HEX: Final = re.compile(r"([0-9a-f]{2})+")


class Beacon(NamedTuple):
    """The value of one round."""

    round: int
    signature: bytes

    @property
    def randomness(self) -> bytes:
        """The random bytes: the hash of the signature, as drand defines them."""
        return sha256(self.signature).digest()


class MalformedBeacon(ValueError):
    """This is no value of a beacon."""


class BeaconDoubled(Exception):
    """Two sources have two values for one round: then nobody knows which one is public."""

    def __init__(self, number: int) -> None:
        super().__init__(f"there are two values for round {number} of the beacon: the draw waits")
        self.round = number


def parse_beacon(document: bytes) -> Beacon:
    """Return the value that a drand node's JSON tells; raise `MalformedBeacon`.

    Other members are left alone: nodes add some.
    """
    try:
        told: Any = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBeacon("this is no JSON") from error
    if not isinstance(told, dict):
        raise MalformedBeacon("this is no JSON object")
    number, signature, randomness = (
        told.get(name) for name in ("round", "signature", "randomness")
    )
    if type(number) is not int or not 0 < number < 2**63:
        raise MalformedBeacon("there is no round")
    beacon = Beacon(number, _bytes_of(signature))
    if randomness is not None and randomness != beacon.randomness.hex():
        raise MalformedBeacon("the randomness is not the hash of the signature")
    return beacon


def parse_recorded(document: bytes) -> list[Beacon]:
    """Return the values of a file: one JSON object a line, as nodes answer them."""
    return [parse_beacon(line) for line in document.splitlines() if line.strip()]


def agreed(values: Iterable[Beacon], number: int) -> Beacon | None:
    """Return the one value of a round; None when there is none yet.

    Raises `BeaconDoubled` where there are two.
    """
    found = {value for value in values if value.round == number}
    if len(found) > 1:
        raise BeaconDoubled(number)
    return found.pop() if found else None


def is_due(chain: Chain, number: int, now: datetime) -> bool:
    """Whether a round's time has come: nobody honest knows its value before."""
    return now >= chain.time_of(number)


def _bytes_of(text: object) -> bytes:
    least, most = SIGNATURE_BYTES
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise MalformedBeacon("there is no signature in hex")
    value = bytes.fromhex(text)
    if not least <= len(value) <= most:
        raise MalformedBeacon(f"a signature has {least} to {most} bytes")
    return value
