"""Yes or no for each distinct key of many records, also where the answer of a key changes with time.

There are few distinct keys however many records; each is decided once by the caller's own rule, and records
look their answer up a column at a time. Where the answer of a key changes, it is kept with the times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from shim.flows.keytable import KeyTable, Words

Mask = npt.NDArray[np.bool_]
_NO, _YES, _VARIES = 0, 1, 2


class Timed(NamedTuple):
    """Answers of one key: `answers[i]` holds from `times[i - 1]` on, the first one before all times."""

    times: list[int]
    answers: list[bool]


class _Varying(NamedTuple):
    times: npt.NDArray[np.uint64]
    answers: Mask


Decide = Callable[[int, int], Timed]


class TimedAnswers:
    """Answers by key, learned on the way."""

    def __init__(self, decide: Decide, max_keys: int) -> None:
        """Take the rule that decides a key; beyond `max_keys`, what was learned is forgotten."""
        self._decide: Final = decide
        self._max_keys = max_keys
        self.forget()

    def forget(self) -> None:
        """Decide all keys anew."""
        self._table = KeyTable()
        self._answers = np.zeros(0, dtype=np.uint8)
        self._varying: dict[int, _Varying] = {}

    @property
    def is_full(self) -> bool:
        """Whether there are more keys than are to be kept."""
        return len(self._table) > self._max_keys

    def mask(
        self, first: Words, second: Words, times: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.uint64]]
    ) -> Mask:
        """The answer for each record; `times` gives the times of the records at some positions."""
        keys = self._known(first, second)
        answers = self._answers.take(keys, mode="clip")
        if self._varying and len(changing := np.flatnonzero(answers == _VARIES)):
            answers[changing] = self._answers_then(keys[changing], times(changing))
        wanted: Mask = answers == _YES
        return wanted

    def _known(self, first: Words, second: Words) -> npt.NDArray[np.int32]:
        """The number of each record's key; new ones are decided on the way."""
        keys = self._table.find(first, second)
        missing = np.flatnonzero(keys < 0)
        while len(missing):
            _, some = np.unique(first[missing], return_index=True)
            some = missing[some]
            self._learn(first[some], second[some])
            keys[missing] = self._table.find(first[missing], second[missing])
            missing = missing[keys[missing] < 0]
        return keys

    def _learn(self, first: Words, second: Words) -> None:
        start = len(self._table)
        self._table.add(first, second)
        pairs = zip(first.tolist(), second.tolist(), strict=True)
        fresh = [self._answer(start + index, self._decide(*pair)) for index, pair in enumerate(pairs)]
        self._answers = np.concatenate([self._answers, np.array(fresh, dtype=np.uint8)])

    def _answer(self, key: int, timed: Timed) -> int:
        times, answers = timed
        if not times or all(answer is answers[0] for answer in answers):
            return _YES if answers[0] else _NO
        self._varying[key] = _Varying(np.array(times, dtype=np.uint64), np.array(answers, dtype=np.bool_))
        return _VARIES

    def _answers_then(
        self, keys: npt.NDArray[np.int32], times: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.uint8]:
        """Answers for records of keys whose answer changes."""
        order = np.argsort(keys, kind="stable")
        found, starts = np.unique(keys[order], return_index=True)
        answers = np.zeros(len(keys), dtype=np.uint8)
        for key, rows in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
            varying = self._varying[key]
            answers[rows] = varying.answers[np.searchsorted(varying.times, times[rows], side="right")]
        return answers
