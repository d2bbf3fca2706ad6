"""TCP between two pods of one node with and without socket acceleration: `python -m tests.perf.sockmap`.

Request and response of 1 byte and of 4 KiB, and a stream; paired rounds in alternating order, a ratio is of
one round. Both pods have the endpoints' programs in either half: what is compared is the way through the
stack and policy with the way past them. A stream changes over to the stack after 1 MiB without an answer;
"stream, all redirected" is without this limit.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from axoneme.lib.bpf.cgrouplinks import CgroupHook, CgroupLink, attach_messages, detach_messages
from axoneme.lib.bpf.program import BpfProgram
from tests.bpf import podpair
from tests.bpf.podpair import PORT, Lab
from tests.perf.result import Result, table
from tests.perf.socket_lb import prepare

ROUNDS, SECONDS = 8, 0.5
STREAM_BYTES = 65_536
CASES = ("1 byte", "4 KiB", "stream", "stream, all redirected")
UNITS = {"1 byte": "1/s", "4 KiB": "1/s", "stream": "Gbit/s", "stream, all redirected": "Gbit/s"}


@dataclass
class Bench:
    """Two pods, and both programs for messages: with the limit and without."""

    lab: Lab
    limited: BpfProgram
    unlimited: BpfProgram

    @contextmanager
    def accelerated(self, case: str) -> Iterator[None]:
        program = self.unlimited if case.endswith("redirected") else self.limited
        hashed = self.lab.maps["axoneme_sockhash"]
        attach_messages(program, hashed)
        hook = CgroupHook.SOCK_OPS
        link = CgroupLink.create(self.lab.programs["axoneme_sockops"], cgroup=self.lab.cgroup, hook=hook)
        try:
            yield
        finally:
            link.close()
            detach_messages(program, hashed)

    def measure(self, case: str, v: int) -> float:
        address = podpair.PODS["b"][v]
        listener = self.lab.workers["b"].call("open_listener", address, PORT)
        ours = self.lab.workers["a"].call("keep", "stream", address, PORT)
        theirs = self.lab.workers["b"].call("accept", listener)
        try:
            if case.startswith("stream"):
                return self._stream(ours, theirs)
            size = 1 if case == "1 byte" else 4096
            self.lab.workers["b"].begin("echo", theirs, size)
            rate = float(self.lab.workers["a"].call("exchange", ours, size, SECONDS))
            self.lab.workers["b"].finish()
            return rate
        finally:
            for worker in self.lab.workers.values():
                worker.call("close_kept")

    def _stream(self, ours: int, theirs: int) -> float:
        self.lab.workers["b"].begin("drain", theirs)
        self.lab.workers["a"].call("stream_for", ours, STREAM_BYTES, SECONDS)
        return float(self.lab.workers["b"].finish())


@contextmanager
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, podpair.PINS, ignore_errors=True)
        lab = stack.enter_context(podpair.pods())
        _, unlimited = podpair.loaded("sockmap.o", unanswered_bytes=0xFFFF_FFFF)
        lab.fill()
        yield Bench(lab, lab.programs["axoneme_sk_msg"], unlimited["axoneme_sk_msg"])


def run() -> Iterator[Result]:
    """All figures."""
    prepare()
    figures: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with bench() as one:
        for number in range(ROUNDS):
            for case in CASES:
                for v in (4, 6):
                    pair: dict[bool, float] = {}
                    for accelerated in (number % 2 == 0, number % 2 == 1):
                        if accelerated:
                            with one.accelerated(case):
                                pair[accelerated] = one.measure(case, v)
                        else:
                            pair[accelerated] = one.measure(case, v)
                    figures.setdefault((case, v), []).append((pair[False], pair[True]))
    for (case, v), pairs in figures.items():
        name = f"sockmap: {case}, IPv{v}"
        yield Result(name=f"{name}, without", unit=UNITS[case], values=[without for without, _ in pairs])
        yield Result(name=f"{name}, with", unit=UNITS[case], values=[with_ for _, with_ in pairs])
        ratios = [with_ / without for without, with_ in pairs]
        yield Result(name=f"{name}, with / without, paired", unit="ratio", values=ratios)


if __name__ == "__main__":
    print(table(run()))
