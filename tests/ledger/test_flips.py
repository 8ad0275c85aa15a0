"""Of an entry in which one byte was changed, the leaf tells which one; of two bytes it does not."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.merkle import leaf_hash
from ledger.transparency.flips import ENTRY_BYTES_MAX, find_flip, is_one_byte
from ledger.transparency.leaves import encode_entry

STREAM = UUID("0f8fad5b-d9cb-5c1a-8a5f-3b1c2d3e4f50")
STATE = '{"at":"2026","by":{"role":"商户","id":"7"},"order":"17","tags":["a,b"],"n":1}'.encode()
ENTRY = encode_entry("main", 4711, STREAM, 3, "coupon.redeemed", STATE)


@settings(max_examples=30, deadline=None)
@given(at=st.integers(0, len(ENTRY) - 1), mask=st.integers(1, 255))
def test_every_byte_is_found(at: int, mask: int) -> None:
    """Whichever it is and whatever it became; what was signed is what was hashed."""
    changed = ENTRY[:at] + bytes([ENTRY[at] ^ mask]) + ENTRY[at + 1 :]
    found = find_flip(changed, leaf_hash(ENTRY))
    assert found is not None
    assert found.signed != found.stored


@pytest.mark.parametrize(
    ("old", "new", "field", "signed", "stored"),
    [
        (b'"17"', b'"18"', "state.order", '"order":"17"', '"order":"18"'),
        (b'"7"', b'"9"', "state.by.id", '"id":"7"', '"id":"9"'),
        ("商".encode(), "啇".encode(), "state.by.role", '"role":"商户"', '"role":"啇户"'),
        (b"a,b", b"a.b", "state.tags", '"tags":["a,b"]', '"tags":["a.b"]'),
        (b'"n":1}', b'"n":1]', "state", STATE.decode(), STATE.decode()[:-1] + "]"),
        (b"coupon.re", b"coupon-re", "topic", "coupon.redeemed", "coupon-redeemed"),
        (b"\0\0\0\x03", b"\0\0\0\x04", "version", "00000003", "00000004"),
        (STREAM.bytes, b"\x0e" + STREAM.bytes[1:], "stream", STREAM.hex, "0e" + STREAM.hex[2:]),
        ((4711).to_bytes(8), (4712).to_bytes(8), "position", f"{4711:016x}", f"{4712:016x}"),
    ],
)
def test_the_field_is_named(old: bytes, new: bytes, field: str, signed: str, stored: str) -> None:
    """The innermost one that holds the byte, with what was signed and what is stored."""
    assert ENTRY.count(old) == 1
    found = find_flip(ENTRY.replace(old, new), leaf_hash(ENTRY))
    assert found == (field, signed, stored)


def test_what_is_no_single_byte_is_not_guessed() -> None:
    """Two bytes, none at all behind the bound, and a hash that no event's change leads to."""
    assert find_flip(ENTRY.replace(b'"17"', b'"28"'), leaf_hash(ENTRY)) is None
    long = encode_entry("main", 1, STREAM, 1, "thing.done", b"x" * ENTRY_BYTES_MAX)
    assert find_flip(long[:-1] + b"y", leaf_hash(long)) is None
    one = leaf_hash(ENTRY)
    assert is_one_byte(one, bytes([one[0] ^ 8]) + one[1:])
    assert not is_one_byte(one, one)
    assert not is_one_byte(one, leaf_hash(ENTRY + b" "))
    assert not is_one_byte(one, b"")
