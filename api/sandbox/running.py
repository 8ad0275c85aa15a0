"""Runs the sandbox operator: in the foreground until a signal, or in a thread for tests."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from api.sandbox.http import Server
from api.sandbox.service import Service
from api.sandbox.store import Store


async def serve(
    service: Service, host: str, port: int, stop: asyncio.Event, on_up: Callable[[int], object]
) -> None:
    """Serve until `stop` is set; `on_up` is told the port. What was begun is finished."""
    server = Server(service.handle)
    try:
        on_up(await server.start(host, port))
        await stop.wait()
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await server.stop()


def run(path: Path, key: bytes, host: str, port: int, on_up: Callable[[int], object]) -> None:
    """Run the operator until SIGINT or SIGTERM."""

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(Service(store, key), host, port, stop, on_up)

    store = Store(path)
    store.start()
    try:
        asyncio.run(main())
    finally:
        store.close()


@contextmanager
def in_thread(
    path: Path, key: bytes, port: int = 0, store: Store | None = None
) -> Iterator[tuple[Service, str]]:
    """Lend an operator that runs in a thread of this process, and its URL."""
    store = store or Store(path)
    store.start()
    service = Service(store, key)
    up: list[str] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def on_up(found: int) -> None:
        up.append(f"http://127.0.0.1:{found}")
        started.set()

    def work() -> None:
        try:
            loop.run_until_complete(serve(service, "127.0.0.1", port, stop, on_up))
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=work, name="sandbox-operator", daemon=True)
    thread.start()
    started.wait()
    try:
        yield service, up[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        store.close()
