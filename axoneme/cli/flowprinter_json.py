"""JSON of the Hubble CLI: proto names, keys in the order of declaration, zero values left out, one line.

Reading accepts proto names and JSON names; unknown fields are skipped. Control characters that JSON allows
raw (DEL, C1, direction marks) are escaped too: the text stays the same JSON and harms no terminal.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from axoneme.api.hubble.observer import observer_pb2

_RAW: Final = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def response_json(response: Message) -> str:
    """A response (or another message) as one line without newline."""
    values = json_format.MessageToDict(response, preserving_proto_field_name=True)
    text = json.dumps(_ordered(values, response.DESCRIPTOR), ensure_ascii=False, separators=(",", ":"))
    return _RAW.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


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


def _ordered(value: Any, descriptor: Descriptor) -> Any:
    """Put the keys of a message into the order of its declaration."""
    if not isinstance(value, dict) or descriptor.full_name.startswith("google.protobuf."):
        return value
    result = {}
    for field in descriptor.fields:
        if field.name not in value:
            continue
        item = value[field.name]
        if field.message_type is None:
            result[field.name] = item
        elif isinstance(item, list):
            result[field.name] = [_ordered(one, field.message_type) for one in item]
        else:
            result[field.name] = _ordered(item, field.message_type)
    return result
