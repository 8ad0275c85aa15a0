"""Signed notes (C2SP signed-note): a text, and lines with the signatures of those who stand by it.

A note is read before it is believed: `parse_note` says only what is written, `verified` says who
of those who are known has signed. A signature of a known key that does not hold spoils the whole
note. Private keys never leave a `Signer`, but as the text for its key file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.merkle import SIZE_MAX
from ledger.transparency.texts import Malformed, from_base64, to_base64

ED25519: Final = 0x01
"""A key that signs notes."""
COSIGNATURE: Final = 0x04
"""A key that signs checkpoints together with the time (C2SP tlog-cosignature, v1)."""

NOTE_BYTES_MAX: Final = 1 << 20
SIGNATURES_MAX: Final = 100
"""More signatures than this are not read: each costs a verification."""

_KEY_BYTES: Final = 32
_FIELD: Final = 2**255 - 19
_ORDER_8_Y: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER_Y: Final = frozenset({0, 1, _FIELD - 1, _ORDER_8_Y, _FIELD - _ORDER_8_Y})
"""The points of Ed25519 that verify signatures of anything, by their y."""
_SIGNATURE_BYTES: Final = 64
_PREFIX: Final = "\N{EM DASH} "
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}", re.ASCII)
_TIME: Final = struct.Struct(">Q")


class Untrusted(Exception):
    """Nobody who is known has signed a note."""


class BadSignature(Exception):
    """A note carries a signature of a known key that does not hold."""


class Signature(NamedTuple):
    """A line under a note: the key's name, its id (four bytes), and what the key made."""

    name: str
    key_id: bytes
    data: bytes

    @property
    def line(self) -> str:
        """The line as it stands under a note, with its newline."""
        return f"{_PREFIX}{self.name} {to_base64(self.key_id + self.data)}\n"

    @property
    def timestamp(self) -> int:
        """The time of a cosignature, in seconds since 1970."""
        if len(self.data) != _TIME.size + _SIGNATURE_BYTES:
            raise Malformed("not a cosignature")
        return int(_TIME.unpack_from(self.data)[0])


class Note(NamedTuple):
    """A text that ends in a newline, and the signatures under it."""

    text: str
    signatures: tuple[Signature, ...] = ()

    def encode(self) -> bytes:
        """Return the note's bytes."""
        return "".join([self.text, "\n", *(one.line for one in self.signatures)]).encode()

    def signed(self, *signatures: Signature) -> Note:
        """Return the note with further signatures, which replace older ones of the same keys."""
        fresh = {(one.name, one.key_id) for one in signatures}
        kept = (one for one in self.signatures if (one.name, one.key_id) not in fresh)
        return Note(self.text, (*kept, *signatures))


def is_name(name: str) -> bool:
    """Whether a key may have this name: something, without spaces, plus signs or controls."""
    return bool(name) and not any(c.isspace() or c == "+" or c < " " for c in name)


def key_id(name: str, kind: int, public: bytes) -> bytes:
    """Return the four bytes that tell a key of a name from others."""
    return sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


class Verifier(NamedTuple):
    """A public key with its name and kind: who it is that is trusted."""

    name: str
    kind: int
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Read a verifier key (vkey); raise `Malformed`."""
        parts = text.split("+", 2)
        if len(parts) != 3 or not is_name(parts[0]) or not _KEY_ID.fullmatch(parts[1]):
            raise Malformed("a verifier key is a name, a key id and a key, with + between them")
        kind, public = _typed_key(parts[2])
        if _is_weak(public):
            raise Malformed("a key that would verify anything, or not in its one form")
        found = cls(parts[0], kind, public)
        if found.key_id.hex() != parts[1]:
            raise Malformed("the key id is not that of name and key")
        return found

    @property
    def key_id(self) -> bytes:
        """The four bytes that its signatures begin with."""
        return key_id(self.name, self.kind, self.public)

    def __str__(self) -> str:
        encoded = to_base64(bytes([self.kind]) + self.public)
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def verifies(self, text: str, data: bytes) -> bool:
        """Say whether `data` is what this key makes of a text."""
        message = text.encode()
        if self.kind == COSIGNATURE:
            if len(data) != _TIME.size + _SIGNATURE_BYTES:
                return False
            (seconds,) = _TIME.unpack_from(data)
            if not 0 < seconds <= SIZE_MAX:
                return False
            message, data = _cosigned(text, seconds), data[_TIME.size :]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(data, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer:
    """A private key with its name and kind."""

    def __init__(self, name: str, kind: int, seed: bytes) -> None:
        if not is_name(name):
            raise Malformed(f"no name for a key: {name[:40]!r}")
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, kind, self._key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Signer({self.verifier})"

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Read a signer key (skey); raise `Malformed`, which never quotes it."""
        parts = text.split("+", 4)
        if parts[:2] != ["PRIVATE", "KEY"] or len(parts) != 5 or not is_name(parts[2]):
            raise Malformed("a signer key is PRIVATE+KEY+, a name, a key id and a key")
        try:
            kind, seed = _typed_key(parts[4])
        except Malformed:
            raise Malformed("the key of a signer key is not one") from None
        found = cls(parts[2], kind, seed)
        if found.verifier.key_id.hex() != parts[3]:
            raise Malformed("the key id is not that of name and key")
        return found

    def secret_text(self) -> str:
        """Return the signer key (skey), for its key file only."""
        key = self.verifier
        return (
            f"PRIVATE+KEY+{key.name}+{key.key_id.hex()}+{to_base64(bytes([key.kind]) + self._seed)}"
        )

    def sign(self, text: str) -> Signature:
        """Return this key's signature under a note with this text."""
        assert self.verifier.kind == ED25519, "this key signs together with the time"
        return Signature(self.verifier.name, self.verifier.key_id, self._key.sign(text.encode()))

    def cosign(self, text: str, seconds: int) -> Signature:
        """Return this key's cosignature under a checkpoint, made at a time in Unix seconds."""
        assert self.verifier.kind == COSIGNATURE, "this key signs texts alone"
        assert 0 < seconds <= SIZE_MAX, "the time is a positive number of seconds"
        data = _TIME.pack(seconds) + self._key.sign(_cosigned(text, seconds))
        return Signature(self.verifier.name, self.verifier.key_id, data)


def parse_note(data: bytes) -> Note:
    """Return the note that the bytes are; raise `Malformed`. Nothing is believed by it."""
    text = _clean(data)
    end = text.rfind("\n\n")
    if end < 0 or not text.endswith("\n") or end + 2 == len(text):
        raise Malformed("a note is a text, an empty line and signatures, each ended by a newline")
    return Note(text[: end + 1], parse_signatures(text[end + 2 :]))


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Return the signatures of lines that each end in a newline; one said twice counts once."""
    if not lines.endswith("\n"):
        raise Malformed("a signature line ends in a newline")
    found = lines[:-1].split("\n")
    if len(found) > SIGNATURES_MAX:
        raise Malformed(f"more than {SIGNATURES_MAX} signatures")
    return tuple(dict.fromkeys(map(_signature, found)))


def verified(note: Note, known: Iterable[Verifier]) -> tuple[Signature, ...]:
    """Return the signatures of known keys under a note, each of which holds.

    Signatures of other keys are passed over. Raises `BadSignature` where a known key's does not
    hold, and `Untrusted` where there is none.
    """
    keys: dict[tuple[str, bytes], list[Verifier]] = {}
    for key in dict.fromkeys(known):
        keys.setdefault((key.name, key.key_id), []).append(key)
    found = []
    for one in note.signatures:
        candidates = keys.get((one.name, one.key_id), [])
        if candidates and not any(key.verifies(note.text, one.data) for key in candidates):
            raise BadSignature(f"the signature of {one.name}+{one.key_id.hex()} does not hold")
        if candidates:
            found.append(one)
    if not found:
        raise Untrusted("none of the keys that are known has signed")
    return tuple(found)


def signed_note(text: str, signers: Sequence[Signer]) -> Note:
    """Return a note signed by all of these keys."""
    return Note(text, tuple(signer.sign(text) for signer in signers))


def _clean(data: bytes) -> str:
    if len(data) > NOTE_BYTES_MAX:
        raise Malformed(f"a note has at most {NOTE_BYTES_MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Malformed("a note is UTF-8") from None
    if any(c < " " and c != "\n" for c in text):
        raise Malformed("a note has no control characters but newlines")
    return text


def _signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_PREFIX).partition(" ")
    if not line.startswith(_PREFIX) or not space or not is_name(name):
        raise Malformed("a signature line is a dash, a name and a signature")
    data = from_base64(encoded)
    if len(data) < 5:
        raise Malformed("a signature is longer than its key id")
    return Signature(name, data[:4], data[4:])


def _typed_key(encoded: str) -> tuple[int, bytes]:
    data = from_base64(encoded)
    if len(data) != 1 + _KEY_BYTES or data[0] not in {ED25519, COSIGNATURE}:
        raise Malformed("the key is not one of Ed25519, for notes or for cosignatures")
    return data[0], data[1:]


def _is_weak(public: bytes) -> bool:
    """Whether a public key is of small order, or is not written in its one form."""
    y = int.from_bytes(public, "little") & (1 << 255) - 1
    return y >= _FIELD or y in _SMALL_ORDER_Y


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()
