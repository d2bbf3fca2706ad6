"""Which node-local identities a selector reference selects.

A definition is compiled once and then asked per identity. Reserved labels count by source and key, so no
label of a workload can imitate them. A definition without content selects nobody.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from axoneme.lib.labels import FQDN, RESERVED, LabelSet
from axoneme.lib.policy.cidrlabels import Network, outside, prefixes_of
from axoneme.lib.policy.model import (
    CidrDefinition,
    Entity,
    EntitySelector,
    FqdnDefinition,
    LabelsDefinition,
    SelectorDefinition,
)

Matcher: TypeAlias = Callable[[LabelSet], bool]

_NODE_KEYS: Final = frozenset({"host", "remote-node"})


def selects(definition: SelectorDefinition, labels: LabelSet) -> bool:
    """Whether the definition selects an identity with these labels."""
    return matcher(definition)(labels)


def members(definition: SelectorDefinition, local_identities: Mapping[int, LabelSet]) -> frozenset[int]:
    """The numbers that the definition selects."""
    matches = matcher(definition)
    return frozenset(number for number, labels in local_identities.items() if matches(labels))


@functools.lru_cache(maxsize=1024)
def matcher(definition: SelectorDefinition) -> Matcher:
    """The compiled definition. An unknown kind of definition raises TypeError, never selects."""
    if isinstance(definition, EntitySelector):
        return {Entity.WORLD: outside}[definition.entity]
    if isinstance(definition, LabelsDefinition):
        return lambda labels: any(one.matches(labels) for one in definition.alternatives)
    if isinstance(definition, FqdnDefinition):
        return lambda labels: any(one.source == FQDN and one.key == definition.text for one in labels)
    if isinstance(definition, CidrDefinition):
        return _Cidrs(definition)
    raise TypeError(f"{type(definition).__name__} is no definition of a selector")


class _Cidrs:
    """Compiled CidrDefinition: a look-up per prefix length instead of a walk through all prefixes."""

    def __init__(self, definition: CidrDefinition) -> None:
        include = tuple(map(ipaddress.ip_network, definition.include))
        self._include = _Prefixes(include)
        self._include_nodes = _Prefixes(one for one in include if definition.nodes and one.prefixlen > 0)
        self._exclude = _Prefixes(map(ipaddress.ip_network, definition.exclude))

    def __call__(self, labels: LabelSet) -> bool:
        return any(self._inside(network, labels) for network in prefixes_of(labels)) and not any(
            map(self._exclude.hold, prefixes_of(labels))
        )

    def _inside(self, network: Network, labels: LabelSet) -> bool:
        if outside(labels):
            return self._include.hold(network)
        return self._include_nodes.hold(network) and _is_node(labels)


class _Prefixes:
    """Prefixes by family and length."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._starts: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for network in networks:
            start = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            self._starts[network.version].setdefault(network.prefixlen, set()).add(start)

    def hold(self, network: Network) -> bool:
        """Whether a prefix lies inside one of these."""
        address, bits = int(network.network_address), network.max_prefixlen
        return any(
            length <= network.prefixlen and address >> (bits - length) in starts
            for length, starts in self._starts[network.version].items()
        )


def _is_node(labels: LabelSet) -> bool:
    return any(label.source == RESERVED and label.key in _NODE_KEYS for label in labels)
