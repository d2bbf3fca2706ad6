"""Identities that only this node knows, matched against the selectors that policies refer to.

Today these are the two worlds: addresses outside every cluster read as world-ipv4 or world-ipv6 (never 2,
since the node is dual stack). CIDR and DNS identities join this table with their own numbers of the local
scope. Nothing here does I/O; a change of the table makes the shim finish every mapstate again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet

_WORLDS = (identities.WORLD_IPV4, identities.WORLD_IPV6)


class LocalIdentities:
    """Number → labels of every identity that a selector reference is matched against."""

    def __init__(self) -> None:
        self._labels: dict[int, LabelSet] = {number: identities.RESERVED[number][1] for number in _WORLDS}

    def labels(self) -> Mapping[int, LabelSet]:
        """All of them, read-only."""
        return MappingProxyType(self._labels)

    def labels_of(self, number: int) -> LabelSet | None:
        """Labels of one number, if it is local."""
        return self._labels.get(number)
