"""What an address outside the cluster is called: the labels of its node-local identity.

    definitions in force ──> OutsideNames ──address, learned names──> labels

An address has the longest prefix that any definition in force names, and a label for each DNS selector that
one of its learned names satisfies. A prefix that another policy introduces changes the name of traffic,
never its verdict: every definition is judged by whether it holds that longest prefix. Pure.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import Final, TypeAlias

from axoneme.lib import dnsnames
from axoneme.lib.labels import FQDN, RESERVED, Label, LabelSet
from axoneme.lib.policy.cidrlabels import cidr_label
from axoneme.lib.policy.model import CidrDefinition, FqdnDefinition, SelectorDefinition

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

BOTH_FAMILIES: Final = frozenset({"ipv4", "ipv6"})
_network = functools.lru_cache(maxsize=65_536)(ipaddress.ip_network)


def named_prefixes(definitions: Iterable[SelectorDefinition]) -> frozenset[str]:
    """Every prefix that some definition includes or excludes, as canonical text."""
    return frozenset(
        prefix
        for definition in definitions
        if isinstance(definition, CidrDefinition)
        for prefix in (*definition.include, *definition.exclude)
    )


def world_label(version: int, families: frozenset[str] = BOTH_FAMILIES) -> Label:
    """The label of addresses outside of one family; a cluster of one family calls them just `world`."""
    dual = families == BOTH_FAMILIES
    return Label(RESERVED, f"world-ipv{version}" if dual else "world", "")


class OutsideNames:
    """The names of addresses on a node where some definitions are in force; /0 names nothing."""

    def __init__(self, definitions: Iterable[SelectorDefinition]) -> None:
        known = tuple(definitions)
        self._starts: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for network in map(_network, named_prefixes(known)):
            if network.prefixlen:
                start = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
                self._starts[network.version].setdefault(network.prefixlen, set()).add(start)
        self._lengths = {version: sorted(found, reverse=True) for version, found in self._starts.items()}
        self._fqdns = tuple(dict.fromkeys(one for one in known if isinstance(one, FqdnDefinition)))

    def prefix_of(self, address: Address) -> str:
        """The narrowest prefix that holds the address; empty when none but /0 does."""
        bits, value = address.max_prefixlen, int(address)
        for length in self._lengths[address.version]:
            if value >> (bits - length) in self._starts[address.version][length]:
                start = value >> (bits - length) << (bits - length)
                return f"{type(address)(start)}/{length}"
        return ""

    def labels(
        self,
        address: str,
        *,
        dns_names: Iterable[str] = (),
        families: frozenset[str] = BOTH_FAMILIES,
        kube_apiserver: bool = False,
    ) -> LabelSet:
        """The labels of an address. Raises ValueError for a text that is no address."""
        parsed = ipaddress.ip_address(address)
        labels = [world_label(parsed.version, families)]
        prefix = self.prefix_of(parsed)
        if prefix:
            labels.append(cidr_label(prefix))
        if kube_apiserver:
            labels.append(Label(RESERVED, "kube-apiserver", ""))
        names = tuple(dns_names)
        labels += [
            Label(FQDN, text, "") for text in {one.text for one in self._fqdns if _learned(one, names)}
        ]
        # Not LabelSet.of: its limit is for what etcd stores, and an address may have any number of names.
        return LabelSet(tuple(sorted(labels, key=lambda label: label.key)))


def outside_labels(
    address: str,
    definitions: Iterable[SelectorDefinition],
    *,
    dns_names: Iterable[str] = (),
    families: frozenset[str] = BOTH_FAMILIES,
    kube_apiserver: bool = False,
) -> LabelSet:
    """The labels of one address outside the cluster on a node where these definitions are in force.

    Raises ValueError for a text that is no address. For many addresses keep an `OutsideNames`.
    """
    names = OutsideNames(definitions)
    return names.labels(address, dns_names=dns_names, families=families, kube_apiserver=kube_apiserver)


def _learned(definition: FqdnDefinition, names: tuple[str, ...]) -> bool:
    return any(dnsnames.matches(definition.text, pattern=definition.pattern, name=name) for name in names)
