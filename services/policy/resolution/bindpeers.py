"""The other side of an entry once services and groups of addresses are known.

    Peers + BindContext ──> PeerSide: cluster-wide selectors and numbers, references with definitions

What any identity of the cluster may satisfy stays a selector, resolved later against identities; what an
identity of one node may satisfy (addresses outside, nodes with own numbers) becomes a reference that each
node resolves. A reference that resolves to nothing adds nobody (R-22). Pure.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from axoneme.lib.labels import K8S, RESERVED, Label, LabelSet
from axoneme.lib.policy.model import CidrDefinition, FqdnDefinition, LabelsDefinition, SelectorDefinition
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.inputs import CidrGroup, CloudGroup, Family, PolicySettings, Service
from services.policy.resolution.entities import members_of
from services.policy.rules import CidrGroupPeer, EntityName, Peers, PolicyKey, ServicePeer
from services.policy.scope import (
    cluster_wide_only,
    in_cluster,
    in_namespace,
    mentions_cluster,
    mentions_reserved,
)

_CIDR_GROUP: Final = "cidrgroup"
_PLAIN: Final = re.compile(r"[-A-Za-z0-9_./]*")
_REMOTE_NODE: Final = Requirement(RESERVED, "remote-node", Operator.EXISTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class BindContext:
    """What rules refer to. Groups are filed by key, services by (namespace, name)."""

    settings: PolicySettings = field(default_factory=PolicySettings)
    services: Mapping[tuple[str, str], Service] = field(default_factory=dict)
    cidr_groups: Mapping[PolicyKey, CidrGroup] = field(default_factory=dict)
    cloud_groups: Mapping[PolicyKey, CloudGroup] = field(default_factory=dict)

    def services_of(self, peer: ServicePeer) -> list[Service]:
        """The services that a rule means, in a fixed order."""
        if peer.selector is None:
            found = self.services.get((peer.namespace, peer.name))
            return [found] if found else []
        return [self.services[key] for key in sorted(self.services) if means(peer, self.services[key])]

    def cidrs_of(self, peer: CidrGroupPeer) -> tuple[str, ...]:
        """The prefixes of the CIDR groups that a rule means."""
        groups = (group for group in self.cidr_groups.values() if _means_group(peer, group))
        return tuple(sorted({cidr for group in groups for cidr in group.cidrs}))

    def cloud_cidrs(self, reference: str) -> tuple[str, ...]:
        """The prefixes that a cloud reported for a reference."""
        groups = (group for group in self.cloud_groups.values() if group.reference == reference)
        return tuple(sorted({cidr for group in groups for cidr in group.cidrs}))


def means(peer: ServicePeer, service: Service) -> bool:
    """Whether a rule's service peer means a service."""
    if peer.namespace and peer.namespace != service.namespace:
        return False
    if peer.selector is None:
        return peer.name == service.name
    return peer.selector.matches(_label_set(K8S, service.labels))


def _means_group(peer: CidrGroupPeer, group: CidrGroup) -> bool:
    if peer.selector is None:
        return peer.name == group.key.name
    return peer.selector.matches(_label_set(_CIDR_GROUP, group.labels))


def _label_set(source: str, labels: Mapping[str, str]) -> LabelSet:
    return LabelSet(tuple(Label(source, key, labels[key]) for key in sorted(labels)))


@dataclass(slots=True)
class PeerSide:
    """`anyone` alone is every peer. `endpoints` are what fromRequires and toRequires may narrow; `texts` name
    every other peer canonically, so that two entries with equal texts mean the same peers.
    """

    anyone: bool = False
    endpoints: dict[LabelSelector, None] = field(default_factory=dict)
    selectors: dict[LabelSelector, None] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)
    references: dict[str, SelectorDefinition] = field(default_factory=dict)
    texts: dict[str, None] = field(default_factory=dict)

    def refer(self, key: str, definition: SelectorDefinition) -> None:
        """Add a reference that nodes resolve."""
        self.references[key] = definition
        self.texts[key] = None

    def refer_to_cidrs(
        self, key: str, include: tuple[str, ...], exclude: tuple[str, ...], settings: PolicySettings
    ) -> None:
        """Add addresses outside the cluster, if there are any of a family that the cluster has.

        In a cluster of one family the whole world is one identity, which a prefix of the other must not name.
        """
        include = tuple(prefix for prefix in include if _family(prefix) in settings.families)
        if include:
            nodes = settings.cidr_match_nodes
            self.refer(key, CidrDefinition(include=include, exclude=exclude, nodes=nodes))


def peer_side(peers: Peers, context: BindContext) -> PeerSide:
    """Work out the other side of an entry."""
    if peers.anyone or EntityName.ALL in peers.entities:
        return PeerSide(anyone=True, texts={"any": None})
    side = PeerSide()
    _add_selectors(side, peers, context.settings)
    _add_entities(side, peers.entities, context.settings)
    _add_addresses(side, peers, context)
    for service in (one for peer in peers.services for one in context.services_of(peer)):
        _add_service(side, service, context.settings)
    return side


def _add_selectors(side: PeerSide, peers: Peers, settings: PolicySettings) -> None:
    for selector in peers.selectors:
        side.endpoints[localised(selector, settings)] = None
    for selector in peers.nodes:
        nodes = selector.also(_REMOTE_NODE)
        side.selectors[nodes] = None
        side.refer(labels_key(nodes), LabelsDefinition((nodes,)))


def _add_entities(side: PeerSide, entities: Iterable[EntityName], settings: PolicySettings) -> None:
    for entity in entities:
        members = members_of(entity, settings)
        side.numbers |= members.numbers
        side.selectors.update(dict.fromkeys(members.selectors))
        side.texts[f"entity:{entity}"] = None
        if members.definition is not None:
            side.refer(f"entity:{entity}", members.definition)


def _add_addresses(side: PeerSide, peers: Peers, context: BindContext) -> None:
    settings = context.settings
    for cidr in peers.cidrs:
        side.refer_to_cidrs(_cidr_key("cidr", cidr.cidr, cidr.excepts), (cidr.cidr,), cidr.excepts, settings)
    for group in peers.cidr_groups:
        name = group.name if group.selector is None else f"labels {selector_text(group.selector)} "
        key = _cidr_key(_CIDR_GROUP, name, group.excepts)
        side.refer_to_cidrs(key, context.cidrs_of(group), group.excepts, settings)
    for reference in peers.cloud_groups:
        key = f"cloud:{hashlib.sha256(reference.encode()).hexdigest()[:40]}"
        side.refer_to_cidrs(key, context.cloud_cidrs(reference), (), settings)
    for fqdn in peers.fqdns:
        # A pattern without a wildcard is a name; one text then has one definition.
        pattern = fqdn.pattern and "*" in fqdn.text
        side.refer(f"fqdn:{fqdn.text}", FqdnDefinition(fqdn.text, pattern=pattern))


def _add_service(side: PeerSide, service: Service, settings: PolicySettings) -> None:
    key = f"service:{service.namespace}/{service.name}"
    if not service.selector:
        singles = {one for address in service.backends for one in _single(address)}
        side.refer_to_cidrs(key, tuple(sorted(singles)), (), settings)
        return
    wanted = [Requirement(K8S, key, Operator.IN, (value,)) for key, value in service.selector.items()]
    pods = LabelSelector.of(in_namespace(service.namespace), *wanted)
    side.selectors[localised(pods, settings)] = None
    side.texts[key] = None


def _family(prefix: str) -> Family:
    return "ipv6" if ":" in prefix else "ipv4"


def _single(address: str) -> tuple[str, ...]:
    """The prefix of one address; nothing for a text that is no address, which then is nobody."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ()
    scoped = isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None
    return () if scoped else (f"{parsed}/{parsed.max_prefixlen}",)


def _cidr_key(kind: str, name: str, excepts: tuple[str, ...]) -> str:
    return "-".join((f"{kind}:{name}", *excepts))


def localised(selector: LabelSelector, settings: PolicySettings) -> LabelSelector:
    """A peer selector with the default cluster applied (R-19)."""
    if not settings.default_local_cluster or mentions_reserved(selector) or mentions_cluster(selector):
        return selector
    return selector.also(in_cluster(settings.cluster_name))


def label_references(
    selectors: Iterable[LabelSelector],
) -> Iterator[tuple[str, SelectorDefinition]]:
    """References for those selectors that an identity of one node may meet."""
    for selector in selectors:
        if not cluster_wide_only(selector):
            yield labels_key(selector), LabelsDefinition((selector,))


def labels_key(selector: LabelSelector) -> str:
    """The reference key of a label selector; different selectors have different keys."""
    return f"labels:{selector_text(selector)}"


def selector_text(selector: LabelSelector) -> str:
    """A selector as text that no other selector has, whatever characters its keys and values hold."""
    texts = []
    for one in selector.requirements:
        values = ",".join(map(_quoted, one.values))
        word = {Operator.EXISTS: "exists", Operator.DOES_NOT_EXIST: "!exists"}.get(one.operator)
        texts.append(
            f"{_quoted(one.source)}:{_quoted(one.key)} {word or f'{one.operator.lower()} ({values})'}"
        )
    return " and ".join(texts) or "everything"


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def unresolved(peers: Peers, context: BindContext) -> list[str]:
    """What an entry refers to that selects nobody now, in words that follow `refers to`."""
    found = [
        _service_text(peer)
        for peer in peers.services
        if not any(one.selector or one.backends for one in context.services_of(peer))
    ]
    for group in peers.cidr_groups:
        if not context.cidrs_of(group):
            by_labels = "" if group.selector is None else f"CIDR groups with the labels {group.selector}"
            found.append(by_labels or f"CIDR group {group.name}")
    return found + [f"cloud group {one}" for one in peers.cloud_groups if not context.cloud_cidrs(one)]


def _service_text(peer: ServicePeer) -> str:
    if peer.selector is None:
        return f"service {peer.namespace}/{peer.name}"
    where = f" in namespace {peer.namespace}" if peer.namespace else ""
    return f"services with the labels {peer.selector}{where}"
