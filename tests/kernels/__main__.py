"""`python -m tests.kernels [SERIES…]`: every object on each kernel; ends with 1 when one is refused."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from shim.bpf.manifest import read_manifest
from tests.kernels.inside import MARK
from tests.kernels.machine import run
from tests.kernels.packages import kernel

SERIES = ("6.1", "6.12")
REPOSITORY = Path(__file__).parents[2]
SECONDS = 600.0


def main() -> int:
    failed = False
    for series in sys.argv[1:] or SERIES:
        failed |= not checked(series)
    return int(failed)


def checked(series: str) -> bool:
    """Prints what a kernel says of each object; whether all of them load."""
    found = kernel(series)
    command = f"env PYTHONDONTWRITEBYTECODE=1 {shlex.quote(sys.executable)} -m tests.kernels.inside"
    console = run(found, folder=REPOSITORY, command=command, seconds=SECONDS)
    lines = [line.split(MARK, 1)[1] for line in console.splitlines() if MARK in line]
    results = [json.loads(line) for line in lines]
    for result in results:
        print(f"{found.release}  {_words(result)}", flush=True)
    missing = set(read_manifest()["objects"]) - {result["object"] for result in results}
    if missing:
        said = console[-4000:]
        print(f"{found.release}  nothing was heard of {', '.join(sorted(missing))}; the console:\n{said}")
    return not missing and not any("error" in result for result in results)


def _words(result: dict[str, object]) -> str:
    if "error" in result:
        return f"{result['object']}: refused: {result['error']}"
    programs = result["programs"]
    assert isinstance(programs, dict)
    walked = ", ".join(f"{name} {count}" for name, count in sorted(programs.items()))
    return f"{result['object']}: {walked} instructions, {result['seconds']} s"


if __name__ == "__main__":
    sys.exit(main())
