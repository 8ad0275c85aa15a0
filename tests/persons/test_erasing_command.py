"""`tidebook erasure`: what it lists, what it finds, and what a rotation leaves.

Goal: whoever relies on the command is told when anything can still be read or linked. Method: a
real service erases somebody; rows are brought back from a backup, all of them and a part; the bytes
of all files are searched.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import psycopg2
import pytest

from api.cli import main
from projections.migrations import migrate
from tests.persons.test_erasure import IDENTITY, World, _dumped, _restored, _world

Said = tuple[int, str, str]


@pytest.fixture
def world(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """A service with pseudonyms from the vault."""
    yield from _world(database_url, redis_url, tmp_path / "home", "vault")


@pytest.fixture
def tidebook(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Call a command on the service's store and keys."""
    for name, value in world.app.settings.as_environment().items():
        monkeypatch.setenv(name, value)

    def call(*words: object) -> Said:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return (status, *capsys.readouterr())

    return call


@pytest.fixture
def erasure(tidebook: Callable[..., Said]) -> Callable[..., Said]:
    """Call `tidebook erasure`."""
    return partial(tidebook, "erasure")


def checked(erasure: Callable[..., Said], person: str) -> tuple[int, Any]:
    """What `check --json` says."""
    status, out, _ = erasure("check", person, "--json")
    return status, json.loads(out)


def test_from_a_request_to_the_last_row(world: World, erasure: Callable[..., Said]) -> None:
    """Listed as asked for, then as done; checked before and after."""
    assert erasure("list") == (0, "nobody asked to be erased\n", "")
    world.give()
    person = world.person()
    status, found = checked(erasure, person)
    assert (status, found["readable"], found["links_in_vault"]) == (1, True, 1)
    world.request()
    world.app.project()
    assert f"{person} main " in erasure("list")[1]
    assert erasure("check", person)[:2] == (1, "main: erasing, 3 particulars sealed\nnot erased\n")
    world.erase()
    (row,) = json.loads(erasure("list", "--json")[1])
    assert (row["person"], row["book"], row["state"]) == (person, "main", "erased")
    status, found = checked(erasure, person)
    assert (status, found["erased"], found["rows_in_vault"]) == (0, True, False)
    assert found["books"] == [{"book": "main", "state": "erased", "sealed": 3}]
    assert "erased: nothing can be read\n" in erasure("check", person)[1]


def test_a_link_that_came_back_alone_is_found_and_removed(
    world: World, erasure: Callable[..., Said], database_url: str
) -> None:
    """A backup of one table says whose pseudonym it is; nothing else in the vault names it."""
    world.give()
    person = world.person()
    backup = _dumped(database_url)
    world.request()
    world.erase()
    _restored(database_url, backup)
    with world.app.datastore.transaction() as cursor:
        cursor.execute("DELETE FROM person_key; DELETE FROM person_suppression")
    status, found = checked(erasure, person)
    assert (status, found["rows_in_vault"], found["links_in_vault"]) == (1, False, 1)
    assert "tidebook erasure rotate" in erasure("check", person)[1]
    status, out, _ = erasure("rotate", "--json")
    rotated = json.loads(out)
    assert (status, rotated["rows"], rotated["destroyed"]) == (0, 1, [rotated["epoch"] - 1])
    assert checked(erasure, person)[0] == 0


def test_an_eraser_removes_a_link_without_its_key(
    world: World, erasure: Callable[..., Said], database_url: str
) -> None:
    """Restored while the erasure was under way: the identity is kept out as well."""
    world.give()
    world.app.open_campaign()
    person = world.person()
    world.request()
    with world.app.datastore.transaction() as cursor:
        cursor.execute("DELETE FROM person_key")
    world.erase()
    with world.app.datastore.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM person_suppression")
        assert cursor.fetchone() == (1,)
    assert checked(erasure, person)[0] == 0


def test_a_rotation_keeps_everybody_else(world: World, erasure: Callable[..., Said]) -> None:
    """Who was not erased signs in as the same person, with the same key."""
    world.give()
    person = world.person()
    key = world.key(person)
    status, out, _ = erasure("rotate")
    assert (status, out) == (0, "epoch 2: 2 rows wrapped anew, 1 older keys destroyed\n")
    world.app.service.tokens._seen.clear()
    assert (world.person(), world.key(person)) == (person, key)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["forget"], "list, check or rotate"),
        (["check"], "wants a person"),
        (["list", 32 * "a"], "nothing else, wants a person"),
        (["check", "me"], "PERSON"),
    ],
)
def test_what_is_wrong_is_said(erasure: Callable[..., Said], words: list[str], rule: str) -> None:
    """The word and its rule; nothing is done."""
    status, out, said = erasure(*words)
    assert (status, out) == (2, "")
    assert rule in said


def test_all_proofs_work_without_the_person(
    world: World, tidebook: Callable[..., Said], database_url: str, tmp_path: Path
) -> None:
    """Replayed, decided again, asked what if, rebuilt, verified and exported, as before.

    What was there to be seen of the person's coupon at a position before the erasure still is.
    """
    migrate(database_url)  # a copied database comes without its grants
    app = world.app
    campaign = app.open_campaign()
    coupon = app.claimed(campaign, IDENTITY)
    app.claimed(campaign, "somebody else")
    world.give()
    person, before = world.person(), app.events()
    words = ("replay", "--person", person, "--until", before, "--json")
    status, seen, _ = tidebook(*words)
    assert (status, coupon in seen) == (0, True)
    world.request()
    world.erase()
    assert tidebook(*words)[:2] == (0, seen)
    assert tidebook("reexecute")[0] == 0
    fewer = ("what-if", "--campaign", campaign, "--set", "quota=1", "--people", "--json")
    status, imagined, _ = tidebook(*fewer)
    assert (status, json.loads(imagined)["would"]["claimed"]) == (0, 1)
    assert tidebook("project", "--rebuild")[0] == 0
    assert tidebook("log", "--once")[0] == 0
    assert tidebook("verify")[0] == 0
    assert tidebook("export", tmp_path / "export")[0] == 0
    assert tidebook("verify", tmp_path / "export")[0] == 0


def test_no_file_of_the_database_has_what_was_given(world: World, database_url: str) -> None:
    """Not its tables, not its log of writes: all was sealed before it came there.

    Control: the same words, written as they are, are found in the same files.
    """
    phone, name = f"+86139{int(token_hex(3), 16) % 10**8:08}", f"Wang {token_hex(8)}"
    given = {"telephone": phone, "address": f"Street {token_hex(8)}", "payee_name": name}
    reply = world.app.post("/v1/me/particulars", given, token=world.me())
    assert reply.status_code == 200, reply.text
    words = [phone, name, given["address"]]
    assert found_in_files(database_url, words, world.app.settings.home) == set()
    world.request()
    world.erase()
    assert found_in_files(database_url, words, world.app.settings.home) == set()
    with psycopg2.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE public.plain (word text)")
        cursor.executemany("INSERT INTO public.plain VALUES (%s)", [(one,) for one in words])
    assert found_in_files(database_url, words, world.app.settings.home) == set(words)


def found_in_files(url: str, words: list[str], *folders: Path) -> set[str]:
    """Which of these words are in the files of the database or in a folder, plain or in base64."""
    with psycopg2.connect(url) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CHECKPOINT")
            cursor.execute("SHOW data_directory")
            (data,) = cursor.fetchone() or ()
    forms = {one: (one.encode(), b64encode(one.encode()).rstrip(b"=")) for one in words}
    found = set()
    for folder in (Path(data), *folders):
        for path in folder.rglob("*"):
            if path.is_file():
                try:
                    content = path.read_bytes()
                except OSError:
                    continue  # removed meanwhile
                found |= {one for one, ways in forms.items() if any(way in content for way in ways)}
    return found
