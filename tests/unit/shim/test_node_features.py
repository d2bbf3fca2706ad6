"""A whole node on a kernel that lacks what its options ask for: it says so, and the rest works."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lib.channel import ServiceChannel
from axoneme.lib.tls import TlsFiles
from shim.config import ShimConfig
from shim.lb.wire import service
from shim.memorydatapath import MemoryDatapath
from shim.network import NetworkFacts, NetworkSettings
from shim.node import Node
from shim.nodestreams import Channels

LACKING = {
    "vxlan": ("routing_mode tunnel", "CONFIG_VXLAN"),
    "cgroup_sendmsg6": ("socket_lb", "Linux 4.18"),
    "sockmap": ("sockmap", "CONFIG_NET_SOCK_MSG"),
    "xdp_native": ("xdp native", "driver foo"),
    "redirect_peer": ("host_routing", "Linux 5.10"),
    "bpf_loop": ("masquerade", "Linux 5.17"),
}
CLUSTER_IPS = {4: "10.96.0.1", 6: "fd00:96::1"}
BACKENDS = {4: "10.1.0.7", 6: "fd00:10:1::7"}


class OldKernel(MemoryDatapath):
    """Says what it lacks."""

    def __init__(self, lacking: dict[str, str]) -> None:
        super().__init__()
        self._lacking = lacking

    async def features(self) -> dict[str, str]:
        return {"kernel": "4.4", "map_of_maps": "yes", "inner_array_sizes": "yes", **self._lacking}

    async def set_up_network(self, settings: NetworkSettings) -> NetworkFacts:
        missing = {"overlay": "Operation not supported"} if "vxlan" in self._lacking else {}
        return replace(await super().set_up_network(settings), missing=missing)


async def started(
    stack: AsyncExitStack, tmp_path: Path, tls: TlsFiles, lacking: dict[str, str], **options: object
) -> Node:
    """A node that took over nothing; its services are away."""
    cfg = ShimConfig(
        node_name="n1",
        internal_ips=("192.0.2.1", "2001:db8::1"),
        state_directory=tmp_path,
        **options,  # type: ignore[arg-type]
    )
    names = ("identity", "policy", "clustermesh")
    made = [
        await stack.enter_async_context(
            ServiceChannel(("127.0.0.1:1",), tls, f"{name}.default.mesh", rng=random.Random(1))
        )
        for name in names
    ]
    node = Node(
        cfg,
        datapath=OldKernel(lacking),
        channels=Channels(**dict(zip(names, made, strict=True))),
        rng=random.Random(1),
        registry=CollectorRegistry(),
        version="1",
    )
    await node.restore()
    return node


def told(node: Node) -> list[str]:
    return [text for text in node.apis.status.message().problems if "which this node lacks" in text]


async def test_each_option_that_cannot_be_had_is_a_problem(
    tmp_path: Path, tls_files: Callable[[str], TlsFiles]
) -> None:
    async with AsyncExitStack() as stack:
        lacking = {name: why for name, (_, why) in LACKING.items()}
        options = {"routing_mode": "tunnel", "sockmap": True, "xdp": "native", "lb_forwarding": "dsr"}
        node = await started(stack, tmp_path, tls_files("node/n1"), lacking, **options)
        found = told(node)
        for name, (option, why) in LACKING.items():
            text = f"{option} needs {name}, which this node lacks ({why}); the node works without"
            assert found.count(text) == 1, text
        assert len(found) == len(LACKING) + 1
        assert any(text.startswith("lb_forwarding dsr needs bpf_loop") for text in found)


async def test_nothing_is_told_where_nothing_is_asked(
    tmp_path: Path, tls_files: Callable[[str], TlsFiles]
) -> None:
    async with AsyncExitStack() as stack:
        lacking = {name: why for name, (_, why) in LACKING.items() if name != "bpf_loop"}
        off = {"socket_lb": False, "host_routing": False}
        node = await started(stack, tmp_path, tls_files("node/n1"), lacking, **off)
        assert told(node) == []


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("feature", "fields"),
    [
        ("inner_array_sizes", {"algorithm": pb.ALGORITHM_MAGLEV}),
        ("bpf_loop", {"forwarding_mode": pb.FORWARDING_MODE_DSR}),
    ],
)
async def test_a_service_that_cannot_be_had_is_refused_and_others_work(
    tmp_path: Path, tls_files: Callable[[str], TlsFiles], family: int, feature: str, fields: dict[str, int]
) -> None:
    def one(name: str, ip: str, **more: int) -> pb.Service:
        made = pb.Service(namespace="default", name=name, cluster_ips=[ip], **more)  # type: ignore[arg-type]
        made.ports.add(protocol=6, port=80, target_port=8080)
        made.backends.add(ip=BACKENDS[family])
        return made

    async with AsyncExitStack() as stack:
        node = await started(stack, tmp_path, tls_files("node/n1"), {feature: "too old"})
        ip = CLUSTER_IPS[family]
        made = [service(one("asks", ip, **fields)), service(one("plain", f"{ip}1"))]
        failures = await node.parts.balancer.apply({one.key: one for one in made}, (), complete=True)
        assert set(failures) == {"service:default/asks"}
        failure = failures["service:default/asks"]
        assert failure.reason == "FEATURE_MISSING"
        assert f"{feature}, which this node lacks (too old)" in failure.message
        assert len(node.parts.datapath.maps["axoneme_lb"].items()) == 1
