"""From a 96-byte record to a `flow.Flow`: numbers get names here, and nowhere else.

A record says what the kernel saw; the `FlowContext` says what the numbers mean on this node. The decoder
keeps no state but the offset between boot time and wall time, so decoding is repeatable: the same record
gives the same flow, uuid included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import BoolValue

from axoneme.api.hubble.flow import flow_pb2
from shim.flows import icmp, record
from shim.flows.addresses import KnownAddresses, NamedAddresses
from shim.flows.context import Address, FlowContext, PolicyOrigin, WorkloadInfo, address_of
from shim.flows.enddirectory import EndDirectory
from shim.flows.endnames import CLUSTER_LABEL, NAMESPACE_LABEL, end_names, label_value

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
_TCP_BITS: Final = (
    ("FIN", 1),
    ("SYN", 2),
    ("RST", 4),
    ("PSH", 8),
    ("ACK", 16),
    ("URG", 32),
    ("ECE", 64),
    ("CWR", 128),
)
_SUMMARY_ORDER: Final = (
    ("SYN", 2),
    ("ACK", 16),
    ("RST", 4),
    ("FIN", 1),
    ("PSH", 8),
    ("URG", 32),
    ("ECE", 64),
    ("CWR", 128),
)
_FIELDS: Final = record.EVENT_DTYPE.names or ()
_POINTS: Final = frozenset(flow_pb2.TraceObservationPoint.values())
_REASONS: Final = frozenset(flow_pb2.DropReason.values())
OFFSET_TOLERANCE_NS: Final = 1_000_000
_DENYING: Final = (flow_pb2.DROPPED, flow_pb2.ERROR, flow_pb2.AUDIT)


class FlowDecoder:
    """Decodes the records of one node."""

    def __init__(self, context: FlowContext, *, boot_offset_ns: Callable[[], int], uuid_salt: int) -> None:
        """Take the offset to add to boot time (read at each use, it drifts) and 64 random bits per start."""
        self._context = context
        self.addresses = KnownAddresses(context)
        self.named_addresses = NamedAddresses(context)
        self.ends = EndDirectory(self)
        """What the queries of a node know of the ends of its flows."""
        self._measure_offset_ns = boot_offset_ns
        self._offset_ns = boot_offset_ns()
        self._uuid_salt = uuid_salt

    @property
    def names(self) -> FlowDecoder:
        """Itself: what tells the names of ends."""
        return self

    @property
    def context(self) -> FlowContext:
        """What names the numbers."""
        return self._context

    @property
    def full_node_name(self) -> str:
        """Name of the node as flows carry it: `cluster/node`."""
        return f"{self._context.cluster_name}/{self._context.node_name}"

    @property
    def boot_offset_ns(self) -> int:
        """Nanoseconds to add to boot time to get wall time.

        It follows the clock only when that moved by more than a measurement varies, so that a record has
        the same time in every answer.
        """
        measured = self._measure_offset_ns()
        if abs(measured - self._offset_ns) > OFFSET_TOLERANCE_NS:
            self._offset_ns = measured
        return self._offset_ns

    def decode(self, event: Any, number: int) -> flow_pb2.Flow:
        """Turn one record (an element of an EVENT_DTYPE array) with its sequence number into a flow."""
        row = dict(zip(_FIELDS, event.item(), strict=True))
        source_ip, destination_ip = address_of(row["source_ip"]), address_of(row["destination_ip"])
        flow = flow_pb2.Flow(
            time=timestamp(row["time_ns"] + self.boot_offset_ns),
            uuid=self.uuid(number),
            verdict=row["verdict"],
            ethernet=_ethernet(row),
            IP=ip_of(source_ip, destination_ip),
            l4=_layer4(row),
            Type=flow_pb2.L3_L4,
            node_name=self.full_node_name,
            event_type=flow_pb2.CiliumEventType(type=row["event_type"], sub_type=row["sub_type"]),
            traffic_direction=row["direction"],
            Summary=_summary(row),
        )
        self.fill_ends(flow, row, source_ip, destination_ip)
        self._fill_event(flow, row)
        self._fill_policies(flow, row)
        return flow

    def namespace_of(self, identity: int) -> tuple[str, str]:
        """Namespace and cluster that the last labels of an identity name; empty when they name none."""
        labels = self._context.identity_labels(identity, None)
        return label_value(labels, NAMESPACE_LABEL), label_value(labels, CLUSTER_LABEL)

    def uuid(self, number: int) -> str:
        """The uuid of a record by its number, which has less than 62 bits."""
        value = ((self._uuid_salt & (1 << 64) - 1) << 64 | number) & ~(0xF << 76) | 4 << 76
        value = value & ~(0x3 << 62) | 2 << 62
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def fill_ends(
        self, flow: flow_pb2.Flow, row: dict[str, Any], source: Address, destination: Address
    ) -> None:
        """Say who is at both ends, as of the time of the record."""
        endpoint_id, time_ns = row["endpoint_id"], row["time_ns"]
        spoofed = row["drop_reason"] == record.INVALID_SOURCE_IP
        identity = row["source_identity"]
        workload = self.workload(source, endpoint_id, time_ns, spoofed=spoofed)
        flow.source.CopyFrom(self.end(identity, self.labels(identity, workload, time_ns), workload))
        identity = row["destination_identity"]
        workload = self.workload(destination, endpoint_id, time_ns)
        flow.destination.CopyFrom(self.end(identity, self.labels(identity, workload, time_ns), workload))
        flow.source_names.extend(self._context.names(endpoint_id, source, time_ns))
        flow.destination_names.extend(self._context.names(endpoint_id, destination, time_ns))

    def workload(
        self, address: Address | None, endpoint_id: int, time_ns: int, *, spoofed: bool = False
    ) -> WorkloadInfo | None:
        """Who is behind one end: the endpoint whose program saw it, else whoever owned the address then.

        A spoofed source is shown as the endpoint that sent it, not as the owner of the address. Without an
        address, it is one that nobody ever owned.
        """
        local = self._context.endpoint(endpoint_id, time_ns) if endpoint_id else None
        if local is not None and (spoofed or address in local.addresses):
            return local
        return self._context.workload_at(address, time_ns) if address is not None else None

    def labels(self, identity: int, workload: WorkloadInfo | None, time_ns: int) -> tuple[str, ...]:
        """Labels of one end: of its identity, else of the workload."""
        labels = tuple(self._context.identity_labels(identity, time_ns))
        if labels or workload is None:
            return labels
        return workload.labels or tuple(self._context.identity_labels(workload.identity, time_ns))

    @staticmethod
    def end(identity: int, labels: tuple[str, ...], workload: WorkloadInfo | None) -> flow_pb2.Endpoint:
        """One end of a flow."""
        end = end_names(labels, workload).message()
        end.identity = identity
        end.ID = workload.endpoint_id if workload is not None else 0
        return end

    def _fill_event(self, flow: flow_pb2.Flow, row: dict[str, Any]) -> None:
        if row["flags"] & record.FLAG_REPLY_KNOWN:
            flow.is_reply.CopyFrom(BoolValue(value=bool(row["flags"] & record.FLAG_REPLY)))
            flow.reply = bool(row["flags"] & record.FLAG_REPLY)
        if row["event_type"] == record.TRACE:
            flow.trace_observation_point = _observation_point(row["sub_type"])
            flow.trace_reason = _trace_reason(row)
        if row["event_type"] == record.POLICY_VERDICT:
            flow.policy_match_type = row["match_type"]
            flow.event_type.sub_type = 0
        if row["verdict"] == flow_pb2.DROPPED:
            reason = row["drop_reason"]
            flow.drop_reason = reason
            flow.drop_reason_desc = reason if reason in _REASONS else flow_pb2.DROP_REASON_UNKNOWN
        if row["ifindex"]:
            name = self._context.interface_name(row["ifindex"], row["time_ns"])
            flow.interface.CopyFrom(flow_pb2.NetworkInterface(index=row["ifindex"], name=name))

    def _fill_policies(self, flow: flow_pb2.Flow, row: dict[str, Any]) -> None:
        """Say which policy decided: the origins of the entry, or what switched default deny on."""
        origins: Iterable[PolicyOrigin] = self._context.origins(row["cookie"]) if row["cookie"] else ()
        policies = _policies(origins)
        ingress = row["direction"] == record.INGRESS
        if row["verdict"] not in _DENYING:
            (flow.ingress_allowed_by if ingress else flow.egress_allowed_by).extend(policies)
            return
        if not policies and _is_default_deny(row):
            defaults = self._context.default_deny_origins(
                row["endpoint_id"], row["direction"], row["policy_generation"], row["time_ns"]
            )
            policies = _policies(defaults)
        (flow.ingress_denied_by if ingress else flow.egress_denied_by).extend(policies)


def timestamp(time_ns: int) -> Timestamp:
    """Nanoseconds since 1970 as a protobuf time."""
    return Timestamp(seconds=time_ns // 1_000_000_000, nanos=time_ns % 1_000_000_000)


def _is_default_deny(row: dict[str, Any]) -> bool:
    return bool(row["verdict"] == flow_pb2.AUDIT or row["drop_reason"] == record.POLICY_DENIED)


def _policies(origins: Iterable[PolicyOrigin]) -> list[flow_pb2.Policy]:
    """Each policy once, however many of its rules took part."""
    by_name = {(origin.kind, origin.namespace, origin.name): origin for origin in origins}
    return [_policy(origin) for origin in by_name.values()]


def _policy(origin: PolicyOrigin) -> flow_pb2.Policy:
    return flow_pb2.Policy(
        name=origin.name,
        namespace=origin.namespace,
        labels=origin.labels,
        revision=origin.revision,
        kind=origin.kind,
    )


def _ethernet(row: dict[str, Any]) -> flow_pb2.Ethernet | None:
    source, destination = bytes(row["source_mac"]), bytes(row["destination_mac"])
    if not any(source) and not any(destination):
        return None
    return flow_pb2.Ethernet(source=source.hex(":"), destination=destination.hex(":"))


def ip_of(source: Address, destination: Address) -> flow_pb2.IP:
    """Both addresses as a flow shows them."""
    version = flow_pb2.IPv4 if source.version == 4 else flow_pb2.IPv6
    return flow_pb2.IP(source=str(source), destination=str(destination), ipVersion=version)


def _layer4(row: dict[str, Any]) -> flow_pb2.Layer4 | None:
    protocol, source, destination = row["protocol"], row["source_port"], row["destination_port"]
    if protocol == TCP:
        flags = flow_pb2.TCPFlags(**{name: bool(row["tcp_flags"] & bit) for name, bit in _TCP_BITS})
        return flow_pb2.Layer4(
            TCP=flow_pb2.TCP(source_port=source, destination_port=destination, flags=flags)
        )
    if protocol == UDP:
        return flow_pb2.Layer4(UDP=flow_pb2.UDP(source_port=source, destination_port=destination))
    if protocol == SCTP:
        return flow_pb2.Layer4(SCTP=flow_pb2.SCTP(source_port=source, destination_port=destination))
    if protocol == ICMP:
        return flow_pb2.Layer4(ICMPv4=flow_pb2.ICMPv4(type=destination, code=row["tcp_flags"]))
    if protocol == ICMPV6:
        return flow_pb2.Layer4(ICMPv6=flow_pb2.ICMPv6(type=destination, code=row["tcp_flags"]))
    return None


def _summary(row: dict[str, Any]) -> str:
    protocol = row["protocol"]
    if protocol == TCP:
        names = [name for name, bit in _SUMMARY_ORDER if row["tcp_flags"] & bit]
        return f"TCP Flags: {', '.join(names)}" if names else "TCP"
    if protocol in (ICMP, ICMPV6):
        return icmp.describe(4 if protocol == ICMP else 6, row["destination_port"], row["tcp_flags"])
    return {UDP: "UDP", SCTP: "SCTP"}.get(protocol, f"IP protocol {protocol}")


def _observation_point(sub_type: int) -> flow_pb2.TraceObservationPoint.ValueType:
    if sub_type == record.TO_ENDPOINT:
        return flow_pb2.TO_ENDPOINT
    known = sub_type in _POINTS
    return flow_pb2.TraceObservationPoint.ValueType(sub_type) if known else flow_pb2.UNKNOWN_POINT


def _trace_reason(row: dict[str, Any]) -> flow_pb2.TraceReason.ValueType:
    if row["flags"] & record.FLAG_RELATED:
        return flow_pb2.RELATED
    if row["flags"] & record.FLAG_REPLY:
        return flow_pb2.REPLY
    if row["protocol"] == TCP and row["tcp_flags"] & 0x12 == 0x02:
        return flow_pb2.NEW
    return flow_pb2.TRACE_REASON_UNKNOWN
