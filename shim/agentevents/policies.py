"""Agent events of policies: what judges the endpoints of this node changed.

The shim knows policies by the rules that reach its endpoints. A policy counts as updated when rules of it
came, went or changed for a subject that lives here, and as deleted when no subject here has a rule of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.policy.model import Origin, SubjectPolicy
from shim.agentevents.log import AgentEventLog
from shim.endpoints import Endpoint

MAX_COMPARED: Final = 10_000
"""Contributions up to which they are compared; of a larger subject all policies count as changed."""


class PolicyName(NamedTuple):
    """Which policy a rule belongs to."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, origin: Origin) -> PolicyName:
        """The policy of a rule."""
        return cls(origin.kind, origin.namespace, origin.name)

    def labels(self) -> list[str]:
        """As Hubble prints them for a policy."""
        derived = [f"k8s:io.cilium.k8s.policy.derived-from={self.kind}"] if self.kind else []
        name = [f"k8s:io.cilium.k8s.policy.name={self.name}"]
        return (
            derived
            + name
            + ([f"k8s:io.cilium.k8s.policy.namespace={self.namespace}"] if self.namespace else [])
        )


class PolicyEvents:
    """Hears of each endpoint that another policy judges."""

    def __init__(
        self,
        log: AgentEventLog,
        in_force: Callable[[int], SubjectPolicy | None],
        endpoints: Callable[[], Iterable[Endpoint]],
    ) -> None:
        """Take what tells the policy of an endpoint, and all endpoints."""
        self._log = log
        self._in_force = in_force
        self._endpoints = endpoints
        self._by_identity: dict[int, SubjectPolicy] = {}
        self._told: dict[PolicyName, int] = {}

    def switched(self, endpoint: Endpoint) -> None:
        """An endpoint is judged by the policy in force."""
        policy = self._in_force(endpoint.endpoint_id)
        before = self._by_identity.get(endpoint.identity)
        if policy is None or policy is before:
            return
        self._by_identity[endpoint.identity] = policy
        for name in sorted(_changed(before, policy)):
            rules = _rules(policy)[name]
            if rules:
                self._tell(name, policy.policy_revision, rules)
            elif not any(_rules(other)[name] for other in self._alive()):
                self._told.pop(name, None)
                self._log.add(partial(_event, flow_pb2.POLICY_DELETED, name, policy.policy_revision, 0))

    def _tell(self, name: PolicyName, revision: int, rules: int) -> None:
        """Once for each revision, however many subjects it reaches."""
        if revision and self._told.get(name) == revision:
            return
        self._told[name] = revision
        self._log.add(partial(_event, flow_pb2.POLICY_UPDATED, name, revision, rules))

    def _alive(self) -> list[SubjectPolicy]:
        """Policies of subjects that live here; others are forgotten."""
        living = {endpoint.identity for endpoint in self._endpoints()}
        self._by_identity = {number: one for number, one in self._by_identity.items() if number in living}
        return list(self._by_identity.values())


def _rules(policy: SubjectPolicy) -> Counter[PolicyName]:
    """Rules of each policy that reach a subject."""
    return Counter(map(PolicyName.of, policy.origins.values()))


def _changed(before: SubjectPolicy | None, after: SubjectPolicy) -> set[PolicyName]:
    """Policies of whose rules something differs."""
    if before is None:
        return set(_rules(after))
    if max(len(before.contributions), len(after.contributions)) > MAX_COMPARED:
        return {*_rules(before), *_rules(after)}
    numbers = set(before.origins) ^ set(after.origins)
    for contribution in before.contributions ^ after.contributions:
        numbers |= contribution.origins
    numbers |= before.ingress_default_deny ^ after.ingress_default_deny
    numbers |= before.egress_default_deny ^ after.egress_default_deny
    known = {**before.origins, **after.origins}
    return {PolicyName.of(known[number]) for number in numbers if number in known}


def _event(
    kind: flow_pb2.AgentEventType.ValueType, name: PolicyName, revision: int, rules: int
) -> flow_pb2.AgentEvent:
    update = flow_pb2.PolicyUpdateNotification(labels=name.labels(), revision=revision, rule_count=rules)
    return flow_pb2.AgentEvent(type=kind, policy_update=update)
