"""Which node has which identity, from the allocator's keys: who may ask for a subject's policy.

`cilium/state/identities/v1/id/<n>` is the number, `…/value/<labels>/<node>` the leased claim of a node.
Labels may hold slashes, so the node is what follows the last one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from axoneme.lib import identities
from axoneme.lib.kvstore import layout

IDENTITY_PREFIX: Final = layout.MASTERS
SLAVE_PREFIX: Final = layout.SLAVES


def identity_number(key: str) -> int | None:
    """The number of an identity's key; None for another key and for numbers that no allocator gives."""
    if not key.startswith(IDENTITY_PREFIX):
        return None
    number = layout.number_of(key)
    # A stored key must not redefine a reserved number, nor claim one that only a node may give.
    if number is None or not identities.FIRST_CLUSTER_IDENTITY <= number < identities.LOCAL_SCOPE:
        return None
    return number


class Occupancy:
    """Numbers that the store knows, and the nodes that claim them."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._claims: dict[str, int] = {}
        self._counts: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._nodes_by_number: defaultdict[int, set[str]] = defaultdict(set)

    def numbers(self) -> set[int]:
        """The numbers that the store knows."""
        return set(self._numbers)

    def add_number(self, number: int) -> None:
        """Take note of a number."""
        self._numbers.add(number)

    def forget_number(self, number: int) -> None:
        """A number went away."""
        self._numbers.discard(number)

    def put_slave(self, key: str, value: bytes) -> None:
        """Take note of a claim; a value that is no number claims nothing."""
        self.remove_slave(key)
        if value.isdigit():
            number, node = int(value), key.rpartition("/")[2]
            self._claims[key] = number
            self._counts[node, number] += 1
            self._nodes_by_number[number].add(node)

    def remove_slave(self, key: str) -> None:
        """A claim went away."""
        number = self._claims.pop(key, None)
        if number is None:
            return
        pair = (key.rpartition("/")[2], number)
        self._counts[pair] -= 1
        if not self._counts[pair]:
            del self._counts[pair]
            self._nodes_by_number[number].discard(pair[0])
            if not self._nodes_by_number[number]:
                del self._nodes_by_number[number]

    def clear(self) -> None:
        """Forget everything, before a snapshot is taken in."""
        self._numbers.clear()
        self._claims.clear()
        self._counts.clear()
        self._nodes_by_number.clear()

    def may_see(self, node_name: str, number: int) -> bool:
        """Whether a node may have the policy of a subject: reserved, or claimed by it."""
        return identities.is_reserved(number) or (node_name, number) in self._counts

    def nodes_of(self, number: int) -> frozenset[str]:
        """The nodes on which an identity lives."""
        return frozenset(self._nodes_by_number.get(number, ()))
