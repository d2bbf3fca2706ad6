"""Network namespaces, links, addresses and routes of a laboratory.

    host ── axolab0 169.254.77.1/30 ── host0 ┐
                                             │  axolab-fabric: one bridge per cluster, routes between them
    axolab-internet eth0 ─────────────── veth┤  198.18.254.0/24, fd00:198:18:fe::/64, and the sites behind
    axolab-<cluster>-control eth0 .10 ── veth┤  198.18.<i>.1 and fd00:198:18:<i>::1 on bridge cl<i>
    axolab-<cluster>-<node>  eth0 .100+n ─ veth┘

Everything is named axolab…, so `remove` finds all of it without any record, also what a crash left behind.
Pod namespaces come empty apart from loopback: their interface is the shim's work. Only this module runs `ip`;
it knows nothing of processes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from axoneme.lab import internet
from axoneme.lab.errors import LabError
from axoneme.lab.topology import FABRIC, PREFIX, Cluster, Topology

NETNS_DIRECTORY = Path("/run/netns")
HOST_LINK = f"{PREFIX}0"
HOST_ADDRESS, FABRIC_ADDRESS = "169.254.77.1", "169.254.77.2"
UNDERLAY = "198.18.0.0/16"
CONTROL_HOST, GATEWAY_HOST = 10, 1
# No duplicate address detection: it would hold back every IPv6 packet of the first second.
# No router advertisement may add an address that nobody gave.
MEMBER_SETTINGS = {"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/default/accept_ra": "0"}
# Forwarding for who routes; reverse-path checks off because a node answers for its pods' addresses.
ROUTER_SETTINGS = {
    **MEMBER_SETTINGS,
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}


def build(topology: Topology) -> None:
    """Makes all namespaces and links. Raises LabError with the words of `ip`; then call `remove`."""
    _batch(None, [f"netns add {name}" for name in namespaces(topology)])
    routers = {FABRIC, *(cluster.netns(node.name) for cluster in topology.clusters for node in cluster.nodes)}
    for name in namespaces(topology):
        # Before any link: a new interface takes over the defaults of its namespace.
        _configure(name, ROUTER_SETTINGS if name in routers else MEMBER_SETTINGS)
    links = [line for cluster in topology.clusters for line in _links(cluster)]
    _batch(None, [*links, *_internet_link(), *_host_link()])
    _batch(internet.NETNS, _internet())
    bridges = [line for cluster in topology.clusters for line in _fabric(cluster)]
    _batch(FABRIC, [*_fabric_host(), *_fabric_internet(), *bridges])
    for cluster in topology.clusters:
        for netns, host in _members(cluster):
            _batch(netns, _member(cluster, host))
        for _, pod in cluster.pods():
            _batch(cluster.netns(pod.name), ["link set lo up"])
    _batch(None, _host_routes())


def remove() -> list[str]:
    """Removes every namespace and link of the laboratory; what is gone is fine. Returns what it removed."""
    removed = []
    if (Path("/sys/class/net") / HOST_LINK).exists():
        subprocess.run(["ip", "link", "delete", HOST_LINK], check=False, capture_output=True)
        removed.append(f"link {HOST_LINK}")
    for name in existing_namespaces():
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        removed.append(f"namespace {name}")
    return removed


def namespaces(topology: Topology) -> list[str]:
    """Names of all namespaces, the fabric first."""
    names = [FABRIC, internet.NETNS]
    for cluster in topology.clusters:
        names.append(cluster.control_netns)
        names += [cluster.netns(node.name) for node in cluster.nodes]
        names += [cluster.netns(pod.name) for _, pod in cluster.pods()]
    return names


def existing_namespaces() -> list[str]:
    """Names of the laboratory's namespaces that exist now, also unfinished ones."""
    if not NETNS_DIRECTORY.is_dir():
        return []
    return sorted(path.name for path in NETNS_DIRECTORY.iterdir() if path.name.startswith(f"{PREFIX}-"))


def namespace_inodes() -> frozenset[int]:
    """Inode numbers of the existing namespaces, as /proc/PID/ns/net shows them."""
    return frozenset((NETNS_DIRECTORY / name).stat().st_ino for name in existing_namespaces())


def entering(netns: str) -> list[str]:
    """Start of a command line that runs the rest inside the namespace. `ip netns exec` would hide bpffs."""
    return ["nsenter", f"--net={NETNS_DIRECTORY / netns}", "--"]


def _members(cluster: Cluster) -> list[tuple[str, int]]:
    nodes = [(cluster.netns(node.name), 100 + node.number) for node in cluster.nodes]
    return [(cluster.control_netns, CONTROL_HOST), *nodes]


def _links(cluster: Cluster) -> list[str]:
    return [
        f"link add v{cluster.number}-{host} netns {FABRIC} type veth peer name eth0 netns {netns}"
        for netns, host in _members(cluster)
    ]


def _internet_link() -> list[str]:
    return [f"link add {internet.LINK} netns {FABRIC} type veth peer name eth0 netns {internet.NETNS}"]


def _internet() -> list[str]:
    given = [f"{address} dev eth0{' nodad' if ':' in address else ''}" for address in internet.addresses()]
    lines = ["link set lo up", *(f"address add {one}" for one in given), "link set eth0 up"]
    lines += [f"route add local {prefix} dev lo" for prefix in internet.WIDE]
    return [*lines, *(f"route add default via {ip}" for ip in internet.GATEWAYS)]


def _fabric_internet() -> list[str]:
    lines = [
        f"address add {internet.GATEWAYS[0]}/24 dev {internet.LINK}",
        f"address add {internet.GATEWAYS[1]}/64 dev {internet.LINK} nodad",
        f"link set {internet.LINK} up",
    ]
    ways = [*zip(internet.SITES, internet.DNS, strict=True), *zip(internet.WIDE, internet.DNS, strict=True)]
    return [*lines, *(f"route add {prefix} via {ip}" for prefix, ip in ways)]


def _host_link() -> list[str]:
    return [f"link add {HOST_LINK} type veth peer name host0 netns {FABRIC}"]


def _fabric_host() -> list[str]:
    return ["link set lo up", f"address add {FABRIC_ADDRESS}/30 dev host0", "link set host0 up"]


def _fabric(cluster: Cluster) -> list[str]:
    bridge = f"cl{cluster.number}"
    lines = [
        f"link add {bridge} type bridge",
        f"address add {cluster.address(GATEWAY_HOST)}/24 dev {bridge}",
        f"address add {cluster.address6(GATEWAY_HOST)}/64 dev {bridge} nodad",
        f"link set {bridge} up",
    ]
    for _, host in _members(cluster):
        lines += [
            f"link set v{cluster.number}-{host} master {bridge}",
            f"link set v{cluster.number}-{host} up",
        ]
    return lines


def _member(cluster: Cluster, host: int) -> list[str]:
    return [
        "link set lo up",
        f"address add {cluster.address(host)}/24 dev eth0",
        f"address add {cluster.address6(host)}/64 dev eth0 nodad",
        "link set eth0 up",
        f"route add default via {cluster.address(GATEWAY_HOST)}",
        f"route add default via {cluster.address6(GATEWAY_HOST)}",
    ]


def _host_routes() -> list[str]:
    return [
        f"address add {HOST_ADDRESS}/30 dev {HOST_LINK}",
        f"link set {HOST_LINK} up",
        f"route add {UNDERLAY} via {FABRIC_ADDRESS} dev {HOST_LINK}",
    ]


def _batch(netns: str | None, lines: Iterable[str]) -> None:
    script = "\n".join(lines) + "\n"
    _run(
        ["ip", *(["-n", netns] if netns else []), "-batch", "-"],
        script,
        f"namespace {netns or 'of the host'}",
    )


def _configure(netns: str, settings: dict[str, str]) -> None:
    script = "\n".join(f"echo {value} > /proc/sys/{name}" for name, value in settings.items())
    _run([*entering(netns), "sh", "-e"], script, f"namespace {netns}")


def _run(command: Sequence[str], script: str, where: str) -> None:
    try:
        done = subprocess.run(command, input=script, check=False, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed: apt-get install iproute2 util-linux") from error
    if done.returncode:
        reason = " ".join(done.stderr.split())[:256]
        raise LabError(f"network of the lab, {where}: {reason or f'exit status {done.returncode}'}")
