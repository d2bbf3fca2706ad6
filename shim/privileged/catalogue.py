"""Which compiled object holds which programs, and where each of them is attached."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from axoneme.lib.bpf.cgrouplinks import SOCKET_PROGRAMS, CgroupHook
from axoneme.lib.bpf.links import Hook

ENDPOINT, NETDEV, OVERLAY, HOST, SOCK, XDP, SOCKMAP = (
    *("endpoint", "netdev", "overlay", "host", "sock", "xdp", "sockmap"),
)
"""Names of objects, without `.o`. Only the endpoint's is needed by every node."""

HOST_IN, HOST_OUT = "axoneme_host_in", "axoneme_host_out"
XDP_PROGRAM, SOCKOPS_PROGRAM, MESSAGE_PROGRAM = "axoneme_xdp", "axoneme_sockops", "axoneme_sk_msg"

# Directions are the interface's: an endpoint's ingress is what the workload sends.
INTERFACE_PROGRAMS: Final[Mapping[str, Mapping[str, Hook]]] = MappingProxyType(
    {
        ENDPOINT: {"axoneme_from_ep": Hook.TCX_INGRESS, "axoneme_to_ep": Hook.TCX_EGRESS},
        NETDEV: {"axoneme_from_netdev": Hook.TCX_INGRESS, "axoneme_to_netdev": Hook.TCX_EGRESS},
        OVERLAY: {"axoneme_from_overlay": Hook.TCX_INGRESS, "axoneme_to_overlay": Hook.TCX_EGRESS},
        HOST: {HOST_IN: Hook.TCX_INGRESS, HOST_OUT: Hook.TCX_EGRESS},
    }
)
CGROUP_PROGRAMS: Final[Mapping[str, Mapping[str, CgroupHook]]] = MappingProxyType(
    {SOCK: SOCKET_PROGRAMS, SOCKMAP: {SOCKOPS_PROGRAM: CgroupHook.SOCK_OPS}}
)
PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        **{name: tuple(programs) for name, programs in INTERFACE_PROGRAMS.items()},
        SOCK: tuple(SOCKET_PROGRAMS),
        XDP: (XDP_PROGRAM,),
        SOCKMAP: (SOCKOPS_PROGRAM, MESSAGE_PROGRAM),
    }
)
"""Object → the programs that it must have."""

HOOKS: Final[Mapping[str, Hook]] = MappingProxyType(
    {name: hook for programs in INTERFACE_PROGRAMS.values() for name, hook in programs.items()}
)
OBJECT_OF: Final[Mapping[str, str]] = MappingProxyType(
    {program: name for name, programs in PROGRAMS.items() for program in programs}
)

# On its way in, a packet meets the node's own policy after what translates; on its way out, before it.
INGRESS_ORDER: Final = ("axoneme_from_ep", "axoneme_from_netdev", "axoneme_from_overlay", HOST_IN)
EGRESS_ORDER: Final = (HOST_OUT, "axoneme_to_ep", "axoneme_to_netdev", "axoneme_to_overlay")


def order_on(hook: Hook) -> tuple[str, ...]:
    """Programs of a hook in the order in which they must run, if they are there."""
    return INGRESS_ORDER if hook is Hook.TCX_INGRESS else EGRESS_ORDER
