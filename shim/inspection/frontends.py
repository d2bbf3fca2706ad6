"""Frontends, backends and Maglev tables out of the kernel's maps, with names that only the shim knows."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import NotFound
from axoneme.lib.pagination import page as page_of
from shim.inspection.tuples import names, place
from shim.maps import lb

PROTOCOLS: Final = {6: "TCP", 17: "UDP", 132: "SCTP"}
SCOPES: Final = {lb.LB_INSIDE: "inside", lb.LB_OUTSIDE: "outside"}
FLAGS: Final = {
    lb.LB_AFFINITY: "affinity",
    lb.LB_SOURCE_RANGES: "source-ranges",
    lb.LB_LOCAL_ONLY: "local-only",
    lb.LB_DSR: "dsr",
    lb.LB_NOT_SOCKET: "not-socket",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontendNames:
    """What a frontend is called: `ClusterIP`, …, and `namespace/name`; backends that are leaving."""

    kind: str = ""
    service: str = ""
    terminating: tuple[int, ...] = ()


class NamedFrontends(Protocol):
    """Who knows the names: the sink of the services stream."""

    def names_of(self, key: lb.LbKey) -> FrontendNames:
        """Names of a frontend; empty ones for a frontend that it did not write."""


class Unnamed:
    """Nobody knows names: a node without the services stream."""

    def names_of(self, key: lb.LbKey) -> FrontendNames:  # noqa: ARG002 - the protocol's signature
        return FrontendNames()


@dataclass(frozen=True, slots=True)
class LbMaps:
    """The maps that frontends are made of."""

    frontends: BpfMap
    slots: BpfMap
    backends: BpfMap


class Frontends:
    """Load balancing of one node as its kernel has it. Methods block: call them in a thread."""

    def __init__(self, maps: LbMaps, named: NamedFrontends) -> None:
        self._maps = maps
        self._named = named

    def page(self, text: str, page_size: int, token: str) -> node_pb2.ListFrontendsResponse:
        """One page, by address. Raises InvalidArgument for a page size or token that is none."""
        backends = self._backends()
        rows = [
            (key.hex(), self._message(lb.LbKey.unpack(key), lb.LbService.unpack(value), backends))
            for key, value in sorted(self._maps.frontends.items())
        ]
        wanted = [(order, one) for order, one in rows if text in one.address or text in one.service]
        chosen, following = page_of(wanted, lambda row: row[0], page_size, token)
        return node_pb2.ListFrontendsResponse(frontends=[one for _, one in chosen], next_page_token=following)

    def table(self, elements: Sequence[int]) -> node_pb2.GetMaglevTableResponse:
        """A Maglev table with the addresses of its backends."""
        backends = self._backends()
        addresses = {
            one: place(backends[one].address, backends[one].port_be)
            for one in set(elements) & backends.keys()
        }
        return node_pb2.GetMaglevTableResponse(backend_ids=elements, addresses=addresses)

    def _backends(self) -> dict[int, lb.LbBackend]:
        return {_number(key): lb.LbBackend.unpack(value) for key, value in self._maps.backends.items()}

    def _message(
        self, key: lb.LbKey, service: lb.LbService, backends: Mapping[int, lb.LbBackend]
    ) -> node_pb2.Frontend:
        called = self._named.names_of(key)
        protocol = PROTOCOLS.get(key.protocol, str(key.protocol))
        chosen = [*self._slots(service), *called.terminating]
        return node_pb2.Frontend(
            address=f"{place(key.address, key.port_be)}/{protocol}",
            scope=SCOPES.get(key.scope, "unknown"),
            type=called.kind,
            service=called.service,
            set_id=service.set_id,
            backends=[_backend(one, backends.get(one)) for one in chosen],
            maglev_size=service.maglev_size,
            affinity_seconds=service.affinity_seconds,
            flags=names(service.flags, FLAGS),
        )

    def _slots(self, service: lb.LbService) -> list[int]:
        found = (
            self._maps.slots.lookup(lb.LbSlotKey(service.set_id, slot).pack())
            for slot in range(service.slots)
        )
        return [_number(value) for value in found if value is not None]


async def elements_of(set_id: int, open_table: Callable[[int], Awaitable[BpfMap | None]]) -> list[int]:
    """The backend number of each element of a set's table. Raises NotFound for a set without one."""
    table = await open_table(set_id)
    if table is None:
        raise NotFound(
            f"set {set_id} has no Maglev table on this node; `axoneme bpf lb list` shows sets",
            reason="SET_NOT_FOUND",
        )
    try:
        return [_number(value) for _, value in sorted(table.items(), key=lambda row: _number(row[0]))]
    finally:
        table.close()


def _backend(number: int, backend: lb.LbBackend | None) -> node_pb2.FrontendBackend:
    if backend is None:
        return node_pb2.FrontendBackend(backend_id=number, address="missing")
    return node_pb2.FrontendBackend(
        backend_id=number,
        address=place(backend.address, backend.port_be),
        terminating=bool(backend.flags & lb.BACKEND_TERMINATING),
        local=bool(backend.flags & lb.BACKEND_LOCAL),
    )


def _number(raw: bytes) -> int:
    return int(struct.unpack("=I", raw)[0])
