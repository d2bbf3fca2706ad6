"""Switches of one endpoint, and putting it right by hand."""

from __future__ import annotations

from collections.abc import Callable

from shim.datapath import Datapath
from shim.endpointmap import EndpointMap
from shim.endpoints import Endpoint, EndpointTable
from shim.namedlocks import NamedLocks
from shim.policies import PolicySink


class Switches:
    """What may be changed of an endpoint while it lives."""

    def __init__(
        self,
        *,
        endpoints: EndpointTable,
        datapath: Datapath,
        policies: PolicySink,
        endpoint_map: EndpointMap,
        checkpoint: Callable[[], None],
        locks: NamedLocks,
    ) -> None:
        self._endpoints = endpoints
        self._datapath = datapath
        self._policies = policies
        self._endpoint_map = endpoint_map
        self._checkpoint = checkpoint
        self._locks = locks

    @property
    def audits_all(self) -> bool:
        """Whether the node only reports what policy denies."""
        return self._endpoint_map.audit

    async def set_audit(self, endpoint_id: int, audit: bool) -> Endpoint:
        """Switches auditing of one endpoint; connections that were cut before get another chance."""
        endpoint = self._endpoints.require(endpoint_id)
        async with self._locks.of(endpoint.name):
            if self._endpoints.require(endpoint_id).audit is not audit:
                self._endpoints.change(endpoint_id, audit=audit)
                self._checkpoint()
                await self._policies.enforce_again(endpoint_id)
        return self._endpoints.require(endpoint_id)

    async def configure(
        self, endpoint_id: int, *, audit: bool | None = None, aggregation: int | None = None
    ) -> Endpoint:
        """Changes switches; None leaves one as it is. Raises NotFound."""
        endpoint = self._endpoints.require(endpoint_id)
        if audit is not None:
            await self.set_audit(endpoint_id, audit)
        async with self._locks.of(endpoint.name):
            if aggregation is not None and self._endpoints.require(endpoint_id).aggregation != aggregation:
                self._endpoint_map.write(self._endpoints.change(endpoint_id, aggregation=aggregation))
                self._checkpoint()
        return self._endpoints.require(endpoint_id)

    async def regenerate(self, endpoint_id: int) -> list[str]:
        """Attaches the programs again and has connections judged again. Raises NotFound; returns repairs."""
        endpoint = self._endpoints.require(endpoint_id)
        async with self._locks.of(endpoint.name):
            before = (await self._datapath.interfaces()).get(endpoint_id)
            await self._datapath.attach(self._endpoints.require(endpoint_id))
            self._endpoint_map.write(self._endpoints.require(endpoint_id))
            await self._policies.enforce_again(endpoint_id)
        whole = before is not None and before.attached
        return [] if whole else [f"programs: {endpoint.interface_name}: missing, attached again"]
