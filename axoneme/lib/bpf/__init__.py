"""Access to BPF from Python: objects, maps, links and test runs through libbpf.

Maps flow in both directions as plain bytes: the layouts live with their owner (`shim/maps/layout.py`). Code
above this package sees only the `BpfMap` protocol, so that `MemoryMap` can stand in where no kernel is to be
had; one contract test runs over both. Nothing here decides what a map holds, and importing it needs no
libbpf.
"""

from __future__ import annotations

from axoneme.lib.bpf.errors import BpfError, LibraryMissingError, MapFullError, VerifierError
from axoneme.lib.bpf.kinds import MapKind, MapSpec
from axoneme.lib.bpf.maps import BpfMap, KernelMap
from axoneme.lib.bpf.memory import MemoryMap

__all__ = [
    "BpfError",
    "BpfMap",
    "KernelMap",
    "LibraryMissingError",
    "MapFullError",
    "MapKind",
    "MapSpec",
    "MemoryMap",
    "VerifierError",
]
