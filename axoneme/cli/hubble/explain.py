"""`axoneme observe --explain`: behind a verdict of policy the rule that decided, or nearly did.

The policy service is asked once for each (source, destination, protocol, port, direction); the answer holds
for the policies of now, which may have changed since the flow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.cli.hubble.policyrules import PolicyRule, allow_rules, rule_at
from axoneme.lib.errors import AxonemeError, NotFound
from axoneme.lib.flows.names import EVENT_TYPES

PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMPv4": 1, "ICMPv6": 58}
POLICY_REASONS: Final = (flow_pb2.POLICY_DENIED, flow_pb2.POLICY_DENY, flow_pb2.AUTH_REQUIRED)
WORLD: Final = frozenset({0, 2, 9, 10})
FIRST_LOCAL: Final = 1 << 24
"""Identities from here on mean prefixes, each node with its own numbers."""
MOST_KEPT: Final = 20_000
MOST_TRIED: Final = 16
_DIRECTIONS: Final = {flow_pb2.INGRESS: "ingress", flow_pb2.EGRESS: "egress"}
_DENIALS: Final = (policy_pb2.VERDICT_DENY, policy_pb2.VERDICT_AUDIT)


class PolicyCalls(Protocol):
    """The calls of the policy service that are needed; both raise AxonemeError."""

    def ExplainFlow(self, request: policy_pb2.ExplainFlowRequest) -> policy_pb2.ExplainFlowResponse:
        """The rules behind a verdict."""

    def GetPolicy(self, request: policy_pb2.GetPolicyRequest) -> policy_pb2.GetPolicyResponse:
        """A policy with its document."""


@dataclass(frozen=True, slots=True)
class _Question:
    """One flow, as far as policy sees it; ends by identity, or by address outside the cluster."""

    source: str | int
    destination: str | int
    protocol: int
    port: int
    direction: str
    dns_names: tuple[str, ...] = ()


class Explainer:
    """Explains flows, and remembers what it was told."""

    def __init__(self, calls: PolicyCalls) -> None:
        self._calls = calls
        self._known: dict[_Question, tuple[str, ...]] = {}
        self._documents: dict[tuple[str, str, str], str] = {}

    def lines(self, flow: flow_pb2.Flow) -> tuple[str, ...]:
        """What to say about a flow; nothing for flows on which no policy decided."""
        question = question_of(flow)
        if question is None:
            return ()
        if question not in self._known:
            if len(self._known) >= MOST_KEPT:
                self._known.clear()
                self._documents.clear()
            self._known[question] = tuple(self._explained(question, flow))
        return self._known[question]

    def _explained(self, question: _Question, flow: flow_pb2.Flow) -> Iterator[str]:
        try:
            answer = self._ask(question, question.protocol, question.port, flow)
            verdict: policy_pb2.DirectionVerdict = getattr(answer, question.direction)
            if not verdict.verdict:
                yield f"{question.direction}: this end has no policy of its own"
                return
            yield f"{question.direction}: {verdict.reason}"
            for rule in verdict.winners:
                yield from self._rule_lines(rule)
            if verdict.verdict in _DENIALS and not verdict.winners:
                yield from self._nearest(question, verdict, flow)
        except AxonemeError as error:
            yield f"cannot be explained: {error.message}".replace("\n", " ")

    def _rule_lines(self, reference: policy_pb2.RuleReference) -> Iterator[str]:
        rule = rule_at(self._document(reference.policy), reference.rule)
        if rule is not None:
            yield f"{place_text(reference.policy, rule)}: {rule.peers()}, {rule.ports_text()}"

    def _nearest(
        self, question: _Question, verdict: policy_pb2.DirectionVerdict, flow: flow_pb2.Flow
    ) -> Iterator[str]:
        """The rule that misses by the port alone, else by the peer alone, else any."""
        other_peer: tuple[policy_pb2.PolicyName, PolicyRule] | None = None
        any_rule: tuple[policy_pb2.PolicyName, PolicyRule] | None = None
        tried = 0
        for policy, rule in self._candidates(question, verdict):
            any_rule = any_rule or (policy, rule)
            if not rule.names_ports() or (_protocol_name(question), question.port) in _ports(rule):
                other_peer = other_peer or (policy, rule)
                continue
            for _, port in rule.ports()[:4]:
                tried += 1
                if tried <= MOST_TRIED and self._allows(question, port, rule.place, policy, flow):
                    yield f"nearest: {place_text(policy, rule)} allows it, but only on {rule.ports_text()}"
                    return
        if other_peer is not None:
            policy, rule = other_peer
            place = place_text(policy, rule)
            yield f"nearest: {place} allows {rule.ports_text()}, but only for {rule.peers()}"
        elif any_rule is not None:
            policy, rule = any_rule
            yield f"nearest: {place_text(policy, rule)} allows {rule.ports_text()} for {rule.peers()}"
        else:
            yield f"no rule of these policies allows any {question.direction}"

    def _candidates(
        self, question: _Question, verdict: policy_pb2.DirectionVerdict
    ) -> Iterator[tuple[policy_pb2.PolicyName, PolicyRule]]:
        seen = set()
        for reference in verdict.default_deny:
            policy = reference.policy
            if (key := (policy.kind, policy.namespace, policy.name)) not in seen:
                seen.add(key)
                for rule in allow_rules(self._document(policy), question.direction):
                    yield policy, rule

    def _allows(
        self, question: _Question, port: int, place: str, policy: policy_pb2.PolicyName, flow: flow_pb2.Flow
    ) -> bool:
        answer = self._ask(question, question.protocol, port, flow)
        verdict: policy_pb2.DirectionVerdict = getattr(answer, question.direction)
        return any(
            (winner.rule, winner.policy.name, winner.policy.namespace)
            == (place, policy.name, policy.namespace)
            for winner in verdict.winners
        )

    def _ask(
        self, question: _Question, protocol: int, port: int, flow: flow_pb2.Flow
    ) -> policy_pb2.ExplainFlowResponse:
        """By pod where there is one, which brings its named ports; by identity when the pod is gone."""
        request = policy_pb2.ExplainFlowRequest(protocol=protocol, port=port)
        _fill_party(request.source, question.source)
        _fill_party(request.destination, question.destination)
        request.destination.dns_names.extend(question.dns_names)
        end = flow.destination
        if end.pod_name and isinstance(question.destination, int):
            by_pod = policy_pb2.ExplainFlowRequest()
            by_pod.CopyFrom(request)
            by_pod.destination.pod.namespace, by_pod.destination.pod.name = end.namespace, end.pod_name
            try:
                return self._calls.ExplainFlow(by_pod)
            except NotFound:
                pass
        return self._calls.ExplainFlow(request)

    def _document(self, policy: policy_pb2.PolicyName) -> str:
        key = (policy.kind, policy.namespace, policy.name)
        if key not in self._documents:
            try:
                answer = self._calls.GetPolicy(
                    policy_pb2.GetPolicyRequest(kind=key[0], namespace=key[1], name=key[2])
                )
                self._documents[key] = answer.policy.document
            except NotFound:
                self._documents[key] = ""
        return self._documents[key]


def question_of(flow: flow_pb2.Flow) -> _Question | None:
    """What to ask about a flow; None when no policy decided on it or too little of it is known."""
    kind, direction = flow.event_type.type, _DIRECTIONS.get(flow.traffic_direction)
    refused = kind == EVENT_TYPES["drop"] and (
        flow.drop_reason_desc in POLICY_REASONS or flow.event_type.sub_type in POLICY_REASONS
    )
    layer4 = flow.l4.WhichOneof("protocol")
    if direction is None or layer4 not in PROTOCOLS or not (refused or kind == EVENT_TYPES["policy-verdict"]):
        return None
    protocol: Any = getattr(flow.l4, layer4)
    port = protocol.type if layer4.startswith("ICMP") else protocol.destination_port
    return _Question(
        _end(flow.source.identity, flow.IP.source),
        _end(flow.destination.identity, flow.IP.destination),
        PROTOCOLS[layer4],
        port,
        direction,
        tuple(flow.destination_names),
    )


def place_text(policy: policy_pb2.PolicyName, rule: PolicyRule) -> str:
    """`spec.ingress[0] of CiliumNetworkPolicy default/web`."""
    name = f"{policy.namespace}/{policy.name}" if policy.namespace else policy.name
    return f"{rule.place} of {policy.kind} {name}"


def _end(identity: int, address: str) -> str | int:
    outside = identity in WORLD or identity >= FIRST_LOCAL
    return address if outside and address else identity


def _fill_party(party: policy_pb2.FlowParty, end: str | int) -> None:
    if isinstance(end, str):
        party.ip = end
    else:
        party.identity = end


def _protocol_name(question: _Question) -> str:
    return next(name for name, number in PROTOCOLS.items() if number == question.protocol).upper()


def _ports(rule: PolicyRule) -> set[tuple[str, int]]:
    """With `ANY` as each protocol."""
    names = ("TCP", "UDP", "SCTP")
    return {
        (name, port)
        for protocol, port in rule.ports()
        for name in (names if protocol == "ANY" else (protocol,))
    }
