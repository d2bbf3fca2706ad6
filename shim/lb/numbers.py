"""Numbers of backends and of sets: given upwards, so that one is not used again soon.

What a restart finds in the maps keeps its number. The last number given is in the state file, which is
written a moment later than the maps; a start therefore leaves a gap.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

LAST_NUMBER: Final = 0xFFFF_FFFF
_GAP: Final = 1 << 16


class Numbers:
    """Gives numbers from 1 to 2³² - 1, round and round."""

    def __init__(self) -> None:
        self.last = 0

    def resume(self, last: int, found: int) -> None:
        """Goes on behind an earlier life, whose last number is stored or, at least, `found` in the maps."""
        if last or found:
            self.last = (max(last, found) + _GAP) % LAST_NUMBER

    def take(self, used: Container[int]) -> int:
        """The next number that is not in use."""
        while True:
            self.last = self.last % LAST_NUMBER + 1
            if self.last not in used:
                return self.last
