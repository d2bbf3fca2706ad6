"""The recorded policy sets through the gRPC API: what a node is sent is what the verdicts were checked on.

tests/model/test_policy_conformance.py compares every recorded verdict with the policies of an engine in this
process. Here the same sets go through a running service: objects by ApplyPolicy, identities, addresses, nodes
and services by the store, each subject back by GetSubjectPolicy and its wire form. Equal policies give equal
verdicts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.memory import MemoryStore
from axoneme.lib.labels import RESERVED
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import decode_change
from axoneme.lib.tls import TlsFiles
from services.policy.cases.testcase import Case, Kind
from services.policy.cases.testfile import read_cases
from services.policy.cases.testscene import Scene
from services.policy.inputs import CidrGroup
from tests.conftest import scaled
from tests.contract.policyserver import RunningPolicy, running_policy

DATA = Path(__file__).parents[1] / "data" / "conformance"
STRIDE = scaled(10, 1)
BATCH = 90
PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}


@pytest.mark.parametrize("name", ["cilium_policies", "k8s_networkpolicy"])
@pytest.mark.timeout(900)
async def test_recorded_sets_by_the_api(name: str, tls_files: Callable[[str], TlsFiles]) -> None:
    """Every so-and-so-many-th set, all of them in soak runs."""
    cases = read_cases((DATA / f"{name}.json").read_text())[::STRIDE]
    compared = 0
    for case in cases:
        scene = Scene(case)
        async with running_policy(MemoryStore(), tls_files, settings=case.settings) as service:
            await _fill(service, case, scene)
            compared += await _compare(service, scene, case.name)
    assert compared > len(cases)


async def _fill(service: RunningPolicy, case: Case, scene: Scene) -> None:
    """What other services write, and what a user applies."""
    cluster = case.settings.cluster_name
    for number, labels in scene.world.labels.items():
        await service.add_identity(number, labels)
    for index, (name, number) in enumerate(scene.world.numbers.items()):
        ports = case.endpoints[name].named_ports
        if ports:
            await service.store.put(*_address(f"100.64.0.{index + 1}", number, ports))
    for node in scene.world.nodes.values():
        given = {label.key: label.value for label in node.labels if label.source != RESERVED}
        value = {"Name": node.name, "Cluster": cluster, "Labels": given}
        await service.store.put(layout.node_key(cluster, node.name), json.dumps(value).encode())
    for one in case.services:
        selector = None if one.selector is None else dict(one.selector)
        record = {"labels": dict(one.labels), "selector": selector, "backends": list(one.backends)}
        key = f"{layout.SERVICES}{one.namespace}/{one.name}"
        await service.store.put(key, json.dumps(record).encode())
    await service.caught_up()
    objects = [_group(group) for group in case.cidr_groups]
    objects += [node.plain() for node in case.policies]
    async with service.client("user/admin/ann") as stub:
        for start in range(0, len(objects), BATCH):
            items = objects[start : start + BATCH]
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
            await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=text))
    await service.caught_up()


def _address(ip: str, number: int, ports: Any) -> tuple[str, bytes]:
    named = [
        {"Name": name, "Port": port, "Protocol": PROTOCOLS[protocol]}
        for (protocol, name), port in ports.items()
    ]
    return f"{layout.IPS}{ip}", json.dumps({"IP": ip, "ID": number, "NamedPorts": named}).encode()


def _group(group: CidrGroup) -> Any:
    metadata = {"name": group.key.name, "labels": dict(group.labels)}
    spec = {"externalCIDRs": list(group.cidrs)}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": metadata, "spec": spec}


async def _compare(service: RunningPolicy, scene: Scene, name: str) -> int:
    """How many subjects were compared."""
    compared = 0
    async with service.client("user/reader/bob") as stub:
        for subject, expected in _subjects(scene):
            answer = await stub.GetSubjectPolicy(pb.GetSubjectPolicyRequest(subject=subject))
            assert decode_change(answer.policy, None) == expected, (name, subject)
            compared += 1
    return compared


def _subjects(scene: Scene) -> list[tuple[pb.Subject, SubjectPolicy]]:
    found: list[tuple[pb.Subject, SubjectPolicy | None]] = []
    for one in scene.case.endpoints.values():
        if scene.world.enforced(one) and not scene.fault(one.name):
            if one.kind is Kind.HOST:
                found.append((pb.Subject(host_of_node=one.name), scene.engine.host(one.name)))
            else:
                number = scene.world.number_of(one)
                found.append((pb.Subject(identity=number), scene.engine.subject(number)))
    return [(subject, policy) for subject, policy in found if policy is not None]
