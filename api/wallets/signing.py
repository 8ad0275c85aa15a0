"""Signatures between us and a wallet operator: both sides prove themselves with one shared key.

A question's MAC covers its method, address, instant, nonce and body; an answer's MAC covers the
question's MAC, the status and the body. So an answer is good for its own question only: one that
comes late, twice, or from somebody in between fits no other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from api.macs import MAC_CHARS, MacKey

HEADER: Final = "Tidebook-Mac"
SKEW_S: Final = 300
"""How far apart the clocks of both sides may be, and how old a question may be."""

_QUESTION: Final = re.compile(r"v1 (\d{1,12}) ([A-Za-z0-9_-]{16,64}) ([A-Za-z0-9_-]{32})", re.ASCII)
_ANSWER: Final = re.compile(rf"v1 ([A-Za-z0-9_-]{{{MAC_CHARS}}})", re.ASCII)


class Signer:
    """Makes and checks the MACs of questions and answers with one key."""

    def __init__(self, secret: bytes) -> None:
        self._key = MacKey(secret)

    def question(self, method: str, target: str, body: bytes, now_s: int, nonce: str) -> str:
        """Return the header of a question."""
        mac = self._key.mac(_question_text(method, target, body, now_s, nonce))
        return f"v1 {now_s} {nonce} {mac.decode()}"

    def is_asked(self, header: str, method: str, target: str, body: bytes, now_s: float) -> bool:
        """Whether a question comes from somebody with the key, and just now."""
        match = _QUESTION.fullmatch(header)
        if match is None or abs(now_s - int(match[1])) > SKEW_S:
            return False
        wanted = self.question(method, target, body, int(match[1]), match[2])
        return hmac.compare_digest(wanted, header)

    def answer(self, question: str, status: int, body: bytes) -> str:
        """Return the header of the answer to a question, which is named by its header."""
        text = b"a\n%b\n%d\n%b" % (question.encode(), status, hashlib.sha256(body).digest())
        return f"v1 {self._key.mac(text).decode()}"

    def is_answered(self, header: str, question: str, status: int, body: bytes) -> bool:
        """Whether an answer belongs to this question, whole and unchanged."""
        if _ANSWER.fullmatch(header) is None:
            return False
        return hmac.compare_digest(self.answer(question, status, body), header)


def _question_text(method: str, target: str, body: bytes, now_s: int, nonce: str) -> bytes:
    head = f"q\n{method}\n{target}\n{now_s}\n{nonce}\n".encode()
    return head + hashlib.sha256(body).digest()
