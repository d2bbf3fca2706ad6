"""`python -m tests.kernels [--load-only] [SERIES…]`: the matrix; ends with 1 when something fails."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tests.kernels.machine import MachineError, run
from tests.kernels.packages import FOLDER, Kernel, PackageError, kernel
from tests.kernels.report import heard
from tests.kernels.verdict import Verdict, words

SERIES = ("6.1", "6.12")
REPOSITORY = Path(__file__).parents[2]
SECONDS = 1200.0
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
    "HOME": "/tmp",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
"""The machine's file system is read-only but for /tmp and /run."""


def main() -> int:
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")]
    options = [word for word in sys.argv[1:] if word.startswith("-")]
    failed = False
    for series in wanted or SERIES:
        failed |= not checked(series, options)
    return int(failed)


def checked(series: str, options: list[str]) -> bool:
    """Prints what becomes of the matrix on a kernel, as it comes; whether all is well."""
    try:
        found = kernel(series)
        return _tried(found, options)
    except (PackageError, MachineError) as error:
        print(f"{series}  {error}", flush=True)
        return False


def _tried(found: Kernel, options: list[str]) -> bool:
    settings = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    inside = shlex.join([sys.executable, "-m", "tests.kernels.inside", *options])
    verdict = Verdict(tests="--load-only" not in options)
    log = FOLDER / f"{found.release}.log"
    with log.open("w") as console:
        for line in run(found, folder=REPOSITORY, command=f"env {settings} {inside}", seconds=SECONDS):
            console.write(f"{line}\n")
            fields = heard(line)
            if fields is not None:
                verdict.take(fields)
                print("\n".join(f"{found.release}  {one}" for one in words(fields)), flush=True)
    for fault in verdict.faults():
        print(f"{found.release}  {fault}", flush=True)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in verdict.counts.items())
    print(f"{found.release}  in all: {counted or 'no tests'}; console: {log}", flush=True)
    return not verdict.faults()


if __name__ == "__main__":
    sys.exit(main())
