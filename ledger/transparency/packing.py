"""Packing: a receipt or a signed statement as a short text, for a QR code.

The bytes behind base64 are written raw, all of it is deflated, and the result is base45 (RFC 9285),
whose characters a QR code writes in five and a half bits each. Unpacking gives the same file again,
byte for byte. Nothing is believed by it.

    kind        1 a proof, 2 a signed note
    of a proof  the extra data behind its length, the index, how many hashes, the hashes
    the note    its text behind its length, how many signatures, and of each name and data

Numbers are written with seven bits in a byte, the lowest first. The text begins with `TBR1:`.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

from ledger.merkle import HASH_BYTES
from ledger.transparency.notes import SIGNATURES_MAX, Note, Signature, parse_note
from ledger.transparency.proofs import HASHES_MAX, HEADER, Proof, parse_proof
from ledger.transparency.texts import Malformed

PREFIX: Final = "TBR1:"
FILE_BYTES_MAX: Final = 2 << 20
"""What a text may unpack to."""

_PROOF: Final = 1
_NOTE: Final = 2
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
_WRITTEN: Final = re.compile(r"[0-9A-Z $%*+\-./:]*")


def pack(data: bytes) -> str:
    """Return the text that stands for a receipt or a signed note; raise `Malformed`."""
    if data.startswith(HEADER.encode()):
        proof = parse_proof(data)
        hashes = b"".join(proof.hashes)
        head = bytes([_PROOF]) + _part(proof.extra or b"") + _number(proof.number)
        body = head + _number(len(proof.hashes)) + hashes + _packed_note(proof.checkpoint)
    else:
        body = bytes([_NOTE]) + _packed_note(parse_note(data))
    text = PREFIX + to_base45(zlib.compress(body, 9))
    if unpack(text) != data:
        raise Malformed("this file is not written in its one form")
    return text


def unpack(text: str) -> bytes:
    """Return the file that a text stands for; raise `Malformed`."""
    try:
        return _unpacked(_Reader(_inflated(from_base45(text.removeprefix(PREFIX)))))
    except (IndexError, UnicodeDecodeError) as error:
        raise Malformed(f"not a packed receipt: {error}") from None


def is_packed(data: bytes) -> bool:
    """Whether bytes claim to be such a text."""
    return data.startswith(PREFIX.encode())


def file_of(data: bytes) -> bytes:
    """Return a receipt's file, from the file itself or from the text of its QR code."""
    if not is_packed(data):
        return data
    try:
        return unpack(data.decode("ascii").rstrip("\r\n"))
    except UnicodeDecodeError:
        raise Malformed("the text of a QR code is ASCII") from None


def to_base45(data: bytes) -> str:
    """Return bytes in base45."""
    found = []
    for at in range(0, len(data), 2):
        part = data[at : at + 2]
        value = int.from_bytes(part)
        for _ in range(len(part) + 1):
            value, digit = divmod(value, 45)
            found.append(_ALPHABET[digit])
    return "".join(found)


def from_base45(text: str) -> bytes:
    """Return the bytes of base45; raise `Malformed`."""
    if not _WRITTEN.fullmatch(text) or len(text) % 3 == 1:
        raise Malformed("not base45")
    found = bytearray()
    for at in range(0, len(text), 3):
        part = text[at : at + 3]
        value = sum(_ALPHABET.index(c) * 45**place for place, c in enumerate(part))
        if value >= 256 ** (len(part) - 1):
            raise Malformed("not base45")
        found += value.to_bytes(len(part) - 1)
    return bytes(found)


def _packed_note(note: Note) -> bytes:
    signatures = [
        _part(one.name.encode()) + _part(one.key_id + one.data) for one in note.signatures
    ]
    return _part(note.text.encode()) + _number(len(signatures)) + b"".join(signatures)


def _part(data: bytes) -> bytes:
    return _number(len(data)) + data


def _number(value: int) -> bytes:
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _inflated(data: bytes) -> bytes:
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(data, FILE_BYTES_MAX)
    except zlib.error as error:
        raise Malformed(f"the packed bytes are damaged: {error}") from None
    if not inflate.eof or inflate.unused_data:
        raise Malformed("the packed bytes are not whole")
    return found


def _unpacked(reader: _Reader) -> bytes:
    kind = reader.number()
    if kind == _NOTE:
        return _finished(reader, reader.note().encode())
    if kind != _PROOF:
        raise Malformed("a packed file of another kind")
    extra, number = reader.part(), reader.number()
    count = reader.number()
    if count > HASHES_MAX:
        raise Malformed(f"a proof has at most {HASHES_MAX} hashes")
    hashes = tuple(reader.take(HASH_BYTES) for _ in range(count))
    return _finished(reader, Proof(number, hashes, reader.note(), extra).encode())


def _finished(reader: _Reader, data: bytes) -> bytes:
    if reader.rest:
        raise Malformed("packed bytes behind the end")
    return data


class _Reader:
    """Takes packed values from the front."""

    def __init__(self, data: bytes) -> None:
        self.rest = memoryview(data)

    def take(self, count: int) -> bytes:
        if count > len(self.rest):
            raise Malformed("packed bytes end too early")
        found, self.rest = self.rest[:count], self.rest[count:]
        return bytes(found)

    def number(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise Malformed("a packed number is too long")

    def part(self) -> bytes:
        return self.take(self.number())

    def note(self) -> Note:
        text = self.part().decode()
        count = self.number()
        if count > SIGNATURES_MAX:
            raise Malformed(f"more than {SIGNATURES_MAX} signatures")
        signatures = []
        for _ in range(count):
            name, data = self.part().decode(), self.part()
            signatures.append(Signature(name, data[:4], data[4:]))
        return Note(text, tuple(signatures))
