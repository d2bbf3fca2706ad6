"""Gives numbers of identities back that no endpoint of this node has any more."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from axoneme.lib.policycodec import subject_key
from shim.attempts import attempt
from shim.endpoints import Endpoint, EndpointTable
from shim.namedlocks import NamedLocks
from shim.services import ControlPlane


class InterestChanger(Protocol):
    """The policy stream, as far as endpoints need it."""

    async def change_interest(self, added: Collection[str] = (), removed: Collection[str] = ()) -> None:
        """Declares which subjects live here."""


class Releases:
    """Identities to release; `pending` are those whose release is not confirmed yet."""

    def __init__(
        self,
        *,
        endpoints: EndpointTable,
        services: ControlPlane,
        interest: InterestChanger,
        locks: NamedLocks,
    ) -> None:
        self.pending: set[int] = set()
        self._endpoints = endpoints
        self._services = services
        self._interest = interest
        self._locks = locks

    async def release(self, endpoint: Endpoint) -> None:
        """The node's reference and interest go with the last endpoint of an identity."""
        async with self._locks.of(endpoint.labels.key):
            if endpoint.is_own or any(other.identity == endpoint.identity for other in self._endpoints):
                return
            self.pending.add(endpoint.identity)
            await self.retry()
            await self._interest.change_interest(removed=[subject_key(endpoint.identity)])

    async def retry(self) -> None:
        """Releases identities that nobody here uses; what fails stays for the next time."""
        self.pending -= {endpoint.identity for endpoint in self._endpoints}
        for identity in sorted(self.pending):
            if await attempt("identity not released", self._services.release_identity(identity)):
                self.pending.discard(identity)
