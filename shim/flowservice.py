"""The flow side of a node: ring → store → Observer.

A module of its own because it is imported late: numpy is a third of what a start loads, and endpoints and
policies do not wait for it. Until then events stay in the kernel's ring.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from functools import partial

from axoneme.lib.bpf.maps import KernelMap
from axoneme.lib.tasks import TaskScope
from shim.agentevents.log import AgentEventLog
from shim.datapath import Datapath
from shim.flownames import NodeNames
from shim.flows.decode import FlowDecoder
from shim.flows.feed import FlowFeed, pump
from shim.flows.lookups import Lookups
from shim.flows.polledring import open_ring
from shim.flows.spill.options import SpillOptions
from shim.flows.spill.spill import FlowSpill
from shim.flows.store import FlowStore
from shim.hubble.options import HubbleOptions
from shim.hubble.part import HubblePart
from shim.maps import layout
from shim.observer import ObserverService
from shim.status import lost_events_of


class FlowService:
    """Flows of one node and the service that shows them."""

    def __init__(
        self,
        names: NodeNames,
        *,
        capacity: int,
        version: str,
        started_ns: int,
        agent_events: AgentEventLog | None = None,
        hubble: HubbleOptions | None = None,
        spill: SpillOptions | None = None,
    ) -> None:
        """Raises InvalidArgument or Unsupported for an option of Hubble's metrics and exports."""
        self.feed = FlowFeed(FlowStore(1 << capacity.bit_length() - 1), boot_clock_ns=boot_clock_ns)
        decoder = FlowDecoder(names, boot_offset_ns=boot_offset_ns, uuid_salt=secrets.randbits(64))
        self._decoder = decoder
        self.hubble = HubblePart(hubble or HubbleOptions())
        self.lookups = Lookups(decoder, boot_clock_ns=boot_clock_ns, bell=self.feed.bell)
        """Takes what the DNS proxy reports: `lookups.add(events, lost)`."""
        self._spill = None
        if spill is not None:
            self._spill = FlowSpill(spill, self.feed, decoder, uuid_salt=secrets.randbits(64))
        self.observer = ObserverService(
            self.feed,
            decoder,
            version=version,
            boot_clock_ns=boot_clock_ns,
            started_ns=started_ns,
            lookups=self.lookups,
            agent_events=agent_events,
            shown=self.hubble.shown,
            earlier=self._spill.source if self._spill is not None else None,
        )

    def start(self, scope: TaskScope, datapath: Datapath) -> None:
        """Reads the ring from now on; a simulated node has none."""
        if self._spill is not None:
            scope.start("flow spill", self._spill.run())
        events = datapath.maps.get(layout.EVENTS.name)
        if isinstance(events, KernelMap):
            lost: Callable[[], int] = partial(lost_events_of, datapath)
            scope.start("flow events", pump(self.feed, open_ring(events.fileno()), lost))
        self.hubble.start(
            scope,
            sources=self.observer.sources,
            names=self._decoder,
            ask=self.observer.answer,
            boot_clock_ns=boot_clock_ns,
        )


def boot_clock_ns() -> int:
    """The clock of the records: time since boot, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_offset_ns() -> int:
    """What to add to boot time to get wall time."""
    return time.time_ns() - boot_clock_ns()
