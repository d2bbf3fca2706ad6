"""A manifest: which documents it has, of which kind, and the services that they make together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from services.clustermesh.manifests.document import Fields, Place, Report, join, read_documents
from services.clustermesh.manifests.endpointslice import Slice, set_backends, slice_of
from services.clustermesh.manifests.kubernetes import service_of

_KINDS: Final = "Service, EndpointSlice or List; or write the API's own form, without apiVersion and kind"
_OUTPUT_ONLY: Final = ("backends", "revision")

Fetch = Callable[[str, str], pb.Service]
"""Returns a stored service by namespace and name. Raises NotFound."""


@dataclass(slots=True)
class Manifest:
    """What a file asks for: services to apply; of those in `known`, the revision that was changed."""

    services: list[pb.Service] = field(default_factory=list)
    known: dict[tuple[str, str], int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_manifest(text: str, namespace: str, fetch: Fetch) -> Manifest:
    """The services of a text. Raises InvalidArgument with a violation per fault, each with its line."""
    report, made = Report(), Manifest()
    slices: list[Slice] = []
    for place in _flattened(read_documents(text), report):
        _take(place, namespace, made, slices, report)
    report.raise_if_any()
    by_name = {(one.namespace, one.name): one for one in made.services}
    for name in dict.fromkeys(one.service for one in slices):
        if name not in by_name:
            by_name[name] = _stored(name, fetch, made)
        set_backends(by_name[name], [one for one in slices if one.service == name], report)
    report.raise_if_any()
    made.warnings = report.warnings
    return made


def _stored(name: tuple[str, str], fetch: Fetch, made: Manifest) -> pb.Service:
    """A service that a file adds backends to without naming it."""
    service = pb.Service()
    service.CopyFrom(fetch(*name))
    if service.source.WhichOneof("kind") == "addresses":
        service.ClearField("source")
    made.known[name] = service.revision
    made.services.append(service)
    return service


def _flattened(places: list[Place], report: Report) -> list[Place]:
    found: list[Place] = []
    for place in places:
        if not isinstance(place.value, dict):
            report.fault(place, "is no service; a document is a mapping")
        elif "kind" in place.value and place.value["kind"].value in ("List", "ServiceList"):
            found += Fields(place, report).items("items")
        else:
            found.append(place)
    return found


def _take(place: Place, namespace: str, made: Manifest, slices: list[Slice], report: Report) -> None:
    value = place.value if isinstance(place.value, dict) else {}
    kind = value["kind"].value if "kind" in value else None
    if kind == "Service":
        made.services.append(service_of(place, namespace, report))
    elif kind == "EndpointSlice":
        slices.append(slice_of(place, namespace, report))
    elif kind is None and "apiVersion" not in value:
        made.services.append(_own_form(place, namespace, report))
    else:
        report.fault(value.get("kind", place), f"{str(kind)[:40]!r} is not known here; use {_KINDS}")


def _own_form(place: Place, namespace: str, report: Report) -> pb.Service:
    """The form of `axoneme service get -o yaml`."""
    content: Any = _known_fields(place, pb.Service.DESCRIPTOR, report)
    for name in _OUTPUT_ONLY:
        content.pop(name, None)
    made = pb.Service(namespace=namespace)
    try:
        ParseDict(content, made)
    except ParseError as error:
        report.fault(place, str(error))
    return made


def _known_fields(place: Place, descriptor: Any, report: Report) -> Any:
    """The plain value without fields that the message does not have; null means absent."""
    if isinstance(place.value, list):
        return [_known_fields(one, descriptor, report) for one in place.value]
    if not isinstance(place.value, dict) or descriptor is None:
        return place.plain()
    if descriptor.GetOptions().map_entry:
        return place.plain()
    names = {name: one for one in descriptor.fields for name in (one.name, one.json_name)}
    found = {}
    for name, child in place.value.items():
        if name not in names:
            report.warn(Place(None, child.line, join(place.path, name)), "is not known and left out")
        elif child.value is not None:
            found[name] = _known_fields(child, names[name].message_type, report)
    return found
