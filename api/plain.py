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
from typing import Final

HEAD_BYTES_MAX: Final = 8 * 1024
BODY_BYTES_MAX: Final = 8 * 1024
"""Larger requests are none of a rush; the parser has limits of its own for them."""

_PATH: Final = rb"/[A-Za-z0-9\-._~/]*"
_NAME: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}"
_VALUE: Final = rb"[!-~](?:[ -~]*[!-~])?"
"""Printable, something in it, and no spaces around it."""
_HEAD: Final = re.compile(rb"POST (%b) HTTP/1\.1\r\n((?:%b: %b\r\n)*)\r\n" % (_PATH, _NAME, _VALUE))
_LINES: Final = re.compile(rb"([^:]+): ([^\r]+)\r\n")
"""Cuts what the pattern of a head has let through."""
_NOT_PLAIN: Final = frozenset(
    {b"expect", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
"""These change how the connection or the body is to be understood."""

NAMES_MAX: Final = 256
_names: Final[dict[bytes, bytes]] = {}
"""Header names seen before as they were spelt, in lower case; bounded, for callers choose them."""


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
    head = _HEAD.match(data, 0, HEAD_BYTES_MAX)
    if head is None:
        return None
    path, lines = head.groups()
    headers = _headers(_LINES.findall(lines))
    body = data[head.end() :]
    if headers is None or not _is_long_as(headers.get(b"content-length"), body):
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
    return headers if headers.get(b"connection", b"keep-alive") in _KEEP_ALIVE else None


_KEEP_ALIVE: Final = frozenset({b"keep-alive", b"Keep-Alive"})


def _learned(name: bytes) -> bytes | None:
    """Return a header name in lower case, if it is one that leaves a request plain."""
    lower = name.lower()
    if lower in _NOT_PLAIN:
        return None
    if len(_names) < NAMES_MAX:
        _names[name] = lower
    return lower
