"""Events as JSON lines, as Hubble's clients write and read them, without the detour of a general converter.

Proto names, keys in the order of declaration, zero values left out, numbers of 64 bits as text, times in
RFC 3339. A test compares it with protobuf's own converter.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Convert = Callable[[Any], Any]
_TEXT_TYPES: Final = (
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT64,
)
_dumps: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


class _Field(NamedTuple):
    """How a field is told: its place in the declaration, its name, what makes JSON of its value."""

    place: int
    name: str
    convert: Convert


_fields: dict[FieldDescriptor, _Field] = {}
"""Fields met so far: as many as the API has."""


def event_line(event: Message) -> bytes:
    """One line with its end."""
    return _dumps(_object(event)).encode() + b"\n"


def _object(message: Message) -> Any:
    found = [(_fields.get(field) or _field(field), value) for field, value in message.ListFields()]
    found.sort(key=_declared)
    return {field.name: field.convert(value) for field, value in found}


def _declared(pair: tuple[_Field, Any]) -> int:
    return pair[0].place


def _field(field: FieldDescriptor) -> _Field:
    one = _single(field)
    convert = one if not field.is_repeated else lambda values: [one(value) for value in values]
    known = _fields[field] = _Field(field.index, field.name, convert)
    return known


def _single(field: FieldDescriptor) -> Convert:
    if field.message_type is not None:
        own = not field.message_type.full_name.startswith("google.protobuf.")
        return _object if own else _well_known
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    if field.cpp_type in _TEXT_TYPES:
        return str
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    return lambda value: value


def _well_known(message: Any) -> Any:
    """Times, wrapped numbers and the like have a form of their own."""
    if message.DESCRIPTOR.full_name == "google.protobuf.Timestamp":
        return message.ToJsonString()
    if message.DESCRIPTOR.full_name.endswith("Value") and len(message.DESCRIPTOR.fields) == 1:
        field = message.DESCRIPTOR.fields[0]
        return _field(field).convert(getattr(message, field.name))
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
