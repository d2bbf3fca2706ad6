"""The policy of every subject from scratch: no cache, no index, nothing shared. What the engine must equal.

Slow on purpose, and short enough to be read as the definition of what the engine computes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import (
    AnyPeer,
    Contribution,
    IdentityPeer,
    NamedPort,
    Peer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.subjects import host_key, subject_key
from services.policy.inputs import CidrGroup, CloudGroup, Node, PolicySettings, Service
from services.policy.resolution.bind import BindContext, BoundEntry, BoundRule, bind
from services.policy.resolution.dnscompile import reaches_of, rules_of
from services.policy.resolution.locking import SubjectKind, kind_of
from services.policy.resolution.namedports import NamedPorts
from services.policy.resolution.resolve import Frame, frame_of, policy_of
from services.policy.rules import ParsedPolicy

_WORLD = frozenset({identities.WORLD, identities.WORLD_IPV4, identities.WORLD_IPV6})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainInputs:
    """What policies refer to; `named_ports` are filed by identity and address."""

    services: Iterable[Service] = ()
    cidr_groups: Iterable[CidrGroup] = ()
    cloud_groups: Iterable[CloudGroup] = ()
    nodes: Iterable[Node] = ()
    named_ports: Mapping[tuple[int, str], Mapping[tuple[int, str], int]] = field(default_factory=dict)

    def context(self, settings: PolicySettings) -> BindContext:
        """The inputs as rules refer to them."""
        return BindContext(
            settings=settings,
            services={(one.namespace, one.name): one for one in self.services},
            cidr_groups={one.key: one for one in self.cidr_groups},
            cloud_groups={one.key: one for one in self.cloud_groups},
        )


_NO_INPUTS = PlainInputs()


def resolve_all(
    policies: Iterable[ParsedPolicy],
    labels: Mapping[int, LabelSet],
    settings: PolicySettings,
    inputs: PlainInputs = _NO_INPUTS,
) -> dict[str, SubjectPolicy]:
    """The policy of every subject by its key; subjects whose policy cannot be computed are left out."""
    return resolve_with_faults(policies, labels, settings, inputs)[0]


def resolve_with_faults(
    policies: Iterable[ParsedPolicy],
    labels: Mapping[int, LabelSet],
    settings: PolicySettings,
    inputs: PlainInputs = _NO_INPUTS,
) -> tuple[dict[str, SubjectPolicy], dict[str, str]]:
    """As `resolve_all`, and by subject why a policy cannot be computed."""
    reserved = {number: one for number, (_, one) in identities.RESERVED.items()}
    known = {number: one for number, one in (reserved | dict(labels)).items() if number not in _WORLD}
    context = inputs.context(settings)
    rules = [rule for policy in policies for rule in bind(policy, context)]
    found: dict[str, SubjectPolicy] = {}
    faults: dict[str, str] = {}
    subjects: dict[int | str, LabelSet] = {number: one for number, one in known.items()}  # noqa: C416  keys widen
    if settings.host_firewall:
        subjects.update({node.name: node.labels for node in inputs.nodes})
    for subject, own in subjects.items():
        of_nodes = isinstance(subject, str)
        mine = [one for one in rules if one.rule.of_nodes == of_nodes and one.rule.subject.matches(own)]
        key = host_key(subject) if isinstance(subject, str) else subject_key(subject)
        policy, fault = _resolve(kind_of(subject), mine, settings, known, inputs)
        if fault:
            faults[key] = fault
        else:
            found[key] = policy
    return found, faults


def _resolve(
    kind: SubjectKind,
    rules: list[BoundRule],
    settings: PolicySettings,
    labels: Mapping[int, LabelSet],
    inputs: PlainInputs,
) -> tuple[SubjectPolicy, str]:
    ordered = sorted(rules, key=lambda rule: (rule.policy.key, rule.rule.path))
    frame = frame_of(kind, ordered, settings)
    contributions = {one for entry in frame.entries for one in _contributions(entry, labels, inputs)}
    if frame.localhost is not None:
        contributions.update(frame.localhost.contributions())
    digest = b"" if frame.fault else _dns_rules_digest(frame, labels, inputs)
    return replace(policy_of(frame, (), 0, digest), contributions=frozenset(contributions)), frame.fault


def _dns_rules_digest(frame: Frame, labels: Mapping[int, LabelSet], inputs: PlainInputs) -> bytes:
    names = NamedPorts()
    for (number, address), ports in inputs.named_ports.items():
        names.put(number, address, ports)
    reaches = (
        reach for entry in frame.entries for reach in reaches_of(entry, _numbers(entry, labels), names)
    )
    rules = rules_of(reaches, frame.header["selectors"], locked=frame.locks_egress)
    return b"" if rules is None else rules.digest


def _contributions(
    entry: BoundEntry, labels: Mapping[int, LabelSet], inputs: PlainInputs
) -> Iterator[Contribution]:
    numbers = _numbers(entry, labels)
    peers: set[Peer] = {*entry.fixed, *map(IdentityPeer, numbers)}
    yield from (Contribution.of(part, peer) for part in entry.plain for peer in peers)
    everybody = AnyPeer() in peers
    for part in entry.named:
        assert isinstance(part.ports, NamedPort)
        for number in {number for number, _ in inputs.named_ports if everybody or number in numbers}:
            port = _agreed(number, (part.ports.protocol, part.ports.name), inputs)
            if port is not None:
                resolved = replace(part, ports=one_port(part.ports.protocol, port))
                yield Contribution.of(resolved, IdentityPeer(number))


def _numbers(entry: BoundEntry, labels: Mapping[int, LabelSet]) -> frozenset[int]:
    selectors = (*entry.endpoints, *entry.selectors)
    selected = (number for number, own in labels.items() if any(one.matches(own) for one in selectors))
    return entry.numbers.union(selected)


def _agreed(number: int, name: tuple[int, str], inputs: PlainInputs) -> int | None:
    """The one number that a name means for all pods of an identity that have it."""
    found = {ports[name] for (one, _), ports in inputs.named_ports.items() if one == number and name in ports}
    return found.pop() if len(found) == 1 else None
