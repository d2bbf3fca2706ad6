"""What a workload asks for when it wants an endpoint, and what it is compared with. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from axoneme.lib.errors import AlreadyExists, AxonemeError, InvalidArgument, Unavailable
from axoneme.lib.labels import LabelSet
from shim.endpoints import Endpoint, EndpointState, HostPort
from shim.hostports import share_a_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A workload that asks for an endpoint; labels as in the request, netns and interface name checked."""

    namespace: str
    pod_name: str
    labels: tuple[str, ...]
    netns: str
    interface_name: str
    named_ports: tuple[tuple[int, str, int], ...] = ()  # protocol, name, number; sorted
    audit: bool = False
    ips: tuple[str, ...] = ()  # canonical text, at most one of each family
    host_ports: tuple[HostPort, ...] = ()  # sorted
    adopt: bool = False  # the interface is there already, with `ips`
    cni_container: str = ""
    cni_network: str = ""
    request_id: str = ""

    def check_free(self, endpoints: Iterable[Endpoint]) -> None:
        """Raises AlreadyExists when an endpoint has a wanted host port or address of an adopted interface.

        Raises Unavailable when that one is being removed, InvalidArgument for adoption without addresses.
        """
        if self.adopt and not self.ips:
            raise InvalidArgument.of_field("ips", "is empty; give the addresses of the adopted interface")
        for other in endpoints:
            taken = sorted(set(other.ips).intersection(self.ips))
            if taken:
                raise _taken(", ".join(taken), other, "ADDRESS_NOT_USABLE")
            for port in other.host_ports:
                if any(share_a_port(port, mine) for mine in self.host_ports):
                    raise _taken(f"host port {port.host_port}", other, "FRONTEND_IN_USE")

    def check_equal(self, endpoint: Endpoint, labels: LabelSet) -> None:
        """Raises AlreadyExists when that endpoint is another one, Unavailable when it is being removed."""
        if endpoint.state is EndpointState.TERMINATING:
            raise Unavailable(f"endpoint {endpoint.endpoint_id} of that name is being removed; ask again")
        pairs = {
            "labels": (endpoint.labels, labels),
            "netns": (endpoint.netns, self.netns),
            "interface": (endpoint.pod_interface, self.interface_name),
            "named ports": (endpoint.named_ports, self.named_ports),
            "host ports": (endpoint.host_ports, self.host_ports),
            "adoption": (endpoint.adopted, self.adopt),
            "container": (endpoint.cni_container, self.cni_container),
            "network": (endpoint.cni_network, self.cni_network),
            "addresses": (set(self.ips) <= set(endpoint.ips), True),
        }
        others = [name for name, (present, asked) in pairs.items() if present != asked]
        if others:
            raise AlreadyExists(
                f"{endpoint.name} is endpoint {endpoint.endpoint_id} with other {', '.join(others)};"
                " delete it first",
                reason="ENDPOINT_EXISTS",
            )


def _taken(what: str, other: Endpoint, reason: str) -> AxonemeError:
    if other.state is EndpointState.TERMINATING:
        return Unavailable(f"{what} leads to endpoint {other.endpoint_id}, which is being removed; ask again")
    return AlreadyExists(
        f"{what} leads to endpoint {other.endpoint_id}, {other.name}; choose another", reason=reason
    )
