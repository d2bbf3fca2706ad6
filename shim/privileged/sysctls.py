"""Settings of the kernel's stack, written only where they differ."""

from __future__ import annotations

from pathlib import Path

LOOSE = "2"


def set_for(key: str, value: str) -> bool:
    """Writes `net/...` unless it says so already; whether it was written. Absent ones are left out."""
    path = Path("/proc/sys") / key
    if not path.exists() or path.read_text(encoding="ascii").strip() == value:
        return False
    path.write_text(value, encoding="ascii")
    return True


def is_strict(interface: str) -> bool:
    """Whether reverse-path checks of an interface are strict.

    The kernel takes the larger of the interface's value and that of all: 0 none, 1 strict, 2 loose.
    """
    return max(read(f"net/ipv4/conf/{name}/rp_filter") for name in ("all", interface)) == "1"


def loosen_reverse_path(interface: str) -> None:
    """Loose reverse-path checks for an interface, if the checks in force are strict."""
    if is_strict(interface):
        set_for(f"net/ipv4/conf/{interface}/rp_filter", LOOSE)


def permit_echoes(group: int) -> None:
    """Lets processes of a group open ICMP echo sockets without a capability; others that may keep it."""
    key = "net/ipv4/ping_group_range"
    low, _, high = read(key).partition("\t")
    ends = (int(low), int(high or 0))
    if ends[0] > ends[1]:  # nobody may
        set_for(key, f"{group}\t{group}")
    elif not ends[0] <= group <= ends[1]:
        set_for(key, f"{min(group, ends[0])}\t{max(group, ends[1])}")


def read(key: str) -> str:
    """The value of `net/...`; `0` for one that the kernel lacks."""
    path = Path("/proc/sys") / key
    return path.read_text(encoding="ascii").strip() if path.exists() else "0"
