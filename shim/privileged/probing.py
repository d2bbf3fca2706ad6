"""What this node can do, by name: `yes`, or the reason why not. BPF by `axoneme.lib.bpf`, devices here."""

from __future__ import annotations

import array
import errno
import fcntl
import functools
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from axoneme.lib.bpf.features import detailed
from axoneme.lib.bpf.trials import YES
from shim.neededfeatures import DSR_FEATURES, MAGLEV_FEATURES

_SIOCETHTOOL, _GET_DRIVER_INFO = 0x8946, 3
_DRIVER_INFO_BYTES = 196
NATIVE_DRIVERS: Final = frozenset(
    (
        *("amd-xgbe", "atlantic", "bnxt_en", "dpaa2-eth", "ena", "enetc", "fsl_dpaa2_eth", "fsl_enetc"),
        *("gve", "hv_netvsc", "i40e", "iavf", "ice", "igb", "igc", "ixgbe", "ixgbevf", "mana", "mlx4_en"),
        *("mlx5_core", "mvneta", "mvpp2", "nfp", "nicvf", "qede", "sfc", "stmmac", "tsnep", "tun"),
        *("veth", "virtio_net", "vmxnet3", "xen-netfront"),
    )
)
"""Drivers that run XDP programs themselves, as ethtool names them."""


def probe(bpffs: Path, cgroup_root: str, uplink: str) -> dict[str, str]:
    """Asked of the kernel in some milliseconds; what cannot change is asked once. Raises nothing.

    `uplink`: its name, if it is known.
    """
    found = detailed(bpffs, Path(cgroup_root) if cgroup_root else None)
    if found["libbpf"] != YES:
        return found
    found |= {"clsact": _clsact(), "vxlan": _vxlan(), "xdp_native": _native(uplink)}
    return {**found, "maglev": _all_of(MAGLEV_FEATURES, found), "dsr": _all_of(DSR_FEATURES, found)}


def _all_of(names: Iterable[str], found: Mapping[str, str]) -> str:
    """What a service may ask for by itself, as one name for whoever checks services."""
    return next((f"{name}: {found[name]}" for name in names if found[name] != YES), YES)


@functools.cache
def _vxlan() -> str:
    """A device without its parameters is refused either way: by the driver, or because there is none."""
    with IPRoute() as netlink:
        try:
            netlink.link("add", ifname="axo_probe", kind="vxlan")
        except NetlinkError as error:
            unknown = error.code == errno.EOPNOTSUPP
            return "the kernel is built without CONFIG_VXLAN" if unknown else YES
        netlink.link("del", ifname="axo_probe")
    return YES


@functools.cache
def _clsact() -> str:
    """Tried on the loopback interface for a moment, unless it has one."""
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="lo")[0]
        try:
            netlink.tc("add", "clsact", index)
        except NetlinkError as error:
            if error.code == errno.EEXIST:
                return YES
            return f"the kernel refuses the clsact queue: {error}"
        netlink.tc("del", "clsact", index)
    return YES


def _native(uplink: str) -> str:
    if not uplink:
        return "the uplink is not known yet"
    driver = _driver(uplink)
    if driver in NATIVE_DRIVERS:
        return YES
    return f"driver {driver or 'without a name'} of {uplink} is not known to run XDP programs"


def _driver(interface: str) -> str:
    """The driver's name as ethtool has it; empty when the interface does not tell."""
    info = array.array("B", struct.pack("=I", _GET_DRIVER_INFO).ljust(_DRIVER_INFO_BYTES, b"\0"))
    request = struct.pack("16sP", interface.encode(), info.buffer_info()[0]).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            fcntl.ioctl(asking, _SIOCETHTOOL, request)
        except OSError:
            return ""
    return info.tobytes()[4:36].rstrip(b"\0").decode(errors="replace")
