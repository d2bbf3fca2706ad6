"""Who a side of a flow is: from a number, labels, an address or a pod name to an identity with its labels.

    PartySpec (what was asked) ──> Party (number, labels, learned names, named ports)

Explain and replay share it. A label set that no identity has gets a number of its own in a copy of the
engine, so that "what if a pod had these labels" is answered by the same rules. Labels without a namespace are
no pod's whole set: they are looked for among the known ones. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from axoneme.lib import identities
from axoneme.lib.errors import InvalidArgument, NotFound
from axoneme.lib.labels import NAMESPACE_KEY, RESERVED, Label, LabelSet
from axoneme.lib.policy.cidrlabels import WORLD_KEYS, cidr_label
from axoneme.lib.policy.outside import OutsideNames
from services.policy.records.addresses import AddressRecord
from services.policy.settings import PolicySettings

FIRST_IMAGINED: Final = identities.LOCAL_SCOPE - 1
"""Numbers of label sets that no identity has are taken from here downwards."""
OUTSIDE: Final = identities.LOCAL_SCOPE
"""The number of what only nodes have numbers for, while one flow is judged."""
_NODE_KEYS: Final = WORLD_KEYS | {"remote-node"}
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PartySpec:
    """One side as asked for: exactly one of `identity`, `labels`, `ip` and `pod` is given."""

    identity: int = 0
    labels: tuple[str, ...] = ()
    ip: str = ""
    pod: tuple[str, str] | None = None
    dns_names: tuple[str, ...] = ()
    named_ports: Mapping[tuple[int, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One side as understood. `address` is set for a party outside the cluster; its labels then depend on
    which definitions are in force (`seen_by`), and `identity` is the world's. `node` names the node whose
    address was asked for.
    """

    identity: int
    labels: LabelSet
    address: str = ""
    node: str = ""
    dns_names: tuple[str, ...] = ()
    named_ports: Mapping[tuple[int, str], int] = field(default_factory=dict)

    @property
    def outside(self) -> bool:
        """Whether it is an address outside the cluster."""
        return bool(self.address)

    def seen_by(self, names: OutsideNames, families: frozenset[str]) -> tuple[int, LabelSet]:
        """Number and labels on a node that has these names for addresses outside."""
        if not self.outside:
            return self.identity, self.labels
        return OUTSIDE, names.labels(self.address, dns_names=self.dns_names, families=families)


class Directory(Protocol):
    """What is known of addresses and pods."""

    def by_ip(self, ip: str) -> AddressRecord | None:
        """The record of an address."""

    def by_pod(self, namespace: str, name: str) -> AddressRecord | None:
        """A record of a pod."""

    def number_of(self, labels: LabelSet) -> int | None:
        """The identity of a label set."""

    def ports_of(self, identity: int) -> Mapping[tuple[int, str], int]:
        """The named ports of an identity."""

    def node_at(self, ip: str) -> str | None:
        """The node that has an address."""

    def nodes(self) -> Mapping[str, frozenset[str]]:
        """The addresses of each node."""


class Parties:
    """Resolves specifications against what the service knows, and hands out imagined numbers."""

    def __init__(
        self,
        directory: Directory,
        labels: Mapping[int, LabelSet],
        settings: PolicySettings,
        nodes: Mapping[str, LabelSet],
    ) -> None:
        self._directory = directory
        self._labels = labels
        self._settings = settings
        self._nodes = nodes
        self._imagined_numbers: dict[LabelSet, int] = {}
        self.imagined: dict[int, Party] = {}
        """By number: whom the engine's copy must be told of before flows are judged."""

    def resolve(self, spec: PartySpec, *, name: str) -> Party:
        """The party of a specification; `name` is the field that errors name.

        Raises InvalidArgument for a specification that is empty or malformed, NotFound for what is unknown.
        """
        if spec.identity:
            return self._of_number(spec.identity, spec, name)
        if spec.labels:
            return self._of_labels(LabelSet.parse(spec.labels), spec, name)
        if spec.ip:
            return self._of_address(spec, name)
        if spec.pod is not None:
            return self._of_pod(spec.pod, spec, name)
        raise InvalidArgument.of_field(name, "names nobody; give a pod, an address, labels or an identity")

    def _of_number(self, number: int, spec: PartySpec, name: str) -> Party:
        reserved = identities.RESERVED.get(number)
        labels = reserved[1] if reserved else self._labels.get(number)
        if labels is None:
            raise NotFound(f"{name}: identity {number} has no known labels")
        return self._party(number, labels, spec)

    def _of_labels(self, labels: LabelSet, spec: PartySpec, name: str) -> Party:
        number = _reserved(labels) or self._directory.number_of(labels)
        if number is not None:
            return self._of_number(number, spec, name)
        if labels in self._imagined_numbers:
            known = self.imagined[self._imagined_numbers[labels]]
            ports = {**known.named_ports, **spec.named_ports}
            return replace(known, dns_names=spec.dns_names, named_ports=ports)
        if any(label.source == RESERVED and label.key in _NODE_KEYS for label in labels):
            return self._party(OUTSIDE, labels, spec)
        if labels.get(NAMESPACE_KEY) is None and not any(label.source == RESERVED for label in labels):
            found = self._fitting(labels, name)
            if found is not None:
                return self._of_number(found, spec, name)
        return self._imagine(labels, spec)

    def _fitting(self, labels: LabelSet, name: str) -> int | None:
        """The only identity that has all these labels. Raises InvalidArgument when there are several."""
        found = [
            number
            for number, known in self._labels.items()
            if all(label in known.labels for label in labels.labels)
        ]
        if len(found) > 1:
            shown = ", ".join(map(str, sorted(found)[:_SHOWN]))
            more = ", …" if len(found) > _SHOWN else ""
            reason = (
                f"{len(found)} identities have these labels ({shown}{more}); add labels, or name one of them"
            )
            raise InvalidArgument.of_field(name, reason)
        return found[0] if found else None

    def _of_address(self, spec: PartySpec, name: str) -> Party:
        try:
            address = ipaddress.ip_address(spec.ip)
        except ValueError as error:
            raise InvalidArgument.of_field(name, f"{spec.ip[:64]!r} is not an address") from error
        if "%" in spec.ip:
            raise InvalidArgument.of_field(name, f"{spec.ip[:64]!r} names an interface; leave it out")
        node = self._directory.node_at(str(address))
        if node is not None:
            return self._of_node(node, str(address), spec)
        record = self._directory.by_ip(str(address))
        if record is not None:
            return self._of_record(record, spec, name)
        dual = len(self._settings.families) > 1
        world = identities.WORLD_IPV4 if address.version == 4 else identities.WORLD_IPV6
        number = world if dual else identities.WORLD
        return self._party(number, identities.RESERVED[number][1], spec, address=str(address))

    def nodes_with_numbers(self) -> list[Party]:
        """The nodes that have numbers of their own, as peers, one for each address."""
        found = [
            self._of_node(node, address, PartySpec(ip=address))
            for node, addresses in sorted(self._directory.nodes().items())
            for address in sorted(addresses)
        ]
        return [party for party in found if party.identity == OUTSIDE]

    def _of_node(self, node: str, address: str, spec: PartySpec) -> Party:
        """A node as other nodes see it: with labels of its own only where settings say so."""
        labels = list(identities.RESERVED[identities.REMOTE_NODE][1])
        if self._settings.node_labels:
            labels += [label for label in self._nodes.get(node, LabelSet(())) if label.source != RESERVED]
        if self._settings.cidr_match_nodes:
            labels.append(cidr_label(address))
        known = LabelSet(tuple(sorted(labels, key=lambda label: label.key)))
        number = identities.RESERVED_NUMBER_BY_LABELS.get(known, OUTSIDE)
        return self._party(number, known, spec, node=node)

    def _of_pod(self, pod: tuple[str, str], spec: PartySpec, name: str) -> Party:
        record = self._directory.by_pod(*pod)
        if record is None:
            raise NotFound(f"{name}: pod {pod[0]}/{pod[1]} has no address that the service knows")
        return self._of_record(record, spec, name)

    def _of_record(self, record: AddressRecord, spec: PartySpec, name: str) -> Party:
        party = self._of_number(record.identity, spec, name)
        return replace(party, named_ports={**record.named_ports, **spec.named_ports})

    def _imagine(self, labels: LabelSet, spec: PartySpec) -> Party:
        number = FIRST_IMAGINED
        while number in self.imagined or number in self._labels:
            number -= 1
        self._imagined_numbers[labels] = number
        party = Party(
            identity=number, labels=labels, dns_names=spec.dns_names, named_ports=dict(spec.named_ports)
        )
        self.imagined[number] = party
        return party

    def _party(
        self, number: int, labels: LabelSet, spec: PartySpec, *, address: str = "", node: str = ""
    ) -> Party:
        return Party(
            identity=number,
            labels=labels,
            address=address,
            node=node,
            dns_names=spec.dns_names,
            named_ports={**self._directory.ports_of(number), **spec.named_ports},
        )


def _reserved(labels: LabelSet) -> int | None:
    """The number of a reserved label set, or of a reserved label alone that stands for one."""
    if len(labels) == 1:
        only = labels.labels[0]
        if only == Label(RESERVED, only.key, ""):
            return identities.RESERVED_NUMBER_BY_NAME.get(only.key)
    return identities.RESERVED_NUMBER_BY_LABELS.get(labels)
