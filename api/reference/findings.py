"""The page of findings: every code that a verification can report, with the rule that it breaks."""

from __future__ import annotations

from api.daily.checking import DAILY_CODES
from api.reference.markdown import code, document, table
from campaigns.replaying.reexecution import REEXECUTION_CODES
from campaigns.verification import RULE_CODES
from campaigns.wallets.reconciliation import RECONCILIATION_CODES
from ledger.exporting.proving import EXPORT_CODES
from ledger.reply_verification import REPLY_CODES
from ledger.transparency.auditing import LOG_CODES
from ledger.verification import BOOK_CODES

_INTRO = """\
`tidebook verify` ends with findings when something does not hold. A finding has a code, a place
(mostly a book and a position), what must be there and what is. It is reported and not repaired;
[operations](../operations.md#when-verify-finds-something) says what to do."""

_BOOK = "These hold for any book, whatever its events mean (`ledger/verification.py`)."
_REPLIES = "These tie kept replies and events together (`ledger/reply_verification.py`)."
_LOG = "These tie the log and what was signed to the events (`ledger/transparency/auditing.py`)."
_RULES = "These are the rules of campaigns and coupons, judged again (`campaigns/verification.py`)."
_MODELS = """\
The live rows of every projection are compared with a fresh fold, row for row
(`projections/verification.py`)."""

_EXPORTS = """\
`tidebook verify EXPORT` reports these of the files, beside those of the book, the log and the rules
([exports](../export.md#what-is-verified))."""

_DAILY = """\
`tidebook daily-proof check`, and `tidebook verify` where there are any, adds the daily proofs up
again from the events
([daily proofs](../daily-proofs.md#checking-them))."""

_WALLETS = """\
`tidebook reconcile` compares the wallet operator's statement with the journal of instructions and
the ledger ([wallets](../wallets.md#reconciliation))."""


_AGAIN = """\
`tidebook reexecute` decides every recorded request again
([replay](../replay.md#deciding-again))."""


def page() -> str:
    """Return the page."""
    return document(
        "Findings",
        _INTRO,
        *("## The book", _BOOK, _codes(BOOK_CODES)),
        *("## The kept replies", _REPLIES, _codes(REPLY_CODES)),
        *("## The log", _LOG, _codes(LOG_CODES)),
        *("## Exports", _EXPORTS, _codes(EXPORT_CODES)),
        *("## The rules", _RULES, _codes(RULE_CODES)),
        *("## The projections", _MODELS),
        *("## The daily proofs", _DAILY, _codes(DAILY_CODES)),
        *("## The past, decided again", _AGAIN, _codes(REEXECUTION_CODES)),
        *("## The wallets", _WALLETS, _codes(RECONCILIATION_CODES)),
    )


def _codes(rules: dict[str, str]) -> str:
    return table(("code", "what must hold"), ((code(name), rule) for name, rule in rules.items()))
