"""JSON lines equal what protobuf's own converter says."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.hubble.observer import observer_pb2
from axoneme.cli.flowprinter_json import parse_response, response_json
from shim.hubble.export.eventjson import event_line

_SCALARS = {
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_STRING: st.text(max_size=4),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
}


def fill(draw: st.DrawFn, message: Message, descriptor: Descriptor, depth: int) -> None:
    for field in descriptor.fields:
        if depth > 4 or draw(st.integers(0, 3 if depth else 1)) != 0:
            continue
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.Any":
            continue
        for _ in range(draw(st.integers(1, 2)) if field.is_repeated else 1):
            put(draw, message, field, depth)


def put(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    present: Any = getattr(message, field.name)
    if field.message_type is not None:
        inner = present.add() if field.is_repeated else present
        inner.SetInParent()
        if field.message_type.full_name == "google.protobuf.Timestamp":
            inner.FromNanoseconds(draw(st.integers(0, 2**61)))
        else:
            fill(draw, inner, field.message_type, depth + 1)
        return
    value: Any
    if field.enum_type is not None:
        value = draw(st.sampled_from([*field.enum_type.values_by_number, 4_000]))
    elif field.type == FieldDescriptor.TYPE_BYTES:
        value = draw(st.binary(max_size=4))
    else:
        value = draw(_SCALARS[field.cpp_type])
    if field.is_repeated:
        present.append(value)
    else:
        setattr(message, field.name, value)


@st.composite
def events(draw: st.DrawFn) -> observer_pb2.ExportEvent:
    event = observer_pb2.ExportEvent()
    fill(draw, event, event.DESCRIPTOR, 0)
    return event


@settings(max_examples=300, deadline=None)
@given(events())
def test_lines_say_what_protobuf_says(event: observer_pb2.ExportEvent) -> None:
    line = event_line(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    expected = json_format.MessageToDict(event, preserving_proto_field_name=True)
    assert json.loads(line) == expected
    again = json_format.Parse(line, observer_pb2.ExportEvent())
    assert again == event


@settings(max_examples=100, deadline=None)
@given(events())
def test_clients_read_and_print_the_same(event: observer_pb2.ExportEvent) -> None:
    if event.WhichOneof("response_types") not in ("flow", "lost_events"):
        return
    event.time.GetCurrentTime()
    response = parse_response(event_line(event).decode())
    printed = json.loads(response_json(response))
    assert json.dumps(printed) == json.dumps(json.loads(event_line(event)))  # the keys' order too
