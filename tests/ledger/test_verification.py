"""Verification of a book: a sound one is clean, and each damage is found as what it is.

Goal: every code of a book and its replies is the answer to some damage, and to nothing else.
Method: a book in which everything happens is damaged as the owner of the tables could damage
it, with the triggers off; the findings must be exactly those expected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

import pytest
from msgspec.structs import replace

from campaigns.accounting import postings_of
from campaigns.event_types import MAPPER
from campaigns.granting import tells_itself, told_again
from campaigns.verification import CODES, OUTCOMES
from ledger.books import Book
from ledger.datastore import Datastore
from ledger.events import Event, scope_of
from ledger.history import Entry, History
from ledger.postings import Transfer
from ledger.reply_verification import REPLY_CODES, verify_replies
from ledger.verification import BOOK_CODES, BookAudit, Finding
from tests.support.damage import Damage, damaged
from tests.support.desk import NOON, Desk
from tests.support.story import tell


@pytest.fixture
def history(datastore: Datastore) -> History:
    """A book in which everything happened."""
    desk = Desk(datastore)
    tell(desk)
    desk.close()
    return History(datastore, "main", MAPPER, page_events=10)


def audited(
    history: History, postings: Callable[[Event], Iterable[Transfer]] = postings_of
) -> BookAudit:
    """Return the audit of a whole book against the store's own figures."""
    audit = BookAudit(history.book, MAPPER, postings, OUTCOMES, tells=tells_itself)
    standing = history.standing()
    for entry in history.entries(0, standing.last):
        audit.feed(entry)
    audit.finish(standing)
    return audit


def of_replies(history: History) -> list[Finding]:
    """Return what is wrong with the kept replies."""
    return verify_replies(history, audited(history), MAPPER, CODES)


def test_a_sound_book_is_clean(history: History) -> None:
    """Nothing is found where everything was decided by the writer."""
    audit = audited(history)
    assert audit.findings == []
    assert audit.whole
    assert audit.position == history.head()
    assert of_replies(history) == []


def test_an_empty_book_is_clean(datastore: Datastore) -> None:
    """A book that nobody wrote to has nothing wrong with it."""
    nobody = History(datastore, "nobody", MAPPER)
    assert audited(nobody).findings == []
    assert of_replies(nobody) == []


def shift_the_end(damage: Damage) -> None:
    """Leave a position out."""
    last = damage.position("coupon.expired", -1)
    damage.run("UPDATE event SET position = position + 1 WHERE position = %s", last)
    damage.run("UPDATE book_head SET position = position + 1")


def cut_the_end_off(damage: Damage) -> None:
    """Lose the last event."""
    damage.run("DELETE FROM event WHERE position = (SELECT position FROM book_head)")


def leave_the_head_behind(damage: Damage) -> None:
    """An event that the head does not know of."""
    damage.run("UPDATE book_head SET position = position - 1")


def turn_the_head_back(damage: Damage) -> None:
    """The next event could be before the last."""
    damage.run("UPDATE book_head SET at = at - interval '1 day'")


def skip_a_version(damage: Damage) -> None:
    """The last event of a stream claims to be a later one."""
    last = damage.position("coupon.redeemed", -1)
    damage.run("UPDATE event SET originator_version = 9 WHERE position = %s", last)


def rename_a_topic(damage: Damage) -> None:
    """A type from the future."""
    damage.run(
        "UPDATE event SET topic = 'coupon.eaten' WHERE position = %s",
        damage.position("coupon.voided"),
    )


def cut_bytes(damage: Damage) -> None:
    """A torn event."""
    damage.run(
        "UPDATE event SET state = substr(state, 1, 60) WHERE position = %s",
        damage.position("coupon.voided"),
    )


def spoil_utf8(damage: Damage) -> None:
    """Bytes that are no text."""
    damage.reword(damage.position("coupon.voided"), b'"lost"', b'"l\xff\xfest"')


def add_a_space(damage: Damage) -> None:
    """Bytes that mean the same and are not those that were written."""
    damage.reword(damage.position("coupon.voided"), b'"lost"', b' "lost"')


def move_to_another_zone(damage: Damage) -> None:
    """The same instant with another offset."""
    damage.reword(damage.position("coupon.voided"), b"12:00:00Z", b"20:00:00+08:00")


def forget_the_zone(damage: Damage) -> None:
    """An instant that could be any."""
    damage.reword(damage.position("coupon.voided"), b"12:00:00Z", b"12:00:00")


def backdate(damage: Damage) -> None:
    """An event before the one before it."""
    damage.rewrite(damage.position("coupon.voided"), at=NOON - timedelta(minutes=1))


def use_a_currency_that_is_none(damage: Damage) -> None:
    """A transfer in no currency."""
    damage.reword(damage.position("coupon.voided"), b'"CNY"', b'"cny"')


def pay_twice(damage: Damage) -> None:
    """A merchant earns a coupon that somebody else's money must cover."""
    event = damage.event(damage.position("coupon.redeemed", -1))
    version = damage.next_version(event.originator_id)
    head_at = damage.event(damage.position("coupon.expired", -1)).at
    damage.forge(replace(event, originator_version=version, at=head_at))


def take_the_request_of_another(damage: Damage) -> None:
    """A retry of the other request would be told of this claim."""
    damage.run(
        "UPDATE event SET request = gen_random_uuid() WHERE position = %s",
        damage.position("coupon.claimed", 2),
    )


def mark_what_tells_no_reply(damage: Damage) -> None:
    """A pause with a request: a retry would find it, and nothing could be told."""
    damage.run(
        "UPDATE event SET request = gen_random_uuid() WHERE position = %s",
        damage.position("campaign.paused"),
    )


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (shift_the_end, "position_gap"),
        (cut_the_end_off, "head_position"),
        (leave_the_head_behind, "head_position"),
        (turn_the_head_back, "head_instant"),
        (skip_a_version, "stream_version"),
        (rename_a_topic, "unknown_event_type"),
        (cut_bytes, "unreadable_event"),
        (spoil_utf8, "unreadable_event"),
        (add_a_space, "bytes_differ"),
        (move_to_another_zone, "instant_not_utc"),
        (forget_the_zone, "instant_not_utc"),
        (backdate, "instant_decreased"),
        (take_the_request_of_another, "request_differs"),
        (mark_what_tells_no_reply, "untellable_event"),
        (use_a_currency_that_is_none, "posting_broken"),
        (pay_twice, "account_overdrawn"),
    ],
)
def test_damage_to_events_is_found(
    history: History, database_url: str, damage: Callable[[Damage], None], code: str
) -> None:
    """One damage, one finding, with the rule that it breaks and where."""
    with damaged(database_url) as hand:
        damage(hand)
    found = audited(history).findings
    assert [finding.code for finding in found] == [code], found
    assert found[0].code in BOOK_CODES
    assert found[0].where.startswith("main")
    assert found[0].expected != found[0].found


def test_accounts_that_do_not_sum_to_zero_are_found(history: History) -> None:
    """A balance that no transfer explains shows up at the end."""
    audit = audited(history)
    audit.balances["CNY"]["merchant:cafe"] += 1
    audit.finish()
    assert audit.findings == [Finding("trial_balance", "CNY", "0", "1")]


def test_an_overdraft_is_reported_where_it_begins(history: History) -> None:
    """With the claims' postings gone, each holder is overdrawn once, not at every event after."""

    def forgetful(event: Event) -> Iterable[Transfer]:
        return () if event.TOPIC == "coupon.claimed" else postings_of(event)

    codes = [finding.code for finding in audited(history, forgetful).findings]
    assert set(codes) == {"account_overdrawn"}
    assert len(codes) < sum(event.TOPIC != "coupon.claimed" for _, event in history.events())


def point_a_reply_beyond_the_head(damage: Damage) -> None:
    """A reply to something that never happened."""
    damage.run("UPDATE idempotency SET position = 999 WHERE code = 'limit_reached'")


def give_a_reply_no_known_code(damage: Damage) -> None:
    """A reply that is neither success nor refusal."""
    damage.run("UPDATE idempotency SET code = 'perhaps' WHERE code = 'limit_reached'")


def claim_a_success_that_was_none(damage: Damage) -> None:
    """A refusal turned into a success, at a position where something else happened."""
    damage.run("UPDATE idempotency SET code = 'opened' WHERE code = 'already_redeemed'")


def move_a_reply(damage: Damage) -> None:
    """A success at the position of another event of the same kind."""
    damage.run(
        "UPDATE idempotency SET position = %s WHERE position = %s AND code = 'refunded'",
        damage.position("coupon.refunded", 2),
        damage.position("coupon.refunded", 1),
    )


def keep_a_second_record(damage: Damage) -> None:
    """A retry of a claim would be told what is kept, and not what its event tells."""
    keep_a_reply(damage, damage.position("coupon.claimed"), "already_claimed", b"{}")


def keep_another_body(damage: Damage) -> None:
    """A claim of old, whose reply was kept, with another coupon in the reply."""
    position = damage.position("coupon.claimed")
    code, body = told_again(Book(damage.book), damage.event(position))
    keep_a_reply(damage, position, code, body.replace(b'"n":1', b'"n":2'))
    damage.run("UPDATE event SET request = NULL WHERE position = %s", position)


def lose_a_request(damage: Damage) -> None:
    """A retry of this claim would not find it."""
    position = damage.position("coupon.claimed")
    damage.run("UPDATE event SET request = NULL WHERE position = %s", position)


def keep_a_reply(damage: Damage, position: int, code: str, body: bytes) -> None:
    """Keep a reply under the key of an event, as if that were not its own record."""
    event = damage.event(position)
    damage.run(
        "INSERT INTO idempotency (book, scope, key, fingerprint, code, body, position)"
        " VALUES ({book}, %s, %s, %s, %s, %s, %s)",
        *(scope_of(event), event.why.key, bytes.fromhex(event.why.fingerprint), code, body),
        position,
    )


def change_a_fingerprint(damage: Damage) -> None:
    """The reply is kept for another request than the one that was decided."""
    damage.run("UPDATE idempotency SET fingerprint = 'other' WHERE code = 'voided'")


def forget_a_reply(damage: Damage) -> None:
    """A retry of this request would be decided again."""
    damage.run("DELETE FROM idempotency WHERE code = 'voided'")


@pytest.mark.parametrize(
    ("damage", "codes"),
    [
        (point_a_reply_beyond_the_head, ["reply_beyond_head"]),
        (give_a_reply_no_known_code, ["reply_code_unknown"]),
        (claim_a_success_that_was_none, ["reply_without_event"]),
        (move_a_reply, ["reply_without_event", "event_without_reply"]),
        (change_a_fingerprint, ["reply_without_event"]),
        (forget_a_reply, ["event_without_reply"]),
        (keep_a_second_record, ["recorded_twice"]),
        (keep_another_body, ["reply_differs"]),
        (lose_a_request, ["event_without_reply"]),
    ],
)
def test_damage_to_replies_is_found(
    history: History, database_url: str, damage: Callable[[Damage], None], codes: list[str]
) -> None:
    """What a retry would be told must be what happened. A moved reply is wrong in two places."""
    with damaged(database_url) as hand:
        damage(hand)
    found = of_replies(history)
    assert [finding.code for finding in found] == codes, found
    assert audited(history).findings == []


def test_an_unreadable_event_is_not_blamed_on_its_reply(
    history: History, database_url: str
) -> None:
    """The event is a finding of its own; the reply to it, and all others, are none."""
    with damaged(database_url) as hand:
        rename_a_topic(hand)
    assert of_replies(history) == []


def test_one_effect_under_one_key(history: History, database_url: str) -> None:
    """A second decision under a key that has its reply already is found."""
    with damaged(database_url) as damage:
        event = damage.event(damage.position("campaign.paused"))
        resumed = damage.position("campaign.resumed")
        damage.rewrite(resumed, by=event.by, why=event.why)
        damage.run("DELETE FROM idempotency WHERE code = 'resumed'")
    found = of_replies(history)
    assert [(f.code, f.where) for f in found] == [("event_without_reply", f"main:{resumed}")]


def test_events_decided_while_the_replies_are_read_are_no_finding(
    history: History, datastore: Datastore
) -> None:
    """Verification looks at a live book: what comes after its last position waits for the next."""
    audit = audited(history)
    desk = Desk(datastore)
    desk.opened(key="meanwhile")
    desk.close()
    assert verify_replies(history, audit, MAPPER, CODES) == []


def test_every_code_of_a_book_is_tested(request: pytest.FixtureRequest) -> None:
    """A check without a damage that shows it red does not count."""
    module = request.path.read_text()
    assert all(f'"{code}"' in module for code in (*BOOK_CODES, *REPLY_CODES))


def test_an_export_is_verified_without_a_database(history: History) -> None:
    """The audit takes any entries in order, and reports the position of what is missing."""
    entries: list[Entry] = list(history.entries())
    audit = BookAudit("main", MAPPER, postings_of)
    for entry in entries[:5] + entries[6:]:
        audit.feed(entry)
    audit.finish()
    assert audit.findings[0] == Finding("position_gap", "main:7", "position 6", "position 7")
    assert not audit.whole
