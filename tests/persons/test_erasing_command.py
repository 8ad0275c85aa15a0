"""`tidebook erasure`: what it lists, what it finds, and what a rotation leaves.

Goal: whoever relies on the command is told when anything can still be read or linked. Method: a
real service erases somebody; rows are brought back from a backup, all of them and a part; the bytes
of all files are searched.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import psycopg2
import pytest

from api.cli import main
from tests.persons.test_erasure import World, _dumped, _restored, _world

Said = tuple[int, str, str]


@pytest.fixture
def world(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """A service with pseudonyms from the vault."""
    yield from _world(database_url, redis_url, tmp_path / "home", "vault")


@pytest.fixture
def tidebook(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Call the command on the service's store and keys."""
    for name, value in world.app.settings.as_environment().items():
        monkeypatch.setenv(name, value)

    def call(*words: str) -> Said:
        capsys.readouterr()
        status = main(["erasure", *words])
        return (status, *capsys.readouterr())

    return call


def checked(tidebook: Callable[..., Said], person: str) -> tuple[int, Any]:
    """What `check --json` says."""
    status, out, _ = tidebook("check", person, "--json")
    return status, json.loads(out)


def test_from_a_request_to_the_last_row(world: World, tidebook: Callable[..., Said]) -> None:
    """Listed as asked for, then as done; checked before and after."""
    assert tidebook("list") == (0, "nobody asked to be erased\n", "")
    world.give()
    person = world.person()
    status, found = checked(tidebook, person)
    assert (status, found["readable"], found["links_in_vault"]) == (1, True, 1)
    world.request()
    world.app.project()
    assert f"{person} main " in tidebook("list")[1]
    assert tidebook("check", person)[:2] == (1, "main: erasing, 3 particulars sealed\nnot erased\n")
    world.erase()
    (row,) = json.loads(tidebook("list", "--json")[1])
    assert (row["person"], row["book"], row["state"]) == (person, "main", "erased")
    status, found = checked(tidebook, person)
    assert (status, found["erased"], found["rows_in_vault"]) == (0, True, False)
    assert found["books"] == [{"book": "main", "state": "erased", "sealed": 3}]
    assert "erased: nothing can be read\n" in tidebook("check", person)[1]


def test_a_link_that_came_back_alone_is_found_and_removed(
    world: World, tidebook: Callable[..., Said], database_url: str
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
    status, found = checked(tidebook, person)
    assert (status, found["rows_in_vault"], found["links_in_vault"]) == (1, False, 1)
    assert "tidebook erasure rotate" in tidebook("check", person)[1]
    status, out, _ = tidebook("rotate", "--json")
    rotated = json.loads(out)
    assert (status, rotated["rows"], rotated["destroyed"]) == (0, 1, [rotated["epoch"] - 1])
    assert checked(tidebook, person)[0] == 0


def test_an_eraser_removes_a_link_without_its_key(
    world: World, tidebook: Callable[..., Said], database_url: str
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
    assert checked(tidebook, person)[0] == 0


def test_a_rotation_keeps_everybody_else(world: World, tidebook: Callable[..., Said]) -> None:
    """Who was not erased signs in as the same person, with the same key."""
    world.give()
    person, key = world.person(), None
    key = world.key(person)
    status, out, _ = tidebook("rotate")
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
def test_what_is_wrong_is_said(tidebook: Callable[..., Said], words: list[str], rule: str) -> None:
    """The word and its rule; nothing is done."""
    status, out, said = tidebook(*words)
    assert (status, out) == (2, "")
    assert rule in said


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
