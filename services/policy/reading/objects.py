"""All kinds of objects that ApplyPolicy takes, out of texts or stored documents.

    text -> document.parse -> objects of documents and lists -> reader of the kind -> parsed, or every fault

One fault anywhere refuses the whole text, and the answer names them all. What is not understood is refused
with its position, never skipped: dropping a part of a policy silently changes what it allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from services.policy.inputs import CidrGroup, CloudGroup
from services.policy.reading import cidrgroup, cloudgroup, clusternetworkpolicy, cnp, networkpolicy
from services.policy.reading.document import Node, from_plain, parse
from services.policy.reading.faults import Fault, InvalidPolicy, nearest
from services.policy.reading.fields import Fields
from services.policy.rules import ParsedPolicy, PolicyKey

ParsedObject: TypeAlias = ParsedPolicy | CidrGroup | CloudGroup
Reader: TypeAlias = Callable[[Node, str, Fields], ParsedObject | None]

MAX_OBJECTS: Final = 100
_LIST: Final = "List"
# Objects of these kinds are no policies of this service, but a user may well expect them to be.
_ELSEWHERE: Final = {
    "CiliumLocalRedirectPolicy": "it redirects services and is not understood yet; remove it",
    "CiliumEgressGatewayPolicy": "it routes traffic and filters none; remove it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """One kind: the apiVersions that are read, the canonical one first, and the reader."""

    api_versions: tuple[str, ...]
    read: Reader
    cluster_wide: bool = True


def _tiered(node: Node, _namespace: str, fields: Fields) -> ParsedObject | None:
    return clusternetworkpolicy.read_tiered(node, fields)


def _cidr_group(node: Node, _namespace: str, fields: Fields) -> ParsedObject | None:
    return cidrgroup.read_cidr_group(node, fields)


def _cloud_group(node: Node, _namespace: str, fields: Fields) -> ParsedObject | None:
    return cloudgroup.read_cloud_group(node, fields)


_KINDS: Final[dict[str, _Kind]] = {
    cnp.KIND: _Kind(api_versions=(cnp.API_VERSION,), read=cnp.read_cilium, cluster_wide=False),
    cnp.CLUSTERWIDE_KIND: _Kind(api_versions=(cnp.API_VERSION,), read=cnp.read_cilium),
    networkpolicy.KIND: _Kind(
        api_versions=(networkpolicy.API_VERSION,),
        read=networkpolicy.read_network_policy,
        cluster_wide=False,
    ),
    **{
        name: _Kind(api_versions=(version,), read=_tiered)
        for name, version in clusternetworkpolicy.KINDS.items()
    },
    cidrgroup.KIND: _Kind(api_versions=cidrgroup.API_VERSIONS, read=_cidr_group),
    cloudgroup.KIND: _Kind(api_versions=(cloudgroup.API_VERSION,), read=_cloud_group),
}
KINDS: Final = frozenset(_KINDS)
"""The kinds that are read; their lists are, too."""
CLUSTER_WIDE: Final = frozenset(name for name, kind in _KINDS.items() if kind.cluster_wide)
"""The kinds whose objects have no namespace."""


def parse_objects(text: str, default_namespace: str = "default") -> list[ParsedObject]:
    """All objects of a text, in its order. Raises InvalidPolicy with every fault."""
    return _parsed(parse(text), default_namespace)


def parse_object(document: object) -> ParsedObject:
    """The only object of decoded data. Raises InvalidPolicy."""
    parsed = _parsed([from_plain(document)], "default")
    if len(parsed) != 1:
        raise InvalidPolicy.of_faults([Fault(0, 1, "", f"{len(parsed)} objects instead of one")])
    return parsed[0]


def _parsed(documents: Iterable[Node], default_namespace: str) -> list[ParsedObject]:
    faults: list[Fault] = []
    fields = Fields(faults)
    nodes = [one for node in documents for one in _objects(node, fields)]
    if len(nodes) > MAX_OBJECTS:
        fix = "apply them in several steps"
        fields.fault(nodes[MAX_OBJECTS], f"{len(nodes)} objects; at most {MAX_OBJECTS} go at once", fix)
    first_by_key: dict[PolicyKey, Node] = {}
    parsed: list[ParsedObject] = []
    for node in nodes[:MAX_OBJECTS]:
        one = _read_in_place(node, default_namespace, faults)
        if one is None:
            continue
        first = first_by_key.setdefault(one.key, node)
        if first is not node:
            fields.fault(node, f"{one.key} appears twice (first {_where(first)})", "keep one of them")
        parsed.append(one)
    if not faults and not parsed:
        faults.append(Fault(0, 1, "", "the text holds no policy", "write at least one object"))
    if faults:
        raise InvalidPolicy.of_faults(faults)
    return parsed


def _where(node: Node) -> str:
    return f"in document {node.document + 1}, line {node.line}"


def _objects(node: Node, fields: Fields) -> list[Node]:
    """The objects of a document: the items of a list, else itself."""
    kind = _text(node, "kind")
    inner = kind.removesuffix(_LIST)
    if not kind.endswith(_LIST) or (inner and inner not in _KINDS):
        return [node]
    present = fields.mapping(node, ("apiVersion", "kind", "items"), ignored=("metadata",))
    accepted = _KINDS[inner].api_versions if inner else ("v1",)
    if not _version_is(node, kind, accepted, fields):
        return []
    items = fields.items(present["items"]) if "items" in present else []
    return [_typed(item, inner, _text(node, "apiVersion")) for item in items] if inner else items


def _typed(item: Node, kind: str, version: str) -> Node:
    """An item of a list of one kind; an API server leaves kind and apiVersion out of these."""
    if item.mapping is None or "kind" in item.mapping or "apiVersion" in item.mapping:
        return item
    added = {
        key: Node(document=item.document, line=item.line, path=f"{item.path}.{key}", scalar=value)
        for key, value in (("apiVersion", version), ("kind", kind))
    }
    return Node(
        document=item.document,
        line=item.line,
        path=item.path,
        mapping={**added, **item.mapping},
        key_lines=item.key_lines,
    )


def _read_in_place(node: Node, default_namespace: str, faults: list[Fault]) -> ParsedObject | None:
    """Read an object so that its rules are called `spec.…` although it stands in a list; faults say where."""
    place = node.path
    if not place:
        return _read(node, default_namespace, Fields(faults))
    _reroot(node, place)
    inner: list[Fault] = []
    one = _read(node, default_namespace, Fields(inner))
    node.path = place
    faults += [fault._replace(path=f"{place}.{fault.path}".rstrip(".")) for fault in inner]
    return one


def _reroot(node: Node, place: str) -> None:
    node.path = node.path.removeprefix(place).removeprefix(".")
    for child in (*(node.mapping or {}).values(), *(node.items or ())):
        _reroot(child, place)


def _read(node: Node, default_namespace: str, fields: Fields) -> ParsedObject | None:
    if node.mapping is None:
        fix = "start with apiVersion, kind and metadata"
        fields.fault(node, f"expected an object, found {node.kind}", fix)
        return None
    name = _text(node, "kind")
    if name not in _KINDS:
        _refuse_kind(node, name, fields)
        return None
    kind = _KINDS[name]
    if not _version_is(node, name, kind.api_versions, fields):
        return None
    return kind.read(node, default_namespace, fields)


def _refuse_kind(node: Node, name: str, fields: Fields) -> None:
    place = (node.mapping or {}).get("kind", node)
    if not name:
        fields.fault(place, "the object has no kind", f"write one of {', '.join(sorted(KINDS))}")
    elif name in _ELSEWHERE:
        fields.fault(place, f"kind {name} is not supported", _ELSEWHERE[name])
    elif name.endswith(_LIST) and (name == _LIST or name.removesuffix(_LIST) in _KINDS):
        fields.fault(place, "a list inside a list", "write its items into the outer one")
    else:
        fields.fault(place, f"kind {name[:80]!r} is not a policy", nearest(name, KINDS))


def _version_is(node: Node, kind: str, accepted: tuple[str, ...], fields: Fields) -> bool:
    version = _text(node, "apiVersion")
    if version in accepted:
        return True
    place = (node.mapping or {}).get("apiVersion", node)
    said = f"apiVersion {version[:80]!r} is not accepted" if version else "the object has no apiVersion"
    fields.fault(place, f"{said} for kind {kind}", f"write apiVersion: {accepted[0]}")
    return False


def _text(node: Node, key: str) -> str:
    child = (node.mapping or {}).get(key)
    return child.scalar if child is not None and isinstance(child.scalar, str) else ""
