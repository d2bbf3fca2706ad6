"""What API users import: a sync and an asyncio client of one cluster.

    from axoneme.client import Client, load_context
    with Client(load_context()) as client:
        for node in client.identity.ListNodes(identity_pb2.ListNodesRequest()).nodes: ...

Messages are those of `axoneme.api`. Errors are `axoneme.lib.errors`; streams raise them as well. Clients are
loaded on first use, so that importing this package does not import gRPC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from axoneme.client.context import Context, load_context
from axoneme.lib.errors import AxonemeError

if TYPE_CHECKING:
    from axoneme.client.aio import AsyncClient
    from axoneme.client.sync import Client

__all__ = ["AsyncClient", "AxonemeError", "Client", "Context", "load_context"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from axoneme.client.sync import Client

        return Client
    if name == "AsyncClient":
        from axoneme.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
