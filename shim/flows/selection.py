"""What numbers can decide of a flow filter, as a `Selection` for the store.

A selection never excludes a record whose flow the filter would take: what a column cannot decide is left to
the filter itself. A test checks that against the filters on random flows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import Any, Final

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import compile_filter
from shim.flows.context import mapped
from shim.flows.store import Network, Selection

_PROTOCOL_NUMBERS: Final = {
    "tcp": (6,), "udp": (17,), "sctp": (132,), "vrrp": (112,), "igmp": (2,),
    "icmp": (1, 58), "icmpv4": (1,), "icmpv6": (58,),
}  # fmt: skip
_TCP_BITS: Final = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128}

_FAMILIES: Final = {flow_pb2.IP_NOT_USED: 0, flow_pb2.IPv4: 4, flow_pb2.IPv6: 6}
SAME_FOR_ALL: Final = (
    "node_name", "node_labels", "trace_id", "ip_trace_id", "encrypted", "source_ip_xlated", "source_service",
    "destination_service", "http_status_code", "http_method", "http_path", "http_url", "http_header",
)  # fmt: skip
"""Fields that look at nothing but the node, or at what neither packets nor DNS messages have."""

_NUMBERS: Final[dict[str, tuple[str, Callable[[Iterable[Any]], Iterable[int]]]]] = {
    "verdict": ("verdict", list),
    "traffic_direction": ("direction", list),
    "source_identity": ("source_identity", list),
    "destination_identity": ("destination_identity", list),
    "source_port": ("source_port", lambda values: [int(value) for value in values]),
    "destination_port": ("destination_port", lambda values: [int(value) for value in values]),
}


def selection_of(
    flow_filter: flow_pb2.FlowFilter,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    layer7: str = "",
    node_name: str = "",
) -> Selection:
    """Translate a filter that `compile_filter` accepted; times count since boot.

    `layer7` is the protocol of layer 7 that all records of the store have (`dns`); empty: they have none.
    `node_name` is the node that all of them have.
    """
    values: list[tuple[str, frozenset[int]]] = []
    for field, (column, numbers) in _NUMBERS.items():
        if wanted := frozenset(numbers(getattr(flow_filter, field))):
            values.append((column, wanted))
    protocols = _protocols(flow_filter.protocol, layer7)
    if protocols:
        values.append(("protocol", protocols))
    if indexes := _interfaces(flow_filter):
        values.append(("ifindex", indexes))
    reasons = frozenset(flow_filter.drop_reason_desc)
    if reasons and flow_pb2.DROP_REASON_UNKNOWN not in reasons:
        values.append(("drop_reason", frozenset(int(reason) for reason in reasons)))
    return Selection(
        nothing=protocols == frozenset() or _looks_elsewhere(flow_filter, layer7, node_name),
        since_ns=since_ns,
        until_ns=until_ns,
        values=tuple(values),
        networks=_networks(flow_filter),
        tcp_flags=_tcp_flags(flow_filter.tcp_flags),
        event_types=tuple((event.type, _sub_type(event)) for event in flow_filter.event_type),
        replies=frozenset(flow_filter.reply),
        families=frozenset(_FAMILIES[version] for version in flow_filter.ip_version),
    )


def _sub_type(event: flow_pb2.EventTypeFilter) -> int | None:
    """Only trace points are compared by column; other events may show another sub type than they hold."""
    return event.sub_type if event.match_sub_type and event.type == 4 else None


def _protocols(names: Iterable[str], layer7: str) -> frozenset[int] | None:
    """Numbers of the wanted protocols; None when every record of the store has a wanted one."""
    wanted = {name.lower() for name in names}
    if not wanted or layer7 in wanted:
        return None
    return frozenset(number for name in wanted for number in _PROTOCOL_NUMBERS.get(name, ()))


def _looks_elsewhere(flow_filter: flow_pb2.FlowFilter, layer7: str, node_name: str) -> bool:
    """Whether a field looks at what no record has: it decides the same for all of them."""
    if flow_filter.dns_query and layer7 != "dns":
        return True
    same = flow_pb2.FlowFilter()
    for field in SAME_FOR_ALL:
        getattr(same, field).extend(getattr(flow_filter, field))
    return not compile_filter(same)(flow_pb2.Flow(node_name=node_name))


def _interfaces(flow_filter: flow_pb2.FlowFilter) -> frozenset[int]:
    """Indexes of the wanted interfaces; empty when one is wanted by its name alone."""
    indexes = frozenset(interface.index for interface in flow_filter.interface)
    return frozenset() if 0 in indexes else indexes


def _networks(flow_filter: flow_pb2.FlowFilter) -> tuple[tuple[str, tuple[Network, ...]], ...]:
    pairs = (("source_ip", flow_filter.source_ip), ("destination_ip", flow_filter.destination_ip))
    return tuple((column, tuple(_network(text) for text in texts)) for column, texts in pairs if texts)


def _network(text: str) -> Network:
    network = ip_network(text, strict=False)
    extra = 96 if network.version == 4 else 0
    return Network.of(mapped(network.network_address.packed), network.prefixlen + extra)


def _tcp_flags(wanted: Iterable[flow_pb2.TCPFlags]) -> tuple[int, ...]:
    """Bits of each set; nothing when a flag without a bit in the record (NS) is asked for."""
    sets = list(wanted)
    if any(flags.NS for flags in sets):
        return ()
    return tuple(sum(bit for name, bit in _TCP_BITS.items() if getattr(flags, name)) for flags in sets)
