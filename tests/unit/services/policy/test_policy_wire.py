"""What goes to the nodes: one serialisation for all, byte for byte what the messages say."""

from __future__ import annotations

import gc

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.intent import Change, Failure, Header, Interest, Update
from axoneme.lib.intentstream import envelope
from axoneme.lib.policy.model import Enforcement, SubjectPolicy
from axoneme.lib.policycodec import encode_change, encode_subject, host_key, subject_key
from services.policy.bodies import Bodies
from services.policy.wire import PolicyPublisherCodec
from tests.fanout import FIRST_PEER, Rules

HEADER = Header(nonce=3, epoch=7, base_revision=4, revision=5, store_revision=9)


def _update(*changes: Change[SubjectPolicy]) -> Update[SubjectPolicy]:
    return Update(HEADER, changes)


def test_the_bytes_are_those_of_the_message() -> None:
    """Whole, as a difference, removed; for identities and hosts."""
    rules = Rules(2, 300)
    before = rules.policy()
    rules.add_peer(FIRST_PEER + 1_000)
    after = rules.policy()
    changes = [
        Change(subject_key(1), after, before),
        Change(subject_key(70_000), after),
        Change(host_key("n1"), before),
    ]
    removed = [subject_key(5), host_key("n2")]
    raw = PolicyPublisherCodec().encode(_update(*changes, *(Change(key, None) for key in removed)))
    assert pb.SubscribeEndpointPoliciesResponse.FromString(raw) == pb.SubscribeEndpointPoliciesResponse(
        header=envelope.header_to_message(HEADER),
        changes=[encode_change(one.key, one.value, one.previous) for one in changes if one.value is not None],
        removed_subjects=[encode_subject(key) for key in removed],
    )


def test_goodbye_has_its_header_only() -> None:
    header = Header(nonce=1, epoch=7, goodbye=Failure("UNAVAILABLE", "DRAINING", "stops"))
    message = pb.SubscribeEndpointPoliciesResponse.FromString(PolicyPublisherCodec().encode(Update(header)))
    assert message == pb.SubscribeEndpointPoliciesResponse(header=envelope.header_to_message(header))


def test_subjects_and_nodes_share_one_serialisation() -> None:
    """The same policy for many subjects on many nodes is serialised once; its weight is its length."""
    codec, policy = PolicyPublisherCodec(), Rules(2, 30).policy()
    for _node in range(20):
        changes = [Change(subject_key(number), policy) for number in range(30)]
        weight = sum(map(codec.weight, changes))
        assert abs(len(codec.encode(_update(*changes))) - weight) < 40 * len(changes)
    assert codec.bodies.made == 1


def test_bodies_go_with_their_policies() -> None:
    """Nothing of a policy is kept alive for its bytes."""
    bodies, rules = Bodies(), Rules(1, 3)
    first, second = rules.policy(), rules.policy()
    bodies.get(first, None)
    bodies.get(second, first)
    assert len(bodies) == 2
    del first
    gc.collect()
    assert (len(bodies), bodies.kept_bytes) == (0, 0)
    bodies.get(second, None)
    del second
    gc.collect()
    assert (len(bodies), bodies.kept_bytes) == (0, 0)


def test_bodies_stay_within_their_limit() -> None:
    """The oldest make room; what was dropped is made again and is the same."""
    policies = [
        SubjectPolicy(ingress=Enforcement.DEFAULT_DENY, egress=Enforcement.DEFAULT_DENY) for _ in range(9)
    ]
    bodies = Bodies(lambda _value, _previous: bytes(1_000), limit_bytes=5_000)
    made = [bodies.get(policy, None) for policy in policies]
    assert len(bodies) == 3
    assert bodies.kept_bytes <= 5_000
    assert bodies.get(policies[0], None) == made[0]
    assert bodies.made == 10
    assert bodies.get(policies[8], None) == made[8]
    assert bodies.made == 10


def test_a_body_too_large_to_keep_is_still_sent() -> None:
    policy = Rules(1, 1).policy()
    bodies = Bodies(lambda _value, _previous: bytes(1_000), limit_bytes=10)
    assert len(bodies.get(policy, None)) == 1_000
    assert len(bodies) == 0


def test_interest_names_identities_and_hosts() -> None:
    """A kind of subject that this version does not know has no policy here."""
    subjects = [
        pb.Subject(identity=7),
        pb.Subject(host_of_node="n1"),
        pb.Subject(),
        pb.Subject(host_of_node=""),
    ]
    request = pb.SubscribeEndpointPoliciesRequest(interest=pb.Interest(added=subjects, removed=subjects[:1]))
    assert PolicyPublisherCodec().decode(request) == Interest(
        added=("subject:7", "host:n1"), removed=("subject:7",)
    )
