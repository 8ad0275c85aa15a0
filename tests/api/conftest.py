"""A started service for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.harness import App, settings_for
from tests.api.served import Server

MakeApp = Callable[..., App]
StartServer = Callable[..., Server]


@pytest.fixture
def make_app(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[MakeApp]:
    """Start services over this test's database: `make_app(rate_tourist_per_s=5)`."""
    started: list[App] = []

    def make(*, fast: bool = True, **settings: Any) -> App:
        settings.setdefault("redis_url", redis_url)
        url = settings.pop("redis_url")
        app = App(settings_for(database_url, url, tmp_path, **settings), fast=fast)
        started.append(app)
        return app

    yield make
    for app in started:
        app.close()


@pytest.fixture
def app(make_app: MakeApp) -> App:
    """A started service without limits on speed."""
    return make_app()


@pytest.fixture
def start(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[StartServer]:
    """Start servers on free ports: `start(workers=2)`."""
    started: list[Server] = []

    def begin(*, url: str = database_url, answers: bool = True, **settings: Any) -> Server:
        made = settings_for(url, redis_url, tmp_path, **{"port": 0, "workers": 1, **settings})
        server = Server(made, tmp_path / f"server-{len(started)}.log")
        started.append(server)
        if answers:
            server.wait_until_it_answers()
        return server

    yield begin
    for server in started:
        server.end()
