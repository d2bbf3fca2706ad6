"""What the machine said, in words, and whether all is well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from axoneme.lib.bpf.features import REQUIRED
from shim.bpf.manifest import read_manifest

OUTCOMES = ("passed", "failed", "skipped")


@dataclass
class Verdict:
    """Gathers the lines of one machine. `tests`: whether tests were asked for."""

    tests: bool
    objects: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    ended: bool = False

    def take(self, fields: Mapping[str, Any]) -> None:
        kind = fields["kind"]
        if kind == "object":
            self.objects.add(fields["object"])
            if "error" in fields:
                self.found.append(f"{fields['object']} is refused")
        elif kind == "features":
            lacking = [name for name in REQUIRED if fields["found"].get(name) != "yes"]
            self.found += [f"the kernel lacks {name}" for name in lacking]
        elif kind == "tests":
            self.counts.update({name: fields[name] for name in OUTCOMES if name in fields})
        elif kind == "test":
            self.found.append(f"failed: {fields['name']}")
        elif kind == "group" and fields["code"]:
            self.found.append(f"pytest ended with {fields['code']}")
        self.ended |= kind == "ended"

    def faults(self) -> list[str]:
        missing = sorted(set(read_manifest().get("objects", {})) - self.objects)
        silent = [f"nothing was heard of {', '.join(missing)}"] if missing else []
        silent += [] if self.ended else ["the machine stopped before its end"]
        silent += ["no test passed"] if self.tests and not self.counts["passed"] else []
        return self.found + silent


def words(fields: Mapping[str, Any]) -> Iterator[str]:
    """Lines for people."""
    kind = fields["kind"]
    if kind == "features":
        lacks = {name: said for name, said in fields["found"].items() if said != "yes" and name != "kernel"}
        yield f"has {', '.join(name for name, said in fields['found'].items() if said == 'yes')}"
        yield from (f"lacks {name}: {said}" for name, said in lacks.items())
    elif kind == "object" and "error" in fields:
        yield f"{fields['object']}: refused: {fields['error']}"
    elif kind == "object":
        walked = ", ".join(f"{name} {count}" for name, count in sorted(fields["programs"].items()))
        yield f"{fields['object']}: {walked} instructions, {fields['seconds']} s"
    elif kind == "tests":
        counted = ", ".join(f"{fields[name]} {name}" for name in OUTCOMES if name in fields)
        skips = f" ({'; '.join(fields['skips'])})" if fields["skips"] else ""
        yield f"{fields['file']}: {counted}, {fields['seconds']} s{skips}"
    elif kind == "test":
        yield f"{fields['name']} failed in {fields['phase']}:"
        yield from (f"    {line}" for line in fields["words"].splitlines())
