"""A real etcd for tests: Debian's server on free loopback ports or a unix socket, with data of its own.

`etcd_server` is a fixture: `pytest_plugins = ["tests.etcdserver"]` is not needed, import the fixture instead:
`from tests.etcdserver import etcd_server  # noqa: F401`. The data survives `stop`/`start`, as a disk would.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from axoneme.lib.tls import TlsFiles

START_SECONDS = 20.0
READY = b"ready to serve client requests"


class EtcdServer:
    """One etcd process."""

    def __init__(self, directory: Path, *, tls: TlsFiles | None = None, unix_socket: bool = False) -> None:
        self.directory, self.tls = directory, tls
        self._unix = unix_socket
        self._port = 0 if unix_socket else _free_port()
        self._peer_port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """What EtcdStore.connect takes."""
        return f"unix://{self._socket}" if self._unix else f"127.0.0.1:{self._port}"

    @property
    def endpoints(self) -> list[str]:
        """The endpoint as a list."""
        return [self.endpoint]

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts, again with the data of before, and waits until it serves."""
        self._socket.unlink(missing_ok=True)  # left by a killed server
        with self._log.open("ab") as log_file:
            start = log_file.tell()
            self._process = subprocess.Popen(
                self._command(), stdout=log_file, stderr=log_file, cwd=self.directory
            )
        deadline = time.monotonic() + START_SECONDS
        while READY not in self._log.read_bytes()[start:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("etcd does not start:\n" + self._log.read_text()[-2000:])
            time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            process.wait(10)

    def freeze(self) -> None:
        """Stops the process in its tracks."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it run again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def backup(self, target: Path) -> None:
        """Copies the data of a stopped server."""
        assert self._process is None
        shutil.copytree(self.directory / "data", target)

    def restore(self, source: Path) -> None:
        """Puts a copy in place of the data of a stopped server."""
        assert self._process is None
        shutil.rmtree(self.directory / "data")
        shutil.copytree(source, self.directory / "data")

    @property
    def _log(self) -> Path:
        return self.directory / "log"

    @property
    def _socket(self) -> Path:
        return self.directory / "etcd.sock:0"

    def _command(self) -> list[str]:
        scheme = "https" if self.tls else "http"
        # etcd takes "host:port" only, as a file name in its working directory.
        client = f"unix://{self._socket.name}" if self._unix else f"{scheme}://127.0.0.1:{self._port}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        command = [
            "etcd",
            *("--name", "test", "--data-dir", str(self.directory / "data")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"test={peer}", "--unsafe-no-fsync=true"),
        ]
        if self.tls:
            command += ["--client-cert-auth", "--trusted-ca-file", str(self.tls.ca)]
            command += ["--cert-file", str(self.tls.cert), "--key-file", str(self.tls.key)]
        return command


@contextlib.contextmanager
def running_etcd(*, tls: TlsFiles | None = None, unix_socket: bool = False) -> Iterator[EtcdServer]:
    """A running server; process and data are gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="axt-etcd-"))
    server = EtcdServer(directory, tls=tls, unix_socket=unix_socket)
    try:
        server.start()
        yield server
    finally:
        server.stop(kill=True)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def etcd_server() -> Iterator[EtcdServer]:
    """A fresh etcd without TLS on a unix socket."""
    with running_etcd(unix_socket=True) as server:
        yield server


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
