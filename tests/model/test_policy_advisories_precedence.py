"""Advisories about precedence: which of several rules that match decides, down to ports and ICMP types."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from axoneme.lib.labels import workload_labels
from axoneme.lib.policy.model import Action, Direction, SubjectPolicy
from axoneme.lib.policy.outside import outside_labels
from axoneme.lib.policy.precedence import MAX_PRIORITY, Tier, precedence, priority_of, tier_of
from services.policy.cases.verdicts import View
from services.policy.inputs import PolicySettings
from services.policy.reading.clusternetworkpolicy import MAX_PRIORITY as MAX_OBJECT_PRIORITY
from services.policy.reading.clusternetworkpolicy import RULES_OF_A_PRIORITY
from services.policy.resolution.engine import PolicyEngine
from tests.conftest import scaled
from tests.model.advisorycases import (
    CLUSTERS,
    FAMILIES,
    TCP80,
    Json,
    address,
    cnp,
    enters,
    everything,
    everywhere,
    leaves,
    outside,
    parsed,
    pod,
    prefix,
    scene,
)

SUBJECT: Final = 1000
NAMES: Final = ("api.example.org", "www.example.org")


# --- RC-PREC: nested prefixes


class PlainRule(NamedTuple):
    """One rule as the brute-force evaluation sees it; without ports it is about all of them."""

    deny: bool
    prefixes: tuple[str, ...]
    excepts: tuple[str, ...]
    name: str
    anyone: bool
    ports: tuple[int, int] | None


def _prefixes(rng: random.Random, family: int) -> list[str]:
    """Nested ones: most lie inside others."""
    bits = 32 if family == 4 else 128
    base = int(ipaddress.ip_address("10.0.0.0" if family == 4 else "2001:db8::"))
    lengths = (0, 8, 9, 12, 16, 24, 31, 32) if family == 4 else (0, 32, 33, 48, 64, 65, 127, 128)
    found = []
    for _ in range(8):
        mask = rng.choice((0, (1 << 12) - 1, (1 << (bits - 16)) - 1))
        number = base | (rng.getrandbits(bits - 8) & mask)
        found.append(str(_network(number, rng.choice(lengths), family)))
    return found


def _network(number: int, length: int, family: int) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if family == 4:
        return ipaddress.IPv4Network((number, length), strict=False)
    return ipaddress.IPv6Network((number, length), strict=False)


def _plain_rule(rng: random.Random, prefixes: list[str], everyone: str) -> PlainRule:
    deny = rng.random() < 0.45
    ports = rng.choice((None, (80, 80), (0, 65535), (1, 1023), (443, 8443)))
    kind = rng.choice(("prefixes", "prefixes", "except", "name", "world", "anyone"))
    if kind == "name" and not deny:
        return PlainRule(deny, (), (), rng.choice(NAMES), False, ports)
    if kind == "world":
        return PlainRule(deny, (everyone,), (), "", False, ports)
    if kind == "anyone":
        return PlainRule(deny, (), (), "", True, ports)
    if kind == "except":
        outer = rng.choice(prefixes)
        inner = [one for one in prefixes if one != outer and _inside(one, outer)]
        return PlainRule(deny, (outer,), tuple(inner[:2]), "", False, ports)
    return PlainRule(deny, tuple(rng.sample(prefixes, 2)), (), "", False, ports)


def _inside(one: str, other: str) -> bool:
    inner, outer = ipaddress.ip_network(one), ipaddress.ip_network(other)
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _entry(rule: PlainRule, everyone: str) -> Json:
    found: Json = {}
    if rule.anyone:
        found["toEntities"] = ["all"]
    elif rule.name:
        found["toFQDNs"] = [{"matchName": rule.name}]
    elif rule.prefixes == (everyone,) and not rule.excepts:
        found["toEntities"] = ["world"]
    else:
        cidrs: list[Json] = [{"cidr": one} for one in rule.prefixes]
        if rule.excepts:
            cidrs[0]["except"] = list(rule.excepts)
        found["toCIDRSet"] = cidrs
    if rule.ports is not None:
        first, last = rule.ports
        found["toPorts"] = [{"ports": [{"port": str(first), "endPort": last, "protocol": "TCP"}]}]
    return found


def _allowed(rules: list[PlainRule], locked: bool, ip: str, names: set[str], port: int) -> bool:
    """The definition: any deny that matches denies, else any allow allows, else the default."""
    matching = [one for one in rules if _matches(one, ip, names, port)]
    if any(one.deny for one in matching):
        return False
    return bool(matching) or not locked


def _matches(rule: PlainRule, ip: str, names: set[str], port: int) -> bool:
    if rule.ports is not None and not (rule.ports[0] <= port <= rule.ports[1] or rule.ports[0] == 0):
        return False
    if rule.anyone or rule.name:
        return rule.anyone or rule.name in names
    parsed_ip = ipaddress.ip_address(ip)
    inside = [parsed_ip in ipaddress.ip_network(one) for one in (*rule.prefixes, *rule.excepts)]
    count = len(rule.prefixes)
    return any(inside[:count]) and not any(inside[count:])


def _addresses(rng: random.Random, prefixes: list[str], family: int) -> Iterator[tuple[str, set[str]]]:
    """Addresses at and beside the edges of prefixes and anywhere, with the names they were learned for."""
    bits = 32 if family == 4 else 128
    for _ in range(40):
        network = ipaddress.ip_network(rng.choice(prefixes))
        first, last = int(network.network_address), int(network.broadcast_address)
        near = (first, last, first - 1, last + 1, rng.randint(first, last), rng.getrandbits(bits))
        number = rng.choice(near) % (1 << bits)
        ip = ipaddress.IPv4Address(number) if family == 4 else ipaddress.IPv6Address(number)
        yield str(ip), {name for name in NAMES if rng.random() < 0.3}


@everywhere
def test_cve_2024_47825_a_broad_deny_beside_narrow_prefixes(family: int, cluster: str) -> None:
    """A deny of a wide prefix was forgotten where a narrower one or a name was mentioned beside `all`.

    Random nested prefixes with exceptions, names, entities, ports, with and without default deny: every one
    of 10,000 (address, port) gets what the definition says, whatever prefix gives the address its identity.
    """
    rng = random.Random(47825 * family + len(cluster))
    everyone = everything(family)
    questions, wanted = 0, scaled(10_000, 200_000)
    while questions < wanted:
        prefixes = _prefixes(rng, family)
        rules = [_plain_rule(rng, prefixes, everyone) for _ in range(rng.randint(2, 6))]
        locked = rng.random() < 0.6
        policy = _policy(cluster, rules, everyone, locked, apart=rng.random() < 0.5)
        asked = list(_addresses(rng, prefixes, family))
        definitions = tuple(policy.selectors.values())
        labels = [outside_labels(ip, definitions, dns_names=names) for ip, names in asked]
        numbers = {one: (1 << 24) + index for index, one in enumerate(dict.fromkeys(labels))}
        view = View(policy, {number: one for one, number in numbers.items()}, {})
        for (ip, names), own in zip(asked, labels, strict=True):
            for port in (80, 443, 1024, 8443, rng.randrange(1, 65536), rng.randrange(65536)):
                questions += 1
                found = view.verdict(Direction.EGRESS, numbers[own], 6, port)
                expected = _allowed(rules, locked, ip, names, port)
                assert found.forwarded == expected, (rules, locked, ip, names, port, found)


def _policy(
    cluster: str, rules: list[PlainRule], everyone: str, locked: bool, *, apart: bool
) -> SubjectPolicy:
    """The rules resolved, in one object or each in its own."""
    engine = PolicyEngine(PolicySettings(cluster_name=cluster))
    engine.put_identity(SUBJECT, workload_labels([], namespace="shop", cluster=cluster))
    for index, group in enumerate([[one] for one in rules] if apart else [rules]):
        spec: Json = {
            section: found
            for section, deny in (("egress", False), ("egressDeny", True))
            if (found := [_entry(one, everyone) for one in group if one.deny is deny])
        }
        spec["enableDefaultDeny"] = {"egress": locked}
        engine.put_policy(parsed(cnp(spec, name=f"policy-{index}")))
    engine.drain(1)
    found_policy = engine.subject(SUBJECT)
    assert found_policy is not None
    return found_policy


@everywhere
def test_cve_2024_47825_the_written_case(family: int, cluster: str) -> None:
    """The policies of the advisory: a wide deny, a narrow allow or name, and `all` or no default deny."""
    unlocked = {"enableDefaultDeny": {"egress": False}}
    wide = cnp({"egressDeny": [{"toCIDR": [prefix(family)]}], **unlocked}, name="deny")
    narrow = f"{address(family, 16)}/{28 if family == 4 else 124}"
    others: list[list[Json]] = [
        [cnp({"egress": [{"toCIDRSet": [{"cidr": narrow}]}, {"toEntities": ["all"]}]})],
        [cnp({"egress": [{"toFQDNs": [{"matchName": NAMES[0]}]}, {"toEntities": ["all"]}]})],
        [cnp({"egress": [{"toCIDR": [narrow]}], **unlocked})],
        [cnp({"endpointSelector": {"matchLabels": {"app": "other"}}, "egress": [{"toCIDR": [narrow]}]})],
        [],
    ]
    endpoints = {
        "web": pod(),
        "other": pod(app="other"),
        "near": outside(address(family, 17)),
        "wide": outside(address(family, 200)),
        "far": outside("203.0.113.9" if family == 4 else "2001:db8:ffff::9"),
    }
    for more in others:
        learned = {NAMES[0]: [address(family, 17)]}
        world = scene(cluster, endpoints, [wide, *more], fqdnCache=learned)
        assert [leaves(world, "web", name) for name in ("near", "wide", "far")] == ["deny", "deny", "allow"]


# --- RC-PREC: ranges of ports and redirects inside them


@everywhere
def test_cve_2024_52529_a_range_swallows_no_redirect(family: int, cluster: str) -> None:
    """An allow of a range of ports let a port inside it pass without its L7 rules.

    Random ranges and wildcards around random ports with HTTP, in one object or several: on each such port
    every packet is redirected, unless something denies it; beside them plain rules decide.
    """
    rng = random.Random(52529)
    endpoints = {"web": pod(app="web"), "peer": pod(), "out": outside(address(family))}
    for _ in range(scaled(25, 1_000)):
        ports = rng.sample(range(1, 65536), 3)
        ranges = [tuple(sorted((rng.randrange(1, 65536), rng.randrange(1, 65536)))) for _ in range(2)]
        ranges += [(max(1, port - rng.randrange(40)), min(65535, port + rng.randrange(40))) for port in ports]
        denied = rng.choice(ports)
        toward: list[Json] = [{"toEntities": ["all"]}, {"toEndpoints": [{}]}, {}]
        elements: list[Json] = [
            {**rng.choice(toward), "toPorts": [{"ports": [_port(first, last)]}]} for first, last in ranges
        ]
        elements += [
            {**toward[0], "toPorts": [{"ports": [_port(port)], "rules": {"http": [{"path": "/a"}]}}]}
            for port in ports
        ]
        rng.shuffle(elements)
        deny = {"egressDeny": [{"toEntities": ["world"], "toPorts": [{"ports": [_port(denied)]}]}]}
        policies = [cnp({"egress": [one]}, name=f"policy-{index}") for index, one in enumerate(elements)]
        world = scene(cluster, endpoints, [*policies, cnp(deny, name="deny")])
        beside = [one + 1 for one in ports if one < 65535]
        for port in (*ports, *beside, *(rng.randrange(1, 65536) for _ in range(6))):
            if port in ports:
                toward_out = "deny" if port == denied else "redirect:http"
                assert leaves(world, "web", "peer", "TCP", port) == "redirect:http"
                assert leaves(world, "web", "out", "TCP", port) == toward_out
            else:
                pods = any(first <= port <= last for first, last in ranges)
                assert leaves(world, "web", "peer", "TCP", port) == ("allow" if pods else "deny")


def _port(first: int, last: int = 0) -> Json:
    return {"port": str(first), "protocol": "TCP", **({"endPort": last} if last > first else {})}


@everywhere
def test_cve_2024_52529_dns_inside_a_range(family: int, cluster: str) -> None:
    """The same for DNS rules: every range and wildcard around port 53 leaves it to the DNS proxy."""
    names = {"dns": [{"matchPattern": "*"}]}
    dns = cnp({"egress": [{"toPorts": [{"ports": [{"port": "53"}], "rules": names}]}]}, name="dns")
    endpoints = {"web": pod(app="web"), "peer": pod(), "out": outside(address(family))}
    for wide in ({"port": "1", "endPort": 1024}, {"port": "0"}, {"port": "53", "endPort": 54}):
        for protocol in ("TCP", "UDP", "ANY"):
            around = cnp({"egress": [{"toPorts": [{"ports": [{**wide, "protocol": protocol}]}]}]})
            world = scene(cluster, endpoints, [around, dns])
            for peer in ("peer", "out"):
                assert leaves(world, "web", peer, "UDP", 53) == "redirect:dns"
                assert leaves(world, "web", peer, "TCP", 53) == "redirect:dns"
                other = leaves(world, "web", peer, "TCP", 54)
                assert other == ("allow" if protocol in ("TCP", "ANY") else "deny")


# --- RC-PROTO: what is no TCP or UDP


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_ghsa_c66w_hq56_4q97_rules_about_ports_open_no_other_protocol(cluster: str) -> None:
    """Echo requests passed because their id was read as a port.

    A rule about ports of all protocols opens TCP, UDP and SCTP and none of the other 253, in IPv4 and IPv6.
    """
    engine = PolicyEngine(PolicySettings(cluster_name=cluster))
    engine.put_identity(SUBJECT, workload_labels([], namespace="shop", cluster=cluster))
    engine.put_policy(parsed(cnp({"ingress": [{"toPorts": [{"ports": [{"port": "0"}]}]}]})))
    engine.drain(1)
    policy = engine.subject(SUBJECT)
    assert policy is not None
    labels = [outside_labels(address(family), ()) for family in FAMILIES]
    view = View(policy, {(1 << 24) + index: one for index, one in enumerate(labels)}, {})
    for number in (*view.local_identities, SUBJECT):
        for protocol in range(256):
            for port in (0, 8, 80, 128, 65535):
                found = view.verdict(Direction.INGRESS, number, protocol, port).text
                assert found == ("allow" if protocol in (6, 17, 132) else "deny"), (protocol, port)


@everywhere
def test_ghsa_c66w_hq56_4q97_icmp_types_are_exact(family: int, cluster: str) -> None:
    """A rule for one type of ICMP is about that type alone, type 0 included, allowed or denied.

    The other family's types and every port stay closed.
    """
    proto, other = ("ICMP", "ICMPV6") if family == 4 else ("ICMPV6", "ICMP")
    endpoints = {"web": pod(app="web"), "peer": pod(), "out": outside(address(family))}
    for kind in (0, 1, 3, 8, 127, 128, 129, 255):
        icmps = [{"fields": [{"type": kind, "family": "IPv4" if family == 4 else "IPv6"}]}]
        only = scene(cluster, endpoints, [cnp({"egress": [{"toEntities": ["all"], "icmps": icmps}]})])
        never = {"egressDeny": [{"icmps": icmps}], "egress": [{"toEntities": ["all"]}]}
        but = scene(cluster, endpoints, [cnp(never)])
        for peer in ("peer", "out"):
            for asked in (0, 1, 3, 8, 127, 128, 129, 254, 255):
                mine = asked == kind
                assert leaves(only, "web", peer, proto, asked) == ("allow" if mine else "deny")
                assert leaves(but, "web", peer, proto, asked) == ("deny" if mine else "allow")
                assert leaves(only, "web", peer, other, asked) == "deny"
                assert leaves(but, "web", peer, other, asked) == "allow"
                for transport in ("TCP", "UDP", "SCTP"):
                    assert leaves(only, "web", peer, transport, asked) == "deny"


# --- RC-ORDER: precedence is a total order


def test_cve_2026_25804_no_priority_runs_over() -> None:
    """Another engine's priorities ran over their field, and the order of rules turned round.

    Over all tiers, priorities at every edge of a power of two, and actions: the order of words is the order
    of (tier, priority, action), and nothing out of range gets a word.
    """
    powers = [1 << bits for bits in range(20)]
    edges = sorted({0, MAX_PRIORITY, 128_127, *powers, *(power - 1 for power in powers)})
    actions = (Action.DENY, Action.REDIRECT, Action.ALLOW, Action.PASS)
    words = [
        precedence(tier=tier, priority=priority, action=action, redirect_priority=126)
        for tier in Tier
        for priority in edges
        for action in actions
    ]
    assert words == sorted(words, reverse=True)
    assert len(set(words)) == len(words)
    assert all(0 < word < 1 << 32 for word in words[:-1])
    word = precedence(tier=Tier.BASELINE, priority=MAX_PRIORITY, action=Action.DENY)
    assert (tier_of(word), priority_of(word)) == (Tier.BASELINE, MAX_PRIORITY)
    assert MAX_OBJECT_PRIORITY * RULES_OF_A_PRIORITY + RULES_OF_A_PRIORITY - 1 <= MAX_PRIORITY
    for priority in (-1, MAX_PRIORITY + 1):
        with pytest.raises(ValueError, match="out of range"):
            precedence(priority=priority, action=Action.DENY)


def _admin(name: str, priority: int, action: str, rules: int = 1) -> Json:
    """An AdminNetworkPolicy whose last rule of many does something about TCP port 80."""
    port = [{"portNumber": {"port": 80, "protocol": "TCP"}}]
    other = [{"portNumber": {"port": 81, "protocol": "TCP"}}]
    peers: list[Json] = [{"namespaces": {}}]
    found = [{"action": "Deny", "from": peers, "ports": other}] * (rules - 1)
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha1",
        "kind": "AdminNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "priority": priority,
            "subject": {"namespaces": {}},
            "ingress": [*found, {"action": action, "from": peers, "ports": port}],
        },
    }


@everywhere
@pytest.mark.parametrize(("strong", "weak"), [(0, 1), (0, 1000), (255, 256), (511, 512), (999, 1000)])
def test_cve_2024_42487_the_stronger_priority_decides(
    strong: int, weak: int, family: int, cluster: str
) -> None:
    """Matches were tried in another order than the specification's.

    The last rule of a strong object wins over the first of a weak one, at both ends of the range.
    """
    endpoints = {"web": pod(app="web"), "peer": {**pod(), "ip": address(family)}}
    for first, last in (("Allow", "Deny"), ("Deny", "Allow")):
        policies = [_admin("weak", weak, last), _admin("strong", strong, first, rules=100)]
        for given in (policies, policies[::-1]):
            assert enters(scene(cluster, endpoints, given), "peer", "web") == first.lower()
            below = cnp({"ingressDeny" if first == "Allow" else "ingress": [{"toPorts": TCP80}]})
            assert enters(scene(cluster, endpoints, [*given, below]), "peer", "web") == first.lower()
