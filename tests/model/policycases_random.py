"""Whole random cases: a world, policies, and the flows worth asking, from one `random.Random`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from tests.model.policycases_kubernetes import network_policy, tiered_policy
from tests.model.policycases_rules import PORTS, cilium_policy
from tests.model.policycases_world import chance, families_of, random_world

Case = dict[str, Any]
Json = dict[str, Any]
SUBJECTS = ("pod", "host", "health", "init", "ingress")
TYPES = {"ICMP": (8, 0, 13), "ICMPV6": (128, 129, 0)}
NUMBERS = (*PORTS, 54, 444, 1030, 8081, 9090, *(80, 443, 53) * 3)


def random_case(rng: random.Random, *, most_policies: int = 4, flows: int = 0, only: int = 0) -> Case:
    """A case, with flows that expect nothing yet; with `only` all addresses are of one family."""
    case = random_world(rng, only)
    families = families_of(case, only)
    case["flows"] = []
    # A cluster of one family may have policies that name prefixes of the other.
    named = [4, 6] if not only and chance(rng, 25) else families
    case["policies"] = random_policies(rng, named, most_policies)
    if chance(rng, 50):
        _crowd(rng, case)
    ports = [*NUMBERS, *sorted(_ports_in(case["policies"])) * 2]
    proxied = sorted(_ports_in(list(_proxied(case["policies"]))))
    for _ in range(flows):
        hot = bool(proxied) and chance(rng, 50)
        case["flows"].append(random_flow(rng, case, proxied if hot else ports))
        if hot:
            case["flows"][-1]["proto"] = rng.choice(("TCP", "TCP", "UDP"))
    return case


def _crowd(rng: random.Random, case: Case) -> None:
    """Bring everything together in one namespace, so that more rules meet in one flow."""
    for one in case["endpoints"].values():
        if one["kind"] == "pod":
            one |= {"namespace": "default", "namespaceLabels": {"team": "red"}}
    for policy in case["policies"]:
        if "namespace" in policy["metadata"]:
            policy["metadata"]["namespace"] = "default"
        for spec in [policy["spec"]] if "spec" in policy else policy["specs"]:
            if "endpointSelector" in spec and chance(rng, 80):
                spec["endpointSelector"] = {}
            if "podSelector" in spec and chance(rng, 60):
                spec["podSelector"] = {}
            if "subject" in spec and chance(rng, 60):
                spec["subject"] = {"namespaces": {}}
            for entry in [*spec.get("ingress", []), *spec.get("egress", [])]:
                if "toPorts" in entry and chance(rng, 40):
                    keep = ("toPorts", "authentication")
                    for key in [key for key in entry if key not in keep]:
                        del entry[key]
                    entry.pop("authentication", None)


def _proxied(value: Any) -> Iterator[Any]:
    """The ports of elements that a proxy takes."""
    if isinstance(value, dict) and {"rules", "serverNames", "listener"} & set(value):
        yield value.get("ports")
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _proxied(child)


def _ports_in(value: Any, key: str = "") -> Iterator[int]:
    """The numbers of ports that policies name, and now and then their neighbours."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _ports_in(child, name)
    elif isinstance(value, list):
        for child in value:
            yield from _ports_in(child, key)
    elif key in ("port", "endPort", "number", "start", "end") and str(value).isdecimal():
        near = (int(value), int(value), int(value) - 1, int(value), int(value) + 1)
        yield from (port for port in near if 0 < port <= 65535)


def random_policies(rng: random.Random, families: list[int], most: int = 4) -> list[Json]:
    """Some objects of all kinds."""
    made = []
    kinds = ("tiered",) if chance(rng, 8) else ("cnp",) * 9 + ("ccnp",) * 5 + ("knp",) * 3 + ("tiered",) * 4
    for index in range(rng.randint(1, most)):
        kind = rng.choice(kinds)
        if kind == "tiered":
            made.append(tiered_policy(rng, families, index))
        elif kind == "knp":
            made.append(network_policy(rng, families, index))
        else:
            made.append(cilium_policy(rng, families, index, clusterwide=kind == "ccnp"))
    baseline = [one for one in made if one["kind"] == "BaselineAdminNetworkPolicy"]
    return [one for one in made if one not in baseline[1:]]


def random_flow(rng: random.Random, case: Case, ports: Sequence[int] = NUMBERS) -> dict[str, Any]:
    """A flow with at least one end that policies are enforced for."""
    names = list(case["endpoints"])
    subjects = [name for name in names if case["endpoints"][name]["kind"] in SUBJECTS]
    pods = [name for name in subjects if case["endpoints"][name]["kind"] == "pod"]
    one, other = rng.choice(rng.choice((pods, subjects))), rng.choice(names)
    source, target = (one, other) if rng.randrange(2) else (other, one)
    proto = rng.choice(("TCP", "TCP", "TCP", "UDP", "UDP", "SCTP", _icmp(rng, case, source, target)))
    port = rng.choice(TYPES.get(proto, ports))
    return {"from": source, "to": target, "proto": proto, "port": port}


def _icmp(rng: random.Random, case: Case, source: str, target: str) -> str:
    addresses = [case["endpoints"][name].get("ip", "") for name in (source, target)]
    if any(":" in address for address in addresses):
        return "ICMPV6"
    return "ICMP" if any(addresses) else rng.choice(("ICMP", "ICMPV6"))


def random_cases(seed: int, count: int, *, flows: int = 25) -> Iterator[Case]:
    """Cases of consecutive seeds, each with its seed as its id."""
    for number in range(seed, seed + count):
        rng = random.Random(number)
        case = random_case(rng, flows=flows)
        yield {"id": f"random-{number}", **case}
