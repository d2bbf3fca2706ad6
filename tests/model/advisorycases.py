"""Small worlds for the advisories' regression classes: one text for both families and any cluster name.

    cnp, ccnp, knp, pod, outside … ─> scene ─> ask: the words of both sides of a flow

`everywhere` runs a test with the default and a custom cluster name, and with addresses of each family: half
of the advisories came from a path that only one of the four took.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest

from axoneme.lib.policy.model import Direction
from services.policy.cases.l7 import Outcome, Request
from services.policy.cases.testcase import PROTOCOL_NUMBERS, Flow
from services.policy.cases.testscene import Scene
from services.policy.reading.objects import parse_objects
from services.policy.rules import ParsedPolicy
from tests.model.policycheck import scene_of

Json = dict[str, Any]

CLUSTERS: Final = ("default", "mesh-eu")
FAMILIES: Final = (4, 6)
TCP80: Final = [{"ports": [{"port": "80", "protocol": "TCP"}]}]
# What `net(family, …)` is written in: documentation prefixes.
_NETS: Final = {4: "198.51.100.", 6: "2001:db8::"}


def everywhere(test: Any) -> Any:
    """Run a test in both families, with the default and a custom cluster name."""
    by_family = pytest.mark.parametrize("family", FAMILIES, ids=("ipv4", "ipv6"))
    return pytest.mark.parametrize("cluster", CLUSTERS)(by_family(test))


def address(family: int, host: int = 1) -> str:
    """An address outside the cluster."""
    return f"{_NETS[family]}{host}" if family == 4 else f"{_NETS[family]}{host:x}"


def prefix(family: int) -> str:
    """The prefix that holds every `address`."""
    return f"{_NETS[4]}0/24" if family == 4 else f"{_NETS[6]}/64"


def single(text: str) -> str:
    """The prefix of one address."""
    return f"{text}/{128 if ':' in text else 32}"


def everything(family: int) -> str:
    """Every address of a family."""
    return "0.0.0.0/0" if family == 4 else "::/0"


def pod(namespace: str = "shop", cluster: str = "", ip: str = "", **labels: str) -> Json:
    """A pod; underscores of label keys stand for nothing, so only plain keys can be given this way."""
    found: Json = {"kind": "pod", "namespace": namespace, "labels": labels}
    return found | ({"cluster": cluster} if cluster else {}) | ({"ip": ip} if ip else {})


def outside(ip: str) -> Json:
    """An address outside the cluster."""
    return {"kind": "world", "ip": ip}


def cnp(spec: Mapping[str, Any], name: str = "policy", namespace: str = "shop", **metadata: Any) -> Json:
    """A CiliumNetworkPolicy that selects every pod of its namespace unless the spec says otherwise."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"endpointSelector": {}, **spec},
    }


def ccnp(spec: Mapping[str, Any], name: str = "wide") -> Json:
    """A CiliumClusterwideNetworkPolicy."""
    subject: Json = {} if "nodeSelector" in spec else {"endpointSelector": {}}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": name},
        "spec": {**subject, **spec},
    }


def knp(spec: Mapping[str, Any], name: str = "kubernetes", namespace: str = "shop") -> Json:
    """A NetworkPolicy of Kubernetes for every pod of its namespace."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}, **spec},
    }


def scene(
    cluster: str,
    endpoints: Mapping[str, Json],
    policies: Sequence[Json],
    *,
    config: Any = None,
    **inputs: Any,
) -> Scene:
    """The world of a case; every policy must be accepted."""
    return scene_of(
        {
            "config": {"clusterName": cluster, **(config or {})},
            "endpoints": dict(endpoints),
            "policies": list(policies),
            "flows": [],
            **inputs,
        }
    )


def flow(source: str, target: str, proto: str = "TCP", port: int = 80) -> Flow:
    """A packet between two endpoints."""
    return Flow(source, target, PROTOCOL_NUMBERS[proto], port)


def leaves(world: Scene, source: str, target: str, proto: str = "TCP", port: int = 80) -> str:
    """What the sender's policy says, checked against the judgement of the single packet."""
    return _asked(world, flow(source, target, proto, port), Direction.EGRESS)


def enters(world: Scene, source: str, target: str, proto: str = "TCP", port: int = 80) -> str:
    """What the receiver's policy says, checked against the judgement of the single packet."""
    return _asked(world, flow(source, target, proto, port), Direction.INGRESS)


def _asked(world: Scene, packet: Flow, side: Direction) -> str:
    verdict, judged = world.verdict(packet, side), world.judgement(packet, side)
    assert judged is None or judged.forwarded == verdict.forwarded, (packet, judged, verdict)
    return verdict.text


def request(world: Scene, packet: Flow, side: Direction, asked: Request) -> Outcome:
    """What becomes of a request inside a flow, at one side."""
    return world.outcome(packet, side, asked)


def parsed(document: Json) -> ParsedPolicy:
    """The policy of an object, through its text."""
    (found,) = parse_objects(json.dumps(document))
    assert isinstance(found, ParsedPolicy)
    return found
