"""AxonemeError ↔ gRPC status: google.rpc.Status with ErrorInfo, BadRequest and RetryInfo.

Both directions in one place, so that what a service raises is what `axoneme.client` raises.
"""

from __future__ import annotations

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]

from axoneme.lib.errors import ERROR_DOMAIN, AxonemeError, FieldViolation, error_type

DETAILS_KEY = "grpc-status-details-bin"
WIRE_MESSAGE_BYTES = 1_000
MESSAGE_BYTES = 1_200
MAX_DETAIL_BYTES = 2_400
"""All of it travels as metadata, which is limited to 8 KiB, and most of it in base64."""

assert grpcsettings.ENVIRONMENT


def to_status(error: AxonemeError) -> status_pb2.Status:
    """The status with its details."""
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.code), message=_clip(error.message, MESSAGE_BYTES, 1)
    )
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.metadata)
    status.details.append(_packed(info))
    if error.violations:
        status.details.append(_packed(_bad_request(error)))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status


def trailing_metadata(error: AxonemeError) -> tuple[tuple[str, bytes], ...]:
    """What carries the details beside code and message."""
    return ((DETAILS_KEY, to_status(error).SerializeToString()),)


def status_code(error: AxonemeError) -> grpc.StatusCode:
    """The status that the error's name stands for."""
    return grpc.StatusCode[error.code]


def error_from_rpc(error: grpc.RpcError) -> AxonemeError:
    """The error that the other side raised; a status without our details gives the class of its code."""
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else grpc.StatusCode.UNKNOWN
    message = (error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else str(error)) or ""
    status = _status_of(error)
    return from_status(status) if status is not None else error_type(code.name)(message or code.name.lower())


def from_status(status: status_pb2.Status) -> AxonemeError:
    """Rebuilds the error from a status with details."""
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    has_retry = False
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        has_retry = detail.Unpack(retry) or has_retry
    return error_type(code_pb2.Code.Name(code_pb2.Code.ValueType(status.code)), info.reason)(
        status.message,
        reason=info.reason or None,
        violations=[FieldViolation(item.field, item.description) for item in bad.field_violations],
        retry_after_seconds=retry.retry_delay.ToNanoseconds() / 1e9 if has_retry else None,
        metadata=dict(info.metadata),
    )


errors_from_rpc = error_from_rpc


def _status_of(error: grpc.RpcError) -> status_pb2.Status | None:
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return None
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                return None
            return status if status.code == error.code().value[0] else None
    return None


def _bad_request(error: AxonemeError) -> error_details_pb2.BadRequest:
    """As many violations as fit; the last one says how many were left out."""
    request = error_details_pb2.BadRequest()
    for number, violation in enumerate(error.violations):
        request.field_violations.add(
            field=violation.field, description=_clip(violation.description, MESSAGE_BYTES, 1)
        )
        if request.ByteSize() > MAX_DETAIL_BYTES and number:
            left_out = len(error.violations) - number
            del request.field_violations[number]
            request.field_violations.add(field="", description=f"and {left_out} more")
            break
    return request


def _packed(
    message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def clip_message(text: str) -> str:
    """A message that fits into the header of a status, where what is not ASCII takes three bytes a byte."""
    return _clip(text, WIRE_MESSAGE_BYTES, 3)


def _clip(text: str, limit_bytes: int, foreign_bytes: int) -> str:
    used = 0
    for position, character in enumerate(text):
        used += 1 if " " <= character <= "~" and character != "%" else len(character.encode()) * foreign_bytes
        if used > limit_bytes:
            return text[:position] + "..."
    return text
