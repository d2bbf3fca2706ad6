"""The errors of Axoneme, free of gRPC so that pure modules may raise them.

A domain raises one of these; the edge of a server (`grpcserver`) turns it into a status, `rpcerrors` turns a
status back into one of these at the client. `code` is the *name* of a gRPC status, `reason` the
machine-readable word that clients may compare: a value of `axoneme.api.error.v1.ErrorReason` without its
prefix. That enum says what each one means and what the caller may do; a test keeps code and enum equal.
Anything else that escapes from a handler is a bug and becomes INTERNAL.
"""

# ruff: noqa: N818  named by the situation, as the status codes are
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

ERROR_DOMAIN = "axoneme"
"""`ErrorInfo.domain` of every reason below."""


class FieldViolation(NamedTuple):
    """One fault of a request: path of the field, and what is wrong with it and how to fix that."""

    field: str
    description: str


class AxonemeError(Exception):
    """Base of all expected errors; its message names the object and the fix."""

    code: ClassVar[str] = "UNKNOWN"
    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Iterable[FieldViolation] = (),
        retry_after_seconds: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.violations = tuple(FieldViolation(*violation) for violation in violations)
        self.retry_after_seconds = retry_after_seconds
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, reason={self.reason!r})"


class InvalidArgument(AxonemeError):
    """The request is wrong whatever the state: fix it and send it again."""

    code = "INVALID_ARGUMENT"
    default_reason = "INVALID_ARGUMENT"

    @classmethod
    def of_field(cls, field: str, description: str) -> InvalidArgument:
        """The usual case: one field with one fault."""
        return cls(f"{field}: {description}", violations=(FieldViolation(field, description),))


class NotFound(AxonemeError):
    """The named object does not exist."""

    code = "NOT_FOUND"
    default_reason = "NOT_FOUND"


class AlreadyExists(AxonemeError):
    """The name is taken by an object with other content."""

    code = "ALREADY_EXISTS"
    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(AxonemeError):
    """Another state has to be reached first."""

    code = "FAILED_PRECONDITION"
    default_reason = "FAILED_PRECONDITION"


class InUse(FailedPrecondition):
    """The object is still referred to."""

    default_reason = "IN_USE"


class Aborted(AxonemeError):
    """A concurrent change won; repeat the whole operation."""

    code = "ABORTED"
    default_reason = "ABORTED"


class StoreConflict(Aborted):
    """A conditional write lost its race."""

    default_reason = "STORE_CONFLICT"


class StaleRevision(Aborted):
    """`expected_revision` is not the current revision any more."""

    default_reason = "STALE_REVISION"


class Superseded(Aborted):
    """A newer stream of the same node took over."""

    default_reason = "SUPERSEDED"


class OutOfRange(AxonemeError):
    """A position outside what is kept."""

    code = "OUT_OF_RANGE"
    default_reason = "OUT_OF_RANGE"


class RevisionCompacted(OutOfRange):
    """History before the wanted revision is gone: list again."""

    default_reason = "REVISION_COMPACTED"


class Unavailable(AxonemeError):
    """Not now, or not here: the only error that may be retried blindly, with jitter."""

    code = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Iterable[FieldViolation] = (),
        retry_after_seconds: float | None = 1.0,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            message,
            reason=reason,
            violations=violations,
            retry_after_seconds=retry_after_seconds,
            metadata=metadata,
        )


class StoreUnavailable(Unavailable):
    """etcd cannot be reached or has no leader."""

    default_reason = "STORE_UNAVAILABLE"


class NotReady(Unavailable):
    """The service has not read its state yet."""

    default_reason = "NOT_READY"


class DeadlineExceeded(AxonemeError):
    """The time of the call ran out; the operation may still have happened."""

    code = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_EXCEEDED"


class Cancelled(AxonemeError):
    """The caller gave the call up."""

    code = "CANCELLED"
    default_reason = "CANCELLED"


class ResourceExhausted(AxonemeError):
    """A limit is reached."""

    code = "RESOURCE_EXHAUSTED"
    default_reason = "RESOURCE_EXHAUSTED"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Iterable[FieldViolation] = (),
        retry_after_seconds: float | None = 10.0,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            message,
            reason=reason,
            violations=violations,
            retry_after_seconds=retry_after_seconds,
            metadata=metadata,
        )


class PoolExhausted(ResourceExhausted):
    """No number or PodCIDR is left."""

    default_reason = "POOL_EXHAUSTED"


class MapFull(ResourceExhausted):
    """A kernel map has no room for the entry."""

    default_reason = "MAP_FULL"


class PermissionDenied(AxonemeError):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"
    default_reason = "PERMISSION_DENIED"


class WrongNode(PermissionDenied):
    """A node's certificate was used for another node's object."""

    default_reason = "WRONG_NODE"


class Unauthenticated(AxonemeError):
    """The caller's certificate does not say who it is."""

    code = "UNAUTHENTICATED"
    default_reason = "CERTIFICATE_NOT_VALID"


class Unsupported(AxonemeError):
    """An action, verdict or method this version does not know: upgrade."""

    code = "UNIMPLEMENTED"
    default_reason = "UNSUPPORTED"


class DataLoss(AxonemeError):
    """Stored data cannot be read."""

    code = "DATA_LOSS"
    default_reason = "DATA_LOSS"


class Internal(AxonemeError):
    """A bug on the other side; its log has the details."""

    code = "INTERNAL"
    default_reason = "INTERNAL"


def all_error_types() -> list[type[AxonemeError]]:
    """Every error class of this module, bases before the classes derived from them."""
    found: list[type[AxonemeError]] = []
    pending: list[type[AxonemeError]] = [AxonemeError]
    while pending:
        error_type = pending.pop(0)
        if error_type.__module__ == __name__:
            found.append(error_type)
        pending.extend(error_type.__subclasses__())
    return found


def error_type(code: str, reason: str = "") -> type[AxonemeError]:
    """The class for a status name and a reason; an unknown reason gives the class of the status alone."""
    types = [candidate for candidate in all_error_types() if candidate.code == code]
    exact = [candidate for candidate in types if candidate.default_reason == reason]
    return (exact or types or [AxonemeError])[0]
