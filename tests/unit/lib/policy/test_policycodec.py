"""Subject policies through the wire: whole, as differences, and what must be refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import AxonemeError, InvalidArgument, Unsupported
from axoneme.lib.policy.groups import Group, GroupedContributions
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    AuthMode,
    CidrDefinition,
    Contribution,
    Direction,
    Enforcement,
    Entity,
    EntitySelector,
    FqdnDefinition,
    IdentityPeer,
    LabelsDefinition,
    NamedPort,
    NoPeer,
    Origin,
    Part,
    PortBlock,
    Redirect,
    SelectorDefinition,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import precedence
from axoneme.lib.policycodec import (
    decode_change,
    decode_subject,
    encode_change,
    encode_subject,
    host_key,
    host_node,
    subject_key,
    subject_number,
    wire_digest,
)
from axoneme.lib.policycodec import digests as digests_module
from axoneme.lib.policycodec.differences import difference, plain_difference, whole
from axoneme.lib.policycodec.entries import entry_bytes
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from tests.conftest import scaled

KEY = subject_key(70_001)
ORIGINS = tuple(
    Origin.of(kind="CiliumNetworkPolicy", namespace="a", name=name, rule="spec.ingress[0]", labels=("x=y",))
    for name in ("p", "q")
)
WORLD = {"entity:world": EntitySelector(Entity.WORLD)}

_requirements = st.one_of(
    st.builds(
        Requirement,
        st.sampled_from(["any", "k8s", "node"]),
        st.sampled_from(["app", "io.kubernetes.pod.namespace"]),
        st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST]),
    ),
    st.builds(
        Requirement,
        st.just("k8s"),
        st.just("app"),
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=3).map(tuple),
    ),
    st.just(Requirement("k8s", "app", Operator.IN, ())),
)
_prefixes = st.sampled_from(
    ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "::/0", "2001:db8::/32", "fd00::1/128"]
)
_definitions: st.SearchStrategy[SelectorDefinition] = st.one_of(
    st.just(EntitySelector(Entity.WORLD)),
    st.lists(st.lists(_requirements, max_size=3).map(lambda one: LabelSelector(tuple(one))), max_size=3).map(
        lambda some: LabelsDefinition(tuple(some))
    ),
    st.builds(
        CidrDefinition,
        st.lists(_prefixes, max_size=3).map(tuple),
        st.lists(_prefixes, max_size=2).map(tuple),
        st.booleans(),
    ),
    st.builds(FqdnDefinition, st.sampled_from(["example.com", "*.example.com"]), st.booleans()),
)
_selectors = st.dictionaries(st.sampled_from(["a", "b"]), _definitions).map(lambda some: {**WORLD, **some})


_ports: st.SearchStrategy[PortBlock | NamedPort] = st.sampled_from(
    [ANY_PORT, PortBlock(6, 0, 0), one_port(6, 0), NamedPort(17, "dns")]
)
_redirects = st.builds(Redirect, st.just("dns"), st.sampled_from(["", "listener"]), st.just(121))


@st.composite
def _parts(draw: st.DrawFn) -> Part:
    action = draw(st.sampled_from(Action))
    return Part(
        direction=draw(st.sampled_from(Direction)),
        ports=draw(_ports),
        action=action,
        redirect=Redirect("dns", draw(st.sampled_from(["", "l"])), 121)
        if action is Action.REDIRECT
        else None,
        precedence=precedence(action=action, redirect_priority=121),
        origins=frozenset(draw(st.sets(st.sampled_from([one.origin_id for one in ORIGINS]), min_size=1))),
        audit=draw(st.booleans()),
        auth=draw(st.sampled_from([None, *AuthMode])),
    )


_fixed = st.sampled_from([AnyPeer(), NoPeer(), IdentityPeer(1), SelectorPeer("entity:world")])
_numbers = st.integers(min_value=2, max_value=0xFFFFFFFF)
_contributions = st.builds(Contribution.of, _parts(), st.one_of(_fixed, st.builds(IdentityPeer, _numbers)))
_enforcements = st.sampled_from([None, *Enforcement])
_policies = st.builds(
    lambda contributions, selectors, ingress, egress, audit_ingress, audit_egress: SubjectPolicy(
        ingress=ingress,
        egress=egress,
        audit_ingress=audit_ingress,
        audit_egress=audit_egress,
        contributions=contributions,
        selectors=selectors,
        origins={one.origin_id: one for one in ORIGINS},
        ingress_default_deny=frozenset({ORIGINS[0].origin_id}),
        policy_revision=7,
    ),
    st.frozensets(_contributions, max_size=6),
    _selectors,
    st.sampled_from(Enforcement),
    st.sampled_from(Enforcement),
    _enforcements,
    _enforcements,
)


def _sent(change: pb.SubjectChange) -> pb.SubjectChange:
    return pb.SubjectChange.FromString(change.SerializeToString())


def _plain_digest(policy: SubjectPolicy) -> bytes:
    """The digest as the proto's comment defines it, over every entry."""
    four = bytes(
        one or 0 for one in (policy.ingress, policy.egress, policy.audit_ingress, policy.audit_egress)
    )
    raws = [entry.SerializeToString(deterministic=True) for entry in encode_change(KEY, policy).added]
    total = sum(int.from_bytes(hashlib.sha256(raw).digest(), "big") for raw in [four, *raws])
    return (total % 2**256).to_bytes(32, "big")


@settings(max_examples=scaled(50, 2_000))
@given(_policies, _policies)
def test_what_goes_in_comes_out(one: SubjectPolicy, other: SubjectPolicy) -> None:
    """Whole and as a difference; any, none and a peer stay three things."""
    decoded = decode_change(_sent(encode_change(KEY, one)), None)
    assert decoded == one
    delta = _sent(encode_change(KEY, other, one))
    after = decode_change(delta, decoded)
    assert after == other
    assert not set(map(str, delta.added)) & set(map(str, delta.removed))
    assert wire_digest(after) == wire_digest(other) == _plain_digest(other) == delta.header.digest
    if one.contributions != other.contributions:
        assert wire_digest(one) != wire_digest(other)


@pytest.mark.parametrize(
    "definition",
    [
        LabelsDefinition(()),
        LabelsDefinition((LabelSelector(),)),
        CidrDefinition(()),
        CidrDefinition((), ("10.0.0.0/8",)),
        CidrDefinition((), ("fd00::/8",), nodes=True),
    ],
    ids=str,
)
def test_empty_definitions_stay_empty(definition: SelectorDefinition) -> None:
    """RC-EMPTY: nobody never becomes any on the wire, in either family."""
    policy = _policy(definition)
    assert decode_change(_sent(encode_change(KEY, policy)), None).selectors == {"s": definition}


# --- groups: the incremental ways agree with the plain ones


@st.composite
def _generations(draw: st.DrawFn) -> list[GroupedContributions]:
    """One subject over time: groups of rules that keep their parts while their numbers change."""
    parts = draw(st.lists(_parts(), min_size=1, max_size=5, unique=True))
    cut = draw(st.integers(min_value=0, max_value=len(parts)))
    slots = [tuple(some) for some in (parts[:cut], parts[cut:]) if some]
    sets = st.frozensets(st.integers(min_value=2, max_value=9), max_size=6)
    held = {slot: Group(slot, (AnyPeer(),), draw(sets)) for slot in slots}
    generations = []
    for _ in range(draw(st.integers(min_value=2, max_value=4))):
        for slot in slots:
            what = draw(st.sampled_from(["keep", "numbers", "fixed", "copy"]))
            if what == "numbers":
                held[slot] = Group(slot, held[slot].fixed, draw(sets))
            elif what == "fixed":
                held[slot] = Group(slot, draw(st.sampled_from([(), (AnyPeer(),), (NoPeer(),)])), draw(sets))
            elif what == "copy":
                held[slot] = Group(slot, held[slot].fixed, held[slot].numbers)
        shown = draw(st.sets(st.sampled_from(slots)))
        generations.append(GroupedContributions(held[slot] for slot in slots if slot in shown))
    return generations


@settings(max_examples=scaled(50, 2_000))
@given(_generations())
def test_grouped_ways_agree_with_plain_ones(generations: list[GroupedContributions]) -> None:
    """Difference, digest and equality by groups are those of the plain sets, along a whole sequence."""
    held: SubjectPolicy | None = None
    for number, now in enumerate(generations):
        before = generations[number - 1] if number else GroupedContributions(())
        assert difference(before, now) == plain_difference(before, now)
        assert whole(now) == sorted(map(entry_bytes, frozenset(now)))
        assert (before == now) == (frozenset(before) == frozenset(now))
        policy = SubjectPolicy(
            ingress=Enforcement.DEFAULT_DENY,
            egress=Enforcement.DEFAULT_ALLOW,
            contributions=now,
            selectors=WORLD,
        )
        assert wire_digest(policy) == _plain_digest(policy)
        previous = SubjectPolicy(
            ingress=Enforcement.DEFAULT_DENY, egress=Enforcement.DEFAULT_ALLOW,
            contributions=before, selectors=WORLD,
        )  # fmt: skip
        change = encode_change(KEY, policy, previous if number else None)
        held = decode_change(_sent(change), held)
        assert held.contributions == frozenset(now)


def _numbered(count: int) -> SubjectPolicy:
    part = Part(
        direction=Direction.INGRESS, ports=one_port(6, 4321), action=Action.ALLOW,
        precedence=precedence(action=Action.ALLOW), origins=frozenset({ORIGINS[0].origin_id}),
    )  # fmt: skip
    group = Group((part,), (), frozenset(range(2, 2 + count)))
    return SubjectPolicy(
        ingress=Enforcement.DEFAULT_DENY, egress=Enforcement.DEFAULT_ALLOW,
        contributions=GroupedContributions([group]), origins={one.origin_id: one for one in ORIGINS},
    )  # fmt: skip


def test_a_small_change_hashes_only_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more peer among thousands costs one hash at the sender, and at the receiver one more."""
    hashed: list[bytes] = []
    count = digests_module._hash

    def counting(raw: bytes) -> int:
        hashed.append(raw)
        return count(raw)

    monkeypatch.setattr(digests_module, "_hash", counting)
    one, other = _numbered(3_000), _numbered(3_001)
    held = decode_change(_sent(encode_change(KEY, one)), None)
    hashed.clear()
    change = _sent(encode_change(KEY, other, one))
    assert (len(change.added), len(change.removed)) == (1, 0)
    assert len(hashed) == 2  # the entry and the enforcements
    assert decode_change(change, held) == other
    assert len(hashed) == 4


def test_an_unknown_field_of_an_entry_is_ignored_and_still_counted() -> None:
    """A newer sender's digest covers its new fields; the receiver follows it without knowing them."""
    change = encode_change(KEY, _policy())
    entry = change.added[0].SerializeToString() + bytes((15 << 3 | 0, 1))
    newer = pb.SubjectChange(complete=True, header=change.header)
    newer.added.append(pb.PolicyEntry.FromString(entry))
    total = sum(int.from_bytes(hashlib.sha256(raw).digest(), "big") for raw in (entry, bytes((2, 1, 0, 0))))
    newer.header.digest = (total % 2**256).to_bytes(32, "big")
    assert decode_change(_sent(newer), None) == _policy()


def _policy(definition: SelectorDefinition | None = None) -> SubjectPolicy:
    allow = Contribution(
        direction=Direction.INGRESS, peer=SelectorPeer("s"), ports=one_port(6, 80),
        action=Action.ALLOW, precedence=precedence(action=Action.ALLOW),
        origins=frozenset({ORIGINS[0].origin_id}),
    )  # fmt: skip
    return SubjectPolicy(
        ingress=Enforcement.DEFAULT_DENY, egress=Enforcement.DEFAULT_ALLOW, contributions=frozenset({allow}),
        selectors={"s": definition or EntitySelector(Entity.WORLD)},
        origins={one.origin_id: one for one in ORIGINS},
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


def _unknown_auth(change: pb.SubjectChange) -> None:
    change.added[0].auth = 9  # type: ignore[assignment]


def _unknown_audited(change: pb.SubjectChange) -> None:
    change.header.audit_egress = 9  # type: ignore[assignment]


def _no_header(change: pb.SubjectChange) -> None:
    change.ClearField("header")


def _named_nothing(change: pb.SubjectChange) -> None:
    change.added[0].ports.named.protocol = 6


def _selector_twice(change: pb.SubjectChange) -> None:
    change.header.selectors.append(change.header.selectors[0])


def _requirement(change: pb.SubjectChange) -> pb.LabelRequirement:
    labels = change.header.selectors[0].labels
    return labels.selectors.add().requirements.add(source="k8s", key="app", operator="Exists")


def _unknown_operator(change: pb.SubjectChange) -> None:
    _requirement(change).operator = "Matches"


def _no_operator(change: pb.SubjectChange) -> None:
    _requirement(change).operator = ""


def _lost_values(change: pb.SubjectChange) -> None:
    _requirement(change).operator = "NotIn"


def _exists_with_values(change: pb.SubjectChange) -> None:
    _requirement(change).values.append("a")


def _lost_key(change: pb.SubjectChange) -> None:
    _requirement(change).key = ""


def _lost_source(change: pb.SubjectChange) -> None:
    _requirement(change).source = ""


def _not_a_prefix(change: pb.SubjectChange) -> None:
    change.header.selectors[0].cidrs.include.append("10.0.0.0/33")


def _empty_prefix(change: pb.SubjectChange) -> None:
    change.header.selectors[0].cidrs.include.append("")


def _not_canonical(change: pb.SubjectChange) -> None:
    change.header.selectors[0].cidrs.exclude.append("FD00::/8")


def _host_bits(change: pb.SubjectChange) -> None:
    change.header.selectors[0].cidrs.exclude.append("fd00::1/8")


def _nameless_dns(change: pb.SubjectChange) -> None:
    change.header.selectors[0].fqdn.pattern = True


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
        (_unknown_auth, Unsupported),
        (_unknown_audited, Unsupported),
        (_no_header, Unsupported),
        (_named_nothing, InvalidArgument),
        (_selector_twice, InvalidArgument),
        (_unknown_operator, Unsupported),
        (_no_operator, Unsupported),
        (_lost_values, InvalidArgument),
        (_exists_with_values, InvalidArgument),
        (_lost_key, InvalidArgument),
        (_lost_source, InvalidArgument),
        (_not_a_prefix, InvalidArgument),
        (_empty_prefix, InvalidArgument),
        (_not_canonical, InvalidArgument),
        (_host_bits, InvalidArgument),
        (_nameless_dns, InvalidArgument),
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


def test_a_difference_on_another_base_is_noticed() -> None:
    """What the receiver holds is part of the digest: a wrong base never passes as the right result."""
    base, other = _policy(), _numbered(1)
    change = encode_change(KEY, base, base)
    for held in (SubjectPolicy(ingress=base.ingress, egress=base.egress), other):
        with pytest.raises(InvalidArgument) as caught:
            decode_change(change, held)
        assert caught.value.reason == "DIGEST_MISMATCH"


def test_subjects_are_identities_and_hosts() -> None:
    """Keys name both kinds; a kind or a host without content is refused."""
    for key, subject in (
        (subject_key(5), pb.Subject(identity=5)),
        (host_key("node-1"), pb.Subject(host_of_node="node-1")),
    ):
        assert decode_subject(subject) == key
        assert encode_subject(key) == subject
    assert (host_node("host:node-1"), host_node("subject:5")) == ("node-1", None)
    with pytest.raises(Unsupported):
        decode_subject(pb.Subject())
    with pytest.raises(InvalidArgument):
        decode_subject(pb.Subject(host_of_node=""))


@pytest.mark.parametrize(
    "key", ["", "subject:", "subject:-1", "subject:x", "subject:\u0665", "host:", "other:1"]
)
def test_what_is_no_key_is_refused(key: str) -> None:
    """Nothing is guessed from a broken key."""
    with pytest.raises(InvalidArgument):
        encode_subject(key)
    with pytest.raises(InvalidArgument):
        subject_number(key)
