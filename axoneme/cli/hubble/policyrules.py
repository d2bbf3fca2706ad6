"""Reading rules out of the documents of policies: whom and which ports a rule names. Pure.

A rule's place is what the policy service says, such as `spec.ingress[0]` or `specs[1].egressDeny[2]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

_STEP: Final = re.compile(r"([A-Za-z]+)(?:\[(\d+)\])?")
_PORTS: Final = ("toPorts", "icmps", "ports")
_PEER_KEYS: Final = re.compile(r"(from|to)([A-Z]\w*)?$")


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of a document."""

    place: str
    content: dict[str, Any]

    def peers(self) -> str:
        """The part that selects peers, as short JSON; `everybody` when there is none."""
        kept = {
            key: value for key, value in self.content.items() if _PEER_KEYS.match(key) and key not in _PORTS
        }
        return _short(kept) if kept else "everybody"

    def ports(self) -> list[tuple[str, int]]:
        """(protocol, port) pairs that it names as numbers, protocol in upper case."""
        found = []
        for group in _list(self.content.get("toPorts")) or [{"ports": self.content.get("ports")}]:
            for port in _list(group.get("ports") if isinstance(group, dict) else None):
                text = str(port.get("port", "")) if isinstance(port, dict) else ""
                if text.isascii() and text.isdigit() and 0 < int(text) < 65_536:
                    found.append((str(port.get("protocol") or "ANY").upper(), int(text)))
        return found

    def names_ports(self) -> bool:
        """Whether it is for some ports only."""
        return any(self.content.get(key) for key in _PORTS)

    def ports_text(self) -> str:
        """`8080/TCP, 53/UDP`, or `every port`."""
        texts = [f"{port}/{protocol}" for protocol, port in self.ports()]
        if texts:
            return ", ".join(texts)
        return _short({key: self.content[key] for key in _PORTS if key in self.content}) or "every port"


def rule_at(document: str, place: str) -> PolicyRule | None:
    """The rule of a place; None when the document has none there."""
    value: Any = _parsed(document)
    for step in place.split("."):
        match = _STEP.fullmatch(step)
        if match is None or not isinstance(value, dict) or match[1] not in value:
            return None
        value = value[match[1]]
        if match[2] is not None:
            items = _list(value)
            if int(match[2]) >= len(items):
                return None
            value = items[int(match[2])]
    return PolicyRule(place, value) if isinstance(value, dict) else None


def allow_rules(document: str, direction: str) -> Iterator[PolicyRule]:
    """Rules that allow something in a direction (`ingress` or `egress`), in their order."""
    content = _parsed(document)
    one = content.get("spec")
    specs = [("spec", one)] if isinstance(one, dict) else []
    specs += [(f"specs[{i}]", spec) for i, spec in enumerate(_list(content.get("specs")))]
    for name, spec in specs:
        for index, rule in enumerate(_list(spec.get(direction) if isinstance(spec, dict) else None)):
            if isinstance(rule, dict):
                yield PolicyRule(f"{name}.{direction}[{index}]", rule)


def _parsed(document: str) -> dict[str, Any]:
    try:
        content = json.loads(document)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _short(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) if value else ""
