"""Lint: a test module about policy verdicts that knows IPv4 addresses knows IPv6 ones too.

Host policies were once skipped for IPv6 alone (GHSA-wc5v-r48v-g4vh), and every test of them was green. The
check is coarse on purpose: a module is about policy when it imports one of the packages below, and it has its
twin when it writes an IPv6 address or prefix anywhere, or makes one with `twin_of` or `address(family, …)`.
What it cannot see is whether each single test has its twin; that stays with whoever writes the module.
"""

from __future__ import annotations

import ast
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parents[1]
ABOUT_POLICY: Final = ("axoneme.lib.policy", "axoneme.lib.policycodec", "services.policy", "shim.policies")
# What makes addresses of both families, or tells them apart by name.
TWIN_MAKERS: Final = frozenset({"twin_of", "everywhere"})
# Modules that name IPv4 addresses for a reason that has nothing to do with verdicts.
EXCEPTIONS: Final = {
    "perf/policy_engine.py": "measures the engine, and asks for no verdict",
}
_TOKEN: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?(?![\w:])")


def families(text: str) -> Iterator[int]:
    """The families of the addresses and prefixes in a text; where test servers listen does not count."""
    for token in _TOKEN.findall(text):
        try:
            found = ipaddress.ip_interface(token.strip("."))
        except ValueError:
            continue
        if not found.is_loopback:
            yield found.version


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{one.name}" for one in node.names))
        elif isinstance(node, ast.Import):
            yield from (one.name for one in node.names)


def lacks_twin(source: str) -> bool:
    """Whether a module is about policy and names IPv4 addresses without any of IPv6."""
    tree = ast.parse(source)
    names = set(_imports(tree))
    if not any(name == one or name.startswith(f"{one}.") for name in names for one in ABOUT_POLICY):
        return False
    if any(name.rpartition(".")[2] in TWIN_MAKERS for name in names):
        return False
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    found = {family for text in texts for family in families(text)}
    return 4 in found and 6 not in found


def _modules() -> list[str]:
    return sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py"))


@pytest.mark.parametrize("name", _modules())
def test_policy_tests_have_ipv6_twins(name: str) -> None:
    """Add the twin, or an exception with its reason."""
    if name in EXCEPTIONS:
        assert lacks_twin((TESTS / name).read_text()), (
            f"{name} needs no exception any more: {EXCEPTIONS[name]}"
        )
        return
    assert not lacks_twin((TESTS / name).read_text()), f"{name} names IPv4 addresses and no IPv6 one"


def test_exceptions_exist() -> None:
    """An exception for a module that is gone is noise."""
    assert [name for name in EXCEPTIONS if not (TESTS / name).exists()] == []


@pytest.mark.parametrize(
    ("source", "lacks"),
    [
        ("from services.policy import cnp\nA = '10.0.0.0/8'", True),
        ("from services.policy import cnp\nA = 'cidr: 10.0.0.1'", True),
        ("from services.policy import cnp\nA = ['10.0.0.0/8', '2001:db8::/32']", False),
        ("from services.policy import cnp\nA = ['10.0.0.0/8', '::/0']", False),
        ("import services.policy.reading.cnp\nA = '10.0.0.0/8'\nB = 'face::book::x 12:30:00'", True),
        (
            "from tests.model.policycases_twins import twin_of\nimport services.policy\nA = '10.0.0.0/8'",
            False,
        ),
        ("A = '10.0.0.0/8'", False),
        ("from services.policy import cnp\nA = 'version 1.2 of 3.4.5'", False),
    ],
)
def test_what_the_lint_sees(source: str, lacks: bool) -> None:
    """The check itself."""
    assert lacks_twin(source) is lacks
