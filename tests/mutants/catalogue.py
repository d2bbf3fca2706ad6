"""All seeded mistakes, and which tests have to notice them.

The tests are ours alone: random cases against the brute-force oracle, sequences against plain twins, unit
tests. Recorded conformance data takes no part.
"""

from __future__ import annotations

from tests.mutants.algebra import ALGEBRA
from tests.mutants.readers import READERS
from tests.mutants.resolver import RESOLVER

MUTANTS = (*READERS, *RESOLVER, *ALGEBRA)

# The quickest to notice anything come first; a run stops at the first failure.
WATCHERS = (
    "tests/model/test_policy_rules.py",
    "tests/model/test_policy_oracle.py",
    "tests/model/test_port_blocks.py",
    "tests/model/test_mapstate.py",
    "tests/model/test_mapstate_builder.py",
    "tests/model/test_policy_arrival.py",
    "tests/unit/services/policy/test_policy_selectorcache.py",
    "tests/model/test_engine_sequences.py",
)
# What a copied tree needs for them.
FOLDERS = ("axoneme", "services", "shim", "tests", "protos", "docs", "examples")
FILES = ("pyproject.toml", "Makefile")
