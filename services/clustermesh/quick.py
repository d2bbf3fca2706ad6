"""A service out of flags: `--port 80:8080/tcp --backend 10.0.0.1 --selector app=web --type NodePort`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb

TYPES: Final = ("ClusterIP", "NodePort", "LoadBalancer")
_PORT: Final = re.compile(
    r"(?:(?P<name>[a-z][-a-z0-9]*)=)?(?P<port>\d{1,5})(?::(?P<target>[-a-z0-9]+))?(?::(?P<node>\d{1,5}))?"
    r"(?:/(?P<protocol>tcp|udp|sctp))?",
    re.IGNORECASE,
)


_SEVERAL: Final[Mapping[str, Any]] = {"multiple": True}
_OPTIONS: Final = (
    click.option(
        "--port",
        "ports",
        **_SEVERAL,
        metavar="PORT",
        help="[NAME=]PORT[:TARGET[:NODEPORT]][/tcp|udp|sctp]; may be repeated.",
    ),
    click.option(
        "--backend",
        "backends",
        **_SEVERAL,
        metavar="IP[=STATE]",
        help="An address; STATE is active, terminating or maintenance.",
    ),
    click.option(
        "--selector",
        default="",
        metavar="KEY=VALUE,…",
        help="Labels of the workloads behind the service.",
    ),
    click.option(
        "--type",
        "kind",
        type=click.Choice(TYPES),
        default=TYPES[0],
        show_default=True,
        help="Where the service can be reached.",
    ),
    click.option("--cluster-ip", "cluster_ips", **_SEVERAL, metavar="IP", help="Instead of a free one."),
    click.option(
        "--external-ip",
        "external_ips",
        **_SEVERAL,
        metavar="IP",
        help="An address that somebody routes to the nodes.",
    ),
    click.option(
        "--load-balancer-ip",
        "load_balancer_ips",
        **_SEVERAL,
        metavar="IP",
        help="An address of a load balancer.",
    ),
    click.option(
        "--source-range",
        "source_ranges",
        **_SEVERAL,
        metavar="CIDR",
        help="Who may use load balancer addresses.",
    ),
    click.option("--headless", is_flag=True, help="No cluster IP."),
    click.option(
        "--affinity-seconds",
        type=click.IntRange(1, 86_400),
        default=None,
        help="Keep a client on one backend.",
    ),
    click.option(
        "--external-local", is_flag=True, help="Clients from outside get backends of their node only."
    ),
    click.option("--internal-local", is_flag=True, help="Clients inside get backends of their node only."),
    click.option(
        "--algorithm",
        type=click.Choice(("random", "maglev")),
        default=None,
        help="Instead of the node's default.",
    ),
    click.option(
        "--forwarding-mode",
        type=click.Choice(("snat", "dsr")),
        default=None,
        help="Instead of the node's default.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the flags of `axoneme service apply` say."""

    name: str
    namespace: str
    kind: str = "ClusterIP"
    ports: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    selector: str = ""
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    headless: bool = False
    affinity_seconds: int = 0
    external_local: bool = False
    internal_local: bool = False
    algorithm: str = ""
    forwarding_mode: str = ""


def service_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that make a service without a file."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def service_of_flags(flags: Flags) -> pb.Service:
    """The service of flags. Raises click.UsageError."""
    from axoneme.api.clustermesh.v1 import clustermesh_pb2

    made = clustermesh_pb2.Service(
        namespace=flags.namespace,
        name=flags.name,
        type=clustermesh_pb2.ServiceType.ValueType(TYPES.index(flags.kind) + 1),
        headless=flags.headless,
        cluster_ips=flags.cluster_ips,
        external_ips=flags.external_ips,
        load_balancer_ips=flags.load_balancer_ips,
        ports=_ports(flags.ports),
        maglev_table_size=0,
    )
    _set_source(made, flags)
    if flags.source_ranges:
        made.load_balancer_source_ranges.cidrs.extend(flags.source_ranges)
    if flags.affinity_seconds:
        made.session_affinity.timeout_seconds = flags.affinity_seconds
    local = clustermesh_pb2.TRAFFIC_POLICY_LOCAL
    made.external_traffic_policy = local if flags.external_local else clustermesh_pb2.TRAFFIC_POLICY_CLUSTER
    made.internal_traffic_policy = local if flags.internal_local else clustermesh_pb2.TRAFFIC_POLICY_CLUSTER
    if flags.algorithm:
        made.algorithm = clustermesh_pb2.Algorithm.Value(f"ALGORITHM_{flags.algorithm.upper()}")
    if flags.forwarding_mode:
        mode = f"FORWARDING_MODE_{flags.forwarding_mode.upper()}"
        made.forwarding_mode = clustermesh_pb2.ForwardingMode.Value(mode)
    return made


def _set_source(made: pb.Service, flags: Flags) -> None:
    if flags.selector and flags.backends:
        raise click.UsageError("--selector and --backend exclude each other; keep one of them")
    if flags.selector:
        made.source.selector.match_labels.update(_labels(flags.selector))
    elif flags.backends:
        made.source.addresses.SetInParent()
        for text in flags.backends:
            ip, _, state = text.partition("=")
            backend = made.source.addresses.backends.add(ip=ip)
            if state:
                backend.state = _state(state)


def _state(text: str) -> pb.BackendState.ValueType:
    from axoneme.api.clustermesh.v1 import clustermesh_pb2

    names = {"active", "terminating", "maintenance"}
    if text not in names:
        raise click.UsageError(f"{text!r} is no state of a backend; use one of {', '.join(sorted(names))}")
    return clustermesh_pb2.BackendState.Value(f"BACKEND_STATE_{text.upper()}")


def _labels(text: str) -> dict[str, str]:
    found = {}
    for one in text.split(","):
        key, equals, value = one.strip().partition("=")
        if not equals or not key:
            raise click.UsageError(f"{one!r} is no label; write KEY=VALUE, several with commas")
        found[key] = value
    return found


def _ports(texts: Iterable[str]) -> list[pb.ServicePort]:
    from axoneme.api.clustermesh.v1 import clustermesh_pb2

    made = []
    texts = list(texts)
    for text in texts:
        found = _PORT.fullmatch(text)
        if found is None:
            raise click.UsageError(
                f"{text!r} is no port; write [NAME=]PORT[:TARGET[:NODEPORT]][/tcp|udp|sctp]"
            )
        protocol = (found["protocol"] or "tcp").upper()
        target = found["target"] or ""
        number, named = (int(target), "") if target.isdecimal() else (0, target)
        # Several ports need names; the number and the protocol tell them apart without asking for more.
        default = f"{protocol.lower()}-{found['port']}" if len(texts) > 1 else ""
        port = clustermesh_pb2.ServicePort(
            name=found["name"] or default,
            protocol=clustermesh_pb2.Protocol.Value(f"PROTOCOL_{protocol}"),
            port=int(found["port"]),
            target_port=number,
            target_port_name=named,
            node_port=int(found["node"] or 0),
        )
        made.append(port)
    return made
