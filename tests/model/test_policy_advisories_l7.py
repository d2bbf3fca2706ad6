"""Advisories about proxies: whose requests pass, and that a redirect never turns into a plain allow."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import pytest

from axoneme.lib.errors import Unsupported
from axoneme.lib.labels import workload_labels
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.mapstate import MapstateBuilder
from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey, SubjectPolicy
from axoneme.lib.policy.outside import outside_labels
from services.policy.cases.l7 import HttpRequest, Outcome
from services.policy.cases.testscene import Scene
from services.policy.inputs import PolicySettings
from services.policy.resolution.engine import PolicyEngine
from shim.cookies import CookieTable
from shim.localidentities import LocalIdentities
from shim.mapstates import Mapstate, needs_more
from tests.conftest import scaled
from tests.model.advisorycases import (
    TCP80,
    Json,
    address,
    cnp,
    enters,
    everything,
    everywhere,
    flow,
    outside,
    parsed,
    pod,
    scene,
    single,
)

PEERS: Final = ("a", "b", "c", "d")
PATHS: Final = ("/one", "/two", "/three")


def _http(*paths: str) -> list[Json]:
    rules = [{"path": path} if path else {} for path in paths]
    return [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": rules}}]


def _passes(world: Scene, peer: str, path: str) -> bool:
    packet = flow(peer, "web")
    return world.outcome(packet, Direction.INGRESS, HttpRequest(path=path)) is Outcome.ALLOW


def _world(cluster: str, family: int, policies: list[Json]) -> Scene:
    endpoints = {
        "web": pod(app="web"),
        **{name: {**pod(peer=name), "ip": address(family, index)} for index, name in enumerate(PEERS, 2)},
        "out": outside(address(family)),
    }
    return scene(cluster, endpoints, policies)


@everywhere
def test_cve_2023_30851_requests_of_one_peer_open_nothing_for_another(family: int, cluster: str) -> None:
    """That one of several peers may send every request let the other peers of the rule send every request.

    Random rules for random peers, with and without HTTP: a request passes exactly when a rule that names its
    sender accepts it.
    """
    rng = random.Random(30851)
    for _ in range(scaled(60, 3_000)):
        rules: list[tuple[list[str], list[str] | None]] = []
        named: Json
        entries: list[Json] = []
        for _ in range(rng.randint(1, 5)):
            peers = rng.sample((*PEERS, "out"), rng.randint(1, 3))
            paths = rng.choice((None, [""], rng.sample(PATHS, 1), rng.sample(PATHS, 2)))
            if "out" in peers:
                peers, named = ["out"], {"fromCIDR": [single(address(family))]}
            else:
                named = {"fromEndpoints": [{"matchLabels": {"peer": one}} for one in peers]}
            rules.append((peers, paths))
            entries.append({**named, "toPorts": TCP80 if paths is None else _http(*paths)})
        apart = rng.random() < 0.5
        groups = [[one] for one in entries] if apart else [entries]
        world = _world(cluster, family, [cnp({"ingress": one}, name=f"p{i}") for i, one in enumerate(groups)])
        for peer in (*PEERS, "out"):
            mine = [paths for peers, paths in rules if peer in peers]
            for path in PATHS:
                expected = any(paths is None or "" in paths or path in paths for paths in mine)
                assert _passes(world, peer, path) == expected, (rules, peer, path)
                assert not _passes(world, peer, path + "/more") or any(p is None or "" in p for p in mine)


@everywhere
def test_cve_2023_30851_the_written_case(family: int, cluster: str) -> None:
    """Two peers in one rule, `http: [{}]` for one of them in another, in both orders."""
    both = {"fromEndpoints": [{"matchLabels": {"peer": name}} for name in "ab"], "toPorts": _http("/one")}
    whole = {"fromEndpoints": [{"matchLabels": {"peer": "b"}}], "toPorts": _http("")}
    for entries in ([both, whole], [whole, both]):
        world = _world(cluster, family, [cnp({"ingress": entries})])
        assert [_passes(world, "a", path) for path in ("/one", "/two")] == [True, False]
        assert [_passes(world, "b", path) for path in ("/one", "/two")] == [True, True]
        assert [_passes(world, name, "/one") for name in ("c", "out")] == [False, False]


@everywhere
def test_cve_2023_30851_a_policy_on_trial_opens_no_requests(family: int, cluster: str) -> None:
    """The same leak from a policy that is only tried out: its rules let no request through."""
    trial = {"policy.axoneme.io/audit": "true"}
    entry = {"fromEndpoints": [{"matchLabels": {"peer": "a"}}]}
    policies = [
        cnp({"ingress": [{**entry, "toPorts": _http("/one")}]}, name="enforced"),
        cnp({"ingress": [{**entry, "toPorts": TCP80}]}, name="plain", annotations=trial),
        cnp({"ingress": [{**entry, "toPorts": _http("/two")}]}, name="more", annotations=trial),
    ]
    world = _world(cluster, family, policies)
    assert enters(world, "a", "web") == "redirect:http"
    assert [_passes(world, "a", path) for path in ("/one", "/two")] == [True, False]


# --- a redirect stays a redirect, or the policy is not enforced at all

L7_PARTS: Final[tuple[tuple[str, Json], ...]] = (
    ("ingress", {"rules": {"http": [{"path": "/a"}]}}),
    ("ingress", {"rules": {"http": [{}]}}),
    ("ingress", {"rules": {"kafka": [{"role": "produce"}]}}),
    ("ingress", {"rules": {"l7proto": "memcache"}}),
    ("ingress", {"terminatingTLS": {"secret": {"name": "web"}}}),
    ("egress", {"serverNames": ["a.example.org"]}),
    ("egress", {"rules": {"dns": [{"matchPattern": "*"}]}}),
    ("egress", {"listener": {"envoyConfig": {"name": "envoy"}, "name": "in"}}),
)
PLAIN_PARTS: Final[tuple[Json, ...]] = (
    {},
    {"toPorts": TCP80},
    {"toPorts": [{"ports": [{"port": "1", "endPort": 99, "protocol": "TCP"}]}]},
)


def _subject(cluster: str, policies: list[Json]) -> SubjectPolicy:
    engine = PolicyEngine(PolicySettings(cluster_name=cluster))
    engine.put_identity(1000, workload_labels([], namespace="shop", cluster=cluster))
    engine.put_identity(1001, workload_labels(["evil=yes"], namespace="evil", cluster=cluster))
    for policy in policies:
        engine.put_policy(parsed(policy))
    assert not engine.drain(1).faults
    found = engine.subject(1000)
    assert found is not None
    return found


@everywhere
@pytest.mark.parametrize(("section", "part"), L7_PARTS)
@pytest.mark.parametrize("plain", PLAIN_PARTS)
def test_cve_2024_28248_a_redirect_never_becomes_a_plain_allow(
    section: str, part: Json, plain: Json, family: int, cluster: str
) -> None:
    """While its proxy was not ready, an HTTP policy was enforced as if it had no HTTP rules.

    Whatever plain rules are beside it, the map redirects; and a node without a proxy refuses the whole
    policy, naming the rule, instead of writing any part of it.
    """
    peers = {"fromEntities" if section == "ingress" else "toEntities": ["all"]}
    ports = [{"port": "80", "protocol": "TCP"}]
    policies = [cnp({section: [{**peers, "toPorts": [{"ports": ports, **part}]}]}, name="proxied")]
    policies += [cnp({section: [{**peers, **plain}]}, name="plain")]
    policy = _subject(cluster, policies)
    side = Direction[section.upper()]

    async def refused() -> tuple[Unsupported | None, dict[MapKey, MapEntry]]:
        local = LocalIdentities()
        local.want_prefixes([single(address(family))])
        state = Mapstate(())
        await state.move(policy, local, CookieTable())
        return state.refusal(), MapstateBuilder(dict(local.labels()), {}).update(policy).upserts

    refusal, entries = asyncio.run(refused())
    for number in (1001, 1, 9, 10, 1 << 24):
        decision = lookup(entries, side, number, 6, 80)
        assert decision.action is Action.REDIRECT
        assert decision.entry is not None
        assert needs_more(decision.entry)
    assert refusal is not None
    assert "proxied" in refusal.message


CHURN: Final[tuple[Json, ...]] = (
    {"ingress": [{"fromEntities": ["all"]}]},
    {"ingress": [{"fromEntities": ["all"], "toPorts": TCP80}]},
    {"ingress": [{"toPorts": [{"ports": [{"port": "1", "endPort": 1024}]}]}]},
    {"ingress": [{"fromEntities": ["world", "cluster"]}], "enableDefaultDeny": {"ingress": False}},
    {"ingress": [{"fromEndpoints": [{}], "toPorts": _http("/a")}]},
    {"ingressDeny": [{"fromEntities": ["health"]}], "egress": [{}]},
    {"ingress": [{"fromEndpoints": [{}], "authentication": {"mode": "disabled"}}]},
)


@everywhere
def test_cve_2024_28248_a_deny_holds_throughout_churn(family: int, cluster: str) -> None:
    """Now and then a policy was not applied while others changed.

    10,000 packets meet a deny while allows of every kind come and go around it, in the state after each
    change and, since additions go before removals, in the one between: none passes.
    """
    rng = random.Random(28248)
    engine = PolicyEngine(PolicySettings(cluster_name=cluster))
    engine.put_identity(1000, workload_labels([], namespace="shop", cluster=cluster))
    engine.put_identity(1001, workload_labels(["evil=yes"], namespace="evil", cluster=cluster))
    evil = {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "evil"}}
    deny = [{"fromEndpoints": [evil], "toPorts": TCP80}, {"fromCIDR": [single(address(family))]}]
    engine.put_policy(parsed(cnp({"ingressDeny": deny}, name="deny")))
    others = [parsed(cnp(spec, name=f"other-{index}")) for index, spec in enumerate(CHURN)]
    others.append(parsed(cnp({"ingress": [{"fromCIDR": [everything(family)]}]}, name="other-cidr")))
    known = _subject(cluster, [cnp({"ingressDeny": deny})]).selectors.values()
    builder = MapstateBuilder({1 << 24: outside_labels(address(family), known)}, {})
    present: set[int] = set()
    asked = 0
    while asked < scaled(10_000, 100_000):
        change = rng.randrange(len(others))
        if change in present:
            engine.remove_policy(others[change].key)
        else:
            engine.put_policy(others[change])
        present ^= {change}
        engine.drain(1)
        policy = engine.subject(1000)
        assert policy is not None
        between: dict[MapKey, MapEntry] = dict(builder.entries)
        changes = builder.update(policy)
        between.update(changes.upserts)
        for entries in (between, builder.entries):
            for number, ports in ((1001, (80,)), (1 << 24, (1, 80, 443, rng.randrange(65536)))):
                for port in ports:
                    asked += 1
                    assert not lookup(entries, Direction.INGRESS, number, 6, port).forwarded
