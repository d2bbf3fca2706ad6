"""Definitions of selectors, and origins, as they stand in a subject's header.

What is empty stays empty: no alternative and no prefix selects nobody (RC-EMPTY). Subjects share most
definitions and origins, so both are translated once per distinct text of bytes, in either direction.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import Final

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.errors import InvalidArgument, Unsupported
from axoneme.lib.policy.model import (
    CidrDefinition,
    Entity,
    EntitySelector,
    FqdnDefinition,
    LabelsDefinition,
    Origin,
    SelectorDefinition,
)
from axoneme.lib.selectors import LabelSelector, Operator, Requirement

_KEPT: Final = 16_384


@functools.lru_cache(maxsize=_KEPT)
def selector_bytes(key: str, definition: SelectorDefinition) -> bytes:
    """A selector with its definition, serialised."""
    return _encode_selector(key, definition).SerializeToString()


def _encode_selector(key: str, definition: SelectorDefinition) -> pb.Selector:
    if isinstance(definition, EntitySelector):
        return pb.Selector(key=key, entity=pb.Entity.ValueType(definition.entity))
    if isinstance(definition, LabelsDefinition):
        selectors = map(_encode_label_selector, definition.alternatives)
        return pb.Selector(key=key, labels=pb.LabelAlternatives(selectors=selectors))
    if isinstance(definition, CidrDefinition):
        cidrs = pb.CidrSet(include=definition.include, exclude=definition.exclude, nodes=definition.nodes)
        return pb.Selector(key=key, cidrs=cidrs)
    return pb.Selector(key=key, fqdn=pb.DnsName(text=definition.text, pattern=definition.pattern))


def _encode_label_selector(selector: LabelSelector) -> pb.LabelSelector:
    return pb.LabelSelector(
        requirements=[
            pb.LabelRequirement(source=one.source, key=one.key, operator=one.operator, values=one.values)
            for one in selector.requirements
        ]
    )


@functools.lru_cache(maxsize=_KEPT)
def origin_bytes(origin: Origin) -> bytes:
    """An origin, serialised."""
    return pb.Origin(
        origin_id=origin.origin_id,
        kind=origin.kind,
        namespace=origin.namespace,
        name=origin.name,
        rule=origin.rule,
        labels=origin.labels,
    ).SerializeToString()


@functools.lru_cache(maxsize=_KEPT)
def decode_origin(raw: bytes) -> Origin:
    """The origin of a serialised message."""
    origin = pb.Origin.FromString(raw)
    return Origin(
        origin.origin_id, origin.kind, origin.namespace, origin.name, origin.rule, tuple(origin.labels)
    )


def decode_definitions(selectors: Iterable[pb.Selector]) -> dict[str, SelectorDefinition]:
    """The definitions of selectors by key. Raises as `decode_definition`, and for a key that comes twice."""
    found: dict[str, SelectorDefinition] = {}
    for selector in selectors:
        if selector.key in found:
            raise InvalidArgument(f"selector {selector.key!r} is defined twice")
        found[selector.key] = decode_definition(selector.SerializeToString(deterministic=True))
    return found


@functools.lru_cache(maxsize=_KEPT)
def decode_definition(raw: bytes) -> SelectorDefinition:
    """The definition in a serialised selector.

    Raises Unsupported for one that this version does not know, InvalidArgument for a malformed one.
    """
    selector = pb.Selector.FromString(raw)
    kind = selector.WhichOneof("definition")
    if kind == "entity":
        return EntitySelector(_decode_entity(selector.entity))
    if kind == "labels":
        return LabelsDefinition(tuple(map(_decode_label_selector, selector.labels.selectors)))
    if kind == "cidrs":
        return _decode_cidrs(selector.cidrs)
    if kind == "fqdn":
        if not selector.fqdn.text:
            raise InvalidArgument(f"selector {selector.key!r} has an empty DNS name")
        return FqdnDefinition(selector.fqdn.text, selector.fqdn.pattern)
    raise Unsupported(f"selector {selector.key!r} has no definition that this version knows")


def _decode_entity(number: int) -> Entity:
    try:
        return Entity(number)
    except ValueError as error:
        raise Unsupported(f"entity {number} is not known to this version") from error


def _decode_label_selector(selector: pb.LabelSelector) -> LabelSelector:
    return LabelSelector(tuple(map(_decode_requirement, selector.requirements)))


def _decode_requirement(requirement: pb.LabelRequirement) -> Requirement:
    if not requirement.source or not requirement.key:
        raise InvalidArgument("a label requirement has no source or no key")
    try:
        operator = Operator(requirement.operator)
    except ValueError as error:
        raise Unsupported(f"operator {requirement.operator!r} is not known to this version") from error
    values = tuple(requirement.values)
    if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and values:
        raise InvalidArgument(f"operator {operator} on {requirement.key!r} has values")
    if operator is Operator.NOT_IN and not values:
        raise InvalidArgument(f"operator {operator} on {requirement.key!r} has no values: it would mean any")
    return Requirement(requirement.source, requirement.key, operator, values)


def _decode_cidrs(cidrs: pb.CidrSet) -> CidrDefinition:
    for text in (*cidrs.include, *cidrs.exclude):
        _check_prefix(text)
    return CidrDefinition(tuple(cidrs.include), tuple(cidrs.exclude), cidrs.nodes)


def _check_prefix(text: str) -> None:
    try:
        canonical = str(ipaddress.ip_network(text))
    except ValueError as error:
        raise InvalidArgument(f"{text!r} is not a prefix: {error}") from error
    if canonical != text:
        raise InvalidArgument(f"{text!r} is not canonical; write {canonical}")
