"""SubscribeServices: what is well formed comes through, what is not fails alone under its key."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.api.intent.v1 import intent_pb2
from axoneme.lib.errors import Unsupported
from axoneme.lib.intent import Ack, Hello, Interest, Resync
from shim.lb.model import Backend, Port, Service, State
from shim.lb.wire import ServicesCodec, service
from shim.maps.base import address_bytes

HEADER = intent_pb2.UpdateHeader(nonce=1, epoch=5, revision=9, snapshot_part=1, snapshot_last=True)
CLUSTER_IP = {4: "10.96.0.1", 6: "fd00:96::1"}
POD = {4: "10.0.1.7", 6: "fd00:10::7"}
RANGE = {4: "203.0.113.0/24", 6: "2001:db8:5::/48"}

families = pytest.mark.parametrize("family", [4, 6])


def message(family: int, **fields: Any) -> pb.Service:
    made = pb.Service(
        namespace="default",
        name="web",
        cluster_ips=[CLUSTER_IP[family]],
        ports=[pb.ServicePort(name="http", protocol=pb.PROTOCOL_TCP, port=80, target_port=8080)],
        backends=[
            pb.Backend(ip=POD[family], state=pb.BACKEND_STATE_ACTIVE, node_name="node1", cluster="east")
        ],
    )
    made.MergeFrom(pb.Service(**fields))
    return made


def nothing(key: str) -> None:
    return None


@families
def test_a_service(family: int) -> None:
    found = service(
        message(
            family,
            type=pb.SERVICE_TYPE_LOAD_BALANCER,
            external_ips=[POD[family]],
            load_balancer_ips=[CLUSTER_IP[family]],
            load_balancer_source_ranges=pb.SourceRanges(cidrs=[RANGE[family]]),
            external_traffic_policy=pb.TRAFFIC_POLICY_LOCAL,
            internal_traffic_policy=pb.TRAFFIC_POLICY_CLUSTER,
            session_affinity=pb.SessionAffinity(timeout_seconds=600),
            algorithm=pb.ALGORITHM_MAGLEV,
            maglev_table_size=509,
            forwarding_mode=pb.FORWARDING_MODE_DSR,
        ),
        "east",
    )
    assert found == Service(
        namespace="default",
        name="web",
        ports=(Port(protocol=6, port=80, name="http", target_port=8080),),
        cluster_ips=(address_bytes(CLUSTER_IP[family]),),
        external_ips=(address_bytes(POD[family]),),
        load_balancer_ips=(address_bytes(CLUSTER_IP[family]),),
        source_ranges=(RANGE[family],),
        node_ports=True,
        backends=(Backend(address=address_bytes(POD[family]), node_name="node1"),),
        external_local=True,
        affinity_seconds=600,
        algorithm="maglev",
        maglev_table_size=509,
        forwarding="dsr",
    )
    assert found.key == "service:default/web"


@families
def test_what_is_left_out(family: int) -> None:
    found = service(message(family, headless=True, load_balancer_ips=["192.0.2.9"]), "west")
    assert (found.cluster_ips, found.load_balancer_ips, found.node_ports) == ((), (), False)
    assert found.source_ranges is None
    assert found.backends[0].node_name == ""  # a node of another cluster
    assert (found.affinity_seconds, found.algorithm, found.forwarding) == (0, "", "")


@families
def test_nobody_may_is_not_anybody(family: int) -> None:
    assert service(message(family, load_balancer_source_ranges=pb.SourceRanges())).source_ranges == ()


@pytest.mark.parametrize(
    ("state", "meant"),
    [
        (0, State.ACTIVE),
        (1, State.ACTIVE),
        (2, State.TERMINATING),
        (3, State.MAINTENANCE),
        (77, State.TERMINATING),
    ],
)
@families
def test_states(family: int, state: int, meant: State) -> None:
    backend = pb.Backend(ip=POD[family], ports={"http": 8081})
    backend.state = state  # type: ignore[assignment]  # a value of a later version
    made = message(family)
    del made.backends[:]
    made.backends.append(backend)
    assert service(made).backends == (
        Backend(address=address_bytes(POD[family]), state=meant, ports=(("http", 8081),)),
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"type": 9},
        {"external_traffic_policy": 9},
        {"internal_traffic_policy": 9},
        {"algorithm": 9},
        {"forwarding_mode": 9},
        {"ports": [pb.ServicePort(protocol=33, port=1)]},  # type: ignore[arg-type]
    ],
)
@families
def test_unknown_values_are_refused_loudly(family: int, fields: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        service(message(family, **fields))
    update = ServicesCodec().decode(
        pb.SubscribeServicesResponse(header=HEADER, upserts=[message(family, **fields)]), nothing
    )
    assert update.failures["service:default/web"].code == "UNIMPLEMENTED"
    assert update.changes == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"cluster_ips": ["nowhere"]},
        {"ports": [pb.ServicePort(port=1)]},
        {"ports": [pb.ServicePort(protocol=pb.PROTOCOL_TCP, port=0)]},
        {"ports": [pb.ServicePort(protocol=pb.PROTOCOL_TCP, port=65_536)]},
        {"ports": [pb.ServicePort(protocol=pb.PROTOCOL_TCP, port=1, target_port=65_536)]},
        {"ports": [pb.ServicePort(protocol=pb.PROTOCOL_TCP, port=1, node_port=65_536)]},
        {"ports": [pb.ServicePort(protocol=pb.PROTOCOL_SCTP, port=1, target_port=2)]},
        {"load_balancer_source_ranges": pb.SourceRanges(cidrs=["10.0.0.1/8"])},
        {"session_affinity": pb.SessionAffinity()},
        {"session_affinity": pb.SessionAffinity(timeout_seconds=86_401)},
        {"maglev_table_size": 250},
        {"backends": [pb.Backend(ip="nowhere")]},
        {"backends": [pb.Backend(ip="10.0.0.1", ports={"http": 65_536})]},
    ],
)
@families
def test_a_service_that_is_wrong_fails_alone(family: int, fields: dict[str, Any]) -> None:
    good = message(family)
    good.name = "good"
    update = ServicesCodec().decode(
        pb.SubscribeServicesResponse(
            header=HEADER, upserts=[message(family, **fields), good], removed_services=["default/old"]
        ),
        nothing,
    )
    assert update.failures["service:default/web"].code == "INVALID_ARGUMENT"
    assert [change.key for change in update.changes] == ["service:default/good", "service:default/old"]
    assert update.changes[1].value is None


def test_requests() -> None:
    codec = ServicesCodec()
    assert codec.hello(Hello(node_name="node1")).hello.node_name == "node1"
    assert codec.ack(Ack(nonce=7)).ack.nonce == 7
    assert codec.resync(Resync(reason="REVISION_GAP")).resync.reason == "REVISION_GAP"
    with pytest.raises(TypeError):
        codec.interest(Interest())
