"""Plain requests: which bytes are read without an HTTP parser, and what they say.

A claim in a rush is one small POST in one segment, written in the simplest way that HTTP has. Only
that is read here, in a few microseconds; for anything else the answer is None, and httptools reads
the same bytes from their start. Nothing may ever be read differently here and there: where the two
could disagree (repeated or folded headers, bare line feeds, escapes, transfer codings, upgrades,
versions, lengths that are not digits), the request is not plain.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import Final, NamedTuple

HEAD_BYTES_MAX: Final = 8 * 1024
BODY_BYTES_MAX: Final = 8 * 1024
"""Larger requests are none of a rush; the parser has limits of its own for them."""

_PATH: Final = rb"/[A-Za-z0-9\-._~/]*"
_NAME: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}"
_VALUE: Final = rb"[!-~](?:[ -~]*[!-~])?"
"""Printable, something in it, and no spaces around it."""
_SAME_VALUE: Final = rb"[!-~][ -~]*(?<! )"
"""The same, up to the end of a line: quicker to match, and not to be tried at shorter ends."""
_START: Final = rb"POST (%b) HTTP/1\.1\r\n"
_HEAD: Final = re.compile(_START % _PATH + rb"((?:%b: %b\r\n)*)\r\n" % (_NAME, _VALUE))
_LINES: Final = re.compile(rb"([^:]+): ([^\r]+)\r\n")
"""Cuts what the pattern of a head has let through."""
_NOT_PLAIN: Final = frozenset(
    {b"expect", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
"""These change how the connection or the body is to be understood."""

NAMES_MAX: Final = 256
_names: Final[dict[bytes, bytes]] = {}
"""Header names seen before as they were spelt, in lower case; bounded, for callers choose them."""

SHAPES_MAX: Final = 4
"""Programs that call in a rush are few; each shape that does not fit costs a third of a µs."""
SHAPE_AFTER: Final = 100
"""So many heads alike are worth a pattern: to make one costs as much as to read fifty heads."""


class _Shape(NamedTuple):
    """Plain heads with the same header names, spelt alike and in one order."""

    pattern: re.Pattern[bytes]
    """Stricter than the pattern of any plain head; its groups are the path and the values."""
    names: tuple[bytes, ...]
    """In lower case."""


_shapes: Final[list[_Shape]] = []
_seen: Final[dict[tuple[bytes, ...], int]] = {}
"""How often the names of a head were seen; bounded, for callers choose them."""


class LaneCall:
    """One plain POST: its path, its headers by lower-case name, its body, and whose it is."""

    __slots__ = ("address", "body", "headers", "path", "started")

    def __init__(
        self, path: bytes, headers: dict[bytes, bytes], body: bytes, address: str | None
    ) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self.address = address
        """The network address of the other end of the connection, which may be a proxy's."""
        self.started = perf_counter()


def plain_call(data: bytes, address: str | None = None) -> LaneCall | None:
    """Return the call that `data` is, exactly and wholly; None when it is not a plain one."""
    for shape in _shapes:
        head = shape.pattern.match(data, 0, HEAD_BYTES_MAX)
        if head is not None:
            values = head.groups()
            path, headers = values[0], dict(zip(shape.names, values[1:], strict=True))
            break
    else:
        head = _HEAD.match(data, 0, HEAD_BYTES_MAX)
        if head is None:
            return None
        path, lines = head.groups()
        found = _headers(_LINES.findall(lines))
        if found is None:
            return None
        headers = found
    if headers.get(b"connection", b"keep-alive") not in _KEEP_ALIVE:
        return None
    body = data[head.end() :]
    if not _is_long_as(headers.get(b"content-length"), body):
        return None
    return LaneCall(path, headers, body, address)


def _is_long_as(length: bytes | None, body: bytes) -> bool:
    if length is None:
        return not body
    return length.isdigit() and len(length) <= 4 and int(length) == len(body) <= BODY_BYTES_MAX


def _headers(lines: list[tuple[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """Return the headers by name in lower case, or None when one makes the request not plain."""
    names = _names
    try:
        headers = {names[name]: value for name, value in lines}
    except KeyError:
        known = [(_learned(name), value) for name, value in lines]
        headers = {name: value for name, value in known if name is not None}
    if len(headers) != len(lines):
        return None
    _learn_shape(tuple([name for name, _ in lines]), tuple(headers))
    return headers


_KEEP_ALIVE: Final = frozenset({b"keep-alive", b"Keep-Alive"})


def _learn_shape(spelt: tuple[bytes, ...], names: tuple[bytes, ...]) -> None:
    """Count a head with these names; make a pattern of heads that are many."""
    seen = _seen.get(spelt, 0) + 1
    if seen < SHAPE_AFTER:
        if len(_seen) >= NAMES_MAX:
            _seen.clear()
        _seen[spelt] = seen
        return
    _seen.pop(spelt, None)
    lines = b"".join([b"%b: (%b)\r\n" % (re.escape(name), _SAME_VALUE) for name in spelt])
    del _shapes[SHAPES_MAX - 1 :]
    _shapes.insert(0, _Shape(re.compile(_START % _PATH + lines + b"\r\n"), names))


def _learned(name: bytes) -> bytes | None:
    """Return a header name in lower case, if it is one that leaves a request plain."""
    lower = name.lower()
    if lower in _NOT_PLAIN:
        return None
    if len(_names) < NAMES_MAX:
        _names[name] = lower
    return lower
