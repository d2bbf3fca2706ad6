"""The precedence word: which of several entries that match a packet decides.

32 bits, higher wins: 24 bits of inverted level (4 bits tier, 20 bits priority within the tier; 0 is the
strongest of each), then one byte for the action: deny 255, redirect 254 to 129, allow 1, pass 0. Equal words
therefore mean equal actions.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from axoneme.lib.policy.model import Action

MAX_PRIORITY: Final = 0xFFFFF
_MAX_TIER: Final = 15
_MAX_LEVEL: Final = 0xFFFFFF
_DENY: Final = 255
_ALLOW: Final = 1
_PASS: Final = 0

# Priority numbers of redirects by parser (lower is stronger); explicit listeners use 1 to 100.
REDIRECT_PRIORITY: Final = {"http": 101, "tls": 116, "dns": 121, "crd": 126, "kafka": 126, "generic": 126}

DEFAULT_ALLOW: Final = 0
"""Below every rule: the entry that stands for a direction that no rule enforces."""


class Tier(IntEnum):
    """Tiers of rules, the strongest first; policies of namespaces and clusters are NORMAL, priority 0."""

    ADMIN = 0
    NORMAL = 1
    BASELINE = 2
    LAST = _MAX_TIER


def precedence(
    *, tier: int = Tier.NORMAL, priority: int = 0, action: Action, redirect_priority: int = 126
) -> int:
    """Compute the word of an entry. Raises ValueError for a number that is out of range."""
    if not (0 <= tier <= _MAX_TIER and 0 <= priority <= MAX_PRIORITY):
        raise ValueError(f"tier {tier} or priority {priority} is out of range")
    return (_MAX_LEVEL - (tier << 20 | priority)) << 8 | _action_byte(action, redirect_priority)


def tier_of(word: int) -> int:
    """The tier of the rule behind a word."""
    return _MAX_TIER - (word >> 28)


def priority_of(word: int) -> int:
    """The priority within its tier of the rule behind a word."""
    return MAX_PRIORITY - (word >> 8 & MAX_PRIORITY)


def _action_byte(action: Action, redirect_priority: int) -> int:
    if action is Action.REDIRECT:
        if not 1 <= redirect_priority <= 126:
            raise ValueError(f"redirect priority {redirect_priority} is not within 1..126")
        return _DENY - redirect_priority
    return {Action.DENY: _DENY, Action.ALLOW: _ALLOW, Action.PASS: _PASS}[action]


LOCALHOST_ALLOW: Final = precedence(tier=Tier.LAST, priority=MAX_PRIORITY, action=Action.ALLOW)
"""The lowest non-zero word: any rule that covers the local host wins over the built-in allow."""
