"""What this kernel offers the datapath, found by asking it; a few milliseconds, once at start."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from axoneme.lib.bpf.errors import BpfError, LibraryMissingError
from axoneme.lib.bpf.kinds import MapKind
from axoneme.lib.bpf.library import libbpf
from axoneme.lib.bpf.links import Hook, attached

_PROGRAM_KIND_TC: Final = 3
_HELPER_KTIME_COARSE: Final = 160
_LOOPBACK: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Each flag is something that the datapath needs."""

    kernel: str
    libbpf: bool
    tcx: bool = False
    ring_buffer: bool = False
    lpm_trie: bool = False
    map_of_maps: bool = False
    coarse_clock: bool = False
    btf: bool = False
    bpffs: bool = False

    def missing(self) -> list[str]:
        """What is missing, in words; empty when the datapath can run."""
        wanted = {
            "libbpf.so.1 (install libbpf1)": self.libbpf,
            "tcx links (Linux 6.6)": self.tcx,
            "BPF ring buffers (Linux 5.8)": self.ring_buffer,
            "LPM tries": self.lpm_trie,
            "maps of maps": self.map_of_maps,
            "bpf_ktime_get_coarse_ns (Linux 5.11)": self.coarse_clock,
            "kernel BTF (CONFIG_DEBUG_INFO_BTF)": self.btf,
            "a bpf file system": self.bpffs,
        }
        return [name for name, present in wanted.items() if not present]


def probe(bpffs: Path = Path("/sys/fs/bpf")) -> Features:
    """Asks the kernel. Needs CAP_BPF and CAP_NET_ADMIN for true answers; raises nothing."""
    kernel = os.uname().release
    try:
        library = libbpf()
    except LibraryMissingError:
        return Features(kernel=kernel, libbpf=False)

    def has_map(kind: MapKind) -> bool:
        return int(library.libbpf_probe_bpf_map_type(int(kind), None)) == 1

    return Features(
        kernel=kernel,
        libbpf=True,
        tcx=_has_tcx(),
        ring_buffer=has_map(MapKind.RINGBUF),
        lpm_trie=has_map(MapKind.LPM_TRIE),
        map_of_maps=has_map(MapKind.HASH_OF_MAPS),
        coarse_clock=int(library.libbpf_probe_bpf_helper(_PROGRAM_KIND_TC, _HELPER_KTIME_COARSE, None)) == 1,
        btf=Path("/sys/kernel/btf/vmlinux").exists(),
        bpffs=is_bpffs(bpffs),
    )


def is_bpffs(path: Path) -> bool:
    """Whether `path` is in a bpf file system: its mount point or a folder below."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    mount_points = {Path(fields[1]) for fields in map(str.split, mounts) if fields[2] == "bpf"}
    return not mount_points.isdisjoint((path, *path.parents))


def _has_tcx() -> bool:
    try:
        attached(_LOOPBACK, Hook.TCX_INGRESS)
    except (BpfError, LibraryMissingError):
        return False
    return True
