"""The tests of the programs in the machine: counts by file, and each failure with its last words.

`python -m tests.kernels.tables FILE…`
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import pytest

from tests.kernels.report import say

_RUNS: Final = (
    *("endpoint", "services", "hairpin", "netdev", "masquerade", "overlay", "host_policy"),
    *("host_routing", "layout", "dsr", "proxy_table"),
)
_HELPER: Final = "tests/unit/shim/privileged/test_{}_root.py"
GROUPS: Final = (
    (*(f"tests/bpf/test_{name}.py" for name in _RUNS), _HELPER.format("auto")),
    ("tests/bpf/test_sock_lb.py", "tests/bpf/test_xdp.py", _HELPER.format("loader")),
)
"""One group for each processor of the machine."""
TEST_SECONDS: Final = 120
ARGUMENTS: Final = (
    *("-q", "--no-header", "-p", "no:cacheprovider"),
    *("-o", f"timeout={TEST_SECONDS}"),
)
LAST_CHARACTERS: Final = 1500


class Counting:
    """A pytest plugin: what became of each test."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.seconds: dict[str, float] = defaultdict(float)
        self.reasons: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.partition("::")[0]
        self.seconds[file] += report.duration
        if report.failed:
            self.counts[file]["failed"] += 1
            say("test", name=report.nodeid, phase=report.when, words=report.longreprtext[-LAST_CHARACTERS:])
        elif report.skipped:
            self.counts[file]["skipped"] += 1
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            self.reasons[file].add(str(reason).removeprefix("Skipped: "))
        elif report.when == "call":
            self.counts[file]["passed"] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.counts[report.nodeid]["failed"] += 1
            say("test", name=report.nodeid, phase="collect", words=report.longreprtext[-LAST_CHARACTERS:])


def main(files: Sequence[str]) -> int:
    """Runs the tests of files; says counts, seconds and the reasons of skips for each."""
    counting = Counting()
    code = pytest.main([*ARGUMENTS, *files], plugins=[counting])
    for file, counts in sorted(counting.counts.items()):
        seconds = round(counting.seconds[file], 1)
        say("tests", file=file, seconds=seconds, skips=sorted(counting.reasons[file]), **counts)
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
