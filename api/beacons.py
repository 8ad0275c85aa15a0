"""Where a public beacon's values come from: files of recorded ones, and nodes asked over HTTP.

Every source is asked for the round that was announced, and for no other. All that answer must
agree; a source that is silent says nothing, and too few that speak mean that the draw waits. No
value is ever made here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

import httpx

from campaigns.draws.beacon import Beacon, MalformedBeacon, agreed, parse_beacon, parse_recorded
from campaigns.draws.terms import Chain

FETCH_TIMEOUT_S: Final = 5.0
"""For a node to connect, for each word of it, and for all that it says."""
ANSWER_BYTES_MAX: Final = 16 * 1024
RECORD_BYTES_MAX: Final = 64 * 1024 * 1024

_log = logging.getLogger("tidebook.beacons")


class Beacons:
    """The sources of one installation: addresses with `{chain}` and `{round}`, or paths."""

    def __init__(self, sources: Sequence[str], least: int = 1) -> None:
        """`least` sources must have a value before any is believed."""
        self._sources = tuple(sources)
        self._least = least

    def value(self, chain: Chain, number: int) -> Beacon | None:
        """Return the value of a round, None while too few sources have one.

        Raises `BeaconDoubled` when two of them disagree, or one contradicts itself.
        """
        answers = [self._ask(source, chain, number) for source in self._sources]
        value = agreed((one for answer in answers for one in answer), number)
        speaking = sum(any(one.round == number for one in answer) for answer in answers)
        return value if speaking >= self._least else None

    def _ask(self, source: str, chain: Chain, number: int) -> list[Beacon]:
        try:
            if not source.startswith(("http://", "https://")):
                return _recorded(Path(source.format(chain=chain.hash, round=number)))
            return [parse_beacon(_fetch(source.format(chain=chain.hash, round=number)))]
        except (httpx.HTTPError, httpx.InvalidURL, OSError, MalformedBeacon, _Silent) as error:
            _log.info("a source has no value for round %d: %s", number, type(error).__name__)
            return []


class _Silent(Exception):
    """A node has no value, or says so in an odd way."""


def _recorded(path: Path) -> list[Beacon]:
    if path.stat().st_size > RECORD_BYTES_MAX:
        raise _Silent
    return parse_recorded(path.read_bytes())


def _fetch(url: str) -> bytes:
    """Return the document at `url`: within a time, within a size, without following redirects."""
    began = perf_counter()
    with (
        httpx.Client(timeout=FETCH_TIMEOUT_S, trust_env=False) as client,
        client.stream("GET", url, headers={"Accept": "application/json"}) as response,
    ):
        if response.status_code != httpx.codes.OK:
            raise _Silent
        document = b""
        for chunk in response.iter_bytes():
            document += chunk
            if len(document) > ANSWER_BYTES_MAX or perf_counter() - began > FETCH_TIMEOUT_S:
                raise _Silent
    return document
