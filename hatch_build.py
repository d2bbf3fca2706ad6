"""Build hook of the wheel: compiles the BPF objects with the function behind `make bpf`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BpfBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds `shim/bpf/objects/*.o` to the wheel; without clang the wheel holds the control plane only."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        sys.path.insert(0, str(Path(self.root)))
        from shim.bpf.compile import CompilerMissing, compile_objects

        try:
            compile_objects()
        except CompilerMissing as error:
            self.app.display_warning(f"{error}: this wheel holds the control plane only, no datapath")
        else:
            build_data["pure_python"] = False
