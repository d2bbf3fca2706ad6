"""A namespace that stands for a node, with the privileged helper in it, and ones for workloads."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from axoneme.lib.errors import Unavailable
from axoneme.lib.nodenames import health_namespace
from shim.maps.layout import SCHEMA_VERSION
from shim.privileged import health, protocol
from shim.privileged.client import HelperClient
from shim.supervisor import HELPER_CAPABILITIES
from tests.waiting import eventually_sync

ROOT = Path(__file__).parents[3]


def ip(*words: str, netns: str = "") -> str:
    prefix = ["ip", "-n", netns] if netns else ["ip"]
    return subprocess.run([*prefix, *words], check=True, capture_output=True, text=True).stdout


@dataclass
class NodeLab:
    """One node of a test; everything it makes is removed by `close`."""

    directory: Path
    name: str = field(default_factory=lambda: f"axt-{uuid.uuid4().hex[:8]}")
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.add_namespace(self.name)
        ip("link", "set", "lo", "up", netns=self.name)

    @property
    def socket(self) -> Path:
        return self.directory / "run" / "helper.sock"

    @property
    def pins(self) -> Path:
        return Path("/sys/fs/bpf/axoneme") / self.name / f"v{SCHEMA_VERSION}"

    def add_namespace(self, name: str) -> str:
        ip("netns", "add", name)
        self.namespaces.append(name)
        return name

    def add_workload(self) -> str:
        """A namespace for a workload; returns its path."""
        return f"/run/netns/{self.add_namespace(f'{self.name}-{len(self.namespaces)}')}"

    def run(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts a command in the node's namespace; bpffs stays visible, unlike with `ip netns exec`."""
        command = ["nsenter", f"--net=/run/netns/{self.name}", *words]
        log = (self.directory / f"{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log)
        log.close()
        self.processes.append(process)
        return process

    def start_helper(self, capabilities: tuple[int, ...] = HELPER_CAPABILITIES) -> HelperClient:
        """The helper with the rights that the supervisor leaves it."""
        # The way into the node's namespace needs what the helper may not have: rights go behind it.
        code = (
            f"import os, sys; from shim import privileges, seccomp; privileges.keep_only({capabilities});"
            "seccomp.install(seccomp.helper_program());"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        words = ("--node-name", self.name, "--run-directory", str(self.directory / "run"))
        self.run(sys.executable, "-c", code, "-m", "shim.privileged", *words)
        client = HelperClient(self.socket)

        def answers() -> bool:
            try:
                return bool(client.call(protocol.Ping()))
            except Unavailable:
                return False

        eventually_sync(answers, seconds=15)
        return client

    def exec(self, netns: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["nsenter", f"--net=/run/netns/{netns.rpartition('/')[2]}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=20)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        health.remove(health_namespace(self.pins.parent))
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        shutil.rmtree(self.pins.parent, ignore_errors=True)
        with contextlib.suppress(OSError):  # another node may still have its pins beside these
            self.pins.parents[1].rmdir()
        assert not self.pins.parent.exists(), f"pins are left below {self.pins.parent}"


@contextlib.contextmanager
def node_lab(directory: Path) -> Iterator[NodeLab]:
    lab = NodeLab(directory)
    try:
        yield lab
    finally:
        lab.close()
