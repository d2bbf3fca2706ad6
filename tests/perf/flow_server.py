"""CPU of a server for one streamed flow: grpc.aio against our own HTTP/2, both by mTLS and behind the edge.

The server has the first core, the reader the second: a plain socket that throws the flows away, or a grpc
client. Only the server's CPU counts; a Go server needs 4 to 5 us (FQDN_AND_PERFORMANCE C4).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib import certs
from axoneme.lib.roles import parse_role
from tests.perf.flowsource import TRUST_DOMAIN
from tests.perf.result import CannotRunError, Result

ROUNDS = 5
PATH = "/observer.Observer/GetFlows"
NAME = f"relay.{TRUST_DOMAIN}"
ROOT = Path(__file__).parents[2]
CASES = (
    ("grpc", "bytes", 10_000, ""),
    ("grpc", "messages", 10_000, ""),
    ("h2", "messages", 100_000, ""),
    ("h2", "bytes", 200_000, "<= 4"),
    ("h2", "lists", 400_000, "<= 1"),
)
GRPC_CLIENT = """
import sys
from pathlib import Path
from axoneme.lib import channel
import grpc
address, path, request, ca, cert, key, name = sys.argv[1:]
read = lambda file: Path(file).read_bytes()
credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(cert))
options = (("grpc.ssl_target_name_override", name),)
with grpc.secure_channel(address, credentials, options) as opened:
    print(sum(len(one) + 5 for one in opened.unary_stream(path)(bytes.fromhex(request))))
"""
READERS = {"null reader": ("-m", "tests.perf.nullreader"), "grpc client": ("-c", GRPC_CLIENT)}
GRPC_CLIENT_FLOWS = 10_000
"""The client needs a multiple of what the server does."""


def run() -> Iterator[Result]:
    """All servers with both readers."""
    if (os.cpu_count() or 1) < 2:
        raise CannotRunError("server and reader need a core each")
    with tempfile.TemporaryDirectory(prefix="axt-") as folder:
        directory = Path(folder)
        certs.create_ca(directory / "ca", TRUST_DOMAIN)
        for role in ("svc/relay", "user/reader/ann"):
            parsed = parse_role(role)
            certs.issue(directory / "ca", parsed, parsed.name, directory / parsed.name)
        for engine, style, count, goal in CASES:
            for reader in READERS:
                flows = count if reader == "null reader" else GRPC_CLIENT_FLOWS
                values = _rounds(directory, engine, style, reader, flows)
                yield Result(
                    name=f"server CPU a flow, {engine}, {style}, {reader}",
                    unit="us",
                    values=values,
                    goal=goal,
                )


def _rounds(directory: Path, engine: str, style: str, reader: str, flows: int) -> list[float]:
    with _served(directory, engine, style) as (port, output):
        values = []
        for _ in range(ROUNDS + 1):
            received = _read(directory, reader, port, flows)
            seconds = float(output.readline())
            assert received > flows * 600, f"{received} bytes are not {flows} flows"
            values.append(seconds / flows * 1e6)
        return values[1:]  # the first round fills caches


@contextmanager
def _served(directory: Path, engine: str, style: str) -> Iterator[tuple[int, IO[str]]]:
    command = [sys.executable, "-m", "tests.perf.flowsource", engine, style, str(directory / "relay")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.stdout
        finally:
            process.stdin.close()


def _read(directory: Path, reader: str, port: int, flows: int) -> int:
    request = observer_pb2.GetFlowsRequest(number=flows).SerializeToString().hex()
    own = directory / "ann"
    files = [str(own / name) for name in ("ca.crt", "tls.crt", "tls.key")]
    command = [sys.executable, *READERS[reader], f"127.0.0.1:{port}", PATH, request, *files, NAME]
    done = subprocess.run(
        ["taskset", "-c", "1", *command], capture_output=True, text=True, check=True, cwd=ROOT, timeout=300
    )
    return int(done.stdout)
