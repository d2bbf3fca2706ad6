"""The node's DNS proxy: listens first, then brings up everything else.

    sockets (thread) ─► restore (files) ─► hot loop (thread) ─► gRPC, streams, metrics (this thread, asyncio)

Queries wait in the sockets while files are read, and gRPC is imported only when the hot loop runs: what takes
longest is not waited for by any lookup.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

from axoneme.lib import config, log
from axoneme.lib.errors import AxonemeError
from services.fqdn.config import FqdnConfig
from services.fqdn.core import Core, HotLoop

logger = logging.getLogger(__name__)

SWITCH_SECONDS: Final = 0.0005
"""How long the other thread may keep the hot loop waiting; Python's own default is 5 ms."""
MEMORY: Final = "memory"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `python -m services.fqdn.main --config FILE`, as the supervisor starts it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 2 or arguments[0] != "--config":
        print("usage: python -m services.fqdn.main --config FILE", file=sys.stderr)  # noqa: T201
        return 2
    try:
        cfg = config.load(FqdnConfig, file=arguments[1])
    except AxonemeError as error:
        print(f"axoneme fqdn serve: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return serve(cfg)


def serve(cfg: FqdnConfig) -> int:
    """Runs the proxy in this process; returns the exit code."""
    os.umask(0o077)
    log.setup(cfg.log_level)
    if cfg.datapath == MEMORY:
        logger.error("a simulated node has no packets to redirect", extra={log.NODE: cfg.node_name})
        return 1
    settle_interpreter()
    for directory in (cfg.run_directory, cfg.state_directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    core = Core(cfg)
    hot = HotLoop(core)
    hot.start()
    try:
        core.restore()
        core.open_maps()
        hot.serve()
        return _serve(core, hot)
    except AxonemeError as error:
        logger.error("cannot serve", extra={log.REASON: error.reason, log.ERROR: log.clip(error)})
        return 1
    finally:
        hot.stop()
        core.journal.close()


def settle_interpreter() -> None:
    """Settings of the interpreter that the hot loop lives by."""
    sys.setswitchinterval(SWITCH_SECONDS)
    # What is cached has no cycles; walking through all of it again and again would stop the hot loop.
    gc.set_threshold(20_000, 50, 1_000)


def _serve(core: Core, hot: HotLoop) -> int:
    import asyncio

    from services.fqdn import service  # brings gRPC

    gc.freeze()
    return asyncio.run(service.run(core, hot))


if __name__ == "__main__":
    sys.exit(main())
