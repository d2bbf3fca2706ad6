"""Servers and channels come from one factory each, and tasks from one scope: no other module makes them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted(
    path
    for folder in ("axoneme", "services", "shim")
    for path in (ROOT / folder).rglob("*.py")
    if not path.is_relative_to(ROOT / "axoneme" / "api")
)
ALLOWED: dict[str, set[str]] = {
    "server": {"axoneme/lib/engines.py"},
    "secure_channel": {"axoneme/lib/channel.py", "axoneme/lib/clientchannel.py"},
    "insecure_channel": {"axoneme/lib/channel.py", "axoneme/lib/clientchannel.py"},
    "add_secure_port": {"axoneme/lib/engines.py"},
    "add_insecure_port": {"axoneme/lib/engines.py"},
    "create_task": {"axoneme/lib/tasks.py"},
}
GRPC_OWNERS = {"grpc", "grpc.aio", "aio"}


def calls_of(path: Path) -> set[str]:
    """Names of guarded calls in a module; `server` counts only as grpc.server or grpc.aio.server."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = node.func.attr
        if name in ALLOWED and (name != "server" or ast.unparse(node.func.value) in GRPC_OWNERS):
            found.add(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_makes_them(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    assert [call for call in sorted(calls_of(path)) if name not in ALLOWED[call]] == []


def test_the_check_sees_what_it_looks_for() -> None:
    assert calls_of(ROOT / "axoneme/lib/engines.py") >= {"server", "add_secure_port", "add_insecure_port"}
    assert calls_of(ROOT / "axoneme/lib/channel.py") >= {"secure_channel", "insecure_channel"}
    assert calls_of(ROOT / "axoneme/lib/tasks.py") == {"create_task"}
