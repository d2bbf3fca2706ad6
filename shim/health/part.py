"""The health of the network as one part of the shim: built from the configuration, fed with nodes."""

from __future__ import annotations

import datetime as dt
import random
import socket
from collections.abc import Callable, Iterable

from axoneme.lib.tasks import TaskScope
from shim.config import ShimConfig
from shim.datapath import Datapath
from shim.health.endpoint import HealthEndpoint
from shim.health.prober import Prober
from shim.health.probes import probes
from shim.health.report import HealthReport
from shim.health.responder import HealthResponder
from shim.health.table import HealthTable, targets_of
from shim.network import NetworkFacts
from shim.routes import NodeEntry

SIMULATED, SWITCHED_OFF = "simulated: no packets", "health probes are switched off (health_port 0)"


class Health:
    """Prober, responder and report of one node."""

    def __init__(
        self,
        cfg: ShimConfig,
        datapath: Datapath,
        endpoint: HealthEndpoint,
        *,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._endpoint, self._netns = endpoint, ""
        self._datapath, self._port = datapath, cfg.health_port
        idle = SIMULATED if datapath.simulated else "" if cfg.health_port else SWITCHED_OFF
        self._table = HealthTable(cfg.health_seconds, clock=clock, rng=rng)
        self._prober = self._responder = None
        if not idle:
            self._prober = Prober(
                self._table, probes(cfg.health_port), now=lambda: dt.datetime.now(dt.UTC), clock=clock
            )
            self._responder = HealthResponder(port=cfg.health_port, open_health=self._open)
        own = f"{cfg.cluster_name}/{cfg.node_name}"
        self.report = HealthReport(own, self._table, self._prober, idle=idle)

    def start(self, scope: TaskScope) -> None:
        """Begins to probe."""
        if self._prober is not None:
            scope.start("health probes", self._prober.run())

    def set_nodes(self, nodes: Iterable[NodeEntry], own: NodeEntry) -> None:
        """These nodes are probed, the own one among them."""
        others = (node for node in nodes if node.key != own.key)
        self._table.replace(targets_of((own, *others)))

    async def follow(self, own: NodeEntry) -> None:
        """Answers at the own addresses of this moment."""
        if self._responder is not None:
            await self._endpoint.follow(own.health_ips, self._netns)
            await self._responder.follow(own.internal_ips, own.health_ips if self._netns else ())

    def set_network(self, facts: NetworkFacts) -> None:
        """The health endpoint may be in another namespace."""
        if self._responder is not None and facts.health_netns != self._netns:
            self._responder.forget_endpoint()
        self._netns = facts.health_netns

    def problems(self) -> list[str]:
        """What does not answer here, in words."""
        answering = self._responder.problems() if self._responder is not None else []
        return [*self._endpoint.problems(), *answering]

    def close(self) -> None:
        """Stops answering."""
        if self._responder is not None:
            self._responder.close()

    async def _open(self, ips: tuple[str, ...]) -> list[socket.socket]:
        return await self._datapath.health_listener(ips, self._port)
