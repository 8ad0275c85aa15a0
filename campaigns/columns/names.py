"""Numbers that stand for names: of people, of whose a coupon is, of a redemption, of a coupon.

They are of this process only, so that nobody can choose two names with one number; only the id of
a coupon is made as everywhere else, by its hash.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha1
from typing import Any, Final

import numpy as np

from campaigns.columns.texts import Array, words_of
from ledger.exporting.spilling import KEYS

NAME_BYTES_MAX: Final = 64
"""Longest name of a person that is read in columns."""

_CHARACTERS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz.-"
_SEEDS: Final = np.frombuffer(os.urandom(16), np.uint64)
_FACTORS: Final = np.frombuffer(os.urandom(24), np.uint64) | np.uint64(1)
_HALF: Final = np.uint64(32)
_OWNER_BITS: Final = np.uint64(2**62 - 1)
_MARK_SEED, _MARK_FACTOR = int(_SEEDS[0]), int(_FACTORS[2])
_WORD: Final = 2**64 - 1

_ALLOWED: Final = np.zeros(256, bool)
_ALLOWED[list(_CHARACTERS)] = True


def are_names(texts: Array) -> Array:
    """Return which rows of bytes are names whose accounts can be kept in columns."""
    are_allowed = _ALLOWED[texts]
    if are_allowed.all():
        return np.ones(len(texts), bool)
    return np.asarray(are_allowed.all(axis=1))


def keys_of_words(words: Array) -> Array:
    """Return a key of sixteen bytes for each row of words; equal for equal names only."""
    keys = np.empty(len(words), KEYS)
    for half, seed, factor in zip(("high", "low"), _SEEDS, _FACTORS[:2], strict=True):
        keys[half] = _mixed(words, seed, factor)
    return keys


def numbers_of_words(words: Array) -> Array:
    """Return a number of eight bytes for each row of words, surely enough of equal names only."""
    return _mixed(words, _SEEDS[1], _FACTORS[1])


def number_of(name: str) -> int:
    """Return the same number of a name by itself."""
    text = name.encode()
    if not text:
        return 0
    return int(numbers_of_words(words_of(np.array([text], f"S{len(text)}"), len(text)))[0])


def _mixed(words: Array, seed: Any, factor: Any) -> Array:
    mixed = np.full(len(words), seed)
    for column in words.T:
        mixed ^= column
        mixed *= factor
        mixed ^= mixed >> _HALF
    mixed *= factor
    mixed ^= mixed >> _HALF
    return mixed


def keys_of(names: Sequence[str]) -> Array:
    """Return the same keys of names that are at hand as strings."""
    keys = np.empty(len(names), KEYS)
    encoded = [name.encode() for name in names]
    lengths = np.array([len(name) for name in encoded], np.int64)
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        strings = np.array([encoded[row] for row in rows.tolist()], f"S{length}")
        keys[rows] = keys_of_words(words_of(strings, length))
    return keys


def mark_of(merchant: str, order: str) -> int:
    """Return a number for a redemption's merchant and order; two differ surely enough in a run."""
    names = merchant.encode(), order.encode()
    mixed = _MARK_SEED ^ len(names[0]) << 32 ^ len(names[1])
    for name in names:
        for start in range(0, len(name), 8):
            mixed = (mixed ^ int.from_bytes(name[start : start + 8], "little")) * _MARK_FACTOR
            mixed &= _WORD
            mixed ^= mixed >> 32
    return (mixed * _MARK_FACTOR & _WORD) >> 4


def marks_of(merchants: Array, orders: Array, lengths: tuple[int, int]) -> Array:
    """Return the same numbers of rows of words, of merchants and of orders of these lengths."""
    mixed = np.full(len(merchants), _MARK_SEED ^ lengths[0] << 32 ^ lengths[1], np.uint64)
    factor = np.uint64(_MARK_FACTOR)
    for column in (*merchants.T, *orders.T):
        mixed ^= column
        mixed *= factor
        mixed ^= mixed >> _HALF
    found: Array = (mixed * factor >> np.uint64(4)).astype(np.int64)
    return found


def owners_of(people: Array, campaigns: Array) -> Array:
    """Return a number, never zero, for each pair of a person's key and a campaign's key."""
    mixed = (people["high"] ^ campaigns["low"]) * _FACTORS[0]
    mixed ^= mixed >> _HALF
    mixed = (mixed ^ people["low"] ^ campaigns["high"]) * _FACTORS[1]
    mixed ^= mixed >> _HALF
    found: Array = (mixed & _OWNER_BITS | np.uint64(1)).astype(np.int64)
    return found


def coupons_of(names: Sequence[bytes]) -> Array:
    """Return the ids of coupons by what they are made of: campaign, person and ordinal."""
    hashes = b"".join([sha1(name, usedforsecurity=False).digest() for name in names])
    digests = np.frombuffer(hashes, np.uint8).reshape(len(names), 20)
    ids = digests[:, :16].copy()
    ids[:, 6] = ids[:, 6] & 0x0F | 0x50
    ids[:, 8] = ids[:, 8] & 0x3F | 0x80
    found: Array = ids.view(KEYS).reshape(len(names))
    return found
