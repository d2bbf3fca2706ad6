"""Bare shims of one process for `tests.perf.policy_fanout`: many nodes, each with its own connection.

    python -m tests.perf.fanout_shims PORT CA_DIRECTORY FIRST COUNT SUBJECTS PER_NODE

Says `open` once every stream has declared its interest; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)

from axoneme.lib.channel import open_channel
from axoneme.lib.tasks import TaskScope
from tests.fanout import SERVER_NAME, BareShim, certificate, node_name, subjects_of

assert grpcsettings.ENVIRONMENT
AT_ONCE = 20


async def main(port: int, ca: Path, first: int, count: int, subjects: int, per_node: int) -> None:
    opened = asyncio.Event()
    left = set(range(first, first + count))
    limit = asyncio.Semaphore(AT_ONCE)
    names = [node_name(index) for index in sorted(left)]
    tls = {name: certificate(ca, f"node/{name}") for name in names}

    async def shim(index: int) -> None:
        name = node_name(index)
        async with open_channel(f"127.0.0.1:{port}", tls[name], SERVER_NAME) as channel:
            one = BareShim(channel, name, subjects_of(index, subjects, per_node))
            async with limit:
                call = await one.open()
            left.discard(index)
            if not left:
                opened.set()
            await one.follow(call)

    async with TaskScope("shims") as scope:
        for index in range(first, first + count):
            scope.start(f"shim {index}", shim(index), critical=False)
        await opened.wait()
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])))
