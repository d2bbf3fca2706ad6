"""`axoneme trace` against the kernel: what is made to happen in a namespace is seen, in both families."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.diagnostics.child import SYSTEM_PYTHON, probed

pytestmark = [pytest.mark.root, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PROBE_SECONDS = 20.0
FAMILIES = [("10.99.0.1", "10.99.0.9"), ("fd00:99::1", "fd00:99::9")]


def has_bcc() -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run([SYSTEM_PYTHON, "-c", "import bcc"], capture_output=True).returncode == 0
    return False


needs_bcc = pytest.mark.skipif(not has_bcc(), reason="needs Debian's python3-bpfcc")


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    """A namespace with addresses of its own and a device that swallows everything."""
    name = f"axt-g-{uuid.uuid4().hex[:6]}"
    steps = (
        f"ip netns add {name}",
        f"ip -n {name} link set lo up",
        f"ip -n {name} link add hole type veth peer name bottom",
        f"ip -n {name} addr add 10.99.0.1/24 dev hole",
        f"ip -n {name} addr add fd00:99::1/64 dev hole nodad",
        f"ip -n {name} link set hole up",
        f"ip -n {name} link set bottom up",
        # Nobody has this hardware address, so what is sent there is never answered.
        *(f"ip -n {name} neigh add {away} lladdr 0a:00:00:00:00:99 dev hole" for _, away in FAMILIES),
    )
    try:
        for step in steps:
            subprocess.run(step.split(), check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def inside(netns: str, code: str) -> None:
    """Runs Python in the namespace."""
    command = ["ip", "netns", "exec", netns, sys.executable, "-c", f"import socket\n{code}"]
    subprocess.run(command, check=True, timeout=30)


def seen(
    kind: str, addresses: list[str], happen: Callable[[], None], wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The first wanted event after `happen`; both families' addresses bound what the probe looks at."""
    for line in probed(kind, PROBE_SECONDS, addresses):
        if "ready" in line:
            happen()
        elif "event" in line and wanted(line):
            return line
    raise AssertionError(f"nothing was seen in {PROBE_SECONDS:g} s")


@needs_bcc
@pytest.mark.parametrize(("own", "away"), FAMILIES)
def test_connects_with_their_outcome(netns: str, own: str, away: str) -> None:
    code = (
        f"server = socket.create_server(({own!r}, 8099), family=socket.{family_of(own)})\n"
        f"socket.create_connection(({own!r}, 8099))"
    )
    found = seen("connects", [own], lambda: inside(netns, code), lambda one: one["state"] == "established")
    assert (found["source"], found["destination"], found["destination_port"]) == (own, own, 8099)
    assert 0 < found["milliseconds"] < 5_000
    assert found["task"].startswith("python")
    refused = f"assert socket.socket(socket.{family_of(own)}).connect_ex(({own!r}, 8098))"
    found = seen("connects", [own], lambda: inside(netns, refused), lambda one: one["state"] == "closed")
    assert found["destination_port"] == 8098


@needs_bcc
@pytest.mark.parametrize(("own", "away"), FAMILIES)
def test_drops_with_the_kernels_reason(netns: str, own: str, away: str) -> None:
    code = f"socket.socket(socket.{family_of(own)}, socket.SOCK_DGRAM).sendto(b'x', ({own!r}, 8097))"
    found = seen("drops", [own], lambda: inside(netns, code), lambda one: one["destination_port"] == 8097)
    assert (found["reason"], found["protocol"], found["destination"]) == ("no_socket", 17, own)


@needs_bcc
@pytest.mark.parametrize(("own", "away"), FAMILIES)
def test_retransmits(netns: str, own: str, away: str) -> None:
    code = (
        f"one = socket.socket(socket.{family_of(own)})\n"
        f"one.settimeout(3)\n"
        f"try: one.connect(({away!r}, 8096))\n"
        "except OSError: pass"
    )
    found = seen(
        "retransmits", [away], lambda: inside(netns, code), lambda one: one["destination_port"] == 8096
    )
    assert (found["source"], found["destination"], found["state"]) == (own, away, "syn_sent")


@needs_bcc
@pytest.mark.parametrize(("own", "away"), FAMILIES)
def test_latency_counts_only_whom_it_was_asked_for(netns: str, own: str, away: str) -> None:
    code = (
        f"server = socket.create_server(({own!r}, 8095), family=socket.{family_of(own)})\n"
        f"one = socket.create_connection(({own!r}, 8095))\n"
        "other, _ = server.accept()\n"
        "for _ in range(20): one.send(b'x'); other.recv(1); other.send(b'x'); one.recv(1)"
    )
    totals: dict[str, int] = {}
    for line in probed("latency", 3.0, [own]):
        if "ready" in line:
            inside(netns, code)
        elif "histogram" in line:
            totals[line["histogram"]] = sum(count for _, count in line["buckets"])
    assert totals["connect_us"] == 1
    assert totals["rtt_us"] >= 20


@needs_bcc
def test_ctrl_c_ends_the_command_with_its_histogram(tmp_path: Path) -> None:
    words = ["trace", "latency", "--context", str(tmp_path / "none.json"), "-o", "json"]
    axoneme = [sys.executable, "-m", "axoneme.cli.main", *words]
    process = subprocess.Popen(
        axoneme, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"ready": True}
        process.send_signal(signal.SIGINT)
        rest = [json.loads(line) for line in process.communicate(timeout=30)[0].splitlines()]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert [line.get("histogram") for line in rest] == ["connect_us", "rtt_us", None]
    assert "lost" in rest[-1]


def family_of(address: str) -> str:
    return "AF_INET6" if ":" in address else "AF_INET"
