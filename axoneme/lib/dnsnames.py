"""DNS names and the patterns of policies: one canonical form, and whether a name matches.

Rule of Cilium's fqdn/matchpattern: `*` stands for zero or more of `[-a-zA-Z0-9_]` inside one label, a pattern
that is only `*` for any name, and a leading `**.` for one or more whole labels. Pure. The proxy's matcher for
thousands of patterns is built on the same rule.
"""

from __future__ import annotations

import functools
import re
from typing import Final

_IN_LABEL: Final = "[-a-z0-9_]*"


def canonical_name(text: str) -> str:
    """Lower case, without the root dot at the end."""
    return text.lower().removesuffix(".")


def matches(text: str, *, pattern: bool, name: str) -> bool:
    """Whether a name is the one of a selector, or one of its pattern; both need not be canonical."""
    wanted, asked = canonical_name(text), canonical_name(name)
    if not pattern:
        return wanted == asked
    return _expression(wanted).fullmatch(asked) is not None


@functools.lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str]:
    if pattern == "*":
        return re.compile(r"[-a-z0-9_.]*")
    lead = ""
    if pattern.startswith("**."):
        lead, pattern = r"(?:[-a-z0-9_]+\.)+", pattern[3:]
    # Runs of stars mean what one star means.
    first, *rest = map(re.escape, re.split(r"\*+", pattern))
    return re.compile(lead + first + _after_stars(rest))


def _after_stars(texts: list[str]) -> str:
    """A star before each text. All but the last take the first place where their text fits and never come
    back, which finds every match of such a pattern and keeps the time linear.
    """
    if not texts:
        return ""
    *middle, last = texts
    return "".join(f"(?>{_IN_LABEL}?{text})" for text in middle) + _IN_LABEL + last
