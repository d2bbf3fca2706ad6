"""Which policy each endpoint, and the host, is judged by, and how new the identities are that its map knows.

A holder's generation moves on with each switch, so that its connections are judged again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from axoneme.lib.policy.model import PortBlock, SubjectPolicy
from shim.endpoints import Endpoint, generation_after
from shim.holders import Holders


class InForce(NamedTuple):
    """What a holder's map was made of; without a policy it is from an earlier life of the shim."""

    policy: SubjectPolicy | None
    revision: int  # of the local identities
    redirected: frozenset[PortBlock] = frozenset()  # ports of entries that lead to the DNS proxy


_NEWEST: Final = InForce(None, 1 << 62)


class PoliciesInForce:
    """By number of the endpoint; 0 is the host."""

    def __init__(self, holders: Holders) -> None:
        self._listeners: list[Callable[[Endpoint], None]] = []
        self._holders = holders
        self._by_number: dict[int, InForce] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def adopt(self, number: int, redirected: frozenset[PortBlock] = frozenset()) -> None:
        """A holder has a map of an earlier life."""
        self._by_number[number] = InForce(None, 0, redirected)

    def remove(self, number: int) -> None:
        """The holder has no map any more."""
        self._by_number.pop(number, None)

    def policy_of(self, number: int) -> SubjectPolicy | None:
        """The policy that a holder is judged by, if it is known."""
        known = self._by_number.get(number)
        return known.policy if known else None

    def of(self, number: int) -> InForce | None:
        """What a holder is judged by."""
        return self._by_number.get(number)

    def redirected(self) -> frozenset[PortBlock]:
        """Ports that some map in force leads to the DNS proxy."""
        return frozenset[PortBlock]().union(*(one.redirected for one in self._by_number.values()))

    def is_unknown(self, number: int) -> bool:
        """Whether a holder is judged by a policy of an earlier life."""
        known = self._by_number.get(number)
        return known is not None and known.policy is None

    def any_unknown(self) -> bool:
        """Whether anyone is."""
        return any(one.policy is None for one in self._by_number.values())

    def policies(self) -> list[tuple[int, SubjectPolicy]]:
        """Number and policy of all whose policy is known."""
        return [(number, one.policy) for number, one in self._by_number.items() if one.policy is not None]

    def behind(self, revision: int) -> Iterator[tuple[Endpoint, SubjectPolicy]]:
        """Holders whose map was made with other local identities than those of `revision`."""
        for number, one in self._by_number.items():
            endpoint = self._holders.get(number)
            if endpoint is not None and one.policy is not None and one.revision != revision:
                yield endpoint, one.policy

    def covered(self, newest: int) -> int:
        """The revision of local identities that every map knows; `newest` when there is no map."""
        known = [one.revision for number, one in self._by_number.items() if self._holders.get(number)]
        return min(known, default=newest)

    def blocking(self, revision: int) -> str:
        """An endpoint whose map does not know the identities of `revision`."""
        for endpoint in self._holders:
            if self._by_number.get(endpoint.endpoint_id, _NEWEST).revision < revision:
                number = endpoint.endpoint_id
                return f"the map of endpoint {number} ({endpoint.name})" if number else "the map of the host"
        return ""

    # --- switching

    def switched(self, in_force: InForce, endpoint_id: int, changed: bool) -> None:
        """A map holds this now. Before a restart the generation may not have followed the last switch."""
        before = self._by_number.get(endpoint_id)
        self._by_number[endpoint_id] = in_force
        if self._holders.get(endpoint_id) is None:
            return
        if changed or before is None or before.policy is None:
            self.bump(endpoint_id)
        else:
            self._tell(self._holders.require(endpoint_id))

    def bump(self, endpoint_id: int) -> None:
        """Connections of an endpoint are judged again."""
        endpoint = self._holders.get(endpoint_id)
        if endpoint is None:
            return
        generation = generation_after(endpoint.policy_generation)
        endpoint = self._holders.change(endpoint_id, policy_generation=generation)
        self._tell(endpoint)  # heard before the kernel can stamp the generation
        self._holders.write(endpoint)

    def listen(self, listener: Callable[[Endpoint], None]) -> None:
        """Calls `listener` when an endpoint is judged by the policy in force, under a new generation."""
        self._listeners.append(listener)

    def _tell(self, endpoint: Endpoint) -> None:
        for listener in self._listeners:
            listener(endpoint)
