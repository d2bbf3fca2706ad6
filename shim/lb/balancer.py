"""Takes the services stream and what else frontends depend on, and keeps the kernel's maps equal to it.

    services (stream) ────────┐
    endpoints (host ports,    ├─► dirty owners ─► plans ─► claims ─► books ─► maps
      local backends)         │     (coalesced; planned and written in a thread)
    addresses of this node ───┘

One flush runs at a time. An owner that cannot be written keeps what it has, is reported, and is tried again
after 100 ms, doubling to 60 s; when something made room, at once. Nothing of an earlier life goes away
before the first complete snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from axoneme.lib.intent import Failure
from shim.endpoints import EndpointTable, HostPort
from shim.lb import hostports, tables
from shim.lb.books import Books
from shim.lb.changes import Change
from shim.lb.claims import Claims
from shim.lb.model import (
    DSR,
    HOST_PORT_OWNER,
    MAGLEV,
    MAX_SLOTS,
    RANDOM,
    SNAT,
    Frontend,
    NodeView,
    Owner,
    Service,
)
from shim.lb.owners import Owners
from shim.lb.plan import Plan, plan
from shim.lb.records import frontend_key
from shim.lb.retries import Retries
from shim.lb.tables import MaglevTables, TableMaker
from shim.maps.base import address_bytes
from shim.maps.lb import LB_INSIDE
from shim.neededfeatures import DSR_FEATURES, MAGLEV_FEATURES, first_missing

logger = logging.getLogger(__name__)

OWNERS_AT_ONCE: Final = 2_000
MAX_NAMED: Final = 5
_FLUSH: Final = "flush"


class LoadBalancer:
    """Load balancing of one node."""

    def __init__(
        self,
        datapath: TableMaker,
        *,
        node: NodeView,
        endpoints: EndpointTable,
        clock: Callable[[], float],
    ) -> None:
        self.books = Books(datapath.maps, clock=clock)
        self._tables = MaglevTables(datapath, self.books)
        self.complete = False
        self.missing: dict[str, str] = {}
        """What this node lacks, `maglev` or `dsr`, and why: services that ask for it are refused."""
        self.on_applied: Callable[[str, Owner | None, Plan], None] = _nobody_listens
        """Hears that an owner is in the kernel as planned; None when it is gone."""
        self._node, self._clock = node, clock
        self._defaults = node
        self._endpoints = endpoints
        self._owners = Owners(endpoints)
        self._claims = Claims()
        self._conflicts: dict[str, Failure] = {}
        self._retries = Retries(clock)
        self._flushes = Retries(clock)  # the flush itself, under one name
        self._lock = asyncio.Lock()

    # --- what this depends on

    async def restore(self, last_backend: int = 0, last_set: int = 0) -> None:
        """Takes over the maps of an earlier life and the numbers that it gave last."""
        async with self._lock:
            await asyncio.to_thread(self.books.load, last_backend, last_set)

    async def apply(
        self, upserts: Mapping[str, Service], removals: Collection[str], *, complete: bool
    ) -> Mapping[str, Failure]:
        """Sink of SubscribeServices."""
        async with self._lock:
            for key, value in upserts.items():
                self._owners.put(key, value)
            for key in removals:
                self._owners.put(key, None)
            await self._flush()
            if complete and not self.complete:
                await self._prune()
        return self.failures()

    async def without_services(self) -> None:
        """This node has no services: what an earlier life left goes away."""
        async with self._lock:
            await self._flush()
            await self._prune()

    def set_addresses(self, ips: Iterable[str]) -> None:
        """The node's own addresses, on which node ports and host ports are."""
        addresses = tuple(map(address_bytes, ips))
        if addresses == self._node.addresses:
            return
        self._node = replace(self._node, addresses=addresses)
        self._owners.soil(
            key for key, one in self._owners.values.items() if not isinstance(one, Service) or one.node_ports
        )

    def set_features(self, features: Mapping[str, str]) -> None:
        """What the kernel can do, `yes` or why not: a service that asks for more keeps what it has. A default
        that the node cannot have gives way to the simple one."""
        found = {
            "maglev": first_missing(features, MAGLEV_FEATURES),
            "dsr": first_missing(features, DSR_FEATURES),
        }
        self.missing = {name: why for name, why in found.items() if why}
        algorithm = RANDOM if "maglev" in self.missing else self._defaults.algorithm
        forwarding = SNAT if "dsr" in self.missing else self._defaults.forwarding
        if (algorithm, forwarding) != (self._node.algorithm, self._node.forwarding):
            self._node = replace(self._node, algorithm=algorithm, forwarding=forwarding)
            self._owners.soil(self._owners.values)

    async def keep(self) -> None:
        """Writes what endpoints and addresses change, until cancelled."""
        while True:
            await self._owners.wake.wait()
            self._owners.wake.clear()
            try:
                async with self._lock:
                    await self._flush()
            except (AxonemeError, OSError) as error:  # still dirty: the next retry takes it up
                logger.warning("load balancing not written", extra={log.ERROR: log.clip(error)})

    # --- what is due

    def next_due(self) -> float | None:
        """When `retry` has something to do, by the clock."""
        dues = [self._retries.next_due(), self.books.next_due()]
        if self._owners.dirty:
            dues.append(self._flushes.next_due() or self._clock())
        return min((due for due in dues if due is not None), default=None)

    async def retry(self) -> Mapping[str, Failure]:
        """Tries again what failed and is due, removes what nothing uses any more; waits for no flush."""
        if not self._lock.locked():
            async with self._lock:
                self._owners.dirty |= self._retries.due()
                await self._flush()
                await asyncio.to_thread(self.books.finish)
        return self.failures()

    async def audit(self) -> list[str]:
        """Compares the kernel's maps with what they should hold, repairs, and says what differed."""
        async with self._lock:
            found, missing = await asyncio.to_thread(self.books.maps.audit, prune=self.complete)
            found += await self._tables.restore(missing)
            return found + await self._tables.audit()

    # --- what is shown

    def failures(self) -> dict[str, Failure]:
        """Services that are not in effect as a whole."""
        found = {**self._conflicts, **self._retries.failures()}
        return {key: failure for key, failure in found.items() if not key.startswith(HOST_PORT_OWNER)}

    @property
    def failing(self) -> int:
        """How many services and host ports are not in effect as a whole."""
        return len(self._conflicts.keys() | set(self._retries))

    def problems(self) -> list[str]:
        """Host ports and defaults that are not in effect, in words; services are told by their stream."""
        found = {**self._conflicts, **self._retries.failures()}
        texts = [
            f"host ports of endpoint {key.removeprefix(HOST_PORT_OWNER)} are not in the kernel: "
            f"{failure.message} ({failure.reason}); it is tried again"
            for key, failure in sorted(found.items())
            if key.startswith(HOST_PORT_OWNER)
        ]
        more = len(texts) - MAX_NAMED
        shown = texts if more <= 0 else [*texts[:MAX_NAMED], f"host ports of {more} more endpoints are not"]
        return [*shown, *self._lost_defaults(), *self._lost_by_tunnel()]

    def _lost_defaults(self) -> Iterator[str]:
        for option, value, used, feature in (
            ("lb_algorithm", self._defaults.algorithm, self._node.algorithm, MAGLEV),
            ("lb_forwarding", self._defaults.forwarding, self._node.forwarding, DSR),
        ):
            if value != used:
                yield f"{option} {value} needs {self.missing[feature]}; services without a choice get {used}"

    def _lost_by_tunnel(self) -> Iterator[str]:
        asking = any((one.forwarding or self._node.forwarding) == DSR for one in self.services())
        if self._node.tunnel and (asking or self._node.forwarding == DSR):
            yield "routing_mode tunnel: services with forwarding dsr are forwarded by snat on this node"

    def services(self) -> Iterator[Service]:
        """Services of the stream as last told, whether in effect or not."""
        return self._owners.services()

    def service(self, key: str) -> Service | None:
        """A service of the stream by its key."""
        return self._owners.service(key)

    def owner_of(self, frontend: Frontend) -> str:
        """Key of the service, or of the host port, that has a frontend; empty when nobody has it."""
        return self._claims.winner(frontend)

    def check_host_ports(self, wanted: Sequence[HostPort], *, endpoint_id: int = 0) -> None:
        """Raises AlreadyExists (FRONTEND_IN_USE) when an endpoint may not have these host ports."""
        others = [one for one in self._endpoints if one.endpoint_id != endpoint_id]
        hostports.check_host_ports(wanted, others, self._node, self._service_at)

    # --- inside: from dirt to maps

    async def _flush(self) -> None:
        """Plans and writes every dirty owner. What raises leaves them dirty."""
        dirty = self._owners.take_dirty()
        if not dirty:
            return
        view = replace(self._node, endpoint_addresses=self._owners.local_addresses())
        values = dict(self._owners.values)
        try:
            plans = await asyncio.to_thread(self._plan, dirty, values, view)
            dirty |= plans.keys()
            failed = await self._write(plans)
            if any(failure.code == "RESOURCE_EXHAUSTED" for failure in failed.values()) and (
                await asyncio.to_thread(self.books.finish, at_once=True)
            ):
                failed = await self._write({key: plans[key] for key in failed})
        except BaseException as error:
            self._owners.dirty |= dirty
            self._flushes.note([_FLUSH], {_FLUSH: Failure("INTERNAL", "APPLY_FAILED", str(error))})
            raise
        self._flushes.note([_FLUSH], {})
        self._retries.note(dirty, failed)
        for key in sorted(plans.keys() - failed.keys()):
            self.on_applied(key, values.get(key), plans[key])

    def _plan(self, dirty: Collection[str], values: Mapping[str, Owner], view: NodeView) -> dict[str, Plan]:
        """What dirty owners come to, and those whom that takes a frontend or gives one."""
        whole: dict[str, Plan] = {}
        pending = set(dirty)
        while pending:
            affected: set[str] = set()
            for key in pending:
                value = values.get(key)
                whole[key] = plan(value, view) if value is not None else Plan()
                affected |= self._claims.put(key, whole[key].frontends)
            pending = affected - whole.keys()
        for key, one in whole.items():
            lost = self._claims.lost(key)
            for frontend in lost:
                del one.frontends[frontend]
            self._note_conflict(key, lost)
        return whole

    def _note_conflict(self, key: str, lost: Mapping[Frontend, str]) -> None:
        self._conflicts.pop(key, None)
        for frontend, winner in lost.items():
            text = f"{frontend.name} belongs to {winner}; {len(lost)} frontends are not in effect"
            self._conflicts[key] = Failure("ALREADY_EXISTS", "FRONTEND_IN_USE", text)
            return

    async def _write(self, plans: Mapping[str, Plan]) -> dict[str, Failure]:
        """Writes plans and returns what failed. Who loses a frontend comes after who gets it."""
        going, failed = await asyncio.to_thread(self._order, plans)
        for start in range(0, len(going), OWNERS_AT_ONCE):
            part = going[start : start + OWNERS_AT_ONCE]
            changes = await asyncio.to_thread(self._prepare, part, plans)
            for group in tables.groups(changes):
                await self._tables.make(group)
                await asyncio.to_thread(self.books.apply, group)
            failed.update({one.owner: one.failure for one in changes if one.failure is not None})
        return failed

    def _order(self, plans: Mapping[str, Plan]) -> tuple[list[str], dict[str, Failure]]:
        """Whom to write, in order, and whom not."""
        failed: dict[str, Failure] = {}
        for key, one in plans.items():
            if (refusal := self._refusal(self._owners.values.get(key), one)) is not None:
                failed[key] = refusal
        going = plans.keys() - failed.keys()
        return sorted(going, key=lambda key: (self._shrinks(key, plans[key]), key)), failed

    def _prepare(self, keys: Sequence[str], plans: Mapping[str, Plan]) -> list[Change]:
        return [self.books.prepare(key, plans[key]) for key in keys]

    def _shrinks(self, key: str, one: Plan) -> bool:
        present = self.books.applied.get(key)
        return present is not None and not present.frontends <= set(map(frontend_key, one.frontends))

    def _refusal(self, value: Owner | None, one: Plan) -> Failure | None:
        if one.excess:
            text = f"{one.excess} backends are more than the {MAX_SLOTS} that a frontend can have"
            return Failure("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", text)
        if isinstance(value, Service):
            for feature, asked in (("maglev", value.algorithm == MAGLEV), ("dsr", value.forwarding == DSR)):
                if asked and feature in self.missing:
                    return tables.lacking(f"{feature} needs {self.missing[feature]}")
        return None

    async def _prune(self) -> None:
        held = {
            frontend_key(frontend) for key in self._retries for frontend in self._claims.frontends_of(key)
        }
        await asyncio.to_thread(self.books.prune, held)
        self.complete = True

    def _service_at(self, address: bytes, port: int, protocol: int) -> str:
        winner = self._claims.winner(Frontend(address, port, protocol, LB_INSIDE))
        return "" if winner.startswith(HOST_PORT_OWNER) else winner


def _nobody_listens(_key: str, _owner: Owner | None, _plan: Plan) -> None:
    pass
