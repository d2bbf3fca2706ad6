"""JSON of the Hubble CLI: proto names, keys in the order of declaration, zero values left out, one line.

Reading accepts proto names and JSON names; unknown fields are skipped. Control characters that JSON allows
raw (DEL, C1, direction marks) are escaped too: the text stays the same JSON and harms no terminal. Writing is
our own, three times as fast as json_format, whose output it equals.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from axoneme.api.hubble.observer import observer_pb2

_RAW: Final = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_LARGE: Final = frozenset(
    (
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT64,
    )
)
_PLAIN: Final = frozenset(
    (
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_BOOL,
        FieldDescriptor.CPPTYPE_STRING,
    )
)
_WRAPPERS: Final = frozenset(f"google.protobuf.{name}Value" for name in ("Bool", "Int32", "UInt32", "String"))
_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
Convert = Callable[[Any], Any]
_PLANS: dict[str, dict[int, tuple[int, str, Convert | None]]] = {}
"""By message: number of each field to its place, its name and how its value becomes JSON; None: as it is."""


def response_json(response: Message) -> str:
    """A response (or another message) as one line without newline."""
    text = _ENCODE(_values(response))
    return text if text.isprintable() else _RAW.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def parse_response(line: str) -> observer_pb2.GetFlowsResponse:
    """Read a line: a response, or a bare flow as older versions wrote it. Raises ValueError."""
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    kinds = {"flow", "node_status", "nodeStatus", "lost_events", "lostEvents"}
    if not kinds & set(values):
        values = {"flow": values}
    from google.protobuf import json_format

    response = observer_pb2.GetFlowsResponse()
    try:
        json_format.ParseDict(values, response, ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise ValueError(str(error)) from error
    if response.HasField("flow"):
        if not response.HasField("time"):
            response.time.CopyFrom(response.flow.time)
        response.node_name = response.node_name or response.flow.node_name
    return response


def _values(message: Any) -> dict[str, Any]:
    """A message as JSON values, in the order of its declaration."""
    descriptor = message.DESCRIPTOR
    plan = _PLANS.get(descriptor.full_name)
    if plan is None:
        plan = _PLANS[descriptor.full_name] = _plan(descriptor)
    found = [(*plan[field.number], value) for field, value in message.ListFields()]
    found.sort(key=_place)
    return {name: value if convert is None else convert(value) for _, name, convert, value in found}


def _place(item: tuple[Any, ...]) -> int:
    return cast("int", item[0])


def _plan(descriptor: Descriptor) -> dict[int, tuple[int, str, Convert | None]]:
    return {
        field.number: (place, field.name, _field_converter(field))
        for place, field in enumerate(descriptor.fields)
    }


def _field_converter(field: FieldDescriptor) -> Convert | None:
    """Like `_converter`, also for repeated fields; the Hubble API has no maps."""
    one = _converter(field)
    if not field.is_repeated:
        return one
    return list if one is None else lambda values: [one(value) for value in values]


def _converter(field: FieldDescriptor) -> Convert | None:
    """How one value of a field becomes JSON. Raises NotImplementedError for kinds that no response has."""
    if field.message_type is not None:
        return _message_converter(field.message_type.full_name)
    if field.enum_type is not None:
        names = {value.number: value.name for value in field.enum_type.values}
        return lambda number: names.get(number, number)
    if field.cpp_type in _LARGE:
        return str
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return _double
    if field.cpp_type in _PLAIN and field.type != FieldDescriptor.TYPE_BYTES:
        return None
    raise NotImplementedError(f"{field.full_name}: no JSON for this type")


def _message_converter(name: str) -> Convert:
    if name == "google.protobuf.Timestamp":
        return lambda time: _time(time.seconds, time.nanos)
    if name in _WRAPPERS:
        return lambda wrapper: wrapper.value
    if name.startswith("google.protobuf."):
        return _by_the_book
    return _values


def _by_the_book(message: Message) -> Any:
    from google.protobuf import json_format

    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _double(value: float) -> float | int | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return int(value) if value.is_integer() else value


def _time(seconds: int, nanos: int) -> str:
    """RFC 3339 with no, three, six or nine digits of a second."""
    text = _second(seconds)
    if not nanos:
        return f"{text}Z"
    if not nanos % 1_000_000:
        return f"{text}.{nanos // 1_000_000:03d}Z"
    return f"{text}.{nanos // 1_000:06d}Z" if not nanos % 1_000 else f"{text}.{nanos:09d}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
