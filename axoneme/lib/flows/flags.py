"""From the filter flags of `axoneme observe` to the whitelist and blacklist of a request.

Flags of one side fill one field of a filter; flags of either side (`--pod`) make two filters, one that looks
at the source and one at the destination, and everything else is copied into both. The same flag twice means
OR, different flags mean AND. `--not` sends the next flag to the blacklist, where the same rules hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.filters import TCP_FLAG_NAMES
from axoneme.lib.flows.names import EVENT_TYPES, RESERVED_IDENTITIES, TRACE_POINTS

Filter = flow_pb2.FlowFilter
RESERVED: Final = {name: number for number, name in RESERVED_IDENTITIES.items()}


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


FLAGS: Final[tuple[FilterFlag, ...]] = (
    *_sided("pod", "pod as [namespace/]prefix, without a slash in namespace default", "POD"),
    *_sided("namespace", "namespace of the pod", "NAMESPACE", "-n"),
    *_sided("all-namespaces", "any pod", "", "-A", is_switch=True),
    *_sided("label", "label selector such as app=web,!canary", "SELECTOR", "-l"),
    *_sided("ip", "address or CIDR", "IP"),
    *_sided("fqdn", "DNS name, * as wildcard", "NAME"),
    *_sided("port", "TCP, UDP or SCTP port", "PORT"),
    *_sided("identity", "identity number or reserved name such as world", "IDENTITY"),
    *_sided("service", "service as [namespace/]prefix", "SERVICE"),
    *_sided("workload", "workload as [Kind/]name", "WORKLOAD"),
    *_sided("cluster", "cluster name", "CLUSTER")[1:],  # --cluster chooses the cluster to ask
    FilterFlag("protocol", "protocol", "", "Protocol: tcp, udp, icmp, sctp, dns, …", "PROTOCOL"),
    FilterFlag("verdict", "verdict", "", "FORWARDED, DROPPED, AUDIT, REDIRECTED, …", "VERDICT"),
    FilterFlag("type", "type", "", "TYPE[:SUBTYPE], such as drop, trace:to-stack.", "TYPE", short="-t"),
    FilterFlag("traffic-direction", "traffic-direction", "", "ingress or egress.", "DIRECTION"),
    FilterFlag("drop-reason-desc", "drop-reason-desc", "", "Drop reason, such as POLICY_DENIED.", "REASON"),
    FilterFlag("tcp-flags", "tcp-flags", "", "TCP flags, all of which are set: syn,ack.", "FLAGS"),
    FilterFlag("node-name", "node-name", "", "Node as [cluster/]node, * as wildcard.", "NODE"),
    FilterFlag("interface", "interface", "", "Network interface by name.", "INTERFACE"),
    FilterFlag("uuid", "uuid", "", "One flow by its uuid.", "UUID"),
    FilterFlag("ip-version", "ip-version", "", "none, v4 or v6.", "VERSION"),
    FilterFlag("ipv4", "ip-version", "", "IPv4 flows only.", "", is_switch=True, short="-4"),
    FilterFlag("ipv6", "ip-version", "", "IPv6 flows only.", "", is_switch=True, short="-6"),
    FilterFlag("reply", "reply", "", "true: replies only; false: requests and drops.", "BOOL"),
)  # fmt: skip
FLAG_BY_NAME: Final = {flag.name: flag for flag in FLAGS}
_POD_FAMILIES: Final = ("pod", "namespace", "all-namespaces")
_ADDRESS_FAMILIES: Final = (*_POD_FAMILIES, "ip", "fqdn")


@dataclass(slots=True)
class FilterSet:
    """The filters of one list, in the order of the flags."""

    _values: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, value: str) -> None:
        """Take one flag. Raises InvalidArgument if it is unknown or contradicts an earlier one."""
        flag = FLAG_BY_NAME.get(name)
        if flag is None:
            raise InvalidArgument(f"unknown filter --{name}")
        for other in self._values:
            if _conflict(flag, FLAG_BY_NAME[other]):
                raise InvalidArgument(f"filters --{other} and --{name} cannot be combined")
        self._values.setdefault(name, []).append(value)

    def build(self) -> list[Filter]:
        """No filter, one, or two when a flag looks at either end. Raises InvalidArgument naming the flag."""
        if not self._values:
            return []
        left, right = Filter(), Filter()
        for name, values in self._with_namespaces().items():
            flag = FLAG_BY_NAME[name]
            for value in values:
                if flag.side == "both":
                    _fill(left, flag, "source", value)
                    _fill(right, flag, "destination", value)
                else:
                    _fill(left, flag, flag.side, value)
                    _fill(right, flag, flag.side, value)
        return [left] if left == right else [left, right]

    def _with_namespaces(self) -> dict[str, list[str]]:
        """The flags with namespaces written into pod (or service) names of the same side."""
        values = {name: list(texts) for name, texts in self._values.items()}
        for prefix in ("", "from-", "to-"):
            namespaces = values.pop(f"{prefix}namespace", None)
            if values.pop(f"{prefix}all-namespaces", None) is not None:
                namespaces = [""]
            if namespaces is None:
                continue
            target = f"{prefix}service" if f"{prefix}service" in values else f"{prefix}pod"
            names = values.get(target, [""])
            values[target] = [_in_namespace(prefix, ns, name) for ns in namespaces for name in names]
        return values


def _in_namespace(prefix: str, namespace: str, name: str) -> str:
    own, slash, rest = name.partition("/")
    if not slash:
        return f"{namespace}/{name}"
    if own != namespace:
        raise InvalidArgument(f"--{prefix}namespace {namespace} contradicts the namespace of {name!r}")
    return f"{namespace}/{rest}"


def _conflict(one: FilterFlag, other: FilterFlag) -> bool:
    if one.name == other.name or not one.side or not other.side:
        return False
    same_side = one.side == other.side
    if not same_side and "both" not in (one.side, other.side):
        return False
    families = {one.family, other.family}
    if families == {"pod", "namespace"} or families == {"service", "namespace"}:
        return not same_side
    if families <= set(_ADDRESS_FAMILIES):
        return True
    return one.family == other.family


def _fill(target: Filter, flag: FilterFlag, side: str, value: str) -> None:
    _FILLERS[flag.family](target, flag, side, value)


def _text(field_name: str) -> Callable[[Filter, FilterFlag, str, str], None]:
    def fill(target: Filter, flag: FilterFlag, side: str, value: str) -> None:
        if not value:
            raise InvalidArgument(f"--{flag.name}: empty value")
        getattr(target, f"{side}_{field_name}" if side else field_name).append(value)

    return fill


def _identity(target: Filter, flag: FilterFlag, side: str, value: str) -> None:
    number = RESERVED.get(value.lower())
    if number is None:
        if not value.isascii() or not value.isdigit() or int(value) >= 1 << 32:
            raise InvalidArgument(f"--{flag.name}: {value!r} is not a number or one of {', '.join(RESERVED)}")
        number = int(value)
    getattr(target, f"{side}_identity").append(number)


def _workload(target: Filter, _: FilterFlag, side: str, value: str) -> None:
    kind, slash, name = value.rpartition("/")
    getattr(target, f"{side}_workload").append(flow_pb2.Workload(kind=kind if slash else "", name=name))


def _named(enum: EnumTypeWrapper, flag: FilterFlag, value: str) -> int:
    names = {name: number for name, number in enum.items() if number}
    if value.upper() not in names:
        raise InvalidArgument(f"--{flag.name}: unknown value {value!r}; known: {', '.join(names)}")
    return names[value.upper()]


def _enum(field_name: str, enum: object) -> Callable[[Filter, FilterFlag, str, str], None]:
    def fill(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
        getattr(target, field_name).append(_named(enum, flag, value))  # type: ignore[arg-type]

    return fill


def _type(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
    name, colon, sub_name = value.partition(":")
    kind = EVENT_TYPES.get(name.lower(), int(name) if name.isdigit() else None)
    if kind is None:
        raise InvalidArgument(f"--{flag.name}: unknown event type {name!r}; known: {', '.join(EVENT_TYPES)}")
    wanted = target.event_type.add(type=kind)
    if colon:
        wanted.match_sub_type = True
        wanted.sub_type = _sub_type(kind, sub_name)


def _sub_type(kind: int, text: str) -> int:
    if text.isascii() and text.isdigit():
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


def _interface(target: Filter, _: FilterFlag, __: str, value: str) -> None:
    target.interface.add(name=value)


def _reply(target: Filter, flag: FilterFlag, _: str, value: str) -> None:
    if value.lower() not in ("true", "false"):
        raise InvalidArgument(f"--{flag.name}: {value!r} is not true or false")
    target.reply.append(value.lower() == "true")


_FILLERS: Final[dict[str, Callable[[Filter, FilterFlag, str, str], None]]] = {
    "pod": _text("pod"),
    "label": _text("label"),
    "ip": _text("ip"),
    "fqdn": _text("fqdn"),
    "port": _text("port"),
    "service": _text("service"),
    "cluster": _text("cluster_name"),
    "identity": _identity,
    "workload": _workload,
    "protocol": _text("protocol"),
    "verdict": _enum("verdict", flow_pb2.Verdict),
    "type": _type,
    "traffic-direction": _enum("traffic_direction", flow_pb2.TrafficDirection),
    "drop-reason-desc": _enum("drop_reason_desc", flow_pb2.DropReason),
    "tcp-flags": _tcp_flags,
    "node-name": _text("node_name"),
    "interface": _interface,
    "uuid": _text("uuid"),
    "ip-version": _ip_version,
    "reply": _reply,
}


def build_filters(flags: Iterable[tuple[str, str, bool]]) -> tuple[list[Filter], list[Filter]]:
    """Whitelist and blacklist of (flag, value, negated) in the order given."""
    wanted, unwanted = FilterSet(), FilterSet()
    for name, value, negated in flags:
        (unwanted if negated else wanted).add(name, value)
    return wanted.build(), unwanted.build()


def conflicting_pairs() -> Sequence[tuple[str, str]]:
    """All pairs of flags that cannot be combined, for the documentation and its test."""
    return [(a.name, b.name) for a, b in combinations(FLAGS, 2) if _conflict(a, b)]
