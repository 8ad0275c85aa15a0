"""A proxy before PostgreSQL that cuts connections where a test says, to lose what is in flight."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg2.extensions

END_OF_COPY = b"\xff\xff" + b"c\x00\x00\x00\x04"
"""The end of a COPY in binary form. A COMMIT that was sent along with it is run now, not before."""

Cut = Callable[[bytes], "str | None"]
"""Looks at bytes from the client; says `before` (drop them), `after` (pass them on, lose the
reply) or None (let them through)."""


class Proxy:
    """Passes bytes between clients on loopback and the server of a database URL."""

    def __init__(self, database_url: str) -> None:
        parts = psycopg2.extensions.parse_dsn(database_url)
        self._host, self._port = parts["host"], int(parts.get("port", 5432))
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        parts.update(host="127.0.0.1", port=str(port))
        self.url = psycopg2.extensions.make_dsn(**parts)
        self.cut: Cut = lambda _: None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def cut_once(self, word: bytes, when: str) -> None:
        """Cut the next connection whose client sends `word`, `before` or `after` it arrives."""
        done = threading.Event()

        def cut(data: bytes) -> str | None:
            if word in data and not done.is_set():
                done.set()
                return when
            return None

        self.cut = cut

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = self._connect()
        mute = threading.Event()
        back = threading.Thread(target=self._pump_back, args=(server, client, mute), daemon=True)
        back.start()
        with suppress(OSError):
            while data := client.recv(1 << 16):
                verdict = self.cut(data)
                if verdict is not None:
                    self.cuts += 1
                    mute.set()
                    if verdict == "after":
                        server.sendall(data)
                        server.shutdown(socket.SHUT_WR)
                        back.join(5)
                    break
                server.sendall(data)
        for one in (client, server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    @staticmethod
    def _pump_back(server: socket.socket, client: socket.socket, mute: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if not mute.is_set():
                    client.sendall(data)

    def _connect(self) -> socket.socket:
        if self._host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{self._host}/.s.PGSQL.{self._port}")
            return server
        return socket.create_connection((self._host, self._port))
