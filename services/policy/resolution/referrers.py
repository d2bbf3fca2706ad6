"""Which policies refer to a service or a group, so that a change of one binds only these again. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from services.policy.rules import ParsedPolicy, Peers, PolicyKey

Reference: TypeAlias = tuple[str, ...]
ANY_SERVICE: Final[Reference] = ("services",)
"""What rules refer to that select services by labels."""
ANY_CIDR_GROUP: Final[Reference] = ("CIDR groups",)


def service_reference(namespace: str, name: str) -> Reference:
    """A service by name."""
    return ("service", namespace, name)


def cidr_group_reference(name: str) -> Reference:
    """A CIDR group by name."""
    return ("CIDR group", name)


def cloud_reference(text: str) -> Reference:
    """A cloud group by what rules write of it."""
    return ("cloud group", text)


class Referrers:
    """Reference -> policies."""

    def __init__(self) -> None:
        self._policies: dict[Reference, set[PolicyKey]] = {}

    def add(self, policy: ParsedPolicy) -> None:
        """Note what a policy refers to."""
        for reference in _references(policy):
            self._policies.setdefault(reference, set()).add(policy.key)

    def remove(self, policy: ParsedPolicy) -> None:
        """Forget what a policy refers to."""
        for reference in set(_references(policy)):
            policies = self._policies[reference]
            policies.discard(policy.key)
            if not policies:
                del self._policies[reference]

    def of(self, *references: Reference) -> set[PolicyKey]:
        """The policies that refer to any of these."""
        return {key for reference in references for key in self._policies.get(reference, ())}

    def copy(self) -> Referrers:
        """An index of its own with the same content."""
        twin = Referrers()
        twin._policies = {reference: keys.copy() for reference, keys in self._policies.items()}
        return twin


def _references(policy: ParsedPolicy) -> Iterator[Reference]:
    for rule in policy.rules:
        for entry in rule.entries:
            yield from _of_peers(entry.peers)


def _of_peers(peers: Peers) -> Iterator[Reference]:
    for service in peers.services:
        by_name = service.selector is None
        yield service_reference(service.namespace, service.name) if by_name else ANY_SERVICE
    for group in peers.cidr_groups:
        yield cidr_group_reference(group.name) if group.selector is None else ANY_CIDR_GROUP
    for text in peers.cloud_groups:
        yield cloud_reference(text)
