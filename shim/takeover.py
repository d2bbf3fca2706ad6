"""Endpoints of an earlier life of the shim: what the kernel still has of them stays in force."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from axoneme.lib import log
from axoneme.lib.errors import InvalidArgument, NotFound
from axoneme.lib.policycodec import subject_key
from shim.attachments import Attachments
from shim.datapath import Datapath
from shim.endpointmap import EndpointMap
from shim.endpoints import Endpoint, EndpointState, EndpointTable
from shim.policies import PolicySink
from shim.releases import InterestChanger

logger = logging.getLogger(__name__)


class Takeover:
    """Goes on with endpoints that stand in the table already."""

    def __init__(
        self,
        *,
        endpoints: EndpointTable,
        datapath: Datapath,
        endpoint_map: EndpointMap,
        attachments: Attachments,
        policies: PolicySink,
        interest: InterestChanger,
        first_generation: Callable[[], int],
    ) -> None:
        self._endpoints = endpoints
        self._datapath = datapath
        self._endpoint_map = endpoint_map
        self._attachments = attachments
        self._policies = policies
        self._interest = interest
        self._first_generation = first_generation

    async def run(self) -> None:
        """Takes over interfaces, programs and maps; an endpoint without them gets them anew."""
        self._endpoint_map.reconciler.load()
        interfaces = await self._datapath.interfaces()
        for endpoint in list(self._endpoints):
            if endpoint.state is EndpointState.TERMINATING:
                continue
            present = interfaces.get(endpoint.endpoint_id)
            whole = present is not None and present.attached and present.ifindex == endpoint.ifindex
            await self._take_over(endpoint, whole=whole)

    async def _take_over(self, endpoint: Endpoint, *, whole: bool) -> None:
        number = endpoint.endpoint_id
        # The stored number may be older than what conntrack knows; without the kernel's a new start is made.
        generation = self._endpoint_map.generation_of(endpoint) or self._first_generation()
        learns = endpoint.learns or self._endpoint_map.learns(endpoint)  # rather once too often
        adopted = await self._policies.adopt(endpoint)
        state = endpoint.state if adopted else EndpointState.LOCKED
        reason = endpoint.state_reason if adopted else "waits for its first mapstate since the restart"
        self._endpoints.put(
            replace(endpoint, state=state, state_reason=reason, policy_generation=generation, learns=learns)
        )
        try:
            if whole:
                await self._attachments.take_over(endpoint)
            else:
                await self._attachments.connect(self._endpoints.require(number))
        except (NotFound, InvalidArgument) as error:
            logger.warning("workload is gone", extra={log.ENDPOINT: number, log.ERROR: log.clip(error)})
            self._endpoints.step(number, EndpointState.TERMINATING, "its network namespace is gone")
        if endpoint.is_own:
            return
        await self._interest.change_interest(added=[subject_key(endpoint.identity)])
