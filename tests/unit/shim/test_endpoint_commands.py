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


async def test_wanted_addresses_host_ports_and_adoption(
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

    async def add(name: str, *words: str) -> tuple[int, str]:
        netns = ("--netns", f"/run/netns/{name}", "--context", str(context))
        code = await asyncio.to_thread(root.main, ["endpoint", "add", f"default/{name}", *netns, *words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    node = MemoryNode()
    async with served(node, socket_directory):
        ips = ("--ip", "10.1.0.9", "--ip", "fd00:10:1::9")
        code, out = await add("a", *ips, "--host-port", "8080:80/tcp", "-o", "json")
        assert code == 0, out
        made = json.loads(out)
        assert made["ips"] == ["10.1.0.9", "fd00:10:1::9"]
        assert made["host_ports"][0]["host_port"] == 8080
        assert (await add("a", *ips, "--host-port", "8080:80"))[0] == 0, "asked again"
        for words, fault in (
            (("--host-port", "8080"), "write 8080:80/tcp"),
            (("--host-port", "8080:81"), "leads to endpoint 1"),
            (("--ip", "10.1.0.9"), "endpoint 1"),
            (("--ip", "fd00:10:1::9"), "endpoint 1"),
            (("--ip", "10.7.0.1"), "outside the node's PodCIDRs"),
            (("--adopt",), "give the addresses"),
        ):
            code, out = await add("b", *words)
            assert code != 0
            assert fault in out, out
        code, out = await add("b", "--adopt", "--ip", "172.30.0.5", "--ip", "fd00:30::5", "-o", "json")
        assert code == 0, out
        assert json.loads(out)["adopted"] is True
