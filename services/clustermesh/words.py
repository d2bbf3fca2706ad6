"""The words of a service and their numbers in messages."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from services.clustermesh.faults import Faults
from services.clustermesh.model import (
    Algorithm,
    BackendState,
    ForwardingMode,
    Protocol,
    ServiceType,
    TrafficPolicy,
)

TYPES: Final[dict[int, ServiceType]] = {
    pb.SERVICE_TYPE_CLUSTER_IP: ServiceType.CLUSTER_IP,
    pb.SERVICE_TYPE_NODE_PORT: ServiceType.NODE_PORT,
    pb.SERVICE_TYPE_LOAD_BALANCER: ServiceType.LOAD_BALANCER,
}
POLICIES: Final[dict[int, TrafficPolicy]] = {
    pb.TRAFFIC_POLICY_CLUSTER: TrafficPolicy.CLUSTER,
    pb.TRAFFIC_POLICY_LOCAL: TrafficPolicy.LOCAL,
}
ALGORITHMS: Final[dict[int, Algorithm]] = {
    pb.ALGORITHM_RANDOM: Algorithm.RANDOM,
    pb.ALGORITHM_MAGLEV: Algorithm.MAGLEV,
}
MODES: Final[dict[int, ForwardingMode]] = {
    pb.FORWARDING_MODE_SNAT: ForwardingMode.SNAT,
    pb.FORWARDING_MODE_DSR: ForwardingMode.DSR,
}
STATES: Final[dict[int, BackendState]] = {
    pb.BACKEND_STATE_ACTIVE: BackendState.ACTIVE,
    pb.BACKEND_STATE_TERMINATING: BackendState.TERMINATING,
    pb.BACKEND_STATE_MAINTENANCE: BackendState.MAINTENANCE,
}
PROTOCOLS: Final[dict[int, Protocol]] = {int(one): one for one in Protocol}

Word = TypeVar("Word", bound=StrEnum)
_NUMBERS: Final[dict[StrEnum, int]] = {
    word: number for table in (TYPES, POLICIES, ALGORITHMS, MODES, STATES) for number, word in table.items()
}


def word_of(table: Mapping[int, Word], number: int, unset: Word, field: str, faults: Faults) -> Word:
    """The word of a number; one that nobody knows becomes a fault of `field`."""
    if number and number not in table:
        faults.add(field, f"{number} is not known; use one of {', '.join(map(str, sorted(table)))}")
    return table.get(number, unset)


def number_of(word: StrEnum) -> Any:
    """The number of a word; the defaults, which are empty words, are 0."""
    return _NUMBERS[word] if word else 0
