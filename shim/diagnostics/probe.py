"""The child process of `axoneme trace`: compiles a tracing program with BCC and writes JSON lines.

    /usr/bin/python3 probe.py drops|connects|retransmits|latency [--seconds S] [--address A]…

Runs under the *system's* Python, where Debian's python3-bpfcc lives, and imports nothing of this project.
First line `{"ready": true}`, then one object an event, last the histograms and the count of lost events; an
error is one line `{"error": "what and how to fix it"}` and exit code 1. BCC wants kernel headers even for
programs that use none, so it gets a tree of UAPI headers (linux-libc-dev) with a few empty ones beside them.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import ctypes
import ipaddress
import json
import os
import platform
import re
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TRACEFS = Path("/sys/kernel/tracing")
MEMORY_BYTES = 4 << 30  # address space, most of which LLVM only reserves
EVENT = struct.Struct("=QQ16s16sHHIB7x16s")
STATES = {1: "established", 2: "syn_sent", 3: "syn_recv", 4: "fin_wait1", 5: "fin_wait2", 6: "time_wait"}
STATES |= {7: "closed", 8: "close_wait", 9: "last_ack", 10: "listen", 11: "closing", 12: "new_syn_recv"}
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x2_0000, 0x4000, 0x4_0000

# kind → (tracepoint, function, macros)
POINTS: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "drops": (("skb:kfree_skb", "on_drop", ("PROBE_DROPS",)),),
    "connects": (("sock:inet_sock_set_state", "on_state", ("PROBE_CONNECTS",)),),
    "retransmits": (("tcp:tcp_retransmit_skb", "on_retransmit", ("PROBE_RETRANSMITS",)),),
    "latency": (
        ("sock:inet_sock_set_state", "on_state", ("PROBE_CONNECTS", "QUIET")),
        ("tcp:tcp_probe", "on_ack", ("PROBE_RTT",)),
    ),
}
SKB_FIELDS = ("head", "network_header")
HISTOGRAMS = {"connects": ("connect_us",), "latency": ("connect_us", "rtt_us")}

HEADERS = ("linux/bpf_common.h", "linux/types.h", "linux/if_packet.h")
KCONFIG = f"""#define CONFIG_BPF_SYSCALL 1
#define PAGE_SIZE {resource.getpagesize()}
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
typedef signed char s8; typedef short s16; typedef int s32; typedef long long s64;
typedef _Bool bool; typedef int pid_t; typedef __SIZE_TYPE__ size_t; typedef __UINTPTR_TYPE__ uintptr_t;
"""  # noqa: E501
# Only programs of kprobes are compared with the kernel's version, and there are none.
VERSION = """#define LINUX_VERSION_CODE 0
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
"""


class ProbeError(Exception):
    """Why nothing can be traced here, and what would help."""


# --- ground: tracefs, header tree, offsets


def mount_tracefs() -> None:
    """Makes tracefs visible, in a mount namespace of this process alone. Raises ProbeError."""
    if (TRACEFS / "events").is_dir():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    done = (
        libc.unshare(CLONE_NEWNS) == 0
        and libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
        and libc.mount(b"tracefs", os.fsencode(TRACEFS), b"tracefs", 0, None) == 0
    )
    if not done:
        raise ProbeError(
            f"tracefs cannot be mounted at {TRACEFS}: {os.strerror(ctypes.get_errno())};"
            " run as root on a kernel with CONFIG_FTRACE"
        )


def fields_of(tracepoint: str) -> dict[str, int]:
    """Field → offset, as the kernel describes a tracepoint. Raises ProbeError when it has none."""
    folder = TRACEFS / "events" / tracepoint.replace(":", "/")
    try:
        text = (folder / "format").read_text()
    except OSError as error:
        raise ProbeError(
            f"this kernel has no tracepoint {tracepoint} ({error.strerror}); it needs CONFIG_TRACEPOINTS and"
            " CONFIG_NET, and Linux 5.17 for reasons of drops"
        ) from error
    found = re.findall(r"field:.*?(\w+)(?:\[\d+\])?;\s*offset:(\d+);", text)
    return {name: int(offset) for name, offset in found}


def reasons() -> dict[int, str]:
    """Drop reason → name, from the tracepoint's own format."""
    text = (TRACEFS / "events/skb/kfree_skb/format").read_text()
    return {int(number): name.lower() for number, name in re.findall(r'\{ (\d+), "(\w+)" \}', text)}


def header_tree(folder: Path) -> None:
    """What BCC's own preamble includes, and nothing of the kernel's. Raises ProbeError."""
    include = folder / "include"
    places = (Path("/usr/include"), Path(f"/usr/include/{platform.machine()}-linux-gnu"))
    waiting = list(HEADERS)
    while waiting:
        name = waiting.pop()
        if (include / name).exists():
            continue
        source = next((place / name for place in places if (place / name).exists()), None)
        if source is None:
            raise ProbeError(f"header {name} is missing: apt-get install linux-libc-dev")
        text = source.read_text()
        _write(include / name, text)
        waiting += re.findall(r"#\s*include\s*<([^>]+)>", text)
    _write(include / "linux/kconfig.h", KCONFIG)
    _write(include / "linux/version.h", VERSION)
    _write(include / "uapi/linux/if_packet.h", "#include <linux/if_packet.h>\n")
    for empty in ("linux/bpf.h", "uapi/linux/bpf.h", "linux/log2.h", "asm/page.h"):
        _write(include / empty, "")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Btf:
    """The kernel's type information through libbpf, which BCC brings along."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libbpf.so.1")
        self._lib.btf__load_vmlinux_btf.restype = ctypes.c_void_p
        for name in ("btf__type_by_id", "btf__name_by_offset"):
            getattr(self._lib, name).argtypes = (ctypes.c_void_p, ctypes.c_uint)
        self._lib.btf__type_by_id.restype = ctypes.c_void_p
        self._lib.btf__name_by_offset.restype = ctypes.c_char_p
        self._lib.btf__find_by_name.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
        self._btf = self._lib.btf__load_vmlinux_btf()
        if not self._btf:
            raise ProbeError("/sys/kernel/btf/vmlinux is missing: boot a kernel with CONFIG_DEBUG_INFO_BTF")

    def offsets(self, name: str) -> dict[str, int]:
        """Member → offset in bytes of a struct, through its anonymous parts."""
        number = self._lib.btf__find_by_name(self._btf, name.encode())
        if number <= 0:
            raise ProbeError(f"the kernel's BTF has no struct {name}")
        return dict(self._members(number, 0))

    def _members(self, number: int, base: int) -> Iterator[tuple[str, int]]:
        at = self._lib.btf__type_by_id(self._btf, number)
        _, info, _ = struct.unpack("=III", ctypes.string_at(at, 12))
        if info >> 24 & 31 not in (4, 5):  # struct, union
            return
        for index in range(info & 0xFFFF):
            raw = ctypes.string_at(at + 12 + 12 * index, 12)
            name_offset, member, bits = struct.unpack("=III", raw)
            name = self._lib.btf__name_by_offset(self._btf, name_offset).decode()
            offset = base + (bits & 0xFFFFFF if info >> 31 else bits) // 8
            if name:
                yield name, offset
            else:
                yield from self._members(member, offset)


# --- the probe


def macros(kind: str, addresses: list[str]) -> list[str]:
    """-D options that fit the program to this kernel. Raises ProbeError."""
    found = ["-DFILTERED=1"] if addresses else []
    for tracepoint, _, switches in POINTS[kind]:
        found += [f"-D{switch}=1" for switch in switches]
        prefix = tracepoint.partition(":")[2]
        found += [f"-D{prefix}_{name}={offset}" for name, offset in fields_of(tracepoint).items()]
    if kind == "drops":
        offsets = Btf().offsets("sk_buff")
        found += [f"-DSKB_{name}={offsets[name]}" for name in SKB_FIELDS]
    return found


def compile_probe(kind: str, addresses: list[str], tree: Path) -> Any:
    """The attached program. Raises ProbeError."""
    try:
        from bcc import BPF  # type: ignore[import-not-found]
    except ImportError as error:
        raise ProbeError(f"{sys.executable} has no BCC ({error}): apt-get install python3-bpfcc") from error
    mount_tracefs()
    header_tree(tree)
    os.environ["BCC_KERNEL_SOURCE"] = str(tree)
    source = Path(__file__).with_name("probe.c").read_text()
    try:
        program = BPF(text=source, cflags=macros(kind, addresses))
        for text in addresses:
            wanted = program["wanted"]
            wanted[wanted.Key.from_buffer_copy(mapped(text))] = wanted.Leaf(1)
        for tracepoint, function, _ in POINTS[kind]:
            program.attach_tracepoint(tp=tracepoint, fn_name=function)
    except ProbeError:
        raise
    except Exception as error:  # BCC raises nothing more exact
        raise ProbeError(f"BCC cannot trace here: {error}; is this process root, with CAP_BPF?") from error
    return program


def mapped(text: str) -> bytes:
    """An address as the program keeps it."""
    address = ipaddress.ip_address(text)
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


def shown(raw: bytes) -> str:
    """Reverse of `mapped`."""
    address = ipaddress.IPv6Address(raw)
    return str(address.ipv4_mapped or address)


def decoded(kind: str, raw: bytes, names: dict[int, str], epoch_ns: int) -> dict[str, Any]:
    """One event as an object; `epoch_ns` is the wall clock's value at boot."""
    at_ns, duration_ns, source, destination, sport, dport, reason, protocol, task = EVENT.unpack(raw)
    found = {
        "event": kind.removesuffix("s"),
        "time": round((epoch_ns + at_ns) / 1e9, 6),
        "protocol": protocol,
        "source": shown(source),
        "source_port": sport,
        "destination": shown(destination),
        "destination_port": dport,
    }
    if kind == "drops":
        return {**found, "reason": names.get(reason, f"reason {reason}" if reason else "unknown")}
    found["state"] = STATES.get(reason, str(reason))
    if kind == "connects":
        found |= {"milliseconds": duration_ns / 1e6, "task": task.split(b"\0")[0].decode(errors="replace")}
    return found


def follow(kind: str, program: Any, seconds: float) -> None:
    """Prints events until the time is over or a signal comes, then the histograms."""
    names = reasons() if kind == "drops" else {}
    epoch_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    ends: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ends.append(1))

    def on_event(_: Any, data: Any, size: int) -> None:
        event = decoded(kind, ctypes.string_at(data, size)[: EVENT.size], names, epoch_ns)
        print(json.dumps(event), flush=True)

    program["events"].open_ring_buffer(on_event)
    print(json.dumps({"ready": True}), flush=True)
    deadline = time.monotonic() + seconds if seconds else float("inf")
    while not ends and time.monotonic() < deadline:
        program.ring_buffer_poll(100)
    program.ring_buffer_consume()
    for name in HISTOGRAMS.get(kind, ()):
        found = ((int(slot.value), int(value.value)) for slot, value in program[name].items())
        # Slot n holds values from 2^(n-1) to below 2^n.
        buckets = [[1 << slot - 1 if slot else 0, value] for slot, value in sorted(found) if value]
        print(json.dumps({"histogram": name, "buckets": buckets}))
    print(json.dumps({"lost": program["lost"][ctypes.c_int(0)].value}), flush=True)


def limit() -> None:
    """Bounds what a mistake can cost the node: memory, priority, and life after the parent's."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(10)
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=sorted(POINTS))
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--address", action="append", default=[])
    options = parser.parse_args()
    limit()
    try:
        with tempfile.TemporaryDirectory(prefix="axoneme-trace-") as tree:
            if os.geteuid() != 0:
                raise ProbeError("tracing needs root")
            program = compile_probe(options.kind, options.address, Path(tree))
        follow(options.kind, program, options.seconds)
    except ProbeError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader is gone, so is what is buffered for it
    return 0


if __name__ == "__main__":
    sys.exit(main())
