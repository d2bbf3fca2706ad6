"""Port ↔ etcd messages. Pure conversion: no channel, no state.

Keys that are not UTF-8 survive a round trip (surrogateescape), so a foreign key never stops a list.
"""

from __future__ import annotations

from typing import cast

from axoneme.api.etcd import etcd_pb2 as pb
from axoneme.lib.kvstore.port import (
    Compare,
    Delete,
    DeleteOp,
    GetOp,
    KeyRange,
    Operation,
    Outcome,
    Put,
    PutOp,
    Row,
    Target,
)


def encode_key(key: str) -> bytes:
    """Text → bytes."""
    return key.encode("utf-8", "surrogateescape")


def decode_key(key: bytes) -> str:
    """Bytes → text."""
    return key.decode("utf-8", "surrogateescape")


def bounds(keys: str | KeyRange) -> tuple[bytes, bytes]:
    """(key, range_end); a single key has no end."""
    if isinstance(keys, KeyRange):
        return encode_key(keys.first), encode_key(keys.end)
    return encode_key(keys), b""


def row(kv: pb.KeyValue) -> Row:
    """A stored key."""
    return Row(decode_key(kv.key), kv.value, kv.mod_revision, kv.create_revision, kv.version, kv.lease)


def event(change: pb.Event) -> Put | Delete:
    """A change of a watch."""
    if change.type == pb.Event.DELETE:
        return Delete(decode_key(change.kv.key), change.kv.mod_revision)
    return Put(row(change.kv))


def compare(condition: Compare) -> pb.Compare:
    """A condition."""
    key, range_end = bounds(condition.keys)
    made = pb.Compare(
        result=cast("pb.Compare.CompareResult.ValueType", int(condition.relation)),
        target=cast("pb.Compare.CompareTarget.ValueType", int(condition.target)),
        key=key,
        range_end=range_end,
    )
    if isinstance(condition.wanted, bytes):
        made.value = condition.wanted
    elif condition.target is Target.VERSION:
        made.version = condition.wanted
    elif condition.target is Target.CREATE_REVISION:
        made.create_revision = condition.wanted
    elif condition.target is Target.MOD_REVISION:
        made.mod_revision = condition.wanted
    else:
        made.lease = condition.wanted
    return made


def operation(wanted: Operation) -> pb.RequestOp:
    """An operation of a transaction."""
    match wanted:
        case PutOp(key, value, lease):
            return pb.RequestOp(request_put=pb.PutRequest(key=encode_key(key), value=value, lease=lease))
        case DeleteOp(keys):
            first, end = bounds(keys)
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=first, range_end=end))
        case GetOp(keys, limit):
            first, end = bounds(keys)
            return pb.RequestOp(request_range=pb.RangeRequest(key=first, range_end=end, limit=limit))


def outcome(answer: pb.TxnResponse) -> Outcome:
    """What a transaction did."""
    rows = tuple(tuple(row(kv) for kv in response.response_range.kvs) for response in answer.responses)
    return Outcome(answer.succeeded, answer.header.revision, rows)
