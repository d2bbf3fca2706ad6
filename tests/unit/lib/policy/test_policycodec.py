"""Subject policies through the wire: whole, as differences, and what must be refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import AxonemeError, InvalidArgument, Unsupported
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    Contribution,
    Direction,
    Enforcement,
    Entity,
    EntitySelector,
    IdentityPeer,
    NamedPort,
    NoPeer,
    Origin,
    PortBlock,
    Redirect,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import precedence
from axoneme.lib.policycodec import decode_change, decode_subject, encode_change, subject_key, wire_digest

KEY = subject_key(70_001)
ORIGINS = tuple(
    Origin.of(kind="CiliumNetworkPolicy", namespace="a", name=name, rule="spec.ingress[0]", labels=("x=y",))
    for name in ("p", "q")
)
WORLD = {"entity:world": EntitySelector(Entity.WORLD)}


@st.composite
def _contributions(draw: st.DrawFn) -> Contribution:
    action = draw(st.sampled_from(Action))
    return Contribution(
        direction=draw(st.sampled_from(Direction)),
        peer=draw(
            st.sampled_from(
                [AnyPeer(), NoPeer(), IdentityPeer(1), IdentityPeer(70_002), SelectorPeer("entity:world")]
            )
        ),
        ports=draw(st.sampled_from([ANY_PORT, PortBlock(6, 0, 0), one_port(6, 0), NamedPort(17, "dns")])),
        action=action,
        redirect=Redirect("dns", "", 121) if action is Action.REDIRECT else None,
        precedence=precedence(action=action, redirect_priority=121),
        origins=frozenset(draw(st.sets(st.sampled_from([one.origin_id for one in ORIGINS]), min_size=1))),
        audit=draw(st.booleans()),
    )


_policies = st.builds(
    lambda contributions, ingress, egress: SubjectPolicy(
        ingress=ingress,
        egress=egress,
        contributions=contributions,
        selectors=WORLD,
        origins={one.origin_id: one for one in ORIGINS},
        ingress_default_deny=frozenset({ORIGINS[0].origin_id}),
        policy_revision=7,
    ),
    st.frozensets(_contributions(), max_size=6),
    st.sampled_from(Enforcement),
    st.sampled_from(Enforcement),
)


@settings(max_examples=100)
@given(_policies, _policies)
def test_what_goes_in_comes_out(one: SubjectPolicy, other: SubjectPolicy) -> None:
    """Whole and as a difference; any, none and a peer stay three things."""
    whole = pb.SubjectChange.FromString(encode_change(KEY, one).SerializeToString())
    assert decode_change(whole, None) == one
    delta = pb.SubjectChange.FromString(encode_change(KEY, other, one).SerializeToString())
    assert decode_change(delta, one) == other
    assert not set(map(str, delta.added)) & set(map(str, delta.removed))
    if one.contributions != other.contributions:
        assert wire_digest(one) != wire_digest(other)
        assert one.digest != other.digest


def _policy() -> SubjectPolicy:
    allow = Contribution(
        direction=Direction.INGRESS, peer=SelectorPeer("entity:world"), ports=one_port(6, 80),
        action=Action.ALLOW, precedence=precedence(action=Action.ALLOW),
        origins=frozenset({ORIGINS[0].origin_id}),
    )  # fmt: skip
    return SubjectPolicy(
        ingress=Enforcement.DEFAULT_DENY, egress=Enforcement.DEFAULT_ALLOW, contributions=frozenset({allow}),
        selectors=WORLD, origins={one.origin_id: one for one in ORIGINS},
    )  # fmt: skip


def _clear_peer(change: pb.SubjectChange) -> None:
    change.added[0].peer.ClearField("selector")


def _clear_ports(change: pb.SubjectChange) -> None:
    change.added[0].ports.ClearField("ports")


def _unknown_action(change: pb.SubjectChange) -> None:
    change.added[0].action = 9  # type: ignore[assignment]


def _unknown_direction(change: pb.SubjectChange) -> None:
    change.added[0].direction = 0  # type: ignore[assignment]


def _unknown_enforcement(change: pb.SubjectChange) -> None:
    change.header.ingress = 3  # type: ignore[assignment]


def _unknown_selector(change: pb.SubjectChange) -> None:
    change.header.selectors[0].ClearField("entity")


def _unknown_entity(change: pb.SubjectChange) -> None:
    change.header.selectors[0].entity = 77  # type: ignore[assignment]


def _identity_zero(change: pb.SubjectChange) -> None:
    change.added[0].peer.identity = 0


def _no_origin(change: pb.SubjectChange) -> None:
    change.added[0].ClearField("origin_ids")


def _wrong_digest(change: pb.SubjectChange) -> None:
    change.header.digest = b"x"


def _lost_entry(change: pb.SubjectChange) -> None:
    del change.added[:]


def _lost_selector(change: pb.SubjectChange) -> None:
    del change.header.selectors[:]


def _unaligned(change: pb.SubjectChange) -> None:
    change.added[0].ports.ports.prefix_length = 2


def _redirect_without_action(change: pb.SubjectChange) -> None:
    change.added[0].redirect.parser = "dns"


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (_clear_peer, Unsupported),
        (_clear_ports, Unsupported),
        (_unknown_action, Unsupported),
        (_unknown_direction, Unsupported),
        (_unknown_enforcement, Unsupported),
        (_unknown_selector, Unsupported),
        (_unknown_entity, Unsupported),
        (_identity_zero, InvalidArgument),
        (_no_origin, InvalidArgument),
        (_wrong_digest, InvalidArgument),
        (_lost_entry, InvalidArgument),
        (_lost_selector, InvalidArgument),
        (_unaligned, InvalidArgument),
        (_redirect_without_action, InvalidArgument),
    ],
)
def test_what_is_not_understood_fails_the_subject(
    damage: Callable[[pb.SubjectChange], None], error: type[AxonemeError]
) -> None:
    """Nothing unknown or malformed is read as any, allow or empty."""
    change = encode_change(KEY, _policy())
    damage(change)
    with pytest.raises(error):
        decode_change(change, None)


def test_a_difference_needs_its_base() -> None:
    """Without what it builds on, a difference asks for a snapshot."""
    with pytest.raises(InvalidArgument) as caught:
        decode_change(encode_change(KEY, _policy(), _policy()), None)
    assert caught.value.reason == "DIGEST_MISMATCH"


def test_a_subject_of_another_kind_is_not_supported() -> None:
    """Host policies come later."""
    assert decode_subject(pb.Subject(identity=5)) == "subject:5"
    with pytest.raises(Unsupported):
        decode_subject(pb.Subject(host_of_node="n"))
