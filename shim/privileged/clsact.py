"""Programs on an interface as tc filters, for kernels without tcx (before Linux 6.6).

A filter has a fixed place: priority by the order of programs, handle 1. Writing it again replaces the
program in one step. Filters have no owner and stay until they are removed, or the interface goes; which
filters are ours is told by priority, handle and name.
"""

from __future__ import annotations

import errno
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from axoneme.lib.bpf.links import Hook
from axoneme.lib.bpf.program import BpfProgram
from shim.privileged.catalogue import HOOKS, HOST_IN, HOST_OUT

HANDLE: Final = 1
FIRST_PRIORITY: Final = 10
_ETH_P_ALL = 0x0003
_PARENT = {Hook.TCX_INGRESS: "ffff:fff2", Hook.TCX_EGRESS: "ffff:fff3"}
_PARENT_NUMBER = {Hook.TCX_INGRESS: 0xFFFF_FFF2, Hook.TCX_EGRESS: 0xFFFF_FFF3}


def attach(program: BpfProgram, ifindex: int) -> None:
    """Puts a program at its place, in the place of what is there."""
    hook = HOOKS[program.name]
    with IPRoute() as netlink:
        _make_qdisc(netlink, ifindex)
        netlink.tc(
            "replace-filter",
            "bpf",
            ifindex,
            HANDLE,
            fd=program.fd,
            name=program.name,
            parent=_PARENT[hook],
            prio=_priority(program.name),
            protocol=_ETH_P_ALL,
            direct_action=True,
        )


def detach(name: str, ifindex: int) -> None:
    """Removes a program's filter; an absent one, or an absent interface, is fine."""
    if name not in present(ifindex):
        return
    with IPRoute() as netlink:
        try:
            netlink.tc(
                "del-filter",
                "bpf",
                ifindex,
                HANDLE,
                parent=_PARENT[HOOKS[name]],
                prio=_priority(name),
                protocol=_ETH_P_ALL,
            )
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise


def present(ifindex: int) -> dict[str, int]:
    """Name → program id of our filters on an interface."""
    found: dict[str, int] = {}
    with IPRoute() as netlink:
        for hook, parent in _PARENT_NUMBER.items():
            try:
                messages = list(netlink.get_filters(index=ifindex, parent=parent))
            except NetlinkError as error:
                if error.code in (errno.EINVAL, errno.ENODEV, errno.ENOENT):
                    continue  # no clsact there, or no interface
                raise
            for message in messages:
                name, number = _ours(message, hook)
                if name:
                    found[name] = number
    return found


def everywhere() -> dict[int, dict[str, int]]:
    """Interface → name → program id, of all interfaces that have filters of ours."""
    with IPRoute() as netlink:
        clsact = [q["index"] for q in netlink.get_qdiscs() if q.get_attr("TCA_KIND") == "clsact"]
    return {index: found for index in clsact if (found := present(index))}


def _ours(message: object, hook: Hook) -> tuple[str, int]:
    """Name and program id of a filter, if it is at one of our places."""
    read = message.get_attr  # type: ignore[attr-defined]
    options = read("TCA_OPTIONS")
    if read("TCA_KIND") != "bpf" or options is None:
        return "", 0
    name, handle = str(options.get_attr("TCA_BPF_NAME") or ""), message["handle"]  # type: ignore[index]
    priority = message["info"] >> 16  # type: ignore[index]
    if HOOKS.get(name) is not hook or handle != HANDLE or priority != _priority(name):
        return "", 0
    return name, int(options.get_attr("TCA_BPF_ID") or 0)


def _make_qdisc(netlink: IPRoute, ifindex: int) -> None:
    try:
        netlink.tc("add", "clsact", ifindex)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def _priority(name: str) -> int:
    """The node's own policy runs behind what translates on the way in, and before it on the way out."""
    late = name == HOST_IN or (HOOKS[name] is Hook.TCX_EGRESS and name != HOST_OUT)
    return FIRST_PRIORITY + (10 if late else 0)
