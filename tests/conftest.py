"""Fixtures of all tests, what is skipped where, and the counts of random tests."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
from axoneme.lib import certs
from axoneme.lib.roles import parse_role
from axoneme.lib.tls import TlsFiles

assert grpcsettings.ENVIRONMENT

TRUST_DOMAIN = "east.mesh"
SOAK = os.environ.get("AXONEME_TEST_PROFILE") == "soak"


def scaled(normal: int, soak: int) -> int:
    """A count of random cases: the small one in `make test`, the full one in `make soak`."""
    return soak if SOAK else normal


def pytest_configure(config: pytest.Config) -> None:
    try:
        from hypothesis import HealthCheck, settings
    except ImportError:
        return
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    settings.register_profile("normal", max_examples=50, deadline=None, suppress_health_check=slow)
    settings.register_profile("soak", max_examples=1_000, deadline=None, suppress_health_check=slow)
    settings.load_profile("soak" if SOAK else "normal")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_root = sys.platform != "linux" or os.geteuid() != 0
    no_etcd = shutil.which("etcd") is None
    for item in items:
        if no_root and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root on Linux"))
        if no_etcd and item.get_closest_marker("etcd"):
            item.add_marker(pytest.mark.skip(reason="needs the etcd server (apt-get install etcd-server)"))


@pytest.fixture(scope="session")
def ca_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA of the trust domain east.mesh."""
    directory = tmp_path_factory.mktemp("ca")
    directory.chmod(0o700)
    certs.create_ca(directory, TRUST_DOMAIN)
    return directory


@pytest.fixture(scope="session")
def tls_files(ca_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TlsFiles]:
    """Certificate files by role: `tls_files("node/node1")`; servers also carry localhost and loopback."""
    known: dict[str, TlsFiles] = {}

    def issue(role: str) -> TlsFiles:
        if role not in known:
            directory = tmp_path_factory.mktemp("tls")
            directory.chmod(0o700)
            parsed = parse_role(role)
            certs.issue(
                ca_directory,
                parsed,
                parsed.name,
                directory,
                dns_sans=["localhost"],
                ip_sans=["127.0.0.1", "::1"],
            )
            known[role] = TlsFiles(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")
        return known[role]

    return issue


@pytest.fixture(params=["grpc", "h2"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serves everything of a test with each server in turn: grpc.aio, then our own HTTP/2."""
    from axoneme.lib import grpcserver

    chosen: str = request.param
    monkeypatch.setattr(grpcserver, "DEFAULT_ENGINE", chosen)
    return chosen


@pytest.fixture
def socket_directory() -> Iterator[Path]:
    """A short private folder: paths of unix sockets are limited to 107 bytes."""
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="axt-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
