"""The subjects of this node: the policies that were told, and which holders of one are alike.

Holders of a subject share a mapstate when the named ports that its policy asks for have the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

from axoneme.lib.policy.model import NamedPort, SubjectPolicy
from shim.endpoints import Endpoint, EndpointState
from shim.holders import Holders
from shim.mapstates import Ports, named_ports_in, relevant_ports


class Subjects:
    """Policies by key of the subject; one that was removed stays until its holders are gone."""

    def __init__(self, holders: Holders) -> None:
        self.policies: dict[str, SubjectPolicy] = {}
        self._holders = holders
        self._named: dict[int, tuple[SubjectPolicy, frozenset[NamedPort]]] = {}  # by id() of the policy

    def forget(self, key: str) -> None:
        """The subject was removed."""
        if not self._holders.of_subject(key):
            self.policies.pop(key, None)

    def alive(self) -> set[str]:
        """Keys of all subjects that have holders."""
        return {self._holders.key_of(holder) for holder in self._holders if lives(holder)}

    def with_policy(self) -> list[tuple[str, Endpoint]]:
        """Holders whose subject's policy was told, with its key."""
        found = [(self._holders.key_of(holder), holder) for holder in self._holders]
        return [(key, holder) for key, holder in found if key in self.policies]

    def look_up_named(self, policies: Iterable[SubjectPolicy]) -> None:
        """Which ports these policies, and no others, name is looked up once."""
        self._named = {id(one): self._named.get(id(one)) or (one, named_ports_in(one)) for one in policies}

    def ports(self, holder: Endpoint, policy: SubjectPolicy) -> Ports:
        """The named ports of a holder that a policy asks for."""
        known = self._named.get(id(policy))
        return relevant_ports(holder.named_ports, known[1] if known else named_ports_in(policy))

    def kinds(self, key: str, policy: SubjectPolicy) -> list[Ports]:
        """The ports of a subject's holders, each combination once."""
        return sorted({self.ports(one, policy) for one in self._holders.of_subject(key)})

    def members(self, key: str, ports: Ports, policy: SubjectPolicy) -> list[int]:
        """Numbers of a subject's holders with these ports."""
        found = self._holders.of_subject(key)
        return [one.endpoint_id for one in found if self.ports(one, policy) == ports]


def lives(holder: Endpoint) -> bool:
    """Not being removed."""
    return holder.state is not EndpointState.TERMINATING
