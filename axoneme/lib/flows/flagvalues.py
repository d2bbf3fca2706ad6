"""What the value of a filter flag becomes in a FlowFilter: one function for each family of flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.addressrules import TCP_FLAG_NAMES
from axoneme.lib.flows.flagtable import FilterFlag
from axoneme.lib.flows.names import EVENT_TYPES, RESERVED_IDENTITIES, TRACE_POINTS

Filter = flow_pb2.FlowFilter
Filler = Callable[[Filter, FilterFlag, str, str], None]
RESERVED: Final = {name: number for number, name in RESERVED_IDENTITIES.items()}


def fill(target: Filter, flag: FilterFlag, side: str, value: str) -> None:
    """Add a value of a flag to a filter, on a side (empty: neither). Raises InvalidArgument."""
    _FILLERS[flag.family](target, flag, side, value)


def _text(field_name: str) -> Filler:
    def filler(target: Filter, flag: FilterFlag, side: str, value: str) -> None:
        if not value:
            raise InvalidArgument(f"--{flag.name}: empty value")
        getattr(target, f"{side}_{field_name}" if side else field_name).append(value)

    return filler


def _identity(target: Filter, flag: FilterFlag, side: str, value: str) -> None:
    number = RESERVED.get(value.lower())
    if number is None:
        if not value.isascii() or not value.isdigit() or int(value) >= 1 << 32:
            raise InvalidArgument(f"--{flag.name}: {value!r} is not a number or one of {', '.join(RESERVED)}")
        number = int(value)
    getattr(target, f"{side}_identity").append(number)


def _workload(target: Filter, flag: FilterFlag, side: str, value: str) -> None:
    kind, slash, name = value.rpartition("/")
    if not kind and not name:
        raise InvalidArgument(f"--{flag.name}: empty value; give [Kind/]name")
    getattr(target, f"{side}_workload").append(flow_pb2.Workload(kind=kind if slash else "", name=name))


def _named(enum: EnumTypeWrapper, flag: FilterFlag, value: str) -> int:
    names = {name: number for name, number in enum.items() if number}
    if value.upper() not in names:
        raise InvalidArgument(f"--{flag.name}: unknown value {value!r}; known: {', '.join(names)}")
    return names[value.upper()]


def _enum(field_name: str, enum: object) -> Filler:
    def filler(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
        getattr(target, field_name).append(_named(enum, flag, value))  # type: ignore[arg-type]

    return filler


def _type(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
    name, colon, sub_name = value.partition(":")
    kind = EVENT_TYPES.get(name.lower(), int(name) if name.isascii() and name.isdigit() else None)
    if kind is None or kind >= 1 << 31:
        raise InvalidArgument(f"--{flag.name}: unknown event type {name!r}; known: {', '.join(EVENT_TYPES)}")
    wanted = target.event_type.add(type=kind)
    if colon:
        wanted.match_sub_type = True
        wanted.sub_type = _sub_type(kind, sub_name)


def _sub_type(kind: int, text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 1 << 31:
        return int(text)
    if kind == EVENT_TYPES["trace"] and text.lower() in TRACE_POINTS:
        return TRACE_POINTS.index(text.lower())
    agent = {name.lower().replace("_", "-"): number for name, number in flow_pb2.AgentEventType.items()}
    if kind == EVENT_TYPES["agent"] and text.lower() in agent:
        return agent[text.lower()]
    points = ", ".join(TRACE_POINTS)
    raise InvalidArgument(f"--type: unknown sub type {text!r}; give its number, or for trace one of {points}")


def _tcp_flags(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
    names = [name.strip().upper() for name in value.split(",")]
    for name in names:
        if name not in TCP_FLAG_NAMES:
            raise InvalidArgument(f"--{flag.name}: unknown flag {name!r}; known: {', '.join(TCP_FLAG_NAMES)}")
    flags = target.tcp_flags.add()
    for name in names:
        setattr(flags, name, True)


def _ip_version(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
    text = {"ipv4": "v4", "ipv6": "v6"}.get(flag.name, value.lower())
    versions = {"none": flow_pb2.IP_NOT_USED, "v4": flow_pb2.IPv4, "v6": flow_pb2.IPv6}
    if text not in versions:
        raise InvalidArgument(f"--{flag.name}: unknown IP version {value!r}; known: none, v4, v6")
    target.ip_version.append(versions[text])


def _interface(target: Filter, flag: FilterFlag, __: str, value: str) -> None:
    if not value:
        raise InvalidArgument(f"--{flag.name}: empty value")
    target.interface.add(name=value)


def _reply(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
    if value.lower() not in ("true", "false"):
        raise InvalidArgument(f"--{flag.name}: {value!r} is not true or false")
    target.reply.append(value.lower() == "true")


def _http_header(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
    key, colon, text = value.partition(":")
    if not key or not colon:
        raise InvalidArgument(f"--{flag.name}: {value!r} is not NAME:VALUE")
    target.http_header.add(key=key, value=text)


def _ip_trace_id(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
    if not value.isascii() or not value.isdigit() or not 0 < int(value) < 1 << 64:
        raise InvalidArgument(f"--{flag.name}: {value!r} is not a number from 1 on")
    target.ip_trace_id.append(int(value))


def _cel(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
    if not value:
        raise InvalidArgument(f"--{flag.name}: empty value")
    target.experimental.cel_expression.append(value)


def _encryption(encrypted: bool) -> Filler:
    def filler(target: Filter, _: FilterFlag, __: str, ___: str) -> None:
        if encrypted not in target.encrypted:
            target.encrypted.append(encrypted)

    return filler


_FILLERS: Final[dict[str, Filler]] = {
    "pod": _text("pod"),
    "label": _text("label"),
    "ip": _text("ip"),
    "snat-ip": _text("source_ip_xlated"),
    "fqdn": _text("fqdn"),
    "port": _text("port"),
    "service": _text("service"),
    "cluster": _text("cluster_name"),
    "identity": _identity,
    "workload": _workload,
    "protocol": _text("protocol"),
    "dns-query": _text("dns_query"),
    "http-status": _text("http_status_code"),
    "http-method": _text("http_method"),
    "http-path": _text("http_path"),
    "http-url": _text("http_url"),
    "http-header": _http_header,
    "verdict": _enum("verdict", flow_pb2.Verdict),
    "type": _type,
    "traffic-direction": _enum("traffic_direction", flow_pb2.TrafficDirection),
    "drop-reason-desc": _enum("drop_reason_desc", flow_pb2.DropReason),
    "tcp-flags": _tcp_flags,
    "node-name": _text("node_name"),
    "node-label": _text("node_labels"),
    "interface": _interface,
    "encrypted": _encryption(True),
    "unencrypted": _encryption(False),
    "uuid": _text("uuid"),
    "trace-id": _text("trace_id"),
    "ip-trace-id": _ip_trace_id,
    "ip-version": _ip_version,
    "reply": _reply,
    "cel-expression": _cel,
}
