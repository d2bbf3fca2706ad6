"""What the nodes hold: per replica of the service, each connected node's revision and failed subjects.

    this replica's streams ─> NodeProgress ─> one leased key per replica ─> every replica's view of all nodes

A revision here is that of the last change that can matter to a mapstate (policies, groups, identities,
services), never the store's own counter: writing progress must not make progress. Pure; `ProgressReporter`
does the writing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MAX_REASON: Final = 256
MAX_FAILURES: Final = 20
"""Failed subjects of one node that are named."""
MAX_NAMED: Final = 1_000
"""Failed subjects of all nodes of a replica that are named: etcd takes 1.5 MiB in one value."""
EVERY_SUBJECT: Final = ""
"""Key of a failure that may be about any subject: more failed than are named."""
_MORE: Final = "more subjects failed than are listed"


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """Everything up to `revision` is in force on the node, save the subjects that failed (key → reason)."""

    revision: int
    failures: Mapping[str, str] = field(default_factory=dict)

    def failure_of(self, keys: Iterable[str]) -> str | None:
        """Why one of some subjects is not in force here; None when all of them are."""
        if not self.failures:
            return None
        found = next((self.failures[key] for key in keys if key in self.failures), None)
        return self.failures.get(EVERY_SUBJECT) if found is None else found


Progress = Mapping[str, NodeProgress]


def encode(progress: Progress) -> bytes:
    """The value of a replica's key: nodes by revision, so that a cluster in step takes one list of names."""
    by_revision: dict[int, list[str]] = {}
    for name, one in sorted(progress.items()):
        by_revision.setdefault(one.revision, []).append(name)
    failures: dict[str, dict[str, str]] = {}
    room = MAX_NAMED
    for name, one in sorted(progress.items()):
        if one.failures:
            failures[name] = _clipped(one.failures, min(room, MAX_FAILURES))
            room -= min(room, len(failures[name]))
    value = {"nodes": {str(revision): names for revision, names in by_revision.items()}, "failures": failures}
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _clipped(failures: Mapping[str, str], most: int) -> dict[str, str]:
    """Never fewer subjects than failed: what is not named makes the whole node doubtful."""
    found = {key: reason[:MAX_REASON] for key, reason in sorted(failures.items())[:most]}
    return found if len(found) == len(failures) else {**found, EVERY_SUBJECT: _MORE}


def decode(value: bytes) -> dict[str, NodeProgress]:
    """The nodes of a replica's key. Raises ValueError for a value of another shape."""
    try:
        data: Any = json.loads(value)
        failures = data["failures"]
        return {
            str(name): NodeProgress(int(revision), _texts(failures.get(name, {})))
            for revision, names in data["nodes"].items()
            for name in names
        }
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no progress of a replica: {error}") from error


def _texts(failures: Mapping[Any, Any]) -> dict[str, str]:
    return {str(key): str(reason) for key, reason in failures.items()}


def merged(replicas: Iterable[Progress]) -> dict[str, NodeProgress]:
    """The newest word on each node, the last of equal ones: one that moved from a replica to another is in
    both for a while.
    """
    newest: dict[str, NodeProgress] = {}
    for progress in replicas:
        for name, one in progress.items():
            if name not in newest or one.revision >= newest[name].revision:
                newest[name] = one
    return newest
