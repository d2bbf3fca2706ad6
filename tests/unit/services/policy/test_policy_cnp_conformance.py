"""Every CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy of the conformance data is read or refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from services.policy.reading import cnp
from services.policy.reading.document import from_plain
from services.policy.reading.faults import Fault
from services.policy.reading.fields import Fields

FILES = sorted((Path(__file__).parents[3] / "data").glob("**/cilium_policies*.json*"))


def cases(path: Path) -> list[dict[str, Any]]:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    found = json.loads(raw)
    return list(found["cases"] if isinstance(found, dict) else found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_policy_reads_as_the_data_says(path: Path) -> None:
    """An object is refused only where the data expects it; all others read the same when stored."""
    count = 0
    for case in cases(path):
        refused = 0
        for document in case["policies"]:
            if document["kind"] not in cnp.KINDS:
                continue
            count += 1
            faults: list[Fault] = []
            policy = cnp.read_cilium(from_plain(document), "default", Fields(faults))
            if policy is None:
                refused += 1
                assert case.get("expectLoadError"), (case["id"], document, faults)
            else:
                assert cnp.read_cilium(from_plain(policy.document), "other", Fields(faults)) == policy
        ours_only = all(document["kind"] in cnp.KINDS for document in case["policies"])
        assert not ours_only or bool(refused) == bool(case.get("expectLoadError")), case["id"]
    assert count > 50
