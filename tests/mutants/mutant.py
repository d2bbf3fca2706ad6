"""A seeded mistake: one small change of the sources that some test of ours has to notice."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """Replace `old`, which stands exactly once in the file, by `new`."""

    mistake: str
    path: str
    old: str
    new: str

    @property
    def name(self) -> str:
        """The mistake as a word to ask for on the command line."""
        return self.mistake.lower().replace(" ", "-")

    def fault(self, root: Path) -> str:
        """Why the mutant cannot be seeded in a tree; empty when it can."""
        file = root / self.path
        if not file.is_file():
            return f"{self.path} is gone"
        count = file.read_text().count(self.old)
        if count != 1:
            return f"its text stands {count} times in {self.path}, not once"
        return "" if self.old != self.new else "it changes nothing"

    def seed(self, root: Path) -> None:
        """Make the mistake in a tree."""
        text = (root / self.path).read_text()
        _rewrite(root / self.path, text.replace(self.old, self.new))

    def heal(self, root: Path, source: Path) -> None:
        """Undo it, with the file of a tree that the mistake is not in."""
        _rewrite(root / self.path, (source / self.path).read_text())


def _rewrite(file: Path, text: str) -> None:
    """Compiled files are told apart by size and by the second of the last change, so that one must differ."""
    later = file.stat().st_mtime + 10
    file.write_text(text)
    os.utime(file, (later, later))
