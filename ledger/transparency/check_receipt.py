"""Check a receipt of Tidebook, offline, with nothing but Python's standard library.

    python3 check_receipt.py FILE --log-key KEY                 an event and its proof
    python3 check_receipt.py FILE --log-key KEY --witness KEY   and that a witness saw the log
    python3 check_receipt.py FILE --policy POLICY               by the logs and witnesses of a file
    python3 check_receipt.py FILE --statement-key KEY           a signed refusal or daily proof

FILE is a receipt as it was given, or the text of its QR code; `-` reads the standard input. KEY is
a verifier key as `NAME+ID+BASE64`, from somebody whom you trust, and POLICY a C2SP tlog-policy. The
formats are in docs/receipts.md. This file stands alone, so that it can be read in one sitting and
run anywhere: it takes nothing from the rest of Tidebook, Ed25519 included, and whatever a file
holds, its answer is yes or no. Exit status: 0 it holds, 1 it does not, 2 could not run.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HEADER = "c2sp.org/tlog-proof@v1"
QR_PREFIX = "TBR1:"
FILE_MAX = 2 << 20
NOTE_MAX = 1 << 20
POLICY_MAX = 64 << 10
SIGNATURES_MAX = 100
HASHES_MAX = 63
SIZE_MAX = 2**63 - 1
ENTRY_MAX = 0xFFFF
NOTE_KEY, COSIGNATURE_KEY = 1, 4
ATTESTED, REFUSAL, DAILY = "tidebook-attested/1", "tidebook-refusal/2", "tidebook-daily-proof/1"


class Refused(Exception):
    """The receipt does not hold; says why."""


def require(holds: bool, what: str) -> None:
    """Go on only if something holds."""
    if not holds:
        raise Refused(what)


# --- Ed25519, RFC 8032: verification only ---------------------------------------------------------
# Points are (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z on -x² + y² = 1 + dx²y². Everything here
# is public, so that nothing needs to take the same time always.

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]
NEUTRAL: Point = (0, 1, 1, 0)


def add(one: Point, other: Point) -> Point:
    """Return the sum of two points, which may be the same."""
    a = (one[1] - one[0]) * (other[1] - other[0]) % P
    b = (one[1] + one[0]) * (other[1] + other[0]) % P
    c = 2 * one[3] * other[3] * D % P
    d = 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def decompressed(data: bytes) -> Point | None:
    """Return the point of 32 bytes; None unless they are the one encoding of a point."""
    sign, y = data[31] >> 7, int.from_bytes(data, "little") & (1 << 255) - 1
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * v**3 * pow(u * v**7, (P - 5) // 8, P) % P
    if v * x * x % P != u:
        x = x * ROOT_OF_MINUS_1 % P
    if v * x * x % P != u or (x == 0 and sign):
        return None
    x = P - x if x % 2 != sign else x
    return (x, y, 1, x * y % P)


def compressed(point: Point) -> bytes:
    """Return the encoding of a point."""
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def is_small(point: Point) -> bool:
    """Whether eight times a point is nothing: as a key it would verify anything."""
    for _ in range(3):
        point = add(point, point)
    return point[0] == 0 and point[1] == point[2]


BASE = decompressed((4 * pow(5, -1, P) % P).to_bytes(32, "little")) or NEUTRAL


def ed25519(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature of a message is that of a key, by the equation without the cofactor.

    The scalar must be below the group's order, and the key must be written in its one form and be
    none of the eight points of small order. The point of the signature is compared as bytes.
    """
    if len(public) != 32 or len(signature) != 64:
        return False
    key, s = decompressed(public), int.from_bytes(signature[32:], "little")
    if key is None or is_small(key) or s >= ORDER:
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    k = int.from_bytes(digest, "little") % ORDER
    minus = (P - key[0], key[1], 1, P - key[3])
    table = (NEUTRAL, BASE, minus, add(BASE, minus))
    found = NEUTRAL
    for bit in range(252, -1, -1):
        found = add(found, found)
        which = (s >> bit & 1) | (k >> bit & 1) << 1
        if which:
            found = add(found, table[which])
    return compressed(found) == signature[:32]


# --- signed notes, keys and checkpoints (C2SP signed-note, tlog-checkpoint, tlog-cosignature) -----


class Key(NamedTuple):
    """A verifier key: name, kind, its four bytes, and the public key."""

    name: str
    kind: int
    id: bytes
    public: bytes


class Note(NamedTuple):
    """A text, and under it lines of name, key id and signature. Nothing is believed yet."""

    text: str
    lines: tuple[tuple[str, bytes, bytes], ...]


class Checkpoint(NamedTuple):
    """The head of a log."""

    origin: str
    size: int
    root: bytes


def from_base64(text: str) -> bytes:
    """Return the bytes of base64 that is written in its one form."""
    data = base64.b64decode(text.encode("ascii"), validate=True)
    require(base64.b64encode(data).decode() == text, "base64 that is not in its one form")
    return data


def number(text: str) -> int:
    """Return a number without leading zeroes."""
    require(bool(re.fullmatch(r"0|[1-9][0-9]{0,18}", text, re.ASCII)), "not a number")
    require(int(text) <= SIZE_MAX, "a number that is too large")
    return int(text)


def is_name(name: str) -> bool:
    """Whether a key may have this name."""
    return bool(name) and not any(c.isspace() or c == "+" or c < " " for c in name)


def parse_key(text: str) -> Key:
    """Return the key that a text is."""
    parts = text.strip().split("+", 2)
    require(len(parts) == 3 and is_name(parts[0]), "a key is NAME+ID+BASE64")
    data = from_base64(parts[2])
    require(len(data) == 33 and data[0] in (NOTE_KEY, COSIGNATURE_KEY), "a key of another kind")
    name, public = parts[0], data[1:]
    known = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
    require(known.hex() == parts[1], "the key's id is not that of name and key")
    point = decompressed(public)
    require(point is not None and not is_small(point), "not a key of Ed25519")
    return Key(name, data[0], known, public)


def parse_note(data: bytes) -> Note:
    """Return the note that bytes are."""
    require(len(data) <= NOTE_MAX, "a longer note than is read")
    text = data.decode()
    require(not any(c < " " and c != "\n" for c in text), "control characters")
    end = text.rfind("\n\n")
    complete = end >= 0 and text.endswith("\n") and end + 2 < len(text)
    require(complete, "a note is a text, an empty line and signatures")
    lines = text[end + 2 : -1].split("\n")
    require(len(lines) <= SIGNATURES_MAX, "too many signatures")
    return Note(text[: end + 1], tuple(dict.fromkeys(map(signature_line, lines))))


def signature_line(line: str) -> tuple[str, bytes, bytes]:
    """Return the name, key id and signature of a line."""
    dash = "\N{EM DASH} "
    name, space, encoded = line.removeprefix(dash).partition(" ")
    require(line.startswith(dash) and bool(space) and is_name(name), "not a signature line")
    data = from_base64(encoded)
    require(len(data) >= 5, "a signature is longer than its key id")
    return name, data[:4], data[4:]


def signed_by(key: Key, text: str, data: bytes) -> bool:
    """Whether data is what a key makes of a text."""
    if key.kind == NOTE_KEY:
        return ed25519(key.public, text.encode(), data)
    if len(data) != 72 or not 0 < int.from_bytes(data[:8], "big") <= SIZE_MAX:
        return False
    time = int.from_bytes(data[:8], "big")
    return ed25519(key.public, f"cosignature/v1\ntime {time}\n{text}".encode(), data[8:])


def signers(note: Note, keys: Iterable[Key]) -> list[tuple[Key, bytes]]:
    """Return known keys and their signatures; one that does not hold spoils the note."""
    found = []
    for name, id_, data in note.lines:
        known = [key for key in keys if (key.name, key.id) == (name, id_)]
        if known:
            holding = [key for key in known if signed_by(key, note.text, data)]
            require(bool(holding), f"the signature of {name} does not hold")
            found.append((holding[0], data))
    return found


def parse_checkpoint(text: str) -> Checkpoint:
    """Return the head that a note's text says."""
    lines = text[:-1].split("\n")
    require(text.endswith("\n") and len(lines) >= 3 and all(lines), "not a checkpoint")
    root = from_base64(lines[2])
    require(len(root) == 32, "a root has 32 bytes")
    return Checkpoint(lines[0], number(lines[1]), root)


# --- proofs (C2SP tlog-proof) and the tree (RFC 6962) ---------------------------------------------


class Proof(NamedTuple):
    """A proof as it is written."""

    place: int
    path: tuple[bytes, ...]
    extra: bytes
    note: Note
    checkpoint: Checkpoint


class Entry(NamedTuple):
    """What the leaf of an event says."""

    form: int
    book: str
    position: int
    stream: str
    version: int
    topic: str
    state: bytes


def parse_proof(data: bytes) -> Proof:
    """Return the proof that bytes are."""
    head, gap, rest = data.partition(b"\n\n")
    require(bool(gap), "a proof ends in an empty line and a checkpoint")
    lines = head.decode("ascii").split("\n")
    require(lines.pop(0) == HEADER, f"a proof begins with {HEADER}")
    require(bool(lines) and lines[0].startswith("extra "), "a receipt carries its entry")
    extra = from_base64(lines.pop(0)[6:])
    require(bool(lines) and lines[0].startswith("index "), "a proof names an index")
    index = number(lines.pop(0)[6:])
    require(len(lines) <= HASHES_MAX, "too many hashes")
    path = tuple(map(from_base64, lines))
    require(all(len(value) == 32 for value in path), "a hash has 32 bytes")
    note = parse_note(rest)
    return Proof(index, path, extra, note, parse_checkpoint(note.text))


def leads_to(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> bool:
    """Whether hashes lead from a leaf to a root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size <= SIZE_MAX or any(len(one) != 32 for one in (leaf, root, *path)):
        return False
    value, last = leaf, size - 1
    for sibling in path:
        if last == 0:
            return False
        if index % 2 or index == last:
            value = hashlib.sha256(b"\1" + sibling + value).digest()
            while not index % 2 and index:
                index, last = index // 2, last // 2
        else:
            value = hashlib.sha256(b"\1" + value + sibling).digest()
        index, last = index // 2, last // 2
    return last == 0 and value == root


def parse_entry(data: bytes) -> Entry:
    """Return what an entry says: the encoding in docs/transparency.md."""
    require(len(data) <= ENTRY_MAX, "a longer entry than there is")
    form, end = data[0], 2 + data[1]
    book = data[2:end].decode("ascii")
    require(bool(re.fullmatch(r"[a-z][a-z0-9]{0,15}", book)), "no book's name")
    position, stream, version, length = struct.unpack_from(">Q16sIH", data, end)
    at = end + 30
    topic, state = data[at : at + length].decode(), data[at + length :]
    require(at + length <= len(data) and form in (1, 2), "not an entry")
    require(form == 1 or len(state) == 32, "an entry without its state has the state's hash")
    return Entry(form, book, position, stream.hex(), version, topic, state)


# --- statements: lines of name and value under one title, as signed notes -------------------------


def parse_statement(text: str) -> tuple[str, dict[str, str]]:
    """Return title and lines of a statement."""
    title, *lines = text[:-1].split("\n")
    told: dict[str, str] = {}
    for line in lines:
        name, space, value = line.partition(" ")
        require(bool(space) and bool(re.fullmatch(r"[a-z_]+", name)), "not a line of a statement")
        require(name not in told, "a line that is said twice")
        told[name] = value
    return title, told


# --- the form that fits into a QR code ------------------------------------------------------------

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"


def from_base45(text: str) -> bytes:
    """Return the bytes of base45 (RFC 9285)."""
    values = [ALPHABET.index(c) for c in text]
    found = bytearray()
    for at in range(0, len(values), 3):
        part = values[at : at + 3]
        value = sum(digit * 45**place for place, digit in enumerate(part))
        require(len(part) > 1 and value < 256 ** (len(part) - 1), "not base45")
        found += value.to_bytes(len(part) - 1, "big")
    return bytes(found)


class Packed:
    """Reads packed bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        require(count <= len(self.rest), "packed bytes end too early")
        found, self.rest = self.rest[:count], self.rest[count:]
        return found

    def count(self) -> int:
        """Return a number: seven bits in a byte, the lowest first."""
        value = 0
        for shift in range(0, 63, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise Refused("a packed number is too long")

    def part(self) -> bytes:
        """Return bytes behind their number."""
        return self.take(self.count())


def unpacked(text: str) -> bytes:
    """Return the file that the text of a QR code stands for."""
    inflate = zlib.decompressobj()
    data = inflate.decompress(from_base45(text.removeprefix(QR_PREFIX)), FILE_MAX)
    require(inflate.eof and not inflate.unused_data, "the packed bytes are not whole")
    packed = Packed(data)
    kind = packed.count()
    require(kind in (1, 2), "a QR code of another kind")
    lines: list[str] = []
    if kind == 1:
        extra, index = packed.part(), packed.count()
        path = [packed.take(32) for _ in range(min(packed.count(), HASHES_MAX + 1))]
        lines = [HEADER, f"extra {base64.b64encode(extra).decode()}", f"index {index}"]
        lines += [base64.b64encode(one).decode() for one in path] + ["", ""]
    said = packed.part()
    signatures = [(packed.part(), packed.part()) for _ in range(min(packed.count(), 101))]
    require(not packed.rest, "packed bytes behind the end")
    under = b"".join(
        b"\xe2\x80\x94 %b %b\n" % (name, base64.b64encode(data)) for name, data in signatures
    )
    return "\n".join(lines).encode() + said + b"\n" + under


# --- the verdict ----------------------------------------------------------------------------------


class Group(NamedTuple):
    """Witnesses and groups of them, of which so many must have cosigned."""

    needed: int
    members: tuple[Key | Group, ...]


class Trust(NamedTuple):
    """Whom to believe; a quorum is a number of witnesses, or a group."""

    log: tuple[Key, ...] = ()
    witnesses: tuple[Key, ...] = ()
    quorum: int | Group = 0
    statements: tuple[Key, ...] = ()


def witnessed(one: Key | Group, cosigners: Iterable[Key]) -> bool:
    """Whether a witness is among those who cosigned, or enough of a group."""
    if isinstance(one, Key):
        return one in cosigners
    return sum(witnessed(member, cosigners) for member in one.members) >= one.needed


def parse_policy(data: bytes) -> Trust:
    """Return whom a policy file believes (C2SP tlog-policy); no word of it is skipped."""
    require(len(data) <= POLICY_MAX, "a longer policy than is read")
    text = data.decode("latin-1")  # names are octets
    clean = not re.search("[^\t\n\x20-\x7e\x80-\xff]", text)
    require(clean and text.endswith("\n"), "a policy is lines of text, each with its end")
    logs: list[Key] = []
    witnesses: list[Key] = []
    named: dict[str, Key | Group] = {"none": Group(0, ())}
    members = {"none"}
    quorum: Group | None = None
    for line in text[:-1].split("\n"):
        kind, *words = re.split("[ \t]+", line.strip(" \t"))
        if not kind or kind.startswith("#"):
            continue
        if kind == "log" and len(words) in (1, 2):
            policy_key(words[0], NOTE_KEY, logs)
        elif kind == "witness" and len(words) in (2, 3):
            require(words[0] not in named, "a name with a meaning already")
            named[words[0]] = policy_key(words[1], COSIGNATURE_KEY, witnesses)
        elif kind == "group" and len(words) >= 3:
            name, needed, *among = words
            fresh = len(set(among)) == len(among) and not members & set(among)
            require(name not in named, "a name with a meaning already")
            require(set(among) <= set(named), "a member that is not defined above")
            require(fresh, "a member that is one already, or cannot be one")
            least = {"all": len(among), "any": 1}.get(needed) or number(needed)
            require(1 <= least <= len(among), "a group that needs none, or more than it has")
            named[name] = Group(least, tuple(named[one] for one in among))
            members.update(among)
            require(len(named) <= 2 * SIGNATURES_MAX + 1, "more groups than are read")
        elif kind == "quorum" and len(words) == 1:
            require(quorum is None, "a second quorum")
            require(words[0] in named, "a quorum that is not defined above")
            quorum = Group(1, (named[words[0]],))
        else:
            raise Refused("not a line of a policy")
    require(bool(logs), "a policy names a log")
    if quorum is None:
        raise Refused("a policy names its quorum")
    return Trust(tuple(logs), tuple(witnesses), quorum)


def policy_key(text: str, kind: int, keys: list[Key]) -> Key:
    """Return a key of a policy, which is named once, whatever it is called; keep it with others."""
    told = text.encode("latin-1").decode()
    key = parse_key(told)
    require(told == told.strip() and key.kind == kind, "a key of another kind")
    require(key.public not in {one.public for one in keys}, "a key that is named already")
    require(len(keys) < SIGNATURES_MAX, "more keys than are read")
    keys.append(key)
    return key


class Found(NamedTuple):
    """What a file proves: by which log's head it does, who cosigned it, and what it says."""

    kind: str
    told: dict[str, Any]
    checkpoint: Checkpoint | None = None
    cosigned: tuple[tuple[str, int], ...] = ()


def check(data: bytes, trust: Trust) -> Found:
    """Return what a file proves to somebody; raise `Refused`. Nothing else is raised."""
    try:
        require(len(data) <= FILE_MAX, "a longer file than is read")
        if data.startswith(QR_PREFIX.encode()):
            data = unpacked(data.decode("ascii").rstrip("\r\n"))
        if data.startswith(HEADER.encode()):
            return check_proof(parse_proof(data), trust)
        return check_statement(parse_note(data), trust)
    except (ValueError, IndexError, struct.error, zlib.error, OverflowError) as error:
        raise Refused(f"not a receipt: {error}") from None


def check_proof(proof: Proof, trust: Trust) -> Found:
    """Return what a proof shows."""
    head = proof.checkpoint
    log = [key for key in trust.log if key.name == head.origin]
    require(bool(log), f"the checkpoint is one of {head.origin!r}")
    attested = proof.extra.startswith(b"tidebook-")
    note = parse_note(proof.extra) if attested else None
    told = attested_lines(note) if note is not None else entry_lines(proof.extra)
    leaf = from_base64(told["leaf"])
    require(
        leads_to(proof.place, head.size, leaf, proof.path, head.root),
        "the inclusion proof does not lead to the root of the checkpoint",
    )
    require(told["position"] == proof.place + 1, "the event is one of another place")
    require(head.origin.endswith(f"/{told['book']}"), "the event is one of another book")
    if note is not None:
        require(bool(signers(note, trust.statements)), "no known key has signed the statement")
    require(bool(signers(proof.note, log)), "no known key of the log has signed")
    cosigned = signers(proof.note, trust.witnesses)
    if isinstance(trust.quorum, Group):
        enough = witnessed(trust.quorum, [key for key, _ in cosigned])
        require(enough, "the quorum of the policy has not cosigned")
    else:
        enough = len({key.name for key, _ in cosigned}) >= trust.quorum
        require(enough, f"fewer than {trust.quorum} of the known witnesses have cosigned")
    seen = tuple((key.name, int.from_bytes(data[:8], "big")) for key, data in cosigned)
    return Found("attested" if attested else "event", told, head, seen)


def entry_lines(data: bytes) -> dict[str, Any]:
    """Return what an entry says, by name."""
    told = parse_entry(data)._asdict()
    state = told.pop("state")
    told["leaf"] = base64.b64encode(hashlib.sha256(b"\0" + data).digest()).decode()
    return (
        {**told, "state_sha256": state.hex()} if told.pop("form") == 2 else {**told, "state": state}
    )


def attested_lines(note: Note) -> dict[str, Any]:
    """Return what is said of an event whose bytes are withheld, by name."""
    title, told = parse_statement(note.text)
    names = ["book", "position", "leaf", "stream", "version", "topic", "withheld", "state"]
    require(title == ATTESTED and list(told) == names, "not an attested event")
    position, version = number(told["position"]), number(told["version"])
    return {**told, "position": position, "version": version, "state": told["state"].encode()}


def check_statement(note: Note, trust: Trust) -> Found:
    """Return what a signed statement says."""
    title, told = parse_statement(note.text)
    require(title in (REFUSAL, DAILY), "a statement of another kind")
    require(bool(signers(note, trust.statements)), "no known key has signed the statement")
    return Found("refusal" if title == REFUSAL else "daily proof", dict(told))


# --- in words -------------------------------------------------------------------------------------

TOPICS = {
    "campaign.drafted": ("a campaign was drafted", "活动已起草"),
    "campaign.funding_proposed": ("funds were proposed for a campaign", "已提出活动资金"),
    "campaign.funded": ("a campaign was funded", "活动资金已到位"),
    "campaign.opened": ("a campaign was opened", "活动已开放"),
    "campaign.paused": ("a campaign was paused", "活动已暂停"),
    "campaign.resumed": ("a campaign was resumed", "活动已恢复"),
    "campaign.closed": ("a campaign was closed", "活动已关闭"),
    "campaign.budget_reclaimed": ("a sponsor has the rest back", "剩余资金已退回"),
    "coupon.entered": ("a person entered a lottery for a coupon", "已报名抽取优惠券"),
    "coupon.claimed": ("a person claimed a coupon", "已领取优惠券"),
    "coupon.redeemed": ("a merchant redeemed a coupon", "优惠券已核销"),
    "coupon.refunded": ("a redemption was refunded", "优惠券核销已退款"),
    "coupon.reclaimed": ("a coupon was reclaimed", "优惠券已回收"),
    "coupon.expired": ("a coupon expired", "优惠券已过期"),
    "coupon.voided": ("a coupon was voided", "优惠券已作废"),
    "packet.claimed": ("a person has a red packet", "已领取红包"),
    "packet.paid": ("a merchant took a payment from a red packet", "红包已支付"),
    "packet.refunded": ("a payment from a red packet was refunded", "红包支付已退款"),
    "packet.expired": ("a red packet expired", "红包已过期"),
    "packet.wallet_closed": ("a red packet ended with its wallet", "红包随钱包销户而结束"),
    "group.funded": ("a person sent a group packet", "已发出群红包"),
    "group.share_taken": ("a person took a share of a group packet", "已抢到群红包份额"),
    "draw.entered": ("a person registered for a public draw", "已登记公开摇号"),
    "draw.withdrawn": ("an entry was taken back from a public draw", "已撤回摇号登记"),
    "draw.entry_voided": ("an entry of a public draw was found void", "摇号登记被判无效"),
    "correction.proposed": (
        "another instant was proposed for what was taken",
        "已提出更正起算时间",
    ),
    "correction.approved": ("what was taken counts for another instant", "起算时间已更正"),
    "draw.won": ("an entry of a public draw won a seat", "摇号中签"),
}
LABELS = {
    "stream": ("of the thing", "对象"),
    "topic": ("event", "事件"),
    "at": ("at", "时间"),
    "campaign": ("campaign", "活动"),
    "person": ("person (pseudonym)", "自然人（假名）"),
    "merchant": ("merchant", "商户"),
    "order": ("order", "订单"),
    "face_minor": ("face value", "面额"),
    "discount_minor": ("discount", "优惠金额"),
    "amount_minor": ("amount", "金额"),
    "order_total_minor": ("order total", "订单总额"),
    "own_minor": ("own money", "自付金额"),
    "to_packet_minor": ("back into the packet", "退回红包"),
    "reclaimed_minor": ("reclaimed", "回收金额"),
    "reason": ("reason", "原因"),
    "valid_until": ("valid until", "有效期至"),
    "index": ("place in the list", "名单位次"),
    "rank": ("rank", "中签名次"),
    "caller": ("asked by", "请求人"),
    "key": ("idempotency key", "幂等键"),
    "request": ("fingerprint of the request", "请求指纹"),
    "code": ("refused with", "拒绝代码"),
    "reply": ("SHA-256 of the reply", "答复的 SHA-256"),
    "position": ("decided behind event number", "裁决时账本位次"),
    "after": ("not before", "不早于"),
    "leaf": ("hash of the event's leaf", "事件叶哈希"),
    "withheld": ("withheld", "未显示"),
}


HUNDREDTHS = ("CNY", "EUR", "GBP", "HKD", "USD")
"""Currencies whose minor unit is known here to be a hundredth; of others minor units are told."""


def plain(value: Any) -> str:
    """Return a value as text that cannot do anything to a terminal."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else "?" for c in text)[:300]


def amount(name: str, value: Any, told: dict[str, Any]) -> Any:
    """Return minor units as an amount where they are some."""
    unit = told.get("currency")
    if not name.endswith("_minor") or type(value) is not int or unit not in HUNDREDTHS:
        return value
    return f"{'-' * (value < 0)}{abs(value) // 100}.{abs(value) % 100:02} {unit}"


def facts(found: Found) -> dict[str, Any]:
    """Return what is told, the event's own fields beside the others."""
    told = dict(found.told)
    state = told.pop("state", None)
    if isinstance(state, bytes):
        try:
            fields = json.loads(state)
        except (ValueError, RecursionError):
            fields = None
        told = {**fields, **told} if isinstance(fields, dict) else {**told, "state": repr(state)}
    return told


def words(found: Found, zh: bool) -> list[str]:
    """Return what a file proves, in English or Chinese."""
    lines = [proved(found, zh)]
    told = facts(found)
    if found.kind == "daily proof":
        return lines + [f"  {name} {plain(value)}" for name, value in told.items()]
    for name, labels in LABELS.items():
        if name not in told or (name == "position" and found.checkpoint is not None):
            continue
        value = amount(name, told[name], told)
        if name == "topic" and value in TOPICS:
            value = f"{value}: {TOPICS[value][zh]}"
        lines.append(f"  {labels[zh]}: {plain(value)}")
    return lines


def proved(found: Found, zh: bool) -> str:
    """Return the sentence that says what holds, and by whose word."""
    told, head = found.told, found.checkpoint
    if head is None:
        what = {"refusal": ("refused this request", "拒绝了该请求")}.get(
            found.kind, ("states these figures of a campaign and a day", "声明了该活动当日的数字")
        )
        return (
            f"账本签名方{what[1]}。" if zh else f"The signer of book {told.get('book')} {what[0]}."
        )
    place, size = told["position"], head.size
    seen = ", ".join(plain(name) for name, _ in found.cosigned)
    if zh:
        by = f"见证者 {seen} 已联署" if seen else "没有已知见证者联署"
        sure = "内容由运营方签名声明，原文未显示。" if found.kind == "attested" else ""
        return f"账本 {told['book']} 第 {place} 号事件已写入日志（共 {size} 条），{by}。{sure}"
    by = f"cosigned by {seen}" if seen else "cosigned by nobody who is known"
    sure = " Its words are the operator's signed statement." if found.kind == "attested" else ""
    return f"Event {place} of book {told['book']} is in the log of {size} events, {by}.{sure}"


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="Check a receipt of Tidebook, offline.")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--log-key", metavar="KEY", action="append", default=[])
    parser.add_argument("--witness", metavar="KEY", action="append", default=[])
    parser.add_argument("--quorum", metavar="N", type=int)
    parser.add_argument("--policy", metavar="POLICY")
    parser.add_argument("--statement-key", metavar="KEY", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.policy and (options.log_key or options.witness or options.quorum is not None):
        parser.error("--policy says it all, without --log-key, --witness and --quorum")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the command line names; return the exit status."""
    options = arguments_of(arguments)
    try:
        keys = [
            tuple(map(parse_key, texts))
            for texts in (options.log_key, options.witness, options.statement_key)
        ]
        quorum = len(keys[1]) if options.quorum is None else options.quorum
        trust = Trust(keys[0], keys[1], quorum, keys[2])
        if options.policy:
            with Path(options.policy).open("rb") as file:
                trust = parse_policy(file.read(POLICY_MAX + 1))._replace(statements=keys[2])
        if options.file == "-":
            data = sys.stdin.buffer.read(FILE_MAX + 1)
        else:
            with Path(options.file).open("rb") as file:
                data = file.read(FILE_MAX + 1)
    except (Refused, ValueError, OSError) as error:
        sys.stderr.write(f"check_receipt: {plain(str(error))}\n")
        return 2
    try:
        found = check(data, trust)
    except Refused as refused:
        why = plain(str(refused))
        say(json.dumps({"holds": False, "why": why}) if options.json else f"REFUSED 不成立: {why}")
        return 1
    if options.json:
        say(json.dumps({"holds": True, "kind": found.kind, **facts(found)}, default=repr))
        return 0
    for line in ("OK 成立", *words(found, False), *words(found, True)):
        say(line)
    return 0


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.buffer.write(line.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
