"""What exporting costs: flows a second into a file, and how long the event loop is held meanwhile.

python -m tests.perf.hubble_export
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from axoneme.lib.tasks import TaskScope
from shim.hubble.export.running import Exports
from shim.hubble.export.settings import ExportSettings
from shim.observer import ObserverService
from tests.perf.hubble_metrics import traffic
from tests.unit.shim.flows.lookupscene import LookupScene

SECONDS = 8.0
BURST = 200


async def measure(directory: Path, burst: int) -> None:
    scene = LookupScene(capacity=1 << 16)
    observer = ObserverService(
        scene.feed, scene.decoder, version="0", boot_clock_ns=time.monotonic_ns, started_ns=0
    )
    settings = ExportSettings(name="static", path=directory / f"{burst}.log", max_bytes=100 << 20)
    exports = Exports(observer.answer, node_name="n", directory=directory, fixed=settings)
    records = traffic(100_000)
    async with TaskScope() as scope:
        exports.start(scope)
        await asyncio.sleep(0)
        start, cpu, worst, at = time.monotonic(), time.process_time(), 0.0, 0
        while (now := time.monotonic()) - start < SECONDS:
            scene.feed.append(records[at : at + burst])
            at = (at + burst) % 100_000
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - now - 0.01)
        seconds, used = time.monotonic() - start, time.process_time() - cpu
        total = exports.totals()["static"]
        told = total.written + total.lost
        print(
            f"offered {scene.feed.store.seen / seconds:7.0f}/s  written {total.written / seconds:6.0f}/s  "
            f"lost {total.lost}  CPU {used / max(told, 1) * 1e6:5.0f} us a flow  "
            f"loop held at most {worst * 1e3:.0f} ms"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        for burst in (5, 20, BURST):
            asyncio.run(measure(Path(directory), burst))


if __name__ == "__main__":
    main()
