"""Seeds mistakes into copies of the policy engine and sees that our tests notice each one.

    catalogue -> a copy of the tree per worker -> one mistake at a time -> tests, stopped at the first failure

Exit code 1 when a mistake survives, when its text is no longer in the sources, or when the tests fail without
any mistake. The working tree is only read.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import FILES, FOLDERS, MUTANTS, WATCHERS
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
CAUGHT, SURVIVED, FAULTY = "caught", "SURVIVED", "DOES NOT APPLY"
TIMEOUT_SECONDS = 600
_SLOW_TESTS = "not root and not etcd and not slow"


@dataclass(frozen=True)
class Result:
    """What became of a mistake, and the test that noticed it."""

    mutant: Mutant
    outcome: str
    detail: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.outcome:<15} {self.seconds:5.1f} s  {self.mutant.mistake}  {self.detail}".rstrip()


class Tree:
    """A copy of the repository that one worker may break."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        skipped = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.gz", "node_modules")
        for name in FOLDERS:
            shutil.copytree(ROOT / name, folder / name, ignore=skipped, dirs_exist_ok=True)
        for name in FILES:
            shutil.copy2(ROOT / name, folder / name)

    def test(self, watchers: Sequence[str]) -> tuple[bool, str]:
        """Whether the tests pass, and which one did not."""
        present = [one for one in watchers if (self.root / one.partition("::")[0]).exists()]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=no", "-m", _SLOW_TESTS]
        command += [
            "-p",
            "tests.mutants.quickly",
            "-p",
            "no:cacheprovider",
            "--timeout",
            str(TIMEOUT_SECONDS),
            *present,
        ]
        environment = {**os.environ, "PYTHONPATH": str(self.root)}
        try:
            done = subprocess.run(
                command,
                cwd=self.root,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False, "(took too long)"
        return done.returncode == 0, _first_failure(done.stdout) or done.stderr.strip()[-200:]


def _first_failure(output: str) -> str:
    found = (line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR ")))
    return next(found, "").partition(" - ")[0].removeprefix("FAILED ")


def try_one(tree: Tree, mutant: Mutant, watchers: Sequence[str]) -> Result:
    """Make one mistake, run the tests, undo it."""
    started = time.monotonic()
    fault = mutant.fault(tree.root)
    if fault:
        return Result(mutant, FAULTY, fault, 0.0)
    mutant.seed(tree.root)
    passed, detail = tree.test(watchers)
    mutant.heal(tree.root, ROOT)
    return Result(mutant, SURVIVED if passed else CAUGHT, detail, time.monotonic() - started)


def run(mutants: Iterable[Mutant], watchers: Sequence[str], workers: int) -> list[Result]:
    """Try all mistakes, some at once."""
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for one in mutants:
        waiting.put(one)
    results: list[Result] = []

    def work(folder: Path) -> None:
        tree = Tree(folder)
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            results.append(try_one(tree, mutant, watchers))
            print(results[-1], flush=True)

    with tempfile.TemporaryDirectory(prefix="axoneme-mutants-") as folder:
        threads = [threading.Thread(target=work, args=(Path(folder) / str(i),)) for i in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


def healthy(watchers: Sequence[str]) -> str:
    """What fails without any mistake; empty when nothing does."""
    with tempfile.TemporaryDirectory(prefix="axoneme-mutants-") as folder:
        passed, detail = Tree(Path(folder)).test(watchers)
    return "" if passed else detail or "the tests fail"


def chosen(names: Sequence[str]) -> list[Mutant]:
    """The mistakes whose names hold one of the words; all without words."""
    return [one for one in MUTANTS if not names or any(name in one.name for name in names)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="words in the names of mistakes; all without any")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--watcher", action="append", help="a test to run instead of all watchers")
    parser.add_argument("--list", action="store_true", help="print the mistakes and end")
    given = parser.parse_args(arguments)
    mutants, watchers = chosen(given.names), given.watcher or WATCHERS
    if given.list:
        print("\n".join(f"{one.path:45} {one.name}" for one in mutants))
        return 0
    started = time.monotonic()
    broken = healthy(watchers)
    if broken:
        print(f"the tests fail without any mistake: {broken}")
        return 1
    results = run(mutants, watchers, given.workers)
    bad = [one for one in results if one.outcome != CAUGHT]
    print(
        f"\n{len(results) - len(bad)} of {len(results)} mistakes caught in {time.monotonic() - started:.0f} s"
    )
    for one in bad:
        print(one)
    return 1 if bad or not results else 0


if __name__ == "__main__":
    sys.exit(main())
