"""Both clients against a real server with certificates, and the search for a context."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.client import AsyncClient, Client, Context, load_context
from axoneme.client.calls import pauses, with_request_id
from axoneme.lib import errors
from axoneme.lib.tls import TlsFiles
from tests.conftest import TRUST_DOMAIN
from tests.contract.identityserver import TinyIdentity, tiny_server

Issue = Callable[[str], TlsFiles]


@pytest.fixture
def dead_target() -> Iterator[str]:
    """A port that nobody listens on, kept by a bound socket."""
    with socket.socket() as keeper:
        keeper.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{keeper.getsockname()[1]}"


@pytest.fixture
def servicer() -> TinyIdentity:
    return TinyIdentity()


@pytest.fixture
async def context(tls_files: Issue, dead_target: str, servicer: TinyIdentity) -> AsyncIterator[Context]:
    """Identity behind three targets of which two are dead."""
    listener = grpcserver.Listener("127.0.0.1:0", tls_files("svc/identity"), TRUST_DOMAIN)
    files = tls_files("user/reader/ann")
    async with tiny_server([listener], servicer) as running:
        yield Context(
            cluster="east",
            trust_domain=TRUST_DOMAIN,
            identity=(dead_target, f"127.0.0.1:{running.port}", dead_target),
            policy=(dead_target,),
            ca_file=files.ca,
            cert_file=files.cert,
            key_file=files.key,
        )


@pytest.mark.parametrize("seed", range(4))
async def test_async_client_moves_on_to_a_living_target(context: Context, seed: int) -> None:
    async with AsyncClient(context, rng=random.Random(seed)) as client:
        answer = await client.identity.ListNodes(pb.ListNodesRequest())
        assert answer.nodes[0].name == "user/reader/ann"
        with pytest.raises(errors.NotFound, match="no identity 1"):
            await client.identity.GetIdentity(pb.GetIdentityRequest(identity=1))
        assert await client.serving("identity")


async def test_async_stream_finds_a_living_target(context: Context, servicer: TinyIdentity) -> None:
    for seed in range(4):
        async with AsyncClient(context, rng=random.Random(seed)) as client:
            stream = client.identity.WatchIdentities(pb.WatchIdentitiesRequest())
            first = await anext(aiter(stream))
            assert first.bookmark
            stream.cancel()
    servicer.release.set()
    async with AsyncClient(context) as client:
        stream = client.identity.WatchIdentities(pb.WatchIdentitiesRequest())
        assert [message.bookmark async for message in stream] == [True]


async def test_async_client_reports_who_is_not_there(context: Context) -> None:
    async with AsyncClient(context, timeout_seconds=3) as client:
        with pytest.raises(errors.Unavailable, match="refused"):
            await client.serving("policy")
        with pytest.raises(errors.NotFound, match="names no relay"):
            await client.serving("relay")
        with pytest.raises(errors.NotFound, match="no node 'n9'"):
            client.node("n9")
        with pytest.raises(AttributeError):
            _ = client.identity.Nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(4))
async def test_sync_client(context: Context, servicer: TinyIdentity, seed: int) -> None:
    servicer.release.set()

    def use() -> None:
        with Client(context, rng=random.Random(seed)) as client:
            assert client.identity.ListNodes(pb.ListNodesRequest()).nodes[0].name == "user/reader/ann"
            with pytest.raises(errors.NotFound):
                client.identity.GetIdentity(pb.GetIdentityRequest(identity=1))
            with pytest.raises(errors.PermissionDenied):
                client.identity.RegisterNode(pb.RegisterNodeRequest())
            stream = client.identity.WatchIdentities(pb.WatchIdentitiesRequest())
            assert [message.bookmark for message in stream] == [True]
            assert client.serving("identity")

    await asyncio.to_thread(use)


async def test_sync_deadline(context: Context) -> None:
    def use() -> None:
        with Client(context, timeout_seconds=0.5) as client, pytest.raises(errors.DeadlineExceeded):
            client.identity.GetIdentity(pb.GetIdentityRequest(identity=6))

    await asyncio.to_thread(use)


def test_writes_get_a_request_id() -> None:
    request = pb.AllocateIdentityRequest(labels=["k8s:a=b"])
    sent = with_request_id(request)
    assert sent.request_id
    assert not request.request_id
    assert with_request_id(sent) is sent
    read = pb.ListNodesRequest()
    assert with_request_id(read) is read


def test_every_target_is_asked_before_the_first_pause() -> None:
    waits = list(pauses(4, random.Random(1)))
    assert waits == [0.0, 0.0, 0.0]
    single = list(pauses(1, random.Random(1)))
    assert len(single) == 2
    assert all(wait > 0 for wait in single)


DOCUMENT: dict[str, Any] = {
    "cluster": "east",
    "trust_domain": "east.mesh",
    "identity": ["198.18.1.10:4301"],
    "tls": {"ca": "/x/ca.crt", "cert": "/x/tls.crt", "key": "/x/tls.key"},
    "nodes": {"node1": "/run/shim.sock"},
}


def write(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**DOCUMENT, **changes}))
    return path


def test_context_is_searched_in_order(tmp_path: Path) -> None:
    given = write(tmp_path / "given.json", cluster="given")
    variable = write(tmp_path / "variable.json", cluster="variable")
    write(tmp_path / "home/.config/axoneme/context.json", cluster="home")
    lab = tmp_path / "lab"
    write(lab / "east/context.json")
    write(lab / "west/context.json", cluster="west")
    (lab / "lab.json").write_text(json.dumps({"clusters": ["east", "west"]}))
    home = {"HOME": str(tmp_path / "home")}
    both = {**home, "AXONEME_CONTEXT": str(variable)}
    nobody = {"HOME": str(tmp_path)}

    def cluster(path: Path | None, environ: dict[str, str], name: str | None = None) -> tuple[str, bool]:
        context = load_context(path, cluster=name, environ=environ, lab_directory=lab)
        return context.cluster, context.from_lab

    assert cluster(given, both) == ("given", False)
    assert cluster(None, both) == ("variable", False)
    assert cluster(None, home) == ("home", False)
    assert cluster(None, nobody) == ("east", True)
    assert cluster(None, both, "west") == ("west", False)
    with pytest.raises(errors.NotFound, match="east, west"):
        cluster(None, nobody, "north")
    with pytest.raises(errors.NotFound, match="axoneme lab up"):
        load_context(environ=nobody, lab_directory=tmp_path / "none")


def test_wrong_contexts_name_the_field(tmp_path: Path) -> None:
    file = write(tmp_path / "x.json", cluster="", identity="198.18.1.10:4301", nodes={"n": 1})
    with pytest.raises(errors.InvalidArgument) as caught:
        load_context(file)
    assert {fault.field for fault in caught.value.violations} == {"cluster", "identity", "nodes"}
    file.write_text("[]")
    with pytest.raises(errors.InvalidArgument):
        load_context(file)
    file.write_text("{")
    with pytest.raises(errors.InvalidArgument, match="not JSON"):
        load_context(file)


def test_client_needs_neither_services_nor_shim() -> None:
    """With those packages blocked, the client imports; and the package alone does not import gRPC."""
    code = (
        "import sys\nsys.modules['services'] = sys.modules['shim'] = None\n"
        "import axoneme.client\nassert 'grpc' not in sys.modules\n"
        "from axoneme.client import Client, AsyncClient\nimport axoneme.api.policy.v1.policy_pb2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
