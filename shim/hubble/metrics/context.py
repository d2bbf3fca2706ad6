"""Labels that tell the ends of a flow, as the context options of a plugin ask for them.

Values are read off a decoded flow; what they depend on is told in `needs`, so that many records may share
one flow (columns.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.rule import Side
from shim.hubble.metrics.options import Contexts

_APP_LABELS: Final = ("k8s:app.kubernetes.io/name=", "k8s:k8s-app=", "k8s:app=")
_KUBE_APISERVER: Final = "reserved:kube-apiserver"
_BOUND: Final = frozenset(("pod", "pod-name", "ip"))
"""Identifiers whose value goes away with the pod."""
_SIDES: Final[tuple[Side, Side]] = ("source", "destination")
Value = Callable[[flow_pb2.Flow], str]


class Needs(NamedTuple):
    """What label values depend on."""

    ends: frozenset[Side] = frozenset()
    """Sides whose names are asked for."""
    addresses: frozenset[Side] = frozenset()
    """Sides whose address is asked for."""
    dns: frozenset[Side] = frozenset()
    """Sides whose DNS names are asked for."""
    direction: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            self.ends | other.ends,
            self.addresses | other.addresses,
            self.dns | other.dns,
            self.direction or other.direction,
        )


class ContextLabels:
    """The context labels of one plugin."""

    def __init__(self, contexts: Contexts) -> None:
        self.names: tuple[str, ...] = contexts.labels
        self._values: list[Value] = [_label(name) for name in contexts.labels]
        needs = _needs_of_labels(contexts.labels)
        bound = {_side_of(name) for name in contexts.labels if name.endswith(("_pod", "_ip"))}
        for side in _SIDES:
            plain, egress, ingress = (
                getattr(contexts, f"{side}{kind}") for kind in ("", "_egress", "_ingress")
            )
            if not (plain or egress or ingress):
                continue
            self.names += (side,)
            self._values.append(_context(side, plain, egress or plain, ingress or plain))
            used = {*plain, *egress, *ingress}
            needs = needs | _needs_of_identifiers(side, used, by_direction=bool(egress or ingress))
            if used & _BOUND:
                bound.add(side)
        self.needs = needs
        self.bound: frozenset[Side] = frozenset(bound)
        """Sides whose pod a series lives with."""

    def values(self, flow: flow_pb2.Flow) -> tuple[str, ...]:
        """Values for `names`; empty where nothing is known."""
        return tuple([value(flow) for value in self._values])


def _needs_of_identifiers(side: Side, used: set[str], *, by_direction: bool) -> Needs:
    one: frozenset[Side] = frozenset((side,))
    none: frozenset[Side] = frozenset()
    return Needs(
        one if used - {"ip", "dns"} else none,
        one if "ip" in used else none,
        one if "dns" in used else none,
        by_direction,
    )


def _needs_of_labels(names: Iterable[str]) -> Needs:
    ends = {_side_of(name) for name in names if name != "traffic_direction" and not name.endswith("_ip")}
    addresses = {_side_of(name) for name in names if name.endswith("_ip")}
    return Needs(frozenset(ends), frozenset(addresses), frozenset(), "traffic_direction" in names)


def _side_of(name: str) -> Side:
    return "source" if name.startswith("source") else "destination"


def _context(side: Side, plain: tuple[str, ...], egress: tuple[str, ...], ingress: tuple[str, ...]) -> Value:
    by_direction = {flow_pb2.EGRESS: _chain(side, egress), flow_pb2.INGRESS: _chain(side, ingress)}
    otherwise = _chain(side, plain)

    def value(flow: flow_pb2.Flow) -> str:
        return by_direction.get(flow.traffic_direction, otherwise)(flow)

    return value


def _chain(side: Side, identifiers: tuple[str, ...]) -> Value:
    """The first identifier that has a value."""
    values = [_identifier(side, identifier) for identifier in identifiers]

    def value(flow: flow_pb2.Flow) -> str:
        return next((text for one in values if (text := one(flow))), "")

    return value


def _identifier(side: Side, name: str) -> Value:
    if name == "ip":
        return lambda flow: str(getattr(flow.IP, side))
    if name == "dns":
        return lambda flow: ",".join(getattr(flow, f"{side}_names"))
    of_end = _OF_END[name]
    return lambda flow: of_end(getattr(flow, side))


def _label(name: str) -> Value:
    if name == "traffic_direction":
        return lambda flow: _direction(flow.traffic_direction)
    side = _side_of(name)
    kind = name.removeprefix(f"{side}_")
    return _identifier(side, _LABEL_IDENTIFIERS.get(kind, kind))


_LABEL_IDENTIFIERS: Final = {"pod": "pod-name", "workload": "workload-name"}


def _direction(number: int) -> str:
    names = {flow_pb2.INGRESS: "ingress", flow_pb2.EGRESS: "egress"}
    return names.get(flow_pb2.TrafficDirection.ValueType(number), "unknown")


def _joined(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace and name else name


def _workload(end: flow_pb2.Endpoint) -> tuple[str, str]:
    return (end.workloads[0].kind, end.workloads[0].name) if end.workloads else ("", "")


def _reserved(end: flow_pb2.Endpoint) -> str:
    if _KUBE_APISERVER in end.labels:
        return _KUBE_APISERVER
    return next((label for label in end.labels if label.startswith("reserved:")), "")


def _app(end: flow_pb2.Endpoint) -> str:
    found = (label.partition("=")[2] for label in end.labels if label.startswith(_APP_LABELS))
    return next((value for value in found if value), "")


_OF_END: Final[dict[str, Callable[[flow_pb2.Endpoint], str]]] = {
    "identity": lambda end: ",".join(end.labels),
    "namespace": lambda end: end.namespace,
    "pod": lambda end: _joined(end.namespace, end.pod_name),
    "pod-name": lambda end: end.pod_name,
    "reserved-identity": _reserved,
    "workload": lambda end: _joined(end.namespace, _workload(end)[1]),
    "workload-name": lambda end: _workload(end)[1],
    "workload_kind": lambda end: _workload(end)[0],
    "app": _app,
}
