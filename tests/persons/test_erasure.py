"""Erasure from the request to the last copy: what is left of a person is what nobody can read.

Goal: I15, S49, S50. Method: a real service gives, shows and erases particulars; everything that is
stored, logged, hinted or backed up is searched; erasers are killed after each of their steps.
"""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg2
import pytest
import redis

from api.cli.projecting import runner_of
from api.vault.eraser import Eraser
from api.vault.keyring import Keyring
from api.vault.sealing import Place, Unsealable, seal, unseal
from campaigns.accounting import check_postings
from campaigns.event_types import MAPPER
from campaigns.persons.person import PERSON_FOLD, Person, person_id
from campaigns.verification import verify
from ledger.books import Book
from ledger.commit import GroupCommit
from ledger.datastore import Datastore
from ledger.history import History, dense
from projections.migrations import migrate as migrate_read_models
from projections.registry import PROJECTIONS
from projections.verification import verify as verify_read_models
from tests.api.harness import App, settings_for
from tests.api.test_privacy import everything_stored
from tests.docs.pages import REPOSITORY
from tests.projections.helpers import catch_up
from tests.support.groups import SENDER, GroupDesk

PHONE = "+8613800138000"
STREET = "海口市海府路 49 号"
NAME = "李 Xiaoming"
IDENTITY = "46020019990101123X"
GIVEN = {"telephone": PHONE, "address": STREET, "payee_name": NAME}
PLANTED = (PHONE, STREET, NAME, IDENTITY)
VAULT_TABLES = ("person_key", "person_link", "person_suppression")


class World:
    """A service of a ledger with a vault, and an eraser beside it."""

    def __init__(self, app: App) -> None:
        self.app = app

    @property
    def vault(self) -> Any:
        """The vault, as another process would open it."""
        return self.app.service.vault

    def me(self, identity: str = IDENTITY) -> str:
        """A token of the issuer: what the person signs in with each time."""
        return self.app.token("tourist", identity)

    def person(self, identity: str = IDENTITY) -> str:
        """The pseudonym that an identity has now."""
        reply = self.app.get("/v1/person", token=self.me(identity))
        assert reply.status_code == 200, reply.text
        name: str = reply.json()["person"]
        return name

    def give(self, **how: Any) -> Any:
        """Give the particulars."""
        return self.app.post("/v1/me/particulars", GIVEN, token=self.me(), **how)

    def request(self) -> Any:
        """Ask for the erasure."""
        return self.app.post("/v1/me/erasure", {"give_up": True}, token=self.me())

    def erase(self, after_s: float = 0) -> Any:
        """Let an eraser do one pass, some seconds after the request at the earliest."""
        self.app.project()
        writers = [
            GroupCommit(self.app.datastore, book, MAPPER, check=check_postings).start()
            for book in self.app.settings.books
        ]
        try:
            eraser = Eraser(
                self.app.datastore, writers, self.vault, after_s=after_s, shown_within_s=0
            )
            eraser._shown = self._project  # type: ignore[method-assign]
            return eraser.sweep()
        finally:
            for writer in writers:
                writer.close()
            self.app.project()

    def _project(self) -> bool:
        self.app.project()
        return True

    def state(self, person: str, book: str = "main") -> Person | None:
        """The person as a book has them."""
        known: Person | None = None
        history = History(self.app.datastore, book, MAPPER)
        for positioned in history.stream(person_id(person), history.head()):
            known = PERSON_FOLD.evolve(known, positioned.event)
        return known

    def key(self, person: str) -> bytes | None:
        """The person's key, if the ledger still has it."""
        with self.app.datastore.transaction() as cursor:
            key: bytes | None = self.vault.key(cursor, person)
        return key

    def suspension_ends(self, person: str) -> bool:
        """Whether the person is suspended, and not for ever."""
        with self.app.datastore.transaction() as cursor:
            cursor.execute(
                "SELECT until < 'infinity' FROM revocation WHERE subject = %s",
                (f"tourist:{person}",),
            )
            row = cursor.fetchone()
        return row is not None and bool(row[0])

    def findings(self) -> list[str]:
        """What a verification of the books finds."""
        found = []
        for book in self.app.settings.books:
            history = History(self.app.datastore, book, MAPPER)
            entries = dense(book, history.entries(), history.head())
            found += [finding.code for finding in verify(book, entries, history.standing())]
        return found


@pytest.fixture(params=["vault", "keyed"])
def world(
    request: pytest.FixtureRequest, database_url: str, redis_url: str, tmp_path: Path
) -> Iterator[World]:
    """A service, with each kind of pseudonyms."""
    yield from _world(database_url, redis_url, tmp_path, request.param)


@pytest.fixture
def vaulted(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """A service with pseudonyms from the vault."""
    yield from _world(database_url, redis_url, tmp_path, "vault")


@pytest.fixture
def two_books(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """The same with two books."""
    yield from _world(database_url, redis_url, tmp_path, "vault", books=("main", "side"))


def _world(
    database_url: str, redis_url: str, home: Path, mode: str, **more: Any
) -> Iterator[World]:
    app = App(settings_for(database_url, redis_url, home, persons=mode, erasure_after_s=0, **more))
    try:
        yield World(app)
    finally:
        app.close()


def test_an_erasure_waits_for_seconds_and_no_longer(world: World) -> None:
    """Every server has to hear first that the sessions have ended; then it is done."""
    assert world.give().status_code == 200
    person = world.person()
    assert world.request().status_code == 202
    assert world.erase(after_s=600).waiting == 1
    time.sleep(1.1)
    assert world.erase(after_s=1).erased == (person,)
    assert world.key(person) is None


def test_a_life_from_particulars_to_erasure(world: World, redis_url: str) -> None:
    """What one gave is read by oneself, by an operator who says why, and by nobody afterwards."""
    app = world.app
    campaign = app.open_campaign()
    coupon = app.claimed(campaign, IDENTITY)
    first = world.give(key="given")
    assert first.status_code == 200, first.text
    again = world.give(key="given")
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    mine = app.get("/v1/me/particulars", token=world.me()).json()
    assert {field: mine[field] for field in GIVEN} == GIVEN

    person, name = world.person(), mine["person"]
    operator = app.token("operator", "operator one")
    looked = app.get(f"/v1/persons/{name}/particulars", token=operator).json()
    assert [looked[field] for field in GIVEN] == [None] * 3
    wanted = {"fields": ["telephone"], "purpose": "delivery"}
    asked = app.post(f"/v1/persons/{name}/inspections", wanted, token=operator)
    assert asked.status_code == 201, asked.text
    looked = app.get(f"/v1/persons/{name}/particulars", token=operator).json()
    assert (looked["telephone"], looked["address"]) == (PHONE, None)
    other = app.get(f"/v1/persons/{name}/particulars", token=app.token("operator", "two")).json()
    assert other["telephone"] is None
    (inspection,) = app.get("/v1/me/particulars", token=world.me()).json()["inspections"]
    assert inspection["purpose"] == "delivery"

    assert world.request().status_code == 202
    refused = app.get("/v1/wallet", token=world.me())
    assert refused.json()["code"] == "suspended"
    done = world.erase()
    assert (done.erased, done.given_up) == ((person,), 1)
    known = world.state(person)
    assert known is not None
    assert known.state == "erased"
    assert world.key(person) is None
    looked = app.get(f"/v1/persons/{name}/particulars", token=operator).json()
    assert looked["state"] == "erased"
    assert [looked[field] for field in GIVEN] == [None] * 3
    seen = app.get(f"/v1/coupons/{coupon}", token=operator).json()
    assert seen["state"] == "voided"

    with redis.Redis.from_url(redis_url) as client:
        hinted = str([(key, client.dump(key)) for key in client.scan_iter()])
    stored = everything_stored(str(app.settings.database_url.get_secret_value()))  # type: ignore[union-attr]
    for planted in PLANTED:
        assert planted not in stored + hinted
    assert world.findings() == []
    migrate_read_models(str(app.settings.database_url.get_secret_value()))  # type: ignore[union-attr]
    assert verify_read_models(app.datastore) == []


def test_whoever_was_erased_cannot_claim_again_while_that_campaign_is_open(world: World) -> None:
    """The identity is kept out until the claim window has ended, and is a new person then."""
    campaign = world.app.open_campaign()
    before = world.person()
    world.app.claimed(campaign, IDENTITY)
    world.request()
    world.erase()
    world.app.service.tokens._seen.clear()
    refused = world.app.claim(campaign, IDENTITY)
    assert refused.status_code == 403
    assert refused.json()["code"] in ("person_erased", "suspended")
    with world.app.datastore.transaction() as cursor:
        cursor.execute("UPDATE person_suppression SET until = now()")
        cursor.execute("DELETE FROM revocation")
    world.app.loop.run(world.app.service.in_store(world.app.service.sessions.revocations.read))
    assert world.person() != before


def test_an_operator_alone_erases_nobody(vaulted: World) -> None:
    """On behalf of a person it takes two, and what is approved is what was proposed."""
    app = vaulted.app
    name = f"per_main_{vaulted.person()}"
    one, two = app.token("operator", "one"), app.token("operator", "two")
    basis = {"basis": "guardian"}
    path = f"/v1/persons/{name}/erasure"
    early = app.post(f"{path}/approval", basis, token=two)
    assert early.json()["code"] == "no_erasure_proposed"
    assert app.post(path, basis, token=one).status_code == 202
    assert app.post(f"{path}/approval", basis, token=one).json()["code"] == "self_approval"
    changed = app.post(f"{path}/approval", {"basis": "legal_duty"}, token=two)
    assert changed.json()["code"] == "erasure_changed"
    assert app.post(f"{path}/approval", basis, token=two).status_code == 202
    assert app.post(path, basis, token=one).json()["code"] == "erasure_begun"
    assert len(vaulted.erase().erased) == 1
    assert app.post(path, basis, token=one).json()["code"] == "person_erased"
    assert vaulted.findings() == []


@pytest.mark.fault
@pytest.mark.parametrize("ledger", ["vaulted", "two_books"])
def test_no_death_leaves_somebody_erased_and_readable(
    request: pytest.FixtureRequest, database_url: str, ledger: str
) -> None:
    """Killed after each step, an eraser has recorded nothing that is not so; the next one ends it.

    In front of each step the state is looked at: who is recorded as erased has no key. In a ledger
    of several books all of them end with the erasure, and nothing is held in any.
    """
    vaulted: World = request.getfixturevalue(ledger)
    app = vaulted.app
    books = app.settings.books
    coupons = [app.claimed(app.open_campaign(book=book), IDENTITY) for book in books]
    vaulted.give()
    person = vaulted.person()
    vaulted.request()
    secret = app.settings.pseudonym_secret().hex()
    folder = str(app.settings.vault_folder)
    codes = []
    with _projected(app):
        for fatal in range(1, 15):
            done = subprocess.run(
                [sys.executable, "-m", "tests.persons.dying", database_url, folder, secret,
                 str(fatal), *app.settings.books],
                cwd=REPOSITORY, capture_output=True, check=False,
            )  # fmt: skip
            states = [vaulted.state(person, book) for book in books]
            if any(known is not None and known.state == "erased" for known in states):
                assert vaulted.key(person) is None
                assert vaulted.suspension_ends(person)
            codes.append(done.returncode)
            if done.returncode == 0:
                break
            assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert codes[-1] == 0
    vaulted.erase()
    for book, coupon in zip(books, coupons, strict=True):
        known = vaulted.state(person, book)
        assert known is not None
        assert known.state == "erased"
        seen = app.get(f"/v1/coupons/{coupon}", token=app.token("operator")).json()
        assert seen["state"] == "voided"
    assert vaulted.key(person) is None
    assert vaulted.findings() == []


def test_a_backup_does_not_bring_a_key_back(vaulted: World, database_url: str) -> None:
    """S50: the rows of the vault are restored, and neither the service nor anybody opens them.

    First the list of the erased stands in the way; after a rotation no key is left at all. The
    control takes the list away before that, and then the old rows open.
    """
    vaulted.give()
    person = vaulted.person()
    backup = _dumped(database_url)
    vaulted.request()
    vaulted.erase()
    sealed = vaulted.state(person).sealed["telephone"]  # type: ignore[union-attr]
    _restored(database_url, backup)
    assert vaulted.key(person) is None
    folder = vaulted.app.settings.vault_folder
    control = Keyring(folder.parent / "control")
    shutil.copytree(folder, control.folder)
    (control.folder / "erased").unlink()
    assert _opens(vaulted, control, person, sealed)

    vaulted.erase()
    with vaulted.app.datastore.transaction() as cursor:
        assert not vaulted.vault.has_rows(cursor, person)
    with vaulted.app.datastore.transaction() as cursor:
        epoch = vaulted.vault.begin_epoch(cursor)
    with vaulted.app.datastore.transaction() as cursor:
        while vaulted.vault.rewrap(cursor, epoch, 10):
            pass
    vaulted.vault.keyring.destroy(epoch - 1)
    _restored(database_url, backup)
    blind = Keyring(folder)
    blind.erased = frozenset  # type: ignore[method-assign]
    assert not _opens(vaulted, blind, person, sealed)


def _opens(world: World, keyring: Keyring, person: str, sealed: str) -> bool:
    """Whether somebody with this keyring and the restored rows can read a particular."""
    vault = type(world.vault)(keyring, world.app.settings.pseudonym_secret(), "vault")
    with world.app.datastore.transaction() as cursor:
        key = vault.key(cursor, person)
    return key is not None and unseal(key, sealed, Place("main", person, "telephone")) == PHONE


def test_a_sealed_text_opens_in_its_own_place_only() -> None:
    """Another book, person, field or key opens nothing, and neither does a changed text."""
    place = Place("main", "ab" * 16, "telephone")
    sealed = seal(bytes(32), PHONE, place, bytes(16))
    assert unseal(bytes(32), sealed, place) == PHONE
    assert len(sealed) == len(seal(bytes(32), "+861380013800", place, bytes(16)))
    wrong = [
        (bytes(32), sealed, place._replace(book="other")),
        (bytes(32), sealed, place._replace(person="cd" * 16)),
        (bytes(32), sealed, place._replace(field="address")),
        (bytes([1] * 32), sealed, place),
        (bytes(32), sealed[:-2] + "AA", place),
        (bytes(32), "", place),
    ]
    for key, text, where in wrong:
        with pytest.raises(Unsealable):
            unseal(key, text, where)


def _dumped(url: str) -> dict[str, str]:
    """A backup of the vault's tables."""
    found = {}
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for table in VAULT_TABLES:
            rows = io.StringIO()
            cursor.copy_expert(f"COPY tidebook.{table} TO STDOUT", rows)
            found[table] = rows.getvalue()
    return found


def _restored(url: str, backup: dict[str, str]) -> None:
    """Put a backup back in place of what is there."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        for table, rows in backup.items():
            cursor.execute(f"DELETE FROM tidebook.{table}")
            cursor.copy_expert(f"COPY tidebook.{table} FROM STDIN", io.StringIO(rows))


@contextmanager
def _projected(app: App) -> Iterator[None]:
    """Read models that are kept up for the length of a block."""
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=runner_of(app.datastore, one, "main").run, args=(stop,), daemon=True
        )
        for one in PROJECTIONS
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_purses_that_are_empty_hide_none_that_is_not(
    datastore: Datastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many purses a person has, and in whatever order: all pages are read."""
    monkeypatch.setattr("api.vault.eraser.BATCH", 1)
    desk = GroupDesk(datastore)
    try:
        full = desk.purse(500, name="full")
        for name in ("empty", "emptier"):
            assert desk.empty(desk.purse(500, name=name)).code == "purse_emptied"
        catch_up(datastore)
        eraser = Eraser(datastore, [desk.writer], cast("Any", None), after_s=0)
        assert [thing for thing, _ in eraser._held(Book("main"), SENDER)] == [full]
    finally:
        desk.close()
