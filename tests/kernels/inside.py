"""Runs in the machine: loads every program of every object, and says how far its verifier had to walk.

One line of JSON for each object on the console, behind a mark that nothing else prints.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.object import BpfObject
from shim.bpf.manifest import FOLDER

MARK = "axoneme-kernel: "
PINS = Path("/sys/fs/bpf/axt-kernel")


def main() -> int:
    for path in sorted(FOLDER.glob("*.o")):
        print(MARK + json.dumps(loaded(path)), flush=True)
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


if __name__ == "__main__":
    sys.exit(main())
