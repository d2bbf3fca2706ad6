"""`axoneme policy` as people use it: a served process with real etcd and certificates, and its commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
import yaml
from click.testing import CliRunner, Result
from google.protobuf import json_format

from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.cli.flowprinter_json import parse_response, response_json
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.labels import workload_labels
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
    with running_etcd(unix_socket=True) as etcd, observing(tls_files("svc/relay")) as relay:
        command = [sys.executable, "-m", "axoneme.cli.main", "policy", "serve", "--listen-address", address]
        command += ["--cluster-name", "east", "--etcd-endpoints", etcd.endpoint, "--metrics-address", ""]
        command += ["--drain-seconds", "0.2", *_tls_flags(tls_files("svc/policy"))]
        environ = {**os.environ, "PYTHONPATH": str(EXAMPLES.parents[1])}
        with (directory / "log").open("wb") as log_file:
            process = subprocess.Popen(command, stderr=log_file, env=environ)
        admin = tls_files("user/admin/ann")
        tls = {"ca": str(admin.ca), "cert": str(admin.cert), "key": str(admin.key)}
        context = {"cluster": "east", "trust_domain": "east.mesh", "policy": [address], "tls": tls}
        context |= {"identity": [], "relay": [relay], "nodes": {}, "simulated": True}
        (directory / "etcd").write_text(etcd.endpoint)
        path = directory / "context.json"
        path.write_text(json.dumps(context))
        try:
            eventually_sync(lambda: run(path, "list").exit_code == 0, seconds=20)
            yield path
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, (directory / "log").read_text()
        finally:
            process.kill()


FLOWS = """
{"flow": {"time": "2026-03-01T10:00:01Z", "IP": {"source": "10.1.0.5", "destination": "10.1.0.6"},
 "l4": {"TCP": {"source_port": 4000, "destination_port": 8080}},
 "source": {"identity": 300, "labels": %(frontend)s},
 "destination": {"identity": 301, "labels": %(backend)s}}}
{"flow": {"time": "2026-03-01T10:00:02Z", "IP": {"source": "10.1.0.6", "destination": "10.1.0.5"},
 "l4": {"TCP": {"source_port": 8080, "destination_port": 4000}}, "is_reply": true,
 "source": {"identity": 301, "labels": %(backend)s},
 "destination": {"identity": 300, "labels": %(frontend)s}}}
{"flow": {"time": "2026-03-01T10:00:03Z", "IP": {"source": "2001:db8::1", "destination": "fd00::6"},
 "l4": {"TCP": {"source_port": 4000, "destination_port": 8080}},
 "source": {"identity": 10, "labels": ["reserved:world-ipv6"]},
 "destination": {"identity": 301, "labels": %(backend)s}}}
"""


def flow_lines() -> list[str]:
    """One line for each flow, as `observe -o jsonpb` writes them."""
    labels = {
        app: json.dumps(workload_labels([f"app={app}"], namespace="default", cluster="east").texts())
        for app in ("frontend", "backend")
    }
    decoder, text, found = json.JSONDecoder(), (FLOWS % labels).strip(), []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(response_json(json_format.ParseDict(value, observer_pb2.GetFlowsResponse())))
        text = text[end:].strip()
    return found


class Observer(observer_pb2_grpc.ObserverServicer):
    """A relay that remembers these flows."""

    def GetFlows(self, request: Any, _: Any) -> Any:
        """All flows, whatever was asked."""
        assert request.HasField("since")
        return map(parse_response, flow_lines())


@contextlib.contextmanager
def observing(files: TlsFiles) -> Iterator[str]:
    """A relay with mTLS; gives its address."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    observer_pb2_grpc.add_ObserverServicer_to_server(Observer(), server)
    key, certificate, ca = (path.read_bytes() for path in (files.key, files.cert, files.ca))
    credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0)


async def _write(context: Path, rows: dict[str, bytes]) -> None:
    endpoint = (context.parent / "etcd").read_text()
    async with EtcdStore.connect([endpoint], None) as store:
        for key, value in rows.items():
            await store.put(key, value)


@pytest.fixture(scope="module")
def cluster(context_file: Path) -> Path:
    """Two identities with one pod each, as the identity service and a node write them."""
    rows: dict[str, bytes] = {}
    for number, app in ((300, "frontend"), (301, "backend")):
        labels = workload_labels([f"app={app}"], namespace="default", cluster="east")
        rows[layout.master_key(number)] = labels.key.encode()
        rows[f"{layout.SLAVES}{labels.key}/node1"] = str(number).encode()
        ip = f"10.1.0.{number - 295}"
        pod = {"IP": ip, "ID": number, "K8sNamespace": "default", "K8sPodName": app}
        rows[layout.ip_key(ip)] = json.dumps(pod).encode()
    asyncio.run(_write(context_file, rows))
    question = ("--from", "default/frontend", "--to", "default/backend", "--port", "1/tcp")
    eventually_sync(lambda: run(context_file, "explain", *question).exit_code == 0, seconds=20)
    return context_file


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


def test_explain_status_selectors(cluster: Path) -> None:
    """From a denied flow to the policy that explain proposes, and where that stands."""
    path = str(EXAMPLES / "allow-frontend.yaml")
    assert run(cluster, "apply", "-f", path).exit_code == 0
    question = ("--from", "default/frontend", "--to", "default/backend", "--port", "443/tcp")
    denied = run(cluster, "explain", *question).stdout
    assert denied.startswith("default/frontend -> default/backend TCP/443: DENY\n")
    assert "default deny because of: spec.ingress[0] of CiliumNetworkPolicy default/allow-frontend" in denied
    fix = textwrap.dedent(denied.partition("  fix: apply this policy:\n")[2])
    name = yaml.safe_load(fix)["metadata"]["name"]
    assert "created" in run(cluster, "apply", "-f", "-", stdin=fix).stdout
    allowed = run(cluster, "explain", *question).stdout
    assert f"decided by: spec.ingress[0] of CiliumNetworkPolicy default/{name} (allow)" in allowed
    status = run(cluster, "status", name)
    assert status.stdout.splitlines()[1].split()[:5] == [
        "CiliumNetworkPolicy",
        f"default/{name}",
        "yes",
        "0/1",
        "nodes",
    ]
    assert "node node1: not connected" in status.stderr
    assert "frontend" in run(cluster, "selectors").stdout
    assert run(cluster, "delete", name, "allow-frontend").exit_code == 0
    assert run(cluster, "status", name).exit_code == 1


def test_diff_of_verdicts(cluster: Path, tmp_path: Path) -> None:
    """1 when something changes, 0 when nothing does, 2 for an error; nothing is stored."""
    path = str(EXAMPLES / "allow-frontend.yaml")
    changed = run(cluster, "diff", "-f", path)
    assert changed.exit_code == 1, changed.output
    assert "ingress every other peer any port: allow -> deny" in changed.stdout
    assert "verdicts of 1 subjects would change" in changed.stdout
    assert "Warning: CiliumNetworkPolicy/default/allow-frontend: switches default deny on" in changed.stderr
    assert run(cluster, "list").stdout == ""
    run(cluster, "apply", "-f", path)
    assert run(cluster, "diff", "-f", path).exit_code == 0
    assert run(cluster, "diff", "-f", path, "--replace").exit_code == 0
    assert run(cluster, "diff", "--delete", "allow-frontend").exit_code == 1
    assert run(cluster, "diff", "--delete", "none").exit_code == 2
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: x")
    assert run(cluster, "diff", "-f", str(bad)).exit_code == 2
    run(cluster, "delete", "allow-frontend")


def test_diff_of_recorded_flows(cluster: Path, tmp_path: Path) -> None:
    """From a file, from standard input and from the relay: the same answer."""
    flows = tmp_path / "flows.json"
    flows.write_text("\n".join(flow_lines()))
    policy_file = tmp_path / "deny.yaml"
    policy_file.write_text((EXAMPLES / "deny-frontend.yaml").read_text())
    by_file = run(cluster, "diff", "-f", str(policy_file), "--flows", str(flows))
    by_stdin = run(cluster, "diff", "-f", str(policy_file), "--flows", "-", stdin=flows.read_text())
    by_relay = run(cluster, "diff", "-f", str(policy_file), "--since", "1h")
    assert by_file.exit_code == 1, by_file.output
    assert by_file.stdout == by_stdin.stdout == by_relay.stdout
    assert by_file.stdout.splitlines()[0] == "allow -> deny: 2 flows"
    assert by_file.stdout.splitlines()[-1] == "2 of 2 flows would change"
    assert "1 records left out" in by_file.stderr
    found = json.loads(run(cluster, "diff", "-f", str(policy_file), "--since", "1h", "-o", "json").stdout)
    assert (found["changed"], found["total"], found["problems"]) == (2, 2, {})
    same = tmp_path / "same.yaml"
    same.write_text((EXAMPLES / "allow-frontend.yaml").read_text().replace("backend", "nobody"))
    assert run(cluster, "diff", "-f", str(same), "--since", "1h").exit_code == 0


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
