"""Entry of the privileged helper: `python -m shim.privileged --node-name NAME --run-directory DIR --bpffs
DIR`."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from axoneme.lib import log
from shim import privileges, seccomp
from shim.maps.layout import SCHEMA_VERSION
from shim.privileged.operations import Operations
from shim.privileged.server import HelperServer


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m shim.privileged")
    parser.add_argument("--node-name", required=True)
    parser.add_argument("--run-directory", type=Path, required=True)
    parser.add_argument("--bpffs", type=Path, default=Path("/sys/fs/bpf"))
    arguments = parser.parse_args(argv)
    # The name becomes a folder of pins.
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", arguments.node_name):
        parser.error(f"node name {arguments.node_name!r} is not a DNS name")
    os.umask(0o077)
    privileges.forbid_dumps()
    seccomp.forbid_execution()
    log.setup("info")
    pins = arguments.bpffs / "axoneme" / arguments.node_name / f"v{SCHEMA_VERSION}"
    operations = Operations(bpffs=arguments.bpffs, pin_directory=pins)
    server = HelperServer(arguments.run_directory / "helper.sock", operations.handlers())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
