"""Services, addresses and nodes as they lie in etcd, and what is done with values that nobody can read."""

from __future__ import annotations

import json

import pytest

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Row
from axoneme.lib.labels import InvalidLabels
from services.clustermesh.claims import claims_of, describe, owner_of, owner_value
from services.clustermesh.expiry import Expiry
from services.clustermesh.model import (
    Algorithm,
    Backend,
    BackendState,
    ForwardingMode,
    Port,
    Protocol,
    ServiceKey,
    ServiceType,
    TrafficPolicy,
)
from services.clustermesh.records import (
    MalformedRecordError,
    decode_service,
    encode_service,
    service_key,
    store_key,
)
from services.clustermesh.validation import checked
from services.clustermesh.workloads import (
    decode_identity,
    decode_node,
    decode_workload,
    identity_of,
    node_name,
)
from tests.unit.services.clustermesh.making import POOLS, backends, made

KEY = ServiceKey("shop", "web")


def row(key: str, value: object) -> Row:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Row(key, raw, 1)


def test_a_service_comes_back_as_it_was() -> None:
    service = checked(
        made(
            "shop/web",
            Port(name="a", port=80, target_port_name="http", node_port=30_000),
            Port(name="b", port=80, protocol=Protocol.UDP),
            labels=(("a", "b"),),
            type=ServiceType.LOAD_BALANCER,
            cluster_ips=("10.96.0.1", "fd00:96::1"),
            external_ips=("198.51.100.7",),
            load_balancer_ips=("2001:db8::7",),
            source_ranges=(),
            addresses=(
                Backend(ip="10.0.0.1", state=BackendState.MAINTENANCE, node_name="n", ports=(("a", 1),)),
                Backend(ip="fd00::1", ports=(("a", 2), ("b", 3))),
            ),
            external_traffic_policy=TrafficPolicy.LOCAL,
            internal_traffic_policy=TrafficPolicy.LOCAL,
            affinity_seconds=1,
            algorithm=Algorithm.MAGLEV,
            maglev_table_size=251,
            forwarding_mode=ForwardingMode.DSR,
        ),
        POOLS,
    )
    assert decode_service(KEY, encode_service(service)) == service
    chosen = made(selector=(("app", "web"),), ports=(Port(port=80, target_port=80),))
    assert decode_service(KEY, encode_service(chosen)) == chosen


def test_strangers_records_are_headless() -> None:
    found = decode_service(KEY, b'{"labels": null, "selector": {}, "backends": ["fd00:0::1", "10.0.0.1"]}')
    assert found.headless
    assert found.addresses == backends("10.0.0.1", "fd00::1")
    assert decode_service(KEY, b'{"selector": {"a": "b"}, "backends": []}').addresses is None
    assert decode_service(KEY, b"{}").addresses == ()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"backends": ["x"]}',
        b'{"labels": {"a": 1}}',
        b'{"spec": {"type": "Other"}}',
        b'{"spec": null}',
        b'{"spec": {"ports": [{"port": 0, "target_port": 1}]}}',
        b'{"spec": {"ports": [{"port": 1}]}}',
        b'{"spec": {"ports": [{"port": 1, "protocol": 4, "target_port": 1}]}}',
        b'{"spec": {"ports": [{"port": 1, "target_port": 65536}]}}',
        b'{"spec": {"cluster_ips": ["10.1"]}}',
        b'{"spec": {"external_ips": ["FD00::1"]}}',
        b'{"spec": {"source_ranges": ["10.0.0.1/8"]}}',
        b'{"spec": {"addresses": [{"ip": "x"}]}}',
    ],
)
def test_broken_records_are_named(value: bytes) -> None:
    with pytest.raises(MalformedRecordError):
        decode_service(KEY, value)


def test_unknown_fields_are_another_versions() -> None:
    assert decode_service(
        KEY, b'{"new": 1, "spec": {"newer": {}, "ports": [{"port": 1, "target_port": 1, "x": 2}]}}'
    )


@pytest.mark.parametrize(
    "key",
    ["other", layout.SERVICES, f"{layout.SERVICES}a", f"{layout.SERVICES}a/b/c", f"{layout.SERVICES}A/b"],
)
def test_keys_of_another_shape(key: str) -> None:
    assert service_key(key) is None
    assert service_key(store_key(KEY)) == KEY


def test_claims_name_what_a_service_occupies() -> None:
    service = made(
        "shop/web",
        Port(name="a", port=80, node_port=30_000),
        Port(name="b", port=53, protocol=Protocol.UDP),
        cluster_ips=("10.96.0.1", "fd00:96::1"),
        external_ips=("2001:db8::7",),
    )
    assert {claim.removeprefix("axoneme/state/") for claim in claims_of(service)} == {
        "clusterips/v1/10.96.0.1",
        "clusterips/v1/fd00:96::1",
        "frontends/v1/2001:db8::7/tcp/80",
        "frontends/v1/2001:db8::7/udp/53",
        "frontends/v1/node/tcp/30000",
    }
    assert sorted(map(describe, claims_of(service))) == [
        "2001:db8::7 port 53/UDP",
        "2001:db8::7 port 80/TCP",
        "cluster IP 10.96.0.1",
        "cluster IP fd00:96::1",
        "node port 30000/TCP",
    ]
    assert owner_of(owner_value(KEY)) == KEY
    assert [owner_of(value) for value in (b"", b"a", b"/b", b"a/", b"a/b/c", b"\xff")] == [None] * 6


@pytest.mark.parametrize(("ip", "host"), [("10.0.0.1", "198.18.1.101"), ("fd00::1", "2001:db8::1")])
def test_addresses_are_read(ip: str, host: str) -> None:
    ports = [
        {"Name": "http", "Port": 80, "Protocol": "tcp"},
        {"Name": "dns", "Port": 53, "Protocol": "UDP"},
        {"Name": "two", "Port": 1},
        {"Name": "two", "Port": 2},
        {"Name": "x", "Port": 1, "Protocol": "ICMP"},
        {"Name": "", "Port": 1},
        {"Name": "big", "Port": 65_536},
    ]
    found = decode_workload(
        row(layout.ip_key(ip), {"IP": ip, "HostIP": host, "ID": 300, "NamedPorts": ports})
    )
    assert found is not None
    assert (found.ip, found.identity, found.host_ip) == (ip, 300, host)
    assert found.number_of(Protocol.TCP, "http") == 80
    assert found.number_of(Protocol.UDP, "http") is None
    assert found.number_of(Protocol.UDP, "dns") == 53
    assert found.number_of(Protocol.TCP, "two") is None
    assert found.number_of(Protocol.TCP, "big") is None


def test_prefixes_are_no_workloads() -> None:
    for key in ("10.0.0.0/24", "fd00::/64", "010.0.0.1", "FD00::1", "x"):
        assert decode_workload(row(layout.IPS + key, {})) is None


@pytest.mark.parametrize(
    "value",
    [
        b"x",
        {},
        {"IP": "10.0.0.2", "ID": 300},
        {"IP": "10.0.0.1"},
        {"IP": "10.0.0.1", "ID": 1 << 32},
        {"IP": "10.0.0.1", "ID": 1, "HostIP": "x"},
    ],
)
def test_broken_addresses_are_named(value: object) -> None:
    with pytest.raises(MalformedRecordError):
        decode_workload(row(layout.ip_key("10.0.0.1"), value))


def test_identities_and_nodes_are_read() -> None:
    value = b"k8s:app=web;reserved:host;any:x=y;k8s:io.kubernetes.pod.namespace=shop;"
    assert decode_identity(row(layout.master_key(300), value)) == {
        "app": "web",
        "io.kubernetes.pod.namespace": "shop",
    }
    with pytest.raises(InvalidLabels):
        decode_identity(row(layout.master_key(300), b"k8s:app=web"))
    assert identity_of(layout.master_key(300)) == 300
    assert identity_of(f"{layout.MASTERS}{'9' * 30}") is None
    assert identity_of(f"{layout.MASTERS}x") is None
    assert node_name(layout.node_key("east", "n1"), "east") == "n1"
    assert node_name(layout.node_key("west", "n1"), "east") is None
    addresses = [{"IP": "198.18.1.1"}, {"IP": "FD00::1"}, {"IP": "x"}]
    record = {"Name": "n1", "IPAddresses": addresses, "AxonemeFeatures": {"dsr": "no"}}
    found = decode_node(row(layout.node_key("east", "n1"), record))
    assert found.addresses == {"198.18.1.1", "fd00::1"}
    assert found.features == {"dsr": "no"}
    with pytest.raises(MalformedRecordError):
        decode_node(row(layout.node_key("east", "n1"), b"x"))


@pytest.mark.parametrize("ip", ["10.0.0.1", "fd00::1"])
def test_expiry_waits_for_the_node(ip: str) -> None:
    expiry = Expiry()
    expiry.put_record("n1", b'{"leases": [7], "declared": true}')
    expiry.put(ip, 7)
    assert expiry.hold(ip)
    assert expiry.held == 1
    expiry.put(ip, 7)
    assert not expiry.held
    assert expiry.hold(ip)
    assert expiry.put_record("n1", b'{"leases": [8]}') == []
    assert expiry.put_record("n1", b'{"leases": [8], "declared": true}') == [ip]
    expiry.forget(ip)
    expiry.put(ip, 9)
    assert not expiry.hold(ip), "a stranger's lease"
    expiry.put(ip, 8)
    assert expiry.hold(ip)
    assert expiry.remove_record("n1") == [ip]
    assert expiry.given_up("n1")
    with pytest.raises(ValueError):
        expiry.put_record("n1", b"x")
