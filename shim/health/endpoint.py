"""The health endpoint: an address inside the node's PodCIDRs that answers probes, behind the same programs as
a pod, so that a probe takes a pod's way.

It has the reserved identity `health` and a policy map of its own that lets everything pass: as in Cilium, no
policy stands between the probes of nodes and it. Its namespace holds nothing but sockets of the shim.
"""

from __future__ import annotations

import logging
from typing import Final

from axoneme.lib import identities, log
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.errors import AxonemeError
from axoneme.lib.policy.model import Enforcement, SubjectPolicy
from axoneme.lib.policycodec import subject_key
from shim.endpoints import EndpointState
from shim.ipam import HEALTH_ENDPOINT_ID
from shim.policies import PolicySink
from shim.workloads import Workloads

logger = logging.getLogger(__name__)

NAME: Final = "health"
LET_PASS: Final = SubjectPolicy(ingress=Enforcement.DEFAULT_ALLOW, egress=Enforcement.DEFAULT_ALLOW)


class HealthEndpoint:
    """Makes the endpoint as addresses and namespace come, and removes it when they go."""

    def __init__(self, workloads: Workloads, policies: PolicySink) -> None:
        self._workloads, self._policies = workloads, policies
        self._problem = ""

    async def prepare(self) -> None:
        """Its policy, which no service sends; call it when endpoints of an earlier life are there."""
        await self._policies.apply({subject_key(identities.HEALTH): LET_PASS}, (), complete=False)

    async def follow(self, ips: tuple[str, ...], netns: str) -> None:
        """Makes this the endpoint; without addresses or namespace there is none. Failures are tried again."""
        try:
            await self._follow(ips, netns)
        except (AxonemeError, BpfError, OSError) as error:
            self._problem = f"the health endpoint cannot be made: {log.clip(error)}; it is tried again"
            logger.warning("health endpoint not made", extra={log.ERROR: log.clip(error)})
        else:
            self._problem = ""

    def problems(self) -> list[str]:
        """Why it is not there, in words."""
        return [self._problem] if self._problem else []

    async def _follow(self, ips: tuple[str, ...], netns: str) -> None:
        wanted = (ips, netns) if ips and netns else None
        present = self._workloads.endpoints.find("", NAME)
        if present is not None and (
            (present.ips, present.netns) != wanted or present.state is EndpointState.TERMINATING
        ):
            await self._workloads.delete(present.endpoint_id)
            present = None
        if present is None and wanted is not None:
            labels = identities.RESERVED[identities.HEALTH][1]
            await self._workloads.add_own(HEALTH_ENDPOINT_ID, NAME, labels, identities.HEALTH, ips, netns)
