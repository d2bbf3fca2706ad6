"""What this kernel offers the datapath, found by asking it; a few milliseconds, once at start."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from axoneme.lib.bpf import trials
from axoneme.lib.bpf.cgrouplinks import SOCKET_PROGRAMS, cgroup2_root
from axoneme.lib.bpf.errors import BpfError, LibraryMissingError
from axoneme.lib.bpf.kinds import MapKind
from axoneme.lib.bpf.library import libbpf
from axoneme.lib.bpf.links import Hook, attached
from axoneme.lib.bpf.trials import YES

_PROGRAM_KIND_TC: Final = 3
_PROGRAM_KIND_XDP, _PROGRAM_KIND_SOCK_OPS, _PROGRAM_KIND_SK_MSG, _PROGRAM_KIND_SOCK_ADDR = 6, 13, 16, 18
_HELPER_REDIRECT_NEIGH, _HELPER_REDIRECT_PEER, _HELPER_KTIME_COARSE, _HELPER_LOOP = 152, 155, 160, 181
_HELPER_SKC_LOOKUP_TCP, _HELPER_SK_ASSIGN = 99, 124
_LOOPBACK: Final = 1


REQUIRED: Final = (
    *("libbpf", "bpffs", "ring_buffer", "lpm_trie", "lpm_batch", "map_of_maps", "trie_in_hash"),
    *("inner_array_sizes", "coarse_clock", "redirect_neigh", "redirect_peer"),
)
"""Names of `detailed` without which a node's datapath cannot work; the others are for single functions."""


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
    redirect_peer: bool = False
    btf: bool = False
    bpffs: bool = False

    def missing(self) -> list[str]:
        """What is missing, in words; empty when the datapath can run."""
        wanted = {
            "libbpf.so.1 (install libbpf1)": self.libbpf,
            "BPF ring buffers (Linux 5.8)": self.ring_buffer,
            "LPM tries": self.lpm_trie,
            "maps of maps": self.map_of_maps,
            "bpf_ktime_get_coarse_ns (Linux 5.11)": self.coarse_clock,
            "bpf_redirect_peer and bpf_redirect_neigh (Linux 5.10)": self.redirect_peer,
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

    def has_helper(number: int) -> bool:
        return int(library.libbpf_probe_bpf_helper(_PROGRAM_KIND_TC, number, None)) == 1

    return Features(
        kernel=kernel,
        libbpf=True,
        tcx=_has_tcx(),
        ring_buffer=has_map(MapKind.RINGBUF),
        lpm_trie=has_map(MapKind.LPM_TRIE),
        map_of_maps=has_map(MapKind.HASH_OF_MAPS),
        coarse_clock=has_helper(_HELPER_KTIME_COARSE),
        redirect_peer=has_helper(_HELPER_REDIRECT_PEER) and has_helper(_HELPER_REDIRECT_NEIGH),
        btf=Path("/sys/kernel/btf/vmlinux").exists(),
        bpffs=is_bpffs(bpffs),
    )


def detailed(bpffs: Path = Path("/sys/fs/bpf"), cgroup: Path | None = None) -> dict[str, str]:
    """Feature → `yes`, or why not in words; also what only some nodes need. `cgroup`: the workloads' folder.

    A few milliseconds, most of them once in the life of this process. Raises nothing.
    """
    root = cgroup or cgroup2_root()
    return {
        **_of_the_kernel(),
        "bpffs": YES if is_bpffs(bpffs) else f"no bpf file system is mounted at {bpffs}",
        "cgroup2": YES if root is not None and (root / "cgroup.procs").exists() else _no_cgroup(cgroup),
    }


@functools.cache
def _of_the_kernel() -> dict[str, str]:
    """What cannot change while the kernel runs."""
    try:
        libbpf()
    except LibraryMissingError as error:
        return {"kernel": os.uname().release, "libbpf": str(error)}
    hooks = {
        f"cgroup_{name.removeprefix('axoneme_')}": trials.program(_PROGRAM_KIND_SOCK_ADDR, int(hook))
        for name, hook in SOCKET_PROGRAMS.items()
    }
    btf = Path("/sys/kernel/btf/vmlinux").exists()
    return {
        "kernel": os.uname().release,
        "libbpf": YES,
        "btf": YES if btf else "the kernel is built without CONFIG_DEBUG_INFO_BTF",
        "tcx": YES if _has_tcx() else "the kernel is older than Linux 6.6",
        "ring_buffer": trials.map_kind(MapKind.RINGBUF),
        "ring_mmap": trials.ring_mapping(),
        "lpm_trie": trials.map_kind(MapKind.LPM_TRIE),
        "lpm_batch": trials.lpm_batch(),
        "map_of_maps": trials.map_kind(MapKind.HASH_OF_MAPS),
        "trie_in_hash": trials.trie_in_hash(),
        "inner_array_sizes": trials.inner_array_sizes(),
        "coarse_clock": trials.helper(_PROGRAM_KIND_TC, _HELPER_KTIME_COARSE, "Linux 5.11"),
        "bpf_loop": trials.helper(_PROGRAM_KIND_TC, _HELPER_LOOP, "Linux 5.17"),
        "redirect_neigh": trials.helper(_PROGRAM_KIND_TC, _HELPER_REDIRECT_NEIGH, "Linux 5.10"),
        "redirect_peer": trials.helper(_PROGRAM_KIND_TC, _HELPER_REDIRECT_PEER, "Linux 5.10"),
        "skc_lookup_tcp": trials.helper(_PROGRAM_KIND_TC, _HELPER_SKC_LOOKUP_TCP, "Linux 5.2"),
        "sk_assign": trials.helper(_PROGRAM_KIND_TC, _HELPER_SK_ASSIGN, "Linux 5.7"),
        "xdp_generic": trials.program(_PROGRAM_KIND_XDP),
        "sockmap": _sockmap(),
        **hooks,
    }


def _sockmap() -> str:
    answers = (
        trials.map_kind(MapKind.SOCKHASH),
        trials.program(_PROGRAM_KIND_SOCK_OPS),
        trials.program(_PROGRAM_KIND_SK_MSG),
    )
    return next((answer for answer in answers if answer != YES), YES)


def _no_cgroup(wanted: Path | None) -> str:
    return f"{wanted} is no cgroup v2" if wanted else "no cgroup v2 is mounted"


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
