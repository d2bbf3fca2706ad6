"""What the machine says on its console: lines of JSON behind a mark that nothing else prints."""

from __future__ import annotations

import json
from collections.abc import Iterator

MARK = "axoneme-kernel: "


def say(kind: str, **fields: object) -> None:
    """One line of a kind: `object`, `features`, `test` (one that failed) or `tests` (counts of a file)."""
    print(MARK + json.dumps({"kind": kind, **fields}), flush=True)


def heard(line: str) -> dict[str, object] | None:
    """The fields of a line; None for what the kernel or a program wrote, and for half a line."""
    _, mark, said = line.partition(MARK)
    if not mark:
        return None
    try:
        found = json.loads(said)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def all_heard(console: str) -> Iterator[dict[str, object]]:
    """All lines of a console, in their order."""
    for line in console.splitlines():
        fields = heard(line)
        if fields is not None:
            yield fields
