"""Cases that state, for every pair of pods, what gets through: the format of Kubernetes' truth tables.

`expected["TCP/80"]` has up to three matrices of 0 and 1, one row for each source pod and one column for each
destination: `ingress`, `egress` and `combined` (both together). Rows and columns are in the order in which
`pods` lists them (`order: listed`). Only where that is the order of (namespace, name) they are in the order
of the texts `namespace/name` (`order: text`): the same, save for names such as `y` and `y-2`, where recorded
matrices have `y-2/a` before `y/a`. A case may say which of the two it means.

`expected` follows the text of the Kubernetes API, and so do we, with one exception: an `ipBlock` selects
addresses outside the cluster and never pods (R-63), which that text leaves open. A case with an ipBlock that
holds the address of one of its pods is therefore compared with `expected_cilium` where it has one; any other
difference that a case states (an unlisted policyTypes section that is enforced anyway, R-60) is not ours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final

from axoneme.lib.policy.model import Direction
from services.policy.cases.testcase import PROTOCOL_NUMBERS, Case, Endpoint, Flow, Kind
from services.policy.cases.testfields import address, children, elements, one_of, string_mapping, text_or
from services.policy.inputs import PolicySettings
from services.policy.reading.document import Json, Node
from services.policy.reading.fields import Fields

MATRIX_KEYS: Final = frozenset({"pods", "namespaces", "expected", "expected_cilium"})
_REMARKS: Final = ("description", "tags", "difference", "group", "oracle")
_KEYS: Final = ("id", "policies", "order", *MATRIX_KEYS)
_POD_KEYS: Final = ("namespace", "name", "labels", "ip")
_ORDERS: Final = ("listed", "text")
_MATRICES: Final = ("combined", "ingress", "egress")
# Ports that every pod of these cases listens on, under the names of Kubernetes' own tests.
_NAMED_PORTS: Final = {
    (PROTOCOL_NUMBERS[name], f"serve-{port}-{name.lower()}"): port
    for name, port in product(("TCP", "UDP", "SCTP"), (80, 81))
}


def read_matrix_case(node: Node, default_name: str, fields: Fields) -> Case | None:
    """The case of a node, or None after a fault."""
    before = len(fields.faults)
    found = fields.mapping(node, _KEYS, ignored=_REMARKS)
    namespaces = {
        name: string_mapping(child, fields)
        for name, child in children(found.get("namespaces"), fields).items()
    }
    pods = [_pod(one, namespaces, fields) for one in elements(found.get("pods"), fields)]
    policies = tuple(elements(found.get("policies"), fields))
    expected = _expected(found, policies, [pod.address for pod in pods if pod is not None and pod.address])
    if expected is None or not pods:
        fields.fault(node, "a case of matrices needs pods and expected", "add what is missing")
        return None
    names = _ordered([pod for pod in pods if pod is not None], found.get("order"), fields)
    flows = tuple(_flows(expected, names, fields))
    if len(fields.faults) > before:
        return None
    return Case(
        name=text_or(found.get("id"), default_name, fields),
        line=node.line,
        path=node.path,
        settings=PolicySettings(),
        endpoints={pod.name: pod for pod in pods if pod is not None},
        policies=policies,
        flows=flows,
    )


def _ordered(pods: list[Endpoint], node: Node | None, fields: Fields) -> list[str]:
    """The names of the pods in the order of rows and columns."""
    parts = [pod.name.split("/") for pod in pods]
    default = "text" if parts == sorted(parts) else "listed"
    names = [pod.name for pod in pods]
    return sorted(names) if one_of(node, _ORDERS, default, fields) == "text" else names


def _pod(node: Node, namespaces: Mapping[str, Mapping[str, str]], fields: Fields) -> Endpoint | None:
    found = fields.mapping(node, _POD_KEYS)
    if "namespace" not in found or "name" not in found:
        fields.fault(node, "a pod needs namespace and name", "add them")
        return None
    namespace = fields.text(found["namespace"]) or ""
    return Endpoint(
        name=f"{namespace}/{fields.text(found['name'])}",
        kind=Kind.POD,
        namespace=namespace,
        labels=string_mapping(found.get("labels"), fields),
        namespace_labels=namespaces.get(namespace, {}),
        address=address(found["ip"], fields) if "ip" in found else "",
        named_ports=_NAMED_PORTS,
    )


def _expected(found: Mapping[str, Node], policies: tuple[Node, ...], addresses: list[str]) -> Node | None:
    if "expected_cilium" in found and any(_blocks_hold(one.plain(), addresses) for one in policies):
        return found["expected_cilium"]
    return found.get("expected")


def _blocks_hold(value: Json, addresses: list[str]) -> bool:
    """Whether an ipBlock anywhere inside holds one of the addresses."""
    if isinstance(value, list):
        return any(_blocks_hold(child, addresses) for child in value)
    if not isinstance(value, dict):
        return False
    block = value.get("ipBlock")
    if isinstance(block, dict) and _holds(str(block.get("cidr")), addresses):
        return True
    return any(_blocks_hold(child, addresses) for child in value.values())


def _holds(prefix: str, addresses: list[str]) -> bool:
    try:
        network = ipaddress.ip_network(prefix, strict=False)
    except ValueError:
        return False
    return any(ipaddress.ip_address(one) in network for one in addresses)


def _flows(expected: Node, pods: list[str], fields: Fields) -> Iterator[Flow]:
    for text, node in children(expected, fields).items():
        protocol, _, port = text.partition("/")
        if protocol not in PROTOCOL_NUMBERS or not port.isdecimal() or int(port) > 0xFFFF:
            fields.fault(node, f"{text!r} is no protocol and port", "write TCP/80")
            continue
        matrices = {
            name: rows
            for name, child in fields.mapping(node, _MATRICES).items()
            if (rows := _rows(child, len(pods), fields)) is not None
        }
        yield from _of_matrices(matrices, pods, PROTOCOL_NUMBERS[protocol], int(port), node.line)


def _rows(node: Node, size: int, fields: Fields) -> list[str] | None:
    rows = [fields.text(row) or "" for row in fields.items(node)]
    if len(rows) == size and all(len(row) == size and not row.strip("01") for row in rows):
        return rows
    fields.fault(node, "not a matrix of the pods", f"write {size} rows of {size} digits 0 or 1")
    return None


def _of_matrices(
    matrices: Mapping[str, list[str]], pods: list[str], protocol: int, port: int, line: int
) -> Iterator[Flow]:
    sides = [(one, matrices[one.name.lower()]) for one in Direction if one.name.lower() in matrices]
    combined = matrices.get("combined")
    # A large file has a hundred thousand cells and few different expectations.
    known: dict[str, dict[Direction, str]] = {}
    for row, source in enumerate(pods):
        for column, target in enumerate(pods):
            digits = "".join([rows[row][column] for _, rows in sides])
            verdicts = known.get(digits)
            if verdicts is None:
                words = ["allow" if digit == "1" else "deny" for digit in digits]
                verdicts = known[digits] = {side: word for (side, _), word in zip(sides, words, strict=True)}
            arrives = combined[row][column] == "1" if combined else None
            yield Flow(source, target, protocol, port, verdicts, arrives, line=line)
