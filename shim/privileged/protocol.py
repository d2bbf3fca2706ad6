"""What may be asked of the privileged helper: one type a request. Nothing of this module has an effect.

Paths of maps and pins are never part of a request; the helper knows its node. `packets` turns requests into
bytes and back, with the checks that each passes. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from shim.network import ATTACH_AUTO, DIRECT, XDP_OFF, NetworkSettings
from shim.privileged import fields

MAX_ROUTES = fields.MAX_ROUTES
UNREACHABLE, OVERLAY = fields.UNREACHABLE, fields.OVERLAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Base of all requests."""

    op: ClassVar[str] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Request):
    """Is the helper there?"""

    op: ClassVar[str] = "ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUpNode(Request):
    """Mount bpffs if absent, switch forwarding on, add the router addresses."""

    op: ClassVar[str] = "set_up_node"
    router_ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPrograms(Request):
    """Load the datapath objects in use, reuse pinned maps, replace attached programs in place.

    Without `replace` nothing is done when the helper has loaded these very objects over these maps, with
    these settings. `map_sizes`: entries of maps that differ from the default.
    """

    op: ClassVar[str] = "load_programs"
    replace: bool = True
    map_sizes: Mapping[str, int] = field(default_factory=dict)
    tunnel_port: int = 8472
    monitor_aggregation: str = "medium"
    attach: str = ATTACH_AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUpNetwork(Request):
    """Make the devices and attach the programs of the node that the settings ask for; remove the others."""

    op: ClassVar[str] = "set_up_network"
    routing_mode: str = DIRECT
    tunnel_port: int = 8472
    uplink: str = ""
    internal_ips: tuple[str, ...] = ()
    mtu: int = 0
    services: bool = False
    masquerade: bool = False
    host_firewall: bool = False
    socket_lb: bool = False
    cgroup_root: str = ""
    sockmap: bool = False
    dns_proxy: bool = False
    xdp: str = XDP_OFF
    attach: str = ATTACH_AUTO
    health: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePolicyMap(Request):
    """Make an empty inner policy map; its descriptor comes with the answer."""

    op: ClassVar[str] = "create_policy_map"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPolicyMap(Request):
    """Descriptor of the inner policy map that an endpoint, or the host (0), has now; none without one."""

    op: ClassVar[str] = "open_policy_map"
    holder: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateMaglevTable(Request):
    """Make an empty table of so many elements; its descriptor comes with the answer."""

    op: ClassVar[str] = "create_maglev_table"
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenMaglevTable(Request):
    """Descriptor of the table that a set of backends has now, if any."""

    op: ClassVar[str] = "open_maglev_table"
    set_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthListener(Request):
    """Sockets that listen inside the health endpoint's namespace, one an address, in this order."""

    op: ClassVar[str] = "health_listener"
    ips: tuple[str, ...]
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateInterface(Request):
    """Make the veth pair of an endpoint, the node's side down; an equal pair is taken as it is.

    An MTU of 0 leaves the kernel's.
    """

    op: ClassVar[str] = "create_interface"
    endpoint_id: int
    netns: str
    interface_name: str
    ips: tuple[str, ...]
    mtu: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptInterface(Request):
    """Take the node's side of an existing interface of a workload; only programs will be put on it."""

    op: ClassVar[str] = "adopt_interface"
    endpoint_id: int
    netns: str
    interface_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetnsCookie(Request):
    """The kernel's number of a workload's namespace; 0 where the kernel does not tell."""

    op: ClassVar[str] = "netns_cookie"
    netns: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachEndpoint(Request):
    """Attach both programs, then let traffic through: link up, host routes, neighbours."""

    op: ClassVar[str] = "attach_endpoint"
    endpoint_id: int
    ips: tuple[str, ...]
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachEndpoint(Request):
    """Stop an endpoint's traffic: link down. Programs and interface stay."""

    op: ClassVar[str] = "detach_endpoint"
    endpoint_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteInterface(Request):
    """Remove an endpoint's interface and the pins of its links; an absent one is fine."""

    op: ClassVar[str] = "delete_interface"
    endpoint_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListInterfaces(Request):
    """Endpoint interfaces with the programs that are attached to them."""

    op: ClassVar[str] = "list_interfaces"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRoutes(Request):
    """Write and remove routes to PodCIDRs; a next hop is an address, `overlay` or `unreachable`.

    An MTU other than 0 goes to the routes through the overlay device.
    """

    op: ClassVar[str] = "set_routes"
    upserts: Mapping[str, str]
    removals: tuple[str, ...]
    mtu: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRoutes(Request):
    """Routes that this helper made."""

    op: ClassVar[str] = "list_routes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFeatures(Request):
    """What this kernel can do."""

    op: ClassVar[str] = "probe_features"


REQUESTS: Mapping[str, type[Request]] = {
    kind.op: kind
    for kind in (
        Ping,
        SetUpNode,
        LoadPrograms,
        SetUpNetwork,
        CreatePolicyMap,
        OpenPolicyMap,
        CreateMaglevTable,
        OpenMaglevTable,
        HealthListener,
        CreateInterface,
        AdoptInterface,
        NetnsCookie,
        AttachEndpoint,
        DetachEndpoint,
        DeleteInterface,
        ListInterfaces,
        SetRoutes,
        ListRoutes,
        ProbeFeatures,
    )
}


def load_request(settings: NetworkSettings) -> LoadPrograms:
    """The request to load what a node's settings say, unless it is loaded already."""
    return LoadPrograms(
        replace=False,
        map_sizes=settings.map_sizes,
        tunnel_port=settings.tunnel_port if settings.tunnel else 0,
        monitor_aggregation=settings.monitor_aggregation,
        attach=settings.attach,
    )


def network_request(settings: NetworkSettings) -> SetUpNetwork:
    """The request to make a node's network as its settings say."""
    names = [name for name in SetUpNetwork.__dataclass_fields__ if name != "op"]
    return SetUpNetwork(**{name: getattr(settings, name) for name in names})
