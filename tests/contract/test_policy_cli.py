"""`axoneme policy` as people use it: a served process with real etcd and certificates, and its commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from axoneme.lib.tls import TlsFiles
from services.policy.cli import parse_reference, policy
from tests.etcdserver import _free_port, running_etcd
from tests.waiting import eventually_sync

pytestmark = pytest.mark.etcd
EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"


def _tls_flags(files: TlsFiles) -> list[str]:
    return ["--ca-file", str(files.ca), "--cert-file", str(files.cert), "--key-file", str(files.key)]


@pytest.fixture(scope="module")
def context_file(
    tls_files: Callable[[str], TlsFiles], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The context file of a served policy service; ends it with SIGTERM and expects exit code 0."""
    directory = tmp_path_factory.mktemp("cli")
    address = f"127.0.0.1:{_free_port()}"
    with running_etcd(unix_socket=True) as etcd:
        command = [sys.executable, "-m", "axoneme.cli.main", "policy", "serve", "--listen-address", address]
        command += ["--cluster-name", "east", "--etcd-endpoints", etcd.endpoint, "--metrics-address", ""]
        command += ["--drain-seconds", "0.2", *_tls_flags(tls_files("svc/policy"))]
        environ = {**os.environ, "PYTHONPATH": str(EXAMPLES.parents[1])}
        with (directory / "log").open("wb") as log_file:
            process = subprocess.Popen(command, stderr=log_file, env=environ)
        admin = tls_files("user/admin/ann")
        tls = {"ca": str(admin.ca), "cert": str(admin.cert), "key": str(admin.key)}
        context = {"cluster": "east", "trust_domain": "east.mesh", "policy": [address], "tls": tls}
        context |= {"identity": [], "relay": [], "nodes": {}, "simulated": True}
        path = directory / "context.json"
        path.write_text(json.dumps(context))
        try:
            eventually_sync(lambda: run(path, "list").exit_code == 0, seconds=20)
            yield path
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, (directory / "log").read_text()
        finally:
            process.kill()


def run(context: Path, *arguments: str, stdin: str | None = None) -> Result:
    """Run a command of the group."""
    name, *rest = arguments
    return CliRunner().invoke(policy, [name, "--context", str(context), *rest], input=stdin)


def test_apply_list_get_delete(context_file: Path) -> None:
    """The words are those of kubectl."""
    path = str(EXAMPLES / "allow-frontend.yaml")
    created = run(context_file, "apply", "-f", path)
    assert created.stdout == "ciliumnetworkpolicy/allow-frontend created (namespace default)\n", (
        created.output
    )
    assert "Warning: ciliumnetworkpolicy/allow-frontend: selects no endpoint" in created.stderr
    assert "unchanged" in run(context_file, "apply", "-f", "-", stdin=Path(path).read_text()).stdout
    checked = run(context_file, "apply", "--validate-only", "-f", str(EXAMPLES / "deny-frontend.yaml"))
    assert "created (namespace default) (checked only, nothing stored)" in checked.stdout
    listed = run(context_file, "list").stdout.splitlines()
    assert [line.split()[:3] for line in listed] == [
        ["KIND", "NAMESPACE", "NAME"],
        ["CiliumNetworkPolicy", "default", "allow-frontend"],
    ]
    shown = yaml.safe_load(run(context_file, "get", "allow-frontend", "-o", "yaml").stdout)
    assert shown["spec"] == yaml.safe_load(Path(path).read_text())["spec"]
    assert json.loads(run(context_file, "list", "-o", "json").stdout)["items"] == [shown]
    assert "deleted (namespace default)" in run(context_file, "delete", "-f", path).stdout
    assert run(context_file, "delete", "cnp/default/allow-frontend").exit_code == 1
    assert run(context_file, "delete", "--ignore-not-found", "allow-frontend").exit_code == 0


def test_faults_are_shown_with_file_and_line(context_file: Path, tmp_path: Path) -> None:
    """One line for each fault: where, what, how to mend it."""
    path = tmp_path / "bad.yaml"
    text = (EXAMPLES / "allow-frontend.yaml").read_text()
    path.write_text(text.replace("fromEndpoints", "fromEndpoint").replace("protocol: TCP", "protocol: TPC"))
    result = run(context_file, "apply", "-f", str(path))
    assert result.exit_code == 1
    assert result.stdout == ""
    key, protocol = result.stderr.splitlines()
    assert key.startswith(
        f"Error: {path}:13: spec.ingress[0].fromEndpoint: unknown key 'fromEndpoint'; did you"
    )
    assert protocol.endswith(
        ":19: spec.ingress[0].toPorts[0].ports[0].protocol: unknown protocol 'TPC'; did you mean TCP?"
    )


def test_references() -> None:
    """Names as people write them."""
    kind = "CiliumNetworkPolicy"
    assert parse_reference("a") == (kind, "default", "a")
    assert parse_reference("cnp/a", "shop") == (kind, "shop", "a")
    assert parse_reference("CiliumNetworkPolicy/x/a") == (kind, "x", "a")
    with pytest.raises(click.UsageError, match="'shop' in 'shop/a' is no kind of policy; write cnp/shop/a"):
        parse_reference("shop/a")
