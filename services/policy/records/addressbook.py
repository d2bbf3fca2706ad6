"""Who has which address, named ports and labels, from what the nodes and the identity service published.

    cilium/state/ip/v1/… rows ─> by address, by pod, by identity ─┐
    nodes ─────────────────────> by address ──────────────────────┼─> parties of flows
    identities ────────────────> by labels ───────────────────────┘

Pure; `Intake` feeds it.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TypeAlias, TypeVar

from axoneme.lib.labels import LabelSet
from services.policy.records.addresses import AddressRecord

Ports: TypeAlias = Mapping[tuple[int, str], int]
Key = TypeVar("Key")


class AddressBook:
    """Addresses of the cluster's endpoints and nodes, and the numbers of label sets."""

    def __init__(self) -> None:
        self._by_ip: dict[str, AddressRecord] = {}
        self._by_pod: defaultdict[tuple[str, str], dict[str, AddressRecord]] = defaultdict(dict)
        self._by_identity: defaultdict[int, dict[str, AddressRecord]] = defaultdict(dict)
        self._lengths: Counter[tuple[int, int]] = Counter()
        self._node_addresses: dict[str, frozenset[str]] = {}
        self._labels: dict[int, LabelSet] = {}
        self._numbers: defaultdict[LabelSet, set[int]] = defaultdict(set)

    def put(self, record: AddressRecord) -> AddressRecord | None:
        """Take a record; returns the one that it replaces."""
        before = self.remove(record.address)
        self._by_ip[record.address] = record
        self._by_identity[record.identity][record.address] = record
        if record.pod:
            self._by_pod[record.namespace, record.pod][record.address] = record
        if "/" in record.address:
            self._lengths[_version_and_length(record.address)] += 1
        return before

    def remove(self, ip: str) -> AddressRecord | None:
        """An address went away; returns its record."""
        record = self._by_ip.pop(ip, None)
        if record is None:
            return None
        _drop(self._by_identity, record.identity, ip)
        if record.pod:
            _drop(self._by_pod, (record.namespace, record.pod), ip)
        if "/" in ip:
            kind = _version_and_length(ip)
            self._lengths[kind] -= 1
            if not self._lengths[kind]:
                del self._lengths[kind]
        return record

    def put_identity(self, number: int, labels: LabelSet) -> None:
        """Take an identity, or its other labels."""
        self.remove_identity(number)
        self._labels[number] = labels
        self._numbers[labels].add(number)

    def remove_identity(self, number: int) -> None:
        """An identity went away."""
        labels = self._labels.pop(number, None)
        if labels is not None:
            self._numbers[labels].discard(number)
            if not self._numbers[labels]:
                del self._numbers[labels]

    def number_of(self, labels: LabelSet) -> int | None:
        """The identity of a label set; the lowest for the moment in which there are two."""
        return min(self._numbers.get(labels, ()), default=None)

    def put_node(self, name: str, addresses: frozenset[str]) -> None:
        """Take the addresses of a node."""
        self._node_addresses[name] = addresses

    def remove_node(self, name: str) -> None:
        """A node went away."""
        self._node_addresses.pop(name, None)

    def records(self) -> tuple[AddressRecord, ...]:
        """All records."""
        return tuple(self._by_ip.values())

    def by_ip(self, ip: str) -> AddressRecord | None:
        """The record of an address in canonical text, else that of the narrowest prefix that holds it."""
        found = self._by_ip.get(ip)
        if found is not None or not self._lengths:
            return found
        address = ipaddress.ip_address(ip)
        for version, length in sorted(self._lengths, reverse=True):
            if version == address.version:
                prefix = str(ipaddress.ip_network((ip, length), strict=False))
                if prefix in self._by_ip:
                    return self._by_ip[prefix]
        return None

    def by_pod(self, namespace: str, name: str) -> AddressRecord | None:
        """A record of a pod, that of its lowest address."""
        records = self._by_pod.get((namespace, name))
        return records[min(records)] if records else None

    def ports_of(self, identity: int) -> Ports:
        """The port of each name on which all pods of an identity agree that know it."""
        found: dict[tuple[int, str], set[int]] = {}
        for ports in self.each_ports_of(identity):
            for name, port in ports.items():
                found.setdefault(name, set()).add(port)
        return {name: min(choices) for name, choices in found.items() if len(choices) == 1}

    def each_ports_of(self, identity: int) -> tuple[Ports, ...]:
        """The different sets of named ports that pods of an identity have, in a fixed order."""
        records = self._by_identity.get(identity, {}).values()
        distinct = {tuple(sorted(record.named_ports.items())) for record in records}
        return tuple(dict(ports) for ports in sorted(distinct))

    def nodes(self) -> Mapping[str, frozenset[str]]:
        """The addresses of each node."""
        return self._node_addresses

    def node_at(self, ip: str) -> str | None:
        """The node that has an address."""
        return min((name for name, known in self._node_addresses.items() if ip in known), default=None)


def _drop(index: defaultdict[Key, dict[str, AddressRecord]], key: Key, ip: str) -> None:
    index[key].pop(ip, None)
    if not index[key]:
        del index[key]


def _version_and_length(prefix: str) -> tuple[int, int]:
    network = ipaddress.ip_network(prefix)
    return network.version, network.prefixlen
