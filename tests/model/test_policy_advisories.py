"""The table of advisories about policy: each has a test that is named after it.

The ids come from the project's fact files on policy and on reliability; rows about encryption, gateways,
sockets, DNS parsing and secrets are the business of other tests. The tests are in the modules
`test_policy_advisories_*`, one a class of mistakes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

# id -> regression class of the fact files.
ADVISORIES: Final = {
    "GHSA-c66w-hq56-4q97": "RC-PROTO",
    "GHSA-wc5v-r48v-g4vh": "RC-V6",
    "GHSA-pfhr-pccp-hwmh": "RC-LABEL",
    "CVE-2023-27594": "RC-ATTRIB: only the policy's part",
    "CVE-2023-30851": "RC-MERGE",
    "CVE-2023-39347": "RC-LABEL",
    "CVE-2023-41332": "RC-CFGCRASH",
    "CVE-2023-41333": "RC-SCOPE",
    "CVE-2024-28248": "RC-INTERMIT: only the policy's part",
    "CVE-2024-42487": "RC-ORDER: the order of rules",
    "CVE-2024-42488": "RC-LATE",
    "CVE-2024-47825": "RC-PREC",
    "CVE-2024-52529": "RC-PREC",
    "CVE-2025-30162": "RC-PATH: only the policy's part",
    "CVE-2025-30163": "RC-SCOPE",
    "CVE-2025-32793": "RC-LATE: only the policy's part",
    "CVE-2025-64715": "RC-EMPTY",
    "CVE-2026-25804": "RC-ORDER: an advisory of Antrea",
    "CVE-2026-26963": "RC-PATH: only the policy's part",
    "CVE-2026-33726": "RC-PATH: only the policy's part",
    "CVE-2026-53935": "RC-XTENANT, RC-DELETE",
    "CVE-2026-56743": "RC-EMPTY x RC-SCOPE",
}
# The same defect told under another number.
ALIASES: Final = {
    "GHSA-2h44-x2wx-49f4": "CVE-2023-30851",
    "GHSA-gj2r-phwg-6rww": "CVE-2023-39347",
    "GHSA-24m5-r6hv-ccgp": "CVE-2023-41332",
    "GHSA-4xp2-w642-7mcx": "CVE-2023-41333",
    "GHSA-8fg8-jh2h-f2hc": "CVE-2023-27594",
    "GHSA-68mj-9pjq-mc85": "CVE-2024-28248",
    "GHSA-q7w8-72mr-vpgw": "CVE-2024-42488",
    "GHSA-3wwx-63fv-pfq6": "CVE-2024-47825",
    "GHSA-xg58-75qf-9r67": "CVE-2024-52529",
    "GHSA-24qp-4xx8-3jvj": "CVE-2025-30162",
    "GHSA-c6pf-2v8j-96mc": "CVE-2025-30163",
    "GHSA-5vxx-c285-pcq4": "CVE-2025-32793",
    "GHSA-38pp-6gcp-rqvm": "CVE-2025-64715",
    "GHSA-5r23-prx4-mqg3": "CVE-2026-26963",
    "GHSA-hxv8-4j4r-cqgv": "CVE-2026-33726",
    "GHSA-q6h5-q3q6-f87x": "CVE-2026-53935",
    "GHSA-fm8w-2m5w-9j7r": "CVE-2026-56743",
}


def _tests() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(Path(__file__).parent.glob("test_policy_advisories*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                yield node.name, node


@pytest.mark.parametrize("advisory", sorted(ADVISORIES))
def test_every_advisory_about_policy_has_a_test(advisory: str) -> None:
    """A test is named after each, and says in its own words what must never happen again."""
    slug = advisory.lower().replace("-", "_")
    named = [node for name, node in _tests() if name.startswith(f"test_{slug}_")]
    assert named, f"no test is called test_{slug}_…"
    assert all(ast.get_docstring(node) for node in named if isinstance(node, ast.FunctionDef))


def test_every_test_of_an_advisory_is_in_the_table() -> None:
    """An id in a name that the table does not have is a slip of the pen."""
    slugs = {advisory.lower().replace("-", "_") for advisory in ADVISORIES}
    named = {
        name.removeprefix("test_") for name, _ in _tests() if name.startswith(("test_cve_", "test_ghsa_"))
    }
    assert [name for name in named if not any(name.startswith(f"{slug}_") for slug in slugs)] == []
    assert set(ALIASES.values()) <= set(ADVISORIES)
