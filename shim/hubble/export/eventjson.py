"""Events as JSON lines, as Hubble's clients write and read them, without the detour of a general converter.

Proto names, keys in the order of declaration, zero values left out, numbers of 64 bits as text, times in
RFC 3339. A test compares it with protobuf's own converter.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Convert = Callable[[Any], Any]
_TEXT_TYPES: Final = (
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT64,
)
_dumps: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_converters: dict[str, Convert] = {}


def event_line(event: Message) -> bytes:
    """One line with its end."""
    return _dumps(_object(event)).encode() + b"\n"


def _object(message: Message) -> Any:
    found = sorted(message.ListFields(), key=_declared)
    return {field.name: _converter(field)(value) for field, value in found}


def _declared(pair: tuple[FieldDescriptor, Any]) -> int:
    return pair[0].index


def _converter(field: FieldDescriptor) -> Convert:
    known = _converters.get(field.full_name)
    if known is None:
        one = _single(field)
        known = one if not field.is_repeated else lambda values: [one(value) for value in values]
        _converters[field.full_name] = known
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
        return _converter(field)(getattr(message, field.name))
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
