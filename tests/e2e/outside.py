"""A machine outside the cluster: a network namespace on the laboratory's underlay with addresses of three
prefixes, a greeting on TCP 8080 at each of them, and routes both ways.

Its name is one of the laboratory's, so that whoever removes the laboratory removes it too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from axoneme.api.identity.v1 import identity_pb2
from axoneme.lab.topology import FABRIC
from tests.e2e.probes import Party, greeting
from tests.e2e.running import Running

NETNS = "axolab-east-outside"
# The addresses of one row lie in one prefix of each family.
INSIDE = Party("inside", NETNS, ("192.0.2.10", "2001:db8:1::10"))
EXCEPTED = Party("excepted", NETNS, ("192.0.2.130", "2001:db8:1:ffff::10"))
ELSEWHERE = Party("elsewhere", NETNS, ("198.51.100.7", "2001:db8:2::7"))
PREFIXES = ("192.0.2.0/24", "2001:db8:1::/48")
EXCEPTIONS = ("192.0.2.128/25", "2001:db8:1:ffff::/64")
OTHER_PREFIXES = ("198.51.100.0/24", "2001:db8:2::/48")
_GATEWAYS = ("169.254.78.1", "fd00:198:18:ff::1")
_MEMBERS = ("169.254.78.2", "fd00:198:18:ff::2")
_LINK = "outside"


@contextmanager
def outside(lab: Running) -> Iterator[None]:
    """The machine, as long as the block lasts."""
    try:
        _build(lab)
        with greeting("outside", NETNS):
            yield
    finally:
        # The link goes with the namespace, and the routes of the fabric to the outside with the link.
        subprocess.run(["ip", "netns", "delete", NETNS], check=False)
        for route in _pod_routes(lab):
            subprocess.run(["ip", "-n", FABRIC, "route", "delete", *route], check=False)


def _build(lab: Running) -> None:
    _ip("netns", "add", NETNS)
    _ip("link", "add", _LINK, "netns", FABRIC, "type", "veth", "peer", "name", "eth0", "netns", NETNS)
    for gateway, member in zip(_GATEWAYS, _MEMBERS, strict=True):
        length = "64" if ":" in gateway else "30"
        _address(FABRIC, f"{gateway}/{length}", _LINK)
        _address(NETNS, f"{member}/{length}", "eth0")
    for party in (INSIDE, EXCEPTED, ELSEWHERE):
        for ip in party.ips:
            _address(NETNS, f"{ip}/{128 if ':' in ip else 32}", "eth0")
    _ip("-n", FABRIC, "link", "set", _LINK, "up")
    _ip("-n", NETNS, "link", "set", "lo", "up")
    _ip("-n", NETNS, "link", "set", "eth0", "up")
    for pair in (PREFIXES, OTHER_PREFIXES):
        for prefix, member in zip(pair, _MEMBERS, strict=True):
            _ip("-n", FABRIC, "route", "add", prefix, "via", member)
    for gateway in _GATEWAYS:
        _ip("-n", NETNS, "route", "add", "default", "via", gateway)
    for route in _pod_routes(lab):
        _ip("-n", FABRIC, "route", "replace", *route)


def _pod_routes(lab: Running) -> list[list[str]]:
    """Ways back to the pods: nodes do not hide them behind their own addresses."""
    found = []
    for node in lab.client.identity.ListNodes(identity_pb2.ListNodesRequest()).nodes:
        for prefix in node.pod_cidrs:
            ips = [ip for ip in node.internal_ips if (":" in ip) == (":" in prefix)]
            found += [[prefix, "via", ip] for ip in ips]
    return found


def _address(netns: str, address: str, device: str) -> None:
    _ip("-n", netns, "address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
