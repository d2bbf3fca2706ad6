"""Patterns with stars beside other characters (`api*`, `*-east`, `a*.b*`), found by their literals.

All patterns here end in the same labels. Of the labels before them, as text with dots, a pattern says how the
text begins, how it ends, and of the literals between stars the longest one. A text has few beginnings and
ends, and those are looked up, so 1,000 patterns `api1*` … cost what one does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

_IN_LABEL: Final = "[-a-z0-9_]*"
_T = TypeVar("_T")


class _Pattern(NamedTuple):
    text: str  # of the selector
    form: re.Pattern[bytes]


class _ByLiteral(Generic[_T]):
    """Values by a literal, and the lengths of literals that there are."""

    __slots__ = ("_make", "lengths", "values")

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self.values: dict[bytes, _T] = {}
        self.lengths: tuple[int, ...] = ()

    def at(self, literal: str) -> _T:
        """The value of a literal, made where there is none."""
        value = self.values.setdefault(literal.encode(), self._make())
        self.lengths = tuple(sorted({*self.lengths, len(literal)}))
        return value


_Middles = _ByLiteral[list[_Pattern]]
_Ends = _ByLiteral[_Middles]


class Leftovers:
    """Patterns of one number of labels before one tail."""

    __slots__ = ("_beginnings", "_first")

    def __init__(self) -> None:
        self._first: set[int] | None = set()  # first characters; None: one may begin with a star
        self._beginnings: _ByLiteral[_Ends] = _ByLiteral(lambda: _Ends(lambda: _Middles(list)))

    def add(self, text: str, wild: Sequence[str]) -> None:
        """A selector and the labels before its tail; at least one has a star, and stars stand alone."""
        begin, *middles, end = ".".join(wild).split("*")
        if not begin:
            self._first = None
        elif self._first is not None:
            self._first.add(ord(begin[0]))
        middle = max(middles, key=len, default="")
        self._beginnings.at(begin).at(end).at(middle).append(_Pattern(text, _form([begin, *middles, end])))

    def matches(self, labels: bytes) -> bool:
        """Whether `matching` would find anything; what begins like no pattern costs one look-up."""
        first = self._first
        return (first is None or labels[0] in first) and bool(self.matching(labels))

    def matching(self, labels: bytes) -> list[str]:
        """Selectors that match labels with dots between; one may come twice. The labels are of plain
        characters, or there is only one.
        """
        found: list[str] = []
        beginnings, size = self._beginnings, len(labels)
        for begun in beginnings.lengths:
            ends = beginnings.values.get(labels[:begun])
            if ends is None:
                continue
            for length in ends.lengths:
                middles = ends.values.get(labels[size - length :]) if length <= size else None
                if middles is not None:
                    found += _with_middle(middles, labels, begun, size - length)
        return found


def _with_middle(middles: _Middles, labels: bytes, begin: int, end: int) -> list[str]:
    found: list[str] = []
    for length in middles.lengths:
        # An empty literal is found once, at the first place.
        for at in range(begin, end - length + 1) if length else (begin,):
            candidates = middles.values.get(labels[at : at + length], ())
            found += [one.text for one in candidates if one.form.fullmatch(labels)]
    return found


def _form(literals: list[str]) -> re.Pattern[bytes]:
    """All stars but the last take the first place where the text after them fits and never come back: that
    finds every match and keeps the time linear.
    """
    begin, *middles, end = map(re.escape, literals)
    between = "".join(f"(?>{_IN_LABEL}?{text})" for text in middles)
    return re.compile(f"{begin}{between}{_IN_LABEL}{end}".encode())
