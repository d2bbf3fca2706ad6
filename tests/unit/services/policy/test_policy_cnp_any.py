"""Any document at all is read or refused: no exception, no silence, and the stored form reads the same."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from services.policy.reading import cnp
from services.policy.reading.document import from_plain
from services.policy.reading.faults import Fault, InvalidPolicy
from services.policy.reading.fields import Fields
from services.policy.rules import ParsedPolicy, Peers
from tests.conftest import scaled
from tests.unit.services.policy.readings import CCNP, CNP

EXAMPLES = Path(__file__).parents[4] / "examples" / "policies"
DOCUMENTS = [
    document
    for path in sorted(EXAMPLES.glob("*.yaml"))
    if (document := yaml.safe_load(path.read_text()))["kind"] in cnp.KINDS
]

_scalars = st.sampled_from(
    [
        None,
        True,
        0,
        8,
        -1,
        1.5,
        "",
        "a",
        "80",
        "0",
        "web",
        "TCP",
        "ANY",
        "*",
        "**.a",
        "10.0.0.0/8",
        "fd00::/8",
    ]
)
_names = st.sampled_from(["a", "k8s:app", "reserved:init", "io.kubernetes.pod.namespace", "$world", "a b"])
_selectors = st.fixed_dictionaries(
    {},
    optional={
        "matchLabels": st.dictionaries(_names, _scalars, max_size=2),
        "matchExpressions": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "key": _names,
                    "operator": st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist", "Is"]),
                    "values": st.lists(_scalars, max_size=2),
                },
            ),
            max_size=2,
        ),
    },
)


def _lists(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A list, or what a list is not."""
    return st.one_of(st.lists(elements, max_size=2), st.none(), _scalars)


_fqdn = st.dictionaries(st.sampled_from(["matchName", "matchPattern"]), _scalars, max_size=2)
_icmp_fields = st.dictionaries(st.sampled_from(["type", "family"]), _scalars)
_elements = st.fixed_dictionaries(
    {},
    optional={
        "ports": _lists(
            st.dictionaries(st.sampled_from(["port", "protocol", "endPort"]), _scalars, max_size=3)
        ),
        "rules": st.dictionaries(
            st.sampled_from(["http", "dns", "kafka", "l7", "l7proto"]),
            st.one_of(
                _scalars,
                _lists(_fqdn),
                _lists(st.dictionaries(st.sampled_from(["method", "path", "headers", "role"]), _scalars)),
            ),
            max_size=2,
        ),
        "serverNames": _lists(_scalars),
        "listener": st.dictionaries(st.sampled_from(["name", "priority", "envoyConfig"]), _scalars),
    },
)


def _entries(side: str) -> st.SearchStrategy[Any]:
    """Entries whose keys mostly fit the side."""
    return st.fixed_dictionaries(
        {},
        optional={
            f"{side}Endpoints": _lists(_selectors),
            f"{side}Entities": _lists(st.sampled_from(["all", "world", "host", "x"])),
            f"{side}CIDR": _lists(_scalars),
            f"{side}CIDRSet": _lists(
                st.dictionaries(st.sampled_from(["cidr", "cidrGroupRef", "except"]), _scalars, max_size=2)
            ),
            f"{side}Nodes": _lists(_selectors),
            f"{side}Requires": _lists(_selectors),
            "toFQDNs": _lists(_fqdn),
            "toServices": _lists(st.dictionaries(st.sampled_from(["k8sService"]), _scalars)),
            "toPorts": _lists(_elements),
            "icmps": _lists(
                st.dictionaries(st.just("fields"), _lists(st.fixed_dictionaries({"type": _scalars})))
            ),
            "authentication": st.dictionaries(st.just("mode"), _scalars),
        },
    )


_specs = st.fixed_dictionaries(
    {},
    optional={
        "endpointSelector": _selectors,
        "nodeSelector": _selectors,
        "ingress": _lists(_entries("from")),
        "egress": _lists(_entries("to")),
        "ingressDeny": _lists(_entries("from")),
        "egressDeny": _lists(_entries("to")),
        "enableDefaultDeny": st.dictionaries(st.sampled_from(["ingress", "egress"]), _scalars),
    },
)


def read(document: Any) -> ParsedPolicy | None:
    """The policy, or None with at least one fault, each with a reason and a fix."""
    faults: list[Fault] = []
    policy = cnp.read_cilium(from_plain(document), "default", Fields(faults))
    assert (policy is None) == bool(faults)
    assert all(fault.reason and fault.fix for fault in faults), faults
    return policy


def check(document: Any) -> None:
    """What is accepted reads the same from its stored form."""
    policy = read(document)
    if policy is not None:
        assert read(policy.document) == policy


@settings(max_examples=scaled(300, 20_000))
@given(st.sampled_from([CNP, CCNP]), _specs)
def test_any_spec_is_read_or_refused(head: dict[str, Any], spec: dict[str, Any]) -> None:
    """Keys of the vocabulary with values that may be anything."""
    check({**head, "spec": spec})


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place of a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *[one for key, child in inner for one in paths_of(child, (*path, key))]]


@settings(max_examples=scaled(300, 20_000))
@given(st.data())
def test_a_changed_example_is_read_or_refused(data: st.DataObject) -> None:
    """One value replaced by another, at any place of any example."""
    document = copy.deepcopy(data.draw(st.sampled_from(DOCUMENTS)))
    place = data.draw(st.sampled_from([path for path in paths_of(document) if path]))
    parent: Any = document
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = data.draw(
        st.one_of(_scalars, st.just([]), st.just({}), st.just([{}]), st.just([None]))
    )
    check(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["metadata"]["name"])
def test_emptied_peers_are_nobody(document: dict[str, Any]) -> None:
    """No entry that named peers is about anyone when the lists get empty (CVE-2025-64715)."""
    emptied = copy.deepcopy(document)
    named = set()
    for path in paths_of(document):
        if path and re.fullmatch(r"(from|to)(?!Ports)[A-Z]\w+", str(path[-1])):
            parent: Any = emptied
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = []
            named.add(path[:-1])
    policy = read(emptied)
    assert policy is not None
    entries = [entry for rule in policy.rules for entry in rule.entries]
    assert sum(entry.peers == Peers() for entry in entries) >= len(named)


def test_other_data_is_refused() -> None:
    """What is no object at all."""
    for value in (None, 5, "x", [], {}, {"kind": cnp.KIND}):
        assert read(value) is None
    deep: Any = []
    for _ in range(30):
        deep = [deep]
    with pytest.raises(InvalidPolicy, match="nested deeper"):
        from_plain(deep)
