"""Our descriptors against the table of the Hubble API: each field, enum value and method, nothing besides."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as Any_
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import BoolValue, Int32Value, UInt32Value

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.api.hubble.peer import peer_pb2
from axoneme.api.hubble.relay import relay_pb2

TABLE = Path(__file__).parents[1] / "data" / "hubble_api.tsv"
WELL_KNOWN = [Any_, Timestamp, FieldMask, BoolValue, Int32Value, UInt32Value]
FILES = [flow_pb2.DESCRIPTOR, observer_pb2.DESCRIPTOR, peer_pb2.DESCRIPTOR, relay_pb2.DESCRIPTOR]
_NAMES = (
    "double float int64 uint64 int32 fixed64 fixed32 bool string bytes uint32 sfixed32 sfixed64 sint32 sint64"
)
SCALARS = {getattr(FieldDescriptor, f"TYPE_{name.upper()}"): name for name in _NAMES.split()}
Row = tuple[str, ...]


def ours() -> Iterator[Row]:
    for file in FILES:
        for message in file.message_types_by_name.values():
            yield from message_rows(message)
        for enum in file.enum_types_by_name.values():
            yield from enum_rows(enum, file.package)
        yield from method_rows(file)
    for well_known in WELL_KNOWN:
        yield from message_rows(well_known.DESCRIPTOR)


def message_rows(message: Descriptor) -> Iterator[Row]:
    for field in message.fields:
        yield (
            "message-field",
            field.full_name,
            str(field.number),
            field_type(field),
            label(field),
            field.json_name,
            deprecated(field),
        )
    for enum in message.enum_types:
        yield from enum_rows(enum, message.full_name)
    for nested in message.nested_types:
        yield from message_rows(nested)


def field_type(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return f"enum {field.enum_type.full_name}"
    return field.message_type.full_name if field.message_type is not None else SCALARS[field.type]


def label(field: FieldDescriptor) -> str:
    if field.containing_oneof is not None:
        return f"oneof {field.containing_oneof.name}"
    return "repeated" if field.is_repeated else "optional"


def enum_rows(enum: EnumDescriptor, scope: str) -> Iterator[Row]:
    for value in enum.values:
        yield (
            "enum-value",
            f"{enum.full_name}.{value.name}",
            str(value.number),
            f"enum {enum.full_name}",
            "",
            value.name,
            deprecated(value),
        )


def method_rows(file: FileDescriptor) -> Iterator[Row]:
    for service in file.services_by_name.values():
        for index, method in enumerate(service.methods):
            stream = "stream " if method.server_streaming else ""
            signature = f"{method.input_type.full_name} -> {stream}{method.output_type.full_name}"
            path = f"/{service.full_name}/{method.name}"
            yield (
                "rpc",
                f"{service.full_name}.{method.name}",
                str(index),
                signature,
                "",
                path,
                deprecated(method),
            )


def deprecated(described: Any) -> str:
    return "yes" if described.GetOptions().deprecated else "no"


def expected() -> list[Row]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [tuple(row) for row in rows[1:]]


def test_the_table_is_whole() -> None:
    rows = expected()
    assert len(rows) == 569
    kinds = [row[0] for row in rows]
    assert [kinds.count(kind) for kind in ("rpc", "message-field", "enum-value")] == [7, 323, 239]


def test_descriptors_equal_the_table() -> None:
    wanted, found = set(expected()), set(ours())
    assert sorted(wanted - found) == []
    assert sorted(found - wanted) == []


def test_packages_and_health_name() -> None:
    assert [file.package for file in FILES] == ["flow", "observer", "peer", "relay"]
    for file in FILES:
        assert file.name.startswith("axoneme/api/hubble/")
