"""The first file system of the machine: busybox, the modules that reach the host's files, and a script.

A cpio archive in its newc form (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import gzip
import lzma
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.kernels.packages import Kernel

MODULES = ("virtio_pci", "virtiofs", "veth", "vxlan", "bridge", "sch_ingress", "cls_bpf")
BUSYBOX = Path("/bin/busybox")
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /host
/bin/busybox mount -t proc proc /proc
for module in {modules}; do /bin/busybox insmod /modules/$module; done
/bin/busybox mount -t virtiofs host /host -o ro
for place in dev:devtmpfs proc:proc sys:sysfs tmp:tmpfs run:tmpfs; do
  /bin/busybox mount -t ${{place#*:}} none /host/${{place%:*}}
done
/bin/busybox mount -t bpf bpf /host/sys/fs/bpf
/bin/busybox mkdir -p /host/run/cgroup
/bin/busybox mount -t cgroup2 none /host/run/cgroup
/bin/busybox ip link set lo up
cd /host
/bin/busybox chroot /host /bin/sh -c 'cd {folder} && exec {command}'
echo "guest ended with $?"
/bin/busybox poweroff -f
"""


def build(kernel: Kernel, *, folder: Path, command: str) -> bytes:
    """The compressed archive. `command` runs in `folder` of the host's file system."""
    modules = list(dict(_with_dependencies(kernel, MODULES)).items())
    names = " ".join(name for name, _ in modules)
    files = [
        ("bin/busybox", BUSYBOX.read_bytes()),
        *((f"modules/{name}", content) for name, content in modules),
    ]
    script = INIT.format(modules=names, folder=folder, command=command).encode()
    entries = [*(_entry(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "modules"))]
    entries += [_entry(name, stat.S_IFREG | 0o755, content) for name, content in [*files, ("init", script)]]
    return gzip.compress(b"".join([*entries, _entry("TRAILER!!!", 0, b"")]), compresslevel=1)


def _with_dependencies(kernel: Kernel, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Modules in the order in which they load; what is built in is left out."""
    for name in names:
        content = _module(kernel, name)
        if content is None:
            continue
        found = re.search(rb"\0depends=([^\0]*)\0", content)
        needed = found[1].decode().split(",") if found and found[1] else []
        yield from _with_dependencies(kernel, needed)
        yield name, content


def _module(kernel: Kernel, name: str) -> bytes | None:
    pattern = name.replace("_", "[_-]")
    for path in (kernel.modules / "kernel").rglob(f"{pattern}.ko*"):
        raw = path.read_bytes()
        return lzma.decompress(raw) if path.suffix == ".xz" else raw
    return None


def _entry(name: str, mode: int, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(head + path) + _padded(content)


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % 4)
