"""Follows the DNS messages that the proxy sees, for the node's flows; what nobody could take is counted."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from typing import Final, Protocol

from axoneme.lib import grpcsettings, log  # isort: skip  (before grpc)
import grpc

from axoneme.api.fqdn.v1 import fqdn_pb2, fqdn_pb2_grpc
from axoneme.lib.channel import open_channel
from axoneme.lib.intent import Backoff

logger = logging.getLogger(__name__)
assert grpcsettings.ENVIRONMENT

FIRST_RETRY_SECONDS: Final = 0.1
LAST_RETRY_SECONDS: Final = 1.0


class Lookups(Protocol):
    """Where messages go (shim.flows.lookups)."""

    def add(self, events: Iterable[fqdn_pb2.LookupEvent], lost: int) -> None:
        """A batch, before which `lost` messages were lost."""


async def follow_lookups(target: str, lookups: Lookups, *, rng: random.Random) -> None:
    """Reads until cancelled, from whichever proxy there is at `target`."""
    backoff = Backoff(rng.random, first=FIRST_RETRY_SECONDS, limit=LAST_RETRY_SECONDS)
    while True:
        channel = open_channel(target, None)
        try:
            call = fqdn_pb2_grpc.FqdnServiceStub(channel).WatchLookups(fqdn_pb2.WatchLookupsRequest())
            async for response in call:
                backoff.reset()
                lookups.add(response.events, response.lost)
        except grpc.aio.AioRpcError as error:
            logger.debug("DNS messages are not read", extra={log.ERROR: error.details()})
        finally:
            await channel.close()
        await asyncio.sleep(backoff.next_delay())
