"""What frontends are called: for people who look at the kernel's maps."""

from __future__ import annotations

from shim.inspection.frontends import FrontendNames
from shim.lb.balancer import LoadBalancer
from shim.lb.model import HOST_PORT_OWNER, Frontend, Service, Target
from shim.lb.plan import target_port
from shim.maps.lb import BACKEND_TERMINATING, LbKey


class FrontendDirectory:
    """Names by frontend, as the services stream and the endpoints told them."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self._balancer = balancer

    def names_of(self, key: LbKey) -> FrontendNames:
        """Kind and service of a frontend, and backends that keep connections but get none."""
        port = int.from_bytes(key.port_be, "big")
        owner = self._balancer.owner_of(Frontend(key.address, port, key.protocol, key.scope))
        if owner.startswith(HOST_PORT_OWNER):
            return FrontendNames(kind="HostPort", service=f"endpoint {owner.removeprefix(HOST_PORT_OWNER)}")
        service = self._balancer.service(owner)
        if service is None:
            return FrontendNames()
        return FrontendNames(
            kind=kind_of(service, key.address),
            service=f"{service.namespace}/{service.name}",
            terminating=self._terminating(owner, service, key, port),
        )

    def _terminating(self, owner: str, service: Service, key: LbKey, number: int) -> tuple[int, ...]:
        """Numbers of backends of this port that are on their way out and in no slot."""
        books = self._balancer.books
        applied = books.applied.get(owner)
        if applied is None:
            return ()
        serving = {target for backends in applied.sets for target in backends.targets}
        node_port = key.address not in (
            *service.cluster_ips,
            *service.external_ips,
            *service.load_balancer_ips,
        )
        ports = [
            port
            for port in service.ports
            if port.protocol == key.protocol and (port.node_port if node_port else port.port) == number
        ]
        wanted = {
            Target(backend.address, target_port(port, backend), port.protocol)
            for port in ports
            for backend in service.backends
        }
        return tuple(
            books.backends.numbers[target]
            for target, flags in applied.targets.items()
            if flags & BACKEND_TERMINATING and target in wanted and target not in serving
        )


def kind_of(service: Service, address: bytes) -> str:
    """The word for an address of a service, as Kubernetes has it."""
    for kind, addresses in (
        ("ClusterIP", service.cluster_ips),
        ("LoadBalancer", service.load_balancer_ips),
        ("ExternalIP", service.external_ips),
    ):
        if address in addresses:
            return kind
    return "NodePort"
