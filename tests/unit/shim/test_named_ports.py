"""Named ports of endpoints: checked, kept, published, and resolved for each endpoint on its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from axoneme.api.identity.v1 import identity_pb2
from axoneme.api.node.v1 import node_pb2
from axoneme.lib.errors import AlreadyExists, InvalidArgument
from axoneme.lib.policy.model import AnyPeer, Direction, IdentityPeer, NamedPort, SubjectPolicy
from shim.endpoints import Endpoint
from shim.namedports import decode_named_ports, named_ports_message, parse_named_ports
from shim.requests import decode_wanted
from shim.services import Services
from shim.state import NodeState, StateFile
from tests.unit.shim.memorynode import MemoryNode, policy, rule, wanted
from tests.unit.shim.test_node_api import served
from tests.unit.shim.test_small_tables import endpoint

HTTP = NamedPort(6, "http")


def by_name() -> SubjectPolicy:
    return policy(rule(AnyPeer(), ports=HTTP))


def test_texts_and_messages_mean_the_same() -> None:
    ports = parse_named_ports(["http=80", "DNS=53/UDP", "dns=53/tcp", "m3ua=2905/sctp", "http=80/tcp"])
    assert ports == ((6, "dns", 53), (6, "http", 80), (17, "dns", 53), (132, "m3ua", 2905))
    assert decode_named_ports(named_ports_message(ports)) == ports


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http", "NAME=NUMBER/PROTOCOL"),
        ("http=x/tcp", "NAME=NUMBER/PROTOCOL"),
        ("http=80/icmp", "none of tcp, udp and sctp"),
        ("http=0/tcp", "1-65535"),
        ("http=65536/tcp", "1-65535"),
        ("80=80/tcp", "no port name"),
        ("a--b=80/tcp", "no port name"),
        ("-a=80/tcp", "no port name"),
        ("a23456789012345x=80/tcp", "no port name"),
    ],
)
def test_what_is_no_named_port_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        parse_named_ports([text])


def test_a_name_with_two_numbers_and_too_many_names_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="given twice"):
        parse_named_ports(["http=80/tcp", "http=81/tcp"])
    with pytest.raises(InvalidArgument, match="at most 64"):
        parse_named_ports([f"p{number}=80" for number in range(65)])


def test_a_request_brings_them() -> None:
    request = node_pb2.AddEndpointRequest(
        namespace="default",
        pod_name="web",
        netns="/run/netns/web",
        named_ports=[identity_pb2.NamedPort(name="HTTP", port=80, protocol="tcp")],
        audit=True,
    )
    assert decode_wanted(request).named_ports == ((6, "http", 80),)
    assert decode_wanted(request).audit


async def test_each_endpoint_resolves_a_name_with_its_own_ports() -> None:
    node = MemoryNode()
    low, high, none = [
        await node.workloads.add(wanted(name, "app=web", named_ports=ports))
        for name, ports in (("a", ((6, "http", 80),)), ("b", ((6, "http", 8080), (17, "dns", 53))), ("c", ()))
    ]
    assert low.identity == high.identity == none.identity
    assert node.outer_id(low) == node.outer_id(high), "no name in the policy: one map"
    await node.set_policy(low.identity, by_name())
    assert len({node.outer_id(one) for one in (low, high, none)}) == 3
    for address in ("192.0.2.1", "2001:db9::1"):
        shown = [
            [node.verdict(one, Direction.INGRESS, address, 6, port) for port in (80, 8080)]
            for one in (low, high, none)
        ]
        assert shown == [["allow", "none"], ["none", "allow"], ["none", "none"]]


async def test_endpoints_that_agree_on_the_names_in_question_share_a_map() -> None:
    node = MemoryNode()
    one = await node.workloads.add(wanted("a", "app=web", named_ports=((6, "http", 80), (17, "dns", 53))))
    two = await node.workloads.add(wanted("b", "app=web", named_ports=((6, "http", 80), (17, "dns", 54))))
    await node.set_policy(one.identity, by_name())
    assert node.outer_id(one) == node.outer_id(two)
    assert len(node.policies._mapstates) == 1
    await node.set_policy(one.identity, policy(rule(IdentityPeer(7_000), ports=NamedPort(17, "dns"))))
    assert node.outer_id(one) != node.outer_id(two)


async def test_an_unknown_name_matches_nothing_in_allow_and_deny() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted("a", named_ports=((17, "http", 80),)))
    await node.set_policy(endpoint.identity, by_name())
    assert node.verdict(endpoint, Direction.INGRESS, "192.0.2.1", 6, 80) == "none"


async def test_other_ports_are_another_workload() -> None:
    node = MemoryNode()
    await node.workloads.add(wanted(named_ports=((6, "http", 80),)))
    with pytest.raises(AlreadyExists, match="named ports"):
        await node.workloads.add(wanted())


async def test_they_are_shown_kept_and_published(socket_directory: Path, tmp_path: Path) -> None:
    node = MemoryNode()
    made = await node.workloads.add(wanted(named_ports=((6, "http", 80),)))
    async with served(node, socket_directory) as api:
        shown = (await api.GetEndpoint(node_pb2.GetEndpointRequest(endpoint_id=made.endpoint_id))).endpoint
    expected = [identity_pb2.NamedPort(name="http", port=80, protocol="TCP")]
    assert list(shown.named_ports) == expected
    file = StateFile(tmp_path)
    file.save(NodeState(endpoints=(made,), local_identities={"next": 7, "identities": []}))
    assert StateFile(tmp_path).load().endpoints == (made,)
    assert StateFile(tmp_path).load().local_identities["next"] == 7
    requests = []

    class Recorded(Services):
        async def _identity(self, call: object) -> object:  # type: ignore[override]
            class Stub:
                async def PublishAddresses(self, request: object, timeout: float) -> object:
                    requests.append(request)
                    return identity_pb2.PublishAddressesResponse(acknowledged=True)

            return await call(Stub())  # type: ignore[operator]

    unused: object = None
    services = Recorded(unused, unused, node_name="n1")  # type: ignore[arg-type]
    await services.publish([made], "192.0.2.1", complete=True)
    assert all(list(address.named_ports) == expected for address in requests[0].addresses)
    assert len(requests[0].addresses) == 2


def test_a_state_file_of_an_earlier_version_is_read() -> None:
    bare = endpoint()
    assert Endpoint.load(bare.dump() | {"named_ports": [[6, "http", 80]]}).named_ports == ((6, "http", 80),)
    old = {key: value for key, value in bare.dump().items() if key not in ("named_ports", "audit")}
    assert Endpoint.load(old) == bare
