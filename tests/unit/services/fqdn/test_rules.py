"""Rules that are kept and judged by, against their plain twins."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib import dnsnames
from axoneme.lib.dns.wire import text_of
from axoneme.lib.policy.dnsrules import DnsRule, DnsRules
from axoneme.lib.policy.model import (
    AnyPeer,
    CidrDefinition,
    Entity,
    EntitySelector,
    FqdnDefinition,
    IdentityPeer,
    NoPeer,
    Peer,
    SelectorDefinition,
    SelectorPeer,
)
from axoneme.lib.policy.selection import selects
from axoneme.lib.policycodec.dnsrules import digest_of
from services.fqdn.judging import NO_MAPS, NO_NAME, NO_RULE, UNKNOWN_ENDPOINT, RuleJudge, RuleTable
from services.fqdn.model import TCP, UDP, Flow
from services.fqdn.rulebook import HeldRule, RuleBook, held_rules
from services.fqdn.rulesfile import load_rules, save_rules
from tests.unit.services.fqdn.parts import Clock, add_endpoint, add_prefix, node_maps, question, raw, table

LOCAL = 1 << 24
TABLE = table({LOCAL: ("10.0.0.0/8", ()), LOCAL + 1: ("0.0.0.0/0", ["dns.x"])}, prefixes=["10.0.0.0/8"])
SELECTORS: dict[str, SelectorDefinition] = {
    "ten": CidrDefinition(("10.0.0.0/8",)),
    "world": EntitySelector(Entity.WORLD),
    "named": FqdnDefinition("dns.x"),
}
PEERS: list[Peer] = [AnyPeer(), NoPeer(), IdentityPeer(5_000), *map(SelectorPeer, SELECTORS)]
NAMES = [FqdnDefinition("a.x"), *(FqdnDefinition(text, True) for text in ("*.x", "**.y", "a*.y"))]
SERVERS = [5_000, 5_001, 9, 10, 1, LOCAL, LOCAL + 1, LOCAL + 2]
ASKED = [question(text).name for text in ("a.x", "b.x", "a.b.x", "a.y", "b.a.y", "x", "z")]


def rule(
    peer: Peer,
    *names: FqdnDefinition,
    protocol: int = 0,
    port: int = 53,
    bits: int = 16,
    level: int = 1,
) -> DnsRule:
    return DnsRule(
        peer=peer,
        protocol=protocol,
        port=port,
        prefix_length=bits,
        level=level,
        every_name=not names,
        names=frozenset(names),
    )


def rules_of(*some: DnsRule) -> DnsRules:
    return DnsRules(rules=frozenset(some), selectors=SELECTORS, digest=digest_of(some))


some_rules = st.builds(
    lambda peer, names, protocol, ports, level: rule(
        peer, *names, protocol=protocol, port=ports[0], bits=ports[1], level=level
    ),
    st.sampled_from(PEERS),
    st.frozensets(st.sampled_from(NAMES), max_size=3),
    st.sampled_from([0, TCP, UDP]),
    st.sampled_from([(53, 16), (52, 15), (5353, 16), (0, 0)]),
    st.integers(1, 3),
)


def plainly(rules: DnsRules, protocol: int, port: int, server: int, name: bytes) -> bool:
    """The rule of the contract, word by word."""

    def serves(one: DnsRule) -> bool:
        if isinstance(one.peer, AnyPeer):
            return True
        if isinstance(one.peer, IdentityPeer):
            return one.peer.number == server
        labels = TABLE.labels_of(server)
        return (
            isinstance(one.peer, SelectorPeer)
            and labels is not None
            and selects(rules.selectors[one.peer.key], labels)
        )

    covering = [
        one
        for one in rules.rules
        if one.protocol in (0, protocol)
        and port >> (16 - one.prefix_length) == one.port >> (16 - one.prefix_length)
        and serves(one)
    ]
    top = max((one.level for one in covering), default=0)
    text = text_of(name)
    return any(
        one.every_name or any(dnsnames.matches(n.text, pattern=n.pattern, name=text) for n in one.names)
        for one in covering
        if one.level == top
    )


@settings(max_examples=300, deadline=None)
@given(rules=st.lists(some_rules, max_size=8))
def test_judged_as_the_rules_say(rules: list[DnsRule]) -> None:
    all_rules = rules_of(*rules)
    book = RuleBook()
    book.set_rules("subject:300", all_rules)
    made = RuleTable.of(book, TABLE)
    for protocol in (TCP, UDP):
        for port in (52, 53, 5353, 80):
            for server in SERVERS:
                for _ in range(2):  # compiled, then remembered
                    matches = made.names_for(300, protocol, port, server)
                for name in ASKED:
                    judged = matches is not None and matches(name)
                    assert judged is plainly(all_rules, protocol, port, server, name)


def test_what_was_compiled_is_bounded() -> None:
    book = RuleBook()
    book.set_rules("subject:300", rules_of(rule(AnyPeer())))
    made = RuleTable.of(book, TABLE)
    for port in range(20_000):
        made.names_for(300, UDP, port, 9)
    assert len(made._young) + len(made._old) <= 2 * 4_096


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.lists(some_rules, max_size=4)),
            st.tuples(st.just("remove")),
            st.tuples(st.just("confirm"), st.integers(0, 4)),
        ),
        max_size=14,
    )
)
def test_kept_until_confirmed(steps: list[tuple[object, ...]]) -> None:
    """Twin: every revision since the last confirmed one; of each key the newest that has it."""
    book, history = RuleBook(), list[DnsRules | None]()
    for step in steps:
        match step:
            case ("set", list(rules)):
                history.append(rules_of(*rules))
                book.set_rules("subject:1", rules_of(*rules))
            case ("remove",):
                history.append(None)
                book.remove("subject:1")
            case ("confirm", int(back)):
                digests = [one.digest if one else b"" for one in reversed(history)] or [b""]
                digest = digests[min(back, len(digests) - 1)] if back else b""
                book.confirm("subject:1", digest)
                if not digest or (history[-1] and digest == history[-1].digest):
                    history = history[-1:]
        effective: set[HeldRule] = set()
        seen: set[object] = set()
        for revision in reversed(history):
            for key, some in (held_rules(revision) if revision else {}).items():
                if key not in seen:
                    effective |= some
            seen |= set(held_rules(revision)) if revision else set()
        assert book.effective("subject:1") == effective
        newest = history[-1] if history else None
        assert book.digests() == ({"subject:1": newest.digest} if newest else {})


def test_a_snapshot_confirms_all_subjects() -> None:
    book = RuleBook()
    for number in (1, 2, 3):
        book.set_rules(f"subject:{number}", rules_of(rule(AnyPeer(), NAMES[0])))
        book.set_rules(f"subject:{number}", rules_of(rule(IdentityPeer(5_000), NAMES[1])))
    book.remove("subject:3")
    newest = book.digests()["subject:1"]
    book.confirm_all({"subject:1": newest, "subject:2": bytes(32)})
    assert [len(book.effective(f"subject:{number}")) for number in (1, 2, 3)] == [1, 2, 0]
    assert book.kept_count() == 1
    assert set(book.subjects()) == {"subject:1", "subject:2"}


# --- the judge


@pytest.fixture
def judge() -> RuleJudge:
    maps = node_maps(Clock())
    add_endpoint(maps, "10.0.0.2", ifindex=3, endpoint_id=7, identity=300)
    add_endpoint(maps, "2001:db8::2", ifindex=4, endpoint_id=8, identity=301)
    add_prefix(maps, "198.51.100.1/32", 5_000)
    add_prefix(maps, "2001:db8:1::/48", 5_000)
    book = RuleBook()
    only = rules_of(rule(IdentityPeer(5_000), FqdnDefinition("*.x", True)))
    for subject in (300, 301):
        book.set_rules(f"subject:{subject}", only)
    made = RuleJudge(maps, lambda endpoint_id, address: 0)
    made.table = RuleTable.of(book, TABLE)
    return made


def flow(client: str, server: str, port: int = 53) -> Flow:
    return Flow(UDP, raw(client), 40_000, raw(server), port)


@pytest.mark.parametrize(
    ("client", "server"),
    [
        ("10.0.0.2", "198.51.100.1"),
        ("::ffff:10.0.0.2", "::ffff:198.51.100.1"),
        ("2001:db8::2", "2001:db8:1::5"),
    ],
)
def test_who_asks_whom_for_what(judge: RuleJudge, client: str, server: str) -> None:
    endpoint_id = 8 if client == "2001:db8::2" else 7
    assert judge.judge(flow(client, server), question("a.x")) == (True, endpoint_id, 5_000, "")
    assert judge.judge(flow(client, server), question("a.b.x"))[::3] == (False, NO_NAME)
    assert judge.judge(flow(client, server, 54), question("a.x"))[::3] == (False, NO_RULE)
    stranger = "192.0.2.77" if "." in client else "2001:db8:9::1"
    assert judge.judge(flow(client, stranger), question("a.x")).reason == NO_RULE
    assert judge.judge(flow(stranger, server), question("a.x")) == (False, 0, 0, UNKNOWN_ENDPOINT)


def test_a_server_is_who_the_endpoint_learned_it_as(judge: RuleJudge) -> None:
    book = RuleBook()
    book.set_rules("subject:300", rules_of(rule(SelectorPeer("named"), FqdnDefinition("a.x"))))
    judge.table = RuleTable.of(book, TABLE)
    assert not judge.judge(flow("10.0.0.2", "192.0.2.1"), question("a.x")).allowed
    learned = {(7, raw("192.0.2.1")): LOCAL + 1}
    judge._learned = lambda endpoint_id, address: learned.get((endpoint_id, address), 0)
    assert judge.judge(flow("10.0.0.2", "192.0.2.1"), question("a.x")).allowed


def test_without_maps_nobody_is_known(judge: RuleJudge) -> None:
    judge.maps = None
    assert judge.judge(flow("10.0.0.2", "198.51.100.1"), question("a.x")).reason == NO_MAPS


# --- on disk


def test_rules_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "state" / "rules"
    wanted = {
        "subject:300": rules_of(*(rule(peer, *NAMES) for peer in PEERS)),
        "host:n1": rules_of(rule(AnyPeer())),
    }
    save_rules(path, wanted)
    found = load_rules(path)
    assert {key: (one.rules, one.digest) for key, one in found.items()} == {
        key: (one.rules, one.digest) for key, one in wanted.items()
    }
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        load_rules(path)
        path.write_bytes(whole[:at])
        assert load_rules(path).items() <= found.items()
    assert load_rules(tmp_path / "none") == {}
