"""Reading one rule, entry or port element out of plain data, for the tests of the readers."""

from __future__ import annotations

import json
from typing import Any

from services.policy.reading import cnp
from services.policy.reading.document import parse
from services.policy.reading.faults import Fault
from services.policy.reading.fields import Fields
from services.policy.rules import ParsedPolicy, PortRule, Rule, RuleEntry

CNP = {
    "apiVersion": "cilium.io/v2",
    "kind": cnp.KIND,
    "metadata": {"name": "p", "namespace": "shop"},
}
CCNP = {"apiVersion": "cilium.io/v2", "kind": cnp.CLUSTERWIDE_KIND, "metadata": {"name": "p"}}
TCP80 = [{"ports": [{"port": "80", "protocol": "TCP"}]}]


def read(document: dict[str, Any]) -> tuple[ParsedPolicy | None, list[Fault]]:
    """The policy of an object, or its faults; through a text, so that faults have lines."""
    return read_text(json.dumps(document, indent=1, ensure_ascii=False))


def read_text(text: str) -> tuple[ParsedPolicy | None, list[Fault]]:
    """The policy of a text with one object, or its faults."""
    (node,) = parse(text)
    faults: list[Fault] = []
    return cnp.read_cilium(node, "default", Fields(faults)), faults


def policy_of(document: dict[str, Any]) -> ParsedPolicy:
    """The policy of a faultless object."""
    policy, faults = read(document)
    assert policy is not None, faults
    return policy


def rule_of(spec: dict[str, Any], head: dict[str, Any] | None = None) -> Rule:
    """The rule of a spec, which selects everything unless it says otherwise."""
    subject = {} if "nodeSelector" in spec else {"endpointSelector": {}}
    return policy_of({**(head or CNP), "spec": {**subject, **spec}}).rules[0]


def entry_of(section: str, entry: dict[str, Any], head: dict[str, Any] | None = None) -> RuleEntry:
    """The only entry of a rule."""
    (found,) = rule_of({section: [entry]}, head).entries
    return found


def port_rule_of(element: dict[str, Any], section: str = "egress") -> PortRule:
    """The only element of toPorts."""
    (found,) = entry_of(section, {"toPorts": [element]}).ports
    return found


def faults_of(spec: dict[str, Any], head: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """Path and reason of each fault of a spec; each has a line and none an exception."""
    subject = {} if "nodeSelector" in spec else {"endpointSelector": {}}
    policy, faults = read({**(head or CNP), "spec": {**subject, **spec}})
    assert policy is None
    assert all(fault.line > 1 and fault.path and fault.fix for fault in faults), faults
    return [(fault.path, fault.reason) for fault in faults]


def refuses(spec: dict[str, Any], path: str, words: str, head: dict[str, Any] | None = None) -> None:
    """Check that a spec has exactly one fault, at this path and with these words."""
    faults = faults_of(spec, head)
    assert [(where, words in reason) for where, reason in faults] == [(path, True)], faults
