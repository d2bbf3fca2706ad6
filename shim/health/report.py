"""The answer of GetHealth: all nodes with the last result of each way, the own one first."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from axoneme.api.node.v1 import node_pb2
from shim.health.prober import Prober
from shim.health.table import HealthTable, Result, Target

NOT_YET = "not probed yet"


class HealthReport:
    """What the node API shows; without a prober (simulated, or switched off) every way says why."""

    def __init__(self, own: str, table: HealthTable, prober: Prober | None, *, idle: str = "") -> None:
        self._own, self._table, self._prober, self._idle = own, table, prober, idle

    async def answer(self, *, probe: bool) -> node_pb2.GetHealthResponse:
        """The last results; with `probe` the results of this moment."""
        if probe and self._prober is not None:
            await self._prober.probe_all()
        return node_pb2.GetHealthResponse(nodes=self._nodes(self._table.targets))

    def _nodes(self, targets: Iterable[Target]) -> list[node_pb2.NodeHealth]:
        ordered = sorted(targets, key=lambda one: (one.node != self._own, one))
        return [
            node_pb2.NodeHealth(node=name, paths=[self._path(one) for one in found])
            for name, found in groupby(ordered, key=lambda one: one.node)
        ]

    def _path(self, target: Target) -> node_pb2.HealthPath:
        path = node_pb2.HealthPath(address=target.address, target=target.role, kind=target.kind)
        result = self._table.results.get(target)
        if result is None:
            path.error = self._idle or NOT_YET
        else:
            _fill(path, result)
        return path


def _fill(path: node_pb2.HealthPath, result: Result) -> None:
    path.reachable = result.outcome.reachable
    path.seconds = result.outcome.seconds
    path.error = result.outcome.error
    path.time.FromDatetime(result.time)
