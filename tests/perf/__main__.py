"""`make bench`: every benchmark of this folder, one table.

    python -m tests.perf [NAME…]

A benchmark that cannot run here says why in one line and the others go on. Figures of a shared machine are
ranges, not records: compare medians of paired rounds, never single runs.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from tests.perf.result import CannotRunError, Result, table

BENCHMARKS = (
    "cni",
    "identity_allocation",
    "datapath",
    "dns_names",
    "dns_proxy",
    "flow_lookups",
    "flow_server",
    "flows",
    "lb_sync",
    "maglev",
    "observe_print",
    "policy_engine",
    "policy_fanout",
    "policy_latency",
    "services_sync",
    "socket_lb",
    "sockmap",
    "tcp",
)


def main(names: Iterable[str]) -> int:
    results: list[Result] = []
    failed = 0
    for name in names:
        print(f"running {name}", file=sys.stderr, flush=True)
        begun = time.monotonic()
        try:
            results += _results(importlib.import_module(f"tests.perf.{name}"))
        except CannotRunError as error:
            print(f"{name}: not here: {error}", file=sys.stderr)
        except Exception as error:  # noqa: BLE001  one broken benchmark must not hide the others' figures
            print(f"{name}: failed: {type(error).__name__}: {error}", file=sys.stderr)
            failed += 1
        print(f"  {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if results:
        print(table(results))
    return min(failed, 1)


def _results(module: ModuleType) -> list[Result]:
    if hasattr(module, "run"):
        return list(module.run())
    # A benchmark with a table of its own.
    subprocess.run([sys.executable, "-m", module.__name__], check=True, cwd=Path(__file__).parents[2])
    return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or BENCHMARKS))
