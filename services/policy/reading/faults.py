"""Faults of a policy text: where, what, and how to mend it. Collected, so that one answer names them all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from axoneme.lib.errors import FieldViolation, InvalidArgument

MAX_FAULTS = 100
_MAX_PATH = 300


class Fault(NamedTuple):
    """One fault; `document` counts from 0, `line` from 1, `path` is empty for the document itself."""

    document: int
    line: int
    path: str
    reason: str
    fix: str = ""

    def violation(self) -> FieldViolation:
        """The fault as it goes over the wire: `documents[0].spec.egress[0]`, `line 7: reason; fix`."""
        field = f"documents[{self.document}]" + (f".{self.path}" if self.path else "")
        return FieldViolation(
            field, f"line {self.line}: {self.reason}" + (f"; {self.fix}" if self.fix else "")
        )

    def shown(self) -> Fault:
        """The fault in bounds and as one line: keys that nobody knows may hold anything."""
        path = _inert(self.path)
        clipped = path if len(path) <= _MAX_PATH else f"{path[:_MAX_PATH]}…"
        return self._replace(path=clipped, reason=_inert(self.reason), fix=_inert(self.fix))


class InvalidPolicy(InvalidArgument):
    """A policy text with faults; nothing of it was stored."""

    default_reason = "INVALID_POLICY"

    @classmethod
    def of_faults(cls, faults: Iterable[Fault]) -> InvalidPolicy:
        """The error that names all faults, the first in its message too."""
        ordered = sorted(fault.shown() for fault in faults)
        first = ordered[0]
        where = f"line {first.line}" + (f", {first.path}" if first.path else "")
        more = f" (and {len(ordered) - 1} more faults)" if len(ordered) > 1 else ""
        error = cls(
            f"{where}: {first.reason}" + (f"; {first.fix}" if first.fix else "") + more,
            violations=[fault.violation() for fault in ordered[:MAX_FAULTS]],
        )
        error.faults = tuple(ordered)
        return error

    faults: tuple[Fault, ...] = ()


def _inert(text: str) -> str:
    """A text whose control characters, which terminals and logs would obey, are written as escapes."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean x?` for the known word closest to this one, else the list of what is known."""
    known = sorted(known)
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"did you mean {lowered[close[0]]}?" if close else f"known here: {', '.join(known)}"
