"""What explain and replay share: parties from requests, the policies that decide on them, what they lack.

The engine is read on the event loop; what it resolved is immutable and may go to a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib import identities
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.labels import CLUSTER_KEY, K8S, LabelSet
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policy.subjects import host_key, subject_key
from services.policy.questions.analysiswire import party_spec
from services.policy.questions.explain import Question
from services.policy.questions.parties import Parties, Party
from services.policy.resolution.engine import NEVER_SUBJECTS, PolicyEngine
from services.policy.settings import PolicySettings
from services.policy.state import PolicyState

MAX_PORT: Final = 65_535
MAX_PROTOCOL: Final = 255


@dataclass(frozen=True, slots=True)
class Deciding:
    """The policy of one side with its DNS rules, if it has any, and why it cannot be computed, if so (the
    last one stays).
    """

    policy: SubjectPolicy | None = None
    fault: str = ""
    dns_rules: DnsRules | None = None


def parties_of(state: PolicyState) -> Parties:
    """A resolver of parties over what the service knows now."""
    engine = state.engine
    return Parties(state.addresses, engine.identities, engine.settings, engine.nodes)


def question_of(
    flow: pb.ExplainFlowRequest | pb.RecordedFlow, parties: Parties, state: PolicyState
) -> Question:
    """A flow as a question. Raises InvalidArgument naming the field, or NotFound."""
    if not 0 < flow.protocol <= MAX_PROTOCOL:
        reason = f"is {flow.protocol}; give an IP protocol number, TCP is 6"
        raise InvalidArgument.of_field("protocol", reason)
    if flow.port > MAX_PORT:
        raise InvalidArgument.of_field("port", f"is {flow.port}; at most {MAX_PORT}")
    return Question(
        source=parties.resolve(party_spec(flow.source, "source"), name="source"),
        destination=parties.resolve(party_spec(flow.destination, "destination"), name="destination"),
        protocol=flow.protocol,
        port=flow.port,
        families=state.engine.settings.families,
    )


def imagine(engine: PolicyEngine, imagined: Mapping[int, Party]) -> None:
    """Tell a copy of the engine of label sets that no identity has."""
    for number, party in imagined.items():
        engine.put_identity(number, party.labels)
        engine.put_named_ports(number, "imagined", party.named_ports)


def deciding(engine: PolicyEngine, party: Party) -> Deciding:
    """What decides for a party; nothing for addresses outside and for what has no endpoint here."""
    settings = engine.settings
    if party.node:
        if not settings.host_firewall:
            return Deciding()
        return _deciding(engine, engine.host(party.node), host_key(party.node))
    if party.outside or not enforced_here(party.identity, party.labels, settings):
        return Deciding()
    return _deciding(engine, engine.subject(party.identity), subject_key(party.identity))


def _deciding(engine: PolicyEngine, policy: SubjectPolicy | None, key: str) -> Deciding:
    rules = None if policy is None else engine.dns_rules_of(policy)
    return Deciding(policy, engine.fault_of(key) or "", rules)


def enforced_here(number: int, labels: LabelSet, settings: PolicySettings) -> bool:
    """Whether nodes of this cluster enforce policies for an identity."""
    if identities.is_local(number) or number in NEVER_SUBJECTS:
        return False
    cluster = labels.get(CLUSTER_KEY)
    return cluster is None or cluster.source != K8S or cluster.value == settings.cluster_name
