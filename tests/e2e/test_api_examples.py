"""The API examples run as they are printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from axoneme.lib.tls import TlsFiles, channel_credentials
from tests.e2e.policies import ALLOW_FRONTEND
from tests.e2e.running import REPOSITORY, Running

pytestmark = [pytest.mark.root, pytest.mark.etcd]


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_synchronous_example_lists_the_cluster(lab: Running) -> None:
    lab.apply(ALLOW_FRONTEND)
    lines = run(sys.executable, "examples/api/inventory.py").splitlines()
    assert [line.split()[1] for line in lines if line.startswith("node ")] == ["node1", "node2"]
    assert any(line.startswith("identity ") and "k8s:app=backend" in line for line in lines)
    assert "policy CiliumNetworkPolicy default/allow-frontend generation 1" in lines


def test_the_asyncio_example_follows_flows(lab: Running) -> None:
    assert lab.reaches("frontend", "backend")
    context = str(lab.state.files(lab.cluster).context)
    output = run(sys.executable, "examples/api/follow_flows.py", "--count", "1", "--context", context)
    assert "->" in output


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not installed")
def test_the_grpcurl_example_runs(lab: Running) -> None:
    output = run("examples/api/grpcurl.sh", AXONEME=f"{sys.prefix}/bin/axoneme")
    assert "observer.Observer" in output


@pytest.mark.parametrize(
    ("service", "wanted"),
    [
        ("identity", "axoneme.api.identity.v1.IdentityService"),
        ("policy", "axoneme.api.policy.v1.PolicyService"),
        ("relay", "observer.Observer"),
    ],
)
def test_what_grpcurl_needs_is_served(lab: Running, service: str, wanted: str) -> None:
    """Certificates, the server's name and reflection, as grpcurl uses them."""
    context = lab.client.context
    assert context.ca_file
    assert context.cert_file
    assert context.key_file
    credentials = channel_credentials(TlsFiles(context.ca_file, context.cert_file, context.key_file))
    name = (("grpc.ssl_target_name_override", context.server_name(service)),)
    with grpc.secure_channel(context.targets(service)[0], credentials, name) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert wanted in database.get_services()
        assert database.FindFileContainingSymbol(wanted).package == wanted.rpartition(".")[0]
