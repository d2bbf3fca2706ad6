"""`axoneme endpoint` against a node in memory: named ports and auditing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from axoneme.cli import main as root
from axoneme.lib.policy.model import Action, AnyPeer
from axoneme.lib.tls import TlsFiles
from tests.conftest import TRUST_DOMAIN
from tests.unit.shim.memorynode import MemoryNode, policy, rule
from tests.unit.shim.test_node_api import served


async def test_named_ports_and_the_audit_switch(
    socket_directory: Path, tls_files: Callable[[str], TlsFiles], capsys: pytest.CaptureFixture[str]
) -> None:
    files = tls_files("user/reader/ann")
    context = socket_directory / "context.json"
    document = {
        "cluster": "east",
        "trust_domain": TRUST_DOMAIN,
        "tls": {"ca": str(files.ca), "cert": str(files.cert), "key": str(files.key)},
        "nodes": {"node1": str(socket_directory / "shim.sock")},
    }
    context.write_text(json.dumps(document))

    async def run(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(root.main, [*words, "--context", str(context)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    node = MemoryNode()
    async with served(node, socket_directory):
        netns = ("--netns", "/run/netns/web")
        code, out = await run("endpoint", "add", "default/web", *netns, "--port", "http")
        assert code != 0
        assert "write http=80/tcp" in out
        ports = ("--port", "http=80", "--port", "dns=53/udp")
        code, out = await run("endpoint", "add", "default/web", *netns, *ports, "-o", "json")
        assert code == 0, out
        [endpoint] = node.endpoints
        assert endpoint.named_ports == ((6, "http", 80), (17, "dns", 53))
        code, out = await run("endpoint", "audit", "default/web", "on")
        assert code == 0, out
        assert "policy auditing of endpoint 1 of node1 is on" in out
        _, out = await run("endpoint", "list")
        assert "ready, audit" in out
        await node.set_policy(
            endpoint.identity, policy(rule(AnyPeer(), Action.DENY, audit=True), rule(AnyPeer()))
        )
        _, out = await run("bpf", "policy", "get", "web")
        assert "deny (audit: reported only)" in out
        code, out = await run("endpoint", "audit", "web", "off")
        assert code == 0, out
    assert not node.endpoints.require(endpoint.endpoint_id).audit
