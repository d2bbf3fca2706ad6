"""The filter flags of `axoneme observe` as a table: names, sides, help.

No protobuf here, so that `--help` and completion need not load it; what a value becomes is in `flagvalues`,
how flags become filters in `flags`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final


@dataclass(frozen=True, slots=True)
class FilterFlag:
    """One flag: its family, the side it looks at (source, destination, both or neither) and its help."""

    name: str
    family: str
    side: str
    help: str
    metavar: str = "TEXT"
    is_switch: bool = False
    short: str = ""


def _sided(
    family: str, what: str, metavar: str, short: str = "", *, is_switch: bool = False
) -> list[FilterFlag]:
    return [
        FilterFlag(family, family, "both", f"Either end: {what}.", metavar, is_switch, short),
        FilterFlag(f"from-{family}", family, "source", f"Source: {what}.", metavar, is_switch),
        FilterFlag(f"to-{family}", family, "destination", f"Destination: {what}.", metavar, is_switch),
    ]


def _plain(name: str, help_text: str, metavar: str, short: str = "", family: str = "") -> FilterFlag:
    return FilterFlag(name, family or name, "", help_text, metavar, not metavar, short)


FLAGS: Final[tuple[FilterFlag, ...]] = (
    *_sided("pod", "pod as [namespace/]prefix, without a slash in namespace default", "POD"),
    *_sided("namespace", "namespace of the pod or service", "NAMESPACE", "-n"),
    *_sided("all-namespaces", "any pod", "", "-A", is_switch=True),
    *_sided("label", "label selector such as app=web,!canary", "SELECTOR", "-l"),
    *_sided("ip", "address or CIDR", "IP"),
    _plain("snat-ip", "Source address after translation, or a CIDR.", "IP"),
    *_sided("fqdn", "DNS name, * as wildcard", "NAME"),
    *_sided("port", "TCP, UDP or SCTP port", "PORT"),
    *_sided("identity", "identity number or reserved name such as world", "IDENTITY"),
    *_sided("service", "service as [namespace/]prefix", "SERVICE"),
    *_sided("workload", "workload as [Kind/]name", "WORKLOAD"),
    *_sided("cluster", "cluster name, exactly", "CLUSTER"),
    _plain("protocol", "tcp, udp, icmp, icmpv4, icmpv6, sctp, vrrp, igmp, dns, http or kafka.", "PROTOCOL"),
    _plain("dns-query", "Name that was asked for, as a regular expression.", "REGEX"),
    _plain("http-status", "Status of an HTTP response: 503, 50+ or 5+.", "CODE"),
    _plain("http-method", "HTTP method, in any case.", "METHOD"),
    _plain("http-path", "Path of an HTTP request, as a regular expression.", "REGEX"),
    _plain("http-url", "URL of an HTTP request, as a regular expression.", "REGEX"),
    _plain("http-header", "Header of an HTTP request, exactly.", "NAME:VALUE"),
    _plain("verdict", "FORWARDED, DROPPED, AUDIT, REDIRECTED, …", "VERDICT"),
    _plain("type", "TYPE[:SUBTYPE], such as drop, trace:to-stack.", "TYPE", "-t"),
    _plain("traffic-direction", "ingress or egress.", "DIRECTION"),
    _plain("drop-reason-desc", "Drop reason, such as POLICY_DENIED.", "REASON"),
    _plain("tcp-flags", "TCP flags, all of which are set: syn,ack.", "FLAGS"),
    _plain("node-name", "Node as [cluster/]node, * as wildcard.", "NODE"),
    _plain("node-label", "Label selector over the labels of the node.", "SELECTOR"),
    _plain("interface", "Network interface by name.", "INTERFACE"),
    _plain("encrypted", "Only flows that travel encrypted.", ""),
    _plain("unencrypted", "Only flows that do not.", ""),
    _plain("uuid", "One flow by its uuid.", "UUID"),
    _plain("trace-id", "Trace that the flow belongs to.", "ID"),
    _plain("ip-trace-id", "Number of the trace inside the packet.", "NUMBER"),
    _plain("ip-version", "none, v4 or v6.", "VERSION"),
    _plain("ipv4", "IPv4 flows only.", "", "-4", family="ip-version"),
    _plain("ipv6", "IPv6 flows only.", "", "-6", family="ip-version"),
    _plain("reply", "true: replies only; false: requests and drops.", "BOOL"),
    _plain("cel-expression", "CEL expression over _flow that is true.", "CEL"),
)
FLAG_BY_NAME: Final = {flag.name: flag for flag in FLAGS}
_POD_FAMILIES: Final = ("pod", "namespace", "all-namespaces")
_ADDRESS_FAMILIES: Final = (*_POD_FAMILIES, "ip", "fqdn")
_EXCLUSIVE: Final = ({"encrypted", "unencrypted"},)


def conflict(one: FilterFlag, other: FilterFlag) -> bool:
    """Whether two flags cannot stand in one filter."""
    if {one.name, other.name} in _EXCLUSIVE:
        return True
    if one.name == other.name or not one.side or not other.side:
        return False
    same_side = one.side == other.side
    if not same_side and "both" not in (one.side, other.side):
        return False
    families = {one.family, other.family}
    if families in ({"pod", "namespace"}, {"pod", "all-namespaces"}):
        return not same_side
    if families in ({"service", "namespace"}, {"service", "all-namespaces"}):
        return not same_side
    if families <= set(_ADDRESS_FAMILIES):
        return True
    return one.family == other.family


def conflicting_pairs() -> Sequence[tuple[str, str]]:
    """All pairs of flags that cannot be combined, for the documentation and its test."""
    return [(a.name, b.name) for a, b in combinations(FLAGS, 2) if conflict(a, b)]
