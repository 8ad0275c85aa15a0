"""Policies as files (C2SP tlog-policy): which logs and witnesses are known, and the quorum.

A policy that is not understood to the last word is no policy: nothing in it is skipped, for what is
skipped could be what was to be demanded.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ledger.transparency.notes import COSIGNATURE, ED25519, Verifier
from ledger.transparency.proofs import Group, Policy
from ledger.transparency.texts import Malformed, parse_number

POLICY_BYTES_MAX: Final = 64 << 10
LINES_MAX: Final = 100
"""Logs, witnesses and groups, each: as many as a note has signatures that are read."""

_OCTETS: Final = re.compile(rb"[\t\n\x20-\x7e\x80-\xff]*")
_BLANKS: Final = re.compile(r"[ \t]+")
_NONE: Final = "none"


class PolicyFile(NamedTuple):
    """What a policy file says."""

    logs: tuple[Verifier, ...]
    witnesses: tuple[Verifier, ...]
    quorum: int | Group

    def of_log(self, origin: str, statements: tuple[Verifier, ...] = ()) -> Policy:
        """Return whom to believe about the log of an origin; nobody, where it is not known."""
        log = tuple(key for key in self.logs if key.name == origin)
        return Policy(origin, log, self.witnesses, self.quorum, statements)


def parse_policy(data: bytes) -> PolicyFile:
    """Return what a policy file says; raise `Malformed`, which names the line."""
    if len(data) > POLICY_BYTES_MAX:
        raise Malformed(f"a policy has at most {POLICY_BYTES_MAX} bytes")
    if not _OCTETS.fullmatch(data) or not data.endswith(b"\n"):
        raise Malformed("a policy is lines of text, each with its end, without control characters")
    reading = _Reading()
    for number, line in enumerate(data[:-1].decode("latin-1").split("\n"), 1):
        words = _BLANKS.split(line.strip(" \t"))
        if words[0] and not words[0].startswith("#"):
            try:
                reading.take(*words)
            except Malformed as malformed:
                raise Malformed(f"line {number}: {malformed}") from None
    return reading.found()


class _Reading:
    """A policy as far as it is read. Names are octets, each as the character of its number."""

    def __init__(self) -> None:
        self._logs: dict[bytes, Verifier] = {}
        self._witnesses: dict[bytes, Verifier] = {}
        self._named: dict[str, Verifier | Group] = {_NONE: Group(0, ())}
        self._members = {_NONE}
        self._quorum: Group | None = None

    def take(self, kind: str, *words: str) -> None:
        """Take in a line."""
        match kind, words:
            case "log", (key, *rest) if len(rest) <= 1:
                _keep(self._logs, _key(key, ED25519))
            case "witness", (name, key, *rest) if len(rest) <= 1:
                self._define(name, _keep(self._witnesses, _key(key, COSIGNATURE)))
            case "group", (name, needed, _, *_):
                self._define(name, self._group(needed, words[2:]))
            case "quorum", (name,) if self._quorum is None:
                self._quorum = Group(1, (self._known(name),))
            case "quorum", (_,):
                raise Malformed("there is a quorum already")
            case _:
                raise Malformed(f"not a line of a policy: {kind[:40]!r}")

    def found(self) -> PolicyFile:
        """Return what was read, when it is a policy by which a proof can be judged."""
        if self._quorum is None:
            raise Malformed("a policy names its quorum")
        if not self._logs:
            raise Malformed("a policy names a log")
        return PolicyFile(tuple(self._logs.values()), tuple(self._witnesses.values()), self._quorum)

    def _group(self, needed: str, names: tuple[str, ...]) -> Group:
        for name in names:
            self._known(name)
            if name in self._members:
                raise Malformed(f"{name[:40]!r} cannot be a member, or is one already")
            self._members.add(name)
        least = {"all": len(names), "any": 1}.get(needed) or parse_number(needed)
        if not 1 <= least <= len(names):
            raise Malformed(f"of {len(names)} members between 1 and all are needed, not {least}")
        return Group(least, tuple(self._named[name] for name in names))

    def _define(self, name: str, what: Verifier | Group) -> None:
        if name in self._named:
            raise Malformed(f"{name[:40]!r} has a meaning already")
        if len(self._named) > 2 * LINES_MAX:
            raise Malformed("more witnesses and groups than are read")
        self._named[name] = what

    def _known(self, name: str) -> Verifier | Group:
        if name not in self._named:
            raise Malformed(f"{name[:40]!r} is not defined above")
        return self._named[name]


def _key(text: str, kind: int) -> Verifier:
    try:
        key = Verifier.parse(text.encode("latin-1").decode())
    except UnicodeDecodeError:
        raise Malformed("the name of a key is UTF-8") from None
    if key.kind != kind:
        raise Malformed("a log has a key for notes, a witness one for cosignatures")
    return key


def _keep(keys: dict[bytes, Verifier], key: Verifier) -> Verifier:
    """Return a key that is kept, by what it is and not by its name; each is named once."""
    if key.public in keys or len(keys) >= LINES_MAX:
        raise Malformed("a key that is named already, or more than are read")
    keys[key.public] = key
    return key
