"""Claims: the keys that make an address, or a port of one, belong to one service. Pure.

    axoneme/state/clusterips/v1/<address>                   a cluster IP, whole
    axoneme/state/frontends/v1/<address>/<protocol>/<port>  a port of an external or load balancer address
    axoneme/state/frontends/v1/node/<protocol>/<port>       a port of every node

The value is `<namespace>/<name>`. A claim is made and dropped in the transaction that writes its service, so
that replicas which choose at the same time can never both win.
"""

from __future__ import annotations

from typing import Final

from axoneme.lib.kvstore import layout
from services.clustermesh.model import Protocol, Service, ServiceKey

CLUSTER_IPS: Final = layout.CLUSTER_IPS
FRONTENDS: Final = layout.FRONTENDS
_NODE: Final = "node"


def cluster_ip_claim(ip: str) -> str:
    """Claim of a cluster IP."""
    return f"{CLUSTER_IPS}{ip}"


def frontend_claim(ip: str, protocol: Protocol, port: int) -> str:
    """Claim of one port of an address."""
    return f"{FRONTENDS}{ip}/{protocol.name.lower()}/{port}"


def node_port_claim(protocol: Protocol, port: int) -> str:
    """Claim of a port of all nodes."""
    return frontend_claim(_NODE, protocol, port)


def claims_of(service: Service) -> frozenset[str]:
    """Everything that a service occupies."""
    found = {cluster_ip_claim(ip) for ip in service.cluster_ips}
    for port in service.ports:
        found |= {frontend_claim(ip, port.protocol, port.port) for ip in service.reserved_ips}
        if port.node_port:
            found.add(node_port_claim(port.protocol, port.node_port))
    return frozenset(found)


def describe(claim: str) -> str:
    """What a claim is about, in words."""
    if claim.startswith(CLUSTER_IPS):
        return f"cluster IP {claim.removeprefix(CLUSTER_IPS)}"
    ip, protocol, port = claim.removeprefix(FRONTENDS).rsplit("/", 2)
    where = "node port" if ip == _NODE else f"{ip} port"
    return f"{where} {port}/{protocol.upper()}"


def owner_value(key: ServiceKey) -> bytes:
    """Value of a claim."""
    return str(key).encode()


def owner_of(value: bytes) -> ServiceKey | None:
    """The service of a claim's value; None for a value of another form."""
    namespace, slash, name = value.decode(errors="replace").partition("/")
    return ServiceKey(namespace, name) if slash and namespace and name and "/" not in name else None
