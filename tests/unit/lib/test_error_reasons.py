"""Every reason in the code is documented in the enum, and every documented one is in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest

from axoneme.api.error.v1 import error_pb2

ROOT = Path(__file__).parents[3]
PREFIX = "ERROR_REASON_"
REASON = re.compile(r"[A-Z][A-Z0-9_]*")
CODES = {code.name for code in grpc.StatusCode}


def documented() -> set[str]:
    names = error_pb2.ErrorReason.DESCRIPTOR.values_by_name
    return {name.removeprefix(PREFIX) for name in names} - {"UNSPECIFIED"}


def used_in(source: str) -> set[str]:
    """The reasons of a module: literals where a reason stands, also by a constant of the module."""
    tree = ast.parse(source)
    constants = {
        target.id: str(node.value.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    places = {text for node in ast.walk(tree) for place in _places(node) for text in _texts(place, constants)}
    # A constant that is called like its value is a reason that travels through functions (resyncs).
    named = {name for name, value in constants.items() if name == value and "_" in name}
    return {text for text in places | named if REASON.fullmatch(text)}


def _places(node: ast.AST) -> Iterator[ast.expr]:
    """`reason=…`, `default_reason = …`, and what follows the name of a status: `Failure("ABORTED", …, …)`."""
    if isinstance(node, ast.keyword) and node.arg == "reason":
        yield node.value
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == "default_reason" for target in targets):
            yield node.value
    elif isinstance(node, ast.Call) and len(node.args) > 1:
        first = node.args[0]
        if isinstance(first, ast.Constant) and first.value in CODES:
            yield node.args[1]


def _texts(place: ast.expr, constants: Mapping[str, str]) -> Iterator[str]:
    """All texts that an expression may come to, such as both sides of a condition."""
    for node in ast.walk(place):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name):
            yield constants.get(node.id, "")


def reasons_by_file() -> dict[str, set[str]]:
    files = [path for folder in ("axoneme", "services", "shim") for path in (ROOT / folder).rglob("*.py")]
    return {
        str(path.relative_to(ROOT)): used_in(path.read_text())
        for path in files
        if not path.is_relative_to(ROOT / "axoneme" / "api")
    }


def test_every_reason_in_the_code_is_documented() -> None:
    missing = {file: found - documented() for file, found in reasons_by_file().items()}
    assert {file: found for file, found in missing.items() if found} == {}, "add them to error.proto"


def test_every_documented_reason_is_in_the_code() -> None:
    used: set[str] = set().union(*reasons_by_file().values())
    assert documented() - used == set(), "nobody gives these reasons: remove them from error.proto"


def test_reasons_fit_the_wire() -> None:
    """ErrorInfo allows 63 characters."""
    assert all(len(reason) <= 63 for reason in documented())


@pytest.mark.parametrize(
    ("source", "reasons"),
    [
        ("raise NotFound('x', reason='GONE')", {"GONE"}),
        ("class A(E):\n    default_reason = 'GONE'", {"GONE"}),
        ("class A(E):\n    default_reason: ClassVar[str] = 'GONE'", {"GONE"}),
        ("WHY = 'GONE'\nraise NotFound('x', reason=WHY)", {"GONE"}),
        ("f(Failure('ABORTED', 'GONE' if a else 'LOST', 'text'))", {"GONE", "LOST"}),
        ("LOST_TRACK = 'LOST_TRACK'\nresync(LOST_TRACK)", {"LOST_TRACK"}),
        ("Fault(reason='not valid')\nopen('ABORTED')\nwrite('a', 'GONE')", set()),
    ],
)
def test_the_places_of_reasons(source: str, reasons: set[str]) -> None:
    assert used_in(source) == reasons
