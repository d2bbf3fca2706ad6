"""Prefixes that policies name, from the shim's maps into the kernel: its verdicts equal those of the rules.

A node in memory takes random policies of several subjects, whose prefixes lie inside each other; what its
maps hold is copied into the kernel and asked for with packets of both families. Auditing of an endpoint too.
"""

from __future__ import annotations

import itertools
import random

import pytest

from axoneme.lib.bpf.create import create_map
from axoneme.lib.policy.model import AnyPeer, Direction, SubjectPolicy
from shim.endpointmap import encode_endpoint
from shim.endpoints import Endpoint
from shim.maps import layout
from tests.bpf import packets as p
from tests.bpf.harness import LOOPBACK, Datapath, Outcome
from tests.conftest import scaled
from tests.unit.shim.memorynode import MemoryNode, policy, rule, wanted
from tests.unit.shim.test_policy_prefixes import PROBES, by_hand, node_with, random_policy

pytestmark = [pytest.mark.root, pytest.mark.slow]

_ports = itertools.cycle(range(20_000, 60_000))  # no two questions share a connection


def copy_maps(datapath: Datapath, node: MemoryNode, endpoint: Endpoint) -> None:
    """The kernel gets what the node's maps hold for one endpoint, which sits on lo."""
    for name in (layout.IPEXACT.name, layout.IPCACHE.name):
        datapath.clear(name)
        datapath.maps[name].update_batch(node.datapath.maps[name].items())
    held = node.policies.map_of(endpoint.endpoint_id)
    assert held is not None
    inner = create_map(layout.POLICY_INNER)
    inner.update_batch(held.items())
    datapath.maps["axoneme_policy"].set_inner(layout.policy_outer_key(endpoint.endpoint_id), inner)
    inner.close()
    known = node.endpoints.require(endpoint.endpoint_id)
    audit = node.endpoint_map.audit or known.audit
    datapath.maps["axoneme_ep"].update(layout.endpoint_key(LOOPBACK), encode_endpoint(known, audit=audit))


def ask(datapath: Datapath, endpoint: Endpoint, direction: Direction, address: str, port: int) -> Outcome:
    own = next(ip for ip in endpoint.ips if (":" in ip) == (":" in address))
    body = p.tcp(next(_ports), port)
    if direction is Direction.EGRESS:
        return datapath.send(p.packet(own, address, p.TCP, body))
    return datapath.receive(p.packet(address, own, p.TCP, body))


@pytest.mark.parametrize("seed", range(scaled(6, 100)))
async def test_cve_2024_47825_in_the_kernel(datapath: Datapath, seed: int) -> None:
    """GHSA-3wwx-63fv-pfq6: no prefix of another policy changes a verdict, in either family."""
    rng = random.Random(seed)
    node, endpoints = await node_with("a", "b", "c", max_entries=layout.POLICY_INNER.max_entries)
    held: dict[int, SubjectPolicy] = {}
    for _ in range(3):
        for endpoint in endpoints:
            held[endpoint.endpoint_id] = random_policy(rng)
            assert await node.set_policy(endpoint.identity, held[endpoint.endpoint_id]) == {}
        for endpoint in endpoints:
            copy_maps(datapath, node, endpoint)
            for address in PROBES[4] + PROBES[6]:
                for direction, port in itertools.product(Direction, (80, 81)):
                    expected = by_hand(held[endpoint.endpoint_id], direction, address, port)
                    outcome = ask(datapath, endpoint, direction, address, port)
                    assert outcome.passed == expected, (endpoint.pod_name, direction, address, port)


@pytest.mark.parametrize("by_node", [False, True], ids=["endpoint", "node"])
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db9::1"])
async def test_auditing_of_an_endpoint_and_of_a_node(datapath: Datapath, address: str, by_node: bool) -> None:
    node = MemoryNode(audit=by_node)
    node.ipcache.commit()
    endpoint = await node.workloads.add(wanted(audit=not by_node))
    await node.set_policy(endpoint.identity, policy(rule(AnyPeer(), direction=Direction.EGRESS)))
    copy_maps(datapath, node, endpoint)
    outcome = ask(datapath, endpoint, Direction.INGRESS, address, 80)
    assert outcome.passed
    assert outcome.event(5)["verdict"] == 4
    if by_node:
        return
    await node.workloads.switches.set_audit(endpoint.endpoint_id, audit=False)
    copy_maps(datapath, node, endpoint)
    assert not ask(datapath, endpoint, Direction.INGRESS, address, 80).passed


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db9::1"])
async def test_a_connection_that_policy_cut_goes_on_once_it_is_only_audited(
    datapath: Datapath, address: str
) -> None:
    node = MemoryNode()
    node.ipcache.commit()
    endpoint = await node.workloads.add(wanted())
    own = next(ip for ip in endpoint.ips if (":" in ip) == (":" in address))
    await node.set_policy(endpoint.identity, policy(rule(AnyPeer())))
    copy_maps(datapath, node, endpoint)
    assert datapath.receive(p.packet(address, own, p.TCP, p.tcp(1000, 80))).passed
    more = p.packet(address, own, p.TCP, p.tcp(1000, 80, p.ACK))
    await node.set_policy(endpoint.identity, policy())
    copy_maps(datapath, node, endpoint)
    assert not datapath.receive(more).passed
    await node.workloads.switches.set_audit(endpoint.endpoint_id, audit=True)
    copy_maps(datapath, node, endpoint)
    assert datapath.receive(more).passed
