"""What has the node take the DNS proxy's packets: a rule, a table of its own, settings of loopback.

    mark MARK_TO_PROXY (shim/bpf/consts.h) ─► rule ─► table 2904 ─► everything is local

The programs mark what goes to the proxy: queries of pods to any server, and the servers' answers to pods'
addresses. Nothing else reads the table. Answers of the node's own processes come in through the loopback
device, with an address of the node as their source, which IPv4 takes for a forgery unless `accept_local` is
set.

What a setting was before is remembered as an empty folder in the BPF file system, named `<setting>-<value>`,
until it is restored. A family that the kernel lacks, or that is disabled, is left out.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from shim.privileged import sysctls
from shim.privileged.interfaces import ROUTE_PROTOCOL

FOLDER: Final = "proxy"
TABLE: Final = 2904
PRIORITY: Final = 29
"""Before the rules of others, such as those of a provider's network or a VPN."""
MARK, MASK = 0xA300_0000, 0xFF00_0000
_LOOPBACK: Final = 1
_LOCAL, _HOST_SCOPE = 2, 254  # RTN_LOCAL, RT_SCOPE_HOST
_SETTINGS: Final = {"accept_local": "1", "rp_filter": sysctls.LOOSE}


def make(before: Path) -> list[str]:
    """Writes what is missing and returns its names. `before`: folder of what settings were. Raises
    NetlinkError."""
    made = []
    with IPRoute() as netlink:
        for family in _families():
            version = 4 if family == socket.AF_INET else 6
            if not _has_route(netlink, family):
                netlink.route("add", **_route(family))
                made.append(f"IPv{version} route")
            if not _has_rule(netlink, family):
                netlink.rule("add", **_rule(family))
                made.append(f"IPv{version} rule")
    return made + [name for name, value in _SETTINGS.items() if _set(before, name, value)]


def remove(before: Path) -> None:
    """Removes the rules first, then the rest; what is not there is fine."""
    with IPRoute() as netlink:
        for family in _families():
            if _has_rule(netlink, family):
                with _absent_is_fine():
                    netlink.rule("del", **_rule(family))
            if _has_route(netlink, family):
                with _absent_is_fine():
                    netlink.route("del", **_route(family))
    for path in sorted(before.glob("*-*")):
        name, _, value = path.name.partition("-")
        if name in _SETTINGS:
            sysctls.set_for(_key(name), value)
        path.rmdir()
    if before.is_dir():
        before.rmdir()


def _families() -> list[int]:
    disabled = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
    if not disabled.exists() or disabled.read_text(encoding="ascii").strip() != "0":
        return [socket.AF_INET]
    return [socket.AF_INET, socket.AF_INET6]


def _rule(family: int) -> dict[str, Any]:
    words = {"priority": PRIORITY, "table": TABLE, "fwmark": MARK, "fwmask": MASK}
    return {**words, "family": family, "protocol": ROUTE_PROTOCOL}


def _route(family: int) -> dict[str, Any]:
    scope = {"scope": _HOST_SCOPE} if family == socket.AF_INET else {}
    base = {"dst": "default", "family": family, "oif": _LOOPBACK, "table": TABLE, "type": _LOCAL}
    return {**base, **scope, "proto": ROUTE_PROTOCOL}


def _has_rule(netlink: IPRoute, family: int) -> bool:
    wanted = {"FRA_PRIORITY": PRIORITY, "FRA_TABLE": TABLE, "FRA_FWMARK": MARK, "FRA_FWMASK": MASK}
    return any(
        all(rule.get_attr(name) == value for name, value in wanted.items())
        for rule in netlink.get_rules(family=family)
    )


def _has_route(netlink: IPRoute, family: int) -> bool:
    return any(
        route["dst_len"] == 0 and route["type"] == _LOCAL and route.get_attr("RTA_TABLE") == TABLE
        for route in netlink.get_routes(family=family, table=TABLE)
    )


def _set(before: Path, name: str, wanted: str) -> bool:
    """Whether the setting had to be written; rp_filter only where the checks in force are strict."""
    key = _key(name)
    value = sysctls.read(key)
    if value == wanted or (name == "rp_filter" and not sysctls.is_strict("lo")):
        return False
    before.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(before.glob(f"{name}-*")):
        (before / f"{name}-{value}").mkdir(mode=0o700)
    return sysctls.set_for(key, wanted)


def _key(name: str) -> str:
    return f"net/ipv4/conf/lo/{name}"


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ESRCH):
            raise
