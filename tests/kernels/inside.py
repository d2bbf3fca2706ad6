"""Runs in the machine: what the kernel offers, every program of every object, the tests of the programs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.features import detailed
from axoneme.lib.bpf.object import BpfObject
from shim.bpf.manifest import FOLDER
from tests.kernels.report import say
from tests.kernels.tables import GROUPS

PINS = Path("/sys/fs/bpf/axt-kernel")


def main() -> int:
    say("features", found=detailed())
    for path in sorted(FOLDER.glob("*.o")):
        say("object", **loaded(path))
    if "--load-only" not in sys.argv:
        run_tests()
    say("ended")
    return 0


def loaded(path: Path) -> dict[str, object]:
    """Programs of an object with the instructions that the verifier walked, or why it refused."""
    begun = time.monotonic()
    try:
        with BpfObject(path) as one:
            one.load(pins=PINS)
            programs = {name: program.verified_instructions for name, program in one.programs().items()}
    except BpfError as error:
        return {"object": path.name, "error": str(error)}
    return {"object": path.name, "programs": programs, "seconds": round(time.monotonic() - begun, 2)}


def run_tests() -> None:
    """The groups beside one another; each ends by pytest's exit code."""
    running = [subprocess.Popen([sys.executable, "-m", "tests.kernels.tables", *group]) for group in GROUPS]
    for process, group in zip(running, GROUPS, strict=True):
        say("group", files=list(group), code=process.wait())


if __name__ == "__main__":
    sys.exit(main())
