"""Telling the gate that stock comes back, from the writer's thread and before the commit.

While the gate says «sold out», a coupon that is freed could be had by nobody. So the writer tells
it before it commits: whoever asks afterwards is sent to the store. Telling has a short time-out
and never fails a commit; when it did not succeed, «sold out» ends by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from campaigns.gate import PoolKey, tag_of
from campaigns.wire import GATE_LIBRARY, PROBE_S, Library, function_is_missing

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 0.1
"""The head's lock is held meanwhile, so a silent gate may not cost more."""


class Freeing:
    """Implements the ledger's observer of a writer. One for each writer: it is one thread's."""

    def __init__(
        self,
        url: str,
        library: Library = GATE_LIBRARY,
        *,
        cluster: bool = False,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._library = library
        self._kind: Any = RedisCluster if cluster else Redis
        self._timeout_s = timeout_s
        self._clock = clock
        self._client: Any = None
        self._silent_until = 0.0
        self.missed = 0
        """How often the gate could not be told."""

    def freeing(self, book: str, position: int, pools: Sequence[PoolKey]) -> None:  # noqa: ARG002
        """Tell the gate that these pools will have more room after `position`."""
        if self._clock() < self._silent_until:
            self.missed += 1
            return
        try:
            for pool in pools:
                self._tell(pool, position)
        except (RedisError, OSError) as error:
            self.missed += 1
            self._silent_until = self._clock() + PROBE_S
            self.close()
            log.warning("the gate was not told of freed stock: %s", type(error).__name__)

    def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _tell(self, pool: PoolKey, position: int) -> None:
        if self._client is None:
            self._client = self._kind.from_url(
                self._url,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
        name = self._library.function("freeing")
        try:
            self._client.fcall(name, 1, tag_of(pool), position)
        except ResponseError as error:
            if not function_is_missing(error):
                raise
            self._client.function_load(self._library.source, replace=True)
            self._client.fcall(name, 1, tag_of(pool), position)
