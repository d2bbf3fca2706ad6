"""Pins of links: a folder of files `<place>-<program>`, each of which keeps one program attached."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from axoneme.lib.bpf.kernellink import KernelLink
from axoneme.lib.bpf.program import BpfProgram


class LinkPins:
    """The pinned links of one node, of whatever kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, place: str, program: str) -> Path:
        """Where the link of a program at a place is pinned."""
        return self.folder / f"{place}-{program}"

    def listed(self) -> Iterator[tuple[str, str, Path]]:
        """Place, program and path of every pin, in the order of names."""
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            place, _, program = path.name.partition("-")
            yield place, program, path

    def programs(self) -> set[str]:
        """Names of all programs that are attached anywhere."""
        return {program for _, program, _ in self.listed()}

    def drop(self, place: str, program: str) -> None:
        """Takes a program off and removes its pin; an absent one is fine."""
        path = self.path(place, program)
        if not path.exists():
            return
        with contextlib.closing(KernelLink.open(path)) as link:
            link.detach()
        path.unlink(missing_ok=True)

    def replace(self, programs: dict[str, BpfProgram], *, complete: bool) -> None:
        """Puts programs into all links of their names. Links whose interface or cgroup is gone lose their
        pin; when `programs` is complete, those of other programs are taken off."""
        for place, name, path in list(self.listed()):
            program = programs.get(name)
            if program is None:
                if complete:
                    self.drop(place, name)
                continue
            with contextlib.closing(KernelLink.open(path)) as link:
                if link.is_alive():
                    link.update(program)
                    continue
            path.unlink()
