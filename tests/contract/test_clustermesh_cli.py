"""`axoneme service` as people use it: a served process with real etcd and certificates, and its commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from axoneme.cli import main as root
from axoneme.lib.tls import TlsFiles
from tests.etcdserver import _free_port, running_etcd
from tests.waiting import eventually_sync

pytestmark = pytest.mark.etcd
ROOT = Path(__file__).parents[2]

MANIFEST = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {port: 80, targetPort: 8080}
  colour: red
"""


@pytest.fixture(scope="module")
def context_file(
    tls_files: Callable[[str], TlsFiles], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The context file of a served clustermesh service; ends it with SIGTERM and expects exit code 0."""
    directory = tmp_path_factory.mktemp("cli")
    address, metrics = f"127.0.0.1:{_free_port()}", f"127.0.0.1:{_free_port()}"
    files = tls_files("svc/clustermesh")
    with running_etcd(unix_socket=True) as etcd:
        command = [
            sys.executable,
            "-m",
            "axoneme.cli.main",
            "clustermesh",
            "serve",
            "--listen-address",
            address,
        ]
        command += ["--cluster-name", "east", "--etcd-endpoints", etcd.endpoint, "--metrics-address", metrics]
        command += ["--ca-file", str(files.ca), "--cert-file", str(files.cert), "--key-file", str(files.key)]
        command += ["--service-cidrs", "10.96.0.0/16,fd00:96::/112", "--drain-seconds", "0.2"]
        with (directory / "log").open("wb") as log_file:
            process = subprocess.Popen(command, stderr=log_file, env={**os.environ, "PYTHONPATH": str(ROOT)})
        admin = tls_files("user/admin/ann")
        tls = {"ca": str(admin.ca), "cert": str(admin.cert), "key": str(admin.key)}
        context = {"cluster": "east", "trust_domain": "east.mesh", "clustermesh": [address], "tls": tls}
        path = directory / "context.json"
        path.write_text(json.dumps(context))
        (directory / "metrics").write_text(metrics)
        try:
            eventually_sync(lambda: root.main(["service", "list", "--context", str(path)]) == 0, seconds=20)
            yield path
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, (directory / "log").read_text()
        finally:
            process.kill()


class Shell:
    """Runs commands; keeps what they printed."""

    def __init__(self, context: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._context = context
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        self._capsys.readouterr()
        code = root.main(["service", *words, "--context", str(self._context)])
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def shell(context_file: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(context_file, capsys)


def test_a_kubernetes_service_from_file_to_deletion(shell: Shell, tmp_path: Path) -> None:
    manifest = tmp_path / "web.yaml"
    manifest.write_text(MANIFEST)
    assert shell("apply", "-f", str(manifest), "--validate-only") == 0
    assert "checked only" in shell.out
    assert shell("apply", "-f", str(manifest)) == 0
    assert shell.out.startswith("service/web created at 10.96.")
    assert "node port 3" in shell.out
    assert f"Warning: {manifest}:" in shell.err
    assert "line 9: spec.colour: is not known" in shell.err
    assert "no workload has the labels" in shell.err
    assert shell("get", "shop/web", "-o", "yaml") == 0
    (shown,) = yaml.safe_load_all(shell.out)
    assert shown["source"] == {"selector": {"match_labels": {"app": "web"}}}
    again = tmp_path / "again.yaml"
    again.write_text(shell.out)
    assert shell("apply", "-f", str(again)) == 0
    assert "service/web configured" in shell.out
    assert shell("delete", "-f", str(manifest)) == 0
    assert shell.out == "service/web deleted (namespace shop)\n"
    assert shell("get", "shop/web") == 1
    assert "SERVICE_NOT_FOUND" in shell.err
    assert shell("delete", "shop/web", "--ignore-not-found") == 0


def test_faults_of_a_file_have_lines(shell: Shell, tmp_path: Path) -> None:
    manifest = tmp_path / "web.yaml"
    manifest.write_text(MANIFEST.replace("NodePort", "Port").replace("port: 80", "port: x"))
    assert shell("apply", "-f", str(manifest)) == 1
    assert f"Error: {manifest}:5: spec.type: 'Port' is not known" in shell.err
    assert f"Error: {manifest}:8: spec.ports[0].port: must be a whole number" in shell.err
    manifest.write_text(MANIFEST.replace("port: 80", "port: 0"))
    assert shell("apply", "-f", str(manifest)) == 1
    assert "service.ports[0].port: 0 is outside 1-65535" in shell.err


def test_a_service_out_of_flags(shell: Shell) -> None:
    words = [
        "apply",
        "shop/dns",
        "--port",
        "53:5353/udp",
        "--port",
        "http=80:web:30080",
        "--type",
        "LoadBalancer",
    ]
    words += [
        "--load-balancer-ip",
        "2001:db8::8",
        "--source-range",
        "192.0.2.0/24",
        "--selector",
        "app=dns,a=b",
    ]
    words += ["--affinity-seconds", "60", "--external-local", "--internal-local", "--algorithm", "maglev"]
    assert shell(*words, "--forwarding-mode", "dsr", "-o", "json") == 0
    made = json.loads(shell.out)
    assert [(port["name"], port["port"], port["target_port"]) for port in made["ports"]] == [
        ("udp-53", 53, 5353),
        ("http", 80, 0),
    ]
    assert made["ports"][1]["target_port_name"] == "web"
    assert made["ports"][1]["node_port"] == 30_080
    assert made["algorithm"] == "ALGORITHM_MAGLEV"
    assert made["session_affinity"] == {"timeout_seconds": 60}
    assert shell("apply", "-n", "shop", "other", "--port", "80", "--external-ip", "2001:db8::8") == 1
    assert "FRONTEND_IN_USE" in shell.err
    assert shell("delete", "shop/dns") == 0


@pytest.mark.parametrize("ip", ["10.0.0.1", "fd00::1"])
def test_backends_by_address(shell: Shell, ip: str) -> None:
    assert (
        shell("apply", "shop/db", "--port", "5432", "--backend", ip, "--backend", f"{ip}7=terminating") == 0
    )
    assert shell("get", "shop/db") == 0
    lines = [line.split() for line in shell.out.splitlines()]
    assert lines[1][:3] == ["shop", "db", "ClusterIP"]
    assert lines[-2][:2] == [ip, "active"]
    assert lines[-1][:2] == [f"{ip}7", "terminating"]
    assert shell("list", "--filter", "shop/db") == 0
    assert "1 of 2" in shell.out
    assert shell("delete", "shop/db") == 0
    assert shell("list") == 0
    assert "no services" in shell.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["apply"], "name a service"),
        (["apply", "a/b/c", "--port", "80"], "is no service"),
        (["apply", "web", "--port", "eighty"], "is no port"),
        (["apply", "web", "--selector", "app"], "is no label"),
        (["apply", "web", "--selector", "a=b", "--backend", "fd00::1"], "exclude each other"),
        (["apply", "web", "--backend", "fd00::1=dead"], "is no state"),
        (["apply", "-f", "x", "--port", "80"], "go with a name"),
        (["delete"], "name a service"),
        (["apply", "-f", "/none.yaml"], "FILE_UNREADABLE"),
    ],
)
def test_wrong_usage(shell: Shell, words: list[str], text: str) -> None:
    assert shell(*words) in (1, 2)
    assert text in shell.err


def test_watch_prints_each_step(context_file: Path, shell: Shell) -> None:
    command = [sys.executable, "-m", "axoneme.cli.main", "service", "watch", "--context", str(context_file)]
    environ: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert "complete" in process.stdout.readline()
        assert shell("apply", "shop/seen", "--port", "80", "--backend", "fd00::1") == 0
        assert process.stdout.readline().endswith("put shop/seen backends: fd00::1\n")
        assert shell("delete", "shop/seen") == 0
        assert process.stdout.readline().endswith("deleted shop/seen\n")
        process.kill()


def test_metrics_and_health(context_file: Path) -> None:
    address = (context_file.parent / "metrics").read_text()

    def page(name: str) -> str:
        with urllib.request.urlopen(f"http://{address}/{name}", timeout=5) as answer:
            return str(answer.read().decode())

    assert "axoneme_clustermesh_services 0.0" in page("metrics")
    assert page("healthz")
    assert page("readyz")


def test_status_names_the_service(context_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root.main(["status", "--context", str(context_file), "-o", "json"])
    parts = {part["name"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
    assert parts["clustermesh"]["state"] == "ok"
