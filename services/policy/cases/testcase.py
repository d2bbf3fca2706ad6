"""What a file of `axoneme policy test` says, checked: endpoints, policies, inputs, and verdicts to expect.

Values only; `testfile` reads them, `testworld` gives their endpoints numbers, `testrun` compares. Policies
stay as document nodes: that one of them is refused may be what a case expects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from axoneme.lib.policy.model import AuthMode, Direction
from services.policy.cases.l7 import Outcome, Request
from services.policy.inputs import CidrGroup, CloudGroup, PolicySettings, Service
from services.policy.reading.document import Node

PROTOCOL_NUMBERS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPV6": 58}
PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOL_NUMBERS.items()}


class Kind(StrEnum):
    """What stands behind the name of an endpoint."""

    POD = "pod"
    HOST = "host"
    REMOTE_NODE = "remote-node"
    KUBE_APISERVER = "kube-apiserver"
    EXTERNAL_API_SERVER = "kube-apiserver-external"
    WORLD = "world"
    HEALTH = "health"
    INIT = "init"
    INGRESS = "ingress"
    UNMANAGED = "unmanaged"


OUTSIDE: Final = frozenset({Kind.WORLD, Kind.EXTERNAL_API_SERVER})
NODES: Final = frozenset({Kind.REMOTE_NODE, Kind.KUBE_APISERVER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One side of flows. Without a `cluster` it is one of the case's own."""

    name: str
    kind: Kind
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "default"
    cluster: str = ""
    address: str = ""
    named_ports: Mapping[tuple[int, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCheck:
    """What must become of a request inside a flow; without a `side` by both sides together."""

    request: Request
    expect: Outcome
    side: Direction | None = None


class Flow(NamedTuple):
    """A packet from one endpoint to another, and the verdicts to expect.

    `port` is the destination's, for ICMP the type. `combined`: whether the packet arrives. A mode of `auth`
    that is None must not be demanded. `matched` are names of policies, with or without kind and namespace.
    """

    source: str
    target: str
    protocol: int
    port: int
    verdicts: Mapping[Direction, str] = MappingProxyType({})
    combined: bool | None = None
    auth: Mapping[Direction, AuthMode | None] = MappingProxyType({})
    matched: Mapping[Direction, tuple[str, ...]] = MappingProxyType({})
    requests: tuple[RequestCheck, ...] = ()
    line: int = 0

    def __str__(self) -> str:
        name = PROTOCOL_NAMES.get(self.protocol, str(self.protocol))
        return f"{self.source} -> {self.target} {name}/{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One world with its policies and flows.

    `rejected` are the names of policies that must be refused; `some_rejected`: at least one must be.
    """

    name: str
    line: int
    path: str
    settings: PolicySettings
    endpoints: Mapping[str, Endpoint]
    policies: tuple[Node, ...]
    flows: tuple[Flow, ...]
    services: tuple[Service, ...] = ()
    cidr_groups: tuple[CidrGroup, ...] = ()
    cloud_groups: tuple[CloudGroup, ...] = ()
    dns_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rejected: tuple[str, ...] = ()
    some_rejected: bool = False
