"""The log of a book: built behind the writers, signed once a size, and never against itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from uuid import UUID

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ledger.datastore import Datastore
from ledger.merkle import EMPTY_ROOT, leaf_hashes, root_of
from ledger.requests import StoreUnavailable
from ledger.transparency import guard, store
from ledger.transparency.checkpoints import Checkpoint
from ledger.transparency.copying import copy_entries, copy_leaf_hashes
from ledger.transparency.follower import Follower
from ledger.transparency.guard import Damaged
from ledger.transparency.keys import (
    Contradiction,
    HeadFile,
    KeyFile,
    NoKeys,
    Regress,
    SignerFiles,
)
from ledger.transparency.leaves import DIGEST, WHOLE, Leaf, decode_entry, encode_entry
from ledger.transparency.notes import ED25519, Signer, signed_note, verified
from ledger.transparency.store import LogHeld, LogLost
from ledger.transparency.texts import Malformed
from ledger.transparency.tiles import hashes_in, tiles_of
from tests.conftest import Databases
from tests.support.desk import Desk

ORIGIN = "ledger.example/main"
KEY = Signer(ORIGIN, ED25519, bytes(range(32)))
BOOK = "main"


def append(datastore: Datastore, count: int, book: str = BOOK) -> None:
    """Store so many events at the next positions."""
    with datastore.transaction() as curs:
        curs.execute("INSERT INTO book_head (book) VALUES (%s) ON CONFLICT DO NOTHING", (book,))
        curs.execute(
            "UPDATE book_head SET position = position + %s WHERE book = %s RETURNING position",
            (count, book),
        )
        (last,) = curs.fetchone()
        curs.execute(
            "INSERT INTO event (book, position, originator_id, originator_version, topic, state)"
            " SELECT %s, n, md5(n::text)::uuid, 1, 'thing.done', convert_to('{\"n\":' || n || '}',"
            " 'UTF8') FROM generate_series(%s, %s) AS n",
            (book, last - count + 1, last),
        )


def entry(position: int) -> bytes:
    """The entry of the event that `append` stores at a position."""
    import hashlib

    stream = UUID(hashlib.md5(str(position).encode()).hexdigest())
    return encode_entry(BOOK, position, stream, 1, "thing.done", b'{"n":%d}' % position)


def root(size: int) -> bytes:
    """The root over the first events that `append` stores."""
    return root_of(leaf_hashes(entry(position) for position in range(1, size + 1)))


@contextmanager
def as_owner(url: str) -> Iterator[Any]:
    """The database's owner, with the triggers off."""
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as curs:
        curs.execute("SET search_path TO tidebook; SET session_replication_role = replica")
        yield curs


def flip(url: str, position: int) -> None:
    """Change one byte of a stored event."""
    with as_owner(url) as curs:
        curs.execute(
            "UPDATE event SET state = set_byte(state, 1, get_byte(state, 1) # 1)"
            " WHERE book = 'main' AND position = %s",
            (position,),
        )


def signed(datastore: Datastore) -> list[tuple[int, bytes]]:
    """Every size that was signed, with its root."""
    with datastore.transaction() as curs:
        curs.execute("SELECT size, root FROM log_checkpoint WHERE book = 'main' ORDER BY size")
        return [(size, bytes(found)) for size, found in curs.fetchall()]


def published(datastore: Datastore) -> Checkpoint:
    """The checkpoint that is served; its signature by the log's key holds."""
    with datastore.transaction() as curs:
        note = store.published(curs, BOOK)
    assert note is not None
    assert verified(note, [KEY.verifier])
    return Checkpoint.parse(note.text)


def check(datastore: Datastore, *heads: Checkpoint) -> None:
    """Look whether the store extends what was signed of it."""
    with datastore.transaction() as curs:
        guard.check(curs, BOOK, heads)


@pytest.fixture
def memory(tmp_path: Path) -> SignerFiles:
    """A signer's files with one key."""
    files = SignerFiles(tmp_path / "log", BOOK)
    files.keys.make(KEY)
    return files


MakeFollower = Callable[..., Follower]


@pytest.fixture
def make(datastore: Datastore, memory: SignerFiles) -> MakeFollower:
    """Make a follower of the book: `make("a", page_events=10)`."""

    def made(holder: str = "a", **how: Any) -> Follower:
        return Follower(datastore, BOOK, holder, how.pop("memory", memory), **how)

    return made


# --- leaves -----------------------------------------------------------------------------------


def test_the_bytes_of_an_entry_are_final() -> None:
    """What was signed is what they hash to: this test never changes."""
    stream = UUID("0f8fad5b-d9cb-5c1a-8a5f-3b1c2d3e4f50")
    found = encode_entry("main", 4711, stream, 2, "coupon.claimed", b'{"at":1}')
    assert found.hex() == (
        "01046d61696e"
        "0000000000001267"
        "0f8fad5bd9cb5c1a8a5f3b1c2d3e4f50"
        "00000002"
        "000e636f75706f6e2e636c61696d6564"
        "7b226174223a317d"
    )


@given(
    st.integers(0, 2**63 - 1),
    st.uuids(),
    st.integers(0, 2**31 - 1),
    st.text(max_size=40),
    st.binary(max_size=200) | st.just(bytes(70_000)),
)
def test_an_entry_is_read_back(
    position: int, stream: UUID, version: int, topic: str, state: bytes
) -> None:
    """A state that is too long for a bundle is there by its hash."""
    try:
        topic.encode()
    except UnicodeEncodeError:
        return
    found = encode_entry("book1", position, stream, version, topic, state)
    leaf = decode_entry(found)
    assert leaf[1:6] == ("book1", position, stream, version, topic)
    assert leaf.stands_for(state)
    assert not leaf.stands_for(state + b"!")
    assert leaf.form == (WHOLE if len(state) < 60_000 else DIGEST)
    assert len(found) <= 65_535


@given(st.binary(max_size=100), st.integers(0, 50))
def test_no_bytes_crash_the_reader_of_entries(noise: bytes, cut: int) -> None:
    """Anything is a leaf or `Malformed`."""
    for data in (noise, entry(1)[:cut] + noise, entry(1)[:cut]):
        try:
            assert isinstance(decode_entry(data), Leaf)
        except Malformed:
            continue


def test_entries_come_from_the_database_as_they_are_encoded(datastore: Datastore) -> None:
    """The bytes of columns are those of an entry, long states too."""
    append(datastore, 3)
    with datastore.transaction() as curs:
        curs.execute(
            "INSERT INTO event (book, position, originator_id, originator_version, topic, state)"
            " VALUES ('main', 4, %s, 7, '主题', %s)",
            (UUID(int=5), bytes(66_000)),
        )
        rows = copy_entries(curs, BOOK, 1, 4)
        hashes = copy_leaf_hashes(curs, BOOK, 1, 4)
    long = encode_entry(BOOK, 4, UUID(int=5), 7, "主题", bytes(66_000))
    assert rows == [(2, entry(2)), (3, entry(3)), (4, long)]
    assert hashes == leaf_hashes([entry(2), entry(3), long])


def test_leaf_hashes_end_where_an_event_is_missing(datastore: Datastore) -> None:
    """So that no hash stands at another place than its event's."""
    append(datastore, 5)
    with as_owner(datastore.url) as curs:
        curs.execute("DELETE FROM event WHERE position = 3")
    with datastore.transaction() as curs:
        assert copy_leaf_hashes(curs, BOOK, 0, 5) == leaf_hashes([entry(1), entry(2)])
        assert copy_leaf_hashes(curs, BOOK, 2, 5) == []


# --- following --------------------------------------------------------------------------------


def test_an_empty_book_has_a_signed_head(datastore: Datastore, make: MakeFollower) -> None:
    """Of size 0, with the root that the RFC gives the empty tree."""
    assert make().run_once() == (0, 0, 0)
    assert published(datastore) == Checkpoint(ORIGIN, 0, EMPTY_ROOT)


def test_the_log_is_the_tree_over_the_stored_events(
    datastore: Datastore, make: MakeFollower
) -> None:
    """In whatever steps it grows, by one follower or the next, with all its tiles."""
    size = 0
    for round_, count in enumerate((1, 254, 1, 1, 300, 0, 700)):
        append(datastore, count)
        size += count
        follower = make("a" if round_ % 2 else "b", page_events=200, ttl_s=0)
        assert follower.run_once() == (size, size, size)
        assert published(datastore) == Checkpoint(ORIGIN, size, root(size))
    assert [one for one, _ in signed(datastore)] == [1, 255, 256, 257, 557, 1257]
    leaves = leaf_hashes(entry(position) for position in range(1, size + 1))
    with datastore.transaction() as curs:
        read = store.tile_reader(curs, BOOK)
        for tile in tiles_of(size):
            (stored,) = read([(tile.level or 0, tile.number)])
            assert len(hashes_in(stored)) == tile.width
            if tile.level == 0:
                assert hashes_in(stored) == leaves[tile.number * 256 :][:256]
        check(datastore)


def test_a_follower_runs_until_it_is_stopped(datastore: Datastore, make: MakeFollower) -> None:
    """And lets the next one in at once."""
    stop = threading.Event()
    first = make("a")
    thread = threading.Thread(target=first.run, args=(stop, 0.01))
    thread.start()
    append(datastore, 20)
    while not signed(datastore) or signed(datastore)[-1][0] < 20:
        stop.wait(0.01)
    with pytest.raises(LogHeld):
        make("b").run_once()
    stop.set()
    thread.join(10)
    assert make("b").run_once().size == 20


def test_a_follower_with_nothing_to_do_writes_nothing_until_its_log_is_to_be_held(
    datastore: Datastore, make: MakeFollower
) -> None:
    """And so keeps others away as long as it lives."""
    clock = [0.0]
    follower = make(monotonic=lambda: clock[0])
    append(datastore, 3)
    assert follower.run_once() == (3, 3, 3)

    def expires_at() -> Any:
        with datastore.transaction() as curs:
            curs.execute("SELECT expires_at FROM log_head WHERE book = %s", (BOOK,))
            return curs.fetchone()[0]

    held_until = expires_at()
    assert follower.run_once() == (3, 3, 3)
    assert expires_at() == held_until
    clock[0] += store.LEASE_TTL_S / 2
    assert follower.run_once() == (3, 3, 3)
    assert expires_at() > held_until
    append(datastore, 1)
    assert follower.run_once() == (4, 4, 4)


def test_keys_change_without_a_break(
    datastore: Datastore, make: MakeFollower, memory: SignerFiles
) -> None:
    """Two keys sign, then the new one alone; who signed is remembered."""
    follower = make()
    follower.run_once()
    fresh = Signer(ORIGIN, ED25519, bytes(32))
    memory.keys.add(fresh)
    append(datastore, 5)
    follower.run_once()
    with datastore.transaction() as curs:
        note = store.published(curs, BOOK)
    assert note is not None
    assert len(verified(note, [KEY.verifier, fresh.verifier])) == 2
    memory.keys.retire(KEY.verifier.key_id.hex())
    append(datastore, 5)
    follower.run_once()
    with datastore.transaction() as curs:
        note = store.published(curs, BOOK)
        assert store.keys_of(curs, BOOK) == [KEY.verifier, fresh.verifier]
    assert note is not None
    assert [one.key_id for one in note.signatures] == [fresh.verifier.key_id]
    with pytest.raises(NoKeys):
        memory.keys.retire(fresh.verifier.key_id.hex())


# --- two at once ------------------------------------------------------------------------------


def test_a_follower_that_slept_past_its_time_is_refused(
    datastore: Datastore, database_url: str, make: MakeFollower
) -> None:
    """What it has read and hashed meanwhile changes nothing; there is one root a size."""
    append(datastore, 10)
    late, next_ = make("late", ttl_s=0), make("next", ttl_s=0)
    late.run_once()
    append(datastore, 10)
    rows = late.read()
    flip(database_url, 15)
    next_.run_once()
    with pytest.raises(LogLost):
        late.write(rows)
    assert [size for size, _ in signed(datastore)] == [10, 20]


def test_without_its_guards_a_log_would_have_two_roots_for_one_size(
    datastore: Datastore,
    database_url: str,
    make: MakeFollower,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: no fence, no unique size, no memory; then the late one signs another root."""
    append(datastore, 10)
    forgetful = SignerFiles(tmp_path / "other", BOOK)
    forgetful.keys.make(KEY)
    late, next_ = make("late", ttl_s=0, memory=forgetful), make("next", ttl_s=0)
    late.run_once()
    append(datastore, 10)
    rows = late.read()
    flip(database_url, 15)
    next_.run_once()
    with as_owner(database_url) as curs:
        curs.execute("ALTER TABLE log_checkpoint DROP CONSTRAINT log_checkpoint_pkey")
        curs.execute("DROP TRIGGER log_tile_only_grows ON log_tile")
    monkeypatch.setattr(
        store, "fence", lambda curs, book, head, size, ttl_s: head._replace(size=size)
    )
    late.write(rows)
    late._sign()
    assert [size for size, _ in signed(datastore)] == [10, 20, 20]
    assert signed(datastore)[1] != signed(datastore)[2]


@pytest.mark.parametrize("guard_left", ["primary key", "memory", "tiles"])
def test_each_guard_alone_keeps_the_second_root_away(
    datastore: Datastore,
    database_url: str,
    make: MakeFollower,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    guard_left: str,
) -> None:
    """Without the fence: a size has one root, a tile only grows, and the signer remembers."""
    append(datastore, 10)
    other = SignerFiles(tmp_path / "other", BOOK)
    other.keys.make(KEY)
    memory = {} if guard_left == "memory" else {"memory": other}
    late, next_ = make("late", ttl_s=0, **memory), make("next", ttl_s=0)
    late.run_once()
    append(datastore, 10)
    rows = late.read()
    flip(database_url, 15)
    next_.run_once()
    with as_owner(database_url) as curs:
        if guard_left != "primary key":
            curs.execute("ALTER TABLE log_checkpoint DROP CONSTRAINT log_checkpoint_pkey")
        if guard_left != "tiles":
            curs.execute("DROP TRIGGER log_tile_only_grows ON log_tile")
    monkeypatch.setattr(
        store, "fence", lambda curs, book, head, size, ttl_s: head._replace(size=size)
    )
    with pytest.raises(Exception, match=r"signed again|duplicate key|append only"):
        _write_and_sign(late, rows)
    assert len({size for size, _ in signed(datastore)}) == len(signed(datastore))


def _write_and_sign(follower: Follower, rows: Any) -> None:
    follower.write(rows)
    follower._sign()


def test_nobody_changes_what_the_log_keeps(datastore: Datastore, make: MakeFollower) -> None:
    """Neither the application's role nor, past its grants, anybody with the triggers on."""
    append(datastore, 300)
    make().run_once()
    for statement in (
        "UPDATE log_checkpoint SET root = %s",
        "DELETE FROM log_checkpoint",
        "DELETE FROM log_tile",
        "UPDATE log_tile SET hashes = substr(hashes, 33) WHERE length(hashes) > 32",
        "UPDATE log_head SET size = 0",
    ):
        with pytest.raises(Exception, match=r"append only|permission denied"):
            _run(datastore, statement)


def _run(datastore: Datastore, statement: str) -> None:
    with datastore.transaction() as curs:
        curs.execute(statement, (bytes(32),) if "%s" in statement else ())


def test_a_follower_that_woke_up_while_signing_does_no_harm(
    datastore: Datastore, make: MakeFollower, memory: SignerFiles
) -> None:
    """It was cut off by the database, and others went on: it gives up, and the book goes on."""
    append(datastore, 10)
    late = make("late", ttl_s=0)
    late.run_once()
    append(datastore, 5)
    late.write(late.read())
    memory.keep(signed_note(Checkpoint(ORIGIN, 20, root(20)).text, [KEY]))
    append(datastore, 5)
    with pytest.raises(LogLost):
        late._sign()
    with datastore.transaction() as curs:
        assert guard.halted(curs, BOOK) is None
    assert make("next", ttl_s=0).run_once() == (20, 20, 20)


class Followers(RuleBasedStateMachine):
    """Two followers that freeze anywhere, and writers: what is signed is one line of heads."""

    databases: ClassVar[Databases]

    def __init__(self) -> None:
        super().__init__()
        self.url = self.databases.create()
        self.datastore = Datastore(self.url)
        self.directory = TemporaryDirectory()
        self.memory = SignerFiles(Path(self.directory.name), BOOK)
        self.memory.keys.make(KEY)
        self.followers = {name: self._new(name) for name in "ab"}
        self.frozen: dict[str, Any] = {}

    def _new(self, name: str) -> Follower:
        return Follower(self.datastore, BOOK, name, self.memory, ttl_s=0, page_events=7)

    @rule(count=st.integers(1, 20))
    def write(self, count: int) -> None:
        """Events are stored."""
        append(self.datastore, count)

    @rule(name=st.sampled_from("ab"))
    def run_a_round(self, name: str) -> None:
        """A follower does a whole round, whoever held the log before."""
        self.frozen.pop(name, None)
        with suppress(LogLost):
            self.followers[name].run_once()

    @rule(name=st.sampled_from("ab"))
    def freeze(self, name: str) -> None:
        """A follower that holds the log reads, and stops there."""
        if self.followers[name]._head is not None:
            self.frozen[name] = self.followers[name].read()

    @rule(name=st.sampled_from("ab"))
    def wake(self, name: str) -> None:
        """It goes on with what it has read."""
        rows = self.frozen.pop(name, None)
        if rows is not None:
            try:
                self.followers[name].write(rows)
                self.followers[name]._sign()
            except LogLost:
                self.followers[name] = self._new(name)

    @rule(name=st.sampled_from("ab"))
    def crash(self, name: str) -> None:
        """A follower is gone, and begins anew with what is stored."""
        self.frozen.pop(name, None)
        self.followers[name] = self._new(name)

    @invariant()
    def what_is_signed_is_the_log_of_the_events(self) -> None:
        """Each signed root is that of the first events, and the memory is the last of them."""
        heads = signed(self.datastore)
        assert all(found == root(size) for size, found in heads)
        head = self.memory.head()
        assert head is None or Checkpoint.parse(head.text) == Checkpoint(ORIGIN, *heads[-1])

    def teardown(self) -> None:
        """Drop the database."""
        self.datastore.close()
        self.databases.drop(self.url)
        self.directory.cleanup()


def test_whatever_followers_do_there_is_one_line_of_heads(databases: Databases) -> None:
    """Any interleaving of reading, writing, signing, freezing and crashing."""
    Followers.databases = databases
    limits = settings(max_examples=6, stateful_step_count=14, deadline=None)
    run_state_machine_as_test(Followers, settings=limits)


# --- damage -----------------------------------------------------------------------------------


def test_a_store_restored_from_an_older_copy_takes_no_events(
    databases: Databases, memory: SignerFiles
) -> None:
    """The signer remembers a head that the copy does not lead to, and halts its book."""
    with databases.fresh() as url:
        datastore = Datastore(url)
        append(datastore, 10)
        Follower(datastore, BOOK, "a", memory, ttl_s=0).run_once()
        datastore.close()
        older = databases.copy_of(url)
        datastore = Datastore(url)
        append(datastore, 5)
        Follower(datastore, BOOK, "b", memory, ttl_s=0).run_once()
        datastore.close()
        restored = Datastore(older)
        try:
            append(restored, 3)
            with pytest.raises(Damaged, match="15 leaves was signed"):
                Follower(restored, BOOK, "c", memory, ttl_s=0).run_once()
            with pytest.raises(Exception, match="halted"):
                append(restored, 1)
        finally:
            restored.close()
            databases.drop(older)


def test_a_restored_store_that_was_written_on_is_found_out(
    databases: Databases, memory: SignerFiles, database_url: str
) -> None:
    """As long as the other one and longer, but with other events: another root."""
    datastore = Datastore(database_url)
    append(datastore, 20)
    memory.keep(signed_note(Checkpoint(ORIGIN, 15, bytes(32)).text, [KEY]))
    with pytest.raises(Damaged, match="another root"):
        Follower(datastore, BOOK, "c", memory).run_once()
    assert signed(datastore) == []
    datastore.close()


def test_a_log_that_lost_its_end_makes_it_again(
    datastore: Datastore, database_url: str, make: MakeFollower, memory: SignerFiles
) -> None:
    """After a crash of the database the log may be behind what was signed: it catches up first."""
    append(datastore, 300)
    make("a", ttl_s=0).run_once()
    with as_owner(database_url) as curs:
        curs.execute("UPDATE log_head SET size = 260, published = NULL, published_size = NULL")
        curs.execute("UPDATE log_tile SET hashes = substr(hashes, 1, 128) WHERE number = 1")
        curs.execute("DELETE FROM log_checkpoint")
    check(datastore, Checkpoint(ORIGIN, 300, root(300)))
    assert make("b").run_once() == (300, 300, 300)
    assert signed(datastore) == [(300, root(300))]


@pytest.mark.parametrize("position", [257, 299, 300])
def test_a_changed_byte_near_the_end_is_found_at_the_start(
    datastore: Datastore, database_url: str, make: MakeFollower, position: int
) -> None:
    """And named by its position."""
    append(datastore, 300)
    make("a", ttl_s=0).run_once()
    flip(database_url, position)
    with pytest.raises(Damaged, match=f"another event at position {position}"):
        make("b").run_once()


def test_a_missing_event_ends_the_following(
    datastore: Datastore, database_url: str, make: MakeFollower
) -> None:
    """A gap is damage; the events before it stay signed."""
    append(datastore, 10)
    follower = make()
    follower.run_once()
    append(datastore, 10)
    with as_owner(database_url) as curs:
        curs.execute("DELETE FROM event WHERE position = 14")
    with pytest.raises(Damaged, match="no position 14"):
        follower.run_once()
    with datastore.transaction() as curs:
        assert guard.halted(curs, BOOK) == "has no position 14"
    assert [size for size, _ in signed(datastore)] == [10]


def test_a_tile_that_was_changed_is_damage(
    datastore: Datastore, database_url: str, make: MakeFollower
) -> None:
    """The root over it is not the one that was signed."""
    append(datastore, 600)
    make("a", ttl_s=0).run_once()
    with as_owner(database_url) as curs:
        curs.execute(
            "UPDATE log_tile SET hashes = set_byte(hashes, 5, get_byte(hashes, 5) # 1)"
            " WHERE level = 1"
        )
    with pytest.raises(Damaged, match="another root"):
        make("b").run_once()


def test_a_halted_book_answers_that_nothing_was_done(
    datastore: Datastore, make: MakeFollower
) -> None:
    """A writer says so at once; when the store extends its heads again, it goes on."""
    desk = Desk(datastore)
    try:
        desk.drafted()
        make("a", ttl_s=0).run_once()
        with datastore.transaction() as curs:
            guard.halt(curs, BOOK, "was damaged")
        with pytest.raises(StoreUnavailable):
            desk.drafted(key="another")
        make("b").run_once()
        desk.drafted(key="another")
    finally:
        desk.close()


def test_without_the_halt_events_would_go_on(datastore: Datastore, database_url: str) -> None:
    """The control: with the trigger gone a halted book takes events."""
    append(datastore, 1)
    with datastore.transaction() as curs:
        guard.halt(curs, BOOK, "was damaged")
    with pytest.raises(Exception, match="halted"):
        append(datastore, 1)
    with as_owner(database_url) as curs:
        curs.execute("DROP TRIGGER book_head_may_be_halted ON book_head")
    append(datastore, 1)


# --- files ------------------------------------------------------------------------------------


def test_the_memory_of_a_head_only_moves_forward(tmp_path: Path) -> None:
    """The same head may be kept again, a smaller or another one of its size may not."""
    file = HeadFile(tmp_path / "log" / "main.head")
    assert file.read() is None
    twenty = signed_note(Checkpoint(ORIGIN, 20, bytes(32)).text, [KEY])
    for note in (twenty, twenty):
        file.keep(note)
    with pytest.raises(Regress):
        file.keep(signed_note(Checkpoint(ORIGIN, 19, bytes(32)).text, [KEY]))
    with pytest.raises(Contradiction):
        file.keep(signed_note(Checkpoint(ORIGIN, 20, bytes(31) + b"1").text, [KEY]))
    assert file.read() == twenty


def test_key_files_are_for_their_owner(tmp_path: Path) -> None:
    """Made once, whoever comes later gets the first key; keys of two names do not sign."""
    file = KeyFile(tmp_path / "log" / "main.keys")
    with pytest.raises(NoKeys):
        file.signers()
    other = Signer("another", ED25519, bytes(32))
    assert [one.verifier for one in file.make(KEY)] == [KEY.verifier]
    assert [one.verifier for one in file.make(other)] == [KEY.verifier]
    assert file.path.stat().st_mode & 0o077 == 0
    with pytest.raises(NoKeys):
        file.retire("00000000")
    file.path.write_text(f"{KEY.secret_text()}\n{other.secret_text()}\n")
    with pytest.raises(Malformed):
        file.signers()
