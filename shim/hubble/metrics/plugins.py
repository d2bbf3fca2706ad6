"""The plugins that count packets and verdicts. Names, labels and rules are Hubble's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from axoneme.api.hubble.flow import flow_pb2
from shim.flows import icmp
from shim.hubble.metrics import words
from shim.hubble.metrics.layer7plugins import dns, http, http_v2, kafka
from shim.hubble.metrics.plugin import Columns, Family, Plugin, Sample

_HOST: Final = 1
_PASSED: Final = (flow_pb2.FORWARDED, flow_pb2.REDIRECTED)
_WORLD: Final = frozenset(("reserved:world", "reserved:world-ipv4", "reserved:world-ipv6"))
Flow = flow_pb2.Flow


def flow(_: frozenset[str]) -> Plugin:
    """All flows."""

    def samples(flow: Flow) -> Iterator[Sample]:
        kind, sub_kind = words.type_and_subtype(flow)
        yield Sample(0, (words.protocol(flow), kind, sub_kind, words.verdict(flow)))

    labels = ("protocol", "type", "subtype", "verdict")
    return Plugin(
        families=(Family("flows_processed", "Flows processed.", labels),),
        columns=Columns(kind=True, verdict=True, protocol=True),
        samples=samples,
    )


def drop(_: frozenset[str]) -> Plugin:
    """What was dropped, and why."""

    def samples(flow: Flow) -> Iterator[Sample]:
        if flow.verdict == flow_pb2.DROPPED:
            yield Sample(0, (flow_pb2.DropReason.Name(flow.drop_reason_desc), words.protocol(flow)))

    return Plugin(
        families=(Family("drop", "Drops.", ("reason", "protocol")),),
        columns=Columns(verdict=True, reason=True, protocol=True),
        samples=samples,
    )


def tcp(_: frozenset[str]) -> Plugin:
    """Flags of what passed."""

    def samples(flow: Flow) -> Iterator[Sample]:
        if flow.verdict not in _PASSED or not flow.l4.TCP.HasField("flags"):
            return
        flags, family = flow.l4.TCP.flags, words.IP_VERSIONS.get(flow.IP.ipVersion, "IP_NOT_USED")
        if flags.FIN:
            yield Sample(0, ("FIN", family))
        if flags.SYN:
            yield Sample(0, ("SYN-ACK" if flags.ACK else "SYN", family))
        if flags.RST:
            yield Sample(0, ("RST", family))

    return Plugin(
        families=(Family("tcp_flags", "TCP flags seen.", ("flag", "family")),),
        columns=Columns(verdict=True, protocol=True, flags=True, family=True),
        samples=samples,
    )


def icmp_messages(_: frozenset[str]) -> Plugin:
    """ICMP messages by type."""

    def samples(flow: Flow) -> Iterator[Sample]:
        which = flow.l4.WhichOneof("protocol")
        if which == "ICMPv4":
            said = icmp.describe(4, flow.l4.ICMPv4.type, flow.l4.ICMPv4.code)
            yield Sample(0, ("IPv4", said.removeprefix("ICMPv4 ")))
        elif which == "ICMPv6":
            said = icmp.describe(6, flow.l4.ICMPv6.type, flow.l4.ICMPv6.code)
            yield Sample(0, ("IPv6", said.removeprefix("ICMPv6 ")))

    return Plugin(
        families=(Family("icmp", "ICMP messages.", ("family", "type")),),
        columns=Columns(protocol=True, icmp=True),
        samples=samples,
    )


def port_distribution(_: frozenset[str]) -> Plugin:
    """Destination ports of what passed and is no reply."""

    def samples(flow: Flow) -> Iterator[Sample]:
        protocol = flow.l4.WhichOneof("protocol")
        if flow.verdict in _PASSED and protocol is not None and not flow.is_reply.value:
            yield Sample(0, (protocol, _port(flow) or "0"))

    return Plugin(
        families=(Family("port_distribution", "Packets by destination port.", ("protocol", "port")),),
        columns=Columns(verdict=True, reply=True, protocol=True, passed_port=True),
        samples=samples,
    )


def flows_to_world(flags: frozenset[str]) -> Plugin:
    """What leaves the clusters, or was to."""
    any_drop, with_port, syn_only = (flag in flags for flag in ("any-drop", "port", "syn-only"))

    def samples(flow: Flow) -> Iterator[Sample]:
        if not flow.HasField("l4") or not _WORLD.intersection(flow.destination.labels):
            return
        dropped, reply = flow.verdict == flow_pb2.DROPPED, flow.is_reply.value
        if dropped and not any_drop and flow.drop_reason_desc != flow_pb2.POLICY_DENIED:
            return
        if (reply and (syn_only or not dropped)) or (syn_only and not flow.l4.TCP.flags.SYN):
            return
        port = (_port(flow),) if with_port else ()
        yield Sample(0, (words.protocol(flow), words.verdict(flow), *port))

    labels = ("protocol", "verdict", "port") if with_port else ("protocol", "verdict")
    return Plugin(
        families=(Family("flows_to_world", "Flows to reserved:world.", labels),),
        columns=Columns(
            verdict=True,
            reason=True,
            reply=True,
            protocol=True,
            flags=syn_only,
            port=with_port,
            world=True,
        ),
        samples=samples,
    )


def policy(_: frozenset[str]) -> Plugin:
    """Verdicts of policy; those about the node itself are left out, for it may reach its endpoints."""

    def samples(flow: Flow) -> Iterator[Sample]:
        kind = flow.event_type.type
        if kind == words.LAYER7 or (kind == words.POLICY_VERDICT and flow.source.identity != _HOST):
            yield Sample(0, (words.direction(flow), words.match_type(flow), words.verdict(flow).lower()))

    labels = ("direction", "match", "action")
    return Plugin(
        families=(Family("policy_verdicts", "Verdicts of network policy.", labels),),
        columns=Columns(kind=True, verdict=True, direction=True, match=True, host=True),
        samples=samples,
    )


def flows_per_pod(_: frozenset[str]) -> Plugin:
    """All flows again, for context labels of their own."""

    def samples(flow: Flow) -> Iterator[Sample]:
        yield Sample(0, (words.protocol(flow), words.verdict(flow)))

    return Plugin(
        families=(Family("flows_per_pod", "Flows by pod.", ("protocol", "verdict")),),
        columns=Columns(verdict=True, protocol=True),
        samples=samples,
    )


def sctp(_: frozenset[str]) -> Plugin:
    """Chunk types, which flows of this version of the API do not carry: the family has no series."""
    return Plugin(
        families=(Family("sctp_chunk_types", "SCTP chunk types seen.", ("chunk_type", "family")),),
        columns=Columns(),
        samples=lambda _: (),
    )


def _port(flow: Flow) -> str:
    """The destination port; nothing for protocols without ports."""
    name = flow.l4.WhichOneof("protocol")
    return str(getattr(flow.l4, name).destination_port) if name in ("TCP", "UDP", "SCTP") else ""


PLUGINS: Final[Mapping[str, Callable[[frozenset[str]], Plugin]]] = {
    "dns": dns,
    "drop": drop,
    "flow": flow,
    "flows-per-pod": flows_per_pod,
    "flows-to-world": flows_to_world,
    "http": http,
    "httpV2": http_v2,
    "icmp": icmp_messages,
    "kafka": kafka,
    "policy": policy,
    "port-distribution": port_distribution,
    "sctp": sctp,
    "tcp": tcp,
}
"""Plugins by name; a test checks that they are those of options.PLUGIN_FLAGS."""
