"""A small node for tests of the flow path: two pods, a world address, two policies, records about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import numpy as np

from axoneme.api.hubble.flow import flow_pb2
from shim.flows import record
from shim.flows.context import Address, PolicyOrigin, WorkloadInfo, mapped
from shim.flows.decode import FlowDecoder
from shim.flows.feed import FlowFeed
from shim.flows.record import Records, make_record
from shim.flows.store import FlowStore

BOOT_OFFSET_NS = 1_772_359_200_000_000_000  # 2026-03-01T10:00:00Z


def labels(app: str, namespace: str) -> tuple[str, ...]:
    return (
        f"k8s:app={app}",
        "k8s:io.cilium.k8s.policy.cluster=east",
        f"k8s:io.kubernetes.pod.namespace={namespace}",
    )


WEB = WorkloadInfo(
    namespace="shop", pod_name="web-1", endpoint_id=401, identity=20101, cluster_name="east",
    workloads=(("Deployment", "web"),), addresses=(ip_address("10.1.0.11"), ip_address("fd00:10:1::11")),
)  # fmt: skip
API = WorkloadInfo(namespace="shop", pod_name="api-1", identity=20102, cluster_name="east")
LABELS = {20101: labels("web", "shop"), 20102: labels("api", "shop"), 9: ("reserved:world-ipv4",)}
NAMED = mapped(ip_address("192.0.2.7").packed)
ALLOW = PolicyOrigin(name="allow-web", namespace="shop", kind="CiliumNetworkPolicy", revision=3)
LOCKDOWN = PolicyOrigin(name="lockdown", namespace="shop", kind="CiliumNetworkPolicy")


@dataclass
class Scene:
    """A FlowContext of dictionaries."""

    node_name: str = "node1"
    cluster_name: str = "east"
    endpoints: dict[int, WorkloadInfo] = field(default_factory=lambda: {401: WEB})
    addresses: dict[Any, WorkloadInfo] = field(
        default_factory=lambda: {
            ip_address("10.1.0.11"): WEB,
            ip_address("10.1.1.12"): API,
            ip_address("fd00:10:1:1::12"): API,
        }
    )

    revision: int = 0

    def endpoint(self, endpoint_id: int, time_ns: int | None) -> WorkloadInfo | None:
        return self.endpoints.get(endpoint_id)

    def workload_at(self, address: Address, time_ns: int | None) -> WorkloadInfo | None:
        return self.addresses.get(address)

    def identity_labels(self, identity: int, time_ns: int | None) -> tuple[str, ...]:
        return LABELS.get(identity, ())

    def known_addresses(self) -> dict[bytes, bool]:
        local = {address for info in self.endpoints.values() for address in info.addresses}
        return {mapped(address.packed): address in local for address in (*self.addresses, *local)}

    def change_times(
        self, identity: int, address: Address | None, endpoint_id: int, after_ns: int
    ) -> list[int]:
        return []

    @property
    def names_revision(self) -> int:
        return 0

    def named_addresses(self) -> tuple[bytes, ...]:
        return (NAMED,)

    def has_names(self, endpoint_id: int, address: bytes) -> bool:
        return address == NAMED

    def names(self, endpoint_id: int, address: Address, time_ns: int | None) -> tuple[str, ...]:
        return ("api.example.com",) if str(address) == "192.0.2.7" else ()

    def name_times(self, endpoint_id: int, address: Address, after_ns: int) -> list[int]:
        return []

    def origins(self, cookie: int) -> tuple[PolicyOrigin, ...]:
        return (ALLOW,) if cookie == 7 else ()

    def default_deny_origins(
        self, endpoint_id: int, direction: int, generation: int, time_ns: int
    ) -> tuple[PolicyOrigin, ...]:
        return (LOCKDOWN,) if (endpoint_id, direction) == (401, record.INGRESS) else ()

    def interface_name(self, ifindex: int, time_ns: int | None) -> str:
        return "axo401" if ifindex == 5 else ""


def event(**values: Any) -> Records:
    """A forwarded SYN from web to api as seen by web's egress program, unless told otherwise."""
    values = {
        "time_ns": 2_000_000, "source_identity": 20101, "destination_identity": 20102,
        "source_ip": "10.1.0.11",
        "destination_ip": "10.1.1.12", "source_port": 41000, "destination_port": 8080, "protocol": 6,
        "tcp_flags": 2, "event_type": record.TRACE, "sub_type": record.TO_STACK, "endpoint_id": 401,
        "direction": record.EGRESS, "flags": record.FLAG_REPLY_KNOWN, "verdict": flow_pb2.FORWARDED,
        "ifindex": 5,
        "source_mac": b"\x02\0\0\0\0\x01", "destination_mac": b"\x02\0\0\0\0\x02",
    } | values  # fmt: skip
    for name in ("source_ip", "destination_ip"):
        values[name] = mapped(ip_address(values[name]).packed)
    return make_record(**values)


def events(*records: Records) -> Records:
    return np.concatenate(records)


class Clock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now_ns = 10_000_000_000

    def __call__(self) -> int:
        return self.now_ns


def make_feed(capacity: int = 1024) -> tuple[FlowFeed, FlowDecoder, Clock]:
    clock = Clock()
    decoder = FlowDecoder(Scene(), boot_offset_ns=lambda: BOOT_OFFSET_NS, uuid_salt=0x1234_5678_9ABC_DEF0)
    return FlowFeed(FlowStore(capacity), boot_clock_ns=clock), decoder, clock
