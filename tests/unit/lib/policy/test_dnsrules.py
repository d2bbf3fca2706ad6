"""DNS rules on the wire: round trips, one digest for one meaning, and nothing hostile reads as a rule."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.intent.v1 import intent_pb2
from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import AxonemeError, InvalidArgument, Unsupported
from axoneme.lib.intent import Ack, Change, Header, Hello, Interest, Resync, Update
from axoneme.lib.intentstream import envelope
from axoneme.lib.policy.dnsrules import DnsRule, DnsRules
from axoneme.lib.policy.model import (
    AnyPeer,
    CidrDefinition,
    Enforcement,
    FqdnDefinition,
    IdentityPeer,
    NoPeer,
    SelectorPeer,
    SubjectPolicy,
)
from axoneme.lib.policycodec import change_body, decode_change, encode_change, wire_digest
from axoneme.lib.policycodec.dnsrules import decode_rules, digest_of, encode_rules
from axoneme.lib.policycodec.dnsstream import DnsRulesPublisher, DnsRulesSubscriber

NAMES = ("www.example.com", "a_b.example.com")
PATTERNS = ("*", "*.example.com", "**.example.com", "api*.x")
SELECTORS = {
    "cidr:8.8.8.8/32": CidrDefinition(("8.8.8.8/32",)),
    "cidr:2001:db8::/32": CidrDefinition(("2001:db8::/32",)),
}
_names = st.frozensets(
    st.one_of(
        st.sampled_from(NAMES).map(FqdnDefinition),
        st.sampled_from(PATTERNS).map(lambda text: FqdnDefinition(text, pattern=True)),
    ),
    max_size=4,
)
_peers = st.one_of(
    st.just(AnyPeer()),
    st.just(NoPeer()),
    st.integers(1, 2**32 - 1).map(IdentityPeer),
    st.sampled_from(sorted(SELECTORS)).map(SelectorPeer),
)


@st.composite
def dns_rules(draw: st.DrawFn) -> DnsRules:
    """Any rules."""
    rules = set()
    for _ in range(draw(st.integers(0, 6))):
        names, bits = draw(_names), draw(st.sampled_from([16, 16, 12, 0]))
        rules.add(
            DnsRule(
                peer=draw(_peers),
                protocol=draw(st.sampled_from([0, 6, 17])),
                port=draw(st.integers(0, 65535)) >> (16 - bits) << (16 - bits),
                prefix_length=bits,
                level=draw(st.integers(0, 0xFFFFFF)),
                every_name=not names,
                names=names,
            )
        )
    found = frozenset(rules)
    return DnsRules(rules=found, selectors=SELECTORS, digest=digest_of(found))


def one_rule(**fields: object) -> pb.DnsRule:
    """A good rule, with something changed."""
    made = pb.DnsRule(protocol=17, port=53, prefix_length=16, level=3, names=[pb.DnsName(text="a.b")])
    made.server.any.SetInParent()
    for key, value in fields.items():
        if isinstance(value, list):
            made.ClearField(key)  # type: ignore[arg-type]
            getattr(made, key).extend(value)
        elif isinstance(value, pb.Peer):
            made.server.CopyFrom(value)
        else:
            setattr(made, key, value)
    return made


def message(*rules: pb.DnsRule, digest: bytes | None = None) -> pb.DnsRules:
    """Rules of identity 300 with their digest, computed from the API's words alone."""
    from hashlib import sha256

    raw = sorted(rule.SerializeToString(deterministic=True) for rule in rules)
    whole = b"".join(len(one).to_bytes(4, "big") + one for one in raw)
    right = sha256(whole).digest()
    return pb.DnsRules(
        subject=pb.Subject(identity=300), rules=rules, digest=right if digest is None else digest
    )


@given(dns_rules(), st.integers(0, 2**32))
def test_round_trip(rules: DnsRules, seed: int) -> None:
    """Nothing is lost, for identities and hosts; the order of rules changes no digest."""
    for key in ("subject:300", "host:n1"):
        assert decode_rules(encode_rules(key, rules)) == (key, rules)
    shuffled = list(rules.rules)
    random.Random(seed).shuffle(shuffled)
    assert digest_of(shuffled) == rules.digest
    made = encode_rules("subject:300", rules)
    assert message(*made.rules).digest == made.digest
    again = pb.DnsRules.FromString(made.SerializeToString())
    assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)


@given(dns_rules(), dns_rules())
def test_other_rules_have_another_digest(one: DnsRules, other: DnsRules) -> None:
    assert (one.rules == other.rules) == (one.digest == other.digest)


@pytest.mark.parametrize(
    ("made", "kind", "words"),
    [
        (message(one_rule(), digest=bytes(32)), InvalidArgument, "digest"),
        (message(one_rule(), digest=b""), InvalidArgument, "digest"),
        (message(one_rule(), one_rule()), InvalidArgument, "twice"),
        (message(one_rule(names=[])), InvalidArgument, "either names or every_name"),
        (message(one_rule(every_name=True)), InvalidArgument, "either names or every_name"),
        (message(one_rule(names=[pb.DnsName(text="a.b")] * 2)), InvalidArgument, "name twice"),
        (message(one_rule(names=[pb.DnsName()])), InvalidArgument, "canonical"),
        (message(one_rule(names=[pb.DnsName(text="A.b")])), InvalidArgument, "canonical"),
        (message(one_rule(names=[pb.DnsName(text="a.b.")])), InvalidArgument, "canonical"),
        (message(one_rule(names=[pb.DnsName(text="a..b")])), InvalidArgument, "canonical"),
        (message(one_rule(names=[pb.DnsName(text="*.b")])), InvalidArgument, "canonical"),
        (message(one_rule(names=[pb.DnsName(text="a" * 256)])), InvalidArgument, "canonical"),
        (message(one_rule(names=[pb.DnsName(text="a(b", pattern=True)])), InvalidArgument, "canonical"),
        (message(one_rule(port=65_536)), InvalidArgument, "malformed"),
        (message(one_rule(prefix_length=17)), InvalidArgument, "malformed"),
        (message(one_rule(prefix_length=8)), InvalidArgument, "aligned"),
        (message(one_rule(level=1 << 24)), InvalidArgument, "level"),
        (message(one_rule(protocol=132)), Unsupported, "132"),
        (message(one_rule(server=pb.Peer())), Unsupported, "kind"),
        (message(one_rule(server=pb.Peer(identity=0))), InvalidArgument, "identity 0"),
        (message(one_rule(server=pb.Peer(selector="cidr:x"))), InvalidArgument, "not defined"),
        (pb.DnsRules(), Unsupported, "neither an identity"),
    ],
)
def test_hostile_messages(made: pb.DnsRules, kind: type[AxonemeError], words: str) -> None:
    """Each fails with its own reason."""
    with pytest.raises(kind, match=words):
        decode_rules(made)


def test_a_condition_that_is_not_known_is_never_skipped() -> None:
    """A field of a later version, in a rule or inside it, fails the subject even with the right digest."""
    later = bytes.fromhex("f80101")  # field 31, varint 1
    rule = one_rule()
    for raw in (
        rule.SerializeToString() + later,
        one_rule(
            names=[pb.DnsName.FromString(rule.names[0].SerializeToString() + later)]
        ).SerializeToString(),
    ):
        with pytest.raises(Unsupported, match="field"):
            decode_rules(message(pb.DnsRule.FromString(raw)))


@settings(max_examples=300)
@given(dns_rules(), st.data())
def test_broken_bytes_never_raise_anything_else(rules: DnsRules, data: st.DataObject) -> None:
    """One byte changed: other rules cannot come out, for the digest is about every byte of them."""
    raw = bytearray(encode_rules("subject:300", rules).SerializeToString())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        found = pb.DnsRules.FromString(bytes(raw))
    except Exception:  # noqa: BLE001  the decoder of protobuf has errors of its own
        return
    try:
        _, decoded = decode_rules(found)
    except AxonemeError:
        return
    assert decoded.rules == rules.rules


# --- the digest in the header of the subject's policy


def test_a_change_of_the_rules_alone_is_a_change_of_the_policy() -> None:
    """The header carries their digest, and the digest of the entries stays as it was."""
    free = Enforcement.DEFAULT_ALLOW
    before = SubjectPolicy(ingress=free, egress=free)
    after = SubjectPolicy(ingress=free, egress=free, dns_rules_digest=bytes(range(32)))
    assert before != after
    assert wire_digest(before) == wire_digest(after)
    assert change_body(before) != change_body(after)
    change = encode_change("subject:300", after, before)
    assert not change.added
    assert not change.removed
    assert decode_change(change, before) == after
    assert decode_change(encode_change("subject:300", before, after), after) == before
    change.header.dns_rules_digest = b"x"
    with pytest.raises(InvalidArgument, match="1 bytes"):
        decode_change(change, before)


# --- both ends of the stream


HEADER = Header(nonce=3, epoch=7, base_revision=4, revision=5, store_revision=9)


@given(st.lists(st.tuples(st.integers(300, 305), st.none() | dns_rules()), max_size=5))
def test_updates_pass_from_end_to_end(changes: list[tuple[int, DnsRules | None]]) -> None:
    """What the service encodes the proxy decodes; weights are about the length."""
    publisher, subscriber = DnsRulesPublisher(), DnsRulesSubscriber()
    sent = [Change(f"subject:{number}", rules) for number, rules in changes]
    raw = publisher.encode(Update(HEADER, tuple(sent)))
    got = subscriber.decode(pb.SubscribeDnsRulesResponse.FromString(raw), lambda _key: None)
    assert got.header == HEADER
    assert not got.failures
    removed = [one for one in sent if one.value is None]
    assert list(got.changes) == [one for one in sent if one.value is not None] + removed
    assert abs(len(raw) - sum(map(publisher.weight, sent))) < 40 * (len(sent) + 1)


def test_what_cannot_be_understood_fails_alone() -> None:
    """Under the key of its subject; the rest of the update holds."""
    bad = message(one_rule(protocol=132))
    bad.subject.identity = 301
    response = pb.SubscribeDnsRulesResponse(
        header=envelope.header_to_message(HEADER),
        upserts=[message(one_rule()), bad],
        removed_subjects=[pb.Subject(identity=302), pb.Subject()],
    )
    got = DnsRulesSubscriber().decode(response, lambda _key: None)
    assert [one.key for one in got.changes] == ["subject:300", "subject:302"]
    assert {key: one.code for key, one in got.failures.items()} == {
        "subject:301": "UNIMPLEMENTED",
        "subject:": "UNIMPLEMENTED",
    }


def test_requests_pass_from_end_to_end() -> None:
    """Hello, acknowledgement, resync, interest; nothing else is a request."""
    publisher, subscriber = DnsRulesPublisher(), DnsRulesSubscriber()
    hello, ack = Hello(node_name="n1", epoch=7, revision=4), Ack(nonce=3, revision=5)
    interest = Interest(added=("subject:300", "host:n1"), removed=("subject:301",))
    assert publisher.decode(subscriber.hello(hello)) == hello
    assert publisher.decode(subscriber.ack(ack)) == ack
    assert publisher.decode(subscriber.resync(Resync(reason="why"))) == Resync(reason="why")
    assert publisher.decode(subscriber.interest(interest)) == interest
    with pytest.raises(ValueError, match="kind"):
        publisher.decode(pb.SubscribeDnsRulesRequest())
    assert intent_pb2.Hello(node_name="n1", epoch=7, revision=4) == subscriber.hello(hello).hello
