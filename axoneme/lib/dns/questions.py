"""Questions of many queries, quicker than `read_question` by what was read; tests hold both together."""

from __future__ import annotations

from typing import Final

from axoneme.lib.dns.wire import Question, question_of, read_question

_QUESTION: Final = 12  # offset
_MAX_TAILS: Final = 4_096
_MAX_TAIL: Final = 128  # bytes of a tail that is remembered
_ONE: Final = b"\x00\x01"


class QuestionReader:
    """`read_question` with a memory for what names end with: what was read once need not be walked again.

    Queries of one zone differ in their first label only. A tail (labels after the first, zero, type, class)
    in which the first zero byte ends the name is remembered; where the same bytes stand again up to their
    first zero byte, the same labels do.
    """

    __slots__ = ("_tails",)

    def __init__(self) -> None:
        self._tails: dict[bytes, tuple[int, int]] = {}  # tail → type and class

    def read(self, message: bytes) -> Question:
        """As `read_question`. Raises Malformed."""
        try:
            start = message[_QUESTION] + _QUESTION + 1
            end = message.index(0, start) + 5
            qtype, qclass = self._tails[message[start:end]]
        except (KeyError, IndexError, ValueError):
            return self._read(message)
        # A first label of 63 bytes at most, and not the root.
        if message[2] & 0xF8 or message[4:6] != _ONE or not _QUESTION + 2 <= start <= _QUESTION + 64:
            return read_question(message)
        return question_of((message[_QUESTION : end - 4].lower(), qtype, qclass, end))

    def _read(self, message: bytes) -> Question:
        question = read_question(message)
        start, end = message[_QUESTION] + _QUESTION + 1, question.end
        if start < end - 4 and end - start <= _MAX_TAIL and message.index(0, start) == end - 5:
            if len(self._tails) >= _MAX_TAILS:
                self._tails.clear()
            self._tails[message[start:end]] = question.qtype, question.qclass
        return question
