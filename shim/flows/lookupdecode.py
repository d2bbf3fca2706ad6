"""From a DNS message that the proxy reported to a `flow.Flow`, as Hubble shows a DNS proxy's access log.

A request goes from the pod to the resolver, a response the other way; both are seen in the direction of the
request, egress. Ends get their names like those of packets: as of the time of the message.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.wrappers_pb2 import BoolValue

from axoneme.api.fqdn.v1 import fqdn_pb2
from axoneme.api.hubble.flow import flow_pb2
from shim.flows import dnswords, record
from shim.flows.context import address_of
from shim.flows.decode import TCP, UDP, FlowDecoder, ip_of, timestamp
from shim.flows.lookupstore import Report

_OWN_NUMBERS: Final = 1 << 61
"""Keeps the uuids of messages apart from those of packets."""
_SOURCE: Final = "proxy"


class LookupDecoder:
    """Decodes the DNS messages of one node."""

    def __init__(self, names: FlowDecoder) -> None:
        """Take the decoder of packets, which knows times and names."""
        self.names: Final = names

    def decode(self, event: tuple[Any, Report | None], number: int) -> flow_pb2.Flow:
        """Turn a record and its report into a flow."""
        row = dict(zip(record.EVENT_DTYPE.names or (), event[0].item(), strict=True))
        said = fqdn_pb2.LookupEvent.FromString(event[1].event if event[1] else b"")
        source_ip, destination_ip = address_of(row["source_ip"]), address_of(row["destination_ip"])
        flow = flow_pb2.Flow(
            time=timestamp(row["time_ns"] + self.names.boot_offset_ns),
            uuid=self.names.uuid(number | _OWN_NUMBERS),
            verdict=row["verdict"],
            IP=ip_of(source_ip, destination_ip),
            l4=_layer4(row),
            Type=flow_pb2.L7,
            node_name=self.names.full_node_name,
            event_type=flow_pb2.CiliumEventType(type=row["event_type"]),
            traffic_direction=row["direction"],
            l7=_response(said) if said.response else _request(said),
            is_reply=BoolValue(value=said.response),
            reply=said.response,
            Summary=_summary(said),
        )
        self.names.fill_ends(flow, row, source_ip, destination_ip)
        return flow


def _layer4(row: dict[str, Any]) -> flow_pb2.Layer4 | None:
    source, destination = row["source_port"], row["destination_port"]
    if row["protocol"] == TCP:
        return flow_pb2.Layer4(TCP=flow_pb2.TCP(source_port=source, destination_port=destination))
    if row["protocol"] == UDP:
        return flow_pb2.Layer4(UDP=flow_pb2.UDP(source_port=source, destination_port=destination))
    return None


def _request(said: fqdn_pb2.LookupEvent) -> flow_pb2.Layer7:
    """Of a request only what it asks for; a code is shown with the response."""
    dns = flow_pb2.DNS(
        query=dnswords.printable(said.query),
        observation_source=_SOURCE,
        qtypes=[dnswords.type_name(said.qtype)],
    )
    return flow_pb2.Layer7(type=flow_pb2.REQUEST, dns=dns)


def _response(said: fqdn_pb2.LookupEvent) -> flow_pb2.Layer7:
    dns = flow_pb2.DNS(
        query=dnswords.printable(said.query),
        ips=map(dnswords.printable, said.ips),
        ttl=said.ttl,
        cnames=map(dnswords.printable, said.cnames),
        observation_source=_SOURCE,
        rcode=said.rcode,
        qtypes=[dnswords.type_name(said.qtype)],
        rrtypes=map(dnswords.type_name, said.rrtypes),
    )
    latency_ns = said.latency.seconds * 1_000_000_000 + said.latency.nanos
    return flow_pb2.Layer7(type=flow_pb2.RESPONSE, latency_ns=max(0, latency_ns), dns=dns)


def _summary(said: fqdn_pb2.LookupEvent) -> str:
    query = dnswords.printable(said.query)
    if not said.response:
        return dnswords.request_summary(query, said.qtype)
    return dnswords.response_summary(
        query,
        said.qtype,
        rcode=said.rcode,
        ips=map(dnswords.printable, said.ips),
        cnames=map(dnswords.printable, said.cnames),
        ttl=said.ttl,
    )
