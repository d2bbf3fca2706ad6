"""The one factory of gRPC channels, and the channel of a service with several addresses.

A `ServiceChannel` starts at a random target, moves on when told that one is unavailable or said goodbye, and
makes a new channel when the certificate files change; the old one lives on for its open calls. The server's
name comes from the role we expect there, never from DNS. Only unix sockets are spoken to without TLS.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from axoneme.lib import grpcsettings, log  # isort: skip  (before grpc)
import grpc
import grpc.aio

from axoneme.lib import tls as tlsfiles
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import Fingerprint, TlsFiles, TlsFilesInvalid

logger = logging.getLogger(__name__)

OLD_CHANNEL_SECONDS = 30.0
"""Grace of open calls on a channel whose certificate was replaced."""
LOOK_SECONDS = 1.0
"""The certificate files are looked at no more often than this."""

Options = Mapping[str, int | str]


def open_channel(
    target: str, tls: TlsFiles | None, server_name: str | None = None, *, options: Options | None = None
) -> grpc.aio.Channel:
    """An asyncio channel. `server_name` is what the server's certificate must carry; None: the target's host.

    Raises InvalidArgument for TCP without TLS, TlsFilesInvalid for files that cannot be used.
    """
    arguments = _arguments(server_name, options)
    if _plain(target, tls):
        return grpc.aio.insecure_channel(target, options=arguments)
    assert tls is not None
    return grpc.aio.secure_channel(target, tlsfiles.channel_credentials(tls), options=arguments)


def open_sync_channel(
    target: str, tls: TlsFiles | None, server_name: str | None = None, *, options: Options | None = None
) -> grpc.Channel:
    """The same for threads."""
    arguments = _arguments(server_name, options)
    if _plain(target, tls):
        return grpc.insecure_channel(target, options=arguments)
    assert tls is not None
    return grpc.secure_channel(target, tlsfiles.channel_credentials(tls), options=arguments)


class ServiceChannel:
    """Channel to one of several equal targets."""

    def __init__(
        self,
        targets: Sequence[str],
        tls: TlsFiles | None,
        server_name: str | None = None,
        *,
        rng: random.Random | None = None,
        options: Options | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not targets:
            raise InvalidArgument.of_field("targets", "empty; name at least one host:port")
        for target in targets:
            _plain(target, tls)
        self.targets = tuple(targets)
        self._tls = tls
        self._server_name = server_name
        self._options = options
        self._clock = clock
        self._index = (rng or random.Random()).randrange(len(targets))  # noqa: S311  spreads load, hides nothing
        self._channel: grpc.aio.Channel | None = None
        self._fingerprint: Fingerprint | None = None
        self._look_at = 0.0
        self._scope = TaskScope("channel")

    @property
    def target(self) -> str:
        """Target in use."""
        return self.targets[self._index]

    def current(self) -> grpc.aio.Channel:
        """The channel to use for a new call. Raises TlsFilesInvalid when it cannot be made."""
        if self._channel is not None and self._certificates_changed():
            logger.info("certificate files changed, new channel", extra={log.ADDRESS: self.target})
            self._retire()
        if self._channel is None:
            self._fingerprint = self._tls.fingerprint() if self._tls else None
            self._channel = open_channel(self.target, self._tls, self._server_name, options=self._options)
            self._look_at = self._clock() + LOOK_SECONDS
        return self._channel

    def move_on(self) -> str:
        """Drops the channel and returns the next target; a single one gets a new connection."""
        self._index = (self._index + 1) % len(self.targets)
        self._retire()
        return self.target

    async def close(self) -> None:
        """Ends the channel and whatever still runs on retired ones."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        await self._scope.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _certificates_changed(self) -> bool:
        """Looks at the files at most once a second; files that cannot be used leave the channel as it is."""
        if self._tls is None or self._clock() < self._look_at:
            return False
        self._look_at = self._clock() + LOOK_SECONDS
        try:
            fingerprint = self._tls.fingerprint()
            if fingerprint == self._fingerprint:
                return False
            tlsfiles.load(self._tls)
        except TlsFilesInvalid as error:
            logger.warning("certificate files not usable, keeping the channel", extra={log.ERROR: str(error)})
            return False
        return True

    def _retire(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._scope.start("retired channel", _close_later(channel), critical=False)


async def _close_later(channel: grpc.aio.Channel) -> None:
    try:
        await channel.close(grace=OLD_CHANNEL_SECONDS)
    finally:
        await channel.close()


def _plain(target: str, tls: TlsFiles | None) -> bool:
    """True for unix sockets. Raises InvalidArgument for TCP without certificates."""
    if target.startswith("unix:"):
        return True
    if tls is None:
        raise InvalidArgument.of_field(
            "targets", f"{target} needs certificates; only unix sockets work without"
        )
    return False


def _arguments(server_name: str | None, options: Options | None) -> grpcsettings.Arguments:
    arguments = grpcsettings.arguments(grpcsettings.CHANNEL_ARGUMENTS, options)
    if server_name:
        arguments += [("grpc.ssl_target_name_override", server_name), ("grpc.default_authority", server_name)]
    return arguments
