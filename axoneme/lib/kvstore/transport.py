"""Calls to etcd: one channel at a time, statuses turned into errors of Axoneme.

Endpoints are `host:port` or `unix:///path`. A random one is used until it is unavailable; then the next.
This module knows method paths and statuses, nothing of keys.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc

from axoneme.api.etcd import etcd_pb2 as pb
from axoneme.lib import log
from axoneme.lib.channel import ServiceChannel
from axoneme.lib.errors import (
    AxonemeError,
    Internal,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    RevisionCompacted,
    StoreUnavailable,
)
from axoneme.lib.kvstore.port import LeaseLost, StoreRestored
from axoneme.lib.tls import TlsFiles

RANGE = "/etcdserverpb.KV/Range"
PUT = "/etcdserverpb.KV/Put"
DELETE_RANGE = "/etcdserverpb.KV/DeleteRange"
TXN = "/etcdserverpb.KV/Txn"
COMPACT = "/etcdserverpb.KV/Compact"
WATCH = "/etcdserverpb.Watch/Watch"
LEASE_GRANT = "/etcdserverpb.Lease/LeaseGrant"
LEASE_REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
LEASE_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
LEASE_TIME_TO_LIVE = "/etcdserverpb.Lease/LeaseTimeToLive"

_ANSWERS: dict[str, Any] = {
    RANGE: pb.RangeResponse,
    PUT: pb.PutResponse,
    DELETE_RANGE: pb.DeleteRangeResponse,
    TXN: pb.TxnResponse,
    COMPACT: pb.CompactionResponse,
    LEASE_GRANT: pb.LeaseGrantResponse,
    LEASE_REVOKE: pb.LeaseRevokeResponse,
    LEASE_TIME_TO_LIVE: pb.LeaseTimeToLiveResponse,
    WATCH: pb.WatchResponse,
    LEASE_KEEP_ALIVE: pb.LeaseKeepAliveResponse,
}
# A member without a leader refuses instead of serving what it has.
_METADATA = (("hasleader", "true"),)
# A page of 2,000 rows of 8 KiB must fit.
_OPTIONS = {
    "grpc.max_receive_message_length": 64 * grpcsettings.MIB,
    "grpc.max_send_message_length": 64 * grpcsettings.MIB,
}

Answer = TypeVar("Answer")


class EtcdTransport:
    """The channel in use and its prepared calls."""

    def __init__(
        self,
        endpoints: Sequence[str],
        files: TlsFiles | None,
        *,
        server_name: str = "",
        rng: random.Random | None = None,
        timeout_seconds: float = 5.0,
    ) -> None:
        if not endpoints:
            raise InvalidArgument.of_field("etcd_endpoints", "is empty; name at least one host:port")
        targets = [text.removeprefix("https://").removeprefix("http://") for text in endpoints]
        if files is None:
            # The path of a unix socket is no authority that etcd accepts.
            server_name = server_name or "localhost"
        self._channel = ServiceChannel(targets, files, server_name or None, rng=rng, options=_OPTIONS)
        self._timeout = timeout_seconds
        self._calls: dict[str, Any] = {}
        self._calls_of: grpc.aio.Channel | None = None

    @property
    def endpoints(self) -> int:
        """How many endpoints there are."""
        return len(self._channel.targets)

    async def unary(  # `answer` only tells the type checker what comes back
        self,
        method: str,
        request: Any,
        answer: type[Answer],  # noqa: ARG002
        *,
        seconds: float = 0,
    ) -> Answer:
        """One call with a deadline. Raises the error of Axoneme that the status means."""
        try:
            result: Answer = await self._call(method)(
                request, timeout=seconds or self._timeout, metadata=_METADATA
            )
            return result
        except grpc.aio.AioRpcError as error:
            raise self.failed(error) from error

    def stream(self, method: str) -> Any:
        """An open bidi call."""
        return self._call(method)(metadata=_METADATA)

    def failed(self, error: grpc.aio.AioRpcError) -> AxonemeError:
        """The error of a status; moves on to the next endpoint when this one does not serve."""
        made = as_error(error)
        if isinstance(made, StoreUnavailable) and self.endpoints > 1:
            self._channel.move_on()
        return made

    async def close(self) -> None:
        """Ends all calls."""
        await self._channel.close()

    def _call(self, method: str) -> Any:
        channel = self._channel.current()
        if channel is not self._calls_of:
            self._calls, self._calls_of = {}, channel
        if method not in self._calls:
            kind = channel.stream_stream if method in (WATCH, LEASE_KEEP_ALIVE) else channel.unary_unary
            self._calls[method] = kind(
                method,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=_ANSWERS[method].FromString,
            )
        return self._calls[method]


def as_error(error: grpc.aio.AioRpcError) -> AxonemeError:
    """The error of a status that etcd gave."""
    code, details = error.code(), log.clip(error.details() or "")
    if code is grpc.StatusCode.NOT_FOUND and "lease" in details:
        return LeaseLost(f"etcd: {details}")
    if code is grpc.StatusCode.OUT_OF_RANGE:
        if "future revision" in details:
            return StoreRestored(f"etcd: {details}")
        return RevisionCompacted(f"etcd: {details}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "space" in details:
        return ResourceExhausted(f"etcd is full: {details}", reason="STORE_FULL")
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return PermissionDenied(f"etcd: {details}")
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
        return Internal(f"etcd refused the request: {details}")
    return StoreUnavailable(f"etcd does not answer ({code.name}): {details}")
