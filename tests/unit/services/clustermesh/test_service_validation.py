"""What a service has to be: each rule with the field that it names, and the normal form."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.lib.errors import InvalidArgument
from services.clustermesh.addressrules import MAX_BACKENDS
from services.clustermesh.model import (
    Algorithm,
    Backend,
    Port,
    Protocol,
    ServiceType,
    TrafficPolicy,
)
from services.clustermesh.validation import checked
from tests.unit.services.clustermesh.making import POOLS, backends, made

NODE_PORT, BALANCER = ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER
SCTP = Protocol.SCTP
BACKENDS = "service.source.addresses.backends"
CIDRS = "service.load_balancer_source_ranges.cidrs"
MANY = tuple(Port(name=f"p{number}", port=number) for number in range(1, 102))


def faults_of(**fields: Any) -> dict[str, str]:
    """The faults of a service, field → description."""
    with pytest.raises(InvalidArgument) as caught:
        checked(made(fields.pop("name", "shop/web"), **fields), POOLS)
    return dict(caught.value.violations)


def ports(*wanted: Port) -> dict[str, Any]:
    return {"ports": wanted}


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"name": "shop/Web"}, "service.name", "no DNS label"),
    ({"name": f"{'x' * 64}/web"}, "service.namespace", "no DNS label"),
    ({"labels": (("a b", "c"),)}, "service.labels['a b']", "no label key"),
    ({"labels": (("a", "-"),)}, "service.labels['a']", "no label value"),
    ({"labels": tuple((f"k{n}", "") for n in range(65))}, "service.labels", "at most 64"),
    ({"ports": ()}, "service.ports", "is empty"),
    (ports(*MANY), "service.ports", "at most 100"),
    (ports(Port(port=0)), "service.ports[0].port", "outside 1-65535"),
    (ports(Port(port=65_536)), "service.ports[0].port", "outside 1-65535"),
    (ports(Port(port=80, target_port=65_536)), "service.ports[0].target_port", "outside"),
    (ports(Port(port=80), Port(name="b", port=81)), "service.ports[0].name", "no DNS label"),
    (ports(Port(name="a", port=80), Port(name="b", port=80)), "service.ports[1].port", "at 0 too"),
    (ports(Port(name="a", port=80), Port(name="a", port=81)), "service.ports[1].name", "at 0 too"),
    (
        ports(Port(port=80, target_port=1, target_port_name="http")),
        "service.ports[0].target_port_name",
        "keep one",
    ),
    (ports(Port(port=80, target_port_name="HTTP")), "service.ports[0].target_port_name", "no port name"),
    (ports(Port(port=80, target_port_name="80")), "service.ports[0].target_port_name", "no port name"),
    (ports(Port(port=80, protocol=SCTP, target_port=81)), "service.ports[0].target_port", "never translated"),
    (
        ports(Port(port=80, protocol=SCTP, target_port_name="a")),
        "service.ports[0].target_port_name",
        "never translated",
    ),
    (ports(Port(port=80, node_port=30_000)), "service.ports[0].node_port", "type ClusterIP has no node"),
    (
        {**ports(Port(port=80, node_port=29_999)), "type": NODE_PORT},
        "service.ports[0].node_port",
        "outside node_port_range 30000-32767",
    ),
    (
        {
            **ports(Port(name="a", port=80, node_port=30_000), Port(name="b", port=81, node_port=30_000)),
            "type": NODE_PORT,
        },
        "service.ports[1].node_port",
        "ports[0] too",
    ),
    (
        {"headless": True, "ports": (Port(port=80, node_port=30_000),)},
        "service.ports[0].node_port",
        "headless",
    ),
    ({"headless": True, "type": NODE_PORT}, "service.headless", "does not go with type NodePort"),
    ({"headless": True, "cluster_ips": ("10.96.0.1",)}, "service.cluster_ips", "no addresses"),
    ({"headless": True, "external_ips": ("2001:db8::7",)}, "service.external_ips", "no addresses"),
    ({"cluster_ips": ("10.97.0.1",)}, "service.cluster_ips[0]", "not in service_cidrs"),
    ({"cluster_ips": ("fd00:97::1",)}, "service.cluster_ips[0]", "not in service_cidrs"),
    ({"cluster_ips": ("10.96.0.0",)}, "service.cluster_ips[0]", "not in service_cidrs"),
    ({"cluster_ips": ("10.96.255.255",)}, "service.cluster_ips[0]", "not in service_cidrs"),
    ({"cluster_ips": ("10.96.0.1", "10.96.0.2")}, "service.cluster_ips", "two addresses of one family"),
    ({"cluster_ips": ("fd00:96::1", "fd00:96::2")}, "service.cluster_ips", "two addresses of one family"),
    ({"external_ips": ("10.96.0.1",)}, "service.external_ips[0]", "cluster IPs"),
    ({"external_ips": ("fd00:96::1",)}, "service.external_ips[0]", "cluster IPs"),
    *(
        ({"external_ips": (ip,)}, "service.external_ips[0]", kind)
        for ip, kind in (
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("0.0.0.0", "unspecified"),
            ("::", "unspecified"),
            ("169.254.0.1", "link-local"),
            ("fe80::1", "link-local"),
            ("255.255.255.255", "broadcast"),
            ("::ffff:192.0.2.1", "IPv6 form"),
            ("2001:db8::1%eth0", "zone"),
            ("nowhere", "no IPv4 or IPv6 address"),
        )
    ),
    ({"external_ips": ("198.51.100.7", "198.51.100.7")}, "service.external_ips[1]", "at 0 too"),
    ({"external_ips": tuple(f"198.51.100.{n}" for n in range(1, 35))}, "service.external_ips", "at most 32"),
    ({"load_balancer_ips": ("198.51.100.7",)}, "service.load_balancer_ips", "type ClusterIP has none"),
    ({"source_ranges": ("192.0.2.0/24",)}, CIDRS, "type ClusterIP has none"),
    ({"type": BALANCER, "source_ranges": ("192.0.2.1/24",)}, f"{CIDRS}[0]", "host bits"),
    ({"type": BALANCER, "source_ranges": ("2001:db8::1/64",)}, f"{CIDRS}[0]", "host bits"),
    ({"external_traffic_policy": TrafficPolicy.LOCAL}, "service.external_traffic_policy", "nobody outside"),
    ({"affinity_seconds": 86_401}, "service.session_affinity.timeout_seconds", "outside 1-86400"),
    ({"maglev_table_size": 1_000}, "service.maglev_table_size", "use one of 251"),
    ({"maglev_table_size": 251, "algorithm": Algorithm.RANDOM}, "service.maglev_table_size", "MAGLEV"),
    ({"selector": ()}, "service.source.selector.match_labels", "every workload"),
    ({"addresses": backends("127.0.0.1")}, f"{BACKENDS}[0].ip", "loopback"),
    ({"addresses": backends("fd00::1", "fd00:0::1")}, f"{BACKENDS}[1].ip", "given twice"),
    ({"addresses": backends("10.0.0.1", "10.0.0.1")}, f"{BACKENDS}[1].ip", "given twice"),
    ({"addresses": backends(*["10.0.0.1"] * (MAX_BACKENDS + 1))}, BACKENDS, "at most 5000"),
    (
        {"addresses": (Backend(ip="10.0.0.1", ports=(("x", 1),)),)},
        f"{BACKENDS}[0].ports['x']",
        "no port of this name",
    ),
    ({"addresses": (Backend(ip="fd00::1", ports=(("", 0),)),)}, f"{BACKENDS}[0].ports['']", "outside"),
    (
        {**ports(Port(port=80, target_port_name="http")), "addresses": backends("fd00::1")},
        f"{BACKENDS}[0].ports",
        "no number for port",
    ),
    (
        {"addresses": (Backend(ip="10.0.0.1", node_name="\n"),)},
        f"{BACKENDS}[0].node_name",
        "no name of a node",
    ),
]


@pytest.mark.parametrize(
    ("fields", "field", "text"), FAULTS, ids=[f"{f[1]}-{n}" for n, f in enumerate(FAULTS)]
)
def test_each_fault_names_its_field(fields: dict[str, Any], field: str, text: str) -> None:
    found = faults_of(**fields)
    assert field in found
    assert text in found[field]


def test_too_many_frontends_for_one_transaction() -> None:
    wide = tuple(Port(name=f"p{number}", port=number) for number in range(1, 61))
    found = faults_of(ports=wide, type=NODE_PORT, external_ips=("198.51.100.7",))
    assert "split it" in found["service.ports"]
    assert checked(made(ports=MANY[:100], type=NODE_PORT), POOLS)


def test_normal_form() -> None:
    wanted = made(
        "shop/web",
        Port(name="a", port=80),
        Port(name="b", port=81, target_port_name="http"),
        labels=(("z", "1"), ("a", "2")),
        type=BALANCER,
        cluster_ips=("FD00:96:0::1", "10.96.0.1"),
        external_ips=("2001:DB8::7",),
        source_ranges=("2001:db8::/64", "192.0.2.0/24", "192.0.2.0/24"),
        addresses=(
            Backend(ip="FD00::2", ports=(("b", 1),)),
            Backend(ip="10.0.0.10", ports=(("b", 1),)),
            Backend(ip="10.0.0.9", ports=(("b", 1),)),
        ),
    )
    found = checked(wanted, POOLS)
    assert [port.target_port for port in found.ports] == [80, 0]
    assert found.labels == (("a", "2"), ("z", "1"))
    assert found.cluster_ips == ("fd00:96::1", "10.96.0.1")
    assert found.external_ips == ("2001:db8::7",)
    assert found.source_ranges == ("192.0.2.0/24", "2001:db8::/64")
    assert [one.ip for one in found.addresses or ()] == ["10.0.0.9", "10.0.0.10", "fd00::2"]
    assert checked(found, POOLS) == found


@pytest.mark.parametrize(
    "fields",
    [
        {"headless": True},
        {"headless": True, "ports": (Port(port=80),), "selector": (("app", "web"),)},
        {"ports": (Port(name="a", port=80), Port(name="b", port=80, protocol=Protocol.UDP))},
        {"external_ips": ("198.51.100.7", "2001:db8::7"), "external_traffic_policy": TrafficPolicy.LOCAL},
        {"type": BALANCER, "source_ranges": ()},
        {"ports": (Port(port=80, protocol=SCTP, target_port=80),)},
        {"maglev_table_size": 131_071},
        {"addresses": ()},
    ],
)
def test_what_is_allowed(fields: dict[str, Any]) -> None:
    assert checked(made(**fields), POOLS)


def test_all_faults_come_at_once_and_are_bounded() -> None:
    with pytest.raises(InvalidArgument) as caught:
        checked(made("A/B", addresses=backends(*["x"] * 500)), POOLS)
    assert len(caught.value.violations) == 100
    assert "(and 99 more faults)" in caught.value.message
