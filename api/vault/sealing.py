"""Sealing: a particular in, unreadable text out, and back with the person's key and no other.

AES-256-GCM, bound to book, stream, person and field, so that a sealed text says nothing in another
place. The nonce is made of what is sealed and of the request, under a key of its own: a retry gives
the same text, and nothing else does. All texts of a field's usual length are equally long.
"""

from __future__ import annotations

import hmac
from binascii import Error
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from api.macs import from_base64url, to_base64url
from campaigns.persons.person import person_id

NONCE_BYTES: Final = 12
BLOCK_BYTES: Final = 64
"""What is sealed is filled up to multiples of this, because a length is a particular as well."""
KEY_BYTES: Final = 32

_END: Final = b"\x80"
_PURPOSE: Final = b"tidebook particulars 1"
_NONCES: Final = b"tidebook particulars nonce 1"


class Unsealable(Exception):
    """A sealed text does not open with this key in this place."""


class Place(NamedTuple):
    """Where a sealed text belongs: nowhere else does it open."""

    book: str
    person: str
    field: str

    @property
    def bound(self) -> bytes:
        """The associated data."""
        stream = person_id(self.person).hex
        return msgspec.json.encode([_PURPOSE.decode(), self.book, stream, self.person, self.field])


def seal(key: bytes, value: str, place: Place, request: bytes) -> str:
    """Return `value` sealed for `place`; `request` is the mark of who asked with which key."""
    data = value.encode() + _END
    data += bytes(-len(data) % BLOCK_BYTES)
    told = b"\0".join((request.hex().encode(), place.bound, data))
    nonce = hmac.digest(hmac.digest(key, _NONCES, "sha256"), told, "sha256")[:NONCE_BYTES]
    return to_base64url(nonce + _cipher(key).encrypt(nonce, data, place.bound)).decode()


def unseal(key: bytes, sealed: str, place: Place) -> str:
    """Return what was sealed for `place`; raise `Unsealable` for anything else."""
    try:
        raw = from_base64url(sealed.encode())
        data = _cipher(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], place.bound)
        return data.rstrip(b"\0").removesuffix(_END).decode()
    except (InvalidTag, Error, ValueError) as error:
        raise Unsealable(f"a sealed {place.field} does not open") from error


def wrap(key: bytes, nonce: bytes, secret: bytes, bound: bytes) -> bytes:
    """Return a secret wrapped by an epoch's key for the row that `bound` names."""
    return nonce + AESGCM(key).encrypt(nonce, secret, bound)


def unwrap(key: bytes, wrapped: bytes, bound: bytes) -> bytes:
    """Return a secret that was wrapped for this row; raise `Unsealable` for anything else."""
    try:
        return AESGCM(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], bound)
    except (InvalidTag, ValueError) as error:
        raise Unsealable("a row of the vault does not open") from error


def _cipher(key: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, _PURPOSE, "sha256"))
