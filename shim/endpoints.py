"""Endpoints of a node as a state machine, without I/O.

    (new) ──► LOCKED ──first mapstate applied──► READY ◄──► STALE (a newer policy could not be applied)
                 └────────────────┬───────────────┴────────────┘
                                  ▼
                             TERMINATING ──► (gone)

The table owns numbers, names and the revision that watchers and lists show. A step that the drawing does
not hold is a bug and raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple

from axoneme.lib import identities
from axoneme.lib.errors import NotFound
from axoneme.lib.labels import LabelSet


class EndpointState(IntEnum):
    """As in the node API."""

    LOCKED = 1
    READY = 2
    STALE = 3
    TERMINATING = 4


_STEPS: Mapping[EndpointState, frozenset[EndpointState]] = {
    EndpointState.LOCKED: frozenset({EndpointState.READY, EndpointState.TERMINATING}),
    EndpointState.READY: frozenset({EndpointState.STALE, EndpointState.TERMINATING}),
    EndpointState.STALE: frozenset({EndpointState.READY, EndpointState.TERMINATING}),
    EndpointState.TERMINATING: frozenset(),
}


class HostPort(NamedTuple):
    """A port of the node that leads to a workload."""

    host_port: int  # 1–65535
    container_port: int  # 1–65535
    protocol: int  # as in the IP header: TCP, UDP or SCTP
    host_ip: str  # address of the node on which it listens; empty: all


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One workload interface."""

    endpoint_id: int
    namespace: str
    pod_name: str
    labels: LabelSet
    identity: int
    ips: tuple[str, ...]
    netns: str
    pod_interface: str = "eth0"
    interface_name: str = ""
    ifindex: int = 0
    mac: str = ""
    host_mac: str = ""
    netns_cookie: int = 0  # the kernel's number of the namespace; 0: not known
    state: EndpointState = EndpointState.LOCKED
    state_reason: str = ""
    policy_generation: int = 0
    published: bool = False
    named_ports: tuple[tuple[int, str, int], ...] = ()  # protocol, name, number; sorted
    audit: bool = False  # what policy denies passes and is reported
    aggregation: int = 0  # level of trace events as in the node API, 0: the node's
    host_ports: tuple[HostPort, ...] = ()  # sorted
    adopted: bool = False  # another program made the interface; only programs are attached to it
    learns: bool = False  # its policy has DNS selectors: programs look into axoneme_learned
    cni_container: str = ""  # container and network of the CNI attachment that this endpoint is, if it is one
    cni_network: str = ""

    @property
    def name(self) -> str:
        """`namespace/name`, unique on the node."""
        return f"{self.namespace}/{self.pod_name}"

    @property
    def is_own(self) -> bool:
        """It is the node's health endpoint: no service gives it an identity, a policy or publishes it."""
        return self.identity == identities.HEALTH

    def dump(self) -> dict[str, Any]:
        """Form for the state file."""
        return asdict(self) | {"labels": self.labels.key, "state": self.state.name}

    @classmethod
    def load(cls, dumped: Mapping[str, Any]) -> Endpoint:
        """Reverse of `dump`. Raises ValueError, KeyError or TypeError for another form."""
        fields = dict(dumped)
        fields["labels"] = LabelSet.from_key(fields["labels"])
        fields["state"] = EndpointState[fields["state"]]
        fields["ips"] = tuple(fields["ips"])
        ports = fields.get("named_ports", ())
        fields["named_ports"] = tuple((int(protocol), str(name), int(port)) for protocol, name, port in ports)
        fields["host_ports"] = tuple(
            HostPort(int(port), int(inner), int(protocol), str(ip))
            for port, inner, protocol, ip in fields.get("host_ports", ())
        )
        return cls(**fields)


def generation_after(generation: int) -> int:
    """The next policy generation: 32 bits, never 0, which means that there is none."""
    return generation % 0xFFFF_FFFF + 1


def interface_of(endpoint_id: int) -> str:
    """Name of the node's side of an endpoint's interface."""
    return f"axo{endpoint_id}"


class EndpointTable:
    """All endpoints by number, with a revision that grows with each change."""

    def __init__(self) -> None:
        self._by_id: dict[int, Endpoint] = {}
        self._listeners: list[Callable[[int, Endpoint | None], None]] = []
        self.revision = 0

    def __iter__(self) -> Iterator[Endpoint]:
        return iter([self._by_id[number] for number in sorted(self._by_id)])

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, endpoint_id: int) -> Endpoint | None:
        """An endpoint, if it exists."""
        return self._by_id.get(endpoint_id)

    def require(self, endpoint_id: int) -> Endpoint:
        """An endpoint. Raises NotFound."""
        endpoint = self._by_id.get(endpoint_id)
        if endpoint is None:
            raise NotFound(f"endpoint {endpoint_id} does not exist on this node", reason="ENDPOINT_NOT_FOUND")
        return endpoint

    def find(self, namespace: str, pod_name: str) -> Endpoint | None:
        """The endpoint of a workload, if it exists."""
        wanted = (namespace, pod_name)
        return next((e for e in self._by_id.values() if (e.namespace, e.pod_name) == wanted), None)

    def with_identity(self, identity: int) -> list[Endpoint]:
        """Endpoints that share an identity and still carry traffic."""
        return [e for e in self if e.identity == identity and e.state is not EndpointState.TERMINATING]

    def put(self, endpoint: Endpoint) -> None:
        """Adds or replaces an endpoint without a step of its state."""
        self._by_id[endpoint.endpoint_id] = endpoint
        self._changed(endpoint.endpoint_id, endpoint)

    def change(self, endpoint_id: int, **fields: Any) -> Endpoint:
        """Changes fields of an endpoint that exists."""
        endpoint = replace(self.require(endpoint_id), **fields)
        if endpoint != self._by_id[endpoint_id]:
            self.put(endpoint)
        return endpoint

    def step(self, endpoint_id: int, state: EndpointState, reason: str = "") -> Endpoint:
        """Moves an endpoint along the drawing. Raises ValueError for a step that is not in it."""
        present = self.require(endpoint_id)
        if state is not present.state and state not in _STEPS[present.state]:
            raise ValueError(f"endpoint {endpoint_id} cannot go from {present.state.name} to {state.name}")
        return self.change(endpoint_id, state=state, state_reason=reason)

    def remove(self, endpoint_id: int) -> None:
        """Forgets an endpoint; forgetting what is absent changes nothing."""
        if self._by_id.pop(endpoint_id, None) is not None:
            self._changed(endpoint_id, None)

    def listen(self, listener: Callable[[int, Endpoint | None], None]) -> Callable[[], None]:
        """Calls `listener(number, endpoint or None)` on each change; returns the way to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _changed(self, endpoint_id: int, endpoint: Endpoint | None) -> None:
        self.revision += 1
        for listener in list(self._listeners):
            listener(endpoint_id, endpoint)
