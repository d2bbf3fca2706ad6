"""What a plugin of metrics is: families of series, and what one flow adds to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from axoneme.api.hubble.flow import flow_pb2

SECONDS_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Family:
    """Series of one name; `name` is without the prefix `hubble_`, that of a counter without `_total`."""

    name: str
    text: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram; a counter has none."""


class Sample(NamedTuple):
    """What a flow adds to one series: one, or an observation where the family is a histogram."""

    family: int
    labels: tuple[str, ...]
    value: float | None = None


class Columns(NamedTuple):
    """Which parts of a record decide what a plugin counts."""

    kind: bool = False
    """Event type and sub type."""
    verdict: bool = False
    reason: bool = False
    reply: bool = False
    direction: bool = False
    match: bool = False
    """Match type of a policy verdict."""
    protocol: bool = False
    flags: bool = False
    """TCP flags."""
    icmp: bool = False
    """Type and code."""
    family: bool = False
    """IP version."""
    passed_port: bool = False
    """Destination port of what passed and is not a reply."""
    port: bool = False
    """Destination port of what is not a reply, or was dropped."""
    host: bool = False
    """Whether the source is the node itself."""
    world: bool = False
    """Labels of the destination."""
    message: bool = False
    """What a DNS message says, without its names."""
    query: bool = False
    """The name that a DNS message asks for."""

    def __or__(self, other: Columns) -> Columns:
        return Columns(*(one or another for one, another in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Counts one aspect of flows. `samples` looks at nothing but `columns` of what a record has."""

    families: tuple[Family, ...]
    columns: Columns
    samples: Callable[[flow_pb2.Flow], Iterable[Sample]]
    layer7: str = ""
    """The protocol of layer 7 without which there is nothing to count; empty: any flow may count."""
    inverted: bool = False
    """Whether contexts take the ends the other way round: of a response, the client is the source."""
