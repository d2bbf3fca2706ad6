"""A test case brought to life: its policies in an engine, its endpoints as subjects, verdicts on demand.

    Case ──> objects, identities, inputs ──> PolicyEngine ──> View of each endpoint ──> verdicts, outcomes

Nothing here compares with what a case expects. Pure.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Final

from axoneme.lib.policy.judge import Judgement
from axoneme.lib.policy.model import Action, Direction, Enforcement, SubjectPolicy
from axoneme.lib.policy.subjects import host_key, subject_key
from services.policy.cases import l7
from services.policy.cases.testcase import Case, Endpoint, Flow, Kind
from services.policy.cases.testworld import World, named_ports_of
from services.policy.cases.verdicts import (
    FAULTY,
    NO_POLICY,
    NamedPorts,
    Verdict,
    View,
    covers,
    deciding_level,
)
from services.policy.inputs import CidrGroup, CloudGroup
from services.policy.reading.document import Node
from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.objects import ParsedObject, parse_object
from services.policy.resolution.engine import PolicyEngine
from services.policy.rules import L7, ParsedPolicy, RuleEntry

_FREE: Final = SubjectPolicy(ingress=Enforcement.DEFAULT_ALLOW, egress=Enforcement.DEFAULT_ALLOW)


class Scene:
    """One case. `rejected` are the policies that were refused, by name, with the reason.

    Raises InvalidLabels for an endpoint that cannot exist.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.rejected: dict[str, str] = {}
        self.world = World.of(case)
        self.engine = PolicyEngine(case.settings)
        self._entries: dict[int, RuleEntry] = {}
        self._put_inputs()
        for node in case.policies:
            self._put_object(node)
        self.faults: Mapping[str, str] = self.engine.drain(1).faults
        self._neighbourhood = self.world.neighbourhood(
            definition for policy in self._policies() for definition in policy.selectors.values()
        )
        self.numbers = self._neighbourhood.numbers
        self._named_ports = named_ports_of(case, self.numbers)
        self._views: dict[str, View | Verdict] = {}
        self._view_by_identity: dict[tuple[int, frozenset[tuple[tuple[int, str], int]]], View] = {}

    def _put_inputs(self) -> None:
        case, engine = self.case, self.engine
        for number, labels in self.world.labels.items():
            engine.put_identity(number, labels)
        for name, number in self.world.numbers.items():
            endpoint = case.endpoints[name]
            if endpoint.named_ports:
                engine.put_named_ports(number, endpoint.address or name, endpoint.named_ports)
        for node in self.world.nodes.values():
            engine.put_node(node)
        for service in case.services:
            engine.put_service(service)
        for group in case.cidr_groups:
            engine.put_cidr_group(group)
        for cloud_group in case.cloud_groups:
            engine.put_cloud_group(cloud_group)

    def _put_object(self, node: Node) -> None:
        one = _parsed(json.dumps(node.plain()))
        if isinstance(one, str):
            self.rejected[name_of(node)] = one
        elif isinstance(one, CidrGroup):
            self.engine.put_cidr_group(one)
        elif isinstance(one, CloudGroup):
            self.engine.put_cloud_group(one)
        else:
            self.engine.put_policy(one)
            self._remember(one)

    def _remember(self, policy: ParsedPolicy) -> None:
        for rule in policy.rules:
            for entry in rule.entries:
                self._entries[policy.origin(entry).origin_id] = entry

    def _policies(self) -> Iterator[SubjectPolicy]:
        for one in self.case.endpoints.values():
            policy = self._policy(one) if self.world.enforced(one) else None
            if policy is not None:
                yield policy

    def _policy(self, one: Endpoint) -> SubjectPolicy | None:
        """The policy of an enforced endpoint; None when it cannot be computed."""
        if self.fault(one.name):
            return None
        if one.kind is Kind.HOST:
            return self.engine.host(one.name) or _FREE
        return self.engine.subject(self.world.number_of(one)) or _FREE

    def _answering(self, name: str) -> View | Verdict:
        """The finished policy of an endpoint; a verdict where none is enforced or can be computed."""
        found = self._views.get(name)
        if found is None:
            found = self._views[name] = self._make_view(self.case.endpoints[name])
        return found

    def view(self, name: str) -> View | None:
        """The finished policy of an endpoint, if one is enforced and can be computed."""
        found = self._answering(name)
        return found if isinstance(found, View) else None

    def _make_view(self, one: Endpoint) -> View | Verdict:
        if not self.world.enforced(one):
            return NO_POLICY
        policy = self._policy(one)
        if policy is None:
            return FAULTY
        if one.kind is Kind.HOST:
            return View(policy, self._neighbourhood.local, one.named_ports)
        shared = (self.world.number_of(one), frozenset(one.named_ports.items()))
        if shared not in self._view_by_identity:
            self._view_by_identity[shared] = View(policy, self._neighbourhood.local, one.named_ports)
        return self._view_by_identity[shared]

    def verdict(self, flow: Flow, side: Direction) -> Verdict:
        """What the policy of the sender or of the receiver says."""
        subject, peer = sides_of(flow, side)
        answering = self._answering(subject)
        if isinstance(answering, Verdict):
            return answering
        return answering.verdict(side, self.numbers[peer], flow.protocol, flow.port)

    def fault(self, name: str) -> str:
        """Why the policy of an endpoint cannot be computed."""
        one = self.case.endpoints[name]
        key = host_key(name) if one.kind is Kind.HOST else subject_key(self.world.number_of(one))
        return self.faults.get(key, "")

    def judgement(self, flow: Flow, side: Direction) -> Judgement | None:
        """Which rules won and lost at one side; None where nothing is enforced or computed."""
        subject, peer = sides_of(flow, side)
        view = self.view(subject)
        if view is None:
            return None
        return view.judgement(side, self.numbers[peer], flow.protocol, flow.port)

    def outcome(self, flow: Flow, side: Direction, request: l7.Request) -> l7.Outcome:
        """What becomes of a request at one side."""
        verdict = self.verdict(flow, side)
        if not verdict.forwarded:
            return l7.Outcome.DENY
        view, judgement = self.view(sides_of(flow, side)[0]), self.judgement(flow, side)
        if view is None or judgement is None or judgement.redirect is None:
            return l7.Outcome.ALLOW
        rules = self._l7_rules(flow, side, judgement)
        return l7.judge(rules, request, default_allow=view.default_allows(side))

    def _l7_rules(self, flow: Flow, side: Direction, judgement: Judgement) -> Iterator[L7 | None]:
        """The L7 rules of every enforced allow of the level that decided; None for one without."""
        for one in deciding_level(judgement):
            if one.audit or one.action not in (Action.ALLOW, Action.REDIRECT):
                continue
            for number in one.origins:
                entry = self._entries.get(number)
                yield from (None,) if entry is None else self._of_entry(entry, flow, side)

    def _of_entry(self, entry: RuleEntry, flow: Flow, side: Direction) -> Iterator[L7 | None]:
        # A name means a port of the receiver, whichever side's policy says it.
        receiver = self.case.endpoints[flow.target]
        names: NamedPorts = (
            receiver.named_ports
            if side is Direction.INGRESS
            else self._named_ports.get(self.numbers[flow.target], {})
        )
        for rule in entry.ports:
            if any(covers(ports, flow.protocol, flow.port, names) for ports in rule.ports):
                yield rule.l7


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> ParsedObject | str:
    """An object, or why it is refused. Cases of a file often try the same policies in many combinations."""
    try:
        return parse_object(json.loads(text))
    except InvalidPolicy as error:
        return str(error)


def sides_of(flow: Flow, side: Direction) -> tuple[str, str]:
    """Subject and peer of one side of a flow."""
    return (flow.target, flow.source) if side is Direction.INGRESS else (flow.source, flow.target)


def name_of(node: Node) -> str:
    """The name that an object gives itself."""
    metadata = (node.mapping or {}).get("metadata")
    name = (metadata.mapping or {}).get("name") if metadata is not None else None
    return str(name.scalar) if name is not None else ""
