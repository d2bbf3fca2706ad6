"""Options of the flows on disk; apart from what uses them, which loads numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SpillOptions:
    """Where flows are written, and how many bytes they may take there."""

    directory: Path
    max_bytes: int
