"""Our JSON against json_format's, for any message of the responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.hubble.observer import observer_pb2
from axoneme.cli.flowprinter_json import response_json

KINDS = (
    observer_pb2.GetFlowsResponse, observer_pb2.GetAgentEventsResponse, observer_pb2.GetDebugEventsResponse,
    observer_pb2.ServerStatusResponse, observer_pb2.Node, observer_pb2.Namespace,
)  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
}


def fill(draw: Any, message: Message, depth: int) -> None:
    """Some fields of a message."""
    descriptor: Any = message.DESCRIPTOR
    if descriptor.full_name == "google.protobuf.Timestamp":
        seconds, nanos = (
            draw(st.integers(-(10**9), 10**10)),
            draw(st.sampled_from([0, 10**6, 10**3, 1, 10**9 - 1])),
        )
        message.seconds, message.nanos = seconds, nanos  # type: ignore[attr-defined]
        return
    if descriptor.full_name == "google.protobuf.Any":
        return
    fields = [field for field in descriptor.fields if depth or field.message_type is None]
    chosen = (
        draw(st.lists(st.sampled_from(fields), max_size=4, unique_by=lambda field: field.number))
        if fields
        else []
    )
    for field in chosen:
        if field.message_type is not None:
            target = getattr(message, field.name)
            target = target.add() if field.is_repeated else target
            target.SetInParent()
            fill(draw, target, depth - 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(value_of(field), max_size=2)))
        else:
            setattr(message, field.name, draw(value_of(field)))


def value_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from([*field.enum_type.values_by_number, 99_999])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return TEXTS
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return st.floats()
    return INTEGERS[field.cpp_type]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_same_values_in_the_order_of_declaration(kind: type[Message], data: st.DataObject) -> None:
    message = kind()
    fill(data.draw, message, 4)
    line = response_json(message)
    wanted = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert json.loads(line) == wanted
    assert in_order(json.loads(line), message.DESCRIPTOR)
    assert not [character for character in line if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0]


def in_order(values: Any, descriptor: Descriptor | Any) -> bool:
    """Whether the keys stand as they are declared, at all depths."""
    if not isinstance(values, dict):
        return True
    names = [field.name for field in descriptor.fields if field.name in values]
    if descriptor.full_name.startswith("google.protobuf.") or list(values) != names:
        return descriptor.full_name.startswith("google.protobuf.")
    for field in descriptor.fields:
        if field.message_type is not None and field.name in values:
            value = values[field.name]
            if not all(
                in_order(one, field.message_type) for one in (value if isinstance(value, list) else [value])
            ):
                return False
    return True
