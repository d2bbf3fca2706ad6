"""The DNS proxy's own process with pinned maps: it is killed, and nothing that was learned is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from axoneme.api.fqdn.v1 import fqdn_pb2 as pb
from axoneme.client.context import Context
from axoneme.client.sync import Client
from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.library import libbpf
from axoneme.lib.errors import AxonemeError
from services.fqdn.pins import NAMES, NodeMaps
from shim import privileges
from shim.maps import layout
from shim.supervisor import node_processes
from tests.bpf.namespaces import inside
from tests.contract.fqdnserver import write_identities
from tests.unit.services.fqdn.parts import add_endpoint, raw
from tests.waiting import eventually_sync

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]
PORT = 15_353
SETS = {1 << 24: ("0.0.0.0/0", ["*.example.com"]), (1 << 24) + 1: ("::/0", ["*.example.com"])}


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"axt-fqdn{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def maps(netns: str) -> Iterator[NodeMaps]:
    """Maps with an endpoint of each family, pinned where the node's file says."""
    folder = Path(f"/sys/fs/bpf/axoneme/{netns}")
    pins = folder / f"v{layout.SCHEMA_VERSION}"
    pins.mkdir(parents=True)
    made = {name: create_map(layout.MAPS[name]) for name in NAMES}
    try:
        for name, one in made.items():
            assert libbpf().bpf_obj_pin(one.fd, os.fsencode(pins / name)) == 0
        node = NodeMaps(dict(made))
        add_endpoint(node, "10.0.0.2", ifindex=3, endpoint_id=7, identity=300)
        add_endpoint(node, "2001:db8::2", ifindex=4, endpoint_id=8, identity=300)
        yield node
    finally:
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
        for one in made.values():
            one.close()


class Process:
    """`axoneme fqdn serve` as the supervisor starts it: same command, capabilities and filter."""

    def __init__(self, netns: str, directory: Path) -> None:
        config = directory / "node.toml"
        config.write_text(
            f'node_name = "{netns}"\nrun_directory = "{directory}"\nstate_directory = "{directory}/state"\n'
            f'dns_proxy_port = {PORT}\npolicy_targets = ["127.0.0.1:1"]\n[fqdn]\nmetrics_address = ""\n'
        )
        self.netns, self.directory = netns, directory
        self.spec = next(spec for spec in node_processes(config) if spec.name == "fqdn")
        self.log = directory / "log"
        self.started = time.monotonic()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                # Not `ip netns exec`, which hides the BPF file system behind a /sys of its own.
                [
                    "nsenter",
                    f"--net=/run/netns/{netns}",
                    sys.executable,
                    "-c",
                    CONFINE,
                    *self.spec.command[1:],
                ],
                cwd=ROOT,
                stderr=log,
            )

    def listening(self) -> float:
        """Seconds until the first connection was taken."""

        def connect() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), 0.5):
                return True
            assert self.process.poll() is None, self.log.read_text()
            return False

        eventually_sync(lambda: inside(self.netns, connect), seconds=30)
        return time.monotonic() - self.started

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


CONFINE = """
import os, runpy, sys
from shim import privileges, seccomp
from shim.supervisor import FQDN_CAPABILITIES
privileges.keep_only(FQDN_CAPABILITIES)
seccomp.install(seccomp.fqdn_program())
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_a_killed_proxy_is_back_with_all_that_it_knew(netns: str, maps: NodeMaps, tmp_path: Path) -> None:
    """kill -9 right after an answer: names, addresses, kernel entries and the heartbeat are there again."""
    write_identities(tmp_path, 1, SETS)
    context = Context(cluster="x", trust_domain="x.mesh", nodes={"n": tmp_path / "shim.sock"})
    first = Process(netns, tmp_path)
    second: Process | None = None
    try:
        first.listening()
        with Client(context) as client:
            stub = client.fqdn("n")
            lookups = [
                pb.Lookup(endpoint_id=7, name="a.example.com", addresses=["192.0.2.1"]),
                pb.Lookup(endpoint_id=8, name="b.example.com", addresses=["2001:db8:9::1"]),
            ]
            for one in lookups:
                one.ttl.FromSeconds(600)
            report = pb.ReportLookupsRequest(lookups=lookups)
            eventually_sync(lambda: _learned(stub, report), seconds=25, message="")
        first.kill()
        before = sorted(maps.learned())
        assert [one[:3] for one in before] == [
            (7, raw("192.0.2.1"), 1 << 24),
            (8, raw("2001:db8:9::1"), (1 << 24) + 1),
        ]
        heartbeat = tmp_path / "fqdn.heartbeat"
        beat = heartbeat.stat().st_mtime_ns
        second = Process(netns, tmp_path)
        print(f"listening {second.listening():.2f} s after the start of the process")
        eventually_sync(lambda: heartbeat.stat().st_mtime_ns != beat, seconds=10)
        status = Path(f"/proc/{second.process.pid}/status").read_text()
        wanted = sum(1 << one for one in second.spec.capabilities)
        assert f"CapEff:\t{wanted:016x}" in status
        assert f"CapBnd:\t{wanted:016x}" in status
        assert privileges.CAP_SYS_ADMIN not in second.spec.capabilities
        with Client(context) as client:
            entries = eventually_sync(lambda: _entries(client), seconds=25)
        assert [(one.endpoint_id, one.name, one.addresses[0].identity) for one in entries] == [
            (7, "a.example.com.", 1 << 24),
            (8, "b.example.com.", (1 << 24) + 1),
        ]
        assert sorted(maps.learned()) == before
    finally:
        for process in (first, second):
            if process is not None and process.process.poll() is None:
                process.process.terminate()
                assert process.process.wait(20) == 0, process.log.read_text()


def _learned(stub: object, report: pb.ReportLookupsRequest) -> bool:
    try:
        return bool(stub.ReportLookups(report).learned == 2)  # type: ignore[attr-defined]
    except AxonemeError as error:
        raise AssertionError(str(error)) from error


def _entries(client: Client) -> list[pb.CacheEntry]:
    """Once the kernel's entries were taken over."""
    with contextlib.suppress(AxonemeError):
        entries = list(client.fqdn("n").ListCache(pb.ListCacheRequest()).entries)
        if all(one.identity for entry in entries for one in entry.addresses):
            return entries
    return []
