"""Who has a policy map on this node: its endpoints and, with a host firewall, the host itself.

The host is an endpoint like any other, number 0, without interface and addresses of its own; its subject is
the node. It is LOCKED until its first mapstate, but never locked out: its programs judge nothing before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from axoneme.lib import identities
from axoneme.lib.policycodec import host_key, host_node, subject_key, subject_number
from shim.endpoints import Endpoint, EndpointState, EndpointTable
from shim.maps.layout import HOST_ENDPOINT_ID

NO_POLICY_YET = "waits for its first mapstate; until then nothing is enforced on the node itself"


class Host:
    """The node as somebody that policy judges."""

    def __init__(self, node_name: str, *, generation: int, write: Callable[[Endpoint], None]) -> None:
        self.key = host_key(node_name)
        self.write = write
        self.table = EndpointTable()
        self.table.put(
            Endpoint(
                endpoint_id=HOST_ENDPOINT_ID,
                namespace="",
                pod_name=node_name,
                labels=identities.RESERVED[identities.HOST][1],
                identity=identities.HOST,
                ips=(),
                netns="",
                state_reason=NO_POLICY_YET,
                policy_generation=generation,
            )
        )

    @property
    def endpoint(self) -> Endpoint:
        """The host as it is now."""
        return self.table.require(HOST_ENDPOINT_ID)

    def adopted(self) -> None:
        """Its map of an earlier life is in force."""
        self.table.step(HOST_ENDPOINT_ID, EndpointState.READY)
        self.write(self.endpoint)

    def problems(self) -> list[str]:
        """What is wrong with its policy, in words; nothing when it is in force."""
        host = self.endpoint
        if host.state is EndpointState.READY:
            return []
        if host.state is EndpointState.LOCKED and host.state_reason == NO_POLICY_YET:
            what = "the host firewall has no policy of this node yet: nothing is enforced on the node itself"
            return [f"{what}; is enable_host_firewall set at the policy service?"]
        return [f"the policy of this node itself cannot be applied: {host.state_reason}"]


class Holders:
    """Endpoints and host as one table, by number; subjects by their keys."""

    def __init__(
        self, endpoints: EndpointTable, write_endpoint: Callable[[Endpoint], None], host: Host | None = None
    ) -> None:
        self._endpoints, self._write_endpoint, self._host = endpoints, write_endpoint, host

    def __iter__(self) -> Iterator[Endpoint]:
        if self._host is not None:
            yield self._host.endpoint
        yield from self._endpoints

    def get(self, number: int) -> Endpoint | None:
        """A holder, if it exists."""
        return self._table(number).get(number)

    def require(self, number: int) -> Endpoint:
        """A holder. Raises NotFound."""
        return self._table(number).require(number)

    def key_of(self, holder: Endpoint) -> str:
        """Key of the subject whose policy a holder has."""
        if self._host is not None and holder.endpoint_id == HOST_ENDPOINT_ID:
            return self._host.key
        return subject_key(holder.identity)

    def of_subject(self, key: str) -> list[Endpoint]:
        """Holders of a subject that still carry traffic."""
        if self._host is not None and key == self._host.key:
            return [self._host.endpoint]
        return [] if host_node(key) is not None else self._endpoints.with_identity(subject_number(key))

    def change(self, number: int, **fields: Any) -> Endpoint:
        """Changes fields of a holder that exists."""
        return self._table(number).change(number, **fields)

    def step(self, number: int, state: EndpointState, reason: str = "") -> None:
        """Moves a holder to another state."""
        self._table(number).step(number, state, reason)

    def write(self, holder: Endpoint) -> None:
        """Tells the kernel the holder's generation. Raises Unavailable."""
        if self._host is not None and holder.endpoint_id == HOST_ENDPOINT_ID:
            self._host.write(holder)
        else:
            self._write_endpoint(holder)

    def _table(self, number: int) -> EndpointTable:
        return self._host.table if self._host is not None and number == HOST_ENDPOINT_ID else self._endpoints
