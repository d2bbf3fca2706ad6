"""Names of addresses as endpoints learned them, for display: the stream SubscribeNames and its history."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

from axoneme.api.fqdn.v1 import fqdn_pb2, fqdn_pb2_grpc
from axoneme.lib.intent import Ack, Change, Failure, Hello, Interest, Resync, Update
from axoneme.lib.intentstream import envelope
from shim.flows.context import Address, mapped
from shim.flows.history import EVER, History

MAX_ENDED_NAMES: Final = 65_536


@dataclass(frozen=True, slots=True)
class LearnedName:
    """An address that an endpoint learned, with its names that have not expired."""

    endpoint_id: int
    address: bytes  # 16 bytes, IPv4 mapped
    names: tuple[str, ...]


class LearnedNames:
    """Takes the stream and answers for any time that is remembered. `revision` grows with each change."""

    def __init__(self, clock_ns: Callable[[], int], max_ended: int = MAX_ENDED_NAMES) -> None:
        """`clock_ns`: time since boot, as in records."""
        self._clock_ns = clock_ns
        self._names = History[tuple[int, bytes], tuple[str, ...]](max_ended)
        self._key_of: dict[str, tuple[int, bytes]] = {}
        self._complete = False

    @property
    def revision(self) -> int:
        """Grows with each change."""
        return self._names.revision

    async def apply(
        self, upserts: Mapping[str, LearnedName], removals: Collection[str], *, complete: bool
    ) -> Mapping[str, Failure]:
        """What is said first, before all was heard, held already when this process began."""
        now_ns = self._clock_ns()
        for key, one in upserts.items():
            place = self._key_of[key] = (one.endpoint_id, one.address)
            first = not self._complete and place not in self._names
            self._names.put(place, one.names, EVER if first else now_ns)
        for key in removals:
            if (known := self._key_of.pop(key, None)) is not None:
                self._names.end(known, now_ns)
        self._complete = self._complete or complete
        return {}

    def addresses(self) -> Iterable[bytes]:
        """Addresses of which anything is remembered, each once."""
        return {address for _, address in self._names}

    def knows(self, endpoint_id: int, address: bytes) -> bool:
        """Whether anything is remembered of an address (16 bytes, IPv4 mapped)."""
        return (endpoint_id, address) in self._names

    def names(self, endpoint_id: int, address: Address, time_ns: int | None) -> Sequence[str]:
        """Names at a time; None asks for the last ones known."""
        return self._names.at((endpoint_id, mapped(address.packed)), time_ns) or ()

    def change_times(self, endpoint_id: int, address: Address, after_ns: int) -> Iterable[int]:
        """When the names of an address may have changed."""
        return self._names.times((endpoint_id, mapped(address.packed)), after_ns)


class NamesCodec:
    """SubscribeNames. Keys: `name:<endpoint>/<address>`."""

    def decode(
        self,
        response: fqdn_pb2.SubscribeNamesResponse,
        current: Callable[[str], LearnedName | None],  # noqa: ARG002 - addresses come whole
    ) -> Update[LearnedName]:
        """Addresses with all their names."""
        changes: list[Change[LearnedName]] = []
        failures: dict[str, Failure] = {}
        for one in response.upserts:
            key = f"name:{one.endpoint_id}/{one.address}"
            try:
                address = mapped(ipaddress.ip_address(one.address).packed)
            except ValueError as error:
                failures[key] = Failure("INVALID_ARGUMENT", "RESOURCE_INVALID", str(error))
            else:
                changes.append(Change(key, LearnedName(one.endpoint_id, address, tuple(one.names))))
        changes += [Change(f"name:{gone.endpoint_id}/{gone.address}", None) for gone in response.removed]
        header = envelope.header_from_message(response.header)
        return Update(header=header, changes=tuple(changes), failures=failures)

    def hello(self, hello: Hello) -> fqdn_pb2.SubscribeNamesRequest:
        """First request."""
        return fqdn_pb2.SubscribeNamesRequest(hello=envelope.hello_to_message(hello))

    def ack(self, ack: Ack) -> fqdn_pb2.SubscribeNamesRequest:
        """Answer to an update."""
        return fqdn_pb2.SubscribeNamesRequest(ack=envelope.ack_to_message(ack))

    def resync(self, resync: Resync) -> fqdn_pb2.SubscribeNamesRequest:
        """Request for a snapshot."""
        return fqdn_pb2.SubscribeNamesRequest(resync=envelope.resync_to_message(resync))

    def interest(self, interest: Interest) -> fqdn_pb2.SubscribeNamesRequest:  # noqa: ARG002
        """The shim gets every name of its node."""
        raise TypeError("SubscribeNames knows no interest")


def names_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[Any, Any]:
    """Opens the stream."""
    return fqdn_pb2_grpc.FqdnServiceStub(channel).SubscribeNames()
