"""The plugins of one node with their context labels: what a decoded flow adds to which series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import Final, NamedTuple

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.rule import Side
from shim.hubble.metrics.context import ContextLabels, Needs
from shim.hubble.metrics.options import PluginOptions
from shim.hubble.metrics.plugin import Columns, Family, Plugin
from shim.hubble.metrics.plugins import PLUGINS
from shim.hubble.metrics.series import Key, Place, Pod, Series, SeriesTable

MAX_SERIES: Final = 20_000
_OTHER: Final[dict[Side, Side]] = {"source": "destination", "destination": "source"}


class Addition(NamedTuple):
    """What one flow adds to one series; None where there is no room for the series."""

    series: Series | None
    value: float | None


class Looks(NamedTuple):
    """What plugins look at: parts of a record, and names of its ends."""

    columns: Columns
    needs: Needs


class _Part(NamedTuple):
    plugin: Plugin
    contexts: ContextLabels
    first_family: int


class FlowCounter:
    """Counts flows."""

    def __init__(self, wanted: Iterable[PluginOptions], max_series: int = MAX_SERIES) -> None:
        self._parts: list[_Part] = []
        families: list[Family] = []
        for options in wanted:
            plugin, contexts = PLUGINS[options.name](options.flags), ContextLabels(options.contexts)
            self._parts.append(_Part(plugin, contexts, len(families)))
            families += [_with_labels(family, contexts.names) for family in plugin.families]
        self.table: Final = SeriesTable(families, max_series)

    def looks_at(self, layer7: str) -> Looks | None:
        """What all plugins look at in flows of a protocol of layer 7; None where none counts them."""
        parts = [part for part in self._parts if part.plugin.layer7 in ("", layer7)]
        if not parts:
            return None
        columns = reduce(lambda a, b: a | b, (part.plugin.columns for part in parts), Columns())
        needs = reduce(lambda a, b: a | b, (part.contexts.needs for part in parts), Needs())
        if columns.world:
            needs = needs | Needs(frozenset(("destination",)))
        return Looks(columns._replace(direction=columns.direction or needs.direction), needs)

    def count(self, flow: flow_pb2.Flow, times: int = 1) -> None:
        """Count a flow that was seen so many times."""
        self.add(self.additions(flow), times)

    def add(self, additions: Iterable[Addition], times: int) -> None:
        """Add what `additions` gave, so many times; nothing may have been dropped since."""
        for series, value in additions:
            if series is None:
                self.table.overflow += times
            else:
                series.add(times, value)

    def additions(self, flow: flow_pb2.Flow) -> list[Addition]:
        """What a flow adds."""
        return [addition for part in self._parts for addition in self._of_part(part, flow)]

    def _of_part(self, part: _Part, flow: flow_pb2.Flow) -> Iterator[Addition]:
        context: tuple[str, ...] | None = None
        seen = flow
        for sample in part.plugin.samples(flow):
            if context is None:
                seen = _inverted(flow) if part.plugin.inverted else flow
                context = part.contexts.values(seen)
            key = Key(part.first_family + sample.family, (*context, *sample.labels))
            series = self.table.get(key)
            if series is not None:
                self._bind(key, part.contexts.bound, seen)
            yield Addition(series, sample.value)

    def _bind(self, key: Key, sides: Iterable[Side], flow: flow_pb2.Flow) -> None:
        for side in sides:
            end = getattr(flow, side)
            if end.pod_name:
                place = Place(getattr(flow.IP, side), end.ID)
                self.table.bind(key, Pod(end.namespace, end.pod_name), place)


def _with_labels(family: Family, context: tuple[str, ...]) -> Family:
    return Family(family.name, family.text, (*context, *family.labels), family.buckets)


def _inverted(flow: flow_pb2.Flow) -> flow_pb2.Flow:
    """The flow as its request was: ends the other way round."""
    request = flow_pb2.Flow(traffic_direction=flow.traffic_direction)
    for side, other in _OTHER.items():
        getattr(request, side).CopyFrom(getattr(flow, other))
        getattr(request, f"{side}_names").extend(getattr(flow, f"{other}_names"))
    request.IP.source, request.IP.destination = flow.IP.destination, flow.IP.source
    return request
