"""Values that all Kubernetes policy kinds share: label selectors, protocols, port numbers and names.

A Kubernetes selector knows no sources: its keys are about the labels of pods (`k8s`), or of namespaces,
which a pod carries under a prefix. What selects by the labels of namespaces selects pods alone, so that a
negative expression never reaches nodes or addresses outside the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from axoneme.lib.labels import K8S, NAMESPACE_KEY, NAMESPACE_LABEL_PREFIX
from axoneme.lib.policy.model import NamedPort, PortBlock
from axoneme.lib.selectors import LabelSelector, Requirement
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.selectorfields import read_selector
from services.policy.scope import in_any_namespace

PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
MAX_PORT: Final = 65_535
_PORT_NAME: Final = re.compile(r"(?=.*[a-z])[a-z0-9](-?[a-z0-9])*")
_MAX_PORT_NAME: Final = 15


def read_label_selector(node: Node | None, fields: Fields, *, prefix: str = "") -> tuple[Requirement, ...]:
    """What a Kubernetes label selector asks; nothing when it is absent or `{}`.

    `prefix` goes before each key (namespace labels).
    """
    if node is None:
        return ()
    for key, place in _keys(node):
        if key.startswith("$") or ":" in key:
            fields.fault(place, f"{key[:80]!r} is not a valid label key", "write the key without a source")
    requirements = read_selector(node, fields).requirements
    return tuple(Requirement(K8S, prefix + one.key, one.operator, one.values) for one in requirements)


def select_pods(namespaces: Node | None, pods: Node | None, fields: Fields) -> LabelSelector:
    """Pods in the namespaces that one selector selects, narrowed by another; absent ones narrow nothing."""
    asked = read_label_selector(namespaces, fields, prefix=NAMESPACE_LABEL_PREFIX)
    selector = LabelSelector.of(*asked, *read_label_selector(pods, fields))
    if any(one.positive and _about_namespace(one) for one in selector.requirements):
        return selector
    return selector.also(in_any_namespace())


def _about_namespace(requirement: Requirement) -> bool:
    return requirement.key == NAMESPACE_KEY or requirement.key.startswith(NAMESPACE_LABEL_PREFIX)


def _keys(selector: Node) -> Iterator[tuple[str, Node]]:
    present = selector.mapping or {}
    labels, expressions = present.get("matchLabels"), present.get("matchExpressions")
    if labels is not None:
        yield from (labels.mapping or {}).items()
    for item in expressions.items or [] if expressions is not None else []:
        key = (item.mapping or {}).get("key")
        if key is not None and isinstance(key.scalar, str):
            yield key.scalar, key


def read_protocol(node: Node | None, fields: Fields) -> int | None:
    """The number of a protocol; TCP when none is named."""
    if node is None:
        return PROTOCOLS["TCP"]
    text = fields.choice(node, "protocol", PROTOCOLS)
    return None if text is None else PROTOCOLS[text]


def read_port_name(node: Node, fields: Fields, *, number_fix: str) -> str | None:
    """The name of a container port; `number_fix` is for who meant a number."""
    text = fields.text(node)
    if text is None:
        return None
    if text.isdecimal():
        fields.fault(node, f"{text[:40]!r} is a text, and a port name needs a letter", number_fix)
    elif len(text) > _MAX_PORT_NAME or not _PORT_NAME.fullmatch(text):
        fix = "use at most 15 lower-case letters, digits and single '-', with a letter among them"
        fields.fault(node, f"{text[:40]!r} is not a valid port name", fix)
    else:
        return text
    return None


def any_protocol(name: str) -> tuple[NamedPort, ...]:
    """A named port whatever its protocol is."""
    return tuple(NamedPort(protocol, name) for protocol in PROTOCOLS.values())


def every_port(protocol: int) -> tuple[PortBlock, ...]:
    """All ports of a protocol."""
    return (PortBlock(protocol, 0, 0),)
