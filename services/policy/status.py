"""Where a policy stands: usable or not, on which nodes it is in force, what to know about it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from axoneme.lib.policy.subjects import host_key, subject_key
from services.policy.records.progress import NodeProgress
from services.policy.rules import PolicyKey

MAX_PENDING: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """The standing of one policy; `pending` are some nodes with what they reported (empty: nothing yet)."""

    key: PolicyKey
    revision: int
    problem: str = ""
    subjects: int = 0
    expected_nodes: int = 0
    acknowledged_nodes: int = 0
    pending: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    audit: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the policy is usable."""
        return not self.problem


def standing(
    subjects: Iterable[int],
    hosts: Iterable[str],
    revision: int,
    *,
    nodes_of: Callable[[int], frozenset[str]],
    progress: Mapping[str, NodeProgress],
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Number of nodes with a subject (`hosts` are nodes that are subjects themselves), and those on which
    the revision is not in force, with the reason.
    """
    keys_by_node: dict[str, list[str]] = {node: [host_key(node)] for node in hosts}
    for number in subjects:
        for node in nodes_of(number):
            keys_by_node.setdefault(node, []).append(subject_key(number))
    pending = []
    for node, keys in sorted(keys_by_node.items()):
        one = progress.get(node)
        failure = None if one is None else one.failure_of(keys)
        if one is None:
            pending.append((node, "not connected"))
        elif failure is not None:
            pending.append((node, failure or "failed without a reason"))
        elif one.revision < revision:
            pending.append((node, ""))
    return len(keys_by_node), tuple(pending)
